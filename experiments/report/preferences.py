"""What viewers of a page's blind comparison preferred, as the files say that the page offers for download."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.report.data import Run

FORMAT = 1  # of the files; blind.js writes it
WORTH = {"left": 1.0, "tie": 0.5, "right": 0.0}  # of an answer, to the left video
COLUMNS = ("viewer", "trial", "policy", "other", "prompt", "seed", "preferred")


def read(paths: Sequence[Path], run: Run) -> pd.DataFrame:
    """Returns two rows an answer, one from the side of either policy.

    Columns are COLUMNS: `preferred` is 1 where `policy` was preferred to `other`, 0 where it was not, 0.5 for a tie.

    Raises:
        ValueError: a file cannot be read, holds no preferences, or those of another run.
    """
    rows = [row for path in paths for row in _answers(path, run)]
    return pd.DataFrame(rows, columns=[*COLUMNS])


def _answers(path: Path, run: Run) -> Iterator[dict[str, Any]]:
    known = set(run.trials["trial"])
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise ValueError(f"its format is {stored['format']}, not {FORMAT}")
        rows = [_sides(answer, str(stored["viewer"])) for answer in stored["preferences"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"file {path} holds no preferences of a blind comparison: {error}") from error
    for sides in rows:
        for row in sides:
            if row["trial"] not in known:
                raise ValueError(f"file {path} holds preferences of another run: there is no trial {row['trial']} here")
            yield row


def _sides(answer: dict[str, Any], viewer: str) -> list[dict[str, Any]]:
    left, right, worth = answer["left"], answer["right"], WORTH[answer["preference"]]
    asked = {"viewer": viewer, "prompt": answer["prompt"], "seed": answer["seed"]}
    return [
        {**asked, "trial": one["trial"], "policy": one["policy"], "other": other["policy"], "preferred": preferred}
        for one, other, preferred in ((left, right, worth), (right, left, 1.0 - worth))
    ]
