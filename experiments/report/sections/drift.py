"""Drift: how measures change along the videos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from experiments.report import cells
from experiments.report.comparisons import means, means_along
from experiments.report.data import Run
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import at_one_budget, ordered
from experiments.report.statistics import NOTHING, Estimate
from experiments.report.words import capitalised, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Drift along the video"
MAX_SECONDS = 6  # columns of the table


def drift(run: Run) -> Section:
    """Returns the measures second by second, and their change from the first to the last segment of each video."""
    if not run.measures:
        return Section(TITLE, ["Left out: nothing but the search reward measured the videos."])
    if run.segments is None:
        return Section(TITLE, ["Left out: the run stored no segments.parquet, as runs of older versions did not."])
    if run.segments["segment"].nunique() < 2:
        return Section(TITLE, ["Left out: the videos are one segment long (`--num-chunks 40` makes 30 s)."])
    changed = _changes(run, run.segments)
    changes = {metric: means(changed, metric) for metric in run.measures}
    segments, labels = run.segments, [label for label in ordered(run.trials) if label in set(changed["policy"])]
    readings = [_reading(metric, {label: changes[metric][label] for label in labels}) for metric in run.judges]
    caption = "Truth and its measures along the video" if run.has_truth else "What judges say along the video"
    picture = Picture("drift", caption, lambda: _draw(run, labels, segments))
    tables = [_change_table(run, labels, changed, changes), _table(run, labels, segments)]
    return Section(TITLE, readings, tables, [picture])


def _reading(metric: str, changes: Mapping[str, Estimate]) -> str:
    verdict = shown(changes, above="rises for", below="falls for")
    return f"From the first to the last segment, {metric}: {verdict}."


def _changes(run: Run, segments: pd.DataFrame) -> pd.DataFrame:
    """Returns one row a trial: its last segment's measures less its first's."""
    measured = [*run.measures]
    trials = segments.sort_values("start_second", kind="stable").groupby("trial", sort=False)
    first, last = trials.first(), trials.last()
    kept = first[["policy", "prompt", "seed"]]
    return kept.join(last[measured] - first[measured]).reset_index()


def _change_table(
    run: Run, labels: Sequence[str], changed: pd.DataFrame, changes: Mapping[str, Mapping[str, Estimate]]
) -> Table:
    compute = cells.compute(run)
    rows = [
        [
            cells.name(label),
            *(cells.mean(metric, metric, changes[metric][label], signed=True) for metric in run.measures),
            *compute[label],
        ]
        for label in labels
    ]
    text = "Change from the first to the last segment of a video"
    return Table("drift_change", text, changed, rows, num_comparisons=len(run.measures) * len(rows))


def _table(run: Run, labels: Sequence[str], segments: pd.DataFrame) -> Table:
    """Returns the first measure at some seconds, a row a policy; all seconds and measures are stored."""
    compute, first = cells.compute(run), run.measures[0]
    estimates = means_along(segments, first, "start_second")
    starts = cells.some(sorted(segments["start_second"].unique()), MAX_SECONDS)
    rows = [
        [
            cells.name(label),
            *(cells.mean(f"from {start:.3g} s", "", estimates.get((label, start), NOTHING)) for start in starts),
            *compute[label],
        ]
        for label in labels
    ]
    detail = segments.groupby(["policy", "start_second"], sort=False)[[*run.measures]].mean()
    detail[first] = [estimates[key].mean for key in detail.index]
    detail[f"{first}_low"] = [estimates[key].low for key in detail.index]
    detail[f"{first}_high"] = [estimates[key].high for key in detail.index]
    text = f"Mean {first} of the segments that start at a second, with 95 % intervals"
    return Table("drift", text, segments, rows, detail=detail.reset_index(), is_brief=False)


def _draw(run: Run, labels: Sequence[str], segments: pd.DataFrame) -> Figure:
    """Draws the first measure, which is truth if it was measured, above the others, for each policy at one budget."""
    from matplotlib.figure import Figure

    from experiments.report.plots import band, legend_below, mean_and, styles

    shown = [label for label in at_one_budget(run.trials) if label in labels]
    styled = styles(shown)
    first, *others = run.measures
    heights = [1.5] + [1.0] * math.ceil(len(others) / 3)
    figure = Figure(figsize=(11, 9.5 / 3.5 * sum(heights)), layout="constrained")
    layout = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    axes = [figure.add_subplot(layout[0, :])]
    axes += [figure.add_subplot(layout[1 + index // 3, index % 3]) for index in range(len(others))]
    along = means_along(segments, first, "start_second")
    averages = segments.groupby(["policy", "start_second"])[[*run.measures]].mean()
    for label in shown:
        seconds = sorted(start for policy, start in along if policy == label)
        estimates = [along[label, start] for start in seconds]
        band(axes[0], seconds, estimates, styled[label], label, of=len(shown))
        for axis, measure in zip(axes[1:], others, strict=True):
            line = averages.loc[label][measure].reindex(seconds)
            axis.plot(seconds, line, color=styled[label].colour, ls=styled[label].line)
    for axis, measure in zip(axes, run.measures, strict=True):
        axis.set_title(capitalised(measure))
        axis.set_xlabel("start of the segment, seconds")
    axes[0].set_ylabel(f"{first}, {mean_and(len(shown))}")
    legend_below(figure, axes[0])
    return figure
