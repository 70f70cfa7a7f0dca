"""Rewards of single frames that are CLIP models: PickScore, HPSv2.1 and CLIPScore.

Frames are made bytes first, as the originals' pictures were.
Letters: B candidates, F pixel frames, N images, H and W their size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor

from searchkit.checkpoint import find_file, read_tensors
from searchkit.rewards import open_clip
from searchkit.rewards.clip_model import (
    VIT_H_14,
    VIT_L_14,
    ClipEncoder,
    ClipSize,
    Prepare,
    load_clip,
    load_tokenizer,
    make_clip,
    prepare_as_transformers,
    stand_in_tokenizer,
)
from searchkit.rewards.pixels import check_stride, normalise, resize_by_torch, score_strided
from searchkit.rewards.qwen2_vl_pixels import check_frames

LAION_CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
OPENAI_CLIP_L = "openai/clip-vit-large-patch14"


def prepare_as_hps(images: Tensor, side: int) -> Tensor:
    """Returns images as HPSv2's own open_clip makes them: the longer side resized, the shorter one padded with black.

    It resizes floats, which torchvision did without antialiasing when the weights were trained and published (2023;
    since 0.17 it would antialias), and pads an odd pixel at the end (hpsv2/src/open_clip/transform.py).
    """
    height, width = images.shape[2:]
    scale = side / max(height, width)
    new = round(height * scale), round(width * scale)
    resized = resize_by_torch(images.float() / 255, *new, antialias=False)
    top, left = (side - new[0]) // 2, (side - new[1]) // 2
    return normalise(F.pad(resized, (left, side - new[1] - left, top, side - new[0] - top)))


def clean_as_open_clip(text: str) -> str:
    """Returns a text as open_clip's tokenizer cleans it, which is as Wan's does."""
    from searchkit.backbones.text import clean

    return clean(text)


@dataclass(frozen=True, kw_only=True, eq=False)
class PickScore:
    """PickScore v1 (Kirstain et al. 2023, arXiv 2305.01569): the model's logit scale x cosine, about 18 to 24.

    Card: ViT-H-14, 986 M parameters, 3.9 GB in float32; code MIT (yuvalkirstain/PickScore), CLIP's own weights MIT.
    Frames are made 224 x 224 as by `CLIPImageProcessor`; prompts are cut at 77 tokens, their end kept.

    Attributes:
        stride: of every so many frames one is scored, the middle one, and the others have its score.

    Raises:
        ValueError: `stride` is below 1.
    """

    clip: ClipEncoder
    stride: int = 1

    WEIGHTS: ClassVar[str] = "yuvalkirstain/PickScore_v1"
    TOKENIZER: ClassVar[str | None] = LAION_CLIP_H  # None: that of the weights
    SIZE: ClassVar[ClipSize] = VIT_H_14
    PREPARE: ClassVar[Prepare] = prepare_as_transformers
    CLEAN: ClassVar[Callable[[str], str]] = str

    def __post_init__(self) -> None:
        check_stride(self.stride)

    @classmethod
    def load(
        cls,
        weights: str | None = None,
        *,
        tokenizer: str | None = None,
        revision: str | None = None,
        stride: int = 1,
        **options: Any,
    ) -> Self:
        """Returns the reward with its published weights.

        Args:
            weights: file, folder or hub id; None for those that were published.
            tokenizer: folder or hub id; None for the one they were trained with.
            revision: of the weights' hub id.
            options: `device`, `dtype`, and `batch_size`, of frames in one call of the model.

        Raises:
            ValueError: the weights are not there, or tensors are missing or others; they are named.
        """
        weights = weights or cls.WEIGHTS
        return cls._made(
            cls.load_clip(weights, revision),
            load_tokenizer(tokenizer or cls.TOKENIZER or weights),
            stride=stride,
            **options,
        )

    @classmethod
    def random(cls, *, size: ClipSize | None = None, stride: int = 1, **options: Any) -> Self:
        """Returns a reward with random weights, by default of true size, that needs no files: for rehearsals."""
        size = size or cls.SIZE
        return cls._made(make_clip(size, initialise=True), stand_in_tokenizer(size), stride=stride, **options)

    @classmethod
    def load_clip(cls, weights: str, revision: str | None) -> Any:
        """Returns the `CLIPModel`; weights are a folder or hub id of one."""
        return load_clip(weights, revision=revision)

    @classmethod
    def _made(cls, clip: Any, tokenizer: Any, *, stride: int, **options: Any) -> Self:
        return cls(clip=ClipEncoder(clip, tokenizer, prepare=cls.PREPARE, clean=cls.CLEAN, **options), stride=stride)

    def __call__(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B, F]` of frames `[B, F, 3, H, W]` in [0, 1], one prompt a row.

        Raises:
            ValueError: frames of another layout or range, or another number of prompts.
        """
        check_frames("frames", frames, prompts)
        asked = self.clip.embed_texts(prompts)

        def score(chosen: Tensor) -> Tensor:
            seen = self.clip.embed_images(chosen.flatten(0, 1)).view(*chosen.shape[:2], -1)
            return self.scaled((seen * asked[:, None]).sum(-1))

        return score_strided(score, frames, self.stride)

    def scaled(self, cosines: Tensor) -> Tensor:
        """Returns cosines as scores."""
        scores: Tensor = self.clip.clip.logit_scale.float().exp() * cosines
        return scores


class HPSv2(PickScore):
    """HPSv2.1 (Wu et al. 2023, arXiv 2306.09341): the cosine, about 0.2 to 0.35; the paper's tables say 100 times that.

    Card: ViT-H-14, 986 M parameters, 3.9 GB in float32; Apache-2.0 (tgxs002/HPSv2).
    Weights are `HPS_v2.1_compressed.pt`, its folder or a hub id. Frames are padded to squares, see `prepare_as_hps`;
    prompts are cleaned as by open_clip, and cut at 77 tokens.
    """

    WEIGHTS = "xswu/HPSv2"
    PREPARE = prepare_as_hps
    CLEAN = clean_as_open_clip
    FILES: ClassVar[tuple[str, ...]] = ("HPS_v2.1_compressed.pt", "HPS_v2.1_compressed.safetensors")

    @classmethod
    def load_clip(cls, weights: str, revision: str | None) -> Any:
        """Returns the `CLIPModel`, of `cls.SIZE`, from weights under open_clip's names."""
        clip = make_clip(cls.SIZE)
        open_clip.load(clip, read_tensors(find_file(weights, *cls.FILES, revision=revision), key="state_dict"))
        return clip

    def scaled(self, cosines: Tensor) -> Tensor:
        """Returns cosines as they are."""
        return cosines


class CLIPScore(PickScore):
    """CLIPScore (Hessel et al. 2021, arXiv 2104.08718) on torchmetrics' scale: 100 x cosine, 0 where it is negative.

    About 15 to 35. The paper's is 2.5 x cosine, of ViT-B/32 and prompts that begin with "A photo depicts".
    Card: ViT-L/14, 428 M parameters, 1.7 GB in float32; MIT (openai/CLIP).
    Frames are made 224 x 224 as by `CLIPImageProcessor`; prompts are cut at 77 tokens, their end kept.
    """

    WEIGHTS = OPENAI_CLIP_L
    TOKENIZER = None
    SIZE = VIT_L_14

    def scaled(self, cosines: Tensor) -> Tensor:
        """Returns cosines as per cent, none below 0."""
        return (100 * cosines).clamp(min=0)
