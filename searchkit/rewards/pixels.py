"""Frames as image models were trained to see them: eight bits, resized, cropped, normalised. No torchvision.

Letters: B candidates, F pixel frames, N images, H and W their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BITS = 22  # of Pillow's weights


def check_stride(stride: int) -> None:
    """Checks of how many frames one is to be scored.

    Raises:
        ValueError: fewer than 1.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")


def score_strided(score: Callable[[Tensor], Tensor], frames: Tensor, stride: int) -> Tensor:
    """Returns scores `[B, F]` of frames `[B, F, 3, H, W]`, on their device.

    Of every `stride` frames the middle one is scored, and the others have its score.
    """
    num_frames = frames.shape[1]
    middles = [(start + min(start + stride, num_frames) - 1) // 2 for start in range(0, num_frames, stride)]
    return score(frames[:, middles]).repeat_interleave(stride, dim=1)[:, :num_frames].to(frames.device)


def shorter_side_to(side: int, height: int, width: int) -> tuple[int, int]:
    """Returns the height and width of an image whose shorter side becomes `side`; the longer one is rounded down."""
    longer = int(side * max(height, width) / min(height, width))
    return (side, longer) if height <= width else (longer, side)


def crop_centre(images: Tensor, side: int, *, halves: Literal["down", "even"]) -> Tensor:
    """Returns the square of `side` in the middle of images `[N, 3, H, W]`.

    Args:
        halves: where the middle is between two pixels: the first of them ("down", as in transformers), or the one with
            the even number ("even", as in torchvision).
    """
    starts = [(size - side) / 2 for size in images.shape[-2:]]
    top, left = (int(start) if halves == "down" else round(start) for start in starts)
    return images[..., top : top + side, left : left + side]


def normalise(images: Tensor, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> Tensor:
    """Returns images `[N, 3, H, W]`, bytes or floats in [0, 1], as float32 of about mean 0 and deviation 1."""
    scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    centre, spread = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (scaled - centre) / spread


def resize_by_torch(images: Tensor, height: int, width: int, *, mode: str = "bicubic", antialias: bool) -> Tensor:
    """Returns images `[N, 3, H, W]` in another size, as torchvision resizes tensors; values may leave their range."""
    return F.interpolate(images.float(), size=(height, width), mode=mode, align_corners=False, antialias=antialias)


def resize_by_pillow(images: Tensor, height: int, width: int) -> Tensor:
    """Returns bytes `[N, 3, H, W]` in another size, as Pillow resizes pictures by BICUBIC, to the last bit.

    Pillow antialiases, weighs by integers, and rounds to bytes between the two directions (its Resample.c). Width goes
    first; since version 12 Pillow itself takes height first where that is less work, which changes some bytes of images
    that grow wider and less high. Images stay on their device, as Pillow's would not.
    """
    for dim, size in ((3, width), (2, height)):
        if images.shape[dim] != size:
            images = _resample(images, dim, size)
    return images


def _resample(images: Tensor, dim: int, size: int) -> Tensor:
    starts, weights = _pillow_weights(images.shape[dim], size)
    starts, weights = starts.to(images.device), weights.to(images.device)
    shape = [size if axis == dim else 1 for axis in range(images.ndim)]
    total: Tensor | int = 1 << (_BITS - 1)
    for tap, weight in enumerate(weights):
        # Where there are fewer taps, the weight is 0 and any pixel will do.
        at = (starts + tap).clamp(max=images.shape[dim] - 1)
        total = total + images.index_select(dim, at).int() * weight.view(shape)
    assert isinstance(total, Tensor)
    return (total >> _BITS).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _pillow_weights(before: int, after: int) -> tuple[Tensor, Tensor]:
    """Returns each pixel's first source pixel `[after]`, and its weights of that and the next ones `[taps, after]`."""
    scale = before / after
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    num_taps = math.ceil(support) * 2 + 1
    starts, rows = [], []
    for pixel in range(after):
        centre = (pixel + 0.5) * scale
        start, end = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), before)
        taps = [_cubic((source - centre + 0.5) / stretch) for source in range(start, end)]
        fixed = [tap / sum(taps) * (1 << _BITS) for tap in taps]
        rows.append([int(tap + math.copysign(0.5, tap)) for tap in fixed] + [0] * (num_taps - len(taps)))
        starts.append(start)
    return torch.tensor(starts), torch.tensor(rows, dtype=torch.int32).T.contiguous()


def _cubic(distance: float) -> float:
    """Returns the weight of a pixel at a distance by the cubic kernel with a = -0.5."""
    x = abs(distance)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0
