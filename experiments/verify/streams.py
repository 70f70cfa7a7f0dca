"""Replays one recorded stream whose noise comes from one generator and whose routes are scripted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from experiments.verify.recording import Pair, Recording, load_engine, memory_config
from searchkit.backbones.sampler import Sampler
from searchkit.memory import Block, Memory, MemoryConfig, make_room, num_frames, push
from searchkit.types import Route

if TYPE_CHECKING:
    from torch import Tensor

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


def replay_stream(recording: Recording) -> Iterator[Pair]:
    """Yields every recorded tensor and layout with what this code makes of it."""
    tensors, layouts = _replay(recording)
    for name in (*tensors, *(recording.tensors.keys() - tensors.keys())):  # in the order of their making
        quantity = _quantity(name)
        if quantity is not None and name in recording.tensors:
            yield Pair(quantity, recording.tensors[name], tensors.get(name), is_exact=quantity in _EXACT)
    recorded = recording.facts["layout"]
    for pair in zip(recorded, layouts, strict=True):
        yield Pair(f"layout after each of {len(recorded)} chunks", *pair)


def _replay(recording: Recording) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Returns the replayed tensors by the names of the recording, and the memory's layout after each chunk."""
    import torch

    facts, shape = recording.facts, recording.tensors["noise.0"].shape
    engine = load_engine(recording)
    text = engine.encode_text(recording.tensors["prompt_embeds"])
    # The recorded timesteps are warped already.
    sampler = Sampler(timesteps=tuple(recording.tensors["timesteps"].tolist()), shift=1.0)
    config = memory_config(recording)
    generator = torch.Generator().manual_seed(facts["seed"])
    tensors: dict[str, Tensor] = {}
    layouts = []
    memory = Memory()
    for chunk in range(facts["num_chunks"]):
        block = Block(chunk * config.chunk_frames, config.chunk_frames)
        memory = make_room(memory, _scripted_route(memory, facts["routes"]), config)
        prefix = engine.assemble(memory)
        x = tensors[f"noise.{chunk}"] = torch.randn(shape, generator=generator)
        for k, timestep in enumerate(sampler.warped):
            [flow] = engine.flow(x[None], timestep, start_frame=block.start_frame, prefixes=prefix, text=text)
            tensors.setdefault("first_flow", flow)
            fresh = None
            if k < sampler.num_renoise:
                fresh = torch.randn(shape, generator=generator)
                tensors[f"renoise.{chunk * sampler.num_renoise + k}"] = fresh
            x = sampler.step(x, flow, k, fresh).x_next
        tensors[f"latents.{chunk}"] = x
        [cleaned] = engine.clean(x[None], start_frame=block.start_frame, prefixes=prefix, text=text)
        block.fill(*cleaned)
        memory = push(memory, block, config)
        layouts.append(_layout(memory, config))
    for layer in range(facts["config"]["num_layers"]):
        tensors[f"cache.{layer}.k"] = torch.cat([block.keys[layer] for block in memory.blocks])
        tensors[f"cache.{layer}.v"] = torch.cat([block.values[layer] for block in memory.blocks])
    return tensors, layouts


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


def _quantity(name: str) -> str | None:
    for pattern, quantity in _QUANTITIES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(quantity)
    return None
