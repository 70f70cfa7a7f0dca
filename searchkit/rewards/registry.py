"""Rewards by the names of the command line, alone or as weighted sums, and the scorer that is made of two of them.

A reward of the user's own is `module:name`: a function with the keywords of `ImageReward` or `VideoReward`, or a class
of such functions, which is made with the options. No torch here, so that configurations import at once.
Letters: B candidates, F pixel frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from searchkit.rewards import ImageReward, RewardScorer, VideoReward
from searchkit.rewards.own import kind_of, make_own
from searchkit.rewards.terms import MODEL_FILES, Files, Known, Term, Value, load_seated, parse

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.offload import Seat

_COMMON = ("weights", "revision", "device", "dtype", "batch_size")
_CLIP = (*_COMMON, "stride", "tokenizer")
_QWEN = (*_COMMON, "base", "base_revision", "attention")
OPENAI_CLIP_L, _LAION_CLIP_H = "openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_TOKENIZER = ("tokenizer.json", "vocab.json", "tokenizer_config.json")


def _weights(default: str, *names: str) -> Files:
    return Files("weights", default, names, revision="revision")


def _model(default: str) -> Files:
    return Files("weights", default, MODEL_FILES, revision="revision", with_others=True)


def _qwen(default: str) -> Files:
    return Files("base", default, ("config.json",), revision="base_revision", with_others=True)


def _tokenizer(default: str | None) -> Files:
    return Files("tokenizer", default, _TOKENIZER, with_others=True)


# For the short score: frames and a prompt to scores.
IMAGE_REWARDS: Mapping[str, Known] = {
    "hpsv3": Known(
        target="searchkit.rewards.hpsv3:HPSv3",
        options=(*_QWEN, "stride"),
        card="Apache-2.0, 15.5 GB in bfloat16",
        files=(_weights("MizzenAI/HPSv3", "HPSv3.safetensors"), _qwen("Qwen/Qwen2-VL-7B-Instruct")),
    ),
    "pickscore": Known(
        target="searchkit.rewards.clip:PickScore",
        options=_CLIP,
        card="code MIT, 3.9 GB in float32",
        files=(_model("yuvalkirstain/PickScore_v1"), _tokenizer(_LAION_CLIP_H)),
    ),
    "hpsv2": Known(
        target="searchkit.rewards.clip:HPSv2",
        options=_CLIP,
        card="version 2.1, Apache-2.0, 3.9 GB in float32",
        files=(
            _weights("xswu/HPSv2", "HPS_v2.1_compressed.pt", "HPS_v2.1_compressed.safetensors"),
            _tokenizer(_LAION_CLIP_H),
        ),
    ),
    "clipscore": Known(
        target="searchkit.rewards.clip:CLIPScore",
        options=_CLIP,
        card="MIT, 1.7 GB in float32",
        files=(_model(OPENAI_CLIP_L), _tokenizer(None)),  # that of the weights
    ),
    "aesthetic": Known(
        target="searchkit.rewards.aesthetic:Aesthetic",
        options=(*_COMMON, "stride", "clip"),
        card="LAION's version 2, Apache-2.0, 1.2 GB in float32",
        files=(
            _weights("trl-lib/ddpo-aesthetic-predictor", "sac+logos+ava1-l14-linearMSE.pth", "aesthetic-model.pth"),
            Files("clip", OPENAI_CLIP_L, MODEL_FILES, with_others=True),
        ),
    ),
}
# For the long score: a window of video and a prompt to scores. An image reward may stand here, too.
VIDEO_REWARDS: Mapping[str, Known] = {
    "videoreward": Known(
        target="searchkit.rewards.videoreward:VideoReward",
        options=(*_QWEN, "aspect", "normalised", "fps"),
        card="Apache-2.0, 4.4 GB in bfloat16",
        files=(
            _weights("KwaiVGI/VideoReward", "checkpoint-11352/model.pth", "model.pth"),
            _qwen("Qwen/Qwen2-VL-2B-Instruct"),
        ),
    ),
    "videoscore2": Known(
        target="searchkit.rewards.videoscore2:VideoScore2Reward",
        options=("weights", "revision", "device", "dtype", "attention", "seed", "max_tokens", "aspect", "fps"),
        card="Apache-2.0, 16.6 GB in bfloat16",
        files=(_model("TIGER-Lab/VideoScore2"),),
    ),
}
REWARDS: Mapping[str, Known] = {**IMAGE_REWARDS, **VIDEO_REWARDS}


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """Which rewards a search goes by, each a name, a weighted sum of names, or a module:name of your own.

    Attributes:
        image: of the newest chunk's frames: hpsv3, pickscore, hpsv2, clipscore or aesthetic. Options come in brackets,
            as in 0.7*pickscore(stride=4) + 0.3*aesthetic(weights=/data/aesthetic); stride=4 scores every fourth frame.
        video: of the window: videoreward, or videoscore2, which is slow, or one for images, which is averaged over the
            window's frames.
        device: where they run, unless an option says otherwise; None for cuda where there is one.
        dtype: of their networks, likewise.
    """

    image: str = "hpsv3"
    video: str = "videoreward"
    device: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        parse("image reward", self.image, IMAGE_REWARDS)
        parse("video reward", self.video, REWARDS)


def load_scorer(
    rewards: Rewards, *, fps: float, max_batch: int = RewardScorer.max_batch, seat: Seat | None = None
) -> RewardScorer:
    """Returns the scorer of a choice of rewards; one that is named twice is loaded once.

    Args:
        fps: pixel frames a second of what is scored.
        max_batch: most candidates in one call of a reward.
        seat: which those rewards share that would be on its device; None where there is room for all of them. Whoever
            scores empties it.

    Raises:
        ValueError: weights are not there or do not fit, or a reward of the user's own is none.
    """
    import torch

    device = rewards.device or ("cuda" if torch.cuda.is_available() else "cpu")
    defaults: dict[str, Value] = {"device": device, "dtype": rewards.dtype}
    loaded: dict[tuple[Any, ...], Any] = {}

    def load_once(term: Term) -> Any:
        key = (term.name, term.options)
        if key not in loaded:
            loaded[key] = load_reward(term, defaults=defaults, fps=fps, seat=seat)
        return loaded[key]

    image = combine_images(parse("image reward", rewards.image, IMAGE_REWARDS), load_once)
    video = combine_videos(parse("video reward", rewards.video, REWARDS), load_once)
    return RewardScorer(image=image, video=video, max_batch=max_batch)


def load_reward(
    term: Term, *, defaults: Mapping[str, Value], fps: float, seat: Seat | None = None
) -> ImageReward | VideoReward:
    """Returns the reward of a term, without its weight.

    Args:
        defaults: device and dtype, unless the term's options say otherwise.
        seat: of those that wait in CPU memory, see `load_scorer`.

    Raises:
        ValueError: weights are not there or do not fit, or a reward of the user's own is none.
    """
    if term.is_own:
        return make_own(term)
    known = REWARDS[term.name]
    rate = {"fps": fps} if "fps" in known.options else {}
    if (asked := dict(term.options).get("fps", fps)) != fps:
        raise ValueError(f"fps of {term.name!r} must be {fps:g}, that of the videos, or left out, got {asked}")
    reward: ImageReward | VideoReward = load_seated(known, {**defaults, **rate, **dict(term.options)}, seat)
    return reward


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageEnsemble:
    """A weighted sum of image rewards, each on its own scale."""

    members: tuple[tuple[float, ImageReward], ...]

    def __call__(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B, F]` on the frames' device; see `ImageReward`."""
        scores = (weight * reward(frames=frames, prompts=prompts).to(frames.device) for weight, reward in self.members)
        return _sum(scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoEnsemble:
    """A weighted sum of video rewards, each on its own scale."""

    members: tuple[tuple[float, VideoReward], ...]

    def __call__(self, *, windows: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B]` on the windows' device; see `VideoReward`."""
        scores = (
            weight * reward(windows=windows, prompts=prompts).to(windows.device) for weight, reward in self.members
        )
        return _sum(scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanOverFrames:
    """A video reward that is an image reward's mean."""

    image: ImageReward

    def __call__(self, *, windows: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B]`; see `VideoReward`."""
        return self.image(frames=windows, prompts=prompts).mean(1)


def combine_images(terms: Sequence[Term], load: Callable[[Term], Any]) -> ImageReward:
    """Returns the image reward that terms add up to.

    Raises:
        ValueError: one of them scores videos.
    """
    members = []
    for term in terms:
        reward = load(term)
        if kind_of(term.name, reward) == "windows":
            raise ValueError(f"image reward {term.name!r} scores videos: give it as the video reward")
        members.append((term.weight, cast(ImageReward, reward)))
    if len(members) == 1 and members[0][0] == 1.0:
        return members[0][1]
    return ImageEnsemble(members=tuple(members))


def combine_videos(terms: Sequence[Term], load: Callable[[Term], Any]) -> VideoReward:
    """Returns the video reward that terms add up to; image rewards are averaged over frames."""
    members: list[tuple[float, VideoReward]] = []
    for term in terms:
        reward = load(term)
        video = reward if kind_of(term.name, reward) == "windows" else MeanOverFrames(image=reward)
        members.append((term.weight, video))
    if len(members) == 1 and members[0][0] == 1.0:
        return members[0][1]
    return VideoEnsemble(members=tuple(members))


def _sum(scores: Any) -> Any:
    first, *others = scores
    return sum(others, first)
