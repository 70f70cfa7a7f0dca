"""Many workers make the trials: given out as workers free up, tried again where they fail, and workers replaced.

The one scheduler of processes and Ray, which differ in what a worker is.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from experiments.config import Trial
from experiments.engines.work import Book, Work
from experiments.failures import Failure, Fault
from experiments.interrupts import Stopped
from experiments.progress import Place
from experiments.registry import policy_label
from experiments.results import Finished

POLL_SECONDS = 0.2  # after which a request to stop is noticed
PATIENCE_SECONDS = 60.0  # without any worker, after which somebody should know
ENOUGH_STILLBORN = 3  # workers in a row that die before they can work


class Ready(NamedTuple):
    """A worker has its models and waits for a trial."""


class Logged(NamedTuple):
    """A worker's log says something."""

    logger: str
    level: int
    text: str


class Left(NamedTuple):
    """A worker has left its trial between two chunks, as it was asked to."""


class Died(NamedTuple):
    """A worker is gone.

    how: in words that follow "the worker".
    """

    how: str


Word = Ready | Place | Logged | Finished | Fault | Left | Died


class Crew(Protocol):
    """Workers of one kind, by their numbers."""

    def hire(self, worker: int) -> None:
        """Starts a worker of this number, which will say that it is ready; there is none of it."""

    def give(self, worker: int, trial: Trial) -> None:
        """Lets a worker make a trial."""

    def hear(self, seconds: float) -> Iterable[tuple[int, Word]]:
        """Waits for workers' words, at most so long, and returns who said what."""

    def stop(self) -> None:
        """Asks all workers to leave their trials after the chunk in work."""


def make_in_pool(crew: Crew, work: Work, *, num_workers: int, retries: int) -> list[Failure]:
    """Makes trials with a crew and returns those that failed; errors are those of `Book.failed`.

    Raises:
        ChildProcessError: workers die before they can work.
        KeyboardInterrupt: somebody asked to stop before all were made.
    """
    pool = _Pool(crew, work, retries=retries)
    for worker in range(num_workers):
        crew.hire(worker)
    while pool.is_busy:
        if work.interrupts.asked:
            pool.stop()
        pool.give_out()
        for worker, word in crew.hear(POLL_SECONDS):
            pool.take(worker, word)
    if not pool.book.is_complete:
        raise Stopped
    return pool.book.failures


class _Pool:
    """Who makes which trial."""

    def __init__(self, crew: Crew, work: Work, *, retries: int) -> None:
        self.book = Book(work, retries=retries)
        self._crew = crew
        self._work = work
        self._waiting = deque(work.trials)
        self._at_work: dict[int, Trial] = {}
        self._free: set[int] = set()
        self._stopping = False
        self._num_stillborn = 0
        self._last_seen = time.monotonic()

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting or self._at_work)

    def stop(self) -> None:
        """Gives nothing out any more."""
        if not self._stopping:
            self._stopping = True
            self._waiting.clear()
            self._crew.stop()

    def give_out(self) -> None:
        """Gives trials to those that are free."""
        while self._waiting and self._free:
            worker = min(self._free)
            self._free.remove(worker)
            self._at_work[worker] = trial = self._waiting.popleft()
            self._work.reporter.start(policy_label(trial.policy), worker=worker)
            self._crew.give(worker, trial)
        if self._free or self._at_work:
            self._last_seen = time.monotonic()
        elif self._waiting and time.monotonic() - self._last_seen > PATIENCE_SECONDS:
            self._last_seen = time.monotonic()
            self._work.reporter.say(
                f"no worker has been ready for {PATIENCE_SECONDS:.0f} s: they still start, or there is no room for them"
            )

    def take(self, worker: int, word: Word) -> None:
        """Takes what a worker says."""
        match word:
            case Ready():
                self._free.add(worker)
                self._num_stillborn = 0
            case Place():
                self._work.reporter.at(word, worker=worker)
            case Logged(logger, level, text):
                logging.getLogger(logger).log(level, "%s", text)
            case Finished():
                self._end(worker)
                self._free.add(worker)
                self.book.finished(word)
            case Fault():
                trial = self._end(worker)
                self._free.add(worker)
                self._failed(trial, word)
            case Left():
                self._end(worker)
            case Died(how):
                self._died(worker, how)

    def _end(self, worker: int) -> Trial:
        self._work.reporter.end(worker=worker)
        return self._at_work.pop(worker)

    def _failed(self, trial: Trial, fault: Fault) -> None:
        if self.book.failed(trial, fault) and not self._stopping:
            self._waiting.append(trial)

    def _died(self, worker: int, how: str) -> None:
        """Tries the worker's trial again, and replaces the worker where there is something to do for it."""
        if worker in self._at_work:
            self._failed(self._end(worker), Fault("Death", f"the worker {how}"))
        elif worker in self._free:
            self._free.remove(worker)
        else:
            self._num_stillborn += 1
            if self._num_stillborn == ENOUGH_STILLBORN:
                raise ChildProcessError(
                    f"{ENOUGH_STILLBORN} workers in a row died before they could work, the last one {how}: finished "
                    f"trials are kept in {self._work.folder.path}, and the same command goes on"
                )
        if self._waiting:
            self._crew.hire(worker)
