"""The file that `python -m experiments.calibrate` writes and `--calibration FILE` reads. No torch here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from searchkit.fusion import Calibration, Fusion
from searchkit.types import Policy, Scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from experiments.config import Experiment

SCORED_BY = ("model", "rewards.image", "rewards.video")  # settings that scores are comparable under


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A measured calibration, and what it is of.

    Attributes:
        num_scores: of chunks, that it was measured over.
        scored_by: the model and its rewards, by the names of the command line.
    """

    calibration: Calibration
    num_scores: int
    scored_by: Mapping[str, str]


def calibrated(scores: Sequence[Scores], experiment: Experiment) -> Calibrated:
    """Returns the calibration that gives scores mean 0 and deviation 1.

    Raises:
        ValueError: they do not differ.
    """
    measured: dict[str, float] = {}
    for name in Scores._fields:
        values = [getattr(score, name) for score in scores]
        measured[f"{name}_mean"] = _rounded(fmean(values))
        deviation = _rounded(pstdev(values))
        if not deviation > 0:
            raise ValueError(f"{name} scores of {len(scores)} chunks do not differ: give more prompts, seeds or chunks")
        measured[f"{name}_deviation"] = deviation
    calibration = Calibration(scale="fixed", **measured)
    return Calibrated(calibration=calibration, num_scores=len(scores), scored_by=_scored_by(experiment))


def write(path: Path, one: Calibrated) -> None:
    path.write_text(json.dumps(asdict(one), indent=1) + "\n")


def read(path: Path, experiment: Experiment) -> Calibration:
    """Returns the calibration of a file.

    Raises:
        ValueError: it cannot be read, holds none, or is of another model or other rewards than the experiment's.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        calibration = Calibration(**stored["calibration"])
        scored_by: Mapping[str, str] = dict(stored["scored_by"])
    except OSError as error:
        raise ValueError(f"calibration {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"calibration {str(path)!r} is not of experiments.calibrate: {error}") from error
    for name, value in _scored_by(experiment).items():
        if scored_by.get(name) != value:
            raise ValueError(f"calibration {str(path)!r} is of {name} {scored_by.get(name)}, got {name} {value}")
    return calibration


def with_calibration(policies: Sequence[Policy], calibration: Calibration) -> tuple[Policy, ...]:
    """Returns policies that fuse scores by a calibration; those that fuse none stay as they are.

    Raises:
        ValueError: a policy has another calibration already, or none fuses scores.
    """
    changed: list[Policy] = []
    for policy in policies:
        fusion = getattr(policy, "fusion", None)
        if not isinstance(fusion, Fusion):
            changed.append(policy)
            continue
        if fusion.calibration not in (Calibration(), calibration):
            raise ValueError(f"calibration takes the place of fusion.calibration, got scale {fusion.calibration.scale}")
        options: Any = policy
        changed.append(replace(options, fusion=replace(fusion, calibration=calibration)))
    if not any(isinstance(getattr(policy, "fusion", None), Fusion) for policy in policies):
        raise ValueError("calibration is for policies that fuse scores, such as stream-t1: none of these does")
    return tuple(changed)


def _scored_by(experiment: Experiment) -> dict[str, str]:
    settings = {"model": experiment.model, **experiment.settings()}
    return {name: str(settings[name]) for name in SCORED_BY if name in settings}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")  # which is more than they are known to
