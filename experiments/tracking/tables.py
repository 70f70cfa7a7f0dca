"""What is logged to W&B as tables: videos, candidates with thumbnails, and scaling curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.results import Finished
from experiments.summary import by_policy, means, rows, score_rows
from experiments.trials import Result

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_VIDEOS = 24  # of a run: those of a study would take longer to upload than to make
MAX_TRIALS = 3  # whose candidates are shown
MAX_CANDIDATES = 1000  # of a table
CANDIDATE_COLUMNS = (
    *("prompt", "seed", "chunk", "candidate_seed", "route", "short", "long", "fused"),
    *("kept", "chosen", "pruned_after", "passes", "seconds"),
)


def videos(trials: Sequence[Finished]) -> Any:
    """Returns a table of the first trials' videos, as files, and of what they are worth."""
    import wandb

    shown = rows(trials[0].result)
    table = wandb.Table(columns=["prompt", "seed", "video", *(row.name for row in shown)])
    for one in trials[:MAX_VIDEOS]:
        video = wandb.Video(str(one.video), format="mp4")
        values = [row.read(one.result) for row in shown]
        # W&B would write nan as it is, and no browser reads a table with it.
        table.add_data(
            one.result.prompt, one.result.seed, video, *(None if math.isnan(value) else value for value in values)
        )
    return table


def candidates(trials: Sequence[Finished]) -> Any:
    """Returns a table of what the first trials tried, with how each candidate's chunk ends, where that is kept."""
    import wandb

    table = wandb.Table(columns=["candidate", *CANDIDATE_COLUMNS, "thumbnail"])
    for row in [row for one in trials[:MAX_TRIALS] for row in _candidate_rows(one.folder)][:MAX_CANDIDATES]:
        table.add_data(*row)
    return table


def has_curves(labels: Iterable[str]) -> bool:
    """Returns whether some policy is there at several budgets."""
    from experiments.report.policies import curve_of

    names = list(labels)
    return len({*map(curve_of, names)}) < len(names)


def scaling(results: Sequence[Result]) -> dict[str, Any]:
    """Returns a table of each policy's means, and a chart for its reward and each measure: against passes, by curve."""
    import wandb

    from experiments.report.policies import curve_of

    groups = {label: means(group) for label, group in by_policy(results).items()}
    names = [row.name for row in score_rows(results[0]) if any(row.name in found for found in groups.values())]
    table = wandb.Table(columns=["policy", "curve", "passes", "seconds", *names])
    for label in sorted(groups, key=lambda label: groups[label]["passes"]):  # a chart joins points in this order
        found = groups[label]
        table.add_data(label, curve_of(label), found["passes"], found["seconds"], *map(found.get, names))
    charts = {
        f"scaling/{name.replace(' ', '_')}": wandb.plot.line(
            table, x="passes", y=name, stroke="curve", title=f"{name.capitalize()} against passes"
        )
        for name in names
    }
    return {"scaling/policies": table, **charts}


def _candidate_rows(folder: Path) -> list[list[Any]]:
    """Returns the rows of a trial's candidates, numbered within each level."""
    import pyarrow.parquet as pq
    import wandb

    made, numbers = [], dict[int, int]()
    sheets = _Sheets(folder / "clips")
    for row in pq.ParquetFile(folder / "candidates.parquet").read(columns=list(CANDIDATE_COLUMNS)).to_pylist():
        number = numbers.setdefault(row["chunk"], 0)
        numbers[row["chunk"]] += 1
        picture = sheets.next(row["chunk"]) if row["pruned_after"] is None else None
        made.append([number, *row.values(), None if picture is None else wandb.Image(picture)])
    return made


class _Sheets:
    """The pictures of a trial's candidates: a sheet a chunk, a row for each one that was finished, its frames in it.

    Older trials, and streams that decode cold, have none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shape: dict[str, int] = {}
        if (folder / "clips.json").exists():
            self._shape = json.loads((folder / "clips.json").read_text())
        self._rows: dict[int, int] = {}

    def next(self, chunk: int) -> Image | None:
        """Returns the last frame of a chunk's next candidate."""
        from PIL import Image

        row = self._rows.setdefault(chunk, 0)
        self._rows[chunk] += 1
        path = self._folder / f"{chunk:02}.jpg"
        if not self._shape or not path.exists():
            return None
        with Image.open(path) as sheet:
            height, width = self._shape["height"], self._shape["width"]
            left, top = sheet.width - width, row * height
            return sheet.crop((left, top, sheet.width, top + height)) if top + height <= sheet.height else None
