"""Wrapped problems: the same search, with a budget or with somebody watching."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pytest

from policies import BeamSearch, BestOfNPerChunk, Greedy, PreviewPruning
from searchkit.backbones.sampler import Sampler
from searchkit.cost import Cost, total
from searchkit.model import VideoModel
from searchkit.search import BudgetSpent, staged
from searchkit.stream import Stream
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


@pytest.fixture
def stream(make_stream: Callable[..., Stream], make_model: Callable[..., VideoModel]) -> Stream:
    """A stream of four passes a chunk, whose final pick costs something."""
    return make_stream(model=make_model(sampler=Sampler()), horizon=3, long_window=2)


PREVIEWING = PreviewPruning(beam_width=2, children=3, preview_passes=1)


def test_wrapped_stream_is_searched_by_previews_to_the_same_result(stream: Stream):
    plain = PREVIEWING(stream, seed=3)
    wrapped = PREVIEWING(Watched(Budgeted(stream, passes=1000), on_level=lambda _: None), seed=3)
    assert wrapped.best.actions == plain.best.actions
    assert [record._replace(cost=Cost()) for record in wrapped.records] == [
        record._replace(cost=Cost()) for record in plain.records
    ]
    assert wrapped.cost.passes == plain.cost.passes


@pytest.mark.parametrize("policy", [BeamSearch(), PREVIEWING])
def test_budget_counts_all_but_the_final_pick_however_the_search_expands(stream: Stream, policy):
    problem = Budgeted(stream)
    output = policy(problem, seed=0)
    made = total(record.cost for record in output.records)
    assert output.cost.latent_frames_decoded > made.latent_frames_decoded  # the final pick
    for field in fields(Cost):
        assert getattr(problem.spent, field.name) == pytest.approx(getattr(made, field.name)), field.name


def test_every_stage_is_charged_when_it_is_done(stream: Stream):
    problem = Budgeted(stream)
    requests = [Request(problem.root, action) for action in problem.actions(problem.root, num=4, seed=0)]
    drafts = problem.start(requests)
    assert problem.spent.prefixes == pytest.approx(1) and problem.spent.passes == 0
    drafts = problem.advance(drafts, passes=3)
    assert problem.spent.passes == pytest.approx(4 * 3)
    drafts = [preview.draft for preview in problem.preview(drafts)]
    assert problem.spent.latent_frames_decoded == pytest.approx(4 * 2)
    drafts = problem.advance(drafts[:1])
    assert problem.spent.passes == pytest.approx(4 * 3 + 1)
    problem.finish(drafts)
    assert problem.spent.latent_frames_decoded == pytest.approx(4 * 2 + 2)
    assert problem.spent.prefixes == pytest.approx(1)


@pytest.mark.parametrize(("passes", "chunks"), [(1, 1), (12, 1), (13, 2), (25, 2), (26, 3)])
def test_search_by_previews_ends_before_the_first_level_with_the_passes_spent(
    stream: Stream, passes: float, chunks: int
):
    """The first chunk takes 4 * 2 + 2 * 2 passes, every other one a clean pass more."""
    policy = PreviewPruning(children=4, preview_passes=2)
    problem = Budgeted(stream, passes=passes)
    output = policy(problem, seed=0)
    assert output.best.chunk == chunks
    assert problem.spent.passes == pytest.approx(output.cost.passes)


def test_spent_budget_is_raised_at_the_start_and_lets_what_is_under_way_be_finished(stream: Stream):
    problem = Budgeted(stream, passes=4)
    requests = [Request(problem.root, action) for action in problem.actions(problem.root, num=2, seed=0)]
    drafts = problem.advance(problem.start(requests), passes=2)
    for begin in (problem.start, problem.expand):
        with pytest.raises(BudgetSpent, match="4 of 4 passes are spent"):
            begin(requests)
    drafts = [preview.draft for preview in problem.preview(drafts)]
    assert len(problem.finish(problem.advance(drafts))) == 2
    assert problem.spent.passes == pytest.approx(8)


def test_finished_children_of_a_search_by_previews_are_told(stream: Stream):
    told: list[list[tuple[Action, ...]]] = []
    problem = Watched(stream, on_level=lambda children: told.append([child.state.actions for child in children]))
    output = PREVIEWING(problem, seed=0)
    finished = [record for record in output.records if record.pruned_after is None]
    assert [len(level) for level in told] == [3, 3, 3]
    assert [actions for level in told for actions in level] == [record.lineage for record in finished]


@pytest.mark.parametrize("stage", ["start", "advance", "preview", "finish"])
@pytest.mark.parametrize("wrap", [Budgeted, lambda problem: Watched(Budgeted(problem), on_level=lambda _: None)])
def test_stages_of_a_problem_that_has_none_are_refused_by_its_name(wrap: Callable[[Any], Any], stage: str):
    problem = wrap(_make_problem())
    with pytest.raises(ValueError, match=r"needs a problem with start, advance, .* got _Counting"):
        getattr(problem, stage)([])


def test_problem_without_stages_is_refused_wrapped_or_not():
    with pytest.raises(ValueError, match="got _Counting"):
        staged(_make_problem())
    with pytest.raises(ValueError, match="got _Counting"):
        PREVIEWING(Budgeted(_make_problem()), seed=0)


def test_budget_is_not_overshot_by_a_rounding_error(
    make_stream: Callable[..., Stream], make_model: Callable[..., VideoModel]
):
    stream = make_stream(model=make_model(sampler=Sampler(timesteps=(1000.0,))), horizon=6)
    budgeted = Budgeted(stream, passes=120)  # which four levels spend, up to the fourteenth digit
    assert BeamSearch(beam_width=8, children=3)(budgeted, seed=0).best.chunk == 4
