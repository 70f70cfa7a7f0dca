"""Fusion, calibration and the routing rule, against the release's formulas."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, pstdev
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchkit.fusion import Calibration, Fusion, RewardRouting, Scale
from searchkit.types import Route, Scores

finite = st.floats(-100, 100)
pairs = st.builds(Scores, finite, finite)
whole = st.integers(-1000, 1000).map(float)
huge = st.floats(-1e300, 1e300)
SCALES: tuple[Scale, ...] = get_args(Scale)
AMONG_CANDIDATES: tuple[Scale, ...] = ("z-score", "rank")


def _scores(*pairs: tuple[float, float]) -> list[Scores]:
    return [Scores(*pair) for pair in pairs]


def _levels(values: st.SearchStrategy[float], *, min_size: int = 1) -> st.SearchStrategy[list[Scores]]:
    """Candidates that are compared with each other."""
    return st.lists(st.builds(Scores, values, values), min_size=min_size, max_size=12)


def _shorts(scores: Sequence[Scores]) -> list[float]:
    return [score.short for score in scores]


def _longs(scores: Sequence[Scores]) -> list[float]:
    return [score.long for score in scores]


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


@given(st.integers(1, 20), st.integers(0, 50), st.integers(1, 50) | st.none(), st.floats(0, 1))
def test_ramp_overrides_the_length_of_the_stream_known_or_not(ramp: int, chunk: int, horizon: int | None, cap: float):
    fusion = Fusion(short_cap=cap, ramp=ramp)
    assert fusion.weight(chunk, horizon) == fusion.weight(chunk, None)
    assert fusion.weight(chunk, horizon) == (cap if ramp == 1 else min(chunk / (ramp - 1), cap))


@pytest.mark.parametrize("chunk", [0, 1, 50])
@pytest.mark.parametrize("horizon", [1, 7, None])
def test_ramp_of_one_chunk_gives_the_cap_at_once(chunk: int, horizon: int | None):
    assert Fusion(short_cap=0.3, ramp=1).weight(chunk, horizon) == 0.3


def test_without_a_ramp_the_streams_length_is_it_and_seven_for_a_stream_without_end():
    fusion = Fusion(short_cap=1.0)
    assert [fusion.weight(chunk, 5) for chunk in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [fusion.weight(chunk, None) for chunk in range(9)] == [fusion.weight(chunk, 7) for chunk in range(9)]
    assert fusion.weight(0, 1) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_cap": 1.2}, "short_cap must be from 0 to 1, got 1.2"),
        ({"short_cap": -0.1}, "short_cap must be from 0 to 1, got -0.1"),
        ({"short_cap": math.nan}, "short_cap must be from 0 to 1, got nan"),
        ({"ramp": 0}, "ramp must be at least 1 chunk, got 0"),
        ({"ramp": -2}, "ramp must be at least 1 chunk, got -2"),
    ],
)
def test_fusion_refuses_options_out_of_range(options: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Fusion(**options)


@given(_levels(finite, min_size=0), st.integers(0, 9))
def test_published_scores_are_fused_as_they_are(scores: list[Scores], chunk: int):
    fusion = Fusion()
    weight = fusion.weight(chunk, 7)
    assert Calibration()(scores) == scores
    assert fusion(scores, chunk=chunk, horizon=7) == [weight * short + (1 - weight) * long for short, long in scores]


def test_fixed_scale_subtracts_the_mean_and_divides_by_the_deviation():
    calibration = Calibration(scale="fixed", short_mean=2.0, short_deviation=4.0, long_mean=-1.0, long_deviation=0.5)
    assert calibration(_scores((2.0, -1.0), (10.0, 0.0), (0.0, -2.0))) == _scores((0, 0), (2, 2), (-0.5, -2))
    assert Fusion(ramp=1, short_cap=0.25, calibration=calibration)(_scores((10.0, 1.0)), chunk=0, horizon=1) == [3.5]


@given(_levels(finite))
def test_fixed_scale_with_the_candidates_mean_and_deviation_is_the_z_score(scores: list[Scores]):
    shorts = _shorts(scores)
    # At least as far apart as rounding does not matter.
    if max(shorts) - min(shorts) > 1e-3:
        fixed = Calibration(scale="fixed", short_mean=fmean(shorts), short_deviation=pstdev(shorts))
        assert _shorts(fixed(scores)) == pytest.approx(_shorts(Calibration(scale="z-score")(scores)))


@given(_levels(finite))
def test_z_scores_have_mean_zero_and_deviation_one_over_the_candidates(scores: list[Scores]):
    calibrated = Calibration(scale="z-score")(scores)
    for before, after in ((_shorts(scores), _shorts(calibrated)), (_longs(scores), _longs(calibrated))):
        if max(before) - min(before) > 1e-3:
            assert fmean(after) == pytest.approx(0.0, abs=1e-6)
            assert pstdev(after) == pytest.approx(1.0)


@given(_levels(whole))
def test_rank_is_the_average_place_of_the_equals_from_zero_to_one(scores: list[Scores]):
    ranks = _shorts(Calibration(scale="rank")(scores))
    places = sorted(_shorts(scores))
    last = len(places) - 1
    for short, rank in zip(_shorts(scores), ranks, strict=True):
        equals = [index / last if last else 0.5 for index, value in enumerate(places) if value == short]
        assert rank == pytest.approx(fmean(equals))
    assert min(ranks) >= 0.0 and max(ranks) <= 1.0
    assert fmean(ranks) == pytest.approx(0.5)


def test_ranks_of_distinct_candidates_are_evenly_spaced_in_the_order_given():
    scores = _scores((3.0, 1.0), (-5.0, 2.0), (3.5, 3.0), (0.0, 4.0), (9.0, 5.0))
    assert Calibration(scale="rank")(scores) == _scores((0.5, 0.0), (0.0, 0.25), (0.75, 0.5), (0.25, 0.75), (1.0, 1.0))


@pytest.mark.parametrize(("scale", "middle"), [("z-score", 0.0), ("rank", 0.5)])
@pytest.mark.parametrize("num_candidates", [1, 2, 3, 10])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-300, 1e300])
def test_candidates_without_spread_get_the_middle(scale: Scale, middle: float, num_candidates: int, value: float):
    scores = [Scores(value, -value)] * num_candidates
    assert Calibration(scale=scale)(scores) == [Scores(middle, middle)] * num_candidates


def test_one_score_without_spread_leaves_the_other_to_decide():
    fused = Fusion(short_cap=0.4, ramp=1, calibration=Calibration(scale="z-score"))
    assert fused(_scores((0.1, 1.0), (0.1, 3.0)), chunk=3, horizon=7) == pytest.approx([-0.6, 0.6])


@given(_levels(huge), st.sampled_from(SCALES), finite, st.floats(1e-3, 1e3))
def test_calibration_never_reverses_the_order_by_one_score_alone(
    scores: list[Scores], scale: Scale, mean: float, deviation: float
):
    calibration = Calibration(
        scale=scale, short_mean=mean, short_deviation=deviation, long_mean=-mean, long_deviation=1.0 / deviation
    )
    calibrated = calibration(scores)
    for before, after in ((_shorts(scores), _shorts(calibrated)), (_longs(scores), _longs(calibrated))):
        order = sorted(range(len(scores)), key=before.__getitem__)
        for lower, higher in pairwise(order):
            assert after[lower] <= after[higher]
            assert before[lower] < before[higher] or after[lower] == after[higher]


@pytest.mark.parametrize("name", ["short", "long"])
@pytest.mark.parametrize("scale", AMONG_CANDIDATES)
@given(scores=_levels(whole), factor=st.integers(1, 100), shift=whole)
def test_units_of_either_reward_do_not_matter_among_candidates(
    scale: Scale, name: str, scores: list[Scores], factor: int, shift: float
):
    changed = [score._replace(**{name: factor * getattr(score, name) + shift}) for score in scores]
    before, after = (Calibration(scale=scale)(level) for level in (scores, changed))
    assert _shorts(after) == pytest.approx(_shorts(before), abs=1e-9)
    assert _longs(after) == pytest.approx(_longs(before), abs=1e-9)


@given(_levels(whole))
def test_rank_sees_the_order_only(scores: list[Scores]):
    bent = [Scores(short**3, math.atan(long)) for short, long in scores]
    rank = Calibration(scale="rank")
    assert rank(bent) == rank(scores)


@given(_levels(huge), st.sampled_from(SCALES), st.floats(0, 1), st.integers(0, 9))
def test_finite_scores_of_any_size_are_fused_to_finite_ones(scores: list[Scores], scale: Scale, cap: float, chunk: int):
    calibration = Calibration(scale=scale, short_mean=-1e3, short_deviation=1e-3, long_mean=1e3, long_deviation=1e3)
    fused = Fusion(short_cap=cap, calibration=calibration)(scores, chunk=chunk, horizon=7)
    assert len(fused) == len(scores)
    assert all(map(math.isfinite, fused))


@given(_levels(st.sampled_from([0.0, 5e-324, 1e-320, -1e-310, 1e-160, 1.0, math.nextafter(1.0, 2.0), 1e16])))
def test_candidates_apart_by_a_rounding_error_only_get_finite_z_scores(scores: list[Scores]):
    """However small the deviation is, no z-score of n candidates can exceed sqrt(n - 1) but by rounding."""
    most = 2.0 * math.sqrt(len(scores))
    assert all(abs(part) <= most for score in Calibration(scale="z-score")(scores) for part in score)


@pytest.mark.parametrize("scale", SCALES)
def test_calibration_of_nothing_is_nothing(scale: Scale):
    assert Calibration(scale=scale)([]) == []


def test_calibration_says_whether_it_compares_candidates():
    assert [scale for scale in SCALES if Calibration(scale=scale).compares] == list(AMONG_CANDIDATES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "minmax"}, "scale must be one of published, fixed, z-score, rank, got 'minmax'"),
        ({"short_deviation": 0.0}, "short_deviation must be a finite number above 0, got 0.0"),
        ({"short_deviation": math.nan}, "short_deviation must be a finite number above 0, got nan"),
        ({"long_deviation": -1.0}, "long_deviation must be a finite number above 0, got -1.0"),
        ({"long_mean": math.nan}, "long_mean must be a finite number, got nan"),
    ],
)
def test_calibration_refuses_options_that_scale_nothing(options: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Calibration(**options)


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
    assert RewardRouting(short_threshold=-math.inf)(_scores((1.0, 1.0)), leaving) == Route.DISCARD


def test_routing_forgets_chunks_before_its_window():
    scores = _scores((9.0, 1.0), (1.0, 1.0), (1.1, 1.0))
    assert RewardRouting(window=1)(scores, 2) == Route.EMA_SINK
    assert RewardRouting(window=2)(scores, 2) == Route.DISCARD


@st.composite
def _leavings(draw: st.DrawFn) -> tuple[list[Scores], int]:
    """A stream's scores and a chunk of it, not the first, that leaves."""
    scores = draw(st.lists(pairs, min_size=2, max_size=30))
    return scores, draw(st.integers(1, len(scores) - 1))


