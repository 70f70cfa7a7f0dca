"""Wan's VAE as a decoder of streams: diffusers' `AutoencoderKLWan`, one latent frame at a time.

A video's first latent frame decodes to one pixel frame, every later one to four, 8 x 8 times larger.
Letters: B streams, T latent frames, C channels, h and w latent size, F = 4T pixel frames (4T - 3 from a
video's start), H = 8h and W = 8w their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

# What a causal convolution saw last, `[B, C, 1 or 2, H, W]` at its own sizes. "Rep" is diffusers' mark of an
# upsampling over time that has let one frame pass; None, of a slot that nothing has used.
Entry = Tensor | Literal["Rep"] | None
Cache = tuple[Entry, ...]


class WanDecoder:
    """Decodes streams of normalised Wan latents. Methods change nothing, so threads may share a decoder.

    Takes the VAE over: puts it in evaluation mode and freezes its weights. Move, cast and load it before;
    its slicing and tiling have no effect here.

    Args:
        vae: a VAE without patches, as Wan2.1's; its configuration says how latents are normalised.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self._std = torch.tensor(vae.config.latents_std, device=vae.device)[:, None, None]
        self._mean = torch.tensor(vae.config.latents_mean, device=vae.device)[:, None, None]
        self._num_slots: int = vae._cached_conv_counts["decoder"]

    def decode(self, latents: Tensor, caches: Sequence[Cache | None]) -> tuple[Tensor, list[Cache]]:
        """Returns the next pixel frames `[B, F, 3, H, W]` in [0, 1] of B streams, and their new caches.

        Frames are float32 on the VAE's device. Caches are there in the VAE's dtype, each in storage of its own.

        Args:
            latents: `[B, T, C, h, w]` of any dtype on any device.
            caches: what the last call returned for each stream, or None at the start of its video. The streams
                of one call are all at their start, or none is. A cache is never changed.

        Raises:
            ValueError: streams at their start are mixed with others.
        """
        earlier = [cache for cache in caches if cache is not None]
        if earlier and len(earlier) < len(caches):
            raise ValueError("streams at their start decode to fewer frames: decode them in a call of their own")
        slots: list[Entry] = [_joined(entries) for entries in zip(*earlier, strict=True)] or [None] * self._num_slots
        pieces = []
        for index, frame in enumerate(self._raw(latents).split(1, dim=2)):
            is_first = not earlier and index == 0
            # The decoder replaces the entries of the list, but writes to none of them.
            x = self.vae.post_quant_conv(frame)
            pieces.append(self.vae.decoder(x, feat_cache=slots, feat_idx=[0], first_chunk=is_first))
        frames = (torch.cat(pieces, dim=2).transpose(1, 2).float() + 1) / 2
        return frames.clamp(0, 1), list(zip(*(_split(entry, len(latents)) for entry in slots), strict=True))

    def _raw(self, latents: Tensor) -> Tensor:
        """Returns latents `[B, T, C, h, w]` as the VAE knows them: not normalised, `[B, C, T, h, w]`, its dtype."""
        # In float32, so that a half-precision VAE's are rounded once.
        raw = latents.to(self._std) * self._std + self._mean
        return raw.to(self.vae.dtype).transpose(1, 2)


@torch.no_grad()
def encode(vae: AutoencoderKLWan, frames: Tensor) -> Tensor:
    """Returns the latents `[T, C, h, w]` of a video's pixel frames `[F, 3, H, W]` in [0, 1], F = 4T - 3.

    They are normalised, float32 and on the CPU, as a stream's own are. A single image is one latent frame.

    Raises:
        ValueError: the number of frames is another one, or values are out of range.
    """
    if len(frames) % 4 != 1:
        raise ValueError(f"frames must be 1, 5, 9, ... pixel frames, got {len(frames)}")
    if frames.min() < 0 or frames.max() > 1:
        raise ValueError(f"frames must be from 0 to 1, got {frames.min():.3g} to {frames.max():.3g}")
    pixels = (2 * frames - 1).to(vae.device, vae.dtype)
    raw = vae.encode(pixels.transpose(0, 1)[None]).latent_dist.mode()[0].transpose(0, 1).float()
    mean, std = (
        torch.tensor(values, device=vae.device)[:, None, None]
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    latents: Tensor = ((raw - mean) / std).cpu()
    return latents


def _joined(entries: Sequence[Entry]) -> Entry:
    """Returns the streams' entries of one slot as a batch.

    Streams differ where one has had a single latent frame. The frames that it lacks were padded with zeros, and
    as zeros they join those that the others have, which changes no value.
    """
    tensors = [entry for entry in entries if isinstance(entry, Tensor)]
    if len(entries) == 1 or not tensors:
        return entries[0]
    longest = max(tensors, key=lambda tensor: tensor.shape[2])
    return torch.cat([_lengthened(entry, longest) for entry in entries])


def _lengthened(entry: Entry, longest: Tensor) -> Tensor:
    if not isinstance(entry, Tensor):
        return torch.zeros_like(longest)
    return F.pad(entry, (0, 0, 0, 0, longest.shape[2] - entry.shape[2], 0))


def _split(entry: Entry, num: int) -> list[Entry]:
    """Returns each stream's part of an entry; a copy, as a view would keep the bytes of pruned streams."""
    if num == 1 or not isinstance(entry, Tensor):
        return [entry] * num
    return [row.clone() for row in entry.split(1)]
