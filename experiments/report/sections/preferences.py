"""Preferences: how often viewers who did not see names preferred a policy's videos to another's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from experiments.report import cells
from experiments.report.data import Run
from experiments.report.page import Section, Table
from experiments.report.policies import ordered
from experiments.report.preferences import read
from experiments.report.statistics import Estimate, Floats, estimate
from experiments.report.words import counted, interval, too_few

TITLE = "Blind preferences"


def preferences(run: Run, paths: Sequence[Path]) -> Section:
    """Returns how often each policy was preferred to each other one.

    Raises:
        ValueError: a file cannot be read, holds no preferences, or those of another run.
    """
    answers = read(paths, run)
    if answers.empty:
        return Section(TITLE, ["Left out: the files hold no answers."])
    labels = ordered(run.trials)
    pairs = {
        (label, other): found
        for place, label in enumerate(labels)
        for other in labels[place + 1 :]
        if not (found := answers[(answers["policy"] == label) & (answers["other"] == other)]).empty
    }
    rates = dict(zip(pairs, estimate(_by_prompt(pairs.values())), strict=True))
    rows = [
        [
            cells.name(label),
            cells.name(other, "other"),
            cells.mean("preferred", "preferred", rates[label, other]),
            *_counts(found["preferred"]),
            cells.Cell("viewers", str(found["viewer"].nunique()), {"viewers": found["viewer"].nunique()}),
        ]
        for (label, other), found in pairs.items()
    ]
    text = "How often a policy's video was preferred to the other's, ties as half"
    shown = run.trials[run.trials["trial"].isin(answers["trial"])]
    readings = [_reading(answers), *(_verdict(*names, rates[names]) for names in pairs)]
    return Section(TITLE, readings, [Table("preferences", text, shown, rows, num_comparisons=len(rows))])


def _by_prompt(pairs: Iterable[pd.DataFrame]) -> Floats:
    """Returns the mean of every pair and prompt, NaN where nobody was asked."""
    means = [found.groupby("prompt")["preferred"].mean() for found in pairs]
    return pd.DataFrame(means).to_numpy(float)


def _counts(preferred: pd.Series) -> list[cells.Cell]:
    counts = {"wins": preferred == 1.0, "ties": preferred == 0.5, "losses": preferred == 0.0}
    return [cells.Cell(name, str(int(each.sum())), {name: int(each.sum())}) for name, each in counts.items()]


def _reading(answers: pd.DataFrame) -> str:
    num, viewers = len(answers) // 2, answers["viewer"].nunique()
    return f"{counted(num, 'answer')} by {counted(viewers, 'viewer')}, by the names that they gave."


def _verdict(label: str, other: str, rate: Estimate) -> str:
    if not rate.can_show:
        return (
            f"{label} was preferred to {other} in {interval(rate)}, but nothing is shown: {too_few(rate.num_prompts)}."
        )
    if rate.low > 0.5:
        return f"{label} is preferred to {other}: {interval(rate)}."
    if rate.high < 0.5:
        return f"{other} is preferred to {label}, which won {interval(rate)}."
    return f"No preference is shown between {label} and {other} ({interval(rate)})."
