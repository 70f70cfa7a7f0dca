"""How many trials engines make in a while: `python -m experiments.benchmark.engines`, also part of the whole benchmark.

Each way is the command line as anybody runs it, timed by the lines that it prints. Processes are timed beside a Ray
cluster that sleeps, too: Ray takes something of a machine whatever an engine does with it; the rest is the engine's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import tyro

from experiments.benchmark.timing import Figure
from experiments.config import Execution
from experiments.engines.cluster import connected

NUM_PROMPTS = 3  # of the default job, each made with every seed
SPEEDUP = 1.7  # at least, of two workers over one
LONG_SECONDS = 3600.0  # beyond any study here
FINISHED = re.compile(r"\[(\d+)/\d+\] .* passes, ")


class _Way(NamedTuple):
    """How a study is made."""

    engine: str
    workers: int
    beside_ray: bool = False


BESIDE_RAY = _Way("processes", 2, beside_ray=True)


class Pace(NamedTuple):
    """How fast a study was made.

    trial: seconds between two trials while all workers were busy: without start-up, and without the end, where one
        worker has nothing left to do.
    whole: seconds of the whole command, with the cluster's start, the loading of models, tables and pictures.
    """

    trial: float
    whole: float


def throughput(repeats: int, *, num_seeds: int = 8) -> Iterator[Figure]:
    """Yields how long trials take on engines with two workers of one thread against one, and against each other.

    The ways take turns, and a figure is a median over rounds, so that a busy machine slows all of them alike. Without
    Ray installed there are the figures of processes alone.

    Args:
        num_seeds: of each prompt; 16 at most, as more trials are not told one by one.
    """
    if not 2 <= num_seeds <= 16:
        raise ValueError(f"num_seeds must be from 2 to 16, got {num_seeds}")
    has_ray = importlib.util.find_spec("ray") is not None
    engines = ("processes", "ray") if has_ray else ("processes",)
    ways = [_Way(engine, workers) for engine in engines for workers in (1, 2)]
    if has_ray:
        ways.append(BESIDE_RAY)
    paces: dict[_Way, list[Pace]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, measured in paces.items():
            with _sleeping_cluster(way.workers) if way.beside_ray else contextlib.nullcontext():
                measured.append(_pace(way, num_seeds))
    trial = {way: statistics.median(pace.trial for pace in measured) for way, measured in paces.items()}
    whole = {way: statistics.median(pace.whole for pace in measured) for way, measured in paces.items()}
    name = f"{NUM_PROMPTS * num_seeds} trials"
    for engine in engines:
        limit = 1.0 / SPEEDUP if engine == "ray" else None
        two, one = _Way(engine, 2), _Way(engine, 1)
        yield Figure(f"{engine}: a trial with 2 workers / with 1, models loaded", trial[two] / trial[one], "x", limit)
        yield Figure(f"{engine}: {name} with 2 workers / with 1, start-up included", whole[two] / whole[one], "x")
        yield Figure(f"{engine}: a trial with 2 workers, models loaded", trial[two], "s")
        yield Figure(f"{engine}: {name} with 2 workers, start-up included", whole[two], "s")
    if has_ray:
        ray, processes = _Way("ray", 2), _Way("processes", 2)
        yield Figure("ray / processes: a trial with 2 workers, models loaded", trial[ray] / trial[processes], "x", 1.0)
        beside = trial[BESIDE_RAY]
        yield Figure("processes beside a sleeping cluster / processes: the same", beside / trial[processes], "x")
        yield Figure("ray / processes beside a sleeping cluster: the same", trial[ray] / beside, "x")
        yield Figure(f"ray / processes: {name}, start-up included", whole[ray] / whole[processes], "x")


@contextlib.contextmanager
def _sleeping_cluster(workers: int) -> Iterator[None]:
    """Runs a cluster of this machine alone, whose workers, as many as a study would have, are in a call that sleeps."""
    with connected(Execution(engine="ray", ray_address="local", workers=workers)) as ray:
        sleepers = [ray.remote(num_cpus=1)(_Sleeper).remote() for _ in range(workers)]
        ray.get([sleeper.sleep.remote(0.0) for sleeper in sleepers])  # they have started
        asleep = [sleeper.sleep.remote(LONG_SECONDS) for sleeper in sleepers]
        try:
            yield
            if ray.wait(asleep, timeout=0)[0]:
                raise RuntimeError("a worker of the cluster that was to sleep did not")
        finally:
            for sleeper in sleepers:
                ray.kill(sleeper)


class _Sleeper:
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _pace(way: _Way, num_seeds: int) -> Pace:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.run", "--out", f"{folder}/study", "--wandb", "disabled"]
        command += ["--engine", way.engine, "--workers", str(way.workers), "--threads", "1", "--policy", "stream-t1"]
        command += ["--seeds", *map(str, range(num_seeds))]
        began = time.monotonic()
        alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with subprocess.Popen(
            command,
            env=alone | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as run:
            assert run.stdout is not None
            finished = [time.monotonic() for line in run.stdout if FINISHED.match(line)]
        whole = time.monotonic() - began
    if run.returncode or len(finished) != NUM_PROMPTS * num_seeds:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode} after {len(finished)} trials")
    first, last = len(finished) // 4, len(finished) - way.workers
    return Pace((finished[last] - finished[first]) / (last - first), whole)


def main(repeats: int = 3, num_seeds: int = 8) -> None:
    """Prints how many trials engines make in a while.

    Args:
        repeats: rounds in which every engine makes a study with one worker and with two.
        num_seeds: of each of the three prompts.
    """
    for figure in throughput(repeats, num_seeds=num_seeds):
        bound = "" if figure.limit is None else f" (to reach: at most {figure.limit:.3g})"
        print(f"{figure.name}: {figure.value:.3g} {figure.unit}{bound}")


if __name__ == "__main__":
    tyro.cli(main)
