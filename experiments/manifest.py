"""What a trial was made with: enough to make it again, and to say what is different where it comes out differently."""

from __future__ import annotations

import enum
import functools
import hashlib
import platform
import subprocess
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from experiments.config import PUBLISHED, Experiment, Trial
from experiments.registry import flat, policy_name
from experiments.worlds import ROOT, SHAPES, world_of

if TYPE_CHECKING:
    from searchkit.model import VideoModel
    from searchkit.video import Pixels

PACKAGES = ("searchkit", "torch", "diffusers", "transformers", "numpy", "safetensors")
# What a trial has one of, or none, and what is no option by itself.
NOT_OPTIONS = ("policies", "num-prompts", "prompts-from", "prompts", "seeds", "placement")


def manifest(experiment: Experiment, trial: Trial, model: VideoModel) -> dict[str, Any]:
    """Returns what makes a trial, as plain values for JSON."""
    import torch

    return {
        "command": command(experiment, trial),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
        "platform": platform.platform(),
        "device": _device(model),
        "threads": torch.get_num_threads(),
        "grouping": {
            "max_batch": model.max_batch,
            "prefix_budget": model.prefix_budget,
            "deterministic": experiment.deterministic,
        },
        "placement": asdict(experiment.placement),
        "weights": {"model": model.checksum, **world_of(experiment).weights(experiment)},
    }


def command(experiment: Experiment, trial: Trial) -> list[str]:
    """Returns the words after `python -m experiments.run` that make this trial alone; every option is among them."""
    options = {
        name.removeprefix(PUBLISHED): value
        for name, value in flat(experiment).items()
        if name.partition(".")[0] not in NOT_OPTIONS and (experiment.model != SHAPES or not name.startswith(PUBLISHED))
    }
    words = [word for name, value in options.items() for word in _words(name, value)]
    words += [f"--seeds={trial.seed}", f"--prompts={trial.prompt}", f"--policy={policy_name(trial.policy)}"]
    return words + [word for name, value in flat(trial.policy, "policy.").items() for word in _words(name, value)]


def fingerprint(pixels: Pixels) -> str:
    """Returns a hash of pixel frames `[F, H, W, 3]`: equal for equal ones alone."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _words(name: str, value: Any) -> list[str]:
    """Returns an option as words of the command line."""
    if isinstance(value, bool):
        *prefix, last = name.split(".")
        return [f"--{'.'.join([*prefix, last if value else f'no-{last}'])}"]
    if isinstance(value, tuple):
        return [f"--{name}", *map(str, value)] if value else []
    if isinstance(value, enum.Enum):
        return [f"--{name}={value.name}"]
    return [f"--{name}={'none' if value is None else value}"]


@functools.cache
def _versions() -> dict[str, str | None]:
    """Returns the versions of packages; None of one that is there without being installed, as a checkout may be."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@functools.cache
def _commit() -> str | None:
    """Returns the commit of the code, marked where files differ from it; None where it is no checkout."""
    described = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _device(model: VideoModel) -> str:
    """Returns the name of what the network runs on."""
    import torch

    device = next(model.engine.network.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
