"""What an experiment leaves behind: a folder a trial, named by the hash of what determines its result, and tables.

    OUT/experiment.json             marks the folder, and says whose it is
    OUT/trials/HASH/trial.json      identity, result; video.mp4 and candidates.parquet lie beside it
    OUT/results.parquet             one row a trial
    OUT/candidates.parquet          one row a candidate
    OUT/segments.parquet            one row for every 5 s of a trial's video

A trial's folder is written beside its place and renamed when finished: one that is there is whole.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import Experiment, Trial
from experiments.registry import flat, plain, policy_name
from experiments.trials import Outcome, Point, Result, Segment, Sight
from experiments.worlds import headline_first, world_of
from searchkit.cost import Cost

MARKER = "experiment.json"
FORMAT = 4  # of the folder
# Types of columns of nulls that hold no measure.
WITHOUT_VALUES = {"asked_passes": "int64", "pruned_after": "int64"}


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A trial that is done, and the folder that holds it."""

    trial: Trial
    result: Result
    folder: Path

    @property
    def video(self) -> Path:
        return self.folder / "video.mp4"


class Tables(NamedTuple):
    """Where the tables of an experiment are."""

    results: Path
    candidates: Path
    segments: Path


class Folder:
    """An experiment's output folder, which it has claimed.

    Args:
        model_checksum: of the weights that make and score the videos.
    """

    def __init__(self, path: Path, experiment: Experiment, *, model_checksum: str) -> None:
        self.path = path
        self.experiment = experiment
        self._model_checksum = model_checksum

    def place(self, trial: Trial) -> Path:
        """Returns where a trial's folder is, or will be."""
        text = json.dumps(self._identity(trial), sort_keys=True)
        return self.path / "trials" / hashlib.sha256(text.encode()).hexdigest()[:16]

    def find(self, trial: Trial) -> Finished | None:
        """Returns the trial if it is done."""
        folder = self.place(trial)
        if not folder.exists():
            return None
        try:
            stored = json.loads((folder / "trial.json").read_text())["result"]
            read = {
                "cost": Cost(**stored["cost"]),
                "curve": tuple(Point(**point) for point in stored["curve"]),
                "segments": tuple(
                    Segment(one["start_second"], _without_nulls(one["measures"])) for one in stored["segments"]
                ),
                **{name: _without_nulls(stored[name]) for name in ("measures", "facts")},
            }
            result = Result(**{**stored, **read})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"trial folder {folder} is damaged: delete it, and its trial is run again") from error
        return Finished(trial=trial, result=result, folder=folder)

    def store(self, trial: Trial, outcome: Outcome, *, fps: int) -> Finished:
        """Writes a finished trial."""
        from searchkit.video import write_video

        folder = self.place(trial)
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_video(unfinished / "video.mp4", outcome.pixels, fps)
        result = outcome.result
        stored = {
            **asdict(result),
            "curve": [point._asdict() for point in result.curve],
            "segments": [
                {"start_second": one.start_second, "measures": _with_nulls(one.measures)} for one in result.segments
            ],
            **{name: _with_nulls(getattr(result, name)) for name in ("measures", "facts")},
        }
        trial_json = {"identity": self._identity(trial), "result": stored}
        (unfinished / "trial.json").write_text(json.dumps(trial_json, indent=1, allow_nan=False))
        _write_table(unfinished / "candidates.parquet", _candidate_rows(outcome, folder.name))
        os.replace(unfinished, folder)
        return Finished(trial=trial, result=result, folder=folder)

    def write_tables(self, finished: Sequence[Finished]) -> Tables:
        """Writes the tables of the experiment and returns their paths."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = Tables(*(self.path / f"{name}.parquet" for name in Tables._fields))
        _write_table(tables.results, [self._row(one) for one in finished])
        candidates = [pq.ParquetFile(one.folder / "candidates.parquet").read() for one in finished]
        pq.write_table(pa.concat_tables(candidates), tables.candidates)
        _write_table(tables.segments, [row for one in finished for row in _segment_rows(one)])
        return tables

    def _row(self, one: Finished) -> dict[str, Any]:
        result, cost = one.result, one.result.cost
        return {
            **_names(result, one.folder.name),
            "options": json.dumps(plain(flat(one.trial.policy))),
            "num_chunks": len(result.curve),
            "reward": result.reward,
            **_with_nulls(result.measures),
            **_with_nulls(result.facts),
            "passes": cost.passes,
            "seconds": cost.seconds,
            **asdict(cost),
            "video": str(one.video.relative_to(self.path)),
        }

    def _identity(self, trial: Trial) -> dict[str, Any]:
        settings = plain(self.experiment.settings())
        for name in ("prompts", "seeds"):  # the trial's own are below
            del settings[name]
        return {
            "format": FORMAT,
            "model": self._model_checksum,
            "other-weights": world_of(self.experiment).weights(self.experiment),
            "code": _code_hash(type(trial.policy), world_of(self.experiment).sources(self.experiment)),
            "policy": policy_name(trial.policy),
            "options": plain(flat(trial.policy)),
            "prompt": trial.prompt,
            "seed": trial.seed,
            **settings,
        }


def default_path(preset: str, experiment: Experiment) -> Path:
    """Returns a folder of the experiment's own under runs/."""
    text = json.dumps(experiment.describe(), sort_keys=True)
    return Path("runs") / f"{preset}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def claim(path: Path, experiment: Experiment) -> None:
    """Makes and marks an experiment's output folder.

    Raises:
        ValueError: the folder cannot be written, or holds another experiment or other files.
    """
    marker = path / MARKER
    described = experiment.describe()
    try:
        if marker.exists():
            _check_same(path, json.loads(marker.read_text()), described)
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        path.mkdir(parents=True, exist_ok=True)
        if any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise ValueError(f"output folder {path} holds files that are not an experiment's: choose another --out")
        draft = path / f".{MARKER}"
        draft.write_text(json.dumps({"format": FORMAT, "experiment": described}, indent=1))
        os.replace(draft, marker)
    except OSError as error:
        raise ValueError(f"output folder {path} cannot be written: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"output folder {path} has a damaged {MARKER}: choose another --out") from error


def _check_same(path: Path, marker: Any, described: dict[str, Any]) -> None:
    held = marker.get("experiment", {}) if isinstance(marker, dict) else {}
    for name, value in described.items():
        if held.get(name) != value:
            raise ValueError(
                f"output folder {path} holds another experiment ({name}: {_short(held.get(name))} there, "
                f"{_short(value)} here): choose another --out"
            )


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) < 70 else f"{text[:67]}..."


