"""Replays a recorded run with this code and compares: `python -m experiments.verify PATH`.

A recorded run is a `.safetensors` and a `.json` (see `tests/golden`). A replay gives its tensors under the
names of the recording, so that the comparison knows nothing of what was run; a new format is one more
function in `_replay`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from searchkit.backbones.convert import diffusers_config, load
from searchkit.backbones.sampler import Sampler
from searchkit.memory import Block, Memory, MemoryConfig, make_room, num_frames, push
from searchkit.types import Route

if TYPE_CHECKING:  # `--help` must not wait for torch
    from torch import Tensor

    from searchkit.backbones.wan import CausalWan

_QUANTITIES = {
    r"noise\.\d+": "noise",
    r"renoise\.\d+": "re-noise draws",
    r"first_flow": "first flow",
    r"latents\.(\d+)": r"latents of chunk \1",
    r"cache\.\d+\.k": "final cache keys",
    r"cache\.\d+\.v": "final cache values",
}
_EXACT = {"noise", "re-noise draws"}
_ROUTES = {"discard": Route.DISCARD, "ema": Route.EMA_SINK, "append": Route.APPEND_SINK}


@dataclass(frozen=True)
class Recording:
    """A recorded run: settings and small facts from its JSON, tensors by name."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Returns the tensors whose names start with `prefix`, named by the rest."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


class Replay(NamedTuple):
    """What a replay gave, under the recording's names.

    tensors: to compare within a tolerance, draws of noise exactly.
    facts: lists to compare exactly.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, list[Any]]


class Check(NamedTuple):
    """The largest difference of one quantity, or for facts the number of entries that differ."""

    quantity: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


def verify(path: Path, *, tolerance: float = 2e-5) -> list[Check]:
    """Returns the checks of a replay of the run recorded at `path`, which has no ending.

    Raises:
        ValueError: there is no such run, or it is of no known format.
    """
    recording = _load(path)
    return _compare(recording, _replay(path, recording), tolerance)


def _load(path: Path) -> Recording:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts, tensors = (path.with_name(path.name + ending) for ending in (".json", ".safetensors"))
    for file in (facts, tensors):
        if not file.is_file():
            raise ValueError(f"path must name a recorded run without its ending, but there is no file {file}")
    try:
        return Recording(json.loads(facts.read_text()), load_file(tensors))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"path {path} names a damaged run: {error}") from error


def _replay(path: Path, recording: Recording) -> Replay:
    if "routes" in recording.facts and "layout" in recording.facts:
        return _replay_stream(recording)
    raise ValueError(f"path must name a recorded stream, but {path}.json has no routes and layout")


def _replay_stream(recording: Recording) -> Replay:
    """Replays one stream whose noise comes from one generator and whose routes are scripted."""
    import torch

    facts, shape = recording.facts, recording.tensors["noise.0"].shape
    engine = _engine(recording)
    text = engine.encode_text(recording.tensors["prompt_embeds"])
    # The recorded timesteps are warped already.
    sampler = Sampler(timesteps=tuple(recording.tensors["timesteps"].tolist()), shift=1.0)
    config = _memory_config(facts["config"], chunk_frames=shape[0])
    generator = torch.Generator().manual_seed(facts["seed"])
    replay = Replay({}, {"layout": []})
    fresh_index = itertools.count()
    memory = Memory()
    for chunk in range(facts["num_chunks"]):
        block = Block(chunk * config.chunk_frames, config.chunk_frames)
        memory = make_room(memory, _scripted_route(memory, facts["routes"]), config)
        prefix = engine.assemble(memory)
        x = replay.tensors[f"noise.{chunk}"] = torch.randn(shape, generator=generator)
        for k, timestep in enumerate(sampler.warped):
            [flow] = engine.flow(x[None], timestep, start_frame=block.start_frame, prefixes=prefix, text=text)
            replay.tensors.setdefault("first_flow", flow)
            fresh = None
            if k < sampler.num_renoise:
                fresh = torch.randn(shape, generator=generator)
                replay.tensors[f"renoise.{next(fresh_index)}"] = fresh
            x = sampler.step(x, flow, k, fresh).x_next
        replay.tensors[f"latents.{chunk}"] = x
        [cleaned] = engine.clean(x[None], start_frame=block.start_frame, prefixes=prefix, text=text)
        block.fill(*cleaned)
        memory = push(memory, block, config)
        replay.facts["layout"].append(_layout(memory, config))
    for layer in range(facts["config"]["num_layers"]):
        replay.tensors[f"cache.{layer}.k"] = torch.cat([block.keys[layer] for block in memory.blocks])
        replay.tensors[f"cache.{layer}.v"] = torch.cat([block.values[layer] for block in memory.blocks])
    return replay


def _engine(recording: Recording) -> CausalWan:
    """Returns the engine of the recorded network, whose weights have the original code's names."""
    from diffusers import WanTransformer3DModel

    from searchkit.backbones.wan import CausalWan

    network = WanTransformer3DModel(**diffusers_config(recording.facts["config"]))
    load(network, recording.under("weights."))
    return CausalWan(network, latent_size=(recording.facts["latent_height"], recording.facts["latent_width"]))


