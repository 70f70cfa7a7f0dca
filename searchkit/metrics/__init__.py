"""Judges: what measures finished videos, and takes no part in a search.

Chosen by name, or any reward that the search did not go by. What VBench says of motion is there by another network
alone, as `motion`: AMT-S and RAFT, which VBench asks, are not in transformers. No torch here.
Letters: F pixel frames, H and W their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from searchkit.rewards.registry import OPENAI_CLIP_L, REWARDS, Rewards, combine_videos, load_reward
from searchkit.rewards.terms import MODEL_FILES, Files, Known, Term, Value, load_seated, parse

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.offload import Seat
    from searchkit.rewards import VideoReward

_COMMON = ("weights", "revision", "device", "dtype")
_VBENCH = (*_COMMON, "batch_size")


def _model(default: str) -> Files:
    return Files("weights", default, MODEL_FILES, revision="revision", with_others=True)


class Judge(Protocol):
    """Measures a finished video."""

    def __call__(self, *, video: Tensor, prompt: str, fps: float) -> dict[str, float]:
        """Returns measures by their names; nan where one could not be taken.

        Args:
            video: `[F, 3, H, W]` in [0, 1].
            prompt: what was asked for.
            fps: frames a second.
        """


JUDGES: Mapping[str, Known] = {
    "subject-consistency": Known(
        target="searchkit.metrics.vbench:SubjectConsistency",
        options=_VBENCH,
        card="VBench; DINO ViT-B/16, Apache-2.0, 0.3 GB in float32",
        files=(_model("facebook/dino-vitb16"),),
    ),
    "background-consistency": Known(
        target="searchkit.metrics.vbench:BackgroundConsistency",
        options=_VBENCH,
        card="VBench; CLIP ViT-B/32, MIT, 0.6 GB in float32",
        files=(_model("openai/clip-vit-base-patch32"),),
    ),
    "aesthetic-quality": Known(
        target="searchkit.metrics.vbench:AestheticQuality",
        options=(*_VBENCH, "clip"),
        required=("weights",),
        card="VBench; CLIP ViT-L/14, MIT, and LAION's linear head, 1.7 GB in float32",
        files=(
            Files("weights", None, ("sa_0_4_vit_l_14_linear.pth",), revision="revision"),
            Files("clip", OPENAI_CLIP_L, MODEL_FILES, with_others=True),
        ),
    ),
    "motion": Known(
        target="searchkit.metrics.motion:Motion",
        options=_VBENCH,
        card="Perceiver IO's optical flow, Apache-2.0, 0.2 GB in float32",
        files=(_model("deepmind/optical-flow-perceiver"),),
    ),
    "videoscore2": Known(
        target="searchkit.metrics.videoscore2:VideoScore2",
        options=(*_COMMON, "attention", "seed", "max_tokens"),
        card="Apache-2.0, 16.6 GB in bfloat16",
        files=(_model("TIGER-Lab/VideoScore2"),),
    ),
}


def check_judges(judges: Sequence[str], rewards: Rewards | None = None) -> None:
    """Checks judges before anything is loaded: `videoscore2`, or `pickscore(stride=4)`, or `module:name` of a reward.

    Args:
        rewards: that the search goes by.

    Raises:
        ValueError: a judge or an option is unknown, or the search goes by it.
    """
    chosen = (rewards.image, rewards.video) if rewards else ()
    searched = {term.name for text in chosen for term in parse("reward", text, REWARDS)}
    for judge in judges:
        terms = _parse(judge)
        if seen := [term.name for term in terms if term.name in searched]:
            raise ValueError(f"judge {seen[0]!r} is a reward of the search: a judge must be one that it never saw")
        if any(term.name in JUDGES for term in terms) and (len(terms) > 1 or terms[0].weight != 1.0):
            raise ValueError(f"judge {judge!r} must be one judge, or a weighted sum of rewards")


def load_judges(
    judges: Sequence[str],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    fps: float = 16.0,
    seat: Seat | None = None,
) -> dict[str, Judge]:
    """Returns judges by their names, checked as by `check_judges`.

    Args:
        device: where they run, unless an option says otherwise; they are loaded together.
        seat: which those judges share that would be on its device; None where there is room for all of them. Whoever
            has them judge empties it.
        dtype: of their networks, likewise; None for what each judge has by itself.
        fps: frames a second of the videos, for rewards that must know it.

    Raises:
        ValueError: weights are not there or do not fit, or a judge is unknown.
    """
    check_judges(judges)
    defaults: dict[str, Value] = {"device": device} if dtype is None else {"device": device, "dtype": dtype}
    return {judge: _load(judge, defaults, fps, seat) for judge in judges}


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardJudge:
    """A reward that the search did not go by, of the whole video."""

    name: str
    reward: VideoReward

    def __call__(self, *, video: Tensor, prompt: str, fps: float) -> dict[str, float]:
        """Returns the score under the reward's name; see `Judge`."""
        return {self.name: float(self.reward(windows=video[None], prompts=[prompt])[0])}


def _load(judge: str, defaults: Mapping[str, Value], fps: float, seat: Seat | None) -> Judge:
    terms = _parse(judge)
    if terms[0].name in JUDGES:
        made: Judge = load_seated(JUDGES[terms[0].name], {**defaults, **dict(terms[0].options)}, seat)
        return made

    reward = combine_videos(terms, lambda term: load_reward(term, defaults=defaults, fps=fps, seat=seat))
    return RewardJudge(name=judge, reward=reward)


def _parse(judge: str) -> tuple[Term, ...]:
    return parse("judge", judge, {**REWARDS, **JUDGES})
