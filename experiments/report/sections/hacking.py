"""The hacking gap: whether truth, or what judges say, rises with the reward that is searched with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from experiments.report import cells
from experiments.report.comparisons import Difference, differences, means
from experiments.report.data import REWARD, Run, file_name, shown_name
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import GREEDY, curves, greedy_references, smaller_budgets, without_ablations
from experiments.report.words import NONE, capitalised, interval, too_few

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Hacking gap"


class Gap(NamedTuple):
    """What a policy gains on a reference in reward and by a judge, which is truth where it was measured."""

    label: str
    reward: Difference
    judged: Difference

    @property
    def is_hacked(self) -> bool:
        """Whether reward is shown to rise and what the judge says is not."""
        return self.reward.estimate.is_above_zero and not self.judged.estimate.is_above_zero


def hacking(run: Run) -> Section:
    """Returns reward beside each judge: of policies against greedy, and of budgets against the next smaller one."""
    if not run.judges:
        return Section(TITLE, ["Left out: nothing but the search reward measured the videos."])
    references = (greedy_references(run.trials), smaller_budgets(run.trials))
    if not any(references):
        return Section(TITLE, ["Left out: neither greedy nor a second budget of any policy ran to compare with."])
    gaps = {judge: [gap for pairs in references for gap in _gaps(run, judge, pairs)] for judge in run.judges}
    return Section(
        TITLE,
        [reading for judge in gaps for reading in _readings(gaps[judge], judge)],
        [_table(run, gaps[judge], judge) for judge in gaps],
        [_picture(run, judge) for judge in gaps],
    )


def _gaps(run: Run, judge: str, references: Mapping[str, str]) -> list[Gap]:
    rewards, judged = (differences(run.trials, metric, references) for metric in (REWARD, judge))
    return [Gap(label, rewards[label], judged[label]) for label in references]


def _readings(gaps: list[Gap], judge: str) -> list[str]:
    hacked = [_sentence(gap, judge) for gap in gaps if gap.is_hacked]
    if hacked:
        return hacked
    if not any(gap.reward.estimate.can_show for gap in gaps):
        return [f"Nothing is shown: {too_few(max(gap.reward.estimate.num_prompts for gap in gaps))}."]
    num_risen = sum(gap.reward.estimate.is_above_zero for gap in gaps)
    if not num_risen:
        return [f"In none of {len(gaps)} comparisons is search reward shown to rise, so no gap can be seen."]
    return [
        f"Search reward is shown to rise in {num_risen} of {len(gaps)} comparisons, and {judge} in each of them, too."
    ]


def _sentence(gap: Gap, judge: str) -> str:
    judged = gap.judged.estimate
    found = f"{judge} falls" if judged.is_below_zero else f"no difference in {judge} is shown"
    return (
        f"Reward rises and {judge} does not: from {gap.reward.reference} to {gap.label}, search reward rises "
        f"({interval(gap.reward.estimate, signed=True)}), and {found} ({interval(judged, signed=True)})."
    )


def _file(run: Run, judge: str) -> str:
    """Returns the name of a judge's files; truth has no other beside it."""
    return "hacking" if run.has_truth else f"hacking_{file_name(judge)}"


def _table(run: Run, gaps: list[Gap], judge: str) -> Table:
    compute = cells.compute(run)
    rows = []
    for gap in gaps:
        row = [cells.name(gap.label), cells.Cell("against", gap.reward.reference, {})]
        row += cells.difference(shown_name(REWARD), REWARD, gap.reward)[:2]
        row += cells.difference(judge, judge, gap.judged)
        text = f"reward rises, {judge} does not" if gap.is_hacked else NONE
        rows.append([*row, cells.Cell("gap", text, {"is_hacked": gap.is_hacked}), *compute[gap.label]])
    text = "Paired differences to greedy, and to the next smaller budget of the same policy"
    return Table(_file(run, judge), text, run.trials, rows, num_comparisons=2 * len(gaps))


def _picture(run: Run, judge: str) -> Picture:
    return Picture(_file(run, judge), f"{capitalised(judge)} against search reward", lambda: _draw(run, judge))


def _draw(run: Run, judge: str) -> Figure:
    from experiments.report.plots import GREY, grid, legend_below, styles

    joined = without_ablations(curves(run.trials))
    rewards, judged = means(run.trials, REWARD), means(run.trials, judge)
    styled = styles(list(joined))
    figure, (axis,) = grid(1, columns=1, width=7.2, height=5.6)
    for curve, labels in joined.items():
        style = styled[curve]
        x, y = [rewards[label].mean for label in labels], [judged[label].mean for label in labels]
        axis.plot(x, y, color=style.colour, ls=style.line, marker=style.marker, markersize=7, label=curve)
        for label in labels:
            across, up = rewards[label], judged[label]
            if across.has_interval:
                axis.plot([across.low, across.high], [up.mean] * 2, color=style.colour, linewidth=2.5, alpha=0.3)
                axis.plot([across.mean] * 2, [up.low, up.high], color=style.colour, linewidth=2.5, alpha=0.3)
    if GREEDY in joined:
        axis.axhline(judged[GREEDY].mean, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axis.set_title(f"{capitalised(judge)} against search reward: curves join a policy's budgets")
    axis.set_xlabel("search reward, mean and 95 % interval")
    axis.set_ylabel(f"{judge}, mean and 95 % interval")
    legend_below(figure, axis)
    return figure
