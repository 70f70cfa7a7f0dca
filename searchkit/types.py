"""The values and roles of a search. No torch here, so that configurations and policies import at once.

A search problem hands out candidate actions for a state, expands many at once and scores what came out; a policy
decides what to try and what to keep.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from searchkit.cost import Cost

Decoding = Literal["streamed", "cold"]  # see `searchkit.stream.Stream`


class Route(enum.IntEnum):
    """Where the keys and values of the chunk that leaves the window go."""

    DISCARD = 0
    EMA_SINK = 1
    APPEND_SINK = 2


class Action(NamedTuple):
    """One decision: how the next chunk is made and what happens to the chunk that leaves the window.

    seed: seeds all noise of the next chunk.
    route: where the evicted chunk's keys and values go; without effect while nothing is evicted.
    correlation: of the chunk's first noise with the last chunk's, from -1 to 1.
    passes: denoising passes of the chunk; None for as many as its model was made for.
    """

    seed: int
    route: Route = Route.DISCARD
    correlation: float = 0.0
    passes: int | None = None


class Scores(NamedTuple):
    """Raw scores of a candidate: of its newest chunk, and of the window that ends with it."""

    short: float
    long: float


class State(Protocol):
    """A point of a search. Immutable, and compared by identity."""

    @property
    def chunk(self) -> int:
        """Chunks made so far; 0 at the root."""

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions that lead here from the root: replaying them gives this state again."""

    @property
    def scores(self) -> tuple[Scores, ...]:
        """The scores of every chunk so far, oldest first."""

    @property
    def leaving(self) -> int | None:
        """The chunk that leaves the window before the next one is made, or None: then routes have no effect."""


S = TypeVar("S", bound=State)


class Request(NamedTuple, Generic[S]):
    """Asks for the child of a state under an action."""

    state: S
    action: Action


class Child(NamedTuple, Generic[S]):
    """A candidate, its scores, and its share of what the level cost."""

    state: S
    scores: Scores
    cost: Cost


class Whole(NamedTuple):
    """The score of a whole video, and what it cost to find."""

    score: float
    cost: Cost


class Record(NamedTuple):
    """What a search tried: one row a candidate, without tensors.

    chunk: its number, from 0.
    lineage: the actions of all its chunks, its own last.
    fused: what the selection compared.
    pruned_after: the passes after which it was given up, where it was not finished: its scores are of a preview then.
    """

    chunk: int
    lineage: tuple[Action, ...]
    action: Action
    scores: Scores
    fused: float
    kept: bool
    cost: Cost
    pruned_after: int | None = None


class SearchOutput(NamedTuple, Generic[S]):
    """The best state found, everything that was tried, and what it cost in all."""

    best: S
    records: tuple[Record, ...]
    cost: Cost


class SearchProblem(Protocol[S]):
    """Something to search: a stream, an environment, or either of them wrapped."""

    @property
    def root(self) -> S:
        """The state before the first chunk."""

    @property
    def horizon(self) -> int | None:
        """Chunks to make; None streams on until a budget ends."""

    def actions(self, state: S, *, num: int, seed: int) -> Sequence[Action]:
        """Returns up to `num` distinct legal actions; the same ones for the same state and seed."""

    def expand(self, requests: Sequence[Request[S]]) -> Sequence[Child[S]]:
        """Returns one child a request, in order. Never changes what can be observed of a parent."""

    def score_whole(self, states: Sequence[S]) -> Sequence[Whole]:
        """Returns the scores of whole videos, for the final pick."""


class Draft(Protocol[S]):
    """A candidate while it is denoised; a value, so it may be kept and advanced twice."""

    @property
    def request(self) -> Request[S]:
        """What it answers."""

    @property
    def passes_done(self) -> int:
        """Denoising passes so far."""

    @property
    def cost(self) -> Cost:
        """Its share of what was spent so far."""


class Preview(NamedTuple):
    """A draft, charged for the preview, and the scores of what it would become if it were finished at once."""

    draft: Any
    scores: Scores


class StagedProblem(SearchProblem[S], Protocol[S]):
    """A problem whose `expand` opens up, for policies that prune while denoising."""

    def start(self, requests: Sequence[Request[S]]) -> Sequence[Draft[S]]:
        """Returns drafts that are still pure noise."""

    def advance(self, drafts: Sequence[Draft[S]], *, passes: int | None = None) -> Sequence[Draft[S]]:
        """Returns the drafts after some more passes, by default all that are left."""

    def preview(self, drafts: Sequence[Draft[S]]) -> Sequence[Preview]:
        """Returns the scores of the drafts' present estimates of the finished chunk."""

    def finish(self, drafts: Sequence[Draft[S]]) -> Sequence[Child[S]]:
        """Returns the children that fully denoised drafts become."""


class Policy(Protocol):
    """A way to search: a frozen dataclass of options with one method."""

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        """Searches the problem; `seed` is the trial's, from which all seeds derive."""
