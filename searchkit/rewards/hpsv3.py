"""HPSv3: an image reward on Qwen2-VL-7B (Ma et al. 2025, arXiv 2508.03789; MizzenAI/HPSv3).

Card: weights Apache-2.0 by their card, code MIT, base Qwen2-VL-7B-Instruct Apache-2.0. 7.7 B parameters without the
language head, 15.5 GB in bf16. The score is mu, unbounded and higher is better: means of image models go from -0.2 to
about 10.5.
Letters: B candidates, F pixel frames, H and W their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import Tensor, nn

from searchkit.backbones.sources import Source
from searchkit.checkpoint import find_file, read_tensors
from searchkit.rewards.pixels import check_stride, resize_by_pillow, score_strided
from searchkit.rewards.qwen2_vl import QWEN2_VL_7B, Inputs, RewardNetwork, load_sizes, load_weights, make_network
from searchkit.rewards.qwen2_vl_chat import Chat, load_tokenizer, stand_in_tokenizer
from searchkit.rewards.qwen2_vl_pixels import MERGED, check_frames, quantise, resized_size, to_patches
from searchkit.rewards.templates import HPSV3

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS = "MizzenAI/HPSv3"
FILE = "HPSv3.safetensors"
BASE = "Qwen/Qwen2-VL-7B-Instruct"
PIXELS = 256 * 28 * 28
VOCABULARY = 151658  # the base's tokens and the reward token
VISION_TOKEN: Final = "<|image_pad|>"
REWARD_TOKENS = ("<|Reward|>",)


@dataclass(frozen=True, kw_only=True, eq=False)
class HPSv3:
    """Scores single frames against a prompt: an `ImageReward`.

    Attributes:
        batch_size: most frames in one call of the network.
        stride: of every so many frames one is scored, the middle one, and the others have its score.

    Raises:
        ValueError: `batch_size` or `stride` is below 1.
    """

    network: RewardNetwork
    chat: Chat
    batch_size: int = 8
    stride: int = 1

    def __post_init__(self) -> None:
        check_stride(self.stride)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    @classmethod
    def load(
        cls,
        weights: str = WEIGHTS,
        *,
        base: str = BASE,
        revision: str | None = None,
        base_revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        attention: str = "sdpa",
        **options: Any,
    ) -> Self:
        """Returns the reward with its published weights.

        Args:
            weights: `HPSv3.safetensors`, its folder, or a hub id.
            base: a folder or hub id with the `config.json` and the tokenizer of Qwen2-VL-7B-Instruct.
            revision: of the weights' hub id, as `base_revision` is of the base's.
            dtype: of all but the reward head, which is float32.
            attention: what transformers calls `attn_implementation`.
            options: `batch_size` and `stride`.

        Raises:
            ValueError: a file is missing, or the tensors do not fit; then all wrong keys are named.
        """
        source = Source(base, base_revision)
        tokenizer = load_tokenizer(source, REWARD_TOKENS)
        sizes = {**load_sizes(source), "vocab_size": len(tokenizer)}
        parts = _make_parts(sizes, tokenizer, device=device, dtype=dtype, attention=attention)
        load_weights(parts["network"], read_tensors(find_file(weights, FILE, revision=revision)))
        return cls(**parts, **options)

    @classmethod
    def random(
        cls,
        *,
        sizes: Mapping[str, Any] = QWEN2_VL_7B,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        attention: str = "sdpa",
        **options: Any,
    ) -> Self:
        """Returns a reward with random weights, by default of true size, that needs no files: for rehearsals."""
        tokenizer = stand_in_tokenizer(REWARD_TOKENS)
        sizes = {"vocab_size": VOCABULARY, **sizes}
        parts = _make_parts(sizes, tokenizer, device=device, dtype=dtype, attention=attention, initialise=True)
        return cls(**parts, **options)

    def __call__(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B, F]` of frames `[B, F, 3, H, W]` in [0, 1], one prompt a row.

        Raises:
            ValueError: frames of another layout or range, or another number of prompts.
        """
        check_frames("frames", frames, prompts)
        return score_strided(lambda chosen: self.judge(frames=chosen, prompts=prompts)[..., 0], frames, self.stride)

    def judge(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns `[B, F, 2]` of frames as in a call, all of them: mu, and the head's raw measure of spread."""
        check_frames("frames", frames, prompts)
        pictures = frames.flatten(0, 1)
        texts = [prompt for prompt in prompts for _ in range(frames.shape[1])]
        outputs = []
        for start in range(0, len(pictures), self.batch_size):
            rows = slice(start, start + self.batch_size)
            outputs.append(self.network(self.prepare(pictures[rows], texts[rows]))[:, 0])
        return torch.cat(outputs).unflatten(0, frames.shape[:2])

    def prepare(self, pictures: Tensor, prompts: Sequence[str]) -> Inputs:
        """Returns what the network reads for pictures `[B, 3, H, W]` in [0, 1], one prompt each."""
        height, width = resized_size(*pictures.shape[-2:], min_pixels=PIXELS, max_pixels=PIXELS)
        patches, grids = to_patches(resize_by_pillow(quantise(pictures), height, width)[:, None])
        ids = self.chat.encode(prompts, num_vision_tokens=len(patches) // len(pictures) // MERGED)
        return Inputs(ids, patches, grids)


def make_head(hidden_size: int) -> nn.Module:
    """Returns the reward head, untrained."""
    return nn.Sequential(
        nn.Linear(hidden_size, 1024),
        nn.ReLU(),
        nn.Dropout(0.05),
        nn.Linear(1024, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )


def _make_parts(sizes: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, **options: Any) -> dict[str, Any]:
    chat = Chat(tokenizer=tokenizer, template=HPSV3, vision_token=VISION_TOKEN, reward_tokens=REWARD_TOKENS)
    head = make_head(sizes["hidden_size"])
    network = make_network(sizes, head, vision_id=chat.vision_id, reward_ids=chat.reward_ids, **options)
    return {"network": network, "chat": chat}
