"""Seeds to noise, and noise from chunk to chunk."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from searchkit.noise import counted_seed, derive_seed, draw, propagate

SHAPE = (3, 16, 8, 8)
seeds = st.integers(0, 2**62)
lineages = st.lists(seeds, max_size=4)


@given(seeds, lineages, st.integers(0, 100))
def test_derived_seed_is_a_generators_seed_and_depends_on_its_arguments_only(
    trial_seed: int, lineage: list[int], index: int
):
    seed = derive_seed(trial_seed, lineage, index)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(trial_seed, tuple(lineage), index)


@given(st.sets(st.tuples(seeds, st.lists(seeds, max_size=3).map(tuple), st.integers(0, 9)), min_size=2))
def test_trials_branches_and_siblings_never_share_a_seed(places: set[tuple[int, tuple[int, ...], int]]):
    assert len({derive_seed(*place) for place in places}) == len(places)


def test_derived_seeds_stay_what_they_were():
    """Recorded runs replay only while this holds."""
    assert derive_seed(0, (), 0) == 4467769355181330509
    assert derive_seed(1, (2, 3), 4) == 4870259398787313408


@pytest.mark.parametrize(
    ("chunk", "rank", "index", "seed"), [(0, 0, 0, 7), (0, 0, 5, 12), (1, 0, 1, 1008), (2, 1, 3, 2110), (6, 3, 9, 6316)]
)
def test_counted_seeds_are_those_of_the_release(chunk: int, rank: int, index: int, seed: int):
    assert counted_seed(7, chunk=chunk, rank=rank, index=index) == seed


@given(st.integers(0, 10**6), st.integers(0, 50))
def test_counted_seeds_of_a_trial_differ_among_ten_beams_of_a_hundred_children(trial_seed: int, chunk: int):
    places = [(chunk + later, rank, index) for later in (0, 1) for rank in range(10) for index in range(100)]
    seeds = {counted_seed(trial_seed, chunk=chunk, rank=rank, index=index) for chunk, rank, index in places}
    assert len(seeds) == len(places)


def test_counted_seeds_come_back_in_another_trial():
    assert counted_seed(1000, chunk=0, rank=0, index=1) == counted_seed(0, chunk=1, rank=0, index=1)


def test_same_seed_draws_the_same_noise():
    assert all(a.equal(b) for a, b in zip(draw(5, SHAPE, count=3), draw(5, SHAPE, count=3), strict=True))
    assert not draw(5, SHAPE, count=1)[0].equal(draw(6, SHAPE, count=1)[0])


def test_first_noise_does_not_depend_on_how_many_follow():
    assert draw(5, SHAPE, count=1)[0].equal(draw(5, SHAPE, count=4)[0])


def test_noise_is_standard_normal_in_float32_on_the_cpu():
    noise = draw(0, (16, *SHAPE), count=1)[0]
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("correlation", [-1.0, -0.5, -0.1, 0.0, 0.3, 0.9, 1.0])
def test_propagated_noise_has_unit_variance_and_the_correlation_asked_for(correlation: float):
    noise = torch.randn(50_000, generator=torch.Generator().manual_seed(1))
    for seed in range(2, 12):
        previous, fresh = noise, torch.randn(50_000, generator=torch.Generator().manual_seed(seed))
        noise = propagate(previous, fresh, correlation)
        assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
        assert float((noise * previous).mean()) == pytest.approx(correlation, abs=0.02)


@pytest.mark.parametrize(("correlation", "deviation"), [(-0.1, 0.895), (0.0, 1.0), (0.5, 1.366)])
def test_noise_that_returns_loses_or_gains_deviation(correlation: float, deviation: float):
    """Where a seed is used again, the fresh noise is not independent of the last chunk's."""
    [noise] = draw(3, SHAPE, count=1)
    again = propagate(noise, draw(3, SHAPE, count=1)[0], correlation)
    torch.testing.assert_close(again, (correlation + math.sqrt(1.0 - correlation**2)) * noise)
    assert float(again.std() / noise.std()) == pytest.approx(deviation, abs=1e-3)


def test_first_chunk_takes_fresh_noise():
    fresh = torch.randn(8)
    assert propagate(None, fresh, 0.7).equal(fresh)


def test_propagating_changes_neither_noise():
    previous, fresh = torch.ones(4), torch.full((4,), 2.0)
    propagate(previous, fresh, 0.5)
    assert previous.eq(1.0).all()
    assert fresh.eq(2.0).all()


@pytest.mark.parametrize("correlation", [-1.01, 1.5, float("nan")])
def test_correlation_out_of_range_is_refused_even_for_the_first_chunk(correlation: float):
    with pytest.raises(ValueError, match=f"noise_correlation must be from -1 to 1, got {correlation}"):
        propagate(None, torch.zeros(1), correlation)
