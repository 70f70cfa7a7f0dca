"""Which candidates go on: those that a selection keeps, and those that previews let finish."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from searchkit.backbones.sampler import Sampler
from searchkit.cost import Cost, total
from searchkit.fusion import Calibration, Fusion
from searchkit.gym_adapter import GymProblem
from searchkit.model import VideoModel
from searchkit.pruning import finish_better_half, keep_all, keep_best, keep_better_half, keep_random
from searchkit.rewards import View
from searchkit.search import Level
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Action, Child, Request, Scores

LONG = Fusion(short_cap=0.0)


@dataclass(frozen=True, eq=False)
class _Point:
    """A state of which nothing matters but that it is one."""

    chunk: int = 1
    actions: tuple[Action, ...] = (Action(0),)
    scores: tuple[Scores, ...] = (Scores(0.0, 0.0),)
    leaving: int | None = None


def _make_level(longs: Sequence[float], *, chunk: int = 0) -> Level[_Point]:
    return Level(chunk, 7, [Child(_Point(), Scores(-long, long), Cost()) for long in longs])


few_values = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=9)


@given(few_values)
def test_keeping_the_better_half_keeps_the_larger_half_of_an_odd_number(longs: list[float]):
    level = _make_level(longs)
    assert keep_better_half(LONG)(level) == keep_best(math.ceil(len(longs) / 2), LONG)(level)


@given(few_values, st.integers(1, 10))
def test_keeping_the_best_keeps_the_highest_and_the_earlier_of_equals_best_first(longs: list[float], width: int):
    selection = keep_best(width, LONG)(_make_level(longs))
    assert selection.fused == longs
    ranked = sorted(range(len(longs)), key=lambda index: (-longs[index], index))
    assert list(selection.kept) == ranked[:width]


@given(few_values)
def test_keeping_all_keeps_every_candidate_best_first(longs: list[float]):
    kept = keep_all(LONG)(_make_level(longs)).kept
    assert sorted(kept) == list(range(len(longs)))
    assert kept == keep_best(len(longs), LONG)(_make_level(longs)).kept


@given(few_values, st.integers(1, 10), st.integers(0, 10**9))
def test_keeping_at_random_keeps_that_many_different_ones_whatever_they_score(
    longs: list[float], width: int, seed: int
):
    kept = keep_random(width, LONG, seed=seed)(_make_level(longs)).kept
    assert len(kept) == len(set(kept)) == min(width, len(longs))
    assert set(kept) <= set(range(len(longs)))
    assert kept == keep_random(width, LONG, seed=seed)(_make_level([-long for long in longs])).kept


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(scale="z-score")])
def test_keeping_at_random_compares_as_keeping_the_best_does(calibration: Calibration):
    fusion = Fusion(calibration=calibration)
    level = _make_level([1.0, 3.0, 2.0], chunk=3)
    assert keep_random(2, fusion, seed=0)(level).fused == keep_best(2, fusion)(level).fused


def test_random_draws_differ_by_seed_and_by_chunk():
    by_seed = {tuple(keep_random(4, LONG, seed=seed)(_make_level([0.0] * 8)).kept) for seed in range(50)}
    by_chunk = {tuple(keep_random(4, LONG, seed=0)(_make_level([0.0] * 8, chunk=chunk)).kept) for chunk in range(50)}
    assert len(by_seed) > 45 and len(by_chunk) > 45


def test_every_candidate_is_drawn_and_comes_first_equally_often():
    drawn = [keep_random(2, LONG, seed=seed)(_make_level([5.0, 1.0, 9.0, 3.0, 3.0, 0.0])).kept for seed in range(3000)]
    for counts, expected in (
        (Counter(index for kept in drawn for index in kept), 1000),
        (Counter(kept[0] for kept in drawn), 500),
    ):
        # More than four standard deviations, which are below the root.
        assert all(counts[index] == pytest.approx(expected, abs=4 * math.sqrt(expected)) for index in range(6))


MakeStream = Callable[..., Stream]


@pytest.fixture
def stream(make_stream: MakeStream, make_model: Callable[..., VideoModel]) -> Stream:
    """A stream of four passes a chunk."""
    return make_stream(model=make_model(sampler=Sampler()), horizon=3)


def _requests(stream: Stream, num: int) -> list[Request[StreamState]]:
    return [Request(stream.root, action) for action in stream.actions(stream.root, num=num, seed=0)]


def _seeds(actions: Sequence[Action]) -> list[int]:
    return [action.seed for action in actions]


def test_half_of_eight_candidates_is_finished_and_costs_24_passes(stream: Stream, monkeypatch: pytest.MonkeyPatch):
    rows: list[int] = []
    flow = stream.model.engine.flow

    def counted(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        rows.append(len(x))
        return flow(x, *arguments, **options)

    monkeypatch.setattr(stream.model.engine, "flow", counted)
    children, pruned = finish_better_half(stream, passes=2, fusion=LONG)(_requests(stream, 8))
    assert rows == [8, 8, 4, 4]
    spent = total([*(child.cost for child in children), *(one.draft.cost for one in pruned)])
    assert (spent.denoise_passes, spent.denoise_calls) == (pytest.approx(24), pytest.approx(4))
    assert spent.latent_frames_decoded == pytest.approx((8 + 4) * 2)  # previews, and finished chunks
    assert all(child.cost.denoise_passes == pytest.approx(4) for child in children)
    assert all(one.draft.cost.denoise_passes == pytest.approx(2) for one in pruned)


@pytest.mark.parametrize(("started", "finished"), [(1, 1), (2, 1), (3, 2), (7, 4), (8, 4)])
def test_larger_half_is_finished(stream: Stream, started: int, finished: int):
    children, pruned = finish_better_half(stream, passes=1, fusion=LONG)(_requests(stream, started))
    assert (len(children), len(pruned)) == (finished, started - finished)


def test_finished_and_pruned_together_are_what_was_asked_for_in_order(stream: Stream):
    requests = _requests(stream, 7)
    children, pruned = finish_better_half(stream, passes=2, fusion=LONG)(requests)
    finished, given_up = _seeds([child.state.actions[-1] for child in children]), [one.draft.request for one in pruned]
    asked = [request.action.seed for request in requests]
    assert finished == [seed for seed in asked if seed in finished]
    assert given_up == [request for request in requests if request.action.seed not in finished]
    assert all(one.draft.passes_done == 2 for one in pruned)


def test_those_with_the_better_previews_are_finished(stream: Stream):
    requests = _requests(stream, 8)
    fusion = Fusion(short_cap=0.7, ramp=1, calibration=Calibration(scale="rank"))
    children, pruned = finish_better_half(stream, passes=2, fusion=fusion)(requests)
    previews = stream.preview(stream.advance(stream.start(requests), passes=2))
    fused = dict(
        zip(
            (request.action.seed for request in requests),
            fusion([preview.scores for preview in previews], chunk=0, horizon=3),
            strict=True,
        )
    )
    assert [one.fused for one in pruned] == pytest.approx([fused[one.draft.request.action.seed] for one in pruned])
    worst_finished = min(fused[child.state.actions[-1].seed] for child in children)
    assert all(one.fused <= worst_finished for one in pruned)


@pytest.mark.parametrize("passes", [1, 2, 3, 4])
def test_finished_children_equal_those_expanded_at_once(stream: Stream, passes: int):
    [parent] = stream.expand(_requests(stream, 1))
    requests = [Request(parent.state, Action(seed, correlation=-0.1)) for seed in range(6)]
    children, _ = finish_better_half(stream, passes=passes, fusion=LONG)(requests)
    whole = {child.state.actions[-1]: child for child in stream.expand(requests)}
    for child in children:
        other = whole[child.state.actions[-1]]
        assert child.state.actions == other.state.actions
        torch.testing.assert_close(child.state.latents, other.state.latents, atol=1e-5, rtol=0.0)
        assert child.scores == pytest.approx(other.scores, abs=1e-5)


def test_preview_after_all_passes_is_the_finished_chunks_score(stream: Stream):
    requests = _requests(stream, 6)
    children, pruned = finish_better_half(stream, passes=4, fusion=LONG)(requests)
    scores = {child.state.actions[-1].seed: child.scores for child in stream.expand(requests)}
    assert all(one.scores == pytest.approx(scores[one.draft.request.action.seed], abs=1e-5) for one in pruned)
    # The better half by previews is then the better half indeed.
    best = sorted(scores, key=lambda seed: -scores[seed].long)[:3]
    assert set(_seeds([child.state.actions[-1] for child in children])) == set(best)


@pytest.mark.parametrize(("name", "value"), [("short", math.nan), ("long", math.inf)])
def test_preview_that_is_not_finite_names_its_candidate(stream: Stream, name: str, value: float):
    class Broken:
        def score(self, views: Sequence[View]) -> list[Scores]:
            bad = Scores(0.0, 0.0)._replace(**{name: value})
            return [bad if row == 2 else Scores(0.0, 0.0) for row in range(len(views))]

    broken = Stream(model=stream.model, scorer=Broken(), prompt="a prompt")
    requests = _requests(broken, 4)
    message = f"the {name} reward returned {value} for chunk 0, candidate seed {requests[2].action.seed}"
    with pytest.raises(ValueError, match=message):
        finish_better_half(broken, passes=1, fusion=LONG)(requests)


@pytest.mark.parametrize("passes", [5, 9])
def test_preview_after_more_passes_than_there_are_is_refused(stream: Stream, passes: int):
    with pytest.raises(ValueError, match=f"passes must be from 0 to 4, those left, got {passes}"):
        finish_better_half(stream, passes=passes, fusion=LONG)(_requests(stream, 2))


class _Coin(gymnasium.Env[int, int]):
    action_space = spaces.Discrete(2)
    observation_space = spaces.Discrete(1)


def test_problem_that_cannot_be_opened_up_is_refused_by_name():
    message = "needs a problem with start, advance, preview and finish, as a Stream has, got GymProblem"
    with pytest.raises(ValueError, match=re.escape(message)):
        finish_better_half(GymProblem(env=_Coin(), horizon=2), passes=1, fusion=LONG)
