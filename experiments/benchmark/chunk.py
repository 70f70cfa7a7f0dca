"""What a chunk at full window costs, phase by phase, for several candidates of one parent and of as many parents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from rich.table import Table

from experiments.benchmark.timing import interleaved
from searchkit.memory import Block
from searchkit.rewards import View
from searchkit.state import StreamState
from searchkit.stream import Draft, Stream
from searchkit.types import Action, Request

PHASES = ("denoise", "clean pass", "prefix assembly", "decode", "score")
WARM_UP = 5  # chunks until the window is full and something has left it


class ChunkCost(NamedTuple):
    """What a chunk of some candidates costs.

    seconds: by phase; a clean pass and a prefix of every parent.
    prefix_bytes, block_bytes: of all prefixes; of the parents' distinct blocks.
    """

    candidates: int
    parents: int
    seconds: dict[str, float]
    prefix_bytes: int
    block_bytes: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@torch.no_grad()
def measure(stream: Stream, candidates: Sequence[int], repeats: int, *, together: bool) -> list[ChunkCost]:
    """Returns the costs for each number of candidates: of one parent, then of as many parents.

    Args:
        together: whether all numbers take turns, so that their ratios hold on a busy machine; their memory is then
            held together, too, which is much for a large model.
    """
    parents = full_window(stream, max(candidates))
    sides = [(num, width) for num in candidates for width in dict.fromkeys((1, num))]
    groups = [sides] if together else [[side] for side in sides]
    return [cost for group in groups for cost in _measure_group(stream, group, parents, repeats)]


def _measure_group(
    stream: Stream, sides: Sequence[tuple[int, int]], parents: Sequence[StreamState], repeats: int
) -> list[ChunkCost]:
    drafts = {(num, width): _drafts(stream, parents[:width], num) for num, width in sides}
    tasks = {
        f"{side} {phase}": task
        for side, some in drafts.items()
        for phase, task in _tasks(stream, some, parents[: side[1]]).items()
    }
    seconds = interleaved(tasks, repeats)
    return [
        ChunkCost(
            num,
            width,
            {phase: seconds[f"{(num, width)} {phase}"] for phase in PHASES},
            sum(prefix.nbytes for prefix in {draft.prefix for draft in drafts[num, width] if draft.prefix}),
            sum(block.nbytes for block in {b for parent in parents[:width] for b in parent.memory_after.blocks}),
        )
        for num, width in sides
    ]


def table(costs: Sequence[ChunkCost], *, title: str) -> Table:
    """Returns the table of costs, in ms and as shares of a chunk."""
    made = Table(title=title)
    for column in ("candidates", "parents", *PHASES, "chunk", "of 1 candidate", "prefixes", "blocks"):
        made.add_column(column, justify="right")
    for cost in costs:
        cells = [f"{1000 * cost.seconds[p]:.2f} ({cost.seconds[p] / cost.total:.0%})" for p in PHASES]
        ratio = f"{cost.seconds['denoise'] / costs[0].seconds['denoise']:.2f} x"
        made.add_row(
            str(cost.candidates),
            str(cost.parents),
            *cells,
            f"{1000 * cost.total:.1f} ms",
            ratio,
            f"{cost.prefix_bytes / 1e6:.2f} MB",
            f"{cost.block_bytes / 1e6:.2f} MB",
        )
    made.caption = "ms and share of the chunk; the last ratio is of denoising alone"
    return made


def full_window(stream: Stream, count: int) -> list[StreamState]:
    """Returns states with a full window, which share all but their newest chunk, and whose clean passes are done."""
    states = [stream.root]
    for chunk in range(WARM_UP):
        width = count if chunk == WARM_UP - 1 else 1
        states = [
            child.state for child in stream.expand([Request(states[0], Action(100 * chunk + i)) for i in range(width)])
        ]
    return states


def _drafts(stream: Stream, parents: Sequence[StreamState], num: int) -> list[Draft]:
    return stream.start([Request(parents[index * len(parents) // num], Action(index)) for index in range(num)])


def _tasks(stream: Stream, drafts: Sequence[Draft], parents: Sequence[StreamState]) -> dict[str, Callable[[], object]]:
    model = stream.model
    memories = list({draft.prefix: draft.memory for draft in drafts}.values())
    latents = [draft.noises[0] for draft in drafts]
    caches = [draft.request.state.decoder_cache for draft in drafts]
    places = [
        model.place(parent.chunk - 1, parent.memory, model.assemble(parent.memory), parent.prompt) for parent in parents
    ]
    pieces, _ = model.decode(latents, caches)
    views = [
        View(stream.prompt, (), (*draft.request.state.frames, piece)[-stream.long_window :], piece)
        for draft, piece in zip(drafts, pieces, strict=True)
    ]

    def clean() -> None:
        blocks = [Block(0, model.memory.chunk_frames) for _ in parents]
        model.commit([parent.latents[-1] for parent in parents], blocks, places)

    return {
        "denoise": lambda: stream.advance(drafts),
        "clean pass": clean,
        "prefix assembly": lambda: [model.assemble(memory) for memory in memories],
        "decode": lambda: model.decode(latents, caches),
        "score": lambda: stream.scorer.score(views),
    }
