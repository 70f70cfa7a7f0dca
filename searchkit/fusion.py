"""Short and long scores fused into one, and the routing rule that the scores drive (Stream-T1, arXiv 2605.04461)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Literal, get_args

from searchkit.types import Route, Scores

ROUNDING = 1e-6  # of float32: scores that differ by less are equal, or batching would decide
Scale = Literal["published", "fixed", "z-score", "rank"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Puts the short and the long score on one scale before they are fused.

    Attributes:
        scale: "published" takes the scores as they are; "fixed" subtracts a mean and divides by a deviation, both
            given; "z-score" does so with those of the candidates that are compared; "rank" takes a candidate's place
            among them, from 0 for the worst to 1 for the best. Equal scores stay equal; where all candidates are
            equal, or there is one only, its z-score is 0 and its rank is 0.5.
        short_mean, short_deviation, long_mean, long_deviation: for "fixed".
    """

    scale: Scale = "published"
    short_mean: float = 0.0
    short_deviation: float = 1.0
    long_mean: float = 0.0
    long_deviation: float = 1.0

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, got {self.scale!r}")
        for name in ("short_mean", "long_mean"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)}")
        for name in ("short_deviation", "long_deviation"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)}")

    @property
    def compares(self) -> bool:
        """Whether a candidate's value depends on those that it is compared with."""
        return self.scale in _AMONG_CANDIDATES

    def __call__(self, scores: Sequence[Scores]) -> list[Scores]:
        """Returns the calibrated scores of candidates that are compared with each other."""
        if self.scale == "published" or not scores:
            return list(scores)
        shorts, longs = [score.short for score in scores], [score.long for score in scores]
        if self.scale == "fixed":
            shorts = [(short - self.short_mean) / self.short_deviation for short in shorts]
            longs = [(long - self.long_mean) / self.long_deviation for long in longs]
        else:
            place = _AMONG_CANDIDATES[self.scale]
            shorts, longs = place(shorts), place(longs)
        return list(map(Scores, shorts, longs))


def _z_scores(values: Sequence[float]) -> list[float]:
    mean, deviation = fmean(values), pstdev(values)
    if deviation == 0.0 or max(values) - min(values) <= ROUNDING * max(map(abs, values)):
        return [0.0] * len(values)
    return [(value - mean) / deviation for value in values]


def _ranks(values: Sequence[float]) -> list[float]:
    """Returns places from 0 to 1; equals share the middle of theirs."""
    if len(values) == 1:
        return [0.5]
    below = [sum(other < value for other in values) for value in values]
    equal = [sum(other == value for other in values) - 1 for value in values]
    return [
        (num_below + 0.5 * num_equal) / (len(values) - 1) for num_below, num_equal in zip(below, equal, strict=True)
    ]


_AMONG_CANDIDATES: Mapping[str, Callable[[Sequence[float]], list[float]]] = {"z-score": _z_scores, "rank": _ranks}


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Fuses candidates' scores: the short score counts more as the stream grows, up to a cap.

    Attributes:
        short_cap: highest weight of the short score, from 0 to 1; the long score has the rest.
        ramp: chunks over which the weight would rise from 0 to 1; 1 gives it its cap at once. None takes the stream's
            length (7 for a stream without end), and a weight of 0 for a stream of one chunk.
        calibration: puts both scores on one scale first.
    """

    short_cap: float = 0.4
    ramp: int | None = None
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        if not 0.0 <= self.short_cap <= 1.0:
            raise ValueError(f"short_cap must be from 0 to 1, got {self.short_cap}")
        if self.ramp is not None and self.ramp < 1:
            raise ValueError(f"ramp must be at least 1 chunk, got {self.ramp}")

    def weight(self, chunk: int, horizon: int | None) -> float:
        """Returns the short score's weight for a chunk, counted from 0, of a stream of `horizon` chunks."""
        if self.ramp == 1:
            return self.short_cap
        ramp = self.ramp or horizon or 7
        return min(chunk / (ramp - 1), self.short_cap) if ramp > 1 else 0.0

    def __call__(self, scores: Sequence[Scores], *, chunk: int, horizon: int | None) -> list[float]:
        """Returns the fused scores of a chunk's candidates, all of those that are compared with each other."""
        weight = self.weight(chunk, horizon)
        return [weight * short + (1.0 - weight) * long for short, long in self.calibration(scores)]


@dataclass(frozen=True, kw_only=True)
class RewardRouting:
    """Routes the chunk that leaves the window by its scores (Stream-T1, reward-routed memory sinking).

    A chunk better than those before it is worth keeping: averaged into the sink where the stream is steady, as a
    sink of its own where the long score dropped, which marks a transition. Others are discarded. An infinite
    short_threshold discards all chunks, or none if negative; an infinite long_threshold averages all that are kept, or
    appends them.

    Attributes:
        short_threshold: how far the chunk's short score must exceed the mean of those before it.
        long_threshold: drop of the long score that marks a transition.
        window: chunks before it that the mean is taken over, as in the paper; None for all of them.
    """

    short_threshold: float = 0.0
    long_threshold: float = 0.2
    window: int | None = 10

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 chunk, got {self.window}")
        for name in ("short_threshold", "long_threshold"):
            if math.isnan(getattr(self, name)):
                raise ValueError(f"{name} must be a number, got nan")

    def __call__(self, scores: Sequence[Scores], leaving: int | None) -> Route:
        """Returns the route of chunk `leaving` of a stream with the given scores; the first chunk has no gate."""
        if not leaving:
            return Route.DISCARD
        earlier = scores[max(0, leaving - (self.window or leaving)) : leaving]
        if scores[leaving].short - fmean(score.short for score in earlier) <= self.short_threshold:
            return Route.DISCARD
        dropped = scores[leaving - 1].long - scores[leaving].long > self.long_threshold
        return Route.APPEND_SINK if dropped else Route.EMA_SINK