def _candidate_rows(outcome: Outcome, trial: str) -> list[dict[str, Any]]:
    unseen = Sight()
    return [
        {
            **_names(outcome.result, trial),
            "chunk": record.chunk,
            "candidate_seed": record.action.seed,
            "route": record.action.route.name.lower(),
            "correlation": record.action.correlation,
            "asked_passes": record.action.passes,
            "short": record.scores.short,
            "long": record.scores.long,
            "fused": record.fused,
            "kept": record.kept,
            "pruned_after": record.pruned_after,
            "chosen": record.lineage == outcome.chosen[: len(record.lineage)],
            "lineage": [action.seed for action in record.lineage],
            "passes": record.cost.passes,
            "seconds": record.cost.seconds,
            **asdict(record.cost),
            **outcome.sights.get(record.lineage, unseen)._asdict(),
        }
        for record in outcome.records
    ]


def _segment_rows(one: Finished) -> list[dict[str, Any]]:
    return [
        {
            **_names(one.result, one.folder.name),
            "segment": index,
            "start_second": segment.start_second,
            **_with_nulls({name: segment.measures[name] for name in headline_first(segment.measures)}),
        }
        for index, segment in enumerate(one.result.segments)
    ]


def _with_nulls(measures: Mapping[str, float]) -> dict[str, float | None]:
    """Returns measures with null for nan, which JSON does not know, and which would be a table's mean."""
    return {name: value if math.isfinite(value) else None for name, value in measures.items()}


def _without_nulls(measures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in measures.items()}


def _names(result: Result, trial: str) -> dict[str, Any]:
    """Returns what a row of any table begins with: its trial."""
    return {"trial": trial, "policy": result.label, "prompt": result.prompt, "seed": result.seed}


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as a table; a column without any value has a type, too, so that tables of trials fit together."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows))
    types = [
        pa.field(field.name, pa.type_for_alias(WITHOUT_VALUES.get(field.name, "float64")))
        if pa.types.is_null(field.type)
        else field
        for field in table.schema
    ]
    pq.write_table(table.cast(pa.schema(types)), path)


@functools.cache
def _code_hash(policy: type[Any], sources: tuple[Path, ...]) -> str:
    """Returns a hash of the code that results depend on: folders and files, and the file of the policy's class."""
    files = [file for source in sources for file in (sorted(source.rglob("*.py")) if source.is_dir() else [source])]
    own = getattr(sys.modules[policy.__module__], "__file__", None)  # a class typed into a prompt has none
    digest = hashlib.sha256()
    for file in (*files, *([Path(own)] if own else [])):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
