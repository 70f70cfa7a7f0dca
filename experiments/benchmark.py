"""Measures speed, as ratios within one run: `python -m experiments.benchmark`.

Every figure is a median over interleaved repeats, so that a busy machine slows both sides of a ratio alike.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from envs.shapes.model import load_model, load_scorer
from policies import BeamSearch, Greedy
from searchkit.stream import Draft, Stream
from searchkit.types import Action, Request

KILOBYTES = 1 if sys.platform == "darwin" else 1024  # in which getrusage counts
PROMPT = "a fast red circle moving left on a sand background"


def main(repeats: int = 7, threads: int = 2, out: Path | None = None) -> None:
    """Prints the benchmark's table.

    Args:
        repeats: of every measurement.
        threads: of torch.
        out: a JSON file to write the figures to as well.
    """
    torch.set_num_threads(threads)
    figures = {**denoising(repeats), **whole_streams(repeats), **command_line(3)}
    table = Table(title=f"{platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}")
    for column in ("figure", "measured", "to reach"):
        table.add_column(column)
    for name, (value, unit, limit) in figures.items():
        table.add_row(name, f"{value:.2f} {unit}", f"at most {limit:g} {unit}" if limit else "")
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps({name: value for name, (value, _, _) in figures.items()}, indent=1))


Figures = dict[str, tuple[float, str, float | None]]


def denoising(repeats: int) -> Figures:
    """Returns what denoising a chunk at full window costs for 1 and 4 candidates, of one parent and of four."""
    stream = Stream(model=load_model(), scorer=load_scorer(), prompt=PROMPT)
    passes = stream.model.sampler.num_passes
    parents = [stream.root]
    for chunk in range(5):
        width = 4 if chunk == 4 else 1
        parents = [
            child.state for child in stream.expand([Request(parents[0], Action(10 * chunk + i)) for i in range(width)])
        ]
    drafts = {
        "1": stream.start([Request(parents[0], Action(0))]),
        "4 siblings": stream.start([Request(parents[0], Action(i)) for i in range(4)]),
        "4 of four parents": stream.start([Request(parent, Action(i)) for i, parent in enumerate(parents)]),
    }

    def denoise(some: list[Draft]) -> Callable[[], object]:
        return lambda: stream.advance(some, passes=passes)

    seconds = interleaved({name: denoise(some) for name, some in drafts.items()}, repeats)
    one = seconds["1"]
    return {
        "denoising 1 candidate, a pass": (1000 * one / passes, "ms", None),
        "denoising 4 siblings / 1 candidate": (seconds["4 siblings"] / one, "x", 2.5),
        "denoising 4 of four parents / 1 candidate": (seconds["4 of four parents"] / one, "x", 2.5),
    }


def whole_streams(repeats: int) -> Figures:
    """Returns what a 5 s search costs over greedy, and 30 s over 5 s."""
    short, long = (
        Stream(model=load_model(), scorer=load_scorer(), prompt=PROMPT, horizon=horizon) for horizon in (7, 40)
    )
    seconds = interleaved(
        {
            "greedy 5 s": lambda: Greedy()(short, seed=0),
            "search 5 s": lambda: BeamSearch()(short, seed=0),
            "greedy 30 s": lambda: Greedy()(long, seed=0),
        },
        repeats,
    )
    spent = Greedy()(short, seed=0).cost
    return {
        "decoding / denoising, greedy 5 s": (spent.seconds_decode / spent.seconds_generate, "x", 1.0),
        "scoring / denoising, greedy 5 s": (spent.seconds_score / spent.seconds_generate, "x", None),
        "greedy, 5 s of video": (seconds["greedy 5 s"], "s", None),
        "5 s beam search at 4 candidates a chunk / greedy": (
            seconds["search 5 s"] / seconds["greedy 5 s"],
            "x",
            3.0,
        ),
        "30 s / 5 s, greedy (5.7 times the chunks)": (
            seconds["greedy 30 s"] / seconds["greedy 5 s"],
            "x",
            6.5,
        ),
    }


def command_line(repeats: int) -> Figures:
    """Returns how long the command line's help takes in a fresh process, and what its default job takes."""
    command = [sys.executable, "-m", "experiments.run"]
    seconds = interleaved(
        {"help": lambda: subprocess.run([*command, "--help"], capture_output=True, check=True)}, repeats
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([*command, "--out", f"{folder}/quick"], capture_output=True, check=True)
        quick = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KILOBYTES / 1e9
    return {
        "python -m experiments.run --help": (seconds["help"], "s", 1.5),
        "python -m experiments.run": (quick, "s", 120.0),
        "python -m experiments.run, memory": (peak, "GB", 2.0),
    }


def interleaved(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Returns each task's median seconds; the tasks take turns, after one round that does not count."""
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if repeat:
                samples[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in samples.items()}


if __name__ == "__main__":
    tyro.cli(main)
