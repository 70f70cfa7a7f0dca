"""Progress of an experiment: bars with the time left on a terminal, plain lines elsewhere.

One view for all engines: of every worker, how far its trial is, and how far the candidates of its chunk are.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_SECONDS = 10.0  # between plain lines within one trial, and where trials are many
MANY_TRIALS = 50  # are not told one by one
REFRESHES = 4.0  # of the bars, a second


class Place(NamedTuple):
    """How far a trial is.

    chunks: those made.
    made: candidates of the next chunk, those in work by their passes.
    num: candidates of it, as far as they are known; 0 before its first pass.
    """

    chunks: int
    made: float = 0.0
    num: int = 0


class Reporter(Protocol):
    """Somebody who is told how far an experiment is; a context manager."""

    def __enter__(self) -> Self:
        """Returns itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bars away."""

    def start(self, name: str, *, worker: int = 0) -> None:
        """A worker starts a trial."""

    def at(self, place: Place, *, worker: int = 0) -> None:
        """A worker's trial is so far now; told now and then."""

    def end(self, *, worker: int = 0) -> None:
        """A worker's trial is over, whatever became of it."""

    def finish(self, outcome: str) -> None:
        """A trial is done, or given up."""

    def say(self, text: str) -> None:
        """Something else is to be known; from any thread."""


def make_reporter(console: Console, *, num_trials: int, num_chunks: int | None) -> Reporter:
    """Returns a reporter fit for where the console writes to.

    Args:
        num_trials: those that are still to be made.
        num_chunks: of each trial; None where nobody knows.
    """
    kind = Bars if console.is_terminal else Lines
    return kind(console, num_trials=num_trials, num_chunks=num_chunks)


class Bars:
    """A bar of all trials; and for every worker one of its trial's chunks, and one of its chunk's candidates."""

    def __init__(self, console: Console, *, num_trials: int, num_chunks: int | None) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            speed_estimate_period=60.0,
            refresh_per_second=REFRESHES,
        )
        self._num_chunks = num_chunks
        self._all = self._bars.add_task("all", total=num_trials, unit="trials")
        self._workers: dict[int, tuple[TaskID, TaskID]] = {}
        self._places: dict[int, Place] = {}
        self._tells_each = num_trials <= MANY_TRIALS
        self._done = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, name: str, *, worker: int = 0) -> None:
        if worker not in self._workers:
            self._workers[worker] = (
                self._bars.add_task("", total=self._num_chunks, unit="chunks"),
                self._bars.add_task("", total=None, unit="candidates"),
            )
        chunks, candidates = self._workers[worker]
        self._places[worker] = Place(0)
        self._bars.reset(chunks, description=name, visible=True)
        self._bars.reset(candidates, description=self._level(Place(0)), visible=True)

    def at(self, place: Place, *, worker: int = 0) -> None:
        chunks, candidates = self._workers[worker]
        if place.chunks != self._places[worker].chunks:
            self._bars.reset(
                candidates, description=self._level(place)
            )  # as many as in the last one, until it is known
        self._places[worker] = place
        # Parts of a whole: the time left is of chunks and trials that are in work, too.
        self._bars.update(candidates, completed=round(place.made, 2), total=place.num or None)
        self._bars.update(chunks, completed=round(_chunks(place), 2))
        self._show_all()

    def end(self, *, worker: int = 0) -> None:
        self._places.pop(worker, None)
        for bar in self._workers.get(worker, ()):
            self._bars.update(bar, visible=False)

    def finish(self, outcome: str) -> None:
        self._done += 1
        self._show_all()
        if self._tells_each:
            self.say(outcome)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def _level(self, place: Place) -> str:
        return "  storing" if place.chunks == self._num_chunks else f"  chunk {place.chunks + 1}"

    def _show_all(self) -> None:
        self._bars.update(self._all, completed=round(self._done + _trials(self._places, self._num_chunks), 2))


class Lines:
    """One line a trial, and one now and then within a long one; where trials are many, one now and then."""

    def __init__(self, console: Console, *, num_trials: int, num_chunks: int | None) -> None:
        self._console = console
        self._num_trials = num_trials
        self._num_chunks = num_chunks
        self._done = 0
        self._names: dict[int, str] = {}
        self._places: dict[int, Place] = {}
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def start(self, name: str, *, worker: int = 0) -> None:
        if not self._names:  # nothing was made while models were loaded
            self._began = self._spoke = time.monotonic()
        self._names[worker] = name
        self._places[worker] = Place(0)

    def at(self, place: Place, *, worker: int = 0) -> None:
        self._places[worker] = place
        if time.monotonic() - self._spoke <= QUIET_SECONDS:
            return
        in_work = [f"{self._names[other]}: {self._words(there)}" for other, there in sorted(self._places.items())]
        self._say("; ".join(in_work))

    def end(self, *, worker: int = 0) -> None:
        self._places.pop(worker, None)

    def finish(self, outcome: str) -> None:
        self._done += 1
        is_due = time.monotonic() - self._spoke > QUIET_SECONDS
        if is_due or self._num_trials <= MANY_TRIALS or self._done == self._num_trials:
            self._say(outcome)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _words(self, place: Place) -> str:
        chunk = f"chunk {place.chunks + 1 if place.num else place.chunks}"
        words = f"{chunk} of {self._num_chunks}" if self._num_chunks else chunk
        return f"{words}, {place.made:.1f} of {place.num} candidates" if place.num else words

    def _say(self, text: str) -> None:
        self._spoke = time.monotonic()
        line = f"[{self._done}/{self._num_trials}] {text}"
        if done := self._done + _trials(self._places, self._num_chunks):
            line += f"; {clock((self._spoke - self._began) / done * (self._num_trials - done))} left"
        self.say(line)


def clock(seconds: float) -> str:
    """Returns a duration to read: `1:02:03`, or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _chunks(place: Place) -> float:
    """Returns how many chunks are made, the one in work by its candidates."""
    return place.chunks + (place.made / place.num if place.num else 0.0)


def _trials(places: dict[int, Place], num_chunks: int | None) -> float:
    """Returns how many trials' worth is made of those in work; nothing where nobody knows their length."""
    return sum(_chunks(place) for place in places.values()) / num_chunks if num_chunks else 0.0
