"""Tables of an experiment: a row a trial, a row a candidate, a row for 5 s of a video; see `experiments.results`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.registry import flat, plain
from experiments.trials import Outcome, Result, Sight
from experiments.worlds import headline_first
from searchkit.files import written_whole

if TYPE_CHECKING:
    import pyarrow as pa

    from experiments.results import Finished

# Types of columns of nulls that hold no measure.
WITHOUT_VALUES = {"asked_passes": "int64", "pruned_after": "int64"}


class Tables(NamedTuple):
    """Where the tables of an experiment are."""

    results: Path
    candidates: Path
    segments: Path


def write_tables(folder: Path, finished: Sequence[Finished]) -> Tables:
    """Writes the tables of an experiment's folder and returns their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = Tables(*(folder / f"{name}.parquet" for name in Tables._fields))
    _write(tables.results, [_trial_row(one, folder) for one in finished])
    candidates = [pq.ParquetFile(one.folder / "candidates.parquet").read() for one in finished]
    _write_whole(tables.candidates, pa.concat_tables(candidates))
    _write(tables.segments, [row for one in finished for row in _segment_rows(one)])
    return tables


def write_candidates(path: Path, outcome: Outcome, trial: str) -> None:
    """Writes the candidates of a trial, which has this name."""
    _write(path, _candidate_rows(outcome, trial))


def _trial_row(one: Finished, folder: Path) -> dict[str, Any]:
    result, cost = one.result, one.result.cost
    return {
        **_names(result, one.folder.name),
        "options": json.dumps(plain(flat(one.trial.policy))),
        "num_chunks": len(result.curve),
        "reward": result.reward,
        **with_nulls(result.measures),
        **with_nulls(result.facts),
        "passes": cost.passes,
        "seconds": cost.seconds,
        **vars(cost),
        "video": str(one.video.relative_to(folder)),
    }


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
            **vars(record.cost),
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
            **with_nulls({name: segment.measures[name] for name in headline_first(segment.measures)}),
        }
        for index, segment in enumerate(one.result.segments)
    ]


def with_nulls(measures: Mapping[str, float]) -> dict[str, float | None]:
    """Returns measures with null for nan, which JSON does not know, and which would be a table's mean."""
    return {name: value if math.isfinite(value) else None for name, value in measures.items()}


def _names(result: Result, trial: str) -> dict[str, Any]:
    """Returns what a row of any table begins with: its trial."""
    return {"trial": trial, "policy": result.label, "prompt": result.prompt, "seed": result.seed}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as a table; a column without any value has a type, too, so that tables of trials fit together."""
    import pyarrow as pa

    table = pa.Table.from_pylist(list(rows))
    types = [
        pa.field(field.name, pa.type_for_alias(WITHOUT_VALUES.get(field.name, "float64")))
        if pa.types.is_null(field.type)
        else field
        for field in table.schema
    ]
    _write_whole(path, table.cast(pa.schema(types)))


def _write_whole(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with written_whole(path) as beside:
        pq.write_table(table, beside)
