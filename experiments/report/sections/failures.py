"""The worst failures: frames of the videos with the least truth, and the measure that each failed by.

Where truth was not measured they are those with the least search reward. What they failed by is not told then: judges
count on scales of their own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.report import cells
from experiments.report.data import REWARD, Run, shown_name
from experiments.report.page import Picture, Section, Table
from experiments.report.words import counted, listed
from experiments.worlds import TRUTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from searchkit.video import Pixels

TITLE = "Worst failures"
NUM_FRAMES = 8  # of a video, evenly spaced
MAX_LINES = 4  # of a prompt; those of large models are long
FAILED = "#D55E00"


def failures(run: Run, *, count: int) -> Section:
    """Returns the `count` worst videos, and a contact sheet of those whose files can be read."""
    metric = TRUTH if run.has_truth else REWARD
    worst = run.trials.sort_values([metric, "trial"], kind="stable").head(count)
    if run.has_truth:
        worst = worst.assign(failed=worst[[*run.parts]].idxmin(axis=1))
    videos = {index: frames for index, video in worst["video"].items() if (frames := _frames(run, video)) is not None}
    readings = [_reading(run, worst)]
    if len(videos) < len(worst):
        readings.append(f"{counted(len(worst) - len(videos), 'video')} of these cannot be read: the sheet is without.")
    caption = f"Videos with the least {shown_name(metric)}"
    pictures = [Picture("failures", caption, lambda: _draw(run, worst.loc[[*videos]], videos))]
    return Section(TITLE, readings, [_table(run, worst, metric)], pictures if videos else ())


def _reading(run: Run, worst: pd.DataFrame) -> str:
    if not run.has_truth:
        return f"The {counted(len(worst), 'video')} with the least search reward, for a look at them."
    by_measure = worst["failed"].value_counts(sort=False)
    failed = [f"{name} ({by_measure[name]})" for name in run.parts if name in by_measure]
    return f"The measures that the {counted(len(worst), 'video')} with the least truth failed by: {listed(failed)}."


def _frames(run: Run, video: str) -> Pixels | None:
    """Returns evenly spaced frames `[NUM_FRAMES, H, W, 3]` of a stored video, or None if it cannot be read."""
    from searchkit.video import read_video

    try:
        frames = read_video(run.folder / video)
    except OSError:
        return None
    return frames[np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)]


def _table(run: Run, worst: pd.DataFrame, metric: str) -> Table:
    rows = [
        [
            cells.name(row["policy"]),
            cells.Cell("prompt", row["prompt"], {"prompt": row["prompt"]}),
            cells.Cell("seed", str(row["seed"]), {"seed": row["seed"]}),
            cells.value(shown_name(metric), metric, row[metric]),
            *(_failed_by(row) if run.has_truth else ()),
            *(cells.value(name, name, row[name], 2) for name in run.parts),
            cells.value("passes", "passes", row["passes"], 0),
            cells.value("seconds", "seconds", row["seconds"], 1),
            cells.Cell("video", "mp4", {"video": row["video"]}, link=f"../{row['video']}"),
        ]
        for row in worst.to_dict("records")
    ]
    text = f"The videos with the least {shown_name(metric)} of {len(run.trials):,} trials"
    if run.has_truth:
        text += ", and the lowest of each one's measures"
    return Table("failures", text, worst, rows, is_brief=False)


def _failed_by(row: Mapping[Any, Any]) -> list[cells.Cell]:
    return [cells.Cell("failed by", f"{row['failed']} {row[row['failed']]:.3f}", {"failed_by": row["failed"]})]


def _draw(run: Run, worst: pd.DataFrame, videos: Mapping[Any, Pixels]) -> Figure:
    """Draws a row a video: what was asked of whom, its frames from first to last, and what truth is made of as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 0.5 + 1.35 * len(worst)), layout="constrained")
    widths = [2.6, 8.6, 1.6] if run.has_truth else [2.6, 8.6]
    axes = figure.subplots(len(worst), len(widths), squeeze=False, width_ratios=widths)
    for (text, strip, *bars), (index, row) in zip(axes, worst.to_dict("index").items(), strict=True):
        frames = np.pad(videos[index], ((0, 0), (0, 0), (0, 3), (0, 0)), constant_values=255)
        strip.imshow(np.concatenate(list(frames), axis=1), interpolation="nearest")
        strip.axis("off")
        _write(text, row, has_truth=run.has_truth)
        for axis in bars:
            _draw_bars(axis, run, row)
    axes[0, 1].set_title("frames from the first to the last, evenly spaced", fontweight="normal", fontsize=10)
    if run.has_truth:
        axes[0, 2].set_title("measures", fontweight="normal", fontsize=10)
    return figure


def _write(axis: Axes, row: Mapping[Any, Any], *, has_truth: bool) -> None:
    axis.axis("off")
    title = "\n".join(textwrap.wrap(row["policy"], 36))
    axis.text(0, 1, title, va="top", fontweight="bold", fontsize=10)
    asked = textwrap.wrap(f"“{row['prompt']}”, seed {row['seed']}", 40, max_lines=MAX_LINES)
    axis.text(0, 0.78 - 0.17 * title.count("\n"), "\n".join(asked), va="top", fontsize=9, color="#333333")
    found = f"search reward {row[REWARD]:.2f}"
    if has_truth:
        found = f"truth {row[TRUTH]:.2f}; {row['failed']} failed ({row[row['failed']]:.2f})"
    axis.text(0, 0.0, found, fontsize=9.5, color=FAILED)


def _draw_bars(axis: Axes, run: Run, row: Mapping[Any, Any]) -> None:
    names = run.parts
    colours = [FAILED if name == row["failed"] else "#C9C9C9" for name in names]
    axis.barh(names, [row[name] for name in names], color=colours, height=0.7)
    axis.set_xlim(0, 1)
    axis.invert_yaxis()
    axis.tick_params(axis="both", labelsize=7.5, length=0)
    axis.grid(visible=False)
    axis.set_xticks([0, 1])
    failed = axis.get_yticklabels()[names.index(row["failed"])]
    failed.set(color=FAILED, fontweight="bold")
