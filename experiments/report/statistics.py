"""Means over prompts with bootstrap intervals.

Prompts are what is resampled: seeds of one prompt are alike, so they are averaged first.
Letters: K quantities, P prompts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999
MIN_PROMPTS = 3  # for an interval at all
MIN_TO_SHOW = 6  # for a claim: all of 5 prompts point the same way once in 16 times even where nothing differs
FEW_PROMPTS = 10  # below which percentile intervals are clearly too narrow
SEED = 0
_BATCH = 2**22  # numbers resampled at a time, which bounds memory


class Estimate(NamedTuple):
    """A mean over prompts and its 95 % interval, whose ends are NaN where there are too few prompts for one."""

    mean: float
    low: float
    high: float
    num_prompts: int

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def can_show(self) -> bool:
        """Whether there are prompts enough to claim anything."""
        return self.num_prompts >= MIN_TO_SHOW

    @property
    def is_above_zero(self) -> bool:
        """Whether the mean is shown to be above zero."""
        return self.can_show and self.low > 0.0

    @property
    def is_below_zero(self) -> bool:
        """Whether the mean is shown to be below zero."""
        return self.can_show and self.high < 0.0


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def estimate(by_prompt: Floats) -> list[Estimate]:
    """Returns the mean of each row with its percentile bootstrap interval (Efron, 1979), the same at every call.

    Args:
        by_prompt: `[K, P]` means of prompts, NaN where a quantity has none.
    """
    found: list[Estimate] = [NOTHING] * len(by_prompt)
    masks, group_of = np.unique(np.isfinite(by_prompt), axis=0, return_inverse=True)
    for group, mask in enumerate(masks):
        rows = np.flatnonzero(group_of == group)
        if mask.any():
            for row, one in zip(rows, _estimate_complete(by_prompt[np.ix_(rows, np.flatnonzero(mask))]), strict=True):
                found[row] = one
    return found


def _estimate_complete(values: Floats) -> list[Estimate]:
    num_prompts = values.shape[1]
    means = values.mean(axis=1)
    if num_prompts < MIN_PROMPTS:
        return [Estimate(float(mean), math.nan, math.nan, num_prompts) for mean in means]
    interval = bootstrap(
        (values,),
        np.mean,
        axis=1,
        confidence_level=CONFIDENCE,
        n_resamples=NUM_RESAMPLES,
        batch=max(1, _BATCH // values.size),
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return [
        Estimate(float(mean), float(low), float(high), num_prompts)
        for mean, low, high in zip(means, interval.low, interval.high, strict=True)
    ]
