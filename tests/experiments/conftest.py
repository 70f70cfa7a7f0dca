"""The shapes world with small untrained weights of its own, so that command lines run in a moment.

Only data is replaced: the code that loads, checks and runs the models is the shipped one.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from envs.shapes import model
from envs.shapes.codec import Codec
from envs.shapes.rewards import ImageReward, VideoReward

SMALL = {**model.NETWORK, "num_layers": 1, "ffn_dim": 64}


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of untrained weights with their checksums."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "NETWORK", SMALL)
        torch.manual_seed(0)
        modules = {
            "generator": model.untrained_network(0),
            "codec": Codec(),
            "image_reward": ImageReward(),
            "video_reward": VideoReward(),
        }
    for name, module in modules.items():
        save_file(module.state_dict(), folder / f"{name}.safetensors")
    write_checksums(folder)
    return folder


def write_checksums(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    rows = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (folder / "SHA256SUMS").write_text("".join(rows))


@pytest.fixture
def small_world(small_weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Runs a test with the small weights, in an empty working folder."""
    monkeypatch.setattr(model, "NETWORK", SMALL)
    monkeypatch.setattr(model, "WEIGHTS", small_weights)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    forget_models()
    yield tmp_path
    forget_models()


def forget_models() -> None:
    model.load_model.cache_clear()
    model.load_scorer.cache_clear()
