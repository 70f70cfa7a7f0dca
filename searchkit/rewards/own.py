"""Rewards of the user's own, whose scores are looked at, so that what is wrong with them is told by their names.

Letters: B candidates, F pixel frames, H and W their size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from searchkit.rewards import ImageReward, VideoReward
from searchkit.rewards.terms import Term, find_target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnImageReward:
    """An image reward called `name`."""

    name: str
    reward: ImageReward

    def __call__(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B, F]`; see `ImageReward`.

        Raises:
            ValueError: the reward returned something else, or a score that is not finite.
        """
        scores = self.reward(frames=frames, prompts=prompts)
        return _looked_at(self.name, scores, tuple(frames.shape[:2]), prompts)


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnVideoReward:
    """A video reward called `name`."""

    name: str
    reward: VideoReward

    def __call__(self, *, windows: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B]`; see `VideoReward`. Errors are those of `OwnImageReward`."""
        scores = self.reward(windows=windows, prompts=prompts)
        return _looked_at(self.name, scores, tuple(windows.shape[:1]), prompts)


def make_own(term: Term) -> OwnImageReward | OwnVideoReward:
    """Returns the reward that a term names as `module:name`: a function, or a class made with the term's options.

    Raises:
        ValueError: there is none, it is no reward, or its options are wrong.
    """
    found = find_target("reward", term.name)
    if isinstance(found, type):
        try:
            found = found(**dict(term.options))
        except TypeError as error:
            raise ValueError(f"reward {term.name!r} cannot be made with its options: {error}") from error
    elif term.options:
        raise ValueError(f"reward {term.name!r} is a function, which takes no options: got {term.options[0][0]!r}")
    if kind_of(term.name, found) == "frames":
        return OwnImageReward(name=term.name, reward=found)
    return OwnVideoReward(name=term.name, reward=found)


def kind_of(name: str, reward: Any) -> Literal["frames", "windows"]:
    """Returns the keyword by which a reward takes what it scores.

    Raises:
        ValueError: it has neither that of images nor that of videos.
    """
    try:
        keywords = inspect.signature(reward).parameters
    except (TypeError, ValueError):  # it cannot be called, or does not tell
        keywords = inspect.Signature().parameters
    kinds: tuple[Literal["frames", "windows"], ...] = ("frames", "windows")
    for kind in kinds:
        if kind in keywords and "prompts" in keywords:
            return kind
    raise ValueError(
        f"reward {name!r} is no reward: it must be called with frames=, prompts= for images, or with windows=, "
        "prompts= for videos"
    )


def _looked_at(name: str, scores: Any, shape: tuple[int, ...], prompts: Sequence[str]) -> Tensor:
    import torch

    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != shape or not scores.is_floating_point():
        meant = "a score of each window" if len(shape) == 1 else "a score of each frame"
        got = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ValueError(f"reward {name!r} must return floating point {list(shape)}, {meant}, got {got}")
    is_finite = scores.isfinite()
    if not is_finite.all():
        row = int((~is_finite).flatten(1).any(1).nonzero()[0]) if scores.ndim > 1 else int((~is_finite).nonzero()[0])
        raise ValueError(f"reward {name!r} returned {scores[row].tolist()} for {prompts[row]!r}")
    return scores
