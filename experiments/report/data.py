"""The stored tables of a run, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.results import MARKER
from experiments.trials import MEASURES, TRUTH

REWARD = "reward"
METRICS = (TRUTH, REWARD, *MEASURES)
NAMES = {**{name: name for name in METRICS}, REWARD: "search reward"}  # as they are shown

KEYS = ("trial", "policy", "prompt", "seed")
TRIAL_COLUMNS = (*KEYS, *METRICS, "passes", "seconds", "video")
CANDIDATE_COLUMNS = (*KEYS, "chunk", "fused", "pruned_after")
ORACLE_COLUMNS = (TRUTH, "diversity")  # of candidates; older runs lack them
SEGMENT_COLUMNS = (*KEYS, "segment", "start_second", TRUTH, *MEASURES)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The tables of a run.

    Attributes:
        folder: where the tables and videos lie.
        settings: of the experiment, by the names of the command line.
        trials: one row a finished trial; at least one.
        candidates: one row a candidate, None if the run did not store them; without a column of ORACLE_COLUMNS, or
            with nulls in it, where the run did not measure them.
        segments: one row a segment of a trial's video, None if the run did not store them.
    """

    folder: Path
    settings: Mapping[str, Any]
    trials: pd.DataFrame
    candidates: pd.DataFrame | None
    segments: pd.DataFrame | None


def load(folder: Path) -> Run:
    """Returns the tables of a run's folder.

    Raises:
        ValueError: there is no such run, it has no finished trial, or a table is damaged; one sentence names the path.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    trials = _read(folder / "results.parquet", TRIAL_COLUMNS)
    settings = _settings(folder / MARKER)
    if trials is None or trials.empty:
        raise ValueError(f"run folder {folder} has no finished trials: results.parquet is missing or empty")
    return Run(
        folder=folder,
        settings=settings,
        trials=trials,
        candidates=_read(folder / "candidates.parquet", CANDIDATE_COLUMNS, optional=ORACLE_COLUMNS),
        segments=_read(folder / "segments.parquet", SEGMENT_COLUMNS),
    )


def extent(rows: pd.DataFrame) -> str:
    """Returns "64 prompts, 3 seeds, 1,536 trials" of the rows of any table."""
    counts = ((rows[name].nunique(), name) for name in ("prompt", "seed", "trial"))
    return ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts)


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"folder {path.parent} is no run of experiments.run: it has no {path.name}")
    try:
        settings: dict[str, Any] = dict(json.loads(path.read_text())["experiment"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"file {path} is damaged: it does not describe an experiment") from error
    return settings


def _read(path: Path, columns: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> pd.DataFrame | None:
    """Returns some columns of a table, or None where there is no table."""
    if not path.exists():
        return None
    try:
        with pq.ParquetFile(path) as file:
            stored = set(file.schema_arrow.names)
            if missing := [name for name in columns if name not in stored]:
                raise ValueError(f"table {path} is damaged: it has no column {', '.join(missing)}")
            table = file.read(columns=[name for name in (*columns, *optional) if name in stored])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"table {path} is damaged: it is no readable Parquet file") from error
    return table.to_pandas()
