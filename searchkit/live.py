"""The chunks of a stream while it is searched, each as soon as it is decided.

Letters: F pixel frames, H and W their size.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

import torch

from searchkit.cost import Cost
from searchkit.search import BudgetSpent
from searchkit.state import Chunk, StreamState
from searchkit.stream import now
from searchkit.types import Action, Child, Draft, Policy, Request, Scores, SearchOutput, SearchProblem, Whole
from searchkit.wrappers import Wrapper

if TYPE_CHECKING:
    from torch import Tensor


class Decided(NamedTuple):
    """A chunk of the video that the search is going to return.

    chunk: its number, from 0.
    frames: `[F, 3, H, W]` in [0, 1]; joined, those of all chunks are the video after what was given.
    seconds: since the search began.
    """

    chunk: int
    action: Action
    scores: Scores
    frames: Tensor
    seconds: float


@dataclass(kw_only=True)
class LiveSearch:
    """A search that is read chunk by chunk: iterating searches, in a thread, and yields what is decided.

        live = LiveSearch(policy=BeamSearch(), problem=Budgeted(stream, seconds=60.0), seed=0)
        for decided in live:
            show(decided.frames)
        print(live.output.cost)

    A chunk is decided once every state that the policy still holds descends from it; the rest of the best video's are
    when the policy returns. Whoever keeps children, as an `on_level` might, keeps their chunks from being decided.

    The search waits for a slow reader. Where the reader closes the iterator, as a `break` does, it ends before the next
    level with the best that it has, and scores no whole videos. Its errors are raised in the reader, or left in `error`
    if nobody reads any more. Decoding for the reader is not in its costs.

    Attributes:
        problem: a stream, perhaps wrapped.
        seed: the trial's.
        output: what the search returned; None until it has ended.
        error: what ended it instead, if anything did.
    """

    policy: Policy
    problem: SearchProblem[StreamState]
    seed: int
    output: SearchOutput[StreamState] | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.problem.root, StreamState):
            raise ValueError(f"problem must be a stream, whose chunks are decoded, got {type(self.problem).__name__}")

    def __iter__(self) -> Iterator[Decided]:
        self.output = self.error = None
        handed: Queue[Decided | None] = Queue(maxsize=1)
        problem = _Deciding(self.problem, hand_over=handed.put)

        def run() -> None:
            try:
                self.output = self.policy(problem, seed=self.seed)
                problem.decide([self.output.best])
            except _Closed:
                pass
            except BaseException as error:
                self.error = error
            finally:
                handed.put(None)

        # A daemon, as an iterator that nobody closes must not keep the program from ending.
        thread = threading.Thread(target=run, name="live search", daemon=True)
        thread.start()
        rest = iter(handed.get, None)
        try:
            yield from rest
            if self.error is not None:
                raise self.error
        finally:
            problem.closed.set()
            if threading.current_thread() is not thread:  # which collects an abandoned iterator that is garbage
                for _ in rest:  # makes room, so that the search comes to where it sees that it is to end
                    pass
                thread.join()


class _Closed(BudgetSpent):
    """Ends a search whose reader has gone."""


@dataclass(kw_only=True)
class _Deciding(Wrapper[StreamState]):
    """Hands over the chunks that all living states share, before each level."""

    hand_over: Callable[[Decided], None]
    closed: threading.Event = field(default_factory=threading.Event, init=False)
    _began: float = field(default_factory=now, init=False)
    # Pruned states leave by themselves; beams that have ended, and so are requested no more, stay.
    _alive: WeakSet[StreamState] = field(default_factory=WeakSet, init=False)
    _last: Chunk | None = field(default=None, init=False)
    _num: int = field(default=0, init=False)
    _cache: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._cache = self.root.decoder_cache  # of the frames that were given, if any were

    def expand(self, requests: Sequence[Request[StreamState]]) -> Sequence[Child[StreamState]]:
        self.decide({*self._alive, *(request.state for request in requests)})
        return self._seen(self.problem.expand(requests))

    def start(self, requests: Sequence[Request[StreamState]]) -> Sequence[Draft[StreamState]]:
        self.decide({*self._alive, *(request.state for request in requests)})
        return super().start(requests)

    def finish(self, drafts: Sequence[Draft[StreamState]]) -> Sequence[Child[StreamState]]:
        return self._seen(super().finish(drafts))

    def score_whole(self, states: Sequence[StreamState]) -> Sequence[Whole]:
        if self.closed.is_set():  # nobody waits for the best of equals
            return [Whole(state.scores[-1].long, Cost()) for state in states]
        return self.problem.score_whole(states)

    def decide(self, states: Iterable[StreamState]) -> None:
        """Hands over what the states have in common beyond what was handed over before.

        Raises:
            BudgetSpent: nobody reads on.
            ValueError: a state does not descend from what was handed over before.
        """
        for chunk, *others in zip(*map(self._undecided, states), strict=False):
            if any(other is not chunk for other in others):
                break
            self._check()
            with torch.no_grad():
                [frames], [self._cache] = self.root.model.decode([chunk.latents], [self._cache])
            self._last = chunk
            self.hand_over(Decided(self._num, chunk.action, chunk.scores, frames, now() - self._began))
            self._num += 1
        self._check()

    def _undecided(self, state: StreamState) -> list[Chunk]:
        """Returns the state's chunks after the last decided one, oldest first."""
        chunks = list(itertools.takewhile(lambda chunk: chunk is not self._last, state.chunks()))
        if (chunks[-1].before if chunks else state.last) is not self._last:
            raise ValueError(
                f"the policy must make all candidates of a chunk before the next one to be read live, and goes on "
                f"without chunk {self._num - 1}, which was decided"
            )
        return chunks[::-1]

    def _seen(self, children: Sequence[Child[StreamState]]) -> Sequence[Child[StreamState]]:
        self._alive.update(child.state for child in children)
        return children

    def _check(self) -> None:
        if self.closed.is_set():
            raise _Closed("the reader is gone")
