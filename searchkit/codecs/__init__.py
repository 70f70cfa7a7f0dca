"""Decoders: latents to pixel frames, one piece of a stream after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Decoder(Protocol):
    """Decodes streams piece by piece, so that the pieces join to what decoding the whole would give.

    Letters: B streams, T latent frames, C channels, h and w latent size, F pixel frames, H and W their size.
    """

    def decode(self, latents: Tensor, caches: Sequence[Any]) -> tuple[Tensor, Sequence[Any]]:
        """Returns the next pixel frames `[B, F, 3, H, W]` in [0, 1] of B streams, and their new caches.

        Args:
            latents: `[B, T, C, h, w]`.
            caches: what the last call returned for each stream, or None for all of them at their start. A cache
                is never changed, so forked streams share it.
        """
