"""Original Wan names against diffusers': a bijection, and strict loading."""

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from searchkit.backbones.convert import diffusers_config, diffusers_name, load, original_name

GOLDEN = Path(__file__).parents[1] / "golden"


def _make_network() -> WanTransformer3DModel:
    return WanTransformer3DModel(**diffusers_config(_make_config()))


def _make_config() -> dict:
    return {
        "model_type": "t2v", "patch_size": [1, 2, 2], "dim": 48, "num_heads": 2, "num_layers": 2,
        "ffn_dim": 96, "in_dim": 16, "out_dim": 16, "text_dim": 24, "freq_dim": 32, "qk_norm": True,
        "cross_attn_norm": True, "eps": 1e-6,
    }  # fmt: skip


def _make_weights() -> dict[str, torch.Tensor]:
    tensors = load_file(GOLDEN / "stream_plain.safetensors")
    return {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}


def test_names_convert_both_ways():
    originals = set(_make_weights())
    converted = {diffusers_name(name) for name in originals}
    assert converted == set(_make_network().state_dict())
    assert {original_name(name) for name in converted} == originals


def test_norms_of_a_block_swap():
    assert diffusers_name("blocks.11.norm3.weight") == "blocks.11.norm2.weight"
    assert original_name("blocks.11.norm2.weight") == "blocks.11.norm3.weight"


def test_wrappers_of_training_drop_out_of_names():
    wrapped = "model._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.self_attn.q._orig_mod.weight"
    assert diffusers_name(wrapped) == "blocks.0.attn1.to_q.weight"


def test_loading_keeps_every_value():
    network, weights = _make_network(), _make_weights()
    load(network, {f"model.{name}": tensor for name, tensor in weights.items()})
    loaded = network.state_dict()
    assert all(loaded[diffusers_name(name)].equal(tensor) for name, tensor in weights.items())


def test_loading_names_missing_unexpected_and_misshaped_and_changes_nothing():
    network, weights = _make_network(), _make_weights()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    del weights["blocks.1.norm3.weight"]
    weights["blocks.7.ffn.0.bias"] = torch.zeros(96)
    weights["head.head.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as refusal:
        load(network, weights)
    assert "missing: blocks.1.norm3.weight" in str(refusal.value)
    assert "unexpected: blocks.7.ffn.0.bias" in str(refusal.value)
    assert "mis-shaped: head.head.bias (3,) for (64,)" in str(refusal.value)
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("option", "value"), [("model_type", "i2v"), ("qk_norm", False)])
def test_config_refusal_names_option_and_value(option, value):
    with pytest.raises(ValueError, match=f"{option} must .*got {value}"):
        diffusers_config({**_make_config(), option: value})
