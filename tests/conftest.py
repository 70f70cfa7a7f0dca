"""A tiny streaming video model, which shares all code with a real one, and a scorer whose scores are easy to trust.

Letters: B streams, T latent frames of a chunk, C channels, h and w latent size, F pixel frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from searchkit.memory import MemoryConfig
from searchkit.model import VideoModel
from searchkit.rewards import View
from searchkit.stream import Stream
from searchkit.types import Scores

LATENT_SHAPE = (4, 4, 4)  # C, h, w
MEMORY = MemoryConfig(chunk_frames=2, window_frames=8, sink_frames=2, max_sink_frames=6, ema_decay=0.9)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class FadingDecoder:
    """Decodes a latent frame to two pixel frames, the first one of a video to one; each fades into the next.

    A cache is the faded sum of all latent frames before, so that every piece depends on everything before it.
    """

    def decode(self, latents: Tensor, caches: Sequence[Any]) -> tuple[Tensor, list[Tensor]]:
        starts = {cache is None for cache in caches}
        assert len(starts) == 1, "streams at their start are mixed with others"
        faded = torch.zeros_like(latents[:, 0]) if True in starts else torch.stack(list(caches))
        frames = []
        for frame in latents.unbind(1):
            faded = 0.5 * faded + frame
            frames += [(faded + shift)[:, :3].sigmoid() for shift in (0.0, 0.1)]
        return torch.stack(frames[1 if True in starts else 0 :], dim=1), [row.clone() for row in faded]


@dataclass(frozen=True)
class BrightScorer:
    """Short: how bright the newest chunk is. Long: how still the window is, less where it is dark."""

    def score(self, views: Sequence[View]) -> list[Scores]:
        longs = self.score_whole(views)
        return [Scores(float(view.newest.mean()), long) for view, long in zip(views, longs, strict=True)]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        return [_stillness(torch.cat(view.window)) for view in views]


def _stillness(frames: Tensor) -> float:
    return float(frames.mean() - (frames[1:] - frames[:-1]).abs().mean())


def _encode_text(prompt: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, prompt)))
    return torch.randn(3, 8, generator=generator)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., VideoModel]:
    """Makes a tiny model with seeded random weights; same arguments, same weights."""
    from diffusers import WanTransformer3DModel

    from searchkit.backbones.sampler import Sampler
    from searchkit.backbones.wan import CausalWan

    def make(
        *,
        memory: MemoryConfig = MEMORY,
        sampler: Sampler = Sampler(timesteps=(1000.0, 500.0)),  # noqa: B008
        num_layers: int = 2,
        max_batch: int = 16,
    ) -> VideoModel:
        torch.manual_seed(0)
        network = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=1,
            attention_head_dim=32,
            in_channels=LATENT_SHAPE[0],
            out_channels=LATENT_SHAPE[0],
            text_dim=8,
            freq_dim=16,
            ffn_dim=32,
            num_layers=num_layers,
        )
        return VideoModel(
            engine=CausalWan(network, latent_size=LATENT_SHAPE[1:]),
            decoder=FadingDecoder(),
            encode_text=_encode_text,
            sampler=sampler,
            memory=memory,
            latent_shape=LATENT_SHAPE,
            fps=8,
            checksum="tiny",
            max_batch=max_batch,
        )

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., VideoModel]) -> VideoModel:
    return make_model()


@pytest.fixture(scope="session")
def scorer() -> BrightScorer:
    return BrightScorer()


@pytest.fixture
def make_stream(model: VideoModel, scorer: BrightScorer) -> Callable[..., Stream]:
    """Makes a stream of the tiny model; options are those of `Stream`."""

    def make(**options: Any) -> Stream:
        return Stream(**{"model": model, "scorer": scorer, "prompt": "a prompt", **options})

    return make
