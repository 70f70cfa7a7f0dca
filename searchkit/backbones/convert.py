"""Names and sizes of Wan networks: the original code's against diffusers'.

The two differ in nothing but names. Note that `norm2` and `norm3` of a block swap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # naming alone must not wait for torch
    from torch import Tensor, nn

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
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
    module.load_state_dict(
        renamed(module.state_dict(), tensors, diffusers_name=diffusers_name, original_name=original_name)
    )


def renamed(
    wanted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    *,
    diffusers_name: Callable[[str], str] = diffusers_name,
    original_name: Callable[[str], str] = original_name,
) -> dict[str, Tensor]:
    """Returns tensors under original names by the names of diffusers.

    Args:
        wanted: what there must be, by diffusers' names; of shapes alone, on the meta device, if need be.

    Raises:
        ValueError: names the keys that are missing, unexpected or of another shape, by their original names.
    """
    given = {diffusers_name(name): tensor for name, tensor in tensors.items()}
    _refuse(
        "the weights do not fit the network",
        missing=(original_name(name) for name in wanted.keys() - given.keys()),
        unexpected=(name for name in tensors if diffusers_name(name) not in wanted),
        misshaped=(
            f"{original_name(name)} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
            for name in wanted.keys() & given.keys()
            if given[name].shape != wanted[name].shape
        ),
    )
    return given


class Factors(NamedTuple):
    """The two matrices whose product updates a weight `[out, in]`: `[rank, in]` and `[out, rank]`."""

    a: Tensor
    b: Tensor

    def added_to(self, weight: Tensor, *, scale: float) -> Tensor:
        """Returns `weight + scale * b @ a`, in float32."""
        return weight.float() + scale * (self.b.float() @ self.a.float())


def lora_factors(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, rank: int) -> dict[str, Factors]:
    """Returns the factors of all linear layers of a network's blocks, by diffusers' names of the weights.

    Args:
        wanted: the network's tensors by diffusers' names, if need be of shapes alone.
        tensors: by the names of peft: `base_model.model.blocks.0.self_attn.q.lora_A.weight`.

    Raises:
        ValueError: names the keys that are missing, unexpected or of another shape.
    """
    shapes: dict[tuple[str, str], tuple[int, int]] = {}
    for name, weight in wanted.items():
        if name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2:
            shapes |= {(name, "A"): (rank, weight.shape[1]), (name, "B"): (weight.shape[0], rank)}
    names = {_lora_place(name): name for name in tensors}
    _refuse(
        "the LoRA weights do not fit the network",
        missing=(_lora_name(*place) for place in shapes.keys() - names.keys()),
        unexpected=(name for place, name in names.items() if place not in shapes),
        misshaped=(
            f"{names[place]} {tuple(tensors[names[place]].shape)} for {shape}"
            for place, shape in shapes.items()
            if place in names and tensors[names[place]].shape != shape
        ),
    )
    return {name: Factors(tensors[names[name, "A"]], tensors[names[name, "B"]]) for name, _ in shapes}


def _lora_place(name: str) -> tuple[str, str]:
    """Returns the weight that a factor updates, by diffusers' name, and which of the two it is."""
    match = _LORA.fullmatch(_WRAPPERS.sub("", name))
    return (diffusers_name(f"{match['module']}.weight"), match["factor"]) if match else (name, "")


def _lora_name(weight: str, factor: str) -> str:
    return f"base_model.model.{original_name(weight).removesuffix('.weight')}.lora_{factor}.weight"


def _rename(name: str, in_block: Mapping[str, str], outside: Mapping[str, str]) -> str:
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    block, module, suffix = (match[group] or "" for group in ("block", "module", "suffix"))
    return block + (in_block if block else outside).get(module, module) + suffix


def _refuse(what: str, *, missing: Iterable[str], unexpected: Iterable[str], misshaped: Iterable[str]) -> None:
    listed = {"missing": sorted(missing), "unexpected": sorted(unexpected), "mis-shaped": sorted(misshaped)}
    complaints = [f"{kind}: {', '.join(names)}" for kind, names in listed.items() if names]
    if complaints:
        raise ValueError(f"{what}: {'; '.join(complaints)}")
