"""The state of a stream between two chunks, as an immutable value.

Letters: T latent frames of a chunk, C channels, h and w latent size, F pixel frames, H and W their size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from searchkit.memory import Block, Memory, evicts, push
from searchkit.model import Prompt, VideoModel
from searchkit.types import Action, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.backbones.wan import Prefix


@dataclass(frozen=True, eq=False)
class Chunk:
    """One chunk of a finished stretch, linked to the one before. All that grows with a stream's length.

    latents: `[T, C, h, w]`.
    """

    before: Chunk | None
    action: Action
    scores: Scores
    latents: Tensor


class Unfilled:
    """The memory slot of a chunk whose clean pass has not run: its block, and the prefix which that pass will see.

    The prefix goes when the block is filled, or before where prefixes are scarce; then it is assembled once more.
    Block and prefix go with the last candidate that refers to them.
    """

    def __init__(self, block: Block, prefix: Prefix | None) -> None:
        self.block = block
        self.prefix = prefix


@dataclass(frozen=True, eq=False)
class StreamState:
    """A stream after some chunks: what the next chunk needs, and what scoring it needs.

    Attributes:
        prompts: the stream's, by their starts; the first one starts at chunk 0.
        given: `[T, C, h, w]` latents of chunks that were given, which lie before chunk 0 and are never scored.
        last: the newest chunk, linked to those before; None at the root.
        chunk: chunks made so far.
        noise: `[T, C, h, w]` that started the newest chunk, or None.
        memory: what the newest chunk attended to; its own block joins when something is expanded from it.
        slot: the newest chunk's own place in memory, or None.
        frames: pixel frames `[F, 3, H, W]` in [0, 1] of the last `long_window` chunks of the newest chunk's prompt,
            oldest first; none where scores are decoded cold.
        decoder_cache: the decoder's, after the newest chunk.
    """

    model: VideoModel
    prompts: tuple[Prompt, ...]
    given: tuple[Tensor, ...] = ()
    last: Chunk | None = None
    chunk: int = 0
    noise: Tensor | None = None
    memory: Memory = Memory()
    slot: Unfilled | None = None
    frames: tuple[Tensor, ...] = ()
    decoder_cache: Any = None

    def prompt_of(self, chunk: int) -> Prompt:
        """Returns the prompt of a chunk, counted from 0."""
        return [prompt for prompt in self.prompts if prompt.start <= chunk][-1]

    @property
    def prompt(self) -> Prompt:
        """The newest chunk's prompt; at the root the first chunk's."""
        return self.prompt_of(max(0, self.chunk - 1))

    @property
    def next_prompt(self) -> Prompt:
        """The next chunk's prompt."""
        return self.prompt_of(self.chunk)

    def chunks(self) -> Iterator[Chunk]:
        """Yields the chunks, newest first."""
        chunk = self.last
        while chunk is not None:
            yield chunk
            chunk = chunk.before

    @property
    def actions(self) -> tuple[Action, ...]:
        return tuple(chunk.action for chunk in self.chunks())[::-1]

    @property
    def scores(self) -> tuple[Scores, ...]:
        return tuple(chunk.scores for chunk in self.chunks())[::-1]

    @property
    def latents(self) -> tuple[Tensor, ...]:
        """The latents `[T, C, h, w]` of every chunk, oldest first."""
        return tuple(chunk.latents for chunk in self.chunks())[::-1]

    @property
    def place(self) -> int:
        """The place of the next chunk among all chunks, those that were given included."""
        return len(self.given) + self.chunk

    @property
    def memory_after(self) -> Memory:
        """The memory with the newest chunk's own block, which may still be empty."""
        return self.memory if self.slot is None else push(self.memory, self.slot.block, self.model.memory)

    @property
    def leaving(self) -> int | None:
        """The chunk that leaves the window before the next one is made, or None while there is room.

        None, too, where a chunk leaves that was given: it has no scores by which it could be worth keeping.
        """
        memory = self.memory_after
        if not evicts(memory, self.model.memory):
            return None
        chunk = memory.window[0].start_frame // self.model.memory.chunk_frames - len(self.given)
        return chunk if chunk >= 0 else None

    def drop_prefix(self) -> None:
        """Releases the prefix that the newest chunk's clean pass would see; nothing else can be observed of it."""
        if self.slot is not None:
            self.slot.prefix = None

    def decode(self) -> Iterator[Tensor]:
        """Yields the pixel frames `[F, 3, H, W]` in [0, 1] of every chunk, oldest first, decoded anew."""
        yield from itertools.islice(self.decode_all(), len(self.given), None)

    @property
    def video(self) -> Tensor:
        """All pixel frames so far, `[F, 3, H, W]` in [0, 1]: of the chunks that were given, and those of `decode`."""
        return torch.cat(list(self.decode_all()))

    @torch.no_grad()
    def decode_all(self) -> Iterator[Tensor]:
        """Yields what `decode` does, after the pixel frames of every chunk that was given."""
        cache = None
        for latents in (*self.given, *self.latents):
            (frames,), (cache,) = self.model.decode([latents], [cache])
            yield frames
