"""What scores a stream while it is searched: two reward protocols, and the scorer that is made of them.

Letters: B candidates, F pixel frames, H and W their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from searchkit.batches import Batches
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


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardScorer:
    """Short: the image reward's mean over the newest chunk. Long: the video reward of the window (Stream-T1).

    A window of a single frame, with which a stream of a model that goes frame by frame starts, is shown to the video
    reward as two equal ones, since motion takes two.

    Attributes:
        max_batch: most candidates in one call of a reward; 1 makes scores independent of the grouping. Where a reward
            runs out of memory, its later calls take at most half as many as the one that failed.
    """

    image: ImageReward
    video: VideoReward
    max_batch: int = 16
    _image_batches: Batches = field(default_factory=lambda: Batches("the image reward"), init=False, repr=False)
    _video_batches: Batches = field(default_factory=lambda: Batches("the video reward"), init=False, repr=False)

    def score(self, views: Sequence[View]) -> list[Scores]:
        longs = self.score_whole(views)  # of all candidates first: rewards may have to make room for each other
        shorts = [0.0] * len(views)

        def call(rows: list[int]) -> None:
            frames, prompts = _stacked([(views[row].newest,) for row in rows]), [views[row].prompt for row in rows]
            for row, short in zip(rows, self.image(frames=frames, prompts=prompts).mean(1).tolist(), strict=True):
                shorts[row] = short

        self._image_batches.run([len(view.newest) for view in views], self.max_batch, call)
        return [Scores(short, long) for short, long in zip(shorts, longs, strict=True)]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        longs = [0.0] * len(views)
        windows = [_moving(view.window) for view in views]

        def call(rows: list[int]) -> None:
            stacked, prompts = _stacked([windows[row] for row in rows]), [views[row].prompt for row in rows]
            for row, long in zip(rows, self.video(windows=stacked, prompts=prompts).tolist(), strict=True):
                longs[row] = long

        self._video_batches.run([sum(map(len, window)) for window in windows], self.max_batch, call)
        return longs


def _moving(window: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return 2 * window if sum(map(len, window)) == 1 else window


def _stacked(clips: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Returns clips of equal length, each in parts, as `[B, F, 3, H, W]`; they are copied once."""
    import torch

    first = clips[0][0]
    frames = first.new_empty(len(clips), sum(map(len, clips[0])), *first.shape[1:])
    for row, parts in zip(frames, clips, strict=True):
        torch.cat(parts, out=row)
    return frames
