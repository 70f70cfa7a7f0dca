"""Recorded runs of HPSv3's and VideoReward's own code, and the rewards loaded from files as they are published."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.verify.recording import Recording, load
from experiments.verify.rewards import publish
from searchkit.rewards.hpsv3 import HPSv3
from searchkit.rewards.videoreward import VideoReward

RECORDINGS = Path(__file__).parents[2] / "golden" / "rewards"


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], Recording]:
    return lambda name: load(RECORDINGS / name)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a new folder with the tiny weights of a reward, its config.json and tokenizer."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        publish(load(RECORDINGS / name), RECORDINGS / f"tiny_processor_{name}", folder)
        return folder

    return make


@pytest.fixture(scope="session")
def hpsv3(published: Callable[[str], Path]) -> HPSv3:
    folder = str(published("hpsv3"))
    return HPSv3.load(folder, base=folder, dtype=torch.float32)


@pytest.fixture(scope="session")
def videoreward(published: Callable[[str], Path]) -> VideoReward:
    folder = str(published("videoreward"))
    return VideoReward.load(folder, base=folder, fps=16, dtype=torch.float32)


@pytest.fixture
def make_frames() -> Callable[..., Tensor]:
    """Makes seeded frames `[B, F, 3, H, W]` in [0, 1]."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))

    return make
