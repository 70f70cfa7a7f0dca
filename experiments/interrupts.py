"""Ctrl-C and SIGTERM: the first one finishes the chunk in work, the second one stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PROMISE = "finishing the chunk in work, then stopping: Ctrl-C again stops at once"


class Stopped(KeyboardInterrupt):
    """Raised between two chunks of a trial after somebody asked to stop; no `except Exception` holds it up."""


class Interrupts:
    """Whether somebody has asked to stop; a context manager that listens to signals, in the main thread alone.

    Args:
        say: is told once what is going to happen; called from a thread of its own, as a handler must not print.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._asked = threading.Event()
        self._left = threading.Event()
        self._say = say
        self._before: list[object] = []

    @property
    def asked(self) -> bool:
        """Whether to stop before the next chunk."""
        return self._asked.is_set()

    def check(self) -> None:
        """Raises `Stopped` if somebody has asked to stop."""
        if self.asked:
            raise Stopped

    def listen(self) -> None:
        """Takes the signals over, also from a library that took them in the meantime."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._heard)

    def __enter__(self) -> Self:
        self._before = [signal.getsignal(number) for number in SIGNALS]
        threading.Thread(target=self._promise, daemon=True).start()
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in zip(SIGNALS, self._before, strict=True):
                signal.signal(number, handler)  # type: ignore[arg-type]
        self._left.set()
        self._asked.set()  # ends the thread

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self._asked.set()

    def _promise(self) -> None:
        self._asked.wait()
        if not self._left.is_set():
            self._say(PROMISE)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Holds the signals back for a moment, in this thread and in processes that start in it: these never see them."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
