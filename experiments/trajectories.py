"""Exports what a run's searches went through, for learning elsewhere: `python -m experiments.trajectories runs/NAME`.

One row a finished candidate: the state it was tried in, as far as scores and memory tell it, the action, and the reward
that `searchkit.stream`'s environment gives for it. Rows of a trial link by their lineages, so that they are also the
trees that were searched.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from searchkit.fusion import Fusion
from searchkit.memory import Block, Memory, MemoryConfig, evicts, make_room, push
from searchkit.types import Route, Scores

Row = Mapping[str, Any]
ACTION = ("candidate_seed", "route", "correlation", "asked_passes")
COPIED = ("trial", "policy", "prompt", "seed", "chunk", *ACTION, "short", "long")
OUTCOMES = ("kept", "chosen", "truth")


def export(folder: Path) -> Path:
    """Writes `trajectories.parquet` into a run's folder and returns its path.

    Columns, besides those of candidates.parquet: `lineage`, the seeds of all chunks; `shorts` and `longs`, the scores
    of the chunks before; `leaving`, the chunk that leaves the window, null while a route has no effect; `sinks` and
    `window`, the first latent frame of each block that the chunk could keep or lose, before the route; `averaged`,
    whether a sink is an average; `reward`, fused as the environment does.

    Raises:
        ValueError: the folder holds no finished run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    candidates, marker = folder / "candidates.parquet", folder / "experiment.json"
    if not candidates.is_file() or not marker.is_file():
        raise ValueError(f"folder must hold a finished run, but {folder} has no candidates.parquet and experiment.json")
    settings = json.loads(marker.read_text())["experiment"]
    sizes = {name.removeprefix("memory.").replace("-", "_"): v for name, v in settings.items() if "memory." in name}
    horizon, config = settings["num-chunks"], MemoryConfig(**sizes)
    rows = [row for row in pq.read_table(candidates).to_pylist() if row["pruned_after"] is None]
    path = folder / "trajectories.parquet"
    pq.write_table(pa.Table.from_pylist(list(_trajectories(rows, horizon, config))), path)
    return path


def _trajectories(rows: Sequence[Row], horizon: int | None, config: MemoryConfig) -> Iterator[dict[str, Any]]:
    tried = {(row["trial"], *row["lineage"]): row for row in rows}
    for row in rows:
        lineage = row["lineage"]
        before = [tried[row["trial"], *lineage[:length]] for length in range(1, len(lineage))]
        memory = _memory([Route[one["route"].upper()] for one in before], config)
        [reward] = Fusion()([Scores(row["short"], row["long"])], chunk=row["chunk"], horizon=horizon)
        yield {
            **{name: row[name] for name in COPIED},
            "lineage": lineage,
            "shorts": [one["short"] for one in before],
            "longs": [one["long"] for one in before],
            "leaving": leaving(memory, config),
            "sinks": [block.start_frame for block in memory.sinks],
            "averaged": [block.is_average for block in memory.sinks],
            "window": [block.start_frame for block in memory.window],
            "reward": reward,
            **{name: row[name] for name in OUTCOMES},
        }


def push_chunk(memory: Memory, chunk: int, route: Route, config: MemoryConfig) -> Memory:
    """Returns the memory, of empty blocks, after a chunk that was made under a route."""
    memory = make_room(memory, route, config, _empty_average)
    return push(memory, Block(chunk * config.chunk_frames, config.chunk_frames), config)


def leaving(memory: Memory, config: MemoryConfig) -> int | None:
    """Returns the chunk that leaves the window before the next one is made, or None while a route has no effect."""
    return memory.window[0].start_frame // config.chunk_frames if evicts(memory, config) else None


def _memory(routes: Sequence[Route], config: MemoryConfig) -> Memory:
    """Returns the memory after chunks that were made under these routes."""
    memory = Memory()
    for chunk, route in enumerate(routes):
        memory = push_chunk(memory, chunk, route, config)
    return memory


def _empty_average(sink: Block, evicted: Block, decay: float) -> Block:
    return Block(sink.start_frame, sink.num_frames, is_average=True)


def main(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Writes what a run's searches went through into trajectories.parquet in its folder.

    Args:
        folder: of a run, as `python -m experiments.run` leaves it.
    """
    try:
        print(export(folder))
    except ValueError as error:
        sys.exit(f"trajectories: {error}")


if __name__ == "__main__":
    tyro.cli(main)
