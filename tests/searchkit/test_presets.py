"""What the published models' presets say, against the facts about them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from searchkit.backbones.presets import LONGLIVE, MODELS, WAN_1_3B, WAN_14B, NetworkSize
from searchkit.memory import MemoryConfig
from searchkit.types import Route

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("size", "billions", "tensors"), [(WAN_1_3B, 1.419, 825), (WAN_14B, 14.288, 1095)])
def test_sizes_are_those_of_the_published_networks(size: NetworkSize, billions, tensors):
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        weights = WanTransformer3DModel(**size.arguments).state_dict()
    assert len(weights) == tensors
    assert sum(weight.numel() for weight in weights.values()) / 1e9 == pytest.approx(billions, abs=5e-4)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_first_chunk_always_takes_the_four_timesteps_of_the_family(model):
    assert model.sampler.with_passes(model.first_passes).warped == pytest.approx([1000, 937.5, 833.3333, 625])


def test_memories_are_those_that_the_models_were_trained_with():
    sizes = {
        name: (memory.chunk_frames, memory.window_frames, memory.sink_frames, memory.positions)
        for name, memory in ((name, model.memory) for name, model in MODELS.items())
    }
    assert sizes == {
        "longlive": (3, 12, 3, "stream"),
        "self-forcing": (3, 21, 0, "stream"),
        "causal-forcing": (3, 21, 0, "stream"),
        "causal-forcing-framewise": (1, 21, 0, "stream"),
        "causal-forcing-2step": (1, 21, 0, "stream"),
        "causal-forcing-1step": (1, 21, 0, "stream"),
        "reward-forcing": (3, 9, 3, "window"),
    }
    assert LONGLIVE.memory == MemoryConfig()  # which is Stream-T1's


def test_only_reward_forcing_averages_what_leaves_the_window():
    assert {name for name, model in MODELS.items() if model.route == Route.EMA_SINK} == {"reward-forcing"}
    assert all(model.route in (Route.EMA_SINK, Route.DISCARD) for model in MODELS.values())


def test_only_longlive_is_not_for_commercial_use():
    assert {name for name, model in MODELS.items() if not model.licence.is_commercial} == {"longlive"}


def test_no_file_is_that_of_two_models():
    files = [(model.repository, checkpoint.path) for model in MODELS.values() for checkpoint in model.checkpoints]
    assert len(set(files)) == len(files) == len(MODELS) + 1  # LongLive's LoRA


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_documentation_says_the_same(model):
    lines = (ROOT / "docs/models.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{model.name}`")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    _, repository, files, chunk, window, sink, positions, passes, licence = cells
    assert repository == model.repository
    assert all(f"`{path}`: {key or 'the tensors alone'}" in files for path, key in model.checkpoints)
    memory = model.memory
    sizes = (memory.chunk_frames, memory.window_frames, memory.sink_frames)
    assert (int(chunk), int(window), int(sink), positions) == (*sizes, memory.positions)
    first = f", the first chunk {model.first_passes}" if model.first_passes else ""
    assert passes == f"{model.sampler.num_passes}{first}"
    assert model.licence.name in licence
    assert ("not for commercial use" in licence) is not model.licence.is_commercial


@pytest.mark.parametrize("module", ["presets", "sources"])
def test_configurations_import_without_torch(module):
    code = f"import sys, searchkit.backbones.{module}; print({{'torch', 'diffusers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
