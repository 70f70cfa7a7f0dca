"""The rewards of shapes: two small learned models that stand where HPSv3 and VideoReward stand.

Trained on preferences by `experiments.train_shapes.rewards`; scores have about mean 0 and deviation 1 there.
Letters: B batch, F pixel frames, T = F // 4 tubelets, D features, W words that a prompt can ask for, H = W = 64 pixels.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from envs.shapes.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZE, SPEEDS, Caption

TUBELET = 4  # pixel frames
NUM_FLOWS = 8
MIN_FRAMES = 9  # what a stream's first chunk decodes to
# What a caption asks for, and the words of each; one frame shows the first four.
FIELDS: dict[str, tuple[str | bool, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "background": tuple(BACKGROUNDS),
    "pillar": (False, True),
    "motion": MOTIONS,
    "speed": tuple(SPEEDS),
}
IMAGE_FIELDS = tuple(FIELDS)[:4]
VIDEO_FIELDS = tuple(FIELDS)


class Aspects(NamedTuple):
    """What the video reward says of windows, each `[B]`.

    visual: nothing is blurred, noisy, fading or changing. motion: it is smooth. text: it is what the prompt asks for.
    """

    visual: Tensor
    motion: Tensor
    text: Tensor


class Reader(nn.Module):
    """Reads off features how likely each word of a prompt is."""

    def __init__(self, width: int, fields: Sequence[str]) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.sizes = [len(FIELDS[field]) for field in fields]
        self.words = nn.Linear(width, sum(self.sizes))

    def forward(self, described: Tensor) -> Tensor:
        """Returns the log likelihoods `[N, W]` of words, normalised within each field, of features `[N, D]`."""
        return torch.cat([part.log_softmax(1) for part in self.words(described).split(self.sizes, dim=1)], dim=1)

    def asked(self, prompts: Sequence[str]) -> Tensor:
        """Returns `[N, W]`: 1 for the word of each field that a prompt asks for, 0 for the others."""
        captions = [Caption.parse(prompt) for prompt in prompts]
        rows = [
            [float(word == getattr(caption, field)) for field in self.fields for word in FIELDS[field]]
            for caption in captions
        ]
        return torch.tensor(rows)


class Eye(nn.Module):
    """Looks at single frames: features `[N, D]` of `[N, 3, H, W]`, wherever in the frame they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (16, 32, 64)
        self.edges = nn.Conv2d(3, sizes[0], 4, stride=2, padding=1)
        self.parts = nn.ModuleList(
            nn.Conv2d(inward, outward, 3, stride=2, padding=1) for inward, outward in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, size) for size in sizes)
        # On the grid of 8 pixels: a coarser one does not tell a square from a circle.
        self.whole = nn.Conv2d(sizes[-1], width // 2, 1)

    def forward(self, frames: Tensor) -> Tensor:
        # Absolute values and norms: an edge is an edge whichever side is bright, and however strong.
        seen = self.norms[0](self.edges(frames).abs())
        for part, norm in zip(self.parts, self.norms[1:], strict=True):
            seen = norm(part(seen).relu())
        seen = self.whole(seen).relu()
        return torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], dim=1)


