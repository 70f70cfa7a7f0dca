"""What a trial's search went through, as a tree: who goes on from whom, what left the window, and what levels cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.trajectories import leaving, push_chunk
from searchkit.memory import Memory, MemoryConfig, num_frames
from searchkit.types import Route

COLUMNS = ("trial", "chunk", "candidate_seed", "route", "short", "long", "fused", "kept", "pruned_after", "chosen")
MORE_COLUMNS = ("lineage", "passes", "seconds", "truth")  # truth may be missing
Row = Mapping[str, Any]


class Node(NamedTuple):
    """A candidate.

    parent: the node that it goes on from; None for the first chunk.
    pruned_after: passes after which it was given up, where it was not finished: its scores are of a preview then.
    leaving: the chunk that left the window before this one; None if nothing did.
    route: what became of it: "discard", "ema_sink" or "append_sink"; None if nothing left.
    row: of its chunk's sheet of clips; None if it was not finished.
    """

    chunk: int
    parent: int | None
    seed: str  # too large a number for JavaScript
    short: float
    long: float
    fused: float
    kept: bool
    chosen: bool
    pruned_after: int | None
    leaving: int | None
    route: str | None
    passes: float
    seconds: float
    truth: float | None
    row: int | None


class Level(NamedTuple):
    """What all candidates of a chunk cost."""

    chunk: int
    passes: float
    seconds: float


class Tree(NamedTuple):
    """A search.

    nodes: in the order in which they were tried, parents before their children.
    num_unclear: nodes whose parent is one of several with the same seeds; the likeliest is drawn.
    """

    nodes: tuple[Node, ...]
    levels: tuple[Level, ...]
    num_unclear: int

    @property
    def is_searched(self) -> bool:
        """Whether there was anything to choose from."""
        return len(self.nodes) > len(self.levels)

    @property
    def num_finished(self) -> dict[int, int]:
        """Finished candidates by chunk."""
        return Counter(node.chunk for node in self.nodes if node.row is not None)


def read(path: Path) -> dict[str, list[Row]]:
    """Returns the rows of candidates.parquet by their trials; nothing if there is no such table.

    Raises:
        ValueError: the table lacks a column.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        return {}
    with pq.ParquetFile(path) as file:
        stored = set(file.schema_arrow.names)
        if missing := [name for name in (*COLUMNS, *MORE_COLUMNS[:-1]) if name not in stored]:
            raise ValueError(f"table {path} has no column {', '.join(missing)}")
        rows = file.read(columns=[name for name in (*COLUMNS, *MORE_COLUMNS) if name in stored]).to_pylist()
    by_trial: dict[str, list[Row]] = {}
    for row in rows:
        by_trial.setdefault(row["trial"], []).append(row)
    return by_trial


def grow(rows: Sequence[Row], config: MemoryConfig) -> Tree:
    """Returns the tree of one trial's rows of candidates.parquet.

    Args:
        config: sizes of the memory that the trial ran with.
    """
    nodes: list[Node] = []
    memories: list[Memory] = []  # after each node's chunk
    named: dict[tuple[int, ...], list[int]] = {}  # nodes by the seeds of all their chunks
    finished: Counter[int] = Counter()
    num_unclear = 0
    for row in sorted(rows, key=lambda row: row["chunk"]):
        lineage = tuple(row["lineage"])
        parents = named.get(lineage[:-1], [])
        num_unclear += len(parents) > 1
        parent = max(parents, key=lambda index: _likeliness(nodes[index], row), default=None)
        before = Memory() if parent is None else memories[parent]
        route = Route[row["route"].upper()]
        memories.append(push_chunk(before, row["chunk"], route, config))
        named.setdefault(lineage, []).append(len(nodes))
        is_finished = row["pruned_after"] is None
        gone = leaving(before, config)
        nodes.append(
            Node(
                chunk=row["chunk"],
                parent=parent,
                seed=str(row["candidate_seed"]),
                short=row["short"],
                long=row["long"],
                fused=row["fused"],
                kept=row["kept"],
                chosen=row["chosen"],
                pruned_after=None if is_finished else int(row["pruned_after"]),
                leaving=gone,
                route=None if gone is None else _effect(route, before, config).name.lower(),
                passes=row["passes"],
                seconds=row["seconds"],
                truth=row.get("truth"),
                row=finished[row["chunk"]] if is_finished else None,
            )
        )
        finished[row["chunk"]] += is_finished
    return Tree(tuple(nodes), _levels(nodes), num_unclear)


def _likeliness(node: Node, child: Row) -> tuple[bool, bool]:
    """Returns what tells apart parents of the same seeds; the earliest of equals is taken."""
    return (node.chosen and child["chosen"], node.kept)


def _effect(route: Route, before: Memory, config: MemoryConfig) -> Route:
    """Returns what a route does: appending to full sinks averages, and averaging without any sink discards."""
    is_full = num_frames(before.sinks) + before.window[0].num_frames > config.max_sink_frames
    if route is Route.APPEND_SINK and is_full:
        route = Route.EMA_SINK
    return Route.DISCARD if route is Route.EMA_SINK and not before.sinks else route


def _levels(nodes: Sequence[Node]) -> tuple[Level, ...]:
    chunks = sorted({node.chunk for node in nodes})
    levels = ([node for node in nodes if node.chunk == chunk] for chunk in chunks)
    return tuple(
        Level(chunk, sum(node.passes for node in level), sum(node.seconds for node in level))
        for chunk, level in zip(chunks, levels, strict=True)
    )
