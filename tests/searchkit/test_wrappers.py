"""Wrapped problems: the same search, with a budget or with somebody watching."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from policies import BeamSearch, BestOfNPerChunk, Greedy
from searchkit.cost import Cost
from searchkit.search import BudgetSpent
from searchkit.types import Action, Child, Request, Scores, Whole
from searchkit.wrappers import Budgeted, Watched


@dataclass(frozen=True, eq=False)
class _Numbers:
    """A state that is the numbers drawn so far."""

    actions: tuple[Action, ...] = ()
    leaving: None = None

    @property
    def chunk(self) -> int:
        return len(self.actions)

    @property
    def scores(self) -> tuple[Scores, ...]:
        return tuple(Scores(float(action.seed), float(action.seed)) for action in self.actions)


@dataclass(frozen=True)
class _Counting:
    """A problem whose score is the seed; a child costs 4 passes and half a second."""

    horizon: int | None = 5
    root: _Numbers = _Numbers()

    def actions(self, state: _Numbers, *, num: int, seed: int) -> list[Action]:
        return [Action(seed + index) for index in range(num)]

    def expand(self, requests: Sequence[Request[_Numbers]]) -> list[Child[_Numbers]]:
        cost = Cost(denoise_passes=4.0, seconds_generate=0.5)
        states = [_Numbers((*state.actions, action)) for state, action in requests]
        return [Child(state, state.scores[-1], cost) for state in states]

    def score_whole(self, states: Sequence[_Numbers]) -> list[Whole]:
        return [Whole(sum(score.long for score in state.scores), Cost()) for state in states]


def _make_problem(horizon: int | None = 5) -> _Counting:
    return _Counting(horizon)


@pytest.mark.parametrize("policy", [Greedy(), BestOfNPerChunk(), BeamSearch()])
def test_wrapped_problem_is_searched_to_the_same_result(policy):
    plain = policy(_make_problem(), seed=3)
    wrapped = policy(Watched(Budgeted(_make_problem(), passes=1000), on_level=lambda _: None), seed=3)
    assert wrapped.best.actions == plain.best.actions
    assert wrapped.records == plain.records and wrapped.cost == plain.cost


@pytest.mark.parametrize(("passes", "chunks"), [(1, 1), (16, 1), (17, 2), (64, 4), (65, 5), (1000, 5)])
def test_search_ends_before_the_first_level_with_the_passes_spent(passes, chunks):
    output = BestOfNPerChunk()(Budgeted(_make_problem(), passes=passes), seed=0)
    assert output.best.chunk == chunks
    assert output.cost.passes == 16 * chunks


def test_search_ends_with_the_seconds_spent():
    assert Greedy()(Budgeted(_make_problem(None), seconds=2.0), seed=0).best.chunk == 4


def test_budget_says_what_is_spent():
    problem = Budgeted(_make_problem(), passes=4)
    requests = [Request(problem.root, Action(0))]
    problem.expand(requests)
    assert problem.spent.passes == 4
    with pytest.raises(BudgetSpent, match="4 of 4 passes are spent"):
        problem.expand(requests)


@pytest.mark.parametrize("limit", [{"passes": 0}, {"seconds": -1.0}, {"seconds": float("nan")}])
def test_budget_of_nothing_is_refused(limit):
    with pytest.raises(ValueError, match="must be above 0"):
        Budgeted(_make_problem(), **limit)


def test_every_level_is_told_as_soon_as_it_is_made():
    told = []
    problem = Watched(_make_problem(), on_level=lambda children: told.append([c.state.chunk for c in children]))
    BestOfNPerChunk(num_candidates=2)(problem, seed=0)
    assert told == [[chunk, chunk] for chunk in range(1, 6)]
