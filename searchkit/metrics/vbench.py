"""Measures of VBench that transformers has models for (Huang et al. 2024, arXiv 2311.17982; Vchitect/VBench).

Each is a `Judge` whose measure VBench's tables give times 100. Frames become bytes, as if read from a video file, and
are resized as floats without antialiasing, as by the torchvision that VBench was published with.
Letters: F pixel frames, H and W their size, S side of a model's images, N positions, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.backbones.convert import load_renamed
from searchkit.backbones.sources import Source
from searchkit.checkpoint import find_file, read_tensors
from searchkit.rewards.clip import OPENAI_CLIP_L
from searchkit.rewards.clip_model import VIT_L_14, ClipEncoder, ClipSize, load_clip, load_strictly, make_clip
from searchkit.rewards.pixels import crop_centre, normalise, resize_by_torch, shorter_side_to
from searchkit.rewards.qwen2_vl_pixels import check_frames, quantise

VIT_B_32 = ClipSize(
    patch_size=32,
    vision_width=768,
    vision_layers=12,
    vision_heads=12,
    text_width=512,
    text_layers=12,
    text_heads=8,
    embed_dim=512,
    activation="quick_gelu",
)
AESTHETIC_FILE = "sa_0_4_vit_l_14_linear.pth"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def consistency(features: Tensor) -> float:
    """Returns how alike frames are, from 0 to 1: the mean over frames of the cosines to the one before and the first.

    Args:
        features: `[F, D]` of length 1, F at least 2. Negative cosines count as 0.
    """
    before = (features[1:] * features[:-1]).sum(-1).clamp(min=0)
    first = (features[1:] * features[:1]).sum(-1).clamp(min=0)
    return float(((before + first) / 2).mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectConsistency:
    """How much the subject stays itself, by DINO ViT-B/16: `subject_consistency`, about 0.8 to 1.

    Card: facebook/dino-vitb16, 86 M parameters, 0.3 GB in float32, Apache-2.0. The shorter side becomes 224, and
    nothing is cropped.

    Attributes:
        embed: frames `[F, 3, H, W]` in [0, 1] to features `[F, D]` of length 1.
    """

    embed: Callable[[Tensor], Tensor]

    @classmethod
    def load(cls, weights: str = "facebook/dino-vitb16", *, revision: str | None = None, **options: Any) -> Self:
        """Returns the measure with DINO's weights.

        Args:
            weights: folder or hub id of a `ViTModel`.
            revision: of a hub id.
            options: `device`, `dtype`, and `batch_size`, of frames in one call of the model.

        Raises:
            ValueError: the weights are not there, or tensors are missing or others; they are named.
        """
        from transformers import ViTModel

        # The published configuration has transformers' default epsilon, DINO's own code another one.
        model = load_strictly(ViTModel, Source(weights, revision), add_pooling_layer=False, layer_norm_eps=1e-6)
        return cls(embed=DinoEncoder(model, **options))

    @classmethod
    def random(cls, *, sizes: dict[str, Any] | None = None, **options: Any) -> Self:
        """Returns the measure with random weights, by default of true size, that needs no files: for rehearsals."""
        from transformers import ViTConfig, ViTModel

        model = ViTModel(ViTConfig(layer_norm_eps=1e-6, **(sizes or {})), add_pooling_layer=False)
        return cls(embed=DinoEncoder(model, **options))

    def __call__(self, *, video: Tensor, prompt: str, fps: float) -> dict[str, float]:
        """Returns the measure of a video `[F, 3, H, W]` in [0, 1].

        Raises:
            ValueError: a video of another layout or range, or of fewer than 2 frames.
        """
        _check(video, prompt)
        return {"subject_consistency": consistency(self.embed(video))}


@dataclass(frozen=True, kw_only=True, eq=False)
class BackgroundConsistency:
    """How much the scene stays itself, by CLIP ViT-B/32: `background_consistency`, about 0.9 to 1.

    Card: openai/clip-vit-base-patch32, 151 M parameters, 0.6 GB in float32, MIT.
    """

    clip: ClipEncoder

    @classmethod
    def load(
        cls, weights: str = "openai/clip-vit-base-patch32", *, revision: str | None = None, **options: Any
    ) -> Self:
        """Returns the measure with CLIP's weights; arguments and errors are those of `SubjectConsistency.load`."""
        return cls(clip=ClipEncoder(load_clip(weights, revision=revision), prepare=prepare_as_vbench, **options))

    @classmethod
    def random(cls, *, size: ClipSize = VIT_B_32, **options: Any) -> Self:
        """Returns the measure with random weights, by default of true size, that needs no files: for rehearsals."""
        return cls(clip=ClipEncoder(make_clip(size, initialise=True), prepare=prepare_as_vbench, **options))

    def __call__(self, *, video: Tensor, prompt: str, fps: float) -> dict[str, float]:
        """Returns the measure of a video `[F, 3, H, W]` in [0, 1]; errors are those of `SubjectConsistency`."""
        _check(video, prompt)
        return {"background_consistency": consistency(self.clip.embed_images(video))}


