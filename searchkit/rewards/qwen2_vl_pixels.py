"""Frames as the Qwen2-VL rewards see them: which ones, how large, and cut into patches.

Letters: B candidates, F pixel frames, N pictures, H and W size, P patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from searchkit.rewards.pixels import normalise, resize_by_torch

PATCH = 14  # pixels
FACTOR = 28  # pixels of a side are a multiple: 2 x 2 patches are merged into one token
TEMPORAL_PATCH = 2  # frames
MERGED = 4  # patches in a token
SAMPLE_FPS = 2.0
MIN_SAMPLED, MAX_SAMPLED = 4, 768  # frames

_MAX_RATIO = 200


def check_frames(name: str, frames: Tensor, prompts: Sequence[str]) -> None:
    """Checks what a reward is called with, and says what was probably meant.

    Raises:
        ValueError: `frames` are not `[B, F, 3, H, W]` in [0, 1], or there is not one prompt for each of B.
    """
    shape = list(frames.shape)
    if frames.ndim != 5 or shape[2] != 3:
        raise ValueError(f"{name} must be [B, F, 3, H, W], got {shape}{_meant(shape)}")
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, got {shape}")
    if isinstance(prompts, str) or len(prompts) != shape[0]:
        got = "one string" if isinstance(prompts, str) else len(prompts)
        raise ValueError(f"prompts must be one for each of the {shape[0]} {name}, got {got}")
    if not frames.is_floating_point():
        raise ValueError(f"{name} must be floating point from 0 to 1, got {frames.dtype}: divide by 255")
    low, high = (value.item() for value in frames.aminmax())
    if not (low >= 0 and high <= 1):
        hint = ": divide by 255" if high > 2 else ": map -1..1 by (x + 1) / 2, and clamp" if low < 0 else ""
        raise ValueError(f"{name} must be from 0 to 1, got values from {low:.3g} to {high:.3g}{hint}")


def check_fps(fps: float) -> None:
    """Checks a frame rate, by which frames are chosen: a wrong one spoils all scores.

    Raises:
        ValueError: it is not from 1 to 240.
    """
    if not 1 <= fps <= 240:
        raise ValueError(f"fps must be from 1 to 240 frames a second, got {fps}")


def _meant(shape: list[int]) -> str:
    if len(shape) == 4:
        return ": one dimension is missing, of candidates or of frames"
    if len(shape) == 5 and shape[4] == 3:
        return ": the channels come last, permute(0, 1, 4, 2, 3) them"
    if len(shape) == 5 and shape[1] == 3:
        return ": the channels come before the frames, transpose(1, 2) them"
    return ""


def quantise(frames: Tensor) -> Tensor:
    """Returns frames in [0, 1] as uint8, as if they had been written to a file."""
    return (frames.float() * 255).round().to(torch.uint8)


def resized_size(height: int, width: int, *, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Returns the height and width to which pictures are resized, multiples of 28 of about the same ratio.

    A side may be rounded up at the lower bound, which can leave more than `max_pixels`.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if max(height, width) > _MAX_RATIO * min(height, width):
        raise ValueError(f"a side may be at most {_MAX_RATIO} times the other, got {height} x {width}")
    rounded = [max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width)]
    if math.prod(rounded) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rounded = [math.floor(side / shrink / FACTOR) * FACTOR for side in (height, width)]
    elif math.prod(rounded) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rounded = [math.ceil(side * grow / FACTOR) * FACTOR for side in (height, width)]
    return rounded[0], rounded[1]


def sampled_frames(num_frames: int, fps: float) -> list[int]:
    """Returns the frames of a video at `fps` frames a second that are looked at: an even number, about 2 a second.

    Raises:
        ValueError: there are fewer than 2.
    """
    if num_frames < TEMPORAL_PATCH:
        raise ValueError(f"windows must have at least {TEMPORAL_PATCH} frames, got {num_frames}")
    most = math.floor(min(MAX_SAMPLED, num_frames) / TEMPORAL_PATCH) * TEMPORAL_PATCH
    wanted = min(max(num_frames / fps * SAMPLE_FPS, MIN_SAMPLED), most)
    num_sampled = round(wanted / TEMPORAL_PATCH) * TEMPORAL_PATCH  # Python's: halves go to the even pair
    return torch.linspace(0, num_frames - 1, num_sampled, dtype=torch.float32, device="cpu").round().long().tolist()


def resize_video(video: Tensor, *, height: int, width: int) -> Tensor:
    """Returns bytes `[F, 3, H, W]` in another size, as torchvision resizes tensors of bytes."""
    if video.shape[-2:] == (height, width):
        return video
    return resize_by_torch(video, height, width, antialias=True).clamp(0, 255).round().to(torch.uint8)


def patch_grid(num_frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Returns the patches of a picture in time, height and width; four of them make a token."""
    return num_frames // TEMPORAL_PATCH, height // PATCH, width // PATCH


def to_patches(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the patches `[P, 1176]` of pictures in order, and their grids `[N, 3]`: patches in time, height, width.

    A patch is 3 channels x 2 frames x 14 x 14 pixels; the four that make a token follow each other.

    Args:
        pictures: bytes `[N, F, 3, H, W]`, F even, or 1 for images, which are doubled.
    """
    if pictures.shape[1] == 1:
        pictures = pictures.expand(-1, TEMPORAL_PATCH, -1, -1, -1)
    num, num_frames, channels, height, width = pictures.shape
    grid = patch_grid(num_frames, height, width)
    cut = normalise(pictures.flatten(0, 1)).reshape(
        num, grid[0], TEMPORAL_PATCH, channels, height // FACTOR, 2, PATCH, width // FACTOR, 2, PATCH
    )
    patches = cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(num * math.prod(grid), -1)
    return patches, torch.tensor([grid] * num)
