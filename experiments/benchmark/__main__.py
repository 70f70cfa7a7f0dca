"""Measures speed and memory, as ratios within one run: `python -m experiments.benchmark`.

Times that are compared are medians over interleaved repeats, so that a busy machine slows both sides of a ratio alike.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmark import chunk, engines, joins, streams
from experiments.benchmark.models import WanSize, shapes_stream, wan_stream
from experiments.benchmark.overhead import overhead
from experiments.benchmark.timing import Figure
from policies import StreamT1
from searchkit.backbones.speedups import Speedups
from searchkit.stream import Stream
from searchkit.types import Action, Request

PASS_TERAFLOP = 28.3  # of Wan 1.3B at 832x480 with 12 latent frames of keys and values


def main(
    model: Literal["shapes", "wan-1.3b"] = "shapes",
    weights: Literal["shipped", "random"] = "shipped",
    candidates: tuple[int, ...] = (1, 2, 4, 8),
    repeats: int = 7,
    threads: int = 2,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    speedups: Speedups = Speedups(),
    size: WanSize = WanSize(),  # noqa: B008
    peak_teraflops: float | None = None,
    out: Path | None = None,
) -> None:
    """Prints what a chunk costs, phase by phase; for the shipped model also what whole videos cost.

    Args:
        model: the shipped one, or Wan2.1-T2V-1.3B at 832x480: a GPU of 24 GB takes --candidates 1 2, one of 80 GB all.
        weights: "shipped" for shapes, "random" for wan-1.3b: speed does not depend on them.
        candidates: numbers of candidates of a chunk, 1 first.
        repeats: of every measurement.
        threads: of torch.
        device: of wan-1.3b.
        dtype: of wan-1.3b.
        peak_teraflops: what the device can do in this dtype, to say how much of it is reached (H200, bf16: 989).
        out: a JSON file to write the figures to as well.
    """
    if (model, weights) not in {("shapes", "shipped"), ("wan-1.3b", "random")}:
        raise SystemExit(
            f"benchmark: weights must be shipped for shapes and random for wan-1.3b, got {weights} for {model}"
        )
    torch.set_num_threads(threads)
    name = torch.cuda.get_device_name() if device.startswith("cuda") and model != "shapes" else _processor_name()
    title = f"{model} on {name}, {threads} threads, torch {torch.__version__}"
    if model == "shapes":
        stream = shapes_stream()
    else:
        stream = wan_stream(size, speedups, device=device, dtype=getattr(torch, dtype))
    console = Console(width=150)
    costs = chunk.measure(stream, candidates, repeats, together=model == "shapes")
    console.print(chunk.table(costs, title=f"A chunk at full window, {title}"))
    if model == "shapes":
        figures = list(_shapes_figures(costs, repeats))
    else:
        teraflop = PASS_TERAFLOP * stream.model.sampler.num_passes if size == WanSize() else None
        figures = [*_wan_figures(costs, teraflop, peak_teraflops), *_wan_search(stream)]
    console.print(_table(figures, title))
    if out is not None:
        chunks = [cost._asdict() for cost in costs]
        rows = [figure._asdict() for figure in figures]
        out.write_text(json.dumps({"title": title, "chunk": chunks, "figures": rows}, indent=1))


def _shapes_figures(costs: Sequence[chunk.ChunkCost], repeats: int) -> Iterator[Figure]:
    stream = shapes_stream()
    one = costs[0].seconds["denoise"]
    yield Figure("denoising 1 candidate, a pass", 1000 * one / stream.model.sampler.num_passes, "ms")
    for cost in costs:
        if cost.candidates == 4:
            whose = "siblings" if cost.parents == 1 else "of four parents"
            yield Figure(f"denoising 4 {whose} / 1 candidate", cost.seconds["denoise"] / one, "x", 2.5)
    for phase in ("decode", "score"):
        limit = 1.0 if phase == "decode" else None
        yield Figure(f"{phase} / denoise, 1 candidate", costs[0].seconds[phase] / one, "x", limit)
    yield from _join_figures(repeats)
    yield from streams.searches(repeats)
    yield from streams.memory()
    yield from streams.long_stream(repeats)
    yield from streams.first_chunks()
    yield from streams.command_line(3)
    yield from overhead(repeats)
    yield from engines.throughput(min(repeats, 3))


def _join_figures(repeats: int) -> Iterator[Figure]:
    stream = shapes_stream()
    parents = chunk.full_window(stream, 4)
    for num in (1, 4):
        drafts = stream.start([Request(parents[0], Action(index)) for index in range(num)])
        ways = joins.measure(stream, drafts, repeats)
        yield Figure(f"prefix assembly and joining / denoising, {num} siblings", _share(ways), "x", 0.15)
        for way in ("folded", "buffer"):
            yield Figure(f"denoising {num} siblings, {way} / expanded", ways[way] / ways["expanded"], "x")
    yield Figure("folded against expanded, largest difference", ways["folded, largest difference"], "")
    drafts = stream.start([Request(parent, Action(0)) for parent in parents])
    ways = joins.measure(stream, drafts, repeats)
    yield Figure("prefix assembly and joining / denoising, 4 of four parents", _share(ways), "x", 0.15)


def _share(ways: Mapping[str, float]) -> float:
    return (ways["join"] + ways["assembly"]) / ways["expanded"]


def _wan_figures(costs: Sequence[chunk.ChunkCost], teraflop: float | None, peak: float | None) -> Iterator[Figure]:
    """Yields seconds, and with the work of a chunk and the device's peak how much of it is reached."""
    for cost in costs:
        name = f"{cost.candidates} candidates of {cost.parents} parents"
        yield Figure(f"denoising {name}", cost.seconds["denoise"], "s")
        if teraflop is None:
            continue
        reached = teraflop * cost.candidates / cost.seconds["denoise"]
        yield Figure(f"TFLOP/s, {name}", reached, "")
        if peak is not None:
            yield Figure(f"share of the peak, {name}", reached / peak, "x")


def _wan_search(stream: Stream) -> Iterator[Figure]:
    """Yields what a whole 5 s search costs, and the memory that it takes."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    cost = StreamT1()(stream, seed=0).cost
    yield Figure("5 s Stream-T1 at 2x2", cost.seconds, "s")
    for phase in ("generate", "decode", "score"):
        yield Figure(f"5 s Stream-T1 at 2x2, {phase}", getattr(cost, f"seconds_{phase}"), "s")
    yield Figure("5 s Stream-T1 at 2x2: denoising passes", cost.denoise_passes, "", 112)
    yield Figure("5 s Stream-T1 at 2x2: clean passes", cost.clean_passes, "", 12)
    yield Figure("5 s Stream-T1 at 2x2: most bytes of blocks and prefixes", cost.peak_bytes / 1e9, "GB")
    if torch.cuda.is_initialized():
        yield Figure("5 s Stream-T1 at 2x2: most memory of the device", torch.cuda.max_memory_allocated() / 1e9, "GB")


def _processor_name() -> str:
    names = Path("/proc/cpuinfo")
    if names.exists() and (match := re.search(r"model name\s*: (.*)", names.read_text())):
        return match[1]
    return platform.processor() or platform.machine()


def _table(figures: Iterable[Figure], title: str) -> Table:
    made = Table("figure", "measured", "to reach", title=title)
    for name, value, unit, limit in figures:
        bound = "" if limit is None else f"at most {limit:g} {unit}"
        made.add_row(name, f"{value:.3g} {unit}", bound, style="" if limit is None or value <= limit else "red")
    return made


if __name__ == "__main__":
    tyro.cli(main)
