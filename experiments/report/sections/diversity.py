"""Diversity of the candidates: what a search has to choose from.

The diversity of a level is the mean root mean square difference of pixels, in [0, 1], between its candidates' chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from experiments.report import cells
from experiments.report.comparisons import means, means_along
from experiments.report.data import KEYS, Run
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import at_one_budget, ordered
from experiments.report.statistics import NOTHING, Estimate
from experiments.report.words import interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Diversity of the candidates"
MAX_CHUNKS = 5  # columns of the table
ByChunk = Mapping[tuple[str, float], Estimate]


def diversity(run: Run) -> Section:
    """Returns how far a level's candidates lie apart, by policy and chunk."""
    stored = run.candidates
    if stored is None:
        return Section(TITLE, ["Left out: the run stored no candidates.parquet."])
    if "diversity" not in stored or stored["diversity"].isna().all():
        return Section(
            TITLE, ["Left out: the run did not measure the diversity of its candidates (`--measure-candidates` does)."]
        )
    levels = stored.dropna(subset="diversity").groupby([*KEYS, "chunk"], sort=False)["diversity"].first().reset_index()
    overall, by_chunk = means(levels, "diversity"), means_along(levels, "diversity", "chunk")
    labels = [label for label in ordered(run.trials) if label in overall]
    order = sorted(labels, key=lambda label: overall[label].mean)
    ends = [f"{interval(overall[label])} ({label})" for label in dict.fromkeys((order[0], order[-1]))]
    reading = f"The mean diversity of a level runs from {' to '.join(ends)}." if len(ends) > 1 else f"It is {ends[0]}."
    picture = Picture("diversity", "Diversity of levels by chunk", lambda: _draw(run, levels, by_chunk))
    return Section(TITLE, [reading], [_table(run, levels, labels, overall, by_chunk)], [picture])


def _table(
    run: Run, levels: pd.DataFrame, labels: Sequence[str], overall: Mapping[str, Estimate], by_chunk: ByChunk
) -> Table:
    compute = cells.compute(run)
    chunks = cells.some(sorted(levels["chunk"].unique()), MAX_CHUNKS)
    rows = [
        [
            cells.name(label),
            cells.mean("all chunks", "diversity", overall[label]),
            *(cells.mean(f"chunk {chunk}", "", by_chunk.get((label, chunk), NOTHING)) for chunk in chunks),
            *compute[label],
        ]
        for label in labels
    ]
    detail = pd.DataFrame([{"policy": key[0], "chunk": key[1], **one._asdict()} for key, one in by_chunk.items()])
    text = "Root mean square difference of a level's candidates in pixels of [0, 1], with 95 % intervals"
    return Table("diversity", text, levels, rows, detail=detail, is_brief=False)


def _draw(run: Run, levels: pd.DataFrame, by_chunk: ByChunk) -> Figure:
    from experiments.report.plots import band, chunks, grid, legend_below, mean_and, styles

    shown = [label for label in at_one_budget(run.trials) if label in set(levels["policy"])]
    styled = styles(shown)
    figure, (axis,) = grid(1, columns=1, width=8.5, height=4.6)
    for label in shown:
        own = sorted(chunk for policy, chunk in by_chunk if policy == label)
        band(axis, own, [by_chunk[label, chunk] for chunk in own], styled[label], label, of=len(shown))
    axis.set_title("Diversity of a level's candidates")
    chunks(axis)
    axis.set_ylabel(f"difference of pixels in [0, 1], {mean_and(len(shown))}")
    legend_below(figure, axis)
    return figure
