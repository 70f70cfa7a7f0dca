"""VideoScore2 as what a search goes by; otherwise it is a judge (see `searchkit.metrics.videoscore2`, with its card).

Letters: B windows, F pixel frames, H and W their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, Self

import torch
from torch import Tensor

from searchkit.metrics import Judge
from searchkit.metrics.videoscore2 import WEIGHTS, VideoScore2
from searchkit.rewards.qwen2_vl_pixels import check_fps, check_frames

Aspect = Literal["overall", "visual", "text", "physics"]


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoScore2Reward:
    """A `VideoReward`: from 0 to 5, 0 where the model wrote no score. Slow: it writes some hundred words a window.

    Attributes:
        fps: pixel frames a second of the windows.
        aspect: what a call returns; "overall" is the mean of the others.

    Raises:
        ValueError: `fps` is not from 1 to 240, or there is no such aspect.
    """

    judge: Judge
    fps: float
    aspect: Aspect = "overall"

    def __post_init__(self) -> None:
        check_fps(self.fps)
        if self.aspect not in ("overall", "visual", "text", "physics"):
            raise ValueError(f"aspect must be overall, visual, text or physics, got {self.aspect!r}")

    @classmethod
    def load(
        cls,
        weights: str = WEIGHTS,
        *,
        fps: float,
        aspect: Aspect = "overall",
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        attention: str = "sdpa",
        seed: int = 0,
        max_tokens: int = 1024,
    ) -> Self:
        """Returns the reward; arguments and errors are those of `VideoScore2.load`."""
        where: dict[str, Any] = {"revision": revision, "device": device, "dtype": dtype, "attention": attention}
        judge = VideoScore2.load(weights, **where, seed=seed, max_tokens=max_tokens)
        return cls(judge=judge, fps=fps, aspect=aspect)

    def __call__(self, *, windows: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B]` of windows `[B, F, 3, H, W]` in [0, 1], one prompt a row; see `VideoReward`."""
        check_frames("windows", windows, prompts)
        scores = [self._score(window, prompt) for window, prompt in zip(windows, prompts, strict=True)]
        return torch.tensor(scores, device=windows.device)

    def _score(self, window: Tensor, prompt: str) -> float:
        scores = self.judge(video=window, prompt=prompt, fps=self.fps)
        written = {name: 0.0 if math.isnan(score) else score for name, score in scores.items()}
        return fmean(written.values()) if self.aspect == "overall" else written[f"videoscore2_{self.aspect}"]