class ImageReward(nn.Module):
    """Scores single frames against a prompt."""

    shift: Tensor  # []
    scale: Tensor  # []

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.eye = Eye(width)
        self.describe = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1))
        self.quality = _head(width)
        self.reader = Reader(width, IMAGE_FIELDS)
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B, F]`; higher is better.

        Args:
            frames: `[B, F, 3, H, W]` in [0, 1].
            prompts: B prompts of the shapes grammar.

        Raises:
            ValueError: frames of another shape or range, another number of prompts, or one out of the grammar.
        """
        _check("frames", frames, prompts)
        asked = self.reader.asked(prompts).repeat_interleave(frames.shape[1], dim=0)
        scores, _ = self.judge(frames.flatten(0, 1), asked)
        return (scores.view(frames.shape[:2]) - self.shift) / self.scale

    def judge(self, frames: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Returns raw scores `[B, 1]` of frames `[B, 3, H, W]`, and the log likelihoods `[B, W]` of words.

        Args:
            asked: `[B, W]`, see `Reader.asked`.
        """
        described = self.describe(self.eye(frames))
        likely = self.reader(described)
        return self.quality(described) + (likely * asked).sum(1, keepdim=True), likely


class VideoReward(nn.Module):
    """Scores windows of video against a prompt: visual quality, motion quality, text alignment, and their sum."""

    shift: Tensor  # [3], one an aspect
    scale: Tensor  # [3]

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.eye = Eye(2 * width)
        self.look = nn.Linear(2 * width, width)
        self.move = nn.Sequential(
            nn.Conv1d(NUM_FLOWS, 64, 7, stride=TUBELET, padding=2), nn.ReLU(), nn.Conv1d(64, width, 1)
        )
        self.follow = nn.ModuleList(nn.Conv1d(width, width, 3, padding=step, dilation=step) for step in (1, 2, 4))
        self.describe = nn.Sequential(nn.Linear(4 * width, 2 * width), nn.ReLU(), nn.Dropout(0.1))
        self.visual, self.motion = _head(2 * width), _head(2 * width)
        self.reader = Reader(2 * width, VIDEO_FIELDS)
        self.register_buffer("shift", torch.zeros(3))
        self.register_buffer("scale", torch.ones(3))

    def forward(self, *, windows: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B]`, the sum of the aspects; higher is better. Arguments and errors as of `aspects`."""
        return torch.stack(self.aspects(windows=windows, prompts=prompts)).sum(0)

    def aspects(self, *, windows: Tensor, prompts: Sequence[str]) -> Aspects:
        """Returns the scores of each aspect, which compare between windows of different lengths.

        Args:
            windows: `[B, F, 3, H, W]` in [0, 1], F at least 9. Where F is no multiple of 4 the first frames go
                unseen: a stream's first latent frame holds one pixel frame, every later one four.
            prompts: B prompts of the shapes grammar.

        Raises:
            ValueError: windows of another shape or range, another number of prompts, or one out of the grammar.
        """
        _check("windows", windows, prompts)
        if windows.shape[1] < MIN_FRAMES:
            raise ValueError(f"windows must have at least {MIN_FRAMES} frames, got {windows.shape[1]}")
        scores, _ = self.judge(windows, self.reader.asked(prompts))
        return Aspects(*((scores - self.shift) / self.scale).unbind(1))

    def judge(self, windows: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Returns raw scores `[B, 3]` of the aspects, and the log likelihoods `[B, W]` of words.

        Args:
            asked: `[B, W]`, see `Reader.asked`.
        """
        described = self._describe(windows)
        likely = self.reader(described)
        text = (likely * asked).sum(1, keepdim=True)
        return torch.cat([self.visual(described), self.motion(described), text], dim=1), likely

    def _describe(self, windows: Tensor) -> Tensor:
        batch, num_frames = windows.shape[:2]
        first = num_frames % TUBELET
        seen = self.eye(windows[:, first + TUBELET // 2 :: TUBELET].flatten(0, 1))
        # One window at a time: what stays in the processor's cache is eight times as fast.
        moved = torch.stack([flows(window[first:]) for window in windows])
        course = self.look(seen).unflatten(0, (batch, -1)).transpose(1, 2)
        course = course + self.move(moved.transpose(1, 2))
        for layer in self.follow:
            course = course + layer(course.relu())
        spread = course.std(2, correction=0)
        summary = torch.cat([course.mean(2), course.amax(2), spread, course[..., 0]], dim=1)
        described: Tensor = self.describe(summary)
        return described


def flows(window: Tensor) -> Tensor:
    """Returns `[F - 1, NUM_FLOWS]`, how the picture of a window `[F, 3, H, W]` moves from frame to frame.

    They are sums over the picture of products of its slopes in x, y and time, which tell the direction and speed of
    what moves whatever its colour (Lucas and Kanade 1981).
    """
    # The mean of two diagonal neighbours: ten times as fast as pooling 2 x 2.
    halved = (window[..., ::2, ::2] + window[..., 1::2, 1::2]) / 2
    change, middle = halved[1:] - halved[:-1], halved[1:] + halved[:-1]
    across = middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]
    down = middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]
    slopes = torch.stack([across, down, change[..., 1:-1, 1:-1]], dim=1).flatten(2)
    products = slopes @ slopes.transpose(1, 2)
    (upright, _, right), (_, level, below), (_, _, changed) = (row.unbind(1) for row in products.unbind(1))
    # What is added is little beside any object, and keeps an empty or still picture finite.
    changed, upright, level = changed + 0.05, upright + 0.5, level + 0.5
    ratios = [right / changed / 16, below / changed / 16, right / upright, below / level]
    return torch.stack([*ratios, changed.log(), upright.log(), level.log(), 50 * change.mean((1, 2, 3))], dim=1)


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1))


def _check(name: str, frames: Tensor, prompts: Sequence[str]) -> None:
    if frames.ndim != 5 or frames.shape[2:] != (3, SIZE, SIZE):
        raise ValueError(f"{name} must be [B, F, 3, {SIZE}, {SIZE}], got {list(frames.shape)}")
    if len(prompts) != len(frames):
        raise ValueError(f"prompts must be one for each of the {len(frames)} {name}, got {len(prompts)}")
    low, high = (value.item() for value in frames.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name} must be from 0 to 1, got values from {low:.3g} to {high:.3g}")
