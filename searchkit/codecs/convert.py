"""Names of Wan's VAE: the original code's against diffusers'.

The two differ in nothing but names. The original decoder counts the layers of all its levels in one run; diffusers
counts levels, and in a level first the residual blocks, of which there is one more than in an encoder's level, and
then the upsampling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from searchkit.backbones.convert import load_renamed

if TYPE_CHECKING:  # naming alone must not wait for torch
    from diffusers import AutoencoderKLWan
    from torch import Tensor

_PARTS = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "encoder.conv1": "encoder.conv_in",
    "decoder.conv1": "decoder.conv_in",
    "encoder.downsamples": "encoder.down_blocks",
    "middle.0": "mid_block.resnets.0",
    "middle.1": "mid_block.attentions.0",
    "middle.2": "mid_block.resnets.1",
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
    "head.0": "norm_out",
    "head.2": "conv_out",
}
_FROM_PARTS = {new: old for old, new in _PARTS.items()}
_LAYER = re.compile(r"decoder\.upsamples\.(?P<layer>\d+)(?=\.)")
_PLACE = re.compile(r"decoder\.up_blocks\.(?P<level>\d+)\.(?:resnets\.(?P<block>\d+)|upsamplers\.0)(?=\.)")


def diffusers_name(original: str, *, num_res_blocks: int) -> str:
    """Returns diffusers' name of a tensor.

    A name that is no Wan VAE tensor's comes back as no VAE tensor's, for `load` to complain about.

    Args:
        num_res_blocks: residual blocks of an encoder's level.
    """

    def place(match: re.Match[str]) -> str:
        level, layer = divmod(int(match["layer"]), num_res_blocks + 2)
        inner = f"resnets.{layer}" if layer <= num_res_blocks else "upsamplers.0"
        return f"decoder.up_blocks.{level}.{inner}"

    return _LAYER.sub(place, _rename(original, _PARTS))


def original_name(diffusers: str, *, num_res_blocks: int) -> str:
    """Returns the original code's name of a tensor: the inverse of `diffusers_name`."""

    def layer(match: re.Match[str]) -> str:
        inner = num_res_blocks + 1 if match["block"] is None else int(match["block"])
        return f"decoder.upsamples.{int(match['level']) * (num_res_blocks + 2) + inner}"

    return _rename(_PLACE.sub(layer, diffusers), _FROM_PARTS)


def load(vae: AutoencoderKLWan, tensors: Mapping[str, Tensor]) -> None:
    """Loads tensors under original names into a diffusers VAE, all of them or none.

    Raises:
        ValueError: names the keys that are missing, unexpected or of another shape, by their original names.
    """
    num_res_blocks = vae.config.num_res_blocks
    load_renamed(
        vae,
        tensors,
        diffusers_name=partial(diffusers_name, num_res_blocks=num_res_blocks),
        original_name=partial(original_name, num_res_blocks=num_res_blocks),
    )


def _rename(name: str, parts: Mapping[str, str]) -> str:
    """Returns a name with its whole parts replaced, in one pass, as what comes out may be a part of its own."""
    pattern = "|".join(map(re.escape, parts))
    return re.sub(rf"(?<![^.])(?:{pattern})(?![^.])", lambda match: parts[match[0]], name)
