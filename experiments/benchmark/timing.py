"""Timing, and what a figure is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from searchkit.stream import now


class Figure(NamedTuple):
    """A measured value, and the most that it should be, if anything is promised."""

    name: str
    value: float
    unit: str
    limit: float | None = None


def interleaved(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Returns each task's median seconds; the tasks take turns, after one round that does not count.

    A busy machine slows all of them alike, so that their ratios hold.
    """
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            began = now()
            task()
            if repeat:
                samples[name].append(now() - began)
    return {name: statistics.median(values) for name, values in samples.items()}
