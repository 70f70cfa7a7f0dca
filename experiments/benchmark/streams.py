"""What whole videos cost, on the shipped model: searches against greedy, long ones, endless ones, the command line."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

from experiments.benchmark.models import shapes_stream
from experiments.benchmark.timing import Figure, interleaved
from policies import BeamSearch, BestOfNPerChunk, Greedy, PreviewPruning, StreamT1
from searchkit.live import LiveSearch
from searchkit.memory import MemoryConfig
from searchkit.state import StreamState
from searchkit.types import Action, Child, Policy, Request

KILOBYTES = 1 if sys.platform == "darwin" else 1024  # in which getrusage counts
SEARCH = "5 s Stream-T1 at 2x2"


def searches(repeats: int) -> Iterator[Figure]:
    """Yields what 5 s searches cost over greedy, and 30 s over 5 s."""
    short, long = shapes_stream(), shapes_stream(horizon=40)
    seconds = interleaved(
        {
            "greedy 5 s": lambda: Greedy()(short, seed=0),
            "search 5 s": lambda: BeamSearch()(short, seed=0),
            "stream-t1 5 s": lambda: StreamT1()(short, seed=0),
            "greedy 30 s": lambda: Greedy()(long, seed=0),
        },
        repeats,
    )
    search = StreamT1()(short, seed=0).cost
    cold = StreamT1()(replace(short, decoding="cold"), seed=0).cost
    yield Figure("greedy, 5 s of video", seconds["greedy 5 s"], "s")
    yield Figure("5 s beam search at 2x2 / greedy", seconds["search 5 s"] / seconds["greedy 5 s"], "x", 3.0)
    yield Figure(f"{SEARCH} / greedy", seconds["stream-t1 5 s"] / seconds["greedy 5 s"], "x")
    yield Figure("30 s / 5 s, greedy (5.7 times the chunks)", seconds["greedy 30 s"] / seconds["greedy 5 s"], "x", 6.5)
    yield Figure(f"{SEARCH}: denoising passes", search.denoise_passes, "", 112)
    yield Figure(f"{SEARCH}: clean passes (released code: 28)", search.clean_passes, "", 12)
    yield Figure(f"{SEARCH}: calls of the network", search.calls, "")
    yield Figure(f"{SEARCH}: prefixes assembled", search.prefixes, "", 13)
    yield Figure(f"{SEARCH}: latent frames decoded", search.latent_frames_decoded, "", 84)
    yield Figure(f"{SEARCH}: latent frames decoded when cold, as released", cold.latent_frames_decoded, "")
    eight = PreviewPruning(children=8)(replace(short, horizon=1), seed=0).cost
    yield Figure("8 candidates, 4 finished after a preview: passes of a chunk", eight.denoise_passes, "", 24)


def memory(num_seeds: int = 16) -> Iterator[Figure]:
    """Yields the most bytes of blocks and prefixes alive, of searches at 2x2 over those of greedy.

    Stream-T1 holds more than plain beam search: beams with averages of their own share no sink, and it appends some.
    """
    budgets = {"parents together": shapes_stream(), "parents in turn": shapes_stream(prefix_budget=0)}
    for way, stream in budgets.items():
        greedy = Greedy()(stream, seed=0).cost.peak_bytes
        yield Figure(f"peak key/value bytes, greedy, {way}", greedy / 1e6, "MB")
        for search in (BeamSearch(), StreamT1()):
            costs = [search(stream, seed=seed).cost for seed in range(num_seeds)]
            peaks = [cost.peak_bytes / greedy for cost in costs]
            name = f"peak bytes, {type(search).__name__} at 2x2 / greedy, {way}"
            yield Figure(f"{name}, median of {num_seeds} seeds", statistics.median(peaks), "x", 1.6)
            yield Figure(f"{name}, most of {num_seeds} seeds", max(peaks), "x", 1.6)
            yield Figure(f"prefixes assembled, {type(search).__name__} at 2x2, {way}", costs[0].prefixes, "")


def long_stream(repeats: int, num_chunks: int = 400) -> Iterator[Figure]:
    """Yields what the next chunk costs late in a stream, beyond the rotary table, over what it costs early."""
    base = shapes_stream()
    stream = replace(base, model=replace(base.model, memory=MemoryConfig(positions="window")), horizon=num_chunks)
    early = late = stream.root
    while late.chunk < num_chunks - 1:
        [child] = stream.expand([Request(late, Action(late.chunk))])
        late = child.state
        early = late if late.chunk == 20 else early

    def step(state: StreamState) -> Child[StreamState]:
        # As a search does: proposals and records read the whole lineage.
        [child] = stream.expand([Request(state, action) for action in stream.actions(state, num=1, seed=0)])
        assert len(child.state.actions) == len(child.state.scores)
        return child

    seconds = interleaved({"early": lambda: step(early), "late": lambda: step(late)}, 5 * repeats)
    peaks = [step(state).cost.peak_bytes for state in (early, late)]
    name = f"a chunk after {late.chunk} / after {early.chunk}"
    yield Figure(f"{name}: seconds", seconds["late"] / seconds["early"], "x", 1.1)
    yield Figure(f"{name}: key/value bytes", peaks[1] / peaks[0], "x", 1.0)


def first_chunks() -> Iterator[Figure]:
    """Yields how long after its start a 5 s search hands over its first chunk, and how long it takes in all."""
    stream = shapes_stream()
    policies: tuple[Policy, ...] = (Greedy(), BestOfNPerChunk(), StreamT1())
    for policy in policies:
        runs = [list(LiveSearch(policy=policy, problem=stream, seed=seed)) for seed in range(6)]
        for which, index in (("first", 0), ("last", -1)):
            seconds = statistics.median(run[index].seconds for run in runs)
            yield Figure(f"{which} chunk decided, {type(policy).__name__}, median of 6 seeds", seconds, "s")


def command_line(repeats: int) -> Iterator[Figure]:
    """Yields how long the command line's help takes in a fresh process, and what its default job takes."""
    command = [sys.executable, "-m", "experiments.run"]
    seconds = interleaved(
        {"help": lambda: subprocess.run([*command, "--help"], capture_output=True, check=True)}, repeats
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([*command, "--out", f"{folder}/quick"], capture_output=True, check=True)
        quick = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KILOBYTES / 1e9
    yield Figure("python -m experiments.run --help", seconds["help"], "s", 1.5)
    yield Figure("python -m experiments.run", quick, "s", 120.0)
    yield Figure("python -m experiments.run, memory", peak, "GB", 2.0)
