"""The models to measure: the shipped one, and Wan at its true size with random weights, which cost the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from envs.shapes.model import load_model, load_scorer
from searchkit.backbones.sampler import Sampler
from searchkit.backbones.wan import CausalWan
from searchkit.codecs.wan import WanDecoder
from searchkit.memory import MemoryConfig
from searchkit.model import VideoModel
from searchkit.rewards import View
from searchkit.stream import Stream
from searchkit.types import Scores

PROMPT = "a fast red circle moving left on a sand background"


@dataclass(frozen=True, kw_only=True)
class WanSize:
    """Sizes of a Wan network and its video; the defaults are Wan2.1-T2V-1.3B's at 832x480.

    Attributes:
        latent_size: height and width of the latents, an eighth of the pixels'.
    """

    num_layers: int = 30
    num_heads: int = 12
    ffn_dim: int = 8960
    latent_size: tuple[int, int] = (60, 104)
    vae_base_dim: int = 96


@dataclass(frozen=True, kw_only=True)
class Speedups:
    """What diffusers offers to run a network faster.

    Attributes:
        compile: whether to compile the repeated blocks (regional compilation).
        attention: name of an attention backend, such as flash or _native_cudnn; None for the default.
    """

    compile: bool = False
    attention: str | None = None


class BrightnessScorer:
    """Stands where rewards will: as good as free, so that a benchmark of random weights measures the model alone."""

    def score(self, views: Sequence[View]) -> list[Scores]:
        return [
            Scores(float(view.newest.mean()), long) for view, long in zip(views, self.score_whole(views), strict=True)
        ]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        return [float(torch.stack([part.mean() for part in view.window]).mean()) for view in views]


def shapes_stream(*, horizon: int = 7, prefix_budget: int = VideoModel.prefix_budget) -> Stream:
    """Returns a stream of the shipped model."""
    model = replace(load_model(), prefix_budget=prefix_budget)
    return Stream(model=model, scorer=load_scorer(), prompt=PROMPT, horizon=horizon)


def wan_stream(size: WanSize, speedups: Speedups, *, device: str, dtype: torch.dtype) -> Stream:
    """Returns a stream of a Wan network and VAE with random weights."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from diffusers.utils import logging

    logging.set_verbosity_error()  # that casting everything costs precision is of no concern to random weights
    torch.manual_seed(0)
    with torch.device(device):
        network = WanTransformer3DModel(
            num_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            attention_head_dim=128,
            ffn_dim=size.ffn_dim,
            text_dim=4096,
        )
        vae = AutoencoderKLWan(base_dim=size.vae_base_dim)
    engine = CausalWan(network.to(dtype), latent_size=size.latent_size)
    if speedups.attention is not None:
        network.set_attention_backend(speedups.attention)
    if speedups.compile:
        network.compile_repeated_blocks()
    model = VideoModel(
        engine=engine,
        decoder=WanDecoder(vae.to(dtype)),
        encode_text=_random_text,
        sampler=Sampler(),
        memory=MemoryConfig(),
        latent_shape=(16, *size.latent_size),
        fps=16,
        checksum="random",
    )
    return Stream(model=model, scorer=BrightnessScorer(), prompt=PROMPT)


def _random_text(prompt: str) -> Tensor:
    return torch.randn(512, 4096, generator=torch.Generator().manual_seed(0))
