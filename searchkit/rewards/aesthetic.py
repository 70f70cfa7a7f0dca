"""LAION's aesthetic predictor: how good single frames look, whatever they show.

Letters: B candidates, F pixel frames, N images, H and W their size, D channels of CLIP's embeddings.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from searchkit.backbones.convert import load_renamed
from searchkit.checkpoint import find_file, read_tensors
from searchkit.rewards.clip import OPENAI_CLIP_L
from searchkit.rewards.clip_model import VIT_L_14, ClipEncoder, ClipSize, load_clip, make_clip, prepare_as_openai
from searchkit.rewards.pixels import check_stride, score_strided
from searchkit.rewards.qwen2_vl_pixels import check_frames


@dataclass(frozen=True, kw_only=True, eq=False)
class Aesthetic:
    """LAION's aesthetic predictor v2 (sac+logos+ava1-l14-linearMSE): 1 to 10, good pictures 5 to 7; prompts are unseen.

    Card: ViT-L/14 for images, 304 M parameters, 1.2 GB in float32, and 3.7 MB; Apache-2.0
    (christophschuhmann/improved-aesthetic-predictor), CLIP's own weights MIT.
    Frames are made 224 x 224 as by `clip.load`.

    Attributes:
        head: embeddings `[N, D]` to scores `[N, 1]`, in float32 on the model's device.
        stride: of every so many frames one is scored, the middle one, and the others have its score.

    Raises:
        ValueError: `stride` is below 1.
    """

    clip: ClipEncoder
    head: nn.Module
    stride: int = 1

    WEIGHTS: ClassVar[str] = "trl-lib/ddpo-aesthetic-predictor"
    FILES: ClassVar[tuple[str, ...]] = ("sac+logos+ava1-l14-linearMSE.pth", "aesthetic-model.pth")

    def __post_init__(self) -> None:
        check_stride(self.stride)

    @classmethod
    def load(
        cls,
        weights: str | None = None,
        *,
        clip: str = OPENAI_CLIP_L,
        revision: str | None = None,
        stride: int = 1,
        **options: Any,
    ) -> Self:
        """Returns the predictor with its published weights.

        Args:
            weights: `sac+logos+ava1-l14-linearMSE.pth`, its folder, or a hub id with its copy `aesthetic-model.pth`;
                None for such an id.
            clip: folder or hub id of OpenAI's ViT-L/14 as a `CLIPModel`.
            revision: of the weights' hub id.
            options: `device`, `dtype`, and `batch_size`, of frames in one call of the model.

        Raises:
            ValueError: the weights are not there, or tensors are missing or others; they are named.
        """
        encoder = ClipEncoder(load_clip(clip), prepare=prepare_as_openai, **options)
        head = make_head(encoder.clip.config.projection_dim)
        tensors = read_tensors(find_file(weights or cls.WEIGHTS, *cls.FILES, revision=revision))
        load_renamed(nn.ModuleDict({"layers": head}), tensors, diffusers_name=str, original_name=str)
        return cls(clip=encoder, head=_ready(head, encoder), stride=stride)

    @classmethod
    def random(cls, *, size: ClipSize = VIT_L_14, stride: int = 1, **options: Any) -> Self:
        """Returns a predictor with random weights, by default of true size, that needs no files: for rehearsals."""
        encoder = ClipEncoder(make_clip(size, initialise=True), prepare=prepare_as_openai, **options)
        return cls(clip=encoder, head=_ready(make_head(size.embed_dim), encoder), stride=stride)

    def __call__(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores `[B, F]` of frames `[B, F, 3, H, W]` in [0, 1]; errors are PickScore's."""
        check_frames("frames", frames, prompts)

        def score(chosen: Tensor) -> Tensor:
            scores: Tensor = self.head(self.clip.embed_images(chosen.flatten(0, 1)))
            return scores.view(chosen.shape[:2])

        return score_strided(score, frames, self.stride)


def make_head(width: int) -> nn.Sequential:
    """Returns the aesthetic predictor's layers, untrained: linear ones, with dropouts between the first four."""
    widths = (width, 1024, 128, 64, 16, 1)
    first, second, third, *last = [nn.Linear(inward, outward) for inward, outward in itertools.pairwise(widths)]
    return nn.Sequential(first, nn.Dropout(), second, nn.Dropout(), third, nn.Dropout(), *last)


def _ready(head: nn.Module, encoder: ClipEncoder) -> nn.Module:
    return head.to(encoder.clip.device).eval().requires_grad_(False)
