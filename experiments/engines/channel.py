"""The line between an engine and its workers in other processes, on this machine or on others."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import socket
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from experiments.engines.pool import Word
from experiments.interrupts import Stopped

STOP = b""  # in place of a pickled trial
REACH_SECONDS = 10.0  # for another machine to answer


class Channel:
    """A worker's end."""

    def __init__(self, connection: Connection[Word, bytes]) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def receive(self) -> bytes | None:
        try:
            while (message := self._connection.recv_bytes()) == STOP:
                pass  # there is nothing to leave
        except (EOFError, ConnectionResetError):
            return None
        return message

    def check(self) -> None:
        if self._connection.poll():
            self._connection.recv_bytes()  # while a trial is made nothing else is sent
            raise Stopped

    def send(self, word: Word) -> None:
        with self._lock:
            self._connection.send(word)


def tell(connection: Connection[bytes, Word], message: bytes) -> None:
    """Tells a worker what to make, pickled, or to stop; where it has just died, that will be heard."""
    with contextlib.suppress(OSError):
        connection.send_bytes(message)


def hear(connections: Mapping[int, Connection[bytes, Word]], seconds: float) -> Iterator[tuple[int, Word | None]]:
    """Waits for workers' words, at most so long, and yields who said what; None for one that is gone."""
    workers = {connection: worker for worker, connection in connections.items()}
    for connection in multiprocessing.connection.wait(list(workers), seconds):
        assert isinstance(connection, Connection)
        try:
            word = connection.recv()
        except (EOFError, OSError):
            word = None
        yield workers[connection], word


def listening(host: str) -> socket.socket:
    """Returns a socket at a port of this host that is free."""
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def accepted(listener: socket.socket, key: bytes) -> Connection[Word, bytes]:
    """Waits for the engine, which has the key, and listens for nobody else.

    Raises:
        AuthenticationError: somebody without the key has come.
        EOFError, OSError: somebody has left at once.
    """
    with listener:
        stream, _ = listener.accept()
    connection = _connection_of(stream)
    deliver_challenge(connection, key)
    answer_challenge(connection, key)
    return connection


def connected_to(host: str, port: int, key: bytes) -> Connection[bytes, Word]:
    """Returns the connection to a worker that listens, which has the key.

    Raises:
        AuthenticationError: it has another.
        EOFError, OSError: it does not answer.
    """
    connection = _connection_of(socket.create_connection((host, port), timeout=REACH_SECONDS))
    answer_challenge(connection, key)
    deliver_challenge(connection, key)
    return connection


def _connection_of(stream: socket.socket) -> Connection[Any, Any]:
    stream.settimeout(None)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a short word waits for no other
    return Connection(stream.detach())
