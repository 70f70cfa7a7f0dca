"""The table at the end: each policy's rewards, measures and costs over its trials, and who won at what cost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.trials import Result
from experiments.worlds import TRUTH, headline_first

REFERENCE = "greedy"  # the 1x of multiples, and what others are paired with
COLUMN_WIDTH = 17  # wide enough for the words of policies' names and for the cells


class Row(NamedTuple):
    """A line of the table: its name, what it reads off a result, its format, and which end of it is better.

    What is read is nan where it is missing; means and comparisons are of the trials that have it, and say so.
    """

    name: str
    read: Callable[[Result], float]
    form: str
    best: Callable[[Sequence[float]], float] | None = None

    def shown(self, value: float) -> str:
        return MISSING if math.isnan(value) else format(value, self.form)


REWARD = "search reward"
MISSING = "–"
COSTS = (
    Row("passes", lambda result: result.cost.passes, ".0f"),
    Row("seconds", lambda result: result.cost.seconds, ".1f"),
    Row("key/value MB", lambda result: result.cost.peak_bytes / 1e6, ".1f"),
)


def _measure(name: str, form: str) -> Row:
    return Row(name, lambda result: result.measures[name], form, max)


def score_rows(result: Result) -> list[Row]:
    """Returns the lines of a result's reward and of its measures, truth first."""
    form = ".2f" if TRUTH in result.measures else ".3f"  # judges that count from 0 to 1 differ by little
    measures = [_measure(name, form) for name in headline_first(result.measures)]
    return [Row(REWARD, lambda result: result.reward, form, max), *measures]


def rows(result: Result) -> list[Row]:
    """Returns all lines of a table with this result in it."""
    return [*score_rows(result), *COSTS]


def headlines(result: Result) -> list[Row]:
    """Returns what a result is judged by: its reward, and truth or, where nobody knows it, every measure."""
    return score_rows(result)[: 2 if TRUTH in result.measures else None]


def by_policy(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Returns the results of each policy, in the order of their first appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.label, []).append(result)
    return groups


def means(results: Sequence[Result]) -> dict[str, float]:
    """Returns the mean of every line over the results that have it, by its name; none of a line that no result has."""
    found = {row.name: _means(row, {"all": results}) for row in rows(results[0])}
    return {name: values["all"] for name, values in found.items() if values}


def multiples(results: Sequence[Result]) -> dict[str, float]:
    """Returns each policy's passes over greedy's; nothing where greedy did not run."""
    passes = {label: fmean(one.cost.passes for one in group) for label, group in by_policy(results).items()}
    return {label: spent / passes[REFERENCE] for label, spent in passes.items()} if REFERENCE in passes else {}


def print_summary(console: Console, results: Sequence[Result]) -> None:
    """Prints the table, in parts where it is too wide, and the winners; nothing if there are no results."""
    groups = by_policy(results)
    if not groups:
        return
    count = max(len(group) for group in groups.values())
    spread = "Mean ± standard deviation over the" if count > 1 else "The"
    sentence = f"{spread} {count} trial{'s' if count > 1 else ''} of each policy"
    if measures := results[0].measures:
        sentence += f"; no policy sees the measures{', whose mean is truth' if TRUTH in measures else ''}"
    console.print(f"\n{sentence}.", highlight=False)
    tables = math.ceil(len(groups) / max(1, console.width // COLUMN_WIDTH - 1))
    size = math.ceil(len(groups) / tables)
    for first in range(0, len(groups), size):
        console.print(_table(results, list(groups)[first : first + size]))
    if len(groups) > 1:
        for row in headlines(results[0]):
            console.print(_verdict(row, results), highlight=False)


def _table(results: Sequence[Result], labels: Sequence[str]) -> Table:
    """Returns the part of the table that is about some policies."""
    groups = by_policy(results)
    table = Table("", *(escape(_title(label)) for label in labels))
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify, column.overflow = "right", "fold"
    ends = {REWARD, TRUTH, score_rows(results[0])[-1].name}  # of parts of the table
    for row in rows(results[0]):
        cells = dict(zip(groups, _cells(row, groups), strict=True))
        table.add_row(row.name, *(cells[label] for label in labels), end_section=row.name in ends)
        if row.name == "passes" and (times := multiples(results)):
            table.add_row("  times greedy", *(f"{times[label]:.2f}x" for label in labels))
    return table


def _title(label: str) -> str:
    """Returns a label in lines that fit a column, broken at hyphens and blanks."""
    lines = textwrap.wrap(label.replace("-", "- "), COLUMN_WIDTH - 3, break_long_words=False)
    return "\n".join(line.replace("- ", "-") for line in lines)


def _cells(row: Row, groups: dict[str, list[Result]]) -> list[str]:
    means = _means(row, groups)
    shown = []
    for label, group in groups.items():
        if label not in means:
            shown.append(MISSING)
            continue
        values = _values(row, group)
        cell = row.shown(means[label])
        if len(values) > 1:
            cell += f" ±{format(stdev(values), row.form)}"
        if row.best is not None and len(groups) > 1 and means[label] == row.best([*means.values()]):
            cell = f"[bold]{cell}[/]"
        shown.append(cell + (f"\n{len(values)} of {len(group)}" if len(values) < len(group) else ""))
    return shown


def _values(row: Row, group: Sequence[Result]) -> list[float]:
    return [value for value in map(row.read, group) if not math.isnan(value)]


def _means(row: Row, groups: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Returns a row's mean by policy; none of a policy without any value."""
    return {label: fmean(values) for label, group in groups.items() if (values := _values(row, group))}


def _verdict(row: Row, results: Sequence[Result]) -> str:
    """Returns which policy won by a row, and at what cost."""
    groups = by_policy(results)
    means = _means(row, groups)
    if not means:
        return f"No trial has a {row.name}."
    winner = max(means, key=lambda label: means[label])
    sentence = f"Highest {row.name}: [bold]{escape(winner)}[/] with {means[winner]:{row.form}}"
    if num_missing := sum(math.isnan(row.read(one)) for one in results):
        sentence += f" ({num_missing} of all {len(results)} trials have none)"
    if winner == REFERENCE or REFERENCE not in means:
        return f"{sentence}, for {fmean(one.cost.passes for one in groups[winner]):.0f} passes a video."
    paired = {(one.prompt, one.seed): row.read(one) for one in groups[REFERENCE]}
    pairs = [(row.read(one), paired[key]) for one in groups[winner] if (key := (one.prompt, one.seed)) in paired]
    pairs = [pair for pair in pairs if not any(map(math.isnan, pair))]
    return (
        f"{sentence} (greedy: {means[REFERENCE]:{row.form}}), better than greedy in "
        f"{sum(own > other for own, other in pairs)} of {len(pairs)} trials, "
        f"for {multiples(results)[winner]:.1f} times its passes."
    )
