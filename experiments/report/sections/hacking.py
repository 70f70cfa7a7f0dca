"""The hacking gap: whether truth rises with the reward that is searched with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from experiments.report import cells
from experiments.report.comparisons import Difference, differences, means
from experiments.report.data import NAMES, REWARD, Run
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import GREEDY, curves, greedy_references, smaller_budgets, without_ablations
from experiments.report.words import NONE, interval, too_few
from experiments.trials import TRUTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Hacking gap"


class Gap(NamedTuple):
    """What a policy gains on a reference in both."""

    label: str
    reward: Difference
    truth: Difference

    @property
    def is_hacked(self) -> bool:
        """Whether reward is shown to rise and truth is not."""
        return self.reward.estimate.is_above_zero and not self.truth.estimate.is_above_zero


def hacking(run: Run) -> Section:
    """Returns reward beside truth: of each policy against greedy, and of each budget against the next smaller one."""
    gaps = [*_gaps(run, greedy_references(run.trials)), *_gaps(run, smaller_budgets(run.trials))]
    if not gaps:
        return Section(TITLE, ["Left out: neither greedy nor a second budget of any policy ran to compare with."])
    picture = Picture("hacking", "Truth against search reward", lambda: _draw(run))
    return Section(TITLE, _readings(gaps), [_table(run, gaps)], [picture])


def _gaps(run: Run, references: Mapping[str, str]) -> list[Gap]:
    rewards, truths = (differences(run.trials, metric, references) for metric in (REWARD, TRUTH))
    return [Gap(label, rewards[label], truths[label]) for label in references]


def _readings(gaps: list[Gap]) -> list[str]:
    hacked = [_sentence(gap) for gap in gaps if gap.is_hacked]
    if hacked:
        return hacked
    if not any(gap.reward.estimate.can_show for gap in gaps):
        return [f"Nothing is shown: {too_few(max(gap.reward.estimate.num_prompts for gap in gaps))}."]
    num_risen = sum(gap.reward.estimate.is_above_zero for gap in gaps)
    if not num_risen:
        return [f"In none of {len(gaps)} comparisons is search reward shown to rise, so no gap can be seen."]
    return [
        f"Search reward is shown to rise in {num_risen} of {len(gaps)} comparisons, and truth in each of them, too."
    ]


def _sentence(gap: Gap) -> str:
    truth = gap.truth.estimate
    found = "truth falls" if truth.is_below_zero else "no difference in truth is shown"
    return (
        f"Reward rises and truth does not: from {gap.reward.reference} to {gap.label}, search reward rises "
        f"({interval(gap.reward.estimate, signed=True)}), and {found} ({interval(truth, signed=True)})."
    )


def _table(run: Run, gaps: list[Gap]) -> Table:
    compute = cells.compute(run)
    rows = []
    for gap in gaps:
        row = [cells.name(gap.label), cells.Cell("against", gap.reward.reference, {})]
        row += cells.difference(NAMES[REWARD], REWARD, gap.reward)[:2]
        row += cells.difference(NAMES[TRUTH], TRUTH, gap.truth)
        text = "reward rises, truth does not" if gap.is_hacked else NONE
        rows.append([*row, cells.Cell("gap", text, {"is_hacked": gap.is_hacked}), *compute[gap.label]])
    text = "Paired differences to greedy, and to the next smaller budget of the same policy"
    return Table("hacking", text, run.trials, rows, num_comparisons=2 * len(gaps))


def _draw(run: Run) -> Figure:
    from experiments.report.plots import GREY, grid, legend_below, styles

    joined = without_ablations(curves(run.trials))
    rewards, truths = means(run.trials, REWARD), means(run.trials, TRUTH)
    styled = styles(list(joined))
    figure, (axis,) = grid(1, columns=1, width=7.2, height=5.6)
    for curve, labels in joined.items():
        style = styled[curve]
        x, y = [rewards[label].mean for label in labels], [truths[label].mean for label in labels]
        axis.plot(x, y, color=style.colour, ls=style.line, marker=style.marker, markersize=7, label=curve)
        for label in labels:
            across, up = rewards[label], truths[label]
            if across.has_interval:
                axis.plot([across.low, across.high], [up.mean] * 2, color=style.colour, linewidth=2.5, alpha=0.3)
                axis.plot([across.mean] * 2, [up.low, up.high], color=style.colour, linewidth=2.5, alpha=0.3)
    if GREEDY in joined:
        axis.axhline(truths[GREEDY].mean, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axis.set_title("Truth against search reward: curves join a policy's budgets")
    axis.set_xlabel("search reward, mean and 95 % interval")
    axis.set_ylabel("truth, mean and 95 % interval")
    legend_below(figure, axis)
    return figure
