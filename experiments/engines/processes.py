"""Processes of this machine make the trials, each with models and threads of its own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import NamedTuple, Self

from experiments.config import LogLevel, Trial
from experiments.engines.channel import STOP, Channel, hear, tell
from experiments.engines.making import Maker
from experiments.engines.pool import Died, Word, make_in_pool
from experiments.engines.work import Work
from experiments.engines.worker import Line, Setup, Surroundings, serve
from experiments.failures import Failure
from experiments.interrupts import SIGNALS, held_back
from experiments.results import Folder


def in_processes(work: Work, *, workers: int, threads: int, retries: int, log_level: LogLevel) -> list[Failure]:
    """Makes several trials at once and returns those that failed; errors are those of `make_in_pool`.

    Args:
        workers: processes, each of which loads the models once.
        threads: of each.
    """
    with _Processes(Setup(work.folder, log_level), Surroundings.of_this_process(threads)) as crew:
        return make_in_pool(crew, work, num_workers=workers, retries=retries)


class _Hand(NamedTuple):
    """A process, and this end of the pipe to it."""

    process: SpawnProcess
    channel: Connection[bytes, Word]


class _Processes:
    """A crew of processes, each at a pipe of its own: one that is killed leaves no lock behind."""

    def __init__(self, setup: Setup, surroundings: Surroundings) -> None:
        self._setup = pickle.dumps(setup)  # it may hold classes of a user's own, to be found in the surroundings
        self._surroundings = surroundings
        self._hands: dict[int, _Hand] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hand in self._hands.values():
            hand.process.kill()  # nothing is at work that anybody waits for
        for hand in self._hands.values():
            hand.process.join()
            hand.channel.close()

    def hire(self, worker: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share this one's threads and W&B's connections
        ours, theirs = context.Pipe()
        process = context.Process(target=_run, args=(theirs, self._surroundings, self._setup))
        with held_back():  # the engine says when to stop, not the terminal, which signals all processes
            process.start()
        theirs.close()
        self._hands[worker] = _Hand(process, ours)

    def give(self, worker: int, trial: Trial) -> None:
        tell(self._hands[worker].channel, pickle.dumps(trial))

    def hear(self, seconds: float) -> Iterator[tuple[int, Word]]:
        for worker, word in hear({worker: hand.channel for worker, hand in self._hands.items()}, seconds):
            if word is None:
                hand = self._hands.pop(worker)
                hand.process.join()
                hand.channel.close()
                word = Died(_end_of(hand.process))
            yield worker, word

    def stop(self) -> None:
        for hand in self._hands.values():
            tell(hand.channel, STOP)


def _end_of(process: SpawnProcess) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"ended with exit code {code}, perhaps saying why above"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (", perhaps as memory ran out" if name == "SIGKILL" else "")


def _run(channel: Connection[Word, bytes], surroundings: Surroundings, setup: bytes) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    surroundings.enter()
    serve(Channel(channel), pickle.loads(setup), threads=surroundings.threads, load_maker=_load_maker)


def _load_maker(folder: Folder, line: Line) -> Maker:
    return Maker(folder=folder, tell=line.send, check=line.check)


def _die_with_parent() -> None:
    """Ends this process when its parent is gone: a worker would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
