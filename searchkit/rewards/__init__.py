"""What scores a stream while it is searched: two reward protocols, and the scorer that is made of them.

Letters: B candidates, F pixel frames, H and W their size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from searchkit.types import Scores

if TYPE_CHECKING:
    from torch import Tensor


class ImageReward(Protocol):
    """Scores single frames against a prompt."""

    def __call__(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B, F]` of frames `[B, F, 3, H, W]` in [0, 1], one prompt a row."""


class VideoReward(Protocol):
    """Scores windows of a video against a prompt."""

    def __call__(self, *, windows: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B]` of windows `[B, F, 3, H, W]` in [0, 1], one prompt a row."""


class View(NamedTuple):
    """What a scorer sees of a candidate: its prompt, and the chunks of its window.

    latents: `[T, C, h, w]` a chunk, oldest first.
    window: pixel frames `[F, 3, H, W]` in [0, 1] to be joined, oldest first.
    newest: `[F, 3, H, W]`, the pixel frames of the newest chunk.
    """

    prompt: str
    latents: tuple[Tensor, ...]
    window: tuple[Tensor, ...]
    newest: Tensor


class Scorer(Protocol):
    """Scores candidates, a level at a time."""

    def score(self, views: Sequence[View]) -> Sequence[Scores]:
        """Returns the scores of each candidate's newest chunk and of its window."""

    def score_whole(self, views: Sequence[View]) -> Sequence[float]:
        """Returns the score of whole videos, whose views hold all chunks."""


@dataclass(frozen=True, kw_only=True)
class RewardScorer:
    """Short: the image reward's mean over the newest chunk. Long: the video reward of the window (Stream-T1).

    A window of a single frame, with which a stream of a model that goes frame by frame starts, is shown to the video
    reward as two equal ones, since motion takes two.
    """

    image: ImageReward
    video: VideoReward

    def score(self, views: Sequence[View]) -> list[Scores]:
        longs = self.score_whole(views)
        shorts = [0.0] * len(views)
        for rows, newest, prompts in _stacked([((view.newest,), view.prompt) for view in views]):
            for row, short in zip(rows, self.image(frames=newest, prompts=prompts).mean(1).tolist(), strict=True):
                shorts[row] = short
        return [Scores(short, long) for short, long in zip(shorts, longs, strict=True)]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        longs = [0.0] * len(views)
        for rows, windows, prompts in _stacked([(_moving(view.window), view.prompt) for view in views]):
            for row, long in zip(rows, self.video(windows=windows, prompts=prompts).tolist(), strict=True):
                longs[row] = long
        return longs


def _moving(window: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return 2 * window if sum(map(len, window)) == 1 else window


def _stacked(
    clips: Sequence[tuple[tuple[Tensor, ...], str]],
) -> list[tuple[list[int], Tensor, list[str]]]:
    """Returns clips of equal length as batches: which rows they are, their frames, their prompts."""
    import torch

    def length(row: int) -> int:
        return sum(len(part) for part in clips[row][0])

    rows = sorted(range(len(clips)), key=length)
    batches = [list(group) for _, group in itertools.groupby(rows, key=length)]
    return [
        (batch, torch.stack([torch.cat(clips[row][0]) for row in batch]), [clips[row][1] for row in batch])
        for batch in batches
    ]
