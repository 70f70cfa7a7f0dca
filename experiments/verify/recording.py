"""Recorded runs, and what a replay of one is compared with.

A recorded run is a `.json` and mostly a `.safetensors` (see `tests/golden`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # `--help` must not wait for torch
    from torch import Tensor

    from searchkit.backbones.wan import CausalWan
    from searchkit.memory import MemoryConfig


@dataclass(frozen=True)
class Recording:
    """A recorded run: settings and small facts from its JSON, tensors by name."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Returns the tensors whose names start with `prefix`, named by the rest."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


class Pair(NamedTuple):
    """A value as it was recorded and as it was replayed: tensors, numbers, or what else can be equal.

    is_exact: whether the two must agree to the bit. What are neither tensors nor floats always must.
    tolerance: largest difference allowed, where it is not the replay's.
    """

    quantity: str
    recorded: Any
    replayed: Any
    is_exact: bool = False
    tolerance: float | None = None


class Check(NamedTuple):
    """The largest difference among the pairs of one quantity; 1 where a fact differs."""

    quantity: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


def load(path: Path) -> Recording:
    """Returns the run recorded at `path`, which has no ending.

    Raises:
        ValueError: there is no such run, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts, file = load_facts(path), _find(path, ".safetensors")
    try:
        return Recording(facts, load_file(file))
    except SafetensorError as error:
        raise ValueError(f"path {path} names a damaged run: {error}") from error


def load_facts(path: Path) -> dict[str, Any]:
    """Returns the settings and small facts of the run recorded at `path`, which has no ending.

    Raises:
        ValueError: there is no such run, or it is damaged.
    """
    file = _find(path, ".json")
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"path {path} names a damaged run: {error}") from error
    return facts


def _find(path: Path, ending: str) -> Path:
    file = path.with_name(path.name + ending)
    if not file.is_file():
        hint = f" ({path} is a folder: name a run in it)" if path.is_dir() else ""
        raise ValueError(f"path must name a recorded run, but there is no file {file}{hint}")
    return file


def compare(pairs: Iterable[Pair], tolerance: float) -> list[Check]:
    """Returns one check a quantity, in the order of their first appearance."""
    checks: dict[str, Check] = {}
    for pair in pairs:
        is_exact = pair.is_exact or not _is_inexact(pair.recorded)
        difference = _difference(pair.recorded, pair.replayed)
        before = checks.get(pair.quantity, Check(pair.quantity, 0.0, math.inf))
        allowed = 0.0 if is_exact else tolerance if pair.tolerance is None else pair.tolerance
        checks[pair.quantity] = Check(pair.quantity, max(before.difference, difference), min(before.tolerance, allowed))
    return list(checks.values())


def load_engine(recording: Recording) -> CausalWan:
    """Returns the engine of the recorded network, whose weights have the original code's names."""
    from diffusers import WanTransformer3DModel

    from searchkit.backbones.convert import diffusers_config, load
    from searchkit.backbones.wan import CausalWan

    network = WanTransformer3DModel(**diffusers_config(recording.facts["config"]))
    load(network, recording.under("weights."))
    return CausalWan(network, latent_size=(recording.facts["latent_height"], recording.facts["latent_width"]))


def memory_config(recording: Recording) -> MemoryConfig:
    """Returns the recorded network's sizes of memory."""
    from searchkit.memory import MemoryConfig

    original = recording.facts["config"]
    return MemoryConfig(
        chunk_frames=recording.tensors["noise.0"].shape[0],
        window_frames=original["local_attn_size"],
        sink_frames=original["sink_size"],
        max_sink_frames=original["max_sink_size"],
    )


def _is_inexact(value: Any) -> bool:
    return isinstance(value, float) or hasattr(value, "shape")


def _difference(recorded: Any, replayed: Any) -> float:
    """Returns the largest difference; infinity for a tensor that is missing, of another shape, or has a NaN."""
    if isinstance(recorded, float):
        difference = abs(recorded - replayed)
    elif not hasattr(recorded, "shape"):
        return float(recorded != replayed)
    elif replayed is None or recorded.shape != replayed.shape:
        return math.inf
    else:
        difference = float((recorded - replayed).abs().max())
    return math.inf if math.isnan(difference) else difference  # `max` would lose a NaN
