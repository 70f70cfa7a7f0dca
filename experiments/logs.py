"""What the packages log, where the command line shows it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from rich.console import Console

from experiments.config import LogLevel

LOGGERS = ("searchkit", "experiments")


def make_handler(console: Console) -> logging.Handler:
    """Returns what shows logs: above the bars on a terminal, as plain lines on stderr elsewhere."""
    if console.is_terminal:
        from rich.logging import RichHandler  # help must not wait for it

        return RichHandler(console=console, show_path=False)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


@contextlib.contextmanager
def listening(handler: logging.Handler, level: LogLevel) -> Iterator[None]:
    """Hands what our packages log at this level, or above, to a handler."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level.upper())
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)
            logger.removeHandler(handler)
