"""Policies over the trials of a run: means, and paired differences to a reference.

A row of any table belongs to a policy, a prompt and a seed; what is compared is a column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from experiments.report.statistics import NOTHING, Estimate, estimate

TIE = 1e-9  # differences below this are rounding


class Difference(NamedTuple):
    """How far a policy is from its reference over the prompts and seeds that both finished.

    estimate: of the paired differences.
    win_rate: how often the policy is the better one; ties count half. NaN without pairs.
    """

    reference: str
    estimate: Estimate
    num_pairs: int
    win_rate: float


def means(rows: pd.DataFrame, column: str) -> dict[str, Estimate]:
    """Returns the estimate of a column for each policy."""
    return _means(rows, column, ["policy"])


def means_along(rows: pd.DataFrame, column: str, place: str) -> dict[tuple[str, float], Estimate]:
    """Returns the estimate of a column for each policy and each value of another column, such as the chunk."""
    return _means(rows, column, ["policy", place])


def differences(rows: pd.DataFrame, column: str, references: Mapping[str, str]) -> dict[str, Difference]:
    """Returns the paired difference of each label in `references` to its reference."""
    if not references:
        return {}
    trials = rows.pivot_table(index=["prompt", "seed"], columns="policy", values=column, sort=False)
    paired = pd.DataFrame({label: trials[label] - trials[other] for label, other in references.items()})
    paired = paired.mask(paired.abs() < TIE, 0.0)
    by_prompt = paired.groupby("prompt", sort=False).mean()
    estimates = estimate(by_prompt.T.to_numpy(float))
    return {
        label: _difference(paired[label].dropna(), other, one)
        for (label, other), one in zip(references.items(), estimates, strict=True)
    }


def _means(rows: pd.DataFrame, column: str, by: list[str]) -> dict[Any, Estimate]:
    by_prompt = rows.groupby([*by, "prompt"], sort=False)[column].mean().unstack("prompt")
    return dict(zip(by_prompt.index, estimate(by_prompt.to_numpy(float)), strict=True))


def _difference(pairs: pd.Series, reference: str, one: Estimate) -> Difference:
    if pairs.empty:
        return Difference(reference, NOTHING, 0, math.nan)
    win_rate = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    return Difference(reference, one, len(pairs), win_rate)
