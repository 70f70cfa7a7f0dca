"""Seeds to noise, and noise from chunk to chunk."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from searchkit.noise import derive_seed, draw, propagate

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
