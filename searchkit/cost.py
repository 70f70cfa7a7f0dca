"""What a search spends. Costs are values: they add up over candidates, chunks and videos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What something cost. A candidate carries its even share of what its level cost.

    Attributes:
        denoise_passes: network evaluations that denoise; one pass is one candidate, so a batch of 4 is 4 passes.
        clean_passes: network evaluations at t = 0 that fill the memory.
        calls: calls of the network, of any batch size.
        prefixes: assemblies of a prefix from blocks.
        latent_frames_decoded: latent frames through the decoder.
        frames_scored: pixel frames shown to the rewards.
        seconds_generate, seconds_decode, seconds_score: wall-clock time by phase.
        peak_bytes: most bytes of distinct live key/value blocks and prefixes; added up by maximum.
    """

    denoise_passes: float = 0.0
    clean_passes: float = 0.0
    calls: float = 0.0
    prefixes: float = 0.0
    latent_frames_decoded: float = 0.0
    frames_scored: float = 0.0
    seconds_generate: float = 0.0
    seconds_decode: float = 0.0
    seconds_score: float = 0.0
    peak_bytes: int = 0

    @property
    def passes(self) -> float:
        """All network evaluations ("NFE")."""
        return self.denoise_passes + self.clean_passes

    @property
    def seconds(self) -> float:
        return self.seconds_generate + self.seconds_decode + self.seconds_score

    def __add__(self, other: Cost) -> Cost:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _ADDITIVE}
        return Cost(**sums, peak_bytes=max(self.peak_bytes, other.peak_bytes))

    def share(self, count: int) -> Cost:
        """Returns the even share of one in `count`."""
        return replace(self, **{name: getattr(self, name) / count for name in _ADDITIVE})


_ADDITIVE = tuple(field.name for field in fields(Cost) if field.name != "peak_bytes")


def total(costs: Iterable[Cost]) -> Cost:
    """Returns the sum of costs."""
    return sum(costs, Cost())
