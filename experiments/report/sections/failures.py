"""The worst failures: frames of the videos with the least truth, and the measure that each failed by."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from experiments.report import cells
from experiments.report.data import Run
from experiments.report.page import Picture, Section, Table
from experiments.report.words import counted, listed
from experiments.trials import MEASURES, TRUTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from searchkit.video import Pixels

TITLE = "Worst failures"
NUM_FRAMES = 8  # of a video, evenly spaced
FAILED = "#D55E00"


def failures(run: Run, *, count: int) -> Section:
    """Returns the `count` videos with the least truth, and a contact sheet of those whose files can be read."""
    worst = run.trials.sort_values([TRUTH, "trial"], kind="stable").head(count)
    worst = worst.assign(failed=worst[[*MEASURES]].idxmin(axis=1))
    videos = {row.Index: frames for row in worst.itertuples() if (frames := _frames(run, row.video)) is not None}
    by_measure = worst["failed"].value_counts(sort=False)
    failed = [f"{name} ({by_measure[name]})" for name in MEASURES if name in by_measure]
    readings = [
        f"The measures that the {counted(len(worst), 'video')} with the least truth failed by: {listed(failed)}."
    ]
    if len(videos) < len(worst):
        readings.append(f"{counted(len(worst) - len(videos), 'video')} of these cannot be read: the sheet is without.")
    pictures = [Picture("failures", "Videos with the least truth", lambda: _draw(worst.loc[[*videos]], videos))]
    return Section(TITLE, readings, [_table(run, worst)], pictures if videos else ())


def _frames(run: Run, video: str) -> Pixels | None:
    """Returns evenly spaced frames `[NUM_FRAMES, H, W, 3]` of a stored video, or None if it cannot be read."""
    from searchkit.video import read_video

    try:
        frames = read_video(run.folder / video)
    except OSError:
        return None
    return frames[np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)]


def _table(run: Run, worst: pd.DataFrame) -> Table:
    rows = [
        [
            cells.name(row.policy),
            cells.Cell("prompt", row.prompt, {"prompt": row.prompt}),
            cells.Cell("seed", str(row.seed), {"seed": row.seed}),
            cells.value(TRUTH, TRUTH, row.truth),
            cells.Cell("failed by", f"{row.failed} {getattr(row, row.failed):.3f}", {"failed_by": row.failed}),
            *(cells.value(name, name, getattr(row, name), 2) for name in MEASURES),
            cells.value("passes", "passes", row.passes, 0),
            cells.value("seconds", "seconds", row.seconds, 1),
            cells.Cell("video", f"[mp4](../{row.video})", {"video": row.video}),
        ]
        for row in worst.itertuples()
    ]
    text = f"The videos with the least truth of {len(run.trials):,} trials, and the lowest of each one's measures"
    return Table("failures", text, worst, rows, is_brief=False)


def _draw(worst: pd.DataFrame, videos: Mapping[int, Pixels]) -> Figure:
    """Draws a row a video: what was asked of whom, its frames from first to last, and its measures as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 0.5 + 1.35 * len(worst)), layout="constrained")
    axes = figure.subplots(len(worst), 3, squeeze=False, width_ratios=[2.6, 8.6, 1.6])
    for (text, strip, bars), row in zip(axes, worst.itertuples(), strict=True):
        frames = np.pad(videos[row.Index], ((0, 0), (0, 0), (0, 3), (0, 0)), constant_values=255)
        strip.imshow(np.concatenate(list(frames), axis=1), interpolation="nearest")
        strip.axis("off")
        text.axis("off")
        title = "\n".join(textwrap.wrap(row.policy, 36))
        text.text(0, 1, title, va="top", fontweight="bold", fontsize=10)
        asked = "\n".join(textwrap.wrap(f"“{row.prompt}”, seed {row.seed}", 40))
        text.text(0, 0.78 - 0.17 * title.count("\n"), asked, va="top", fontsize=9, color="#333333")
        text.text(
            0,
            0.0,
            f"truth {row.truth:.2f}; {row.failed} failed ({getattr(row, row.failed):.2f})",
            fontsize=9.5,
            color=FAILED,
        )
        values = [getattr(row, name) for name in MEASURES]
        bars.barh(
            MEASURES, values, color=[FAILED if name == row.failed else "#C9C9C9" for name in MEASURES], height=0.7
        )
        bars.set_xlim(0, 1)
        bars.invert_yaxis()
        bars.tick_params(axis="both", labelsize=7.5, length=0)
        bars.grid(visible=False)
        bars.set_xticks([0, 1])
        failed = bars.get_yticklabels()[MEASURES.index(row.failed)]
        failed.set(color=FAILED, fontweight="bold")
    axes[0, 1].set_title("frames from the first to the last, evenly spaced", fontweight="normal", fontsize=10)
    axes[0, 2].set_title("measures", fontweight="normal", fontsize=10)
    return figure
