"""Policies by search reward and by each measure: means, paired differences, and win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from experiments.report import cells
from experiments.report.comparisons import Difference, differences, means
from experiments.report.data import REWARD, Run, file_name, shown_name
from experiments.report.page import Picture, Section, Table
from experiments.report.policies import (
    BEST_OF_N,
    GREEDY,
    STREAM_T1,
    greedy_references,
    mean_passes,
    nearest_references,
    ordered,
)
from experiments.report.statistics import NOTHING, Estimate
from experiments.report.words import NONE, capitalised, interval, listed, times, verdict
from experiments.worlds import TRUTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NEAREST = (BEST_OF_N, STREAM_T1)  # what others are compared with at the most similar passes


class Comparison(NamedTuple):
    """One metric of all policies, in the order of the report.

    versus: differences to greedy, to best-of-N and to Stream-T1, by those names; empty where one did not run.
    """

    metric: str
    means: Mapping[str, Estimate]
    versus: Mapping[str, Mapping[str, Difference]]


def truth(run: Run) -> Section:
    """Returns what each policy is worth by truth, which no policy sees."""
    return _section(run, TRUTH)


def reward(run: Run) -> Section:
    """Returns what each policy reached by the reward that it searches with."""
    return _section(run, REWARD)


def measures(run: Run) -> Section:
    """Returns the same for the measures whose mean is truth, or for those of judges."""
    title = "The measures of truth" if run.has_truth else "What judges say"
    if not run.parts:
        return Section(title, ["Left out: nothing but the search reward measured the videos."])
    compared = [_compare(run, name) for name in run.parts]
    readings = [_overview(one) for one in compared]
    if not run.has_truth:  # they are all there is to judge policies by
        readings = [f"{reading} {_highest(run, one)}" for reading, one in zip(readings, compared, strict=True)]
    return Section(
        title,
        readings,
        [_table(run, one, is_brief=not run.has_truth) for one in compared],
        [Picture("measures", "Each measure's differences to greedy", lambda: _draw_measures(compared))],
    )


def _compare(run: Run, metric: str) -> Comparison:
    estimates = means(run.trials, metric)
    references = {GREEDY: greedy_references(run.trials)}
    references |= {name: nearest_references(run.trials, name) for name in NEAREST}
    return Comparison(
        metric,
        {label: estimates[label] for label in ordered(run.trials)},
        {name: differences(run.trials, metric, pairs) for name, pairs in references.items()},
    )


def _section(run: Run, metric: str) -> Section:
    one, title = _compare(run, metric), capitalised(shown_name(metric))
    picture = Picture(metric, f"{title} of each policy, and its differences", lambda: _draw(one))
    return Section(title, [_overview(one), _highest(run, one)], [_table(run, one)], [picture])


def _overview(one: Comparison) -> str:
    """Returns how many policies are shown to be above and below greedy."""
    found = one.versus[GREEDY]
    if not found:
        return f"In {shown_name(one.metric)}, there is nothing to compare with greedy."
    above = sum(difference.estimate.is_above_zero for difference in found.values())
    below = [label for label, difference in found.items() if difference.estimate.is_below_zero]
    return (
        f"In {shown_name(one.metric)}, {above} of {len(found)} other policies {'is' if above == 1 else 'are'} shown to "
        f"be above greedy, and {len(below) or 'none'} below{': ' if below else ''}{listed(below)}."
    )


def _highest(run: Run, one: Comparison) -> str:
    """Returns how the policy with the highest mean stands to greedy, to best-of-N and to Stream-T1."""
    best, passes = max(one.means, key=lambda label: one.means[label].mean), mean_passes(run.trials)
    found = [versus[best] for versus in one.versus.values() if best in versus]
    verdicts = [
        verdict(best, each, shown_name(one.metric), cost=times(passes[best], passes[each.reference])) for each in found
    ]
    return " ".join([f"Highest mean: {best}, with {interval(one.means[best])}.", *verdicts])


def _table(run: Run, one: Comparison, *, is_brief: bool = True) -> Table:
    compute, metric = cells.compute(run), shown_name(one.metric)
    versus = {name: found for name, found in one.versus.items() if found}
    rows = []
    for label, estimate in one.means.items():
        row = [cells.name(label), cells.mean(metric, one.metric, estimate)]
        for name, found in versus.items():
            row += cells.difference(f"to {name}", f"to_{name.replace('-', '_')}", found.get(label))
            if _has_many(found):
                nearest = found.get(label)
                row.append(cells.Cell(f"which {name}", nearest.reference if nearest else NONE, {}, is_brief=False))
        rows.append([*row, *compute[label]])
    text = f"{capitalised(metric)}: means with 95 % intervals, paired differences with theirs, and compute a video"
    made = sum(map(len, versus.values()))
    return Table(file_name(one.metric), text, run.trials, rows, num_comparisons=made, is_brief=is_brief)


def _has_many(found: Mapping[str, Difference]) -> bool:
    """Returns whether what policies are compared with ran at several budgets."""
    return len({difference.reference for difference in found.values()}) > 1


def _draw(one: Comparison) -> Figure:
    from experiments.report.plots import forest, grid

    versus = {name: found for name, found in one.versus.items() if found}
    figure, axes = grid(1 + len(versus), columns=4, width=4.2, height=1.1 + 0.34 * len(one.means), sharey=True)
    metric, titles = shown_name(one.metric), {name: f"Difference to {name}" for name in versus}
    titles |= {name: f"{titles[name]} (nearest passes)" for name in versus if _has_many(versus[name])}
    forest(axes[0], one.means, title=capitalised(metric), unit=f"{metric}, mean and 95 % interval")
    for axis, (name, found) in zip(axes[1:], versus.items(), strict=True):
        estimates = {label: found[label].estimate if label in found else NOTHING for label in one.means}
        forest(axis, estimates, title=titles[name], unit=f"{metric}, paired difference", zero=True)
    return figure


def _draw_measures(compared: Sequence[Comparison]) -> Figure:
    from experiments.report.plots import forest, grid

    height = 1.0 + 0.3 * len(compared[0].means)
    figure, axes = grid(len(compared), columns=3, width=4.2, height=height, sharey=True)
    for axis, one in zip(axes, compared, strict=True):
        found = {label: difference.estimate for label, difference in one.versus[GREEDY].items()}
        unit = f"{one.metric}, {f'difference to {GREEDY}' if found else 'mean and 95 % interval'}"
        forest(axis, found or one.means, title=capitalised(one.metric), unit=unit, zero=bool(found))
    return figure
