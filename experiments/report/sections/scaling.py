"""Scaling curves: what more passes buy, in truth or what judges say, and in search reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.report import cells
from experiments.report.comparisons import Difference, differences, means
from experiments.report.data import REWARD, Run, shown_name
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import GREEDY, curves, mean_passes, without_ablations
from experiments.report.statistics import Estimate
from experiments.report.words import capitalised, listed, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = Mapping[str, list[str]]
ASIDE = 1.015  # by which curves are drawn apart along the passes, so that equal ones do not hide each other


def scaling(run: Run) -> Section:
    """Returns judges and reward against passes, one curve a policy over its budgets; ablations only in the table."""
    plotted = (*run.judges, REWARD)
    joined = curves(run.trials)
    smallest = {label: labels[0] for labels in joined.values() for label in labels[1:]}
    estimates = {metric: means(run.trials, metric) for metric in plotted}
    gains = {metric: differences(run.trials, metric, smallest) for metric in plotted}
    readings = ["Every policy ran at one budget: these are points, no curves (`--budget` sets others)."]
    if smallest:
        readings = [_reading(joined, metric, gains[metric]) for metric in run.judges or (REWARD,)]
    caption = f"{capitalised(listed([shown_name(metric) for metric in plotted]))} against passes"
    picture = Picture("scaling", caption, lambda: _draw(run, without_ablations(joined), estimates))
    return Section("Scaling", readings, [_table(run, joined, estimates, gains)], [picture])


def _reading(joined: Curves, metric: str, gains: Mapping[str, Difference]) -> str:
    """Returns which curves are shown to rise from their smallest to their largest budget."""
    ends = {curve: gains[labels[-1]].estimate for curve, labels in joined.items() if len(labels) > 1}
    found = shown(ends, above="rises for", below="falls for")
    return f"From the smallest to the largest budget, {shown_name(metric)}: {found}."


def _table(
    run: Run,
    joined: Curves,
    estimates: Mapping[str, Mapping[str, Estimate]],
    gains: Mapping[str, Mapping[str, Difference]],
) -> Table:
    compute = cells.compute(run)
    rows = []
    for curve, labels in joined.items():
        for label in labels:
            row = [cells.Cell("policy", label, {"curve": curve, "policy": label})]
            for metric in estimates:
                row.append(cells.mean(shown_name(metric), metric, estimates[metric][label]))
                row += cells.difference("to smallest", f"{metric}_to_smallest", gains[metric].get(label))[:1]
            rows.append([*row, *compute[label]])
    text = "Means with 95 % intervals, and paired differences to the policy's own smallest budget"
    made = sum(map(len, gains.values()))
    return Table("scaling", text, run.trials, rows, num_comparisons=made, is_brief=made > 0)


def _draw(run: Run, joined: Curves, estimates: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    from experiments.report.plots import GREY, error_bars, grid, legend_below, log_passes, styles

    passes, styled = mean_passes(run.trials), styles(list(joined))
    figure, axes = grid(len(estimates), columns=2, width=5.4, height=4.6)
    for axis, metric in zip(axes, estimates, strict=True):
        if GREEDY in joined:
            axis.axhline(estimates[metric][GREEDY].mean, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        for place, (curve, labels) in enumerate(joined.items()):
            aside = ASIDE ** (place - len(joined) / 2)
            points = [estimates[metric][label] for label in labels]
            error_bars(axis, [passes[label] * aside for label in labels], points, styled[curve], curve)
        log_passes(axis, list(passes.values()))
        axis.set_title(f"{capitalised(shown_name(metric))} against compute")
        axis.set_ylabel(f"{shown_name(metric)}, mean and 95 % interval")
    legend_below(figure, axes[0])
    return figure
