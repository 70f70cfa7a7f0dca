"""Names and sizes of Wan networks: the original code's against diffusers'.

The two differ in nothing but names. Note that `norm2` and `norm3` of a block swap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # naming alone must not wait for torch
    from torch import Tensor, nn

_WRAPPERS = re.compile(r"_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.|_orig_mod\.")
_NAME = re.compile(r"(?P<block>blocks\.\d+\.)?(?P<module>.+?)(?P<suffix>\.weight|\.bias)?")

_PROJECTIONS = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
}
_IN_BLOCK = {
    "modulation": "scale_shift_table",
    "norm2": "norm3",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{old}": f"attn1.{new}" for old, new in _PROJECTIONS.items()},
    **{f"cross_attn.{old}": f"attn2.{new}" for old, new in _PROJECTIONS.items()},
}
_OUTSIDE = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_FROM_BLOCK = {new: old for old, new in _IN_BLOCK.items()}
_FROM_OUTSIDE = {new: old for old, new in _OUTSIDE.items()}


def diffusers_name(original: str) -> str:
    """Returns diffusers' name of a tensor; wrappers' and the leading `model.` parts of the name are dropped.

    A name that is no Wan tensor's comes back as it is, for `load` to complain about.
    """
    return _rename(_WRAPPERS.sub("", original).removeprefix("model."), _IN_BLOCK, _OUTSIDE)


def original_name(diffusers: str) -> str:
    """Returns the original code's name of a tensor: the inverse of `diffusers_name`."""
    return _rename(diffusers, _FROM_BLOCK, _FROM_OUTSIDE)


def diffusers_config(original: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `WanTransformer3DModel` for an original text-to-video configuration.

    Raises:
        ValueError: the model is no text-to-video one, or its queries and keys are not normalised.
    """
    if original["model_type"] != "t2v":
        raise ValueError(f"model_type must be t2v, got {original['model_type']}")
    if not original["qk_norm"]:
        raise ValueError(f"qk_norm must be true, got {original['qk_norm']}")
    return {
        "patch_size": tuple(original["patch_size"]),
        "num_attention_heads": original["num_heads"],
        "attention_head_dim": original["dim"] // original["num_heads"],
        "in_channels": original["in_dim"],
        "out_channels": original["out_dim"],
        "text_dim": original["text_dim"],
        "freq_dim": original["freq_dim"],
        "ffn_dim": original["ffn_dim"],
        "num_layers": original["num_layers"],
        "cross_attn_norm": original["cross_attn_norm"],
        "eps": original["eps"],
    }


def load(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads tensors under original names into a diffusers network, all of them or none.

    Raises:
        ValueError: names the keys that are missing, unexpected or of another shape, by their original names.
    """
    load_renamed(network, tensors, diffusers_name=diffusers_name, original_name=original_name)


def load_renamed(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    diffusers_name: Callable[[str], str],
    original_name: Callable[[str], str],
) -> None:
    """Loads tensors under original names into a module of diffusers', all of them or none.

    Args:
        diffusers_name: converts an original name.
        original_name: its inverse.

    Raises:
        ValueError: names the keys that are missing, unexpected or of another shape, by their original names.
    """
    wanted = module.state_dict()
    given = {diffusers_name(name): tensor for name, tensor in tensors.items()}
    complaints = [
        *_complaint("missing", (original_name(name) for name in wanted.keys() - given.keys())),
        *_complaint("unexpected", (name for name in tensors if diffusers_name(name) not in wanted)),
        *_complaint(
            "mis-shaped",
            (
                f"{original_name(name)} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
                for name in wanted.keys() & given.keys()
                if given[name].shape != wanted[name].shape
            ),
        ),
    ]
    if complaints:
        raise ValueError("the weights do not fit the network: " + "; ".join(complaints))
    module.load_state_dict(given)


def _rename(name: str, in_block: Mapping[str, str], outside: Mapping[str, str]) -> str:
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    block, module, suffix = (match[group] or "" for group in ("block", "module", "suffix"))
    return block + (in_block if block else outside).get(module, module) + suffix


def _complaint(kind: str, names: Iterable[str]) -> list[str]:
    listed = sorted(names)
    return [f"{kind}: {', '.join(listed)}"] if listed else []
