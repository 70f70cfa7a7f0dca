"""Memory where the prompt changes in mid-stream: what still lies in the window is seen anew, with the new text.

As in LongLive (arXiv 2509.22622): the last clean latent frames run once more, together, at t = 0 with the new text, and
their keys and values replace those in the window, so that the old text does not linger in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from searchkit.cost import Cost
from searchkit.memory import Block, Memory, places
from searchkit.state import StreamState

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.model import VideoModel


class Switched(NamedTuple):
    """A memory as the new prompt's text makes it, and what that cost but time."""

    memory: Memory
    cost: Cost


@torch.no_grad()
def switched(state: StreamState) -> Switched:
    """Returns the memory that a state's next chunk is to see if its prompt is not the newest chunk's.

    The last `window_frames` latent frames run again, or all if there are fewer. Appended sinks and averages, which have
    no latents of their own, are kept as they are; so are the first sinks, unless the memory's configuration runs them
    again, too.
    """
    config, memory = state.model.memory, state.memory_after
    count = min(state.place, config.window_frames // config.chunk_frames)
    first_chunk = state.place - count
    # A sink that runs again is not to be seen twice.
    before = tuple(sink for sink in memory.sinks if sink.start_frame < first_chunk * config.chunk_frames)
    window = _rerun(state, range(first_chunk, state.place), Memory(before), memory.window)
    again = [sink for sink in memory.sinks if sink.start_frame < config.sink_frames and not sink.is_average]
    if config.sink_on_switch == "keep" or not again:
        return Switched(Memory(memory.sinks, window), Cost(clean_passes=count, clean_calls=1, prefixes=1))
    rerun = _rerun(state, range(len(again)), Memory(), again)
    cost = Cost(clean_passes=count + len(again), clean_calls=2, prefixes=2)
    return Switched(Memory((*rerun, *memory.sinks[len(again) :]), window), cost)


def _rerun(state: StreamState, chunks: range, before: Memory, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Returns new blocks in the place of `blocks`, from one clean pass of some chunks with the next prompt.

    Args:
        chunks: those to run together, by their places among all.
        before: what they attend to besides each other.
    """
    model = state.model
    first_frame = chunks.start * model.memory.chunk_frames
    latents = torch.cat([latents for index, latents in enumerate((*state.given, *state.latents)) if index in chunks])
    [made] = model.engine.clean(
        latents[None],
        start_frame=places(before, first_frame, model.memory)[-1],
        prefixes=model.assemble(before),
        text=state.next_prompt.context,
    )
    return tuple(_cut(model, old, made, old.start_frame - first_frame) for old in blocks)


def _cut(model: VideoModel, old: Block, made: tuple[Tensor, Tensor], first_frame: int) -> Block:
    """Returns a block like an old one with its part of new keys and values `[L, N, H, D]`, from a frame of them on."""
    block = Block(old.start_frame, old.num_frames)
    tokens = slice(*(frame * model.engine.tokens_per_frame for frame in (first_frame, first_frame + old.num_frames)))
    # Copies, so that a block's bytes go with it.
    model.keep(block, *(part[:, tokens].clone() for part in made))
    return block
