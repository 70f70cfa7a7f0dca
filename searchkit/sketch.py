"""A stream without a model: it takes what a policy does, counts passes, and scores at random. No torch here.

It has a stream's memory, routes and order of events, so that a policy spends here what it spends on a video, at once
and before anything is loaded.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from searchkit.cost import Cost, total
from searchkit.memory import Block, Memory, MemoryConfig, evicts, make_room, num_frames, push
from searchkit.noise import derive_seed
from searchkit.plan import Pass
from searchkit.types import Action, Child, Preview, Request, Route, Scores, Whole

Score = Callable[[tuple[Action, ...]], Scores]  # of the candidate to which these actions lead


def random_scores(lineage: tuple[Action, ...]) -> Scores:
    """Returns standard normal scores, the same for the same seeds."""
    drawn = random.Random(str([action.seed for action in lineage]))
    return Scores(drawn.gauss(), drawn.gauss())


@dataclass(frozen=True, eq=False)
class SketchState:
    """A stream after some chunks, without its video.

    Attributes:
        given: chunks that lie before chunk 0.
        actions, scores: of every chunk, oldest first.
        memory: what the newest chunk attended to.
        block: the newest chunk's place in memory, or None at the root.
    """

    config: MemoryConfig
    given: int = 0
    actions: tuple[Action, ...] = ()
    scores: tuple[Scores, ...] = ()
    memory: Memory = Memory()
    block: Block | None = None

    @property
    def chunk(self) -> int:
        return len(self.actions)

    @property
    def place(self) -> int:
        """The place of the next chunk among all chunks."""
        return self.given + self.chunk

    @property
    def memory_after(self) -> Memory:
        """The memory with the newest chunk's own block."""
        return self.memory if self.block is None else push(self.memory, self.block, self.config)

    @property
    def leaving(self) -> int | None:
        memory = self.memory_after
        if not evicts(memory, self.config):
            return None
        chunk = memory.window[0].start_frame // self.config.chunk_frames - self.given
        return chunk if chunk >= 0 else None


Branch = tuple[SketchState, Route]  # the candidates that share a prefix


class SketchDraft(NamedTuple):
    """A candidate while it is denoised."""

    request: Request[SketchState]
    memory: Memory
    passes_done: int
    cost: Cost


class LevelSize(NamedTuple):
    """What a level holds while its candidates are made.

    block_frames: latent frames of the distinct blocks that its parents hold.
    averaged_frames: those of them in averages, which are float32 whatever the network is.
    prefixes: latent frames of the prefix of each parent and route.
    siblings: candidates of each of these.
    is_at_once: whether all prefixes are held, since the policy starts drafts by itself; else parents may take turns.
    """

    block_frames: int
    averaged_frames: int
    prefixes: tuple[int, ...]
    siblings: tuple[int, ...]
    num_parents: int
    num_candidates: int
    is_at_once: bool


