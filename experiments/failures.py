"""Trials that could not be made: what went wrong with them, recorded beside the folders of those that could.

    OUT/trials/HASH.failed.json     the trial, its error, and how often it was tried

A record is written beside its place and renamed, and removed when its trial is made after all.
"""

from __future__ import annotations

import errno
import json
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard

from experiments.config import Trial
from experiments.registry import policy_label
from experiments.results import Folder
from experiments.worlds import ROOT
from searchkit.files import written_whole

PACKAGES = ("searchkit", "envs", "policies", "experiments")


TOO_FULL = (
    "the GPU is too small even for one candidate at a time: --memory-budget plans what may wait in CPU memory, and "
    "--decode tiny, --fp8 and fewer candidates take less"
)


class Fault(NamedTuple):
    """What went wrong, in words: an error of a user's own class might not travel between processes.

    kind: the error's class, or "Death" of a worker.
    message: a sentence.
    trace: the traceback; empty where a worker died.
    is_ours: whether the message alone says what to do: the error is our own, or the system's.
    is_final: whether the same trial would meet it again.
    errno: of an error of the system after which nothing can be stored, whatever the trial; None of all others.
    """

    kind: str
    message: str
    trace: str = ""
    is_ours: bool = True
    is_final: bool = False
    errno: int | None = None

    def resembles(self, other: Fault) -> bool:
        """Returns whether two faults are the same but for numbers."""
        return self.kind == other.kind and _without_numbers(self.message) == _without_numbers(other.message)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A trial that was given up.

    Attributes:
        record: the file that says so.
    """

    trial: Trial
    fault: Fault
    attempts: int
    record: Path

    def __str__(self) -> str:
        times = "" if self.attempts == 1 else f" {self.attempts} times"
        return f"{name_of(self.trial)} failed{times}: {self.fault.message.rstrip('.')} (see {self.record})"


class TrialsFailed(Exception):
    """Raised when all others of an experiment's trials are made, stored and reported."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(f"{len(failures)} trials failed")
        self.failures = tuple(failures)


def is_ours(error: BaseException) -> bool:
    """Returns whether an error is raised by this repository's packages, or by the system for them."""
    if isinstance(error, OSError):
        return True
    raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return any(raised.is_relative_to(ROOT / package) for package in PACKAGES)


def fault_of(error: BaseException) -> Fault:
    """Returns an error in words."""
    from torch import OutOfMemoryError  # late, as nothing here needs torch before a trial is made

    is_full = isinstance(error, OutOfMemoryError)
    ours = is_full or (is_ours(error) and isinstance(error, (ValueError, OSError)))
    message = str(error) if ours else f"{type(error).__name__}: {error}"
    return Fault(
        kind=type(error).__name__,
        message=TOO_FULL if is_full else message,
        trace="".join(traceback.format_exception(error)),
        is_ours=ours,
        is_final=ours and isinstance(error, ValueError),
        errno=next((one.errno for one in (error, error.__cause__) if _is_end_of_store(one)), None),
    )


def _is_end_of_store(error: BaseException | None) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def name_of(trial: Trial) -> str:
    """Returns a trial's name in sentences."""
    return f"{policy_label(trial.policy)}, seed {trial.seed}, {trial.prompt!r}"


def record(folder: Folder, trial: Trial, fault: Fault, *, attempts: int) -> Failure:
    """Writes down that a trial failed."""
    place = _place(folder, trial)
    stored = {
        "policy": policy_label(trial.policy),
        "prompt": trial.prompt,
        "seed": trial.seed,
        "error": fault.message,
        "attempts": attempts,
        "traceback": fault.trace.splitlines(),
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(place) as draft:
        draft.write_text(json.dumps(stored, indent=1))
    return Failure(trial=trial, fault=fault, attempts=attempts, record=place)


def forget(folder: Folder, trial: Trial) -> None:
    """Removes the record of a trial that is made after all, if there is one."""
    _place(folder, trial).unlink(missing_ok=True)


def _place(folder: Folder, trial: Trial) -> Path:
    place = folder.place(trial)
    return place.with_name(f"{place.name}.failed.json")


def _without_numbers(message: str) -> str:
    return re.sub(r"\d+", "#", message)
