"""What candidates' latents look like to a scorer: decoded after the chunks before them, or from nothing.

Letters: T latent frames of a chunk, C channels, h and w latent size, F pixel frames, H and W their size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from searchkit.rewards import View
from searchkit.state import StreamState
from searchkit.types import Decoding

if TYPE_CHECKING:
    from torch import Tensor


class Decoded(NamedTuple):
    """A candidate as the scorer sees it, and what the state that it becomes holds of it.

    frames: pixel frames `[F, 3, H, W]` of the window's chunks; none if decoded cold.
    cache: the decoder's, after the candidate.
    num_latent_frames: latent frames that it took to decode.
    """

    view: View
    frames: tuple[Tensor, ...]
    cache: Any
    num_latent_frames: int


def decode_streamed(parents: Sequence[StreamState], latents: Sequence[Tensor], long_window: int) -> list[Decoded]:
    """Returns candidates decoded once each, as the next piece of their parents' videos.

    Args:
        latents: the candidates' `[T, C, h, w]`.
        long_window: chunks that the long score sees, fewer where the prompt has changed since.
    """
    pieces, caches = parents[0].model.decode(latents, [parent.decoder_cache for parent in parents])
    decoded = []
    for parent, newest, piece, cache in zip(parents, latents, pieces, caches, strict=True):
        seen = _window(parent, newest, long_window)
        window = (*parent.frames, piece)[-len(seen) :]
        view = View(parent.next_prompt.text, seen, window, piece)
        decoded.append(Decoded(view, window, cache, len(newest)))
    return decoded


def decode_cold(parents: Sequence[StreamState], latents: Sequence[Tensor], long_window: int) -> list[Decoded]:
    """Returns candidates decoded from nothing, alone and with their window; arguments are `decode_streamed`'s."""
    windows = [_window(parent, newest, long_window) for parent, newest in zip(parents, latents, strict=True)]
    nothing = [None] * len(parents)
    pieces = parents[0].model.decode(latents, nothing)[0]  # the caches go at once
    wholes = parents[0].model.decode([torch.cat(window) for window in windows], nothing)[0]
    return [
        Decoded(View(parent.next_prompt.text, window, (whole,), piece), (), None, (1 + len(window)) * len(newest))
        for parent, window, whole, piece, newest in zip(parents, windows, wholes, pieces, latents, strict=True)
    ]


DECODERS: Mapping[Decoding, Callable[[Sequence[StreamState], Sequence[Tensor], int], list[Decoded]]] = {
    "streamed": decode_streamed,
    "cold": decode_cold,
}


def _window(parent: StreamState, newest: Tensor, count: int) -> tuple[Tensor, ...]:
    """Returns the latents of a candidate's last `count` chunks of one prompt, oldest first."""
    num_earlier = min(count - 1, parent.chunk - parent.next_prompt.start)
    earlier = [chunk.latents for chunk, _ in zip(parent.chunks(), range(num_earlier), strict=False)]
    return (*reversed(earlier), newest)
