"""The line between engine and worker: who may be on it, and what is heard of one that is gone."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import AuthenticationError

import pytest

from experiments.engines.channel import STOP, Channel, accepted, connected_to, hear, listening, tell
from experiments.engines.pool import Ready
from experiments.interrupts import Stopped


@contextmanager
def _line(host, key=b"key"):
    """An engine's end, and to come the worker's, whose key is "key"."""
    try:
        listener = listening(host)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with ThreadPoolExecutor() as pool:
        worker = pool.submit(accepted, listener, b"key")
        yield connected_to(*listener.getsockname()[:2], key), worker


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_words_go_both_ways_until_one_end_is_gone(host):
    with _line(host) as (ours, worker):
        theirs = worker.result(10.0)
        channel = Channel(theirs)
        channel.send(Ready())
        assert list(hear({3: ours}, 10.0)) == [(3, Ready())]
        channel.check()
        tell(ours, STOP)
        with pytest.raises(Stopped):
            channel.check()
        tell(ours, STOP)  # between trials
        tell(ours, b"trial")
        assert channel.receive() == b"trial"
        theirs.close()
        assert list(hear({3: ours}, 10.0)) == [(3, None)]
        tell(ours, b"another")  # nobody is there
        ours.close()


def test_worker_without_engine_has_nothing_to_do():
    with _line("127.0.0.1") as (ours, worker):
        ours.close()
        assert Channel(worker.result(10.0)).receive() is None


def test_only_those_with_the_key_are_let_in():
    with pytest.raises(AuthenticationError), _line("127.0.0.1", b"another") as (_, worker):
        worker.result(10.0)


def test_port_that_nobody_listens_at_is_an_os_error():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        connected_to("127.0.0.1", port, b"key")
