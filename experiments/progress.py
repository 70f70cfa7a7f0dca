"""Progress of an experiment: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_SECONDS = 10.0  # between plain lines within one trial, and where trials are many
MANY_TRIALS = 50  # are not told one by one


class Reporter(Protocol):
    """Somebody who is told how far an experiment is; a context manager."""

    def __enter__(self) -> Self:
        """Returns itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bars away."""

    def start(self, name: str) -> None:
        """A trial starts; not told where several are made at once."""

    def chunk(self, number: int) -> None:
        """The trial's video has so many chunks now; not told where several are made at once."""

    def finish(self, outcome: str) -> None:
        """A trial is done."""


def make_reporter(console: Console, *, num_trials: int, num_chunks: int | None) -> Reporter:
    """Returns a reporter fit for where the console writes to.

    Args:
        num_trials: those that are still to be made.
        num_chunks: of each trial; None where nobody knows.
    """
    kind = Bars if console.is_terminal else Lines
    return kind(console, num_trials=num_trials, num_chunks=num_chunks)


class Bars:
    """Two bars: all trials, and the chunks of this one."""

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
        )
        self._num_chunks = num_chunks
        total, unit = (num_trials * num_chunks, "chunks") if num_chunks else (num_trials, "trials")
        self._all = self._bars.add_task("all", total=total, unit=unit)
        self._one = self._bars.add_task("", total=num_chunks, unit="chunks", visible=False)
        self._tells_each = num_trials <= MANY_TRIALS
        self._done = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, name: str) -> None:
        self._bars.reset(self._one, description=name, visible=True)

    def chunk(self, number: int) -> None:
        self._bars.update(self._one, completed=number)
        if self._num_chunks:
            self._bars.update(self._all, completed=self._done * self._num_chunks + number)

    def finish(self, outcome: str) -> None:
        self._done += 1
        self._bars.update(self._all, completed=self._done * (self._num_chunks or 1))
        if self._tells_each:
            self._bars.console.print(outcome, markup=False, highlight=False)


class Lines:
    """One line a trial, and one now and then within a long one; where trials are many, one now and then."""

    def __init__(self, console: Console, *, num_trials: int, num_chunks: int | None) -> None:
        self._console = console
        self._num_trials = num_trials
        self._num_chunks = num_chunks
        self._done = 0
        self._name = ""
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def start(self, name: str) -> None:
        self._name = name

    def chunk(self, number: int) -> None:
        if time.monotonic() - self._spoke <= QUIET_SECONDS:
            return
        if self._num_chunks:
            self._say(f"{self._name}: chunk {number} of {self._num_chunks}", self._done + number / self._num_chunks)
        else:
            self._say(f"{self._name}: chunk {number}", self._done)

    def finish(self, outcome: str) -> None:
        self._done += 1
        is_due = time.monotonic() - self._spoke > QUIET_SECONDS
        if is_due or self._num_trials <= MANY_TRIALS or self._done == self._num_trials:
            self._say(outcome, self._done)

    def _say(self, text: str, done: float) -> None:
        self._spoke = time.monotonic()
        line = f"[{self._done}/{self._num_trials}] {text}"
        if done:
            line += f"; {clock((self._spoke - self._began) / done * (self._num_trials - done))} left"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Returns a duration to read: `1:02:03`, or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
