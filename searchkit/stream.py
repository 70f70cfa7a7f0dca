"""A stream as a search problem: a video model, a scorer and a prompt.

Letters: T latent frames of a chunk, C channels, h and w latent size, F pixel frames, H and W their size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from searchkit.cost import Cost
from searchkit.memory import Block, Memory, evicts, make_room, push
from searchkit.model import Place, Prompt, VideoModel
from searchkit.noise import derive_seed, draw, propagate
from searchkit.rewards import Scorer, View
from searchkit.types import Action, Child, Request, Route, Scores, Whole

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

    The prefix goes when the block is filled, and both go with the last candidate that refers to them.
    """

    def __init__(self, block: Block, prefix: Prefix) -> None:
        self.block = block
        self.prefix: Prefix | None = prefix


@dataclass(frozen=True, eq=False)
class StreamState:
    """A stream after some chunks: what the next chunk needs, and what scoring it needs.

    Attributes:
        last: the newest chunk, linked to those before; None at the root.
        chunk: chunks made so far.
        noise: `[T, C, h, w]` that started the newest chunk, or None.
        memory: what the newest chunk attended to; its own block joins when something is expanded from it.
        slot: the newest chunk's own place in memory, or None.
        frames: pixel frames `[F, 3, H, W]` in [0, 1] of the last `long_window` chunks, oldest first.
        decoder_cache: the decoder's, after the newest chunk.
    """

    model: VideoModel
    prompt: Prompt
    last: Chunk | None = None
    chunk: int = 0
    noise: Tensor | None = None
    memory: Memory = Memory()
    slot: Unfilled | None = None
    frames: tuple[Tensor, ...] = ()
    decoder_cache: Any = None

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
    def memory_after(self) -> Memory:
        """The memory with the newest chunk's own block, which may still be empty."""
        return self.memory if self.slot is None else push(self.memory, self.slot.block, self.model.memory)

    @property
    def leaving(self) -> int | None:
        """The chunk that leaves the window before the next one is made, or None while there is room."""
        memory = self.memory_after
        if not evicts(memory, self.model.memory):
            return None
        return memory.window[0].start_frame // self.model.memory.chunk_frames

    @property
    @torch.no_grad()
    def video(self) -> Tensor:
        """All pixel frames so far, `[F, 3, H, W]` in [0, 1]; decoded anew, from the first chunk on."""
        pieces, cache = [], None
        for latents in self.latents:
            (frames,), (cache,) = self.model.decode([latents], [cache])
            pieces.append(frames)
        return torch.cat(pieces)