def _memory_config(original: Mapping[str, Any], *, chunk_frames: int) -> MemoryConfig:
    return MemoryConfig(
        chunk_frames=chunk_frames,
        window_frames=original["local_attn_size"],
        sink_frames=original["sink_size"],
        max_sink_frames=original["max_sink_size"],
    )


def _scripted_route(memory: Memory, routes: Mapping[str, str]) -> Route:
    """Returns the route of the chunk that is next to leave the window; scripts name chunks by their index."""
    if not memory.window:
        return Route.DISCARD
    leaving = memory.window[0]
    return _ROUTES[routes.get(str(leaving.start_frame // leaving.num_frames), "discard")]


def _layout(memory: Memory, config: MemoryConfig) -> dict[str, Any]:
    starts = [sink.start_frame for sink in memory.sinks]
    return {
        "sink_frames": num_frames(memory.sinks),
        "local_end_frames": num_frames(memory.blocks),
        "appended_start_frames": [start for start in starts if start >= config.sink_frames],
    }


def _compare(recording: Recording, replay: Replay, tolerance: float) -> list[Check]:
    """Returns one check a recorded quantity; a tensor that was not replayed counts as infinitely far."""
    differences: dict[str, float] = {}
    for name in (*replay.tensors, *(recording.tensors.keys() - replay.tensors.keys())):
        quantity = _quantity(name)
        if quantity is not None and name in recording.tensors:
            difference = _difference(recording.tensors[name], replay.tensors.get(name))
            differences[quantity] = max(differences.get(quantity, 0.0), difference)
    checks = [Check(name, value, 0.0 if name in _EXACT else tolerance) for name, value in differences.items()]
    for name, replayed in replay.facts.items():
        recorded = recording.facts[name]
        wrong = sum(a != b for a, b in zip(recorded, replayed, strict=True))
        checks.append(Check(f"{name} after each of {len(recorded)} chunks", wrong, 0.0))
    return checks


def _quantity(name: str) -> str | None:
    for pattern, quantity in _QUANTITIES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(quantity)
    return None


def _difference(recorded: Tensor, replayed: Tensor | None) -> float:
    if replayed is None or recorded.shape != replayed.shape:
        return float("inf")
    difference = float((recorded - replayed).abs().max())
    return float("inf") if math.isnan(difference) else difference  # `max` would lose a NaN


def main(path: Annotated[Path, tyro.conf.Positional], *, tolerance: float = 2e-5) -> None:
    """Replays a recorded run and prints the largest differences; exits with 1 if one is beyond the tolerance.

    Args:
        path: a recorded run, without its ending .safetensors or .json.
        tolerance: largest difference allowed in network outputs; noise and layout must agree exactly.
    """
    try:
        checks = verify(path, tolerance=tolerance)
    except ValueError as error:
        sys.exit(f"verify: {error}")
    table = Table("quantity", "largest difference", "allowed", "", title=str(path))
    for check in checks:
        verdict = "[green]ok[/]" if check.passed else "[red]beyond[/]"
        table.add_row(check.quantity, f"{check.difference:.2g}", f"{check.tolerance:.2g}", verdict)
    Console().print(table)
    if not all(check.passed for check in checks):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
