"""Drift: how the oracles' measures change along the videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from experiments.report import cells
from experiments.report.comparisons import means, means_along
from experiments.report.data import Run
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import at_one_budget, ordered
from experiments.report.statistics import NOTHING, Estimate
from experiments.report.words import shown
from experiments.trials import MEASURES, TRUTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Drift along the video"
MEASURED = (TRUTH, *MEASURES)
MAX_SECONDS = 6  # columns of the table


def drift(run: Run) -> Section:
    """Returns the measures second by second, and their change from the first to the last segment of each video."""
    if run.segments is None:
        return Section(TITLE, ["Left out: the run stored no segments.parquet, as runs of older versions did not."])
    if run.segments["segment"].nunique() < 2:
        return Section(TITLE, ["Left out: the videos are one segment long (`--num-chunks 40` makes 30 s)."])
    changed = _changes(run.segments)
    changes = {metric: means(changed, metric) for metric in MEASURED}
    truths = {label: changes[TRUTH][label] for label in ordered(run.trials) if label in changes[TRUTH]}
    reading = f"From the first to the last segment, truth: {shown(truths, above='rises for', below='falls for')}."
    segments, labels = run.segments, list(truths)
    picture = Picture("drift", "Truth and its measures along the video", lambda: _draw(run, labels, segments))
    tables = [_change_table(run, labels, changed, changes), _table(run, labels, segments)]
    return Section(TITLE, [reading], tables, [picture])


def _changes(segments: pd.DataFrame) -> pd.DataFrame:
    """Returns one row a trial: its last segment's measures less its first's."""
    trials = segments.sort_values("start_second", kind="stable").groupby("trial", sort=False)
    first, last = trials.first(), trials.last()
    kept = first[["policy", "prompt", "seed"]]
    return kept.join(last[[*MEASURED]] - first[[*MEASURED]]).reset_index()


def _change_table(
    run: Run, labels: Sequence[str], changed: pd.DataFrame, changes: Mapping[str, Mapping[str, Estimate]]
) -> Table:
    compute = cells.compute(run)
    rows = [
        [
            cells.name(label),
            *(cells.mean(metric, metric, changes[metric][label], signed=True) for metric in MEASURED),
            *compute[label],
        ]
        for label in labels
    ]
    text = "Change from the first to the last segment of a video"
    return Table("drift_change", text, changed, rows, num_comparisons=len(MEASURED) * len(rows))


def _table(run: Run, labels: Sequence[str], segments: pd.DataFrame) -> Table:
    """Returns truth at some seconds, a row a policy; all seconds and measures are stored."""
    compute = cells.compute(run)
    estimates = means_along(segments, TRUTH, "start_second")
    starts = cells.some(sorted(segments["start_second"].unique()), MAX_SECONDS)
    rows = [
        [
            cells.name(label),
            *(cells.mean(f"from {start:.3g} s", "", estimates.get((label, start), NOTHING)) for start in starts),
            *compute[label],
        ]
        for label in labels
    ]
    detail = segments.groupby(["policy", "start_second"], sort=False)[[*MEASURED]].mean()
    detail[TRUTH] = [estimates[key].mean for key in detail.index]
    detail[f"{TRUTH}_low"] = [estimates[key].low for key in detail.index]
    detail[f"{TRUTH}_high"] = [estimates[key].high for key in detail.index]
    text = "Mean truth of the segments that start at a second, with 95 % intervals"
    return Table("drift", text, segments, rows, detail=detail.reset_index(), is_brief=False)


def _draw(run: Run, labels: Sequence[str], segments: pd.DataFrame) -> Figure:
    """Draws truth above and the six measures below, for each policy at one budget."""
    from matplotlib.figure import Figure

    from experiments.report.plots import band, legend_below, mean_and, styles

    shown = [label for label in at_one_budget(run.trials) if label in labels]
    styled = styles(shown)
    figure = Figure(figsize=(11, 9.5), layout="constrained")
    layout = figure.add_gridspec(3, 3, height_ratios=[1.5, 1, 1])
    axes = [figure.add_subplot(layout[0, :]), *(figure.add_subplot(layout[1 + i // 3, i % 3]) for i in range(6))]
    truths = means_along(segments, TRUTH, "start_second")
    averages = segments.groupby(["policy", "start_second"])[[*MEASURES]].mean()
    for label in shown:
        seconds = sorted(start for policy, start in truths if policy == label)
        estimates = [truths[label, start] for start in seconds]
        band(axes[0], seconds, estimates, styled[label], label, of=len(shown))
        for axis, measure in zip(axes[1:], MEASURES, strict=True):
            line = averages.loc[label][measure].reindex(seconds)
            axis.plot(seconds, line, color=styled[label].colour, ls=styled[label].line)
    for axis, measure in zip(axes, MEASURED, strict=True):
        axis.set_title(measure.capitalize())
        axis.set_xlabel("start of the segment, seconds")
    axes[0].set_ylabel(f"truth, {mean_and(len(shown))}")
    legend_below(figure, axes[0])
    return figure
