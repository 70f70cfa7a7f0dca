"""Fusion and the routing rule, against the release's formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchkit.fusion import Fusion, RewardRouting
from searchkit.types import Route, Scores

finite = st.floats(-100, 100)
pairs = st.builds(Scores, finite, finite)


def test_weight_of_the_short_score_rises_to_its_cap_as_in_the_release():
    weights = [Fusion().weight(chunk, 7) for chunk in range(7)]
    assert weights == pytest.approx([0, 1 / 6, 2 / 6, 0.4, 0.4, 0.4, 0.4])


def test_first_chunk_is_compared_by_its_long_score_alone():
    assert Fusion()([Scores(5.0, 2.0)], chunk=0, horizon=7) == [2.0]


@given(pairs, st.integers(0, 50), st.integers(1, 50) | st.none(), st.floats(0, 1))
def test_fused_score_lies_between_the_two(scores: Scores, chunk: int, horizon: int | None, cap: float):
    [fused] = Fusion(short_cap=cap)([scores], chunk=chunk, horizon=horizon)
    assert min(scores) - 1e-9 <= fused <= max(scores) + 1e-9


@given(st.integers(1, 50) | st.none(), st.integers(1, 20) | st.none(), st.floats(0, 1))
def test_weight_never_falls_and_never_exceeds_its_cap(horizon: int | None, ramp: int | None, cap: float):
    weights = [Fusion(short_cap=cap, ramp=ramp).weight(chunk, horizon) for chunk in range(60)]
    assert weights == sorted(weights)
    assert max(weights) <= cap


def test_ramp_overrides_the_length_of_the_stream():
    assert Fusion(short_cap=1.0, ramp=3).weight(1, 100) == 0.5
    assert Fusion(short_cap=1.0).weight(3, None) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_cap": 1.2}, "short_cap must be from 0 to 1, got 1.2"),
        ({"short_cap": -0.1}, "short_cap must be from 0 to 1, got -0.1"),
        ({"ramp": 0}, "ramp must be at least 1 chunk, got 0"),
    ],
)
def test_fusion_refuses_options_out_of_range(options: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Fusion(**options)


def _scores(*pairs: tuple[float, float]) -> list[Scores]:
    return [Scores(*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("newest", "route"),
    [
        ((1.1, 1.0), Route.EMA_SINK),  # better than before, and steady
        ((1.1, 0.7), Route.APPEND_SINK),  # better, after a transition
        ((0.9, 1.0), Route.DISCARD),
        ((0.9, 0.7), Route.DISCARD),
        ((1.0, 1.0), Route.DISCARD),  # the threshold itself is not enough
    ],
)
def test_routing_keeps_what_is_better_than_before(newest: tuple[float, float], route: Route):
    assert RewardRouting()(_scores((0.8, 1.0), (1.2, 1.0), newest), 2) == route


def test_routing_does_not_look_at_chunks_after_the_leaving_one():
    scores = _scores((0.8, 1.0), (1.2, 1.0), (1.1, 0.7))
    assert RewardRouting()([*scores, Scores(9.0, -9.0)], 2) == RewardRouting()(scores, 2)


@pytest.mark.parametrize("leaving", [None, 0])
def test_routing_discards_where_nothing_leaves_and_has_no_gate_for_the_first_chunk(leaving: int | None):
    assert RewardRouting()(_scores((1.0, 1.0)), leaving) == Route.DISCARD


def test_routing_forgets_chunks_before_its_window():
    scores = _scores((9.0, 1.0), (1.0, 1.0), (1.1, 1.0))
    assert RewardRouting(window=1)(scores, 2) == Route.EMA_SINK
    assert RewardRouting(window=2)(scores, 2) == Route.DISCARD


@given(st.lists(pairs, min_size=1, max_size=9), st.data())
def test_routing_never_fails(scores: list[Scores], data: st.DataObject):
    leaving = data.draw(st.integers(0, len(scores) - 1) | st.none())
    assert RewardRouting()(scores, leaving) in Route


def test_routing_refuses_an_empty_window():
    with pytest.raises(ValueError, match="window must be at least 1 chunk, got 0"):
        RewardRouting(window=0)
