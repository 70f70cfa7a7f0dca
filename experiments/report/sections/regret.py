"""Selector regret: of the candidates tried, how often the reward picks the one that truth would have picked.

A level is what a trial tried for one chunk. Candidates given up before they were finished have no truth and do not
count, nor do levels with a single candidate. The truth of a candidate is that of the window that the long score sees,
which for the first chunks is its whole video.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from experiments.report import cells
from experiments.report.comparisons import means
from experiments.report.data import KEYS, Run
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import at_one_budget, ordered
from experiments.report.words import NONE, counted, listed, number, percent, too_few
from experiments.worlds import TRUTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Selector regret"
MAX_CHUNKS = 7  # columns of the table
LEVEL = [*KEYS, "chunk"]


def regret(run: Run) -> Section:
    """Returns how the reward's pick compares with truth's own, which is the upper bound, and with chance."""
    if run.candidates is None:
        return Section(TITLE, ["Left out: the run stored no candidates.parquet."])
    if not run.has_truth:
        return Section(TITLE, ["Left out: nobody knows the truth of this run's videos."])
    if TRUTH not in run.candidates or run.candidates[TRUTH].isna().all():
        return Section(
            TITLE, ["Left out: the run did not measure the truth of its candidates (`--measure-candidates` does)."]
        )
    levels = judge(run.candidates)
    if levels.empty:
        return Section(TITLE, ["Left out: no level had two finished candidates to choose from."])
    labels = [label for label in ordered(run.trials) if label in set(levels["policy"])]
    tables = [_table(run, levels, labels), _chunk_table(run, levels, labels)]
    pictures = [
        Picture("agreement", "How often the reward picks truth's best", lambda: _draw_agreement(levels, labels)),
        Picture("regret", "Truth of candidates by chunk", lambda: _draw_chunks(run, levels, labels)),
    ]
    return Section(TITLE, [_reading(levels, labels)], tables, pictures)


def judge(candidates: pd.DataFrame) -> pd.DataFrame:
    """Returns one row a level with a choice.

    Its columns: num_candidates; picked, best and mean truth, picked being the candidate with the highest fused reward,
    the first of equals; agreement, 1 where no candidate has more truth than the picked one; chance, the agreement of
    a blind pick; gain and regret, how far the picked one is above the mean and below the best.
    """
    finished = candidates[candidates["pruned_after"].isna() & candidates[TRUTH].notna() & candidates["fused"].notna()]
    finished = finished.reset_index(drop=True)
    groups = finished.groupby(LEVEL, sort=False)
    is_best = finished[TRUTH] == groups[TRUTH].transform("max")
    levels = groups[TRUTH].agg(num_candidates="size", best="max", mean="mean")
    levels["picked"] = finished[TRUTH].to_numpy()[groups["fused"].idxmax().to_numpy()]
    levels["agreement"] = (levels["picked"] == levels["best"]).astype(float)
    levels["chance"] = is_best.groupby([finished[name] for name in LEVEL], sort=False).mean()
    levels["gain"] = levels["picked"] - levels["mean"]
    levels["regret"] = levels["best"] - levels["picked"]
    return levels[levels["num_candidates"] > 1].reset_index()


def captured(levels: pd.DataFrame) -> float:
    """Returns the share of the way from the mean to the best candidate that the picks go; NaN without a way."""
    way = (levels["best"] - levels["mean"]).mean()
    return float(levels["gain"].mean() / way) if way > 0 else float("nan")


def _reading(levels: pd.DataFrame, labels: Sequence[str]) -> str:
    """Returns for whom the reward is shown to pick better than chance, and what of the possible it gets."""
    above_chance = means(levels.assign(edge=levels["agreement"] - levels["chance"]), "edge")
    if not any(one.can_show for one in above_chance.values()):
        few = too_few(max(one.num_prompts for one in above_chance.values()))
        return f"Whether the reward picks better than chance is not shown: {few}."
    better = [label for label in labels if above_chance[label].is_above_zero]
    for_whom = "every policy" if len(better) == len(labels) else listed(better) or "no policy"
    return (
        f"The reward is shown to pick truth's best candidate more often than chance for {for_whom}; over "
        f"{counted(len(levels), 'level')} of all, its picks go {percent(captured(levels))} of the way from the mean to "
        "the best candidate."
    )


def _table(run: Run, levels: pd.DataFrame, labels: Sequence[str]) -> Table:
    compute = cells.compute(run)
    agreement, gain, lost = (means(levels, column) for column in ("agreement", "gain", "regret"))
    rows = []
    for label in labels:
        own = levels[levels["policy"] == label]
        average = own[["num_candidates", "chance", "mean", "picked", "best"]].mean()
        rows.append(
            [
                cells.name(label),
                cells.value("levels", "levels", len(own), 0, is_brief=False),
                cells.value("candidates", "num_candidates", average["num_candidates"], 1, is_brief=False),
                cells.mean("agreement", "agreement", agreement[label]),
                cells.value("chance", "chance", average["chance"]),
                *(
                    cells.value(f"{which} truth", f"{which}_truth", average[which], is_brief=False)
                    for which in ("mean", "picked", "best")
                ),
                cells.mean("picked - mean", "gain", gain[label], signed=True),
                cells.mean("best - picked", "regret", lost[label], signed=True),
                cells.share("of the way", "captured", captured(own)),
                *compute[label],
            ]
        )
    text = (
        "How often the fused reward picks the candidate with the most truth of a level (chance: a blind pick), and the "
        "truth of the mean, the picked and the best candidate (of its window)"
    )
    return Table("regret", text, levels, rows, num_comparisons=2 * len(rows))


def _chunk_table(run: Run, levels: pd.DataFrame, labels: Sequence[str]) -> Table:
    compute, averages = cells.compute(run), _by_chunk(levels)
    chunks = cells.some(sorted(levels["chunk"].unique()), MAX_CHUNKS)
    rows = [
        [cells.name(label), *(_chunk_cell(averages, label, chunk) for chunk in chunks), *compute[label]]
        for label in labels
    ]
    text = "Truth of the mean / the picked / the best candidate by chunk; agreement and chance are stored"
    return Table("regret_by_chunk", text, levels, rows, detail=averages.reset_index(), is_brief=False)


def _chunk_cell(averages: pd.DataFrame, label: str, chunk: int) -> cells.Cell:
    header, found = f"chunk {chunk}", (label, chunk) in averages.index
    values = averages.loc[(label, chunk), ["mean", "picked", "best"]] if found else ()
    return cells.Cell(header, " / ".join(number(value, 2) for value in values) or NONE, {})


def _by_chunk(levels: pd.DataFrame) -> pd.DataFrame:
    columns = ["num_candidates", "agreement", "chance", "mean", "picked", "best"]
    return levels.groupby(["policy", "chunk"], sort=False)[columns].mean()


def _draw_agreement(levels: pd.DataFrame, labels: Sequence[str]) -> Figure:
    from experiments.report.plots import forest, grid

    agreement, chance = means(levels, "agreement"), levels.groupby("policy")["chance"].mean()
    figure, (axis,) = grid(1, columns=1, width=7.5, height=1.3 + 0.34 * len(labels))
    unit = "share of levels, with 95 % interval; black: a blind pick"
    forest(axis, {label: agreement[label] for label in labels}, title="Reward picks truth's best candidate", unit=unit)
    for row, label in enumerate(labels):
        axis.plot([chance[label]] * 2, [row - 0.3, row + 0.3], color="#333333", linewidth=2)
    axis.set_xlim(left=0)
    return figure


def _draw_chunks(run: Run, levels: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Draws a panel for each policy at one budget: the mean, the picked and the best candidate by chunk."""
    from experiments.report.plots import GREY, broken, chunks, grid, legend_below, styles

    averages = _by_chunk(levels)
    shown = [label for label in at_one_budget(run.trials) if label in labels]
    styled = styles(shown)
    figure, axes = grid(len(shown), columns=3, width=3.7, height=2.9, sharey=True)
    for axis, label in zip(axes, shown, strict=True):
        own, colour = averages.loc[label].sort_index(), styled[label].colour
        axis.fill_between(own.index, own["mean"], own["best"], color="#F0F0F0", linewidth=0)
        axis.plot(own.index, own["best"], color="black", linestyle="--", label="best by truth (upper bound)")
        axis.plot(
            own.index, own["picked"], color=colour, marker="o", markersize=4, label="picked by reward (policy's colour)"
        )
        axis.plot(own.index, own["mean"], color=GREY, linestyle=":", label="mean candidate (blind pick)")
        axis.set_title(broken(label))
        chunks(axis)
    axes[0].set_ylabel("truth of the window")
    legend_below(figure, axes[0])
    return figure
