"""What makes an experiment's trials: this process, one after the other, or workers, each on cores or a GPU of its own.

Trials are independent, and whoever makes one stores it. So an engine that is stopped loses only what was being made,
and all engines give the same results, but for rounding and seconds. A trial that fails is tried again, then recorded
with its error, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from experiments.config import Execution
from experiments.engines.in_process import in_process
from experiments.engines.processes import in_processes
from experiments.engines.work import Work
from experiments.failures import Failure

__all__ = ["Engine", "Work", "choose_engine", "in_process", "in_processes", "num_cores"]

FEW_TRIALS = 8  # are made sooner than processes have loaded their models

# Makes trials, tells of each that is finished, and returns those that failed.
Engine = Callable[[Work], list[Failure]]


def choose_engine(execution: Execution, *, num_trials: int, many_at_once: bool = True) -> Engine:
    """Returns the engine that an execution asks for.

    Args:
        num_trials: those to be made.
        many_at_once: whether the machine has room for the models of several processes.
    """
    if execution.engine == "ray":
        from experiments.engines.cluster import on_ray

        return partial(on_ray, execution=execution)
    workers = max(1, min(num_trials, execution.workers or num_cores() // execution.threads))
    is_worth_it = many_at_once and num_trials > FEW_TRIALS and workers > 1
    if execution.engine == "processes" or (execution.engine == "auto" and is_worth_it):
        return partial(
            in_processes,
            workers=workers,
            threads=execution.threads,
            retries=execution.retries,
            log_level=execution.log_level,
        )
    return partial(in_process, retries=execution.retries)


def num_cores() -> int:
    """Returns the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
