"""The line between an engine and its workers in other processes, on this machine or on others."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection

from experiments.engines.pool import Word
from experiments.interrupts import Stopped

STOP = b""  # in place of a pickled trial


class Channel:
    """A worker's end."""

    def __init__(self, connection: Connection[Word, bytes]) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def receive(self) -> bytes | None:
        try:
            while (message := self._connection.recv_bytes()) == STOP:
                pass  # there is nothing to leave
        except EOFError:
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