@dataclass(frozen=True, kw_only=True, eq=False)
class AestheticQuality:
    """How good frames look, by LAION's linear predictor (version 1) over 10: `aesthetic_quality`, about 0.4 to 0.7.

    Card: openai/clip-vit-large-patch14, 428 M parameters, 1.7 GB in float32, MIT; the head is 4 kB, MIT
    (https://github.com/LAION-AI/aesthetic-predictor). Another one than the reward `aesthetic`, but of the same CLIP.

    Attributes:
        head: embeddings `[F, D]` to scores `[F, 1]`, in float32 on the model's device.
    """

    clip: ClipEncoder
    head: nn.Linear

    @classmethod
    def load(cls, weights: str, *, clip: str = OPENAI_CLIP_L, revision: str | None = None, **options: Any) -> Self:
        """Returns the measure with its published weights.

        Args:
            weights: `sa_0_4_vit_l_14_linear.pth`, or a folder or hub id with it.
            clip: folder or hub id of OpenAI's ViT-L/14 as a `CLIPModel`.
            revision: of the weights' hub id.
            options: `device`, `dtype`, and `batch_size`, of frames in one call of the model.

        Raises:
            ValueError: the weights are not there, or tensors are missing or others; they are named.
        """
        encoder = ClipEncoder(load_clip(clip), prepare=prepare_as_vbench, **options)
        head = nn.Linear(encoder.clip.config.projection_dim, 1)
        tensors = read_tensors(find_file(weights, AESTHETIC_FILE, revision=revision))
        load_renamed(head, tensors, diffusers_name=str, original_name=str)
        return cls(clip=encoder, head=head.to(encoder.clip.device).requires_grad_(False))

    @classmethod
    def random(cls, *, size: ClipSize = VIT_L_14, **options: Any) -> Self:
        """Returns the measure with random weights, by default of true size, that needs no files: for rehearsals."""
        encoder = ClipEncoder(make_clip(size, initialise=True), prepare=prepare_as_vbench, **options)
        return cls(clip=encoder, head=nn.Linear(size.embed_dim, 1).to(encoder.clip.device).requires_grad_(False))

    def __call__(self, *, video: Tensor, prompt: str, fps: float) -> dict[str, float]:
        """Returns the mean over the frames of a video `[F, 3, H, W]` in [0, 1].

        Raises:
            ValueError: a video of another layout or range.
        """
        check_frames("video", video[None], [prompt])
        return {"aesthetic_quality": float(self.head(self.clip.embed_images(video)).mean()) / 10}


def prepare_as_vbench(images: Tensor, side: int) -> Tensor:
    """Returns bytes as VBench prepares them for CLIP: the shorter side resized, the middle cropped (its utils.py)."""
    resized = resize_by_torch(images, *shorter_side_to(side, *images.shape[2:]), antialias=False)
    return normalise(crop_centre(resized, side, halves="even") / 255)


class DinoEncoder:
    """Embeds frames of any size by a `ViTModel` as DINO's own code does. Takes the model over, and freezes it."""

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.model.embeddings.interpolate_pos_encoding = partial(_dino_positions, self.model.embeddings)
        self._batch_size = batch_size

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Returns features `[F, D]` of length 1, float32 on the model's device, of frames `[F, 3, H, W]` in [0, 1]."""
        side = self.model.config.image_size
        embedded = []
        for batch in frames.split(self._batch_size):
            images = quantise(batch.to(self.model.device))
            new = shorter_side_to(side, *images.shape[2:])
            resized = resize_by_torch(images, *new, mode="bilinear", antialias=False) / 255
            pixels = normalise(resized, _IMAGENET_MEAN, _IMAGENET_STD).to(self.model.dtype)
            embedded.append(self.model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0])
        return F.normalize(torch.cat(embedded).float(), dim=-1)


def _dino_positions(embeddings: Any, tokens: Tensor, height: int, width: int) -> Tensor:
    """Returns position embeddings `[1, N, D]` for images of another size, by DINO's rule (its vision_transformer.py).

    It asks for a factor, made larger by a tenth of a patch to be safe, where transformers asks for a size.
    """
    table = embeddings.position_embeddings
    if tokens.shape[1] == table.shape[1] and height == width:
        return table
    side = round((table.shape[1] - 1) ** 0.5)
    factors = tuple((length // embeddings.patch_size + 0.1) / side for length in (height, width))
    grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
    grown = F.interpolate(grid, scale_factor=factors, mode="bicubic").flatten(2).transpose(1, 2)
    return torch.cat([table[:, :1], grown.to(table.dtype)], dim=1)


def _check(video: Tensor, prompt: str) -> None:
    check_frames("video", video[None], [prompt])
    if len(video) < 2:
        raise ValueError(f"video must have at least 2 frames, got {len(video)}")