@dataclass(kw_only=True)
class Sketch:
    """A stream as a search problem (see `StagedProblem`), for one search: it counts what goes through it.

    Attributes:
        memory: sizes of the memory.
        num_passes: denoising passes of a chunk, where an action does not say.
        first_passes: of the first chunk, likewise; None for as many as the others.
        given: chunks that the stream goes on from; what is done with them at the root is charged to nobody.
        switches: chunks from which a further prompt holds.
        route: where a chunk goes that leaves the window, unless the policy says otherwise.
        score: of candidates.
        denoising, clean: how often each kind of pass was run. What runs together for a new prompt counts as a pass for
            each of its chunks, as it does in a stream's costs.
        levels: what was held.
    """

    memory: MemoryConfig
    num_passes: int
    first_passes: int | None = None
    given: int = 0
    switches: tuple[int, ...] = ()
    horizon: int | None = 7
    route: Route = Route.DISCARD
    score: Score = random_scores
    denoising: Counter[Pass] = field(default_factory=Counter, init=False)
    clean: Counter[Pass] = field(default_factory=Counter, init=False)
    levels: list[LevelSize] = field(default_factory=list, init=False)
    _filled: set[SketchState] = field(default_factory=set, init=False)
    _averages: dict[Block, tuple[Block, ...]] = field(default_factory=dict, init=False)  # not settled, and of what

    @property
    def root(self) -> SketchState:
        memory = Memory()
        for index in range(self.given):
            block = Block(index * self.memory.chunk_frames, self.memory.chunk_frames)
            memory = push(make_room(memory, Route.DISCARD, self.memory), block, self.memory)
        return SketchState(self.memory, self.given, memory=memory)

    def actions(self, state: SketchState, *, num: int, seed: int) -> list[Action]:
        lineage = [action.seed for action in state.actions]
        return [Action(derive_seed(seed, lineage, index), route=self.route) for index in range(num)]

    def expand(self, requests: Sequence[Request[SketchState]]) -> list[Child[SketchState]]:
        return self.finish(self.advance(self._start(requests, is_at_once=False)))

    def start(self, requests: Sequence[Request[SketchState]]) -> list[SketchDraft]:
        """Returns drafts, with the clean passes counted that are due for their parents."""
        return self._start(requests, is_at_once=True)

    def _start(self, requests: Sequence[Request[SketchState]], *, is_at_once: bool) -> list[SketchDraft]:
        if not requests:
            return []
        parents = list(dict.fromkeys(request.state for request in requests))
        filled = total(self._fill(state) for state in parents)
        memories = {state: state.memory_after for state in parents}
        held = list(memories.values())
        for state in parents:
            if state.chunk in self.switches:
                memories[state], cost = self._rerun(state)
                held.append(memories[state])
                filled += cost
        # What averages are of lies beside them while they are computed, once something is expanded from them.
        settled = [self._averages.pop(block, ()) for state in parents for block in state.memory.blocks]
        held += [Memory(window=blocks) for blocks in settled]
        average = functools.cache(self._averaged)
        branches: dict[Branch, Memory] = {}
        routed = [(state, self._effective(action.route, memories[state])) for state, action in requests]
        for state, route in routed:
            if (state, route) not in branches:
                branches[state, route] = make_room(memories[state], route, self.memory, average)
        self.levels.append(_size(parents, held, branches, Counter(routed), is_at_once=is_at_once))
        share = filled.share(len(requests))
        return [
            SketchDraft(request, branches[branch], 0, share) for request, branch in zip(requests, routed, strict=True)
        ]

    def advance(self, drafts: Sequence[SketchDraft], *, passes: int | None = None) -> list[SketchDraft]:
        """Returns the drafts after some more passes, by default all that are left.

        Raises:
            ValueError: a draft has fewer passes left.
        """
        left = [self._passes_left(draft) for draft in drafts]
        if passes is not None and not 0 <= passes <= min(left, default=passes):
            raise ValueError(f"passes must be from 0 to {min(left)}, those left, got {passes}")
        advanced = []
        for draft, most in zip(drafts, left, strict=True):
            count = most if passes is None else passes
            self.denoising[self._pass(draft.memory)] += count
            cost = draft.cost + Cost(denoise_passes=count)
            advanced.append(draft._replace(passes_done=draft.passes_done + count, cost=cost))
        return advanced

    def preview(self, drafts: Sequence[SketchDraft]) -> list[Preview]:
        return [Preview(draft, self.score(_lineage(draft))) for draft in drafts]

    def finish(self, drafts: Sequence[SketchDraft]) -> list[Child[SketchState]]:
        """Returns the children that fully denoised drafts become."""
        return [self._finished(draft) for draft in drafts]

    def score_whole(self, states: Sequence[SketchState]) -> list[Whole]:
        return [Whole(state.scores[-1].long, Cost()) for state in states]

    def _finished(self, draft: SketchDraft) -> Child[SketchState]:
        state, lineage = draft.request.state, _lineage(draft)
        scores = self.score(lineage)
        block = Block(state.place * self.memory.chunk_frames, self.memory.chunk_frames)
        child = replace(state, actions=lineage, scores=(*state.scores, scores), memory=draft.memory, block=block)
        return Child(child, scores, draft.cost)

    def _fill(self, state: SketchState) -> Cost:
        """Counts the clean pass of a state's newest chunk, which runs where something is expanded from it."""
        if state.block is None or state in self._filled:
            return Cost()
        self._filled.add(state)
        self.clean[self._pass(state.memory)] += 1
        return Cost(clean_passes=1)

    def _rerun(self, state: SketchState) -> tuple[Memory, Cost]:
        """Returns the memory with what runs again for a new prompt, and counts that: see `searchkit.switch`."""
        config, memory = self.memory, state.memory_after
        count = min(state.place, config.window_frames // config.chunk_frames)
        first_frame = (state.place - count) * config.chunk_frames
        before = [sink for sink in memory.sinks if sink.start_frame < first_frame]
        self.clean[Pass(config.chunk_frames, count * config.chunk_frames + num_frames(before))] += count
        window, sinks = tuple(map(_copy, memory.window)), memory.sinks
        again = [sink for sink in sinks if sink.start_frame < config.sink_frames and not sink.is_average]
        if config.sink_on_switch == "rerun" and again:
            self.clean[Pass(config.chunk_frames, num_frames(again))] += len(again)
            count += len(again)
            sinks = (*map(_copy, again), *sinks[len(again) :])
        return Memory(sinks, window), Cost(clean_passes=count)

    def _averaged(self, sink: Block, evicted: Block, decay: float) -> Block:
        block = Block(sink.start_frame, sink.num_frames, is_average=True)
        self._averages[block] = sink, evicted
        return block

    def _effective(self, route: Route, memory: Memory) -> Route:
        return Route(route) if evicts(memory, self.memory) else Route.DISCARD

    def _pass(self, memory: Memory) -> Pass:
        return Pass(self.memory.chunk_frames, self.memory.chunk_frames + num_frames(memory.blocks))

    def _passes_left(self, draft: SketchDraft) -> int:
        state, action = draft.request
        wanted = self.first_passes if action.passes is None and state.chunk == 0 else action.passes
        wanted = self.num_passes if wanted is None else wanted
        if wanted < 1:
            raise ValueError(f"passes must be at least 1 a chunk, got {wanted}")
        return wanted - draft.passes_done


def _size(
    parents: Sequence[SketchState],
    memories: Sequence[Memory],
    branches: Mapping[Branch, Memory],
    siblings: Mapping[Branch, int],
    *,
    is_at_once: bool,
) -> LevelSize:
    """Returns what a level holds: the memories of its parents, and the routed ones of its branches' prefixes."""
    blocks = list({block: None for memory in memories for block in memory.blocks})
    return LevelSize(
        block_frames=num_frames(blocks),
        averaged_frames=num_frames([block for block in blocks if block.is_average]),
        prefixes=tuple(num_frames(memory.blocks) for memory in branches.values()),
        siblings=tuple(siblings[branch] for branch in branches),
        num_parents=len(parents),
        num_candidates=sum(siblings.values()),
        is_at_once=is_at_once,
    )


def _lineage(draft: SketchDraft) -> tuple[Action, ...]:
    return (*draft.request.state.actions, draft.request.action)


def _copy(block: Block) -> Block:
    return Block(block.start_frame, block.num_frames)
