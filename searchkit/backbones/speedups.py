"""What makes a network faster or smaller, by diffusers and torchao. No torch here, so that options import at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchkit.fp8 import check_installed, quantise
from searchkit.rewards.terms import nearest

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

# Of diffusers 0.42; those of its names that are not for a whole batch of equal lengths work, too.
ATTENTION_BACKENDS = (
    *("flash", "flash_hub", "flash_varlen", "flash_varlen_hub", "flash_4_hub"),
    *("_flash_3", "_flash_varlen_3", "_flash_3_hub", "_flash_3_varlen_hub", "aiter_fa2_hub", "flex", "native"),
    *("_native_cudnn", "_native_efficient", "_native_flash", "_native_math", "_native_npu", "_native_xla"),
    *("sage", "sage_hub", "sage_blackwell_hub", "sage_varlen", "_sage_qk_int8_pv_fp8_cuda"),
    *("_sage_qk_int8_pv_fp8_cuda_sm90", "_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton", "xformers"),
)

MOST_GRAPHS = 64


@dataclass(frozen=True, kw_only=True)
class Speedups:
    """What makes a network faster or smaller; results change a little.

    Attributes:
        attention: name of one of diffusers' attention backends, such as flash or _native_cudnn; None for the default.
        compile: compile the repeated blocks, once for all of them (regional compilation) and each kind of batch.
        fp8: hold the weights of the blocks' linear layers as float8, by torchao: half the bytes, and slower.

    Raises:
        ValueError: there is no such backend; the nearest is named.
    """

    attention: str | None = None
    compile: bool = False
    fp8: bool = False

    def __post_init__(self) -> None:
        if self.attention is not None and self.attention not in ATTENTION_BACKENDS:
            raise ValueError(f"attention {self.attention!r} is unknown{nearest(self.attention, ATTENTION_BACKENDS)}")

    def check(self) -> None:
        """Checks that what is needed is installed, before anything large is loaded.

        Raises:
            ValueError: something is not; it is named.
        """
        if self.fp8:
            check_installed()
        if self.attention is not None:
            import torch
            from diffusers import WanTransformer3DModel

            from searchkit.backbones.presets import REDUCED

            with torch.device("meta"):
                _set_attention(WanTransformer3DModel(**REDUCED.arguments), self.attention)

    def shrunk(self, network: WanTransformer3DModel) -> WanTransformer3DModel:
        """Returns a network, whose weights are changed where they are, so that a GPU never holds them whole."""
        if self.fp8:
            quantise(network.blocks)
        return network

    def quicken(self, network: WanTransformer3DModel) -> None:
        """Changes how a network computes that an engine has taken over.

        Raises:
            ValueError: the attention backend cannot be had here.
        """
        if self.attention is not None:
            _set_attention(network, self.attention)
        if self.compile:
            _compile(network)


def _compile(network: WanTransformer3DModel) -> None:
    import torch._dynamo

    # A graph for every kind of batch: of how many parents, with a memory or none, with blocks to fill or without.
    # Beyond the limit torch would compute uncompiled.
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MOST_GRAPHS)
    network.compile_repeated_blocks()


def _set_attention(network: WanTransformer3DModel, name: str) -> None:
    from diffusers.models.attention_dispatch import attention_backend

    try:
        with attention_backend("native"):  # on leaving it, what diffusers sets for all other networks is as before
            network.set_attention_backend(name)
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"attention {name!r} cannot be had here: {error}") from error
