"""How many trials engines make in a while: `python -m experiments.benchmark.engines`, also part of the whole benchmark.

Each way is the command line as anybody runs it, timed by the lines that it prints.
"""

from __future__ import annotations

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

NUM_PROMPTS = 3  # of the default job, each made with every seed
SPEEDUP = 1.7  # at least, of two workers over one
FINISHED = re.compile(r"\[(\d+)/\d+\] .* passes, ")


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
    engines = ("processes", "ray") if importlib.util.find_spec("ray") else ("processes",)
    paces: dict[tuple[str, int], list[Pace]] = {(engine, workers): [] for engine in engines for workers in (1, 2)}
    for _ in range(repeats):
        for (engine, workers), measured in paces.items():
            measured.append(_pace(engine, workers, num_seeds))
    trial = {way: statistics.median(pace.trial for pace in measured) for way, measured in paces.items()}
    whole = {way: statistics.median(pace.whole for pace in measured) for way, measured in paces.items()}
    name = f"{NUM_PROMPTS * num_seeds} trials"
    for engine in engines:
        limit = 1.0 / SPEEDUP if engine == "ray" else None
        two, one = (engine, 2), (engine, 1)
        yield Figure(f"{engine}: a trial with 2 workers / with 1, models loaded", trial[two] / trial[one], "x", limit)
        yield Figure(f"{engine}: {name} with 2 workers / with 1, start-up included", whole[two] / whole[one], "x")
        yield Figure(f"{engine}: a trial with 2 workers, models loaded", trial[two], "s")
        yield Figure(f"{engine}: {name} with 2 workers, start-up included", whole[two], "s")
    if "ray" in engines:
        ray, processes = ("ray", 2), ("processes", 2)
        yield Figure("ray / processes: a trial with 2 workers, models loaded", trial[ray] / trial[processes], "x", 1.0)
        yield Figure(f"ray / processes: {name}, start-up included", whole[ray] / whole[processes], "x")


def _pace(engine: str, workers: int, num_seeds: int) -> Pace:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.run", "--out", f"{folder}/study", "--wandb", "disabled"]
        command += ["--engine", engine, "--workers", str(workers), "--threads", "1", "--policy", "stream-t1"]
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
    first, last = len(finished) // 4, len(finished) - workers
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
