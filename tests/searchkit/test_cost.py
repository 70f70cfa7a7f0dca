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


@given(costs, st.integers(1, 12))
def test_even_shares_add_up_to_the_whole(cost: Cost, count: int):
    shares = total(cost.share(count) for _ in range(count))
    for field in fields(Cost):
        assert getattr(shares, field.name) == pytest.approx(getattr(cost, field.name))


def test_bytes_add_up_by_maximum():
    assert (Cost(peak_bytes=3) + Cost(peak_bytes=5)).peak_bytes == 5
    assert Cost(peak_bytes=6).share(3).peak_bytes == 6


def test_passes_and_seconds_are_sums_of_their_phases():
    cost = Cost(denoise_passes=4, clean_passes=1, seconds_generate=1, seconds_decode=2, seconds_score=4)
    assert cost.passes == 5
    assert cost.seconds == 7
