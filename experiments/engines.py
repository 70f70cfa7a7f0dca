"""What makes an experiment's trials: this process, one after the other, or several processes, each on cores of its own.

Trials are independent, and whoever makes one stores it. So an engine that is stopped loses only what was being made,
and both engines give the same results, but for rounding and seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

from experiments.config import Execution, Trial
from experiments.progress import Reporter
from experiments.registry import policy_label
from experiments.results import Finished, Folder
from experiments.trials import run_trial, warm_up
from experiments.worlds import ROOT, world_of

PACKAGES = ("searchkit", "envs", "policies", "experiments")
FEW_TRIALS = 8  # are made sooner than processes have loaded their models
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Makes trials in a folder and tells of each that is finished, in any order.
Engine = Callable[[Folder, Sequence[Trial], Reporter, Callable[[Finished], None]], None]


def choose_engine(execution: Execution, *, num_trials: int, many_at_once: bool = True) -> Engine:
    """Returns the engine that an execution asks for.

    Args:
        num_trials: those to be made.
        many_at_once: whether the machine has room for the models of several processes.
    """
    workers = max(1, min(num_trials, execution.workers or num_cores() // execution.threads))
    is_worth_it = many_at_once and num_trials > FEW_TRIALS and workers > 1
    if execution.engine == "processes" or (execution.engine == "auto" and is_worth_it):
        return partial(in_processes, workers=workers, threads=execution.threads)
    return in_process


def num_cores() -> int:
    """Returns the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_process(
    folder: Folder, trials: Sequence[Trial], reporter: Reporter, on_finished: Callable[[Finished], None]
) -> None:
    """Makes trials one after the other.

    Raises:
        ValueError: the policy or a score is at fault; the trial is named.
    """
    if trials:
        _warm_up(folder)
    for trial in trials:
        reporter.start(policy_label(trial.policy))
        on_finished(_make(folder, trial, on_chunk=reporter.chunk))


def in_processes(
    folder: Folder,
    trials: Sequence[Trial],
    reporter: Reporter,
    on_finished: Callable[[Finished], None],
    *,
    workers: int,
    threads: int,
) -> None:
    """Makes several trials at once.

    Args:
        workers: processes, each of which loads the models once.
        threads: of each.

    Raises:
        ValueError: the policy or a score is at fault; the trial is named.
        RuntimeError: a fault in a policy of the user's own; its traceback is in the message.
        ChildProcessError: a worker died.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share the parent's threads and W&B's connections
    stop = context.Event()
    setup = (folder, threads, os.getcwd(), stop)
    num_left = len(trials)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=setup) as pool:
        try:
            with _interrupts_held_back():  # processes start as there is work for them
                futures = [pool.submit(_work, trial) for trial in trials]
            for future in as_completed(futures):
                on_finished(_result(future))
                num_left -= 1
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"a worker process died with {num_left} of {len(trials)} trials to go; it was out of memory, or has "
                f"said why above: finished trials are kept in {folder.path}, and the same command goes on"
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def is_ours(error: BaseException) -> bool:
    """Returns whether an error is raised by this repository's packages, or by the system for them."""
    if isinstance(error, OSError):
        return True
    raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return any(raised.is_relative_to(ROOT / package) for package in PACKAGES)


def _warm_up(folder: Folder) -> None:
    with contextlib.suppress(ValueError):  # the first trial will say so, by its name
        warm_up(world_of(folder.experiment).make_stream(folder.experiment, folder.experiment.prompts[0]))


def _make(folder: Folder, trial: Trial, *, on_chunk: Callable[[int], None]) -> Finished:
    """Returns a trial that is made, measured and stored."""
    try:
        folder.known_scores.refresh()
        stream = world_of(folder.experiment).make_stream(folder.experiment, trial.prompt)
        outcome = run_trial(
            folder.experiment,
            trial,
            stream=replace(stream, known=folder.known_scores),
            on_chunk=on_chunk,
            journal=folder.journal(trial),
            has_clips=folder.has_clips,
        )
        return folder.store(trial, outcome, fps=stream.model.fps)
    except Exception as error:
        if isinstance(error, ValueError) and is_ours(error):
            raise ValueError(f"{_name(trial)}: {error}") from error
        error.add_note(f"while making {_name(trial)}")
        raise


def _name(trial: Trial) -> str:
    return f"{policy_label(trial.policy)}, seed {trial.seed}, {trial.prompt!r}"


class _Fault(NamedTuple):
    """What went wrong in a worker, in words: an error of a user's own class might not travel."""

    message: str
    is_ours: bool


class _Stopped(Exception):
    """Raised in a worker between two chunks when nobody waits for its trial any more."""


class _Job(NamedTuple):
    """What a worker works for."""

    folder: Folder
    stop: Event

    def check(self, chunk: int = 0) -> None:
        """Raises `_Stopped` if the engine has stopped."""
        if self.stop.is_set():
            raise _Stopped


_job: _Job | None = None  # of this process, if it is a worker


def _start_worker(folder: Folder, threads: int, working_folder: str, stop: Event) -> None:
    """Sets up a worker: its threads, its models, and how it ends."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent says when to stop
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.chdir(working_folder)
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    import torch

    torch.set_num_threads(threads)
    _job = _Job(folder, stop)
    if not stop.is_set():
        _warm_up(folder)


def _die_with_parent() -> None:
    """Ends this process when its parent is gone: a worker would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(trial: Trial) -> Finished | _Fault:
    """Makes a trial in a worker."""
    assert _job is not None
    _job.check()
    try:
        return _make(_job.folder, trial, on_chunk=_job.check)
    except _Stopped:
        raise
    except Exception as error:
        if is_ours(error) and isinstance(error, (ValueError, OSError)):
            return _Fault(str(error), is_ours=True)
        return _Fault("".join(traceback.format_exception(error)), is_ours=False)


def _result(future: Future[Finished | _Fault]) -> Finished:
    made = future.result()
    if isinstance(made, Finished):
        return made
    if made.is_ours:
        raise ValueError(made.message)
    raise RuntimeError(f"a worker could not make a trial:\n\n{made.message}")


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Holds Ctrl-C back for a moment, in this thread and in processes that start in it: these never see it."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
