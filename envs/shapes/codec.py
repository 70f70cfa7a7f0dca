"""The codec of shapes: 64 x 64 video to latents of 16 channels, 8 x 8 times smaller and 4 times shorter, and back.

As in Wan's VAE the first latent frame holds one pixel frame and every later one holds four. Encoding is linear
(principal components of 8 x 8 x 4 patches); decoding adds a small convolutional refinement that also sees the
latent frame before, which is all the context that a stream has to carry.
Letters: B batch, T latent frames, F = 4T pixel frames (4T - 3 from a video's start), C = 16, h = w = 8.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 16
PATCH = 8  # pixels
STRIDE = 4  # pixel frames a latent frame
PATCH_VALUES = STRIDE * 3 * PATCH * PATCH


def to_patches(video: Tensor) -> Tensor:
    """Returns the patches `[B, T, 768, h, w]` of a video `[B, 4T, 3, H, W]`."""
    batch, frames = video.shape[:2]
    folded = F.pixel_unshuffle(video, PATCH).reshape(batch, frames // STRIDE, PATCH_VALUES, *_grid(video))
    return folded


def to_video(patches: Tensor) -> Tensor:
    """Returns the video `[B, 4T, 3, H, W]` of patches `[B, T, 768, h, w]`."""
    batch, frames, _, height, width = patches.shape
    return F.pixel_shuffle(patches.reshape(batch, frames * STRIDE, 3 * PATCH**2, height, width), PATCH)


def _grid(video: Tensor) -> tuple[int, int]:
    return video.shape[-2] // PATCH, video.shape[-1] // PATCH


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.layers(x))


class Codec(nn.Module):
    """Encodes videos to latents and decodes streams of latents."""

    mean: Tensor  # [768]
    components: Tensor  # [16, 768], orthonormal rows
    scale: Tensor  # [16], each component's divisor

    def __init__(self, width: int = 96, num_blocks: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(PATCH_VALUES))
        self.register_buffer("components", torch.zeros(CHANNELS, PATCH_VALUES))
        self.register_buffer("scale", torch.ones(CHANNELS))
        self.refinement = nn.Sequential(
            nn.Conv2d(2 * CHANNELS, width, 3, padding=1),
            *(_Residual(width) for _ in range(num_blocks)),
            nn.Conv2d(width, PATCH_VALUES, 1),
        )

    def encode(self, video: Tensor, *, is_start: bool = True) -> Tensor:
        """Returns latents `[B, T, C, h, w]` of a video `[B, F, 3, H, W]` in [0, 1].

        Args:
            is_start: whether the first pixel frame starts the video, and so has a latent frame of its own.
        """
        if is_start:
            video = torch.cat([video[:, :1].expand(-1, STRIDE - 1, -1, -1, -1), video], dim=1)
        centred = to_patches(video) - self.mean[:, None, None]
        return torch.einsum("btphw,cp->btchw", centred, self.components) / self.scale[:, None, None]

    def decode(self, latents: Tensor, caches: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        """Returns the next pixel frames `[B, F, 3, H, W]` in [0, 1] of B streams, and their new caches.

        Args:
            latents: `[B, T, C, h, w]`.
            caches: per stream, the latent frame `[C, h, w]` before these, or None at the start of its video. The
                streams of one call are all at their start, or none is.

        Raises:
            ValueError: streams at their start are mixed with others.
        """
        starts = {cache is None for cache in caches}
        if len(starts) > 1:
            raise ValueError("streams at their start decode to fewer frames: decode them in a call of their own")
        before = latents[:, 0] if starts == {True} else torch.stack([cache for cache in caches if cache is not None])
        video = self.decode_frames(latents, torch.cat([before[:, None], latents[:, :-1]], dim=1)).clamp(0, 1)
        return video[:, STRIDE - 1 if starts == {True} else 0 :], [latent.clone() for latent in latents[:, -1]]

    def decode_frames(self, latents: Tensor, before: Tensor) -> Tensor:
        """Returns the video `[B, 4T, 3, H, W]`, not clamped, of latents and of the latent frame before each."""
        batch, frames = latents.shape[:2]
        linear = torch.einsum("btchw,cp->btphw", latents * self.scale[:, None, None], self.components)
        refined = self.refinement(torch.cat([latents, before], dim=2).flatten(0, 1)).unflatten(0, (batch, frames))
        return to_video(linear + self.mean[:, None, None] + refined)
