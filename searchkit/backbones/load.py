"""Makes a video model of published weights, or of random ones of the same size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from searchkit.backbones.presets import FPS, LATENT_CHANNELS, PIXELS_PER_LATENT, NetworkSize, PublishedModel
from searchkit.backbones.sources import WAN, Source
from searchkit.backbones.speedups import Speedups
from searchkit.backbones.text import TEXT_LENGTH, TextEncoder
from searchkit.backbones.wan import CausalWan
from searchkit.codecs.wan import WanDecoder
from searchkit.model import VideoModel

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    from searchkit.memory import MemoryConfig


def load_model(
    model: PublishedModel,
    weights: Source,
    *,
    encode_text: TextEncoder,
    wan: Source = WAN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    height: int = 480,
    width: int = 832,
    memory: MemoryConfig | None = None,
    max_batch: int = VideoModel.max_batch,
    speedups: Speedups = Speedups(),
) -> VideoModel:
    """Returns a published model, ready to be searched.

    Args:
        weights: the network, as `python -m experiments.convert` writes it, or in a subfolder `transformer`; its own
            files say how large it is.
        encode_text: see `TextEncoder`; prompts that it prepared before take no memory beside the network.
        wan: has the subfolder `vae`.
        dtype: of the network and the VAE; what diffusers keeps in float32 stays so.
        height: of the video in pixels.
        width: of the video in pixels.
        memory: its sizes; None for those that the model was trained with.
        max_batch: most candidates in one call of the network.
        speedups: of the network.

    Raises:
        ValueError: weights are missing, incomplete or of another kind, or the video's size does not suit them.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    latent_size = _latent_size(height, width)
    speedups.check()
    network, network_identity = _load(WanTransformer3DModel, weights, ("", "transformer"), dtype)
    vae, vae_identity = _load(AutoencoderKLWan, wan, ("vae",), dtype)
    identities = " ".join([network_identity, vae_identity, encode_text.identity, str(dtype)])
    return _video_model(
        model,
        speedups.shrunk(network).to(device),
        vae.to(device),
        encode_text=encode_text,
        latent_size=latent_size,
        memory=memory,
        max_batch=max_batch,
        speedups=speedups,
        checksum=hashlib.sha256(identities.encode()).hexdigest()[:16],
    )


def random_model(
    model: PublishedModel,
    *,
    size: NetworkSize | None = None,
    vae_base_dim: int = 96,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    height: int = 480,
    width: int = 832,
    memory: MemoryConfig | None = None,
    max_batch: int = VideoModel.max_batch,
    speedups: Speedups = Speedups(),
    seed: int = 0,
) -> VideoModel:
    """Returns a model with random weights, which costs what the published one does: no file is needed.

    Args:
        size: of the network; None for the published one's.
        vae_base_dim: channels of the VAE's widest level; 96 is Wan2.1's.
        seed: of the weights.

    The other arguments, and errors, are those of `load_model`.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    latent_size = _latent_size(height, width)
    speedups.check()
    size = model.size if size is None else size
    torch.manual_seed(seed)
    with torch.device(device), _default_dtype(dtype):
        network = WanTransformer3DModel(**size.arguments)
        vae = AutoencoderKLWan(base_dim=vae_base_dim)
    for name, parameter in network.named_parameters():
        if set(name.split(".")) & set(network._keep_in_fp32_modules):  # as `from_pretrained` would
            parameter.data = parameter.data.float()
    return _video_model(
        model,
        speedups.shrunk(network),
        vae,
        encode_text=lambda prompt: random_embedding(prompt, size.text_dim),
        latent_size=latent_size,
        memory=memory,
        max_batch=max_batch,
        speedups=speedups,
        checksum="random",
    )


def random_embedding(prompt: str, text_dim: int) -> Tensor:
    """Returns `[512, text_dim]` numbers that stand for a prompt's embedding: the same for the same prompt."""
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") >> 1
    return torch.randn(TEXT_LENGTH, text_dim, generator=torch.Generator().manual_seed(seed))


def _video_model(
    model: PublishedModel,
    network: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    *,
    encode_text: Callable[[str], Tensor],
    latent_size: tuple[int, int],
    memory: MemoryConfig | None,
    max_batch: int,
    speedups: Speedups,
    checksum: str,
) -> VideoModel:
    engine = CausalWan(network, latent_size=latent_size)
    speedups.quicken(network)  # after the engine has installed its attention
    return VideoModel(
        engine=engine,
        decoder=WanDecoder(vae),
        encode_text=encode_text,
        sampler=model.sampler,
        first_passes=model.first_passes,
        memory=model.memory if memory is None else memory,
        latent_shape=(LATENT_CHANNELS, *latent_size),
        fps=FPS,
        checksum=checksum,
        max_batch=max_batch,
    )


def _load(kind: Any, source: Source, subfolders: Sequence[str], dtype: torch.dtype) -> tuple[Any, str]:
    """Returns a module of diffusers' from the first of the subfolders that has one, and a name of its weights."""
    name, config = source.find_named(*(f"{subfolder}/config.json".removeprefix("/") for subfolder in subfolders))
    subfolder = name.removesuffix("config.json").removesuffix("/")
    found = json.loads(config.read_text()).get("_class_name")
    if found != kind.__name__:
        raise ValueError(f"weights {source.where!r} must be of a {kind.__name__}, but {config} says {found}")
    try:
        module, info = kind.from_pretrained(
            **source.arguments(subfolder), torch_dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:  # a tensor of another shape is a ValueError of diffusers'
        raise ValueError(f"weights {source.where!r} cannot be loaded: {str(error).partition('. ')[0]}") from error
    complaints = [
        f"{problem}: {', '.join(sorted(info[f'{problem}_keys']))}"
        for problem in ("missing", "unexpected")
        if info[f"{problem}_keys"]
    ]
    if complaints:
        raise ValueError(f"weights {source.where!r} do not fit their configuration: {'; '.join(complaints)}")
    return module, source.identity(subfolder)


def _latent_size(height: int, width: int) -> tuple[int, int]:
    side = 2 * PIXELS_PER_LATENT  # of a token
    for name, value in (("height", height), ("width", width)):
        if value < side or value % side:
            raise ValueError(f"{name} must be a multiple of {side} pixels, got {value}")
    return height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
