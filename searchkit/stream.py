"""A stream as a search problem: a video model, a scorer and a prompt.

Letters: T latent frames of a chunk, C channels, h and w latent size, F pixel frames, H and W their size.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch

from searchkit.cost import Cost, total
from searchkit.decoding import DECODERS, Decoded
from searchkit.level import branch_of, cache_bytes, in_turns, peak
from searchkit.memory import Average, Block, Memory, averaged, make_room, push
from searchkit.model import Place, Prompt, VideoModel
from searchkit.noise import derive_seed, draw, propagate
from searchkit.rewards import Scorer, View
from searchkit.rewards.known import KnownScores, Scored
from searchkit.schedule import cues
from searchkit.state import Chunk, StreamState, Unfilled
from searchkit.switch import switched
from searchkit.types import Action, Child, Decoding, Preview, Request, Route, Scores, Whole

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.backbones.sampler import Sampler
    from searchkit.backbones.wan import Prefix

LONGEST_STRETCH = 40  # chunks that are scored at once, 30 s of LongLive's


class Draft(NamedTuple):
    """A candidate while it is denoised.

    memory, prefix: what it attends to; x: `[T, C, h, w]` after `passes_done` passes; x0: the estimate of the
    finished chunk; noises: the one that started it, and those for re-noising. The prefix is None once its parent's
    turn is over: all passes are done then.
    """

    request: Request[StreamState]
    memory: Memory
    prefix: Prefix | None
    noises: Sequence[Tensor]
    x: Tensor
    x0: Tensor | None
    passes_done: int
    cost: Cost


class Made(NamedTuple):
    """What is enough to have a candidate again: its request, what came of it, and whether it held its prefix.

    latents: `[T, C, h, w]`.
    """

    request: Request[StreamState]
    scores: Scores
    latents: Tensor
    has_prefix: bool = True


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of a video model as a search problem (see `StagedProblem`).

    Attributes:
        prompt: the text, or several as in "..., then @14 ..."; see `searchkit.schedule`.
        given: `[T, C, h, w]` latents of a first frame or video from which the stream goes on, see
            `searchkit.codecs.wan.encode`: whole chunks, which are in the video and in memory, and are never scored. The
            stream reads the tensor as long as it lives; what it does with it at its root is charged to nobody.
        horizon: chunks to make; None for a stream without end.
        long_window: chunks that the long score sees.
        decoding: "streamed" decodes every chunk once, after those before it; "cold" decodes what a score is to see
            from nothing, as Stream-T1's release does: the chunk alone for the short score, and the window for the
            long one, whose first frames then differ from the video's.
        known: scores that were given before, by the same scorer to the same streams; None to score everything anew.
        told: called after every denoising pass with how many candidates' worth of the level is made, and of how many;
            None tells nobody.
    """

    model: VideoModel
    scorer: Scorer
    prompt: str
    given: Tensor | None = field(default=None, compare=False)
    horizon: int | None = 7
    long_window: int = 10
    decoding: Decoding = "streamed"
    known: KnownScores | None = field(default=None, compare=False)
    told: Callable[[float, int], None] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon must be at least 1 chunk, got {self.horizon}")
        if self.long_window < 1:
            raise ValueError(f"long_window must be at least 1 chunk, got {self.long_window}")
        if self.decoding not in get_args(Decoding):
            raise ValueError(f"decoding must be one of {', '.join(get_args(Decoding))}, got {self.decoding!r}")
        cues(self.prompt, self.horizon, shares=self.model.shares)
        limit, chunk_frames = self.model.max_frames, self.model.memory.chunk_frames
        num_given = 0 if self.given is None else len(self.given)
        if self.given is not None and (
            not num_given or num_given % chunk_frames or self.given.shape[1:] != self.model.latent_shape
        ):
            raise ValueError(
                f"given must be [T, C, h, w] with T a multiple of {chunk_frames} above 0 and C, h, w "
                f"{self.model.latent_shape}, got {tuple(self.given.shape)}"
            )
        if limit is not None and num_given >= limit:
            raise ValueError(
                f"given must be less than {limit} latent frames, where the rotary table ends, got {num_given}"
            )
        if limit is not None and (self.horizon is None or num_given + self.horizon * chunk_frames > limit):
            most = (limit - num_given) // chunk_frames
            raise ValueError(
                f"horizon must be at most {most} chunks of {chunk_frames} latent frames, where the "
                f"rotary table ends, got {self.horizon}: with memory positions 'window' there is no end"
            )

    @functools.cached_property
    def root(self) -> StreamState:
        """The state before the first chunk."""
        schedule = cues(self.prompt, self.horizon, shares=self.model.shares)
        prompts = tuple(self.model.prompt(cue.text, start=cue.chunk) for cue in schedule)
        if self.given is None:
            return StreamState(self.model, prompts)
        return _root_after(self.model, prompts, self.given)

    def actions(self, state: StreamState, *, num: int, seed: int) -> list[Action]:
        """Returns `num` actions with seeds of their own, whose route is DISCARD and whose noise is fresh."""
        lineage = [action.seed for action in state.actions]
        return [Action(derive_seed(seed, lineage, index)) for index in range(num)]

    def expand(self, requests: Sequence[Request[StreamState]]) -> list[Child[StreamState]]:
        """Returns the children of a whole level; parents may be different streams of one model.

        Fills the memory slots of parents that are expanded for the first time, once each. Where the prefixes exceed
        the model's budget, parents take turns.

        Raises:
            ValueError: an action that the stream cannot take.
        """
        if not requests:
            return []
        turns = in_turns(requests, self.model.prefix_budget)
        if len(turns) > 1:
            return self._expand_in_turns(requests, turns)
        return self.finish(self.advance(self.start(requests)))

    def _expand_in_turns(
        self, requests: Sequence[Request[StreamState]], turns: Sequence[Sequence[int]]
    ) -> list[Child[StreamState]]:
        """Returns the children, made so that no prefix outlives its turn: decoding and scoring have its room."""
        for request in requests:
            request.state.drop_prefix()
        denoised: dict[int, Draft] = {}
        average = functools.cache(averaged)
        for rows in turns:
            others = [draft.memory for draft in denoised.values()]
            others += [request.state.memory_after for request in requests]
            drafts = self._start([requests[row] for row in rows], others, average)
            drafts = self._advance(drafts, None, num_made=len(denoised), num_all=len(requests))
            denoised |= zip(rows, (draft._replace(prefix=None) for draft in drafts), strict=True)
            del drafts  # before the next turn: they hold this one's prefixes
        return self.finish([denoised[row] for row in range(len(requests))])

    def start(self, requests: Sequence[Request[StreamState]]) -> list[Draft]:
        """Returns drafts that are still pure noise, with memory routed and all prefixes assembled at once."""
        return self._start(requests, (), functools.cache(averaged))

    @torch.no_grad()
    def _start(
        self, requests: Sequence[Request[StreamState]], others: Sequence[Memory], average: Average
    ) -> list[Draft]:
        """Does what `start` does.

        Args:
            others: memories that stay alive meanwhile, for the account.
            average: caches, so that beams which average the same blocks share the result.
        """
        if not requests:
            return []
        began = now()
        parents = list(dict.fromkeys(request.state for request in requests))
        filled = self._fill(parents, others)
        switches = {state: switched(state) for state in parents if state.last and state.next_prompt is not state.prompt}
        filled += total(switch.cost for switch in switches.values())
        branches: dict[tuple[StreamState, Route], tuple[Memory, Prefix]] = {}
        for request in requests:
            state, route = branch = branch_of(request)
            if branch not in branches:
                full = switches[state].memory if state in switches else state.memory_after
                memory = make_room(full, route, self.model.memory, average)
                branches[branch] = memory, self.model.assemble(memory)
        memories, prefixes = zip(*branches.values(), strict=True)
        cost = Cost(prefixes=len(branches), seconds_generate=now() - began)
        cost += filled + peak([*others, *(parent.memory_after for parent in parents), *memories], prefixes)
        share = cost.share(len(requests))
        drafts = []
        for request in requests:
            num_noises = 1 + self._sampler(request).num_renoise
            noises = draw(request.action.seed, self.model.chunk_shape, count=num_noises)
            noises[0] = propagate(request.state.noise, noises[0], request.action.correlation)
            memory, prefix = branches[branch_of(request)]
            drafts.append(Draft(request, memory, prefix, noises, noises[0], None, 0, share))
        return drafts

    def advance(self, drafts: Sequence[Draft], *, passes: int | None = None) -> list[Draft]:
        """Returns the drafts after some more denoising passes, by default all that are left.

        Raises:
            ValueError: a draft has fewer passes left.
        """
        return self._advance(drafts, passes, num_made=0, num_all=len(drafts))

    @torch.no_grad()
    def _advance(self, drafts: Sequence[Draft], passes: int | None, *, num_made: int, num_all: int) -> list[Draft]:
        """Does what `advance` does.

        Args:
            num_made: candidates of the level that are finished already, to be told.
            num_all: those of the whole level.
        """
        drafts = list(drafts)
        left = [self._passes_left(draft) for draft in drafts]
        if passes is not None and left and not 0 <= passes <= min(left):
            raise ValueError(f"passes must be from 0 to {min(left)}, those left, got {passes}")
        most = max(left, default=0) if passes is None else passes
        for done in range(most):
            rows = [row for row in range(len(drafts)) if done < left[row]]
            for row, draft in zip(rows, self._advance_by_one([drafts[row] for row in rows]), strict=True):
                drafts[row] = draft
            if self.told is not None:
                shares = [one.passes_done / self._sampler(one.request).num_passes for one in drafts]
                self.told(num_made + sum(shares), num_all)
        return drafts

    def _advance_by_one(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Returns the drafts after one more pass each."""
        began = now()
        samplers = [self._sampler(draft.request) for draft in drafts]
        timesteps = [sampler.warped[draft.passes_done] for sampler, draft in zip(samplers, drafts, strict=True)]
        places = [self._place(draft) for draft in drafts]
        flows, calls = self.model.denoise([draft.x for draft in drafts], timesteps, places)
        steps = []
        for draft, sampler, flow in zip(drafts, samplers, flows, strict=True):
            k = draft.passes_done
            steps.append(sampler.step(draft.x, flow, k, draft.noises[k + 1] if k < sampler.num_renoise else None))
        spent = Cost(denoise_passes=len(drafts), denoise_calls=calls, seconds_generate=now() - began)
        share = spent.share(len(drafts))
        return [
            draft._replace(x=step.x_next, x0=step.x0, passes_done=draft.passes_done + 1, cost=draft.cost + share)
            for draft, step in zip(drafts, steps, strict=True)
        ]

    def preview(self, drafts: Sequence[Draft]) -> list[Preview]:
        """Returns the scores of the drafts' present estimates, decoded and scored as finished chunks are.

        Raises:
            ValueError: a draft has had no pass yet.
        """
        estimates = [draft.x0 for draft in drafts if draft.x0 is not None]
        if len(estimates) < len(drafts):
            raise ValueError("drafts must have had at least 1 pass before a preview, got 0")
        _, scores, spent = self._decode_and_score(drafts, estimates)
        return [
            Preview(draft._replace(cost=draft.cost + spent), score) for draft, score in zip(drafts, scores, strict=True)
        ]

    def finish(self, drafts: Sequence[Draft]) -> list[Child[StreamState]]:
        """Returns the children that fully denoised drafts become: decoded and scored.

        Raises:
            ValueError: a draft has passes left.
        """
        for draft in drafts:
            if self._passes_left(draft):
                all_passes = draft.passes_done + self._passes_left(draft)
                raise ValueError(
                    f"drafts must have had all {all_passes} passes to be finished, got {draft.passes_done}"
                )
        decoded, scores, spent = self._decode_and_score(drafts, [draft.x for draft in drafts])
        return [
            Child(self._state(draft, one, score), score, draft.cost + spent)
            for draft, one, score in zip(drafts, decoded, scores, strict=True)
        ]

    @torch.no_grad()
    def restore(self, made: Sequence[Made]) -> list[StreamState]:
        """Returns the children that some requests of one level had, neither denoised nor scored anew.

        Their parents' clean passes run where they are due, and the chunks are decoded where scores need frames: what a
        chunk remembers of those before it is in no chunk's latents. The children are equal to those that `expand`
        returned, bit for bit under the same grouping.

        Raises:
            ValueError: an action that the stream cannot take.
        """
        states: dict[int, StreamState] = {}
        average = functools.cache(averaged)
        for rows in in_turns([one.request for one in made], self.model.prefix_budget):
            restored = self._restore([made[row] for row in rows], average)
            states |= zip(rows, restored, strict=True)
        return [states[row] for row in range(len(made))]

    def _restore(self, made: Sequence[Made], average: Average) -> list[StreamState]:
        drafts = self._start([one.request for one in made], (), average)
        latents = [one.latents for one in made]
        decoded = DECODERS[self.decoding]([one.request.state for one in made], latents, self.long_window)
        states = []
        for draft, seen, one in zip(drafts, decoded, made, strict=True):
            states.append(self._state(draft._replace(x=one.latents), seen, one.scores))
            if not one.has_prefix:
                states[-1].drop_prefix()
        return states

    def score_whole(self, states: Sequence[StreamState]) -> list[Whole]:
        """Returns the scorer's score of each whole video; nothing is spent where the window still holds it all.

        A prompt that changes, and a video of more than 40 chunks, are scored in stretches of one prompt and at most 40
        chunks, so that memory stays bounded; the mean counts each by its chunks.

        Raises:
            ValueError: a state is the root, which has no video.
        """
        for state in states:
            if state.last is None:
                raise ValueError("states must have at least 1 chunk to be scored, got the root")
        return [self._score_whole(state) for state in states]

    @torch.no_grad()
    def _score_whole(self, state: StreamState) -> Whole:
        if state.chunk <= self.long_window and state.prompt.start == 0:
            return Whole(state.scores[-1].long, Cost())
        cost = Cost()
        scores: list[float] = []
        lengths: list[int] = []
        pieces, began = state.decode(), now()
        num_before = sum(map(len, state.given))  # decoded on the way
        for prompt, chunks in _stretches(state):
            frames = tuple(itertools.islice(pieces, len(chunks)))
            decoded = now()
            view = View(prompt.text, tuple(state.latents[chunks.start : chunks.stop]), frames, frames[-1])
            scores += self.scorer.score_whole([view])
            lengths.append(len(chunks))
            cost += Cost(
                latent_frames_decoded=num_before + len(chunks) * self.model.memory.chunk_frames,
                frames_scored=sum(map(len, frames)),
                seconds_decode=decoded - began,
                seconds_score=now() - decoded,
            )
            began, num_before = now(), 0
        return Whole(fmean(scores, lengths), cost)

    def _fill(self, parents: Sequence[StreamState], others: Sequence[Memory]) -> Cost:
        """Settles the parents' averages and runs the clean passes that are still due for their newest chunks.

        Returns what it cost but time.
        """
        due = [(state.last, state.slot, state) for state in parents if state.last and state.slot]
        due = [(last, slot, state) for last, slot, state in due if not slot.block.filled]
        settling = _settle(parents, others)
        prefixes = [slot.prefix or self.model.assemble(state.memory) for _, slot, state in due]
        places = [
            self.model.place(state.place - 1, state.memory, prefix, state.prompt)
            for prefix, (_, _, state) in zip(prefixes, due, strict=True)
        ]
        calls = self.model.commit([last.latents for last, _, _ in due], [slot.block for _, slot, _ in due], places)
        assembled = sum(slot.prefix is None for _, slot, _ in due)
        for state in parents:  # only now, so that after a failed pass the state can be expanded again
            state.drop_prefix()
        spent = Cost(clean_passes=len(due), clean_calls=calls, prefixes=assembled)
        return spent + settling + peak([*others, *(state.memory_after for state in parents)], prefixes)

    @torch.no_grad()
    def _decode_and_score(
        self, drafts: Sequence[Draft], latents: Sequence[Tensor]
    ) -> tuple[list[Decoded], list[Scores], Cost]:
        """Returns what candidates with these latents `[T, C, h, w]` look like and score, and each one's cost."""
        if not drafts:
            return [], [], Cost()
        began = now()
        decoded = DECODERS[self.decoding]([draft.request.state for draft in drafts], latents, self.long_window)
        decoding = now() - began
        views = [one.view for one in decoded]
        scored = self._score(views) if self.known is None else self.known.complete(views, self._score)
        spent = Cost(
            latent_frames_decoded=sum(one.num_latent_frames for one in decoded),
            frames_scored=sum(len(frames) for view in views for frames in (view.newest, *view.window)),
            seconds_decode=decoding,
            seconds_score=sum(one.seconds for one in scored),
            peak_cache_bytes=_cache_bytes([draft.request for draft in drafts], [one.cache for one in decoded]),
        )
        return decoded, [one.scores for one in scored], spent.share(len(drafts))

    def _score(self, views: Sequence[View]) -> list[Scored]:
        """Returns candidates' scores and their even shares of the time."""
        began = now()
        scores = self.scorer.score(views)
        return [Scored(score, (now() - began) / len(views)) for score in scores]

    def _sampler(self, request: Request[StreamState]) -> Sampler:
        return self.model.sampler_of(request.state.chunk, request.action.passes)

    def _passes_left(self, draft: Draft) -> int:
        return self._sampler(draft.request).num_passes - draft.passes_done

    def _place(self, draft: Draft) -> Place:
        state = draft.request.state
        assert draft.prefix is not None, "its turn is over"
        return self.model.place(state.place, draft.memory, draft.prefix, state.next_prompt)

    def _state(self, draft: Draft, decoded: Decoded, scores: Scores) -> StreamState:
        parent = draft.request.state
        block = Block(parent.place * self.model.memory.chunk_frames, self.model.memory.chunk_frames)
        return replace(
            parent,
            last=Chunk(parent.last, draft.request.action, scores, draft.x),
            chunk=parent.chunk + 1,
            noise=draft.noises[0],
            memory=draft.memory,
            slot=Unfilled(block, draft.prefix),
            frames=decoded.frames,
            decoder_cache=decoded.cache,
        )


def _cache_bytes(requests: Sequence[Request[StreamState]], made: Sequence[Any]) -> int:
    """Returns the bytes of the decoder caches of the requests' states and of those that were made."""
    return cache_bytes([*(request.state.decoder_cache for request in requests), *made])


def _settle(parents: Sequence[StreamState], others: Sequence[Memory]) -> Cost:
    """Settles the parents' averages; returns the bytes that are alive while they lie beside what they are of."""
    blocks = [block for state in parents for block in state.memory.blocks]
    before = Memory(window=tuple({part for block in blocks for part in block.holds}))
    for block in blocks:
        block.settle()
    prefixes = [state.slot.prefix for state in parents if state.slot and state.slot.prefix]
    return peak([before, *others, *(state.memory_after for state in parents)], prefixes)


@torch.no_grad()
def _root_after(model: VideoModel, prompts: tuple[Prompt, ...], given: Tensor) -> StreamState:
    """Returns the state before the first chunk of a stream that goes on from given latents `[T, C, h, w]`."""
    chunks, memory = given.split(model.memory.chunk_frames), Memory()
    for index, latents in enumerate(chunks):
        memory = make_room(memory, Route.DISCARD, model.memory)
        block = Block(index * model.memory.chunk_frames, model.memory.chunk_frames)
        model.commit([latents], [block], [model.place(index, memory, model.assemble(memory), prompts[0])])
        memory = push(memory, block, model.memory)
    _, [cache] = model.decode([given], [None])
    return StreamState(model, prompts, chunks, memory=memory, decoder_cache=cache)


def now() -> float:
    """Returns a time in seconds at which the device has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _stretches(state: StreamState) -> Iterator[tuple[Prompt, range]]:
    """Yields the chunks of a state in runs of one prompt that are short enough to be scored at once."""
    start = 0
    while start < state.chunk:
        prompt = state.prompt_of(start)
        ends = [later.start for later in state.prompts if later.start > start]
        end = min(start + LONGEST_STRETCH, state.chunk, *ends)
        yield prompt, range(start, end)
        start = end
