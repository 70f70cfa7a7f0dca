"""A streaming video model: everything that turns noise into chunks, apart from any search.

Letters: B rows of a batch, T latent frames of a chunk, C channels, h and w latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from searchkit.batches import Batches
from searchkit.memory import Block, Memory, MemoryConfig, num_frames, places

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.backbones.sampler import Sampler
    from searchkit.backbones.wan import CausalWan, Prefix, TextContext
    from searchkit.codecs import Decoder


class Prompt(NamedTuple):
    """A prompt, its cross-attention keys and values, and the chunk from which it holds."""

    text: str
    context: TextContext
    start: int = 0


class Place(NamedTuple):
    """Where a chunk is made: the latent frame at which it sits, what it attends to, and what it is to show."""

    start_frame: int
    prefix: Prefix
    prompt: Prompt


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoModel:
    """A causal network with its sampler, memory and decoder.

    Attributes:
        encode_text: a prompt to the text encoder's `[M, text_dim]` output.
        shares: whether ", then " alone changes a prompt in mid-stream, see `searchkit.schedule.cues`.
        first_passes: denoising passes of a stream's first chunk; None for as many as the others, whose number is the
            sampler's. A model of one or two passes may want more before there is a memory.
        latent_shape: C, h, w.
        fps: pixel frames a second.
        checksum: of the weights, so that results can name what made them.
        max_batch: most rows in one call of the network or the decoder; 1 makes results independent of the grouping.
            Where memory runs out, later calls take at most half as many rows as the one that failed.
        prefix_budget: bytes of prefixes that a level may hold at once; parents that do not fit take turns. Where a
            policy starts a level by itself, to prune while denoising, all prefixes of the level are held.
        block_device: where keys and values are kept until a prefix is assembled from them; None for the network's.

    Raises:
        ValueError: what is attended reaches beyond the rotary table.
    """

    engine: CausalWan
    decoder: Decoder
    encode_text: Callable[[str], Tensor]
    sampler: Sampler
    memory: MemoryConfig
    latent_shape: tuple[int, int, int]
    fps: int
    checksum: str
    shares: bool = False
    first_passes: int | None = None
    max_batch: int = 16
    prefix_budget: int = 2**28
    block_device: torch.device | str | None = None
    _network_batches: Batches = field(default_factory=lambda: Batches("the network"), init=False, repr=False)
    _decoder_batches: Batches = field(default_factory=lambda: Batches("the decoder"), init=False, repr=False)

    def __post_init__(self) -> None:
        attended, limit = self.memory.max_attended_frames, self.engine.num_positions
        if self.memory.positions == "window" and attended > limit:
            raise ValueError(
                f"memory must attend to at most {limit} latent frames, where the rotary table ends, got {attended} "
                f"(window_frames - sink_frames + max_sink_frames)"
            )

    @property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        """T, C, h, w of a chunk."""
        return (self.memory.chunk_frames, *self.latent_shape)

    def sampler_of(self, chunk: int, passes: int | None) -> Sampler:
        """Returns the sampler of a chunk, counted from 0, with so many passes; None for the model's own number.

        Raises:
            ValueError: passes are below 1.
        """
        return self.sampler.with_passes(self.first_passes if passes is None and chunk == 0 else passes)

    def prompt(self, text: str, *, start: int = 0) -> Prompt:
        """Returns a prompt ready for the network, which holds from chunk `start` on.

        Raises:
            ValueError: the text encoder does not know the text.
        """
        return Prompt(text, self.engine.encode_text(self.encode_text(text)), start)

    @property
    def max_frames(self) -> int | None:
        """Latent frames that a stream may have; None for no limit."""
        return self.engine.num_positions if self.memory.positions == "stream" else None

    def assemble(self, memory: Memory) -> Prefix:
        """Returns what a chunk attends to besides itself; serves all siblings and all passes."""
        return self.engine.assemble(memory, starts=places(memory, 0, self.memory)[:-1])

    def prefix_bytes(self, memory: Memory) -> int:
        """Returns the bytes of a memory's prefix."""
        return self.engine.prefix_bytes(num_frames(memory.blocks))

    def place(self, chunk: int, memory: Memory, prefix: Prefix, prompt: Prompt) -> Place:
        """Returns where a chunk, counted from 0, is made if it attends to a memory."""
        return Place(places(memory, chunk * self.memory.chunk_frames, self.memory)[-1], prefix, prompt)

    def denoise(
        self, x: Sequence[Tensor], timesteps: Sequence[float], places: Sequence[Place]
    ) -> tuple[list[Tensor], int]:
        """Returns the network's velocity for each row's `[T, C, h, w]` at its timestep, and how many calls it took."""
        flows: list[Tensor] = [row for row in x]

        def call(rows: list[int]) -> None:
            flow = self.engine.flow(
                torch.stack([x[row] for row in rows]),
                torch.tensor([timesteps[row] for row in rows]),
                **_arguments([places[row] for row in rows]),
            )
            for row, part in zip(rows, flow, strict=True):
                flows[row] = part

        return flows, self._network_batches.run(_lengths(places), self.max_batch, call)

    def commit(self, latents: Sequence[Tensor], blocks: Sequence[Block], places: Sequence[Place]) -> int:
        """Fills the blocks of finished chunks by their clean passes; returns how many calls it took."""

        def call(rows: list[int]) -> None:
            clean = torch.stack([latents[row] for row in rows])
            for row, made in zip(rows, self.engine.clean(clean, **_arguments([places[r] for r in rows])), strict=True):
                self.keep(blocks[row], *made)

        return self._network_batches.run(_lengths(places), self.max_batch, call)

    def keep(self, block: Block, keys: Tensor, values: Tensor) -> None:
        """Fills a block with keys and values, where blocks are kept; takes ownership of them."""
        device = keys.device if self.block_device is None else self.block_device
        block.fill(keys.to(device), values.to(device))

    def decode(self, latents: Sequence[Tensor], caches: Sequence[Any]) -> tuple[list[Tensor], list[Any]]:
        """Returns each stream's next pixel frames `[F, 3, H, W]` in [0, 1] and its new decoder cache."""
        frames: list[Tensor] = list(latents)
        after = list(caches)

        def call(rows: list[int]) -> None:
            decoded, new = self.decoder.decode(
                torch.stack([latents[row] for row in rows]), [caches[row] for row in rows]
            )
            for row, part, cache in zip(rows, decoded, new, strict=True):
                # A copy, as a view would keep the frames of pruned candidates alive.
                frames[row], after[row] = part.clone(), cache

        alike = [(cache is None, len(part)) for cache, part in zip(caches, latents, strict=True)]
        self._decoder_batches.run(alike, self.max_batch, call)
        return frames, after


def _lengths(places: Sequence[Place]) -> list[int]:
    """Returns the tokens of the rows' prefixes, which must be equal within a batch."""
    return [place.prefix.num_tokens for place in places]


def _arguments(places: Sequence[Place]) -> dict[str, Any]:
    return {
        "start_frame": [place.start_frame for place in places],
        "prefixes": [place.prefix for place in places],
        "text": [place.prompt.context for place in places],
    }
