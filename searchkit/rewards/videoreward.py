"""VideoReward: a video reward on Qwen2-VL-2B with LoRA (Liu et al. 2025, arXiv 2501.13918; KwaiVGI/VideoAlign).

Card: weights Apache-2.0 by their card (huggingface.co/KlingTeam/VideoReward, KwaiVGI's later name), base
Qwen2-VL-2B-Instruct Apache-2.0. 2.2 B parameters without the language head, 4.4 GB in bf16. Visual quality, motion
quality and text alignment as z-scores by published means and deviations, unbounded, and their sum; higher is better.
Letters: B windows, F pixel frames, H and W their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from searchkit.backbones.convert import Factors
from searchkit.backbones.sources import Source
from searchkit.checkpoint import find_file, read_tensors
from searchkit.rewards.qwen2_vl import QWEN2_VL_2B, Inputs, RewardNetwork, load_sizes, load_weights, make_network
from searchkit.rewards.qwen2_vl_chat import Chat, load_tokenizer, stand_in_tokenizer
from searchkit.rewards.qwen2_vl_pixels import (
    MERGED,
    check_fps,
    check_frames,
    quantise,
    resize_video,
    resized_size,
    sampled_frames,
    to_patches,
)
from searchkit.rewards.templates import VIDEOREWARD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS = "KwaiVGI/VideoReward"
FILES = ("checkpoint-11352/model.pth", "model.pth")
BASE = "Qwen/Qwen2-VL-2B-Instruct"
MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 256 * 28 * 28
LORA_SCALE = 2.0  # alpha 128 over rank 64
MEANS, DEVIATIONS = (3.6757, 1.1646, 2.8105), (2.2476, 1.3811, 2.5121)  # of the raw aspects, as published
VOCABULARY = 151660  # the base's tokens and the reward tokens
VISION_TOKEN: Final = "<|video_pad|>"
REWARD_TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
_LORA = {"A": ".lora_A.default.weight", "B": ".lora_B.default.weight"}

Aspect = Literal["overall", "visual", "motion", "text"]


class Aspects(NamedTuple):
    """What VideoReward says of windows, each `[B]`.

    visual: quality of the single frames (VQ). motion: of what moves (MQ). text: whether it is what was asked for (TA).
    """

    visual: Tensor
    motion: Tensor
    text: Tensor

    @property
    def overall(self) -> Tensor:
        """The sum of the three."""
        return self.visual + self.motion + self.text


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoReward:
    """Scores windows of video against a prompt, as the protocol of this name asks.

    Attributes:
        fps: pixel frames a second of the windows. It decides which frames are seen: a wrong one spoils all scores.
        aspect: what a call returns; "overall" is the sum of the others.
        normalised: whether scores are z-scores, by the published means and deviations, or as the head gives them.
        batch_size: most windows in one call of the network.

    Raises:
        ValueError: `fps` is not from 1 to 240, `batch_size` is below 1, or there is no such aspect.
    """

    network: RewardNetwork
    chat: Chat
    fps: float
    aspect: Aspect = "overall"
    normalised: bool = True
    batch_size: int = 4

    def __post_init__(self) -> None:
        check_fps(self.fps)
        if self.aspect not in ("overall", *Aspects._fields):
            raise ValueError(f"aspect must be overall, {', '.join(Aspects._fields)}, got {self.aspect!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    @classmethod
    def load(
        cls,
        weights: str = WEIGHTS,
        *,
        fps: float,
        base: str = BASE,
        revision: str | None = None,
        base_revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        attention: str = "sdpa",
        **options: Any,
    ) -> Self:
        """Returns the reward with its published weights, LoRA merged into them.

        Args:
            weights: `model.pth`, its folder, the folder of `checkpoint-11352`, or a hub id.
            base: a folder or hub id with the `config.json` and the tokenizer of Qwen2-VL-2B-Instruct.
            revision: of the weights' hub id, as `base_revision` is of the base's.
            dtype: of all but the reward head, which is float32.
            attention: what transformers calls `attn_implementation`.
            options: `aspect`, `normalised` and `batch_size`.

        Raises:
            ValueError: a file is missing, or the tensors do not fit; then all wrong keys are named.
        """
        source = Source(base, base_revision)
        tokenizer = load_tokenizer(source, REWARD_TOKENS)
        sizes = {**load_sizes(source), "vocab_size": len(tokenizer)}
        parts = _make_parts(sizes, tokenizer, device=device, dtype=dtype, attention=attention)
        tensors = read_tensors(find_file(weights, *FILES, revision=revision))
        load_weights(parts["network"], merge_lora(tensors, dtype=dtype))
        return cls(**parts, fps=fps, **options)

    @classmethod
    def random(
        cls,
        *,
        fps: float,
        sizes: Mapping[str, Any] = QWEN2_VL_2B,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        attention: str = "sdpa",
        **options: Any,
    ) -> Self:
        """Returns a reward with random weights, by default of true size, that needs no files: for rehearsals."""
        tokenizer = stand_in_tokenizer(REWARD_TOKENS)
        sizes = {"vocab_size": VOCABULARY, **sizes}
        parts = _make_parts(sizes, tokenizer, device=device, dtype=dtype, attention=attention, initialise=True)
        return cls(**parts, fps=fps, **options)

    def __call__(self, *, windows: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B]` of windows `[B, F, 3, H, W]` in [0, 1], one prompt a row.

        Raises:
            ValueError: windows of another layout or range, or of fewer than 2 frames, or another number of prompts.
        """
        scores: Tensor = getattr(self.aspects(windows=windows, prompts=prompts), self.aspect)
        return scores

    def aspects(self, *, windows: Tensor, prompts: Sequence[str]) -> Aspects:
        """Returns the scores of each aspect. Arguments and errors as of a call."""
        outputs = self.judge(windows=windows, prompts=prompts)
        return Aspects(*(normalise(outputs) if self.normalised else outputs).unbind(1))

    def judge(self, *, windows: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns the head's outputs `[B, 3]` for the three aspects. Arguments and errors as of a call."""
        check_frames("windows", windows, prompts)
        outputs = []
        for start in range(0, len(windows), self.batch_size):
            rows = slice(start, start + self.batch_size)
            outputs.append(self.network(self.prepare(windows[rows], prompts[rows]))[..., 0])
        return torch.cat(outputs).to(windows.device)

    def prepare(self, windows: Tensor, prompts: Sequence[str]) -> Inputs:
        """Returns what the network reads for windows and prompts as in a call."""
        height, width = resized_size(*windows.shape[-2:], min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
        seen = quantise(windows[:, sampled_frames(windows.shape[1], self.fps)])
        patches, grids = to_patches(torch.stack([resize_video(video, height=height, width=width) for video in seen]))
        ids = self.chat.encode(prompts, num_vision_tokens=len(patches) // len(windows) // MERGED)
        return Inputs(ids, patches, grids)


def normalise(outputs: Tensor) -> Tensor:
    """Returns the head's outputs `[B, 3]` as z-scores."""
    return (outputs - outputs.new_tensor(MEANS)) / outputs.new_tensor(DEVIATIONS)


def make_head(hidden_size: int) -> nn.Module:
    """Returns the reward head, untrained."""
    return nn.Linear(hidden_size, 1, bias=False)


def merge_lora(tensors: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint of peft's with its LoRA added to what it adapts, under the base's names.

    A factor whose partner or weight is not there stays, for `load_weights` to complain about.

    Args:
        dtype: of the weights that are adapted; they are added in float32.
    """
    named = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor for name, tensor in tensors.items()
    }
    for name in [name for name in named if name.endswith(_LORA["A"])]:
        module = name.removesuffix(_LORA["A"])
        a, b, weight = (module + ending for ending in (_LORA["A"], _LORA["B"], ".weight"))
        if b in named and weight in named:
            factors = Factors(named.pop(a), named.pop(b))
            named[weight] = factors.added_to(named[weight], scale=LORA_SCALE).to(dtype)
    return named


def _make_parts(sizes: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, **options: Any) -> dict[str, Any]:
    chat = Chat(tokenizer=tokenizer, template=VIDEOREWARD, vision_token=VISION_TOKEN, reward_tokens=REWARD_TOKENS)
    head = make_head(sizes["hidden_size"])
    network = make_network(sizes, head, vision_id=chat.vision_id, reward_ids=chat.reward_ids, **options)
    return {"network": network, "chat": chat}
