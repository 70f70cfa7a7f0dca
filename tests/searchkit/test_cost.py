"""Costs are values that add up."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchkit.cost import Cost, total

costs = st.builds(Cost, **{field.name: st.integers(0, 10**9) for field in fields(Cost)})


@given(costs, costs, costs)
def test_costs_add_up_in_any_order(a: Cost, b: Cost, c: Cost):
    assert a + b == b + a
    assert (a + b) + c == a + (b + c) == total([a, b, c])


@given(costs)
def test_nothing_costs_nothing(cost: Cost):
    assert cost + Cost() == cost
    assert total([]) == Cost()


@given(costs, costs)
def test_cost_since_a_part_is_the_rest(a: Cost, b: Cost):
    rest = (a + b).since(a)
    for field in fields(Cost):
        of_both = max(getattr(a, field.name), getattr(b, field.name))
        assert getattr(rest, field.name) == (of_both if field.name.startswith("peak") else getattr(b, field.name))
    assert a + rest == a + b
    assert a.since(Cost()) == a


@given(costs)
def test_nothing_but_peaks_was_spent_since_a_moment_ago(cost: Cost):
    rest = cost.since(cost)
    assert (rest.passes, rest.calls, rest.seconds, rest.prefixes) == (0, 0, 0, 0)
    assert rest.peak_bytes == cost.peak_bytes


@given(costs, st.integers(1, 12))
def test_even_shares_add_up_to_the_whole(cost: Cost, count: int):
    shares = total(cost.share(count) for _ in range(count))
    for field in fields(Cost):
        assert getattr(shares, field.name) == pytest.approx(getattr(cost, field.name))


@pytest.mark.parametrize("name", ["peak_bytes", "peak_block_bytes", "peak_prefix_bytes", "peak_cache_bytes"])
def test_bytes_add_up_by_maximum(name: str):
    assert getattr(Cost(**{name: 3}) + Cost(**{name: 5}), name) == 5
    assert getattr(Cost(**{name: 6}).share(3), name) == 6


def test_passes_calls_and_seconds_are_sums_of_their_phases():
    cost = Cost(denoise_passes=4, clean_passes=1, seconds_generate=1, seconds_decode=2, seconds_score=4)
    assert cost.passes == 5
    assert cost.seconds == 7
    assert Cost(denoise_calls=3, clean_calls=2).calls == 5
