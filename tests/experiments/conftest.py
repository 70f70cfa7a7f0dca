"""The shapes world with small untrained weights of its own, so that command lines run in a moment.

Only data is replaced: the code that loads, checks and runs the models is the shipped one.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from envs.shapes import model
from envs.shapes.codec import Codec
from envs.shapes.rewards import ImageReward, VideoReward
from experiments.engines import making

SMALL = {**model.NETWORK, "num_layers": 1, "ffn_dim": 64}
# A module of a user's own, which workers import before they load the models: so they get the small weights, too.
OWN_MODULE = '''
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from envs.shapes import model
from policies import BestOfN
from searchkit.search import staged
from searchkit.types import Action, Request

model.NETWORK = {network}
model.WEIGHTS = Path({weights!r})


@dataclass(frozen=True, kw_only=True)
class Own(BestOfN):
    """Best-of-N that may go wrong.

    Attributes:
        fault: how.
        at: with which seed; None for all.
    """

    fault: str = "none"
    at: int | None = None

    def __call__(self, problem, *, seed):
        with open("attempts.txt", "a") as attempts:
            print(seed, file=attempts)
        return super().__call__(problem if self.at not in (None, seed) else Faulty(problem, self.fault), seed=seed)


class Faulty:
    """A problem that goes wrong with its second chunk."""

    def __init__(self, problem, fault):
        self.problem, self.fault = problem, fault

    def __getattr__(self, name):
        return getattr(self.problem, name)

    def expand(self, requests):
        if requests[0].state.chunk == 1:
            self.go_wrong(requests)
        with open("chunks.txt", "a") as chunks:
            print(requests[0].state.chunk, file=chunks)
        return self.problem.expand(requests)

    def go_wrong(self, requests):
        match self.fault:
            case "own":
                raise OwnError(self, "a fault of my own")
            case "own-once" if is_first():
                raise OwnError(self, "a fault that passes")
            case "ours":
                stages = staged(self.problem)
                stages.advance(stages.start(requests), passes=99)
            case "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            case "death":
                os._exit(3)
            case "death-once" if is_first():
                os.kill(os.getpid(), signal.SIGKILL)
            case "interrupt":
                os.kill(int(Path("engine.pid").read_text()), signal.SIGINT)
            case "SIGINT" | "SIGTERM":
                os.kill(os.getpid(), signal.Signals[self.fault])
            case "SIGINT-twice":
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)


def is_first():
    try:
        Path("first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class OwnError(ValueError):
    """An error that cannot travel between processes."""

    def __init__(self, policy, text):
        super().__init__(text)
'''


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


@pytest.fixture
def own_module(small_world: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Writes a module of a user's own into the working folder and returns its name."""
    name = "own_engine_policy"
    (small_world / f"{name}.py").write_text(OWN_MODULE.format(network=SMALL, weights=str(small_weights)))
    monkeypatch.syspath_prepend(small_world)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def forget_models() -> None:
    model.load_model.cache_clear()
    model.load_scorer.cache_clear()


@pytest.fixture
def stop_after_one(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """Makes all trials after the first one meet a fault, until what it returns is called."""

    def stop(fault: type[BaseException] = KeyboardInterrupt) -> Callable[[], None]:
        whole, made = making.run_trial, []

        def stopped(*args, **kwargs):
            if made:
                raise fault
            made.append(1)
            return whole(*args, **kwargs)

        monkeypatch.setattr(making, "run_trial", stopped)
        return lambda: monkeypatch.setattr(making, "run_trial", whole)

    return stop
