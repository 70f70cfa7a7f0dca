"""Conversion of published checkpoints, on tiny ones in the published formats."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from experiments import convert as command
from experiments.convert import convert
from searchkit.backbones.convert import diffusers_name
from searchkit.backbones.presets import LONGLIVE, MODELS, SELF_FORCING, NetworkSize, PublishedModel

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
SIZE = NetworkSize(num_layers=2, num_heads=2, head_dim=24, ffn_dim=96, freq_dim=32, text_dim=24)  # the golden runs'
RANK, ALPHA = 3, 6.0
WRAPPED = "model._fsdp_wrapped_module."


def _make_model(model: PublishedModel) -> PublishedModel:
    lora = model.lora and model.lora._replace(rank=RANK, alpha=ALPHA)
    return replace(model, size=SIZE, lora=lora)


def _make_weights() -> dict[str, Tensor]:
    tensors = load_file(GOLDEN / "stream_plain.safetensors")
    return {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}


def _make_lora() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, weight in _make_weights().items():
        if name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2:
            base = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{base}.lora_A.weight"] = torch.randn(RANK, weight.shape[1], generator=generator)
            tensors[f"{base}.lora_B.weight"] = torch.randn(weight.shape[0], RANK, generator=generator)
    return tensors


def _write(folder: Path, model: PublishedModel, *contents: dict[str, Tensor]) -> Path:
    """Writes the files of a model with these tensors, as they are published."""
    for checkpoint, tensors in zip(model.checkpoints, contents, strict=True):
        path = folder / checkpoint.path
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({checkpoint.key: tensors, "step": 600} if checkpoint.key else tensors, path)
    return folder


def _publish(folder: Path, model: PublishedModel) -> Path:
    weights = {WRAPPED + name: tensor for name, tensor in _make_weights().items()}
    return _write(folder, model, *([weights] if model.lora is None else [weights, _make_lora()]))


def _load(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    network, info = WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return network.state_dict()


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


# What comes out


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.lora is None])
def test_every_published_format_converts_to_the_same_values(tmp_path, name):
    model = _make_model(MODELS[name])
    assert convert(model, _publish(tmp_path / "in", model), tmp_path / "out", dtype="float32")
    loaded = _load(tmp_path / "out")
    weights = _make_weights()
    assert len(loaded) == len(weights)
    assert all(loaded[diffusers_name(name)].equal(tensor) for name, tensor in weights.items())


def test_lora_is_merged_into_every_linear_layer_of_the_blocks_and_into_nothing_else(tmp_path):
    model = _make_model(LONGLIVE)
    convert(model, _publish(tmp_path / "in", model), tmp_path / "out", dtype="float32")
    loaded, lora = _load(tmp_path / "out"), _make_lora()
    for name, weight in _make_weights().items():
        base = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{base}.lora_A.weight" in lora:
            update = lora.pop(f"{base}.lora_B.weight") @ lora.pop(f"{base}.lora_A.weight")
            torch.testing.assert_close(loaded[diffusers_name(name)], weight + ALPHA / RANK * update)
        else:
            assert loaded[diffusers_name(name)].equal(weight)
    assert not lora


def test_bfloat16_is_what_is_merged_in_float32_and_rounded_once(tmp_path):
    model = _make_model(LONGLIVE)
    source = _publish(tmp_path / "in", model)
    convert(model, source, tmp_path / "full", dtype="float32")
    convert(model, source, tmp_path / "half")
    full = load_file(tmp_path / "full/diffusion_pytorch_model.safetensors")
    half = load_file(tmp_path / "half/diffusion_pytorch_model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 and tensor.equal(full[name].bfloat16()) for name, tensor in half.items())
    assert _load(tmp_path / "half", torch.bfloat16).keys() == full.keys()


def test_large_networks_are_written_in_several_files(tmp_path):
    model = _make_model(SELF_FORCING)
    source = _publish(tmp_path / "in", model)
    convert(model, source, tmp_path / "one", dtype="float32")
    convert(model, source, tmp_path / "many", dtype="float32", max_shard_size="200KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = _load(tmp_path / "one"), _load(tmp_path / "many")
    assert all(tensor.equal(one[name]) for name, tensor in many.items())


def test_files_may_lie_side_by_side(tmp_path):
    model = _make_model(LONGLIVE)
    for path in _publish(tmp_path / "in", model).rglob("*.pt"):
        path.rename(tmp_path / path.name)
    assert convert(model, tmp_path, tmp_path / "out")


# Once is enough


def test_the_same_files_are_converted_once(tmp_path):
    model = _make_model(LONGLIVE)
    source, out = _publish(tmp_path / "in", model), tmp_path / "out"
    assert convert(model, source, out)
    before = _files(out)
    assert not convert(model, source, out)
    assert _files(out) == before
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("in", "out")] == []


def test_earlier_folder_stays_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    model, rename = _make_model(SELF_FORCING), Path.rename
    source, out = _publish(tmp_path / "in", model), tmp_path / "out"
    convert(model, source, out)
    before = _files(out)

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        convert(model, source, out, dtype="float32")
    assert _files(out) == before


@pytest.mark.parametrize("change", ["source", "dtype", "damage", "loss"])
def test_whatever_changes_is_converted_again(tmp_path, change):
    model = _make_model(SELF_FORCING)
    source, out = _publish(tmp_path / "in", model), tmp_path / "out"
    convert(model, source, out)
    weights = out / "diffusion_pytorch_model.safetensors"
    if change == "source":
        _write(source, model, {name: 2 * tensor for name, tensor in _make_weights().items()})
    elif change == "damage":
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    elif change == "loss":
        weights.unlink()
    dtype = "float32" if change == "dtype" else "bfloat16"
    assert convert(model, source, out, dtype=dtype)
    assert not convert(model, source, out, dtype=dtype)
    factor = 2 if change == "source" else 1
    expected = factor * _make_weights()["head.head.weight"].to(getattr(torch, dtype))
    assert load_file(weights)["proj_out.weight"].equal(expected)


# Refusals


def test_folder_with_other_files_is_refused_and_stays_as_it_is(tmp_path):
    model = _make_model(SELF_FORCING)
    source, out = _publish(tmp_path / "in", model), tmp_path / "out"
    convert(model, source, out)
    (out / "notes.txt").write_text("mine")
    before = _files(out)
    with pytest.raises(ValueError, match=r"holds notes\.txt"):
        convert(model, source, out, dtype="float32")
    assert _files(out) == before
    assert not convert(model, source, out)


def test_missing_unexpected_and_misshaped_keys_are_named_and_nothing_is_written(tmp_path):
    model = _make_model(SELF_FORCING)
    weights = _make_weights()
    del weights["blocks.1.norm3.weight"]
    weights["blocks.7.ffn.0.bias"] = torch.zeros(96)
    weights["head.head.bias"] = torch.zeros(3)
    source = _write(tmp_path / "in", model, weights)
    with pytest.raises(ValueError) as refusal:
        convert(model, source, tmp_path / "out")
    assert "missing: blocks.1.norm3.weight;" in str(refusal.value)
    assert "unexpected: blocks.7.ffn.0.bias;" in str(refusal.value)
    assert "mis-shaped: head.head.bias (3,) for (64,)" in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_missing_unexpected_and_misshaped_factors_are_named(tmp_path):
    model = _make_model(LONGLIVE)
    lora = _make_lora()
    del lora["base_model.model.blocks.1.cross_attn.o.lora_B.weight"]
    lora["base_model.model.head.head.lora_A.weight"] = torch.zeros(RANK, 48)
    lora["base_model.model.blocks.0.ffn.0.lora_A.weight"] = torch.zeros(RANK + 1, 48)
    source = _write(tmp_path / "in", model, _make_weights(), lora)
    with pytest.raises(ValueError) as refusal:
        convert(model, source, tmp_path / "out")
    assert "missing: base_model.model.blocks.1.cross_attn.o.lora_B.weight;" in str(refusal.value)
    assert "unexpected: base_model.model.head.head.lora_A.weight;" in str(refusal.value)
    assert "mis-shaped: base_model.model.blocks.0.ffn.0.lora_A.weight (4, 48) for (3, 48)" in str(refusal.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"source must hold models/longlive_base\.pt"):
        convert(_make_model(LONGLIVE), tmp_path, tmp_path / "out")


def test_file_of_another_model_is_refused_by_its_keys(tmp_path):
    model = _make_model(SELF_FORCING)
    path = tmp_path / model.checkpoint.path
    path.parent.mkdir()
    torch.save({"generator": _make_weights(), "critic": {}}, path)
    with pytest.raises(ValueError, match="must hold 'generator_ema', got critic, generator"):
        convert(model, tmp_path, tmp_path / "out")


class _Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["SEARCHKIT_TEST_TRAP"],)


def test_code_in_a_file_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHKIT_TEST_TRAP", str(tmp_path / "trap"))
    model = _make_model(SELF_FORCING)
    source = _write(tmp_path / "in", model, {**_make_weights(), "code": _Code()})
    with pytest.raises(ValueError, match=r"self_forcing_dmd\.pt is damaged or holds more than tensors: \w+\.mkdir, "):
        convert(model, source, tmp_path / "out")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half"])
def test_damaged_file_is_named(tmp_path, content):
    model = _make_model(SELF_FORCING)
    path = tmp_path / model.checkpoint.path
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"self_forcing_dmd\.pt is damaged"):
        convert(model, tmp_path, tmp_path / "out")


# The command


def test_command_converts_once_and_says_so_with_the_licence(tmp_path, monkeypatch, capsys):
    model = _make_model(LONGLIVE)
    monkeypatch.setattr(command, "MODELS", {"longlive": model})
    source, out = _publish(tmp_path / "in", model), tmp_path / "out"
    command.main("longlive", source, out)
    assert "is written: longlive, bfloat16" in (said := capsys.readouterr().out)
    assert "CC BY-NC-SA 4.0, not for commercial use" in said
    command.main("longlive", source, out)
    assert "is there already" in capsys.readouterr().out


def test_command_names_the_nearest_model(tmp_path):
    with pytest.raises(SystemExit, match="'long-live' is unknown: the nearest is 'longlive'"):
        command.main("long-live", tmp_path, tmp_path / "out")


def test_help_needs_no_torch():
    code = "import sys, experiments.convert; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
