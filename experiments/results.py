"""What an experiment leaves behind: a folder a trial, named by the hash of what determines its result, and tables.

    OUT/experiment.json             marks the folder, and says whose it is
    OUT/trials/HASH/trial.json      identity, result, what made it; video.mp4, clips/ and candidates.parquet beside it
    OUT/trials/.HASH.unfinished     the journal of a search that was not finished
    OUT/scores/                     scores of candidates that may come again
    OUT/results.parquet             one row a trial
    OUT/candidates.parquet          one row a candidate
    OUT/segments.parquet            one row for every 5 s of a trial's video

A trial's folder is written beside its place and renamed when finished: one that is there is whole, and one that is not
whole any more is set aside.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.clips import Cell, write_clips
from experiments.config import Experiment, Trial
from experiments.manifest import fingerprint
from experiments.registry import flat, plain, policy_name
from experiments.tables import Tables, with_nulls, write_candidates, write_tables
from experiments.trials import Outcome, Point, Result, Segment
from experiments.worlds import world_of
from searchkit.cost import Cost

if TYPE_CHECKING:
    from searchkit.rewards.known import KnownScores

log = logging.getLogger(__name__)

MARKER = "experiment.json"
FORMAT = 5  # of the folder


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A trial that is done, and the folder that holds it."""

    trial: Trial
    result: Result
    folder: Path

    @property
    def video(self) -> Path:
        return self.folder / "video.mp4"