@given(_leavings())
def test_routing_without_a_window_takes_all_earlier_chunks(stream: tuple[list[Scores], int]):
    scores, leaving = stream
    unlimited = RewardRouting(window=None)(scores, leaving)
    assert unlimited == RewardRouting(window=leaving)(scores, leaving)
    better = scores[leaving].short > fmean(_shorts(scores[:leaving]))
    assert (unlimited != Route.DISCARD) == better


@given(_leavings())
def test_infinite_thresholds_leave_routes_out(stream: tuple[list[Scores], int]):
    kept = RewardRouting()(*stream) != Route.DISCARD
    assert RewardRouting(short_threshold=math.inf)(*stream) == Route.DISCARD
    assert RewardRouting(long_threshold=math.inf)(*stream) == (Route.EMA_SINK if kept else Route.DISCARD)
    assert RewardRouting(long_threshold=-math.inf)(*stream) == (Route.APPEND_SINK if kept else Route.DISCARD)
    assert RewardRouting(short_threshold=-math.inf)(*stream) != Route.DISCARD


@given(st.lists(pairs, min_size=1, max_size=9), st.data())
def test_routing_never_fails(scores: list[Scores], data: st.DataObject):
    leaving = data.draw(st.integers(0, len(scores) - 1) | st.none())
    assert RewardRouting()(scores, leaving) in Route


@pytest.mark.parametrize("window", [0, -1])
def test_routing_refuses_an_empty_window(window: int):
    with pytest.raises(ValueError, match=f"window must be at least 1 chunk, got {window}"):
        RewardRouting(window=window)


@pytest.mark.parametrize("name", ["short_threshold", "long_threshold"])
def test_routing_refuses_a_threshold_that_is_no_number(name: str):
    with pytest.raises(ValueError, match=f"{name} must be a number, got nan"):
        RewardRouting(**{name: math.nan})
