"""CLIP models by transformers: their sizes, their published weights, and embeddings of images and texts.

Letters: B candidates, F pixel frames, N images, H and W their size, S side of CLIP's images, D channels of embeddings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from searchkit.backbones.sources import Source
from searchkit.rewards.pixels import crop_centre, normalise, resize_by_pillow, shorter_side_to
from searchkit.rewards.qwen2_vl_pixels import quantise

# Images `[N, 3, H, W]` in bytes, and S, to CLIP's `[N, 3, S, S]`.
Prepare = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """Sizes of a CLIP model; the defaults are ViT-H-14's by LAION, which HPSv2 and PickScore are.

    Attributes:
        vision_width: channels of the images' layers, as text_width is of the texts'; MLPs are four times as wide.
        embed_dim: channels of the embeddings that images and texts share.
        context: tokens of a text.
        activation: "gelu" for LAION's models, "quick_gelu" for OpenAI's.
    """

    image_size: int = 224
    patch_size: int = 14
    vision_width: int = 1280
    vision_layers: int = 32
    vision_heads: int = 16
    text_width: int = 1024
    text_layers: int = 24
    text_heads: int = 16
    embed_dim: int = 1024
    vocabulary: int = 49408
    context: int = 77
    activation: Literal["gelu", "quick_gelu"] = "gelu"


VIT_H_14 = ClipSize()
VIT_L_14 = ClipSize(
    vision_width=1024,
    vision_layers=24,
    text_width=768,
    text_layers=12,
    text_heads=12,
    embed_dim=768,
    activation="quick_gelu",
)


def make_clip(size: ClipSize, *, initialise: bool = False) -> Any:
    """Returns a `CLIPModel` in float32 on the CPU, with undefined weights unless `initialise` asks for random ones."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.initialization import no_init_weights

    common = {"projection_dim": size.embed_dim, "hidden_act": size.activation}
    config = CLIPConfig(
        projection_dim=size.embed_dim,
        vision_config={
            **common,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "hidden_size": size.vision_width,
            "intermediate_size": 4 * size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_heads,
        },
        text_config={
            **common,
            "vocab_size": size.vocabulary,
            "max_position_embeddings": size.context,
            "hidden_size": size.text_width,
            "intermediate_size": 4 * size.text_width,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.text_heads,
            "bos_token_id": size.vocabulary - 2,
            "eos_token_id": size.vocabulary - 1,
        },
    )
    with contextlib.nullcontext() if initialise else no_init_weights():
        return CLIPModel(config)


def load_clip(weights: str, *, revision: str | None = None) -> Any:
    """Returns a published `CLIPModel` in float32 on the CPU.

    Raises:
        ValueError: it is not there, or tensors are missing, unexpected or of another shape; they are named.
    """
    from transformers import CLIPModel

    return load_strictly(CLIPModel, Source(weights, revision))


def load_strictly(model: Any, source: Source, **options: Any) -> Any:
    """Returns a model of transformers by `model.from_pretrained`, in float32 unless `options` say otherwise.

    Raises:
        ValueError: it is not there, or tensors are missing, unexpected or of another shape; they are named.
    """
    source.find("config.json")
    try:
        made, found = model.from_pretrained(
            **source.arguments(),
            **{"dtype": torch.float32, **options},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except OSError as error:
        raise ValueError(f"weights {source.where!r} cannot be read: {error}") from error
    complaints = [
        f"{kind}: {', '.join(sorted(str(name) for name in found[f'{kind}_keys']))}"
        for kind in ("missing", "unexpected", "mismatched")
        if found[f"{kind}_keys"]
    ]
    if complaints:
        raise ValueError(f"weights {source.where!r} do not fit the network: {'; '.join(complaints)}")
    return made


def load_tokenizer(where: str) -> Any:
    """Returns CLIP's tokenizer from a folder or hub id.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(**Source(where).arguments())
    except OSError as error:
        raise ValueError(
            f"tokenizer must be a folder or hub id with CLIP's tokenizer, got {where!r}: {error}"
        ) from error


def stand_in_tokenizer(size: ClipSize) -> Any:
    """Returns a tokenizer that needs no files, for random weights: it knows letters only."""
    from transformers import CLIPTokenizer

    letters = [letter + end for letter in map(chr, range(ord("a"), ord("z") + 1)) for end in ("", "</w>")]
    vocabulary = {token: number for number, token in enumerate(letters)}
    ends = {"<|startoftext|>": size.vocabulary - 2, "<|endoftext|>": size.vocabulary - 1}
    return CLIPTokenizer(vocab={**vocabulary, **ends}, merges=[])


def prepare_as_transformers(images: Tensor, side: int) -> Tensor:
    """Returns images as `CLIPImageProcessor` makes them: the shorter side resized by Pillow, the middle cropped."""
    resized = resize_by_pillow(images, *shorter_side_to(side, *images.shape[2:]))
    return normalise(crop_centre(resized, side, halves="down"))


def prepare_as_openai(images: Tensor, side: int) -> Tensor:
    """Returns images as `clip.load` makes them, which finds the middle otherwise (torchvision's `CenterCrop`)."""
    resized = resize_by_pillow(images, *shorter_side_to(side, *images.shape[2:]))
    return normalise(crop_centre(resized, side, halves="even"))


class ClipEncoder:
    """Embeds images and texts. Takes the model over: puts it in evaluation mode and freezes its weights.

    Args:
        clip: a `CLIPModel`; without a tokenizer its part for texts is dropped.
        prepare: how images become CLIP's.
        clean: what is done to texts before the tokenizer sees them.
        batch_size: images in one call of the model.

    Raises:
        ValueError: `batch_size` is below 1.
    """

    def __init__(
        self,
        clip: Any,
        tokenizer: Any = None,
        *,
        prepare: Prepare,
        clean: Callable[[str], str] = str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if tokenizer is None:
            del clip.text_model, clip.text_projection
        self.clip = clip.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._prepare, self._clean = prepare, clean
        self._batch_size = batch_size

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Returns embeddings `[N, D]` of length 1 of images `[N, 3, H, W]` in [0, 1], float32 on the model's device."""
        weight, side = self.clip.visual_projection.weight, self.clip.config.vision_config.image_size
        embedded = []
        for batch in images.split(self._batch_size):
            pixels = self._prepare(quantise(batch.to(weight.device)), side).to(weight.dtype)
            embedded.append(self.clip.visual_projection(self.clip.vision_model(pixels).pooler_output))
        return F.normalize(torch.cat(embedded).float(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Returns embeddings `[B, D]` of length 1, float32 on the model's device; equal texts are embedded once."""
        different = list(dict.fromkeys(texts))
        context = self.clip.config.text_config.max_position_embeddings
        cleaned = [self._clean(text) for text in different]
        batch = self._tokenizer(cleaned, padding=True, truncation=True, max_length=context, return_tensors="pt")
        ids, mask = (batch[name].to(self.clip.device) for name in ("input_ids", "attention_mask"))
        pooled = self.clip.text_model(input_ids=ids, attention_mask=mask).pooler_output
        embedded = F.normalize(self.clip.text_projection(pooled).float(), dim=-1)
        return embedded[[different.index(text) for text in texts]]
