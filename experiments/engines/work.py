"""What an engine is to do, what it hears of it, and its book of what became of every trial."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments import failures
from experiments.config import Trial
from experiments.failures import Failure, Fault, name_of
from experiments.interrupts import Interrupts
from experiments.progress import Reporter
from experiments.results import Finished, Folder

log = logging.getLogger(__name__)

ENOUGH_ALIKE = 3  # failures, before anything was made, after which a study makes no sense


class Work(NamedTuple):
    """What an engine is to do.

    trials: those to be made.
    on_finished: told of each that is made, in any order.
    interrupts: say when to stop before the next chunk.
    """

    folder: Folder
    trials: Sequence[Trial]
    reporter: Reporter
    on_finished: Callable[[Finished], None]
    interrupts: Interrupts


class Book:
    """What became of the trials so far.

    Args:
        retries: how often a trial is tried again; one that meets wrong input is not, as it would meet it again.
    """

    def __init__(self, work: Work, *, retries: int) -> None:
        self.failures: list[Failure] = []
        self._work = work
        self._retries = retries
        self._attempts: Counter[str] = Counter()
        self._num_finished = len(work.folder.experiment.trials) - len(work.trials)  # by earlier commands

    @property
    def is_complete(self) -> bool:
        """Whether every trial was either made or given up."""
        return self._num_finished + len(self.failures) == len(self._work.folder.experiment.trials)

    def finished(self, one: Finished) -> None:
        """Takes down that a trial is made."""
        self._num_finished += 1
        failures.forget(self._work.folder, one.trial)
        self._work.on_finished(one)

    def failed(self, trial: Trial, fault: Fault, error: BaseException | None = None) -> bool:
        """Takes down that a trial failed, and returns whether to try it again.

        Args:
            error: the fault itself, where it was met in this process.

        Raises:
            OSError: nothing can be stored any more.
            ValueError: no trial was made so far, and the first ones failed alike, by what is said.
            ChildProcessError: likewise, as workers died.
            RuntimeError: likewise, by a fault of a user's own, whose traceback is in the message; where there is
                `error`, this is raised.
        """
        if fault.errno is not None:
            raise OSError(fault.errno, fault.message) from error
        name = name_of(trial)
        self._attempts[name] += 1
        if not fault.is_final and self._attempts[name] <= self._retries:
            log.info("%s: %s", name, fault.trace or fault.message)
            self._work.reporter.say(f"{name} failed and will be tried again: {fault.message}")
            return True
        failure = failures.record(self._work.folder, trial, fault, attempts=self._attempts[name])
        self.failures.append(failure)
        self._check_sense(failure, error)
        if not fault.is_ours:
            self._work.reporter.say(fault.trace)
        self._work.reporter.finish(str(failure))
        return False

    def _check_sense(self, last: Failure, error: BaseException | None) -> None:
        first, *others = [failure.fault for failure in self.failures]
        enough = min(ENOUGH_ALIKE, len(self._work.trials))
        if self._num_finished or len(self.failures) != enough or not all(first.resembles(one) for one in others):
            return
        if last.fault.is_ours:
            kind = ValueError if last.fault.trace else ChildProcessError
            raise kind(f"{name_of(last.trial)}: {last.fault.message}")
        if error is not None:
            raise error
        raise RuntimeError(f"a worker could not make a trial:\n\n{last.fault.trace}")
