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
        denoise_calls, clean_calls: calls of the network for them, of any batch size.
        prefixes: assemblies of a prefix from blocks.
        latent_frames_decoded: latent frames through the decoder.
        frames_scored: pixel frames shown to the rewards.
        seconds_generate, seconds_decode, seconds_score: wall-clock time by phase.
        peak_bytes: most bytes of distinct key/value blocks and prefixes that were alive at once; as the three below, it
            adds up by maximum.
        peak_block_bytes, peak_prefix_bytes: most bytes of either.
        peak_cache_bytes: most bytes of distinct decoder caches, of a level's parents and candidates together.
    """

    denoise_passes: float = 0.0
    clean_passes: float = 0.0
    denoise_calls: float = 0.0
    clean_calls: float = 0.0
    prefixes: float = 0.0
    latent_frames_decoded: float = 0.0
    frames_scored: float = 0.0
    seconds_generate: float = 0.0
    seconds_decode: float = 0.0
    seconds_score: float = 0.0
    peak_bytes: int = 0
    peak_block_bytes: int = 0
    peak_prefix_bytes: int = 0
    peak_cache_bytes: int = 0

    @property
    def passes(self) -> float:
        """All network evaluations ("NFE")."""
        return self.denoise_passes + self.clean_passes

    @property
    def calls(self) -> float:
        """All calls of the network."""
        return self.denoise_calls + self.clean_calls

    @property
    def seconds(self) -> float:
        return self.seconds_generate + self.seconds_decode + self.seconds_score

    def __add__(self, other: Cost) -> Cost:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _ADDITIVE}
        peaks = {name: max(getattr(self, name), getattr(other, name)) for name in _PEAKS}
        return Cost(**sums, **peaks)

    def since(self, earlier: Cost) -> Cost:
        """Returns what was spent after `earlier`, which is a part of this; peaks stay what they are."""
        return replace(self, **{name: getattr(self, name) - getattr(earlier, name) for name in _ADDITIVE})

    def share(self, count: int) -> Cost:
        """Returns the even share of one in `count`."""
        return replace(self, **{name: getattr(self, name) / count for name in _ADDITIVE})


_PEAKS = ("peak_bytes", "peak_block_bytes", "peak_prefix_bytes", "peak_cache_bytes")
_ADDITIVE = tuple(field.name for field in fields(Cost) if field.name not in _PEAKS)


def total(costs: Iterable[Cost]) -> Cost:
    """Returns the sum of costs."""
    return sum(costs, Cost())
