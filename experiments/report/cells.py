"""Cells of tables: what is shown, and the same in numbers for the stored table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from experiments.report.comparisons import Difference
from experiments.report.data import Run
from experiments.report.policies import mean_passes
from experiments.report.statistics import NOTHING, Estimate
from experiments.report.words import NONE, interval, number, percent

T = TypeVar("T")


class Cell(NamedTuple):
    """A cell under its column's header.

    stored: what goes into the stored row, by column.
    is_brief: whether the terminal, which is narrow, shows it, too.
    link: where it leads from the report's folder; empty if nowhere.
    """

    header: str
    text: str
    stored: Mapping[str, object]
    is_brief: bool = True
    link: str = ""

    @property
    def markdown(self) -> str:
        return f"[{self.text}]({self.link})" if self.link else self.text


def name(label: str, header: str = "policy") -> Cell:
    return Cell(header, label, {header: label})


def value(header: str, column: str, amount: float, digits: int = 3, *, is_brief: bool = True) -> Cell:
    return Cell(header, number(amount, digits), {column: amount}, is_brief)


def share(header: str, column: str, amount: float) -> Cell:
    return Cell(header, percent(amount), {column: amount})


def mean(header: str, column: str, one: Estimate, *, signed: bool = False) -> Cell:
    """Returns a mean with its interval."""
    return Cell(header, interval(one, signed=signed), _ends(column, one))


def difference(header: str, column: str, found: Difference | None) -> list[Cell]:
    """Returns a paired difference, its win rate and its number of pairs; empty cells for what has no reference."""
    one = found.estimate if found else NOTHING
    num_pairs = found.num_pairs if found else 0
    return [
        Cell(
            header,
            interval(one, signed=True),
            {f"{column}_reference": found.reference if found else None, **_ends(column, one)},
        ),
        share("wins", f"{column}_win_rate", found.win_rate if found else math.nan),
        Cell("pairs", str(num_pairs) if found else NONE, {f"{column}_pairs": num_pairs}, is_brief=False),
    ]


def compute(run: Run) -> dict[str, list[Cell]]:
    """Returns, for every label, what its mean video cost in passes and in seconds."""
    passes, seconds = mean_passes(run.trials), run.trials.groupby("policy")["seconds"].mean()
    return {
        label: [value("passes", "passes", passes[label], 0), value("seconds", "seconds", seconds[label], 1)]
        for label in passes
    }


def _ends(column: str, one: Estimate) -> dict[str, object]:
    return {column: one.mean, f"{column}_low": one.low, f"{column}_high": one.high}


def some(places: Sequence[T], count: int) -> list[T]:
    """Returns at most `count` evenly spaced places, both ends among them: columns that a page has room for."""
    if len(places) <= count:
        return list(places)
    return [places[round(index * (len(places) - 1) / (count - 1))] for index in range(count)]