class Draft(NamedTuple):
    """A candidate while it is denoised.

    memory, prefix: what it attends to; x: `[T, C, h, w]` after `passes_done` passes; x0: the estimate of the
    finished chunk; noises: the one that started it, and those for re-noising.
    """

    request: Request[StreamState]
    memory: Memory
    prefix: Prefix
    noises: Sequence[Tensor]
    x: Tensor
    x0: Tensor | None
    passes_done: int
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of a video model as a search problem (see `SearchProblem`).

    Attributes:
        prompt: the text.
        horizon: chunks to make; None for a stream without end.
        long_window: chunks that the long score sees.
    """

    model: VideoModel
    scorer: Scorer
    prompt: str
    horizon: int | None = 7
    long_window: int = 10

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon must be at least 1 chunk, got {self.horizon}")
        if self.long_window < 1:
            raise ValueError(f"long_window must be at least 1 chunk, got {self.long_window}")

    @cached_property
    def root(self) -> StreamState:
        """The state before the first chunk."""
        return StreamState(self.model, self.model.prompt(self.prompt))

    def actions(self, state: StreamState, *, num: int, seed: int) -> list[Action]:
        """Returns `num` actions with seeds of their own, whose route is DISCARD and whose noise is fresh."""
        lineage = [action.seed for action in state.actions]
        return [Action(derive_seed(seed, lineage, index)) for index in range(num)]

    def expand(self, requests: Sequence[Request[StreamState]]) -> list[Child[StreamState]]:
        """Returns the children of a whole level; parents may be different streams of one model.

        Fills the memory slots of parents that are expanded for the first time, once each.

        Raises:
            ValueError: an action that the stream cannot take.
        """
        drafts = self.start(requests)
        return self.finish(self.advance(drafts, passes=self.model.sampler.num_passes))

    @torch.no_grad()
    def start(self, requests: Sequence[Request[StreamState]]) -> list[Draft]:
        """Returns drafts that are still pure noise, with memory routed and prefixes assembled."""
        began = time.perf_counter()
        parents = list(dict.fromkeys(request.state for request in requests))
        filled, calls = self._fill(parents)
        routes = [_effective(*request) for request in requests]
        branches: dict[tuple[StreamState, Route], tuple[Memory, Prefix]] = {}
        for (state, _), route in zip(requests, routes, strict=True):
            if (state, route) not in branches:
                memory = make_room(state.memory_after, route, self.model.memory)
                branches[state, route] = memory, self.model.assemble(memory)
        cost = Cost(
            clean_passes=filled,
            calls=calls,
            prefixes=len(branches),
            seconds_generate=time.perf_counter() - began,
            peak_bytes=_live_bytes(parents, list(branches.values())),
        ).share(len(requests))
        drafts = []
        for request, route in zip(requests, routes, strict=True):
            noises = draw(request.action.seed, self.model.chunk_shape, count=1 + self.model.sampler.num_renoise)
            noises[0] = propagate(request.state.noise, noises[0], request.action.correlation)
            memory, prefix = branches[request.state, route]
            drafts.append(Draft(request, memory, prefix, noises, noises[0], None, 0, cost))
        return drafts

    @torch.no_grad()
    def advance(self, drafts: Sequence[Draft], *, passes: int) -> list[Draft]:
        """Returns the drafts after some more denoising passes; all must have had the same number so far."""
        sampler, done = self.model.sampler, drafts[0].passes_done
        places = [self._place(draft) for draft in drafts]
        drafts = list(drafts)
        for k in range(done, done + passes):
            began = time.perf_counter()
            flows, calls = self.model.denoise([draft.x for draft in drafts], places, k)
            steps = [
                sampler.step(draft.x, flow, k, draft.noises[k + 1] if k < sampler.num_renoise else None)
                for draft, flow in zip(drafts, flows, strict=True)
            ]
            spent = Cost(denoise_passes=len(drafts), calls=calls, seconds_generate=time.perf_counter() - began).share(
                len(drafts)
            )
            drafts = [
                draft._replace(x=step.x_next, x0=step.x0, passes_done=k + 1, cost=draft.cost + spent)
                for draft, step in zip(drafts, steps, strict=True)
            ]
        return drafts

    @torch.no_grad()
    def finish(self, drafts: Sequence[Draft]) -> list[Child[StreamState]]:
        """Returns the children that fully denoised drafts become: decoded and scored."""
        began = time.perf_counter()
        parents = [draft.request.state for draft in drafts]
        decoded, caches = self.model.decode([draft.x for draft in drafts], [state.decoder_cache for state in parents])
        windows = [
            (*parent.frames, frames)[-self.long_window :] for parent, frames in zip(parents, decoded, strict=True)
        ]
        decoding = time.perf_counter() - began
        views = [
            View(_newest_latents(draft, len(window)), window, draft.request.state.prompt.text)
            for draft, window in zip(drafts, windows, strict=True)
        ]
        # In the model's batches, so that a limit of 1 makes scores independent of the grouping, too.
        most = self.model.max_batch
        scores = [
            score for first in range(0, len(views), most) for score in self.scorer.score(views[first : first + most])
        ]
        spent = Cost(
            latent_frames_decoded=len(drafts) * self.model.memory.chunk_frames,
            frames_scored=sum(len(frames) for window in windows for frames in (window[-1], *window)),
            seconds_decode=decoding,
            seconds_score=time.perf_counter() - began - decoding,
        ).share(len(drafts))
        return [
            Child(self._state(draft, window, cache, score), score, draft.cost + spent)
            for draft, window, cache, score in zip(drafts, windows, caches, scores, strict=True)
        ]

    def score_whole(self, states: Sequence[StreamState]) -> list[Whole]:
        """Returns the scorer's score of each whole video; nothing is spent where the window still holds it all."""
        return [self._score_whole(state) for state in states]

    @torch.no_grad()
    def _score_whole(self, state: StreamState) -> Whole:
        if 0 < state.chunk <= self.long_window:
            return Whole(state.scores[-1].long, Cost())
        began = time.perf_counter()
        video = state.video
        decoding = time.perf_counter() - began
        score = self.scorer.score_whole([View(state.latents, (video,), state.prompt.text)])[0]
        cost = Cost(
            latent_frames_decoded=state.chunk * self.model.memory.chunk_frames,
            frames_scored=len(video),
            seconds_decode=decoding,
            seconds_score=time.perf_counter() - began - decoding,
        )
        return Whole(score, cost)

    def _fill(self, parents: Sequence[StreamState]) -> tuple[int, int]:
        """Runs the clean passes that are still due for the parents' newest chunks.

        Returns:
            How many chunks it filled, and by how many calls.
        """
        latents, slots, places = [], [], []
        for parent in parents:
            if parent.last is not None and parent.slot is not None and parent.slot.prefix is not None:
                latents.append(parent.last.latents)
                slots.append(parent.slot)
                places.append(Place(parent.slot.block.start_frame, parent.slot.prefix, parent.prompt))
        calls = self.model.commit(latents, [slot.block for slot in slots], places)
        for slot in slots:  # only now, so that after a failed pass the state can be expanded again
            slot.prefix = None
        return len(slots), calls

    def _place(self, draft: Draft) -> Place:
        state = draft.request.state
        return Place(state.chunk * self.model.memory.chunk_frames, draft.prefix, state.prompt)

    def _state(self, draft: Draft, window: tuple[Tensor, ...], cache: Any, scores: Scores) -> StreamState:
        parent = draft.request.state
        block = Block(parent.chunk * self.model.memory.chunk_frames, self.model.memory.chunk_frames)
        return replace(
            parent,
            last=Chunk(parent.last, draft.request.action, scores, draft.x),
            chunk=parent.chunk + 1,
            noise=draft.noises[0],
            memory=draft.memory,
            slot=Unfilled(block, draft.prefix),
            frames=window,
            decoder_cache=cache,
        )


def _effective(state: StreamState, action: Action) -> Route:
    """Returns the action's route, or DISCARD where nothing leaves, so that such siblings share a prefix."""
    return Route(action.route) if evicts(state.memory_after, state.model.memory) else Route.DISCARD


def _newest_latents(draft: Draft, count: int) -> tuple[Tensor, ...]:
    earlier = [chunk.latents for chunk, _ in zip(draft.request.state.chunks(), range(count - 1), strict=False)]
    return (*reversed(earlier), draft.x)


def _live_bytes(parents: Sequence[StreamState], branches: Sequence[tuple[Memory, Prefix]]) -> int:
    """Returns the bytes of the distinct blocks and prefixes that a level holds."""
    memories = [*(parent.memory_after for parent in parents), *(memory for memory, _ in branches)]
    blocks = {block for memory in memories for block in memory.blocks}
    return sum(block.nbytes for block in blocks) + sum(prefix.nbytes for _, prefix in branches)
