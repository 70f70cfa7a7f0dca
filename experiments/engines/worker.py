"""What a worker does, be it a process or a Ray actor: it loads the models and makes the trials that it is given."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

from experiments.config import LogLevel
from experiments.engines.making import Maker
from experiments.engines.pool import Left, Logged, Ready, Word
from experiments.failures import fault_of
from experiments.interrupts import Stopped
from experiments.logs import listening
from experiments.results import Folder

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Surroundings(NamedTuple):
    """What a worker shares with its engine before it reads anything else.

    paths: where modules are found.
    threads: of torch.
    """

    working_folder: str
    paths: tuple[str, ...]
    threads: int

    @classmethod
    def of_this_process(cls, threads: int) -> Self:
        """Returns those of this process, but for the threads."""
        return cls(os.getcwd(), tuple(sys.path), threads)

    def enter(self) -> None:
        """Goes there, before anything heavy is imported.

        Raises:
            OSError: there is no such folder on this machine.
        """
        os.chdir(self.working_folder)
        sys.path.extend(path for path in self.paths if path not in sys.path)
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(self.threads)) | {"OMP_WAIT_POLICY": "PASSIVE"}


class Setup(NamedTuple):
    """What a worker works for."""

    folder: Folder
    log_level: LogLevel


class Line(Protocol):
    """A worker's line to its engine."""

    def receive(self) -> bytes | None:
        """Waits for a trial, pickled, and returns it; None where the engine is gone."""

    def check(self) -> None:
        """Raises `Stopped` if the engine has asked to stop."""

    def send(self, word: Word) -> None:
        """Tells the engine something; from any thread."""


def serve(line: Line, setup: Setup, *, threads: int, load_maker: Callable[[Folder, Line], Maker]) -> None:
    """Makes trials until the engine is gone."""
    import torch

    torch.set_num_threads(threads)
    with listening(_Sender(line), setup.log_level):
        maker = load_maker(setup.folder, line)
        maker.warm_up()
        line.send(Ready())
        while (pickled := line.receive()) is not None:
            line.send(_made(maker, pickled))


def _made(maker: Maker, pickled: bytes) -> Word:
    try:
        return maker.make(pickle.loads(pickled))
    except Stopped:
        return Left()
    except Exception as error:
        return fault_of(error)


class _Sender(logging.Handler):
    """Sends what this process logs to the engine, which shows it among its own."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        self._line.send(Logged(record.name, record.levelno, self.format(record)))
