"""The samplers: warped timesteps, and the two kinds of step."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from searchkit.backbones.sampler import Sampler, warp

GOLDEN = Path(__file__).parents[1] / "golden"


def _make_pass(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An input, a network output and a fresh noise."""
    generator = torch.Generator().manual_seed(seed)
    x, flow, fresh = torch.randn(3, 3, 4, 2, 2, generator=generator)
    return x, flow, fresh


def test_default_timesteps_are_those_of_the_release():
    recorded = load_file(GOLDEN / "stream_plain.safetensors")["timesteps"]
    assert Sampler().warped == pytest.approx(recorded.tolist(), abs=1e-4)


def test_shift_of_one_changes_no_timestep():
    assert warp((1000.0, 300.0, 10.0), 1.0) == pytest.approx((1000.0, 300.0, 10.0))


@pytest.mark.parametrize("count", range(1, 17))
def test_other_numbers_of_passes_spread_as_the_samplers_own(count: int):
    spread = Sampler().with_passes(count).timesteps
    assert spread == pytest.approx([1000.0 * (1 - index / count) for index in range(count)])
    assert len(Sampler(timesteps=(1000.0, 900.0, 100.0)).with_passes(count).timesteps) == count


def test_passes_between_uneven_timesteps_lie_on_straight_lines():
    sampler = Sampler(timesteps=(1000.0, 200.0), shift=3.0, kind="euler")
    assert sampler.with_passes(4) == Sampler(timesteps=(1000.0, 600.0, 200.0, 100.0), shift=3.0, kind="euler")
    assert sampler.with_passes(None) is sampler.with_passes(2) is sampler


@pytest.mark.parametrize("count", [0, -3])
def test_less_than_one_pass_is_refused(count: int):
    with pytest.raises(ValueError, match=f"passes must be at least 1 a chunk, got {count}"):
        Sampler().with_passes(count)


def test_renoise_mixes_the_estimate_with_fresh_noise():
    x, flow, fresh = _make_pass()
    step = Sampler().step(x, flow, 1, fresh)
    sigma, sigma_next = 0.9375, 5 * 0.5 / (1 + 4 * 0.5)
    torch.testing.assert_close(step.x0, x - sigma * flow)
    torch.testing.assert_close(step.x_next, (1 - sigma_next) * step.x0 + sigma_next * fresh)


def test_euler_moves_along_the_flow_without_noise():
    x, flow, _ = _make_pass()
    sampler = Sampler(kind="euler", shift=1.0)
    step = sampler.step(x, flow, 1)
    torch.testing.assert_close(step.x_next, x - 0.25 * flow)
    assert sampler.num_renoise == 0


@pytest.mark.parametrize("kind", ["renoise", "euler"])
def test_perfect_flow_leads_back_to_the_clean_chunk(kind):
    clean, noise, fresh = _make_pass()
    sampler = Sampler(kind=kind)
    x, last = noise, noise
    for k in range(sampler.num_passes):
        x, x0 = sampler.step(x, last - clean, k, fresh if k < sampler.num_renoise else None)
        last = fresh if kind == "renoise" else noise
        torch.testing.assert_close(x0, clean)
    assert x is x0


def test_step_keeps_the_inputs_dtype_and_leaves_them_alone():
    x, flow, fresh = (tensor.bfloat16() for tensor in _make_pass())
    before = x.clone()
    for kind in ("renoise", "euler"):
        step = Sampler(kind=kind).step(x, flow, 0, fresh)
        assert step.x_next.dtype == step.x0.dtype == torch.bfloat16
    assert x.equal(before)


def test_renoise_asks_for_the_noise_it_misses():
    x, flow, _ = _make_pass()
    with pytest.raises(ValueError, match="fresh must be a noise tensor after pass 0"):
        Sampler().step(x, flow, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"timesteps": ()},
        {"timesteps": (1001.0,)},
        {"timesteps": (500.0, 500.0)},
        {"timesteps": (500.0, 0.0)},
        {"shift": 0.0},
        {"kind": "heun"},
    ],
)
def test_sampler_refusal_names_option_and_value(options):
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match=f"{name} must") as refusal:
        Sampler(**options)
    assert str(value) in str(refusal.value)
