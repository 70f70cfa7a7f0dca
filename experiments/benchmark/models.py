"""The models to measure: the shipped one, and Wan at its true size with random weights, which cost the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from envs.shapes.model import load_model, load_scorer
from searchkit.backbones.load import random_model
from searchkit.backbones.presets import LONGLIVE, PIXELS_PER_LATENT
from searchkit.backbones.speedups import Speedups
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
    height, width = (PIXELS_PER_LATENT * side for side in size.latent_size)
    model = random_model(
        LONGLIVE,
        size=replace(LONGLIVE.size, num_layers=size.num_layers, num_heads=size.num_heads, ffn_dim=size.ffn_dim),
        vae_base_dim=size.vae_base_dim,
        device=device,
        dtype=dtype,
        height=height,
        width=width,
        speedups=speedups,
    )
    return Stream(model=model, scorer=BrightnessScorer(), prompt=PROMPT)
