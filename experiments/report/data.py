"""The stored tables of a run, read and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.results import MARKER
from experiments.worlds import TRUTH, headline_first
from searchkit.cost import Cost

REWARD = "reward"

KEYS = ("trial", "policy", "prompt", "seed")
TRIAL_COLUMNS = (*KEYS, REWARD, "passes", "seconds", "video")
OTHER_COLUMNS = ("options", "num_chunks", *(field.name for field in fields(Cost)))
CANDIDATE_COLUMNS = (*KEYS, "chunk", "fused", "pruned_after")
SIGHT_COLUMNS = (TRUTH, "diversity")  # of candidates; older runs lack them
SEGMENT_COLUMNS = (*KEYS, "segment", "start_second")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The tables of a run.

    Attributes:
        folder: where the tables and videos lie.
        settings: of the experiment, by the names of the command line.
        measures: names of columns of trials and segments, truth first where it was measured.
        trials: one row a finished trial; at least one.
        candidates: one row a candidate, None if the run did not store them; without a column of SIGHT_COLUMNS, or
            with nulls in it, where the run did not look at them.
        segments: one row a segment of a trial's video, None if the run did not store them.
    """

    folder: Path
    settings: Mapping[str, Any]
    measures: tuple[str, ...]
    trials: pd.DataFrame
    candidates: pd.DataFrame | None
    segments: pd.DataFrame | None

    @property
    def has_truth(self) -> bool:
        return TRUTH in self.measures

    @property
    def parts(self) -> tuple[str, ...]:
        """The measures that truth is the mean of, or all where there is no truth."""
        return self.measures[self.has_truth :]

    @property
    def judges(self) -> tuple[str, ...]:
        """The measures that policies are judged by: truth or, where it was not measured, all."""
        return self.measures[:1] if self.has_truth else self.measures


def load(folder: Path) -> Run:
    """Returns the tables of a run's folder.

    Raises:
        ValueError: there is no such run, it has no finished trial, or a table is damaged; one sentence names the path.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    trials = _read(folder / "results.parquet", TRIAL_COLUMNS, optional=None)
    settings = _settings(folder / MARKER)
    if trials is None or trials.empty:
        raise ValueError(f"run folder {folder} has no finished trials: results.parquet is missing or empty")
    segments = _read(folder / "segments.parquet", SEGMENT_COLUMNS, optional=None)
    # Results hold facts besides; they stand in for segments that older runs did not store.
    measured, others = (trials, OTHER_COLUMNS) if segments is None else (segments, SEGMENT_COLUMNS)
    measures = headline_first(name for name in measured if name not in (*TRIAL_COLUMNS, *others))
    if missing := [name for name in measures if name not in trials]:
        raise ValueError(f"table {folder / 'results.parquet'} is damaged: it has no column {', '.join(missing)}")
    return Run(
        folder=folder,
        settings=settings,
        measures=measures,
        trials=trials[[*TRIAL_COLUMNS, *measures]],
        candidates=_read(folder / "candidates.parquet", CANDIDATE_COLUMNS, optional=SIGHT_COLUMNS),
        segments=segments,
    )


def shown_name(metric: str) -> str:
    """Returns what a metric is called where it is shown."""
    return "search reward" if metric == REWARD else metric


def file_name(metric: str) -> str:
    """Returns what files about a metric are called, whatever characters a judge puts into its names."""
    return re.sub(r"[^\w.-]+", "-", metric)


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


def _read(path: Path, columns: tuple[str, ...], *, optional: tuple[str, ...] | None = ()) -> pd.DataFrame | None:
    """Returns some columns of a table, or None where there is no table.

    Args:
        optional: columns that it may lack; None for all that it has.
    """
    if not path.exists():
        return None
    try:
        with pq.ParquetFile(path) as file:
            stored = set(file.schema_arrow.names)
            if missing := [name for name in columns if name not in stored]:
                raise ValueError(f"table {path} is damaged: it has no column {', '.join(missing)}")
            others = [name for name in file.schema_arrow.names if optional is None or name in optional]
            table = file.read(columns=[*columns, *(name for name in others if name not in columns)])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"table {path} is damaged: it is no readable Parquet file") from error
    return table.to_pandas()
