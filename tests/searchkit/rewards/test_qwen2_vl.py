"""Published names against transformers', and loading that never leaves a weight random."""

import json

import pytest
import torch

from searchkit.backbones.sources import Source
from searchkit.rewards.hpsv3 import HPSv3
from searchkit.rewards.qwen2_vl import load_sizes, load_weights, published_name, transformers_name


def test_names_convert_both_ways(hpsv3, recorded):
    published = recorded("hpsv3").under("weights.").keys() - {"lm_head.weight"}
    converted = {transformers_name(name) for name in published}
    assert converted == hpsv3.network.state_dict().keys()
    assert {published_name(name) for name in converted} == published


def test_every_weight_is_loaded(hpsv3, recorded):
    loaded = hpsv3.network.state_dict()
    weights = recorded("hpsv3").under("weights.")
    del weights["lm_head.weight"]
    assert all(loaded[transformers_name(name)].equal(tensor) for name, tensor in weights.items())


def test_loading_names_missing_unexpected_and_misshaped_and_changes_nothing(hpsv3, recorded):
    before = {name: tensor.clone() for name, tensor in hpsv3.network.state_dict().items()}
    weights = {name: tensor + 1 for name, tensor in recorded("hpsv3").under("weights.").items()}
    del weights["visual.merger.ln_q.bias"]
    weights["model.language_model.norm.weight"] = weights["model.norm.weight"]
    weights["rm_head.5.weight"] = torch.zeros(3, 16)
    complaint = (
        r"missing: visual\.merger\.ln_q\.bias; unexpected: model\.language_model\.norm\.weight; "
        r"mis-shaped: rm_head\.5\.weight \(3, 16\) for \(2, 16\)"
    )
    with pytest.raises(ValueError, match=complaint):
        load_weights(hpsv3.network, weights)
    assert all(before[name].equal(tensor) for name, tensor in hpsv3.network.state_dict().items())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"model_type": "qwen2"}, r"base must be of model type qwen2_vl, but .* is 'qwen2'"),
        ({"model_type": "qwen2_vl", "text_config": {"hidden_size": 8}}, "as published, without text_config"),
    ],
)
def test_sizes_of_another_model_or_format_are_refused(sizes, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    with pytest.raises(ValueError, match=message):
        load_sizes(Source(str(tmp_path)))


@pytest.mark.parametrize(("text", "message"), [(None, r"must hold config\.json"), ("{", "base must have the config")])
def test_missing_and_damaged_sizes_are_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_sizes(Source(str(tmp_path)))


def test_head_stays_float32_where_the_rest_does_not(published):
    folder = str(published("hpsv3"))
    network = HPSv3.load(folder, base=folder, dtype=torch.bfloat16).network
    dtypes = {name: tensor.dtype for name, tensor in network.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if name.startswith("rm_head.")} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if not name.startswith("rm_head.")} == {torch.bfloat16}
