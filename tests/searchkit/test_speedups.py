"""Attention backends, regional compilation and float8 weights change results a little, and nothing else."""

import importlib.util
import shutil

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import Tensor

from searchkit.backbones.load import random_model
from searchkit.backbones.presets import LONGLIVE, REDUCED
from searchkit.backbones.speedups import ATTENTION_BACKENDS, Speedups
from searchkit.fp8 import num_bytes
from searchkit.memory import Block, Memory
from searchkit.model import VideoModel
from searchkit.plan import Workload

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao, which the extra fp8 brings, is not installed"
)


def _make_model(speedups: Speedups = Speedups(), dtype: torch.dtype = torch.float32) -> VideoModel:
    return random_model(LONGLIVE, size=REDUCED, vae_base_dim=4, height=32, width=48, dtype=dtype, speedups=speedups)


@torch.no_grad()
def _flow(model: VideoModel, *, rows: int = 2) -> Tensor:
    """What the network says of a chunk that attends to a memory of itself."""
    noise = torch.randn(rows, 3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    text = model.engine.encode_text(model.encode_text("a cat sits"))
    block, empty = Block(0, 3), model.engine.assemble(Memory())
    block.fill(*model.engine.clean(noise[:1], start_frame=0, prefixes=empty, text=text)[0])
    prefix = model.engine.assemble(Memory(window=(block,)))
    return model.engine.flow(noise, 700.0, start_frame=3, prefixes=prefix, text=text)


def test_native_attention_is_the_default_to_the_bit():
    assert torch.equal(_flow(_make_model(Speedups(attention="native"))), _flow(_make_model()))


def test_chosen_backend_computes_every_attention_of_the_engine(monkeypatch):
    model, calls = _make_model(Speedups(attention="_native_math")), []
    [name] = [name for name in _AttentionBackendRegistry._backends if name.value == "_native_math"]
    backend = _AttentionBackendRegistry._backends[name]

    def counted(*args, **given):
        calls.append(name)
        return backend(*args, **given)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, name, counted)
    flow = _flow(model)
    assert len(calls) == 2 * 2 * REDUCED.num_layers  # a clean pass and a flow, of self- and cross-attention
    torch.testing.assert_close(flow, _flow(_make_model()), atol=1e-5, rtol=1e-5)


def test_backend_of_one_network_is_no_other_ones():
    before = _AttentionBackendRegistry.get_active_backend()
    _make_model(Speedups(attention="_native_math"))
    assert _AttentionBackendRegistry.get_active_backend() == before


def test_known_backends_are_diffusers_ones():
    assert set(ATTENTION_BACKENDS) == {name.value for name in _AttentionBackendRegistry._backends}


def test_unknown_backend_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"attention '_native_cudn' is unknown.*_native_cudnn"):
        Speedups(attention="_native_cudn")


@pytest.mark.skipif(importlib.util.find_spec("sageattention") is not None, reason="SageAttention is installed")
def test_backend_that_is_not_installed_is_refused_before_anything_is_made():
    with pytest.raises(ValueError, match="attention 'sage' cannot be had here"):
        Speedups(attention="sage").check()


def test_float8_without_torchao_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"fp8 needs the package torchao.*searchkit\[fp8\]"):
        Speedups(fp8=True).check()


@needs_torchao
def test_float8_weights_take_the_planned_bytes_and_compute_nearly_the_same():
    whole, small = _make_model(), _make_model(Speedups(fp8=True))
    workload = Workload(size=REDUCED, height=32, width=48)
    assert num_bytes(whole.engine.network) == workload.weight_bytes(itemsize=4)
    assert num_bytes(small.engine.network) == workload.weight_bytes(itemsize=4, fp8=True)
    one, other = _flow(whole), _flow(small)
    assert not torch.equal(one, other)
    assert (one - other).norm() < 0.05 * one.norm()


@pytest.mark.slow  # half a minute of C++ on a CPU
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU by g++")
def test_compiled_blocks_compute_the_same():
    compiled = _make_model(Speedups(compile=True))
    assert all(block._compiled_call_impl is not None for block in compiled.engine.network.blocks)
    torch.testing.assert_close(_flow(compiled), _flow(_make_model()), atol=1e-4, rtol=1e-4)
