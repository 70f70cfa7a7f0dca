"""Ablations: Stream-T1 against itself with one thing changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.report import cells
from experiments.report.comparisons import Difference, differences, means
from experiments.report.data import NAMES, REWARD, Run
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import STREAM_T1, ablation_references
from experiments.report.words import shown
from experiments.trials import TRUTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Ablations of Stream-T1"
COMPARED = (TRUTH, REWARD)


def ablations(run: Run) -> Section:
    """Returns each ablation's paired difference to the Stream-T1 with the same other options."""
    references = ablation_references(run.trials)
    if not references:
        return Section(TITLE, ["Left out: the run has no ablation beside a stream-t1 (`--preset ablations` has all)."])
    found = {metric: differences(run.trials, metric, references) for metric in COMPARED}
    estimates = {label: one.estimate for label, one in found[TRUTH].items()}
    reading = f"In truth: {shown(estimates, above=f'above {STREAM_T1}:', below=f'below {STREAM_T1}:')}."
    picture = Picture("ablations", "Differences of the ablations to stream-t1", lambda: _draw(found))
    return Section(TITLE, [reading], [_table(run, references, found)], [picture])


def _table(run: Run, references: Mapping[str, str], found: Mapping[str, Mapping[str, Difference]]) -> Table:
    estimates = {metric: means(run.trials, metric) for metric in COMPARED}
    compute = cells.compute(run)
    labels = [
        label
        for full in dict.fromkeys(references.values())
        for label in (full, *(one for one in references if references[one] == full))
    ]
    rows = []
    for label in labels:
        row = [cells.name(label)]
        for metric in COMPARED:
            row.append(cells.mean(NAMES[metric], metric, estimates[metric][label]))
            row += cells.difference(f"to {STREAM_T1}", f"{metric}_to_stream_t1", found[metric].get(label))
        rows.append([*row, *compute[label]])
    shown = run.trials[run.trials["policy"].isin(labels)]
    text = "Stream-T1 with one thing changed, and paired differences to stream-t1 with the same other options"
    return Table("ablations", text, shown, rows, num_comparisons=sum(map(len, found.values())))


def _draw(found: Mapping[str, Mapping[str, Difference]]) -> Figure:
    from experiments.report.plots import forest, grid

    figure, axes = grid(len(COMPARED), columns=2, width=5.2, height=1.2 + 0.36 * len(found[TRUTH]), sharey=True)
    for axis, metric in zip(axes, COMPARED, strict=True):
        estimates = {label: one.estimate for label, one in found[metric].items()}
        unit = f"{NAMES[metric]}, difference to {STREAM_T1}"
        forest(axis, estimates, title=NAMES[metric].capitalize(), unit=unit, zero=True)
    return figure
