"""CLIP weights under open_clip's names, as HPSv2 publishes its own, for transformers' `CLIPModel`.

open_clip keeps queries, keys and values of a layer in one tensor, and its two projections the other way round; else the
two differ in nothing but names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from searchkit.backbones.convert import load_renamed

if TYPE_CHECKING:  # naming alone must not wait for torch
    from torch import Tensor
    from transformers import CLIPModel

_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # so spelled
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_FROM_LAYER = {new: old for old, new in _LAYER.items()}
_FROM_OUTSIDE = {new: old for old, new in _OUTSIDE.items()}
_TRANSPOSED = ("text_projection", "visual.proj")
_BLOCKS, _LAYERS = "transformer.resblocks", "encoder.layers"
_NAME = re.compile(rf"(?P<tower>visual\.)?{_BLOCKS}\.(?P<layer>\d+)\.(?P<rest>.+)")
_NEW_NAME = re.compile(rf"(?P<tower>vision|text)_model\.{_LAYERS}\.(?P<layer>\d+)\.(?P<rest>.+)")
_SPLIT = re.compile(r"attn\.in_proj_(?P<kind>weight|bias) of (?P<part>[qkv])")
_NEW_SPLIT = re.compile(r"self_attn\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)")


def load(clip: CLIPModel, tensors: Mapping[str, Tensor]) -> None:
    """Loads tensors under open_clip's names into a model, all of them or none.

    Raises:
        ValueError: names the keys that are missing, unexpected or of another shape, by their original names; the
            queries of a layer as "attn.in_proj_weight of q", and so on.
    """
    load_renamed(clip, _apart(tensors), diffusers_name=hugging_face_name, original_name=original_name)


def hugging_face_name(original: str) -> str:
    """Returns transformers' name of a tensor; a name that is no CLIP tensor's comes back as it is."""
    match = _NAME.fullmatch(original)
    if match is None:
        return _OUTSIDE.get(original, original)
    tower = "vision" if match["tower"] else "text"
    if split := _SPLIT.fullmatch(match["rest"]):
        rest = f"self_attn.{split['part']}_proj.{split['kind']}"
    else:
        rest = _renamed(match["rest"], _LAYER)
    return f"{tower}_model.{_LAYERS}.{match['layer']}.{rest}"


def original_name(hugging_face: str) -> str:
    """Returns open_clip's name of a tensor: the inverse of `hugging_face_name`."""
    match = _NEW_NAME.fullmatch(hugging_face)
    if match is None:
        return _FROM_OUTSIDE.get(hugging_face, hugging_face)
    tower = "visual." if match["tower"] == "vision" else ""
    if split := _NEW_SPLIT.fullmatch(match["rest"]):
        rest = f"attn.in_proj_{split['kind']} of {split['part']}"
    else:
        rest = _renamed(match["rest"], _FROM_LAYER)
    return f"{tower}{_BLOCKS}.{match['layer']}.{rest}"


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns open_clip's tensors with queries, keys and values apart, and projections the way `nn.Linear` has them."""
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attn.in_proj_" in name:
            apart |= {f"{name} of {part}": piece for part, piece in zip("qkv", tensor.chunk(3), strict=False)}
        else:
            apart[name] = tensor.T if name in _TRANSPOSED else tensor
    return apart


def _renamed(rest: str, names: Mapping[str, str]) -> str:
    module, dot, kind = rest.rpartition(".")
    return names.get(module, module) + dot + kind
