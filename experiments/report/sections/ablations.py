"""Ablations: Stream-T1 against itself with one thing changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.report import cells
from experiments.report.comparisons import Difference, differences, means
from experiments.report.data import REWARD, Run, shown_name
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import STREAM_T1, ablation_references
from experiments.report.words import capitalised, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Ablations of Stream-T1"


def ablations(run: Run) -> Section:
    """Returns each ablation's paired difference to the Stream-T1 with the same other options."""
    references = ablation_references(run.trials)
    if not references:
        return Section(TITLE, ["Left out: the run has no ablation beside a stream-t1 (`--preset ablations` has all)."])
    found = {metric: differences(run.trials, metric, references) for metric in (*run.judges, REWARD)}
    readings = [_reading(metric, found[metric]) for metric in run.judges or (REWARD,)]
    picture = Picture("ablations", "Differences of the ablations to stream-t1", lambda: _draw(found))
    return Section(TITLE, readings, [_table(run, references, found)], [picture])


def _reading(metric: str, found: Mapping[str, Difference]) -> str:
    estimates = {label: one.estimate for label, one in found.items()}
    verdict = shown(estimates, above=f"above {STREAM_T1}:", below=f"below {STREAM_T1}:")
    return f"In {shown_name(metric)}: {verdict}."


def _table(run: Run, references: Mapping[str, str], found: Mapping[str, Mapping[str, Difference]]) -> Table:
    estimates = {metric: means(run.trials, metric) for metric in found}
    compute = cells.compute(run)
    labels = [
        label
        for full in dict.fromkeys(references.values())
        for label in (full, *(one for one in references if references[one] == full))
    ]
    rows = []
    for label in labels:
        row = [cells.name(label)]
        for metric in found:
            row.append(cells.mean(shown_name(metric), metric, estimates[metric][label]))
            row += cells.difference(f"to {STREAM_T1}", f"{metric}_to_stream_t1", found[metric].get(label))
        rows.append([*row, *compute[label]])
    shown = run.trials[run.trials["policy"].isin(labels)]
    text = "Stream-T1 with one thing changed, and paired differences to stream-t1 with the same other options"
    return Table("ablations", text, shown, rows, num_comparisons=sum(map(len, found.values())))


def _draw(found: Mapping[str, Mapping[str, Difference]]) -> Figure:
    from experiments.report.plots import forest, grid

    figure, axes = grid(len(found), columns=2, width=5.2, height=1.2 + 0.36 * len(found[REWARD]), sharey=True)
    for axis, (metric, by_label) in zip(axes, found.items(), strict=True):
        estimates, name = {label: one.estimate for label, one in by_label.items()}, shown_name(metric)
        forest(axis, estimates, title=capitalised(name), unit=f"{name}, difference to {STREAM_T1}", zero=True)
    return figure
