"""Short and long scores fused into one, and the routing rule that the scores drive (Stream-T1, arXiv 2605.04461)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from searchkit.types import Route, Scores


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Fuses a candidate's scores: the short score counts more as the stream grows, up to a cap.

    Attributes:
        short_cap: highest weight of the short score, from 0 to 1; the long score has the rest.
        ramp: chunks over which the weight would rise from 0 to 1; None takes the stream's length (7 for a stream
            without end).
    """

    short_cap: float = 0.4
    ramp: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.short_cap <= 1.0:
            raise ValueError(f"short_cap must be from 0 to 1, got {self.short_cap}")
        if self.ramp is not None and self.ramp < 1:
            raise ValueError(f"ramp must be at least 1 chunk, got {self.ramp}")

    def weight(self, chunk: int, horizon: int | None) -> float:
        """Returns the short score's weight for a chunk, counted from 0, of a stream of `horizon` chunks."""
        ramp = self.ramp or horizon or 7
        return min(chunk / (ramp - 1), self.short_cap) if ramp > 1 else 0.0

    def __call__(self, scores: Scores, *, chunk: int, horizon: int | None) -> float:
        """Returns the fused score of a chunk's candidate."""
        weight = self.weight(chunk, horizon)
        return weight * scores.short + (1.0 - weight) * scores.long


@dataclass(frozen=True, kw_only=True)
class RewardRouting:
    """Routes the chunk that leaves the window by its scores (Stream-T1, reward-routed memory sinking).

    A chunk better than those before it is worth keeping: averaged into the sink where the stream is steady, as a
    sink of its own where the long score dropped, which marks a transition. Others are discarded.

    Attributes:
        short_threshold: how far the chunk's short score must exceed the mean of those before it.
        long_threshold: drop of the long score that marks a transition.
        window: chunks before it that the mean is taken over, as in the paper; the release takes all of them.
    """

    short_threshold: float = 0.0
    long_threshold: float = 0.2
    window: int = 10

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1 chunk, got {self.window}")

    def __call__(self, scores: Sequence[Scores], leaving: int | None) -> Route:
        """Returns the route of chunk `leaving` of a stream with the given scores; the first chunk has no gate."""
        if not leaving:
            return Route.DISCARD
        earlier = scores[max(0, leaving - self.window) : leaving]
        if scores[leaving].short - fmean(score.short for score in earlier) <= self.short_threshold:
            return Route.DISCARD
        dropped = scores[leaving - 1].long - scores[leaving].long > self.long_threshold
        return Route.APPEND_SINK if dropped else Route.EMA_SINK