class Folder:
    """An experiment's output folder, which it has claimed.

    Args:
        model_checksum: of the weights that make and score the videos.
        has_clips: whether trials keep pictures of their candidates.
    """

    def __init__(self, path: Path, experiment: Experiment, *, model_checksum: str, has_clips: bool = True) -> None:
        self.path = path
        self.experiment = experiment
        self.has_clips = has_clips
        self._model_checksum = model_checksum

    def place(self, trial: Trial) -> Path:
        """Returns where a trial's folder is, or will be."""
        return self._place(self._identity(trial))

    def journal(self, trial: Trial) -> Path:
        """Returns where a trial is written down until it is finished."""
        return _beside(self.place(trial), "unfinished")

    def find(self, trial: Trial) -> Finished | None:
        """Returns the trial if it is done; one that is damaged is set aside, and is not done."""
        folder = self.place(trial)
        if not folder.exists():
            return None
        try:
            stored = json.loads((folder / "trial.json").read_text())
            result = _result(stored["result"])
            damaged = _damaged(folder, stored["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            damaged = "trial.json"
        if damaged is not None:
            self._set_aside(folder, damaged)
            return None
        return Finished(trial=trial, result=result, folder=folder)

    def store(self, trial: Trial, outcome: Outcome, *, fps: int) -> Finished:
        """Writes a finished trial.

        Raises:
            OSError: it cannot be written; nothing of it is left then but its journal.
        """
        from searchkit.video import write_video

        identity = self._identity(trial)
        folder = self._place(identity)
        beside, journal = _beside(folder, "stored"), _beside(folder, "unfinished")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            write_video(beside / "video.mp4", outcome.pixels, fps)
            order = [record.lineage for record in outcome.records if record.pruned_after is None]
            size = Cell(*outcome.pixels.shape[1:3])
            write_clips(beside / "clips", outcome.sheets, order, size=size, fps=fps)
            write_candidates(beside / "candidates.parquet", outcome, folder.name)
            files = {str(path.relative_to(beside)): path.stat().st_size for path in beside.rglob("*") if path.is_file()}
            stored = {
                "identity": identity,
                "result": _stored(outcome.result),
                "pixels": fingerprint(outcome.pixels),
                "made-with": outcome.made_with,
                "files": files,
            }
            (beside / "trial.json").write_text(json.dumps(stored, indent=1, allow_nan=False))
            if not folder.exists():  # what a process has stored that has died since is the same
                os.replace(beside, folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        shutil.rmtree(beside, ignore_errors=True)
        with suppress(OSError):
            journal.unlink()
        return Finished(trial=trial, result=outcome.result, folder=folder)

    @functools.cached_property
    def known_scores(self) -> KnownScores:
        """The scores that trials of this folder share."""
        from searchkit.rewards.known import KnownScores

        return KnownScores(self.path / "scores", scored_by=_hash(self._shared))

    def _set_aside(self, folder: Path, damaged: str) -> None:
        aside = _beside(folder, f"damaged-{time.time_ns()}")
        os.replace(folder, aside)
        log.warning(
            "trial folder %s is damaged (%s): it is set aside as %s, and the trial is run again",
            folder,
            damaged,
            aside.name,
        )

    def write_tables(self, finished: Sequence[Finished]) -> Tables:
        """Writes the tables of the experiment and returns their paths."""
        return write_tables(self.path, finished)

    @functools.cached_property
    def _shared(self) -> dict[str, Any]:
        """What determines the results of all trials alike."""
        settings = plain(self.experiment.settings())
        for name in ("prompts", "seeds"):  # a trial has its own
            del settings[name]
        return {
            "format": FORMAT,
            "model": self._model_checksum,
            "other-weights": world_of(self.experiment).weights(self.experiment),
            "code": _code_hash(world_of(self.experiment).sources(self.experiment)),
            **settings,
        }

    def _place(self, identity: Mapping[str, Any]) -> Path:
        return self.path / "trials" / _hash(identity)

    def _identity(self, trial: Trial) -> dict[str, Any]:
        return {
            **self._shared,
            "policy": policy_name(trial.policy),
            "policy-code": _code_hash(_files_of(type(trial.policy))),
            "options": plain(flat(trial.policy)),
            "prompt": trial.prompt,
            "seed": trial.seed,
        }


def _beside(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}.{what}")


def default_path(preset: str, experiment: Experiment) -> Path:
    """Returns a folder of the experiment's own under runs/."""
    text = json.dumps(experiment.describe(), sort_keys=True)
    return Path("runs") / f"{preset}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _without_nulls(measures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in measures.items()}


def _stored(result: Result) -> dict[str, Any]:
    """Returns a result as plain values for JSON; `_result` reads it back."""
    segments = [{"start_second": one.start_second, "measures": with_nulls(one.measures)} for one in result.segments]
    return {
        **asdict(result),
        "curve": [point._asdict() for point in result.curve],
        "segments": segments,
        **{name: with_nulls(getattr(result, name)) for name in ("measures", "facts")},
    }


def _result(stored: Mapping[str, Any]) -> Result:
    segments = (Segment(one["start_second"], _without_nulls(one["measures"])) for one in stored["segments"])
    read = {
        "cost": Cost(**stored["cost"]),
        "curve": tuple(Point(**point) for point in stored["curve"]),
        "segments": tuple(segments),
        **{name: _without_nulls(stored[name]) for name in ("measures", "facts")},
    }
    return Result(**{**stored, **read})


def _damaged(folder: Path, sizes: Mapping[str, int]) -> str | None:
    """Returns the name of a trial's file that is not as long as it was or, where all are, of a table that is none."""
    import pyarrow.parquet as pq

    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return name
    try:  # without it there would be no table of the whole study
        with pq.ParquetFile(folder / "candidates.parquet") as file:
            file.read()
    except (OSError, ValueError):
        return "candidates.parquet"
    return None


def _files_of(own: type) -> tuple[Path, ...]:
    """Returns the files of a class and of those it derives from; a class typed in has none."""
    modules = dict.fromkeys(base.__module__ for base in own.__mro__)
    files = (getattr(sys.modules[name], "__file__", None) for name in modules if name not in sys.stdlib_module_names)
    return tuple(Path(file) for file in files if file)


def _hash(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _code_hash(sources: tuple[Path, ...]) -> str:
    """Returns a hash of the code in folders and files."""
    files = [file for source in sources for file in (sorted(source.rglob("*.py")) if source.is_dir() else [source])]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
