"""How a video moves, by optical flow: what stands here for VBench's motion smoothness and dynamic degree.

VBench asks a frame interpolator (AMT-S) and RAFT, which transformers does not have. What it has is the optical flow of
Perceiver IO, so these measures have VBench's definitions but another network: its tables are not to be compared.
Letters: N pairs of frames, F pixel frames, H and W their size, h and w the size of the network's pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from searchkit.backbones.sources import Source
from searchkit.rewards.clip_model import load_strictly
from searchkit.rewards.pixels import resize_by_torch
from searchkit.rewards.qwen2_vl_pixels import check_fps, check_frames, quantise

WEIGHTS = "deepmind/optical-flow-perceiver"
SIZES = {"num_latents": 2048, "d_latents": 512, "d_model": 322, "num_blocks": 1, "num_self_attends_per_block": 24}
SIZES |= {"num_self_attention_heads": 16, "num_cross_attention_heads": 1}
FLOW_SCALE = 20.0  # pixels that an output of 1 means, as in DeepMind's own example
SECONDS = 1 / 8  # between two frames that are compared, as in VBench
MOVING = 6 / 256  # of the shorter side: what VBench says moves at least so far in that time
FASTEST = 0.05  # of the pixels, whose mean counts

# Frames `[N, 3, H, W]` in bytes and later ones to the flow `[N, 2, H, W]` from the first to the second: how far each
# pixel goes to the right and down.
Estimate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """A `Judge`: `motion_smoothness_by_flow`, from 0 to 1, and `motion_strength_by_flow`, from 0.

    Smoothness: every other frame is made of its neighbours, moved half way along their flow; 1 less the mean difference
    from what is there. Strength: how far the fastest twentieth of the pixels goes in an eighth of a second, in units of
    what VBench calls moving. A still video is perfectly smooth, so the two go together.
    Card: deepmind/optical-flow-perceiver, 41 M parameters, 0.2 GB in float32, Apache-2.0.
    """

    flow: Estimate

    @classmethod
    def load(cls, weights: str = WEIGHTS, *, revision: str | None = None, **options: Any) -> Self:
        """Returns the judge with the published weights.

        Args:
            weights: folder or hub id of a `PerceiverForOpticalFlow`.
            revision: of a hub id.
            options: `device`, `dtype`, and `batch_size`, of pairs in one call of the network.

        Raises:
            ValueError: the weights are not there, or tensors are missing or others; they are named.
        """
        from transformers import PerceiverForOpticalFlow

        return cls(flow=PerceiverFlow(load_strictly(PerceiverForOpticalFlow, Source(weights, revision)), **options))

    @classmethod
    def random(cls, *, sizes: dict[str, Any] | None = None, **options: Any) -> Self:
        """Returns the judge with random weights, by default of true size, that needs no files: for rehearsals."""
        from transformers import PerceiverConfig, PerceiverForOpticalFlow

        model = PerceiverForOpticalFlow(PerceiverConfig(**{**SIZES, **(sizes or {})}))
        return cls(flow=PerceiverFlow(model, **options))

    def __call__(self, *, video: Tensor, prompt: str, fps: float) -> dict[str, float]:
        """Returns the measures of a video `[F, 3, H, W]` in [0, 1].

        Raises:
            ValueError: a video of another layout or range, or too short for two frames an eighth of a second apart.
        """
        check_frames("video", video[None], [prompt])
        check_fps(fps)
        half = max(1, round(SECONDS / 2 * fps))  # frames from a pair's first one to the one between
        if len(video) <= 2 * half:
            raise ValueError(f"video must have at least {2 * half + 1} frames at {fps:g} a second, got {len(video)}")
        frames = quantise(video)
        first, last = frames[: -2 * half : 2 * half], frames[2 * half :: 2 * half]
        between = frames[half :: 2 * half][: len(last)]
        there, back = self.flow(first, last), self.flow(last, first)
        made = interpolate(first.to(there) / 255, last.to(there) / 255, there, back)
        difference = (quantise(made).float() - between.to(made)).abs().mean() / 255
        strength = speed(there).mean() * SECONDS * fps / (2 * half)
        return {"motion_smoothness_by_flow": 1 - float(difference), "motion_strength_by_flow": float(strength)}


class PerceiverFlow:
    """Estimates flow by a `PerceiverForOpticalFlow` on pictures of its size. Takes the model over, and freezes it."""

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 4,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._batch_size = batch_size

    @torch.no_grad()
    def __call__(self, first: Tensor, last: Tensor) -> Tensor:
        """Returns flow in pixels of the frames, float32 on the model's device; see `Estimate`."""
        small = tuple(self.model.config.train_size)
        scale = torch.tensor([first.shape[3] / small[1], first.shape[2] / small[0]], device=self.model.device)
        flows = []
        for pair in zip(first.split(self._batch_size), last.split(self._batch_size), strict=True):
            seen = torch.stack([self._patches(frames, small) for frames in pair], dim=1)
            flow = FLOW_SCALE * self.model(inputs=seen).logits.float().permute(0, 3, 1, 2)
            flows.append(resize_by_torch(flow, *first.shape[2:], mode="bilinear", antialias=False))
        return torch.cat(flows) * scale[:, None, None]

    def _patches(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns what the network reads of bytes `[N, 3, H, W]`: `[N, 27, h, w]`, the 3 x 3 pixels around each.

        Row by row, with the colours of a pixel together.
        """
        resized = resize_by_torch(frames.to(self.model.device), *size, antialias=True).clamp(0, 255)
        around = F.unfold(resized / 255 * 2 - 1, kernel_size=3, padding=1).unflatten(1, (3, 9))
        return around.transpose(1, 2).reshape(len(frames), 27, *size).to(self.model.dtype)


def interpolate(first: Tensor, last: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Returns the frames `[N, 3, H, W]` half way between two, as if everything moved evenly.

    Each is looked up where its flow comes from (Super SloMo, arXiv 1712.00080, without its networks).

    Args:
        there: `[N, 2, H, W]`, flow from the first frames to the last; `back` is the other way.
    """
    to_first = (back - there) / 4
    return (_looked_up(first, to_first) + _looked_up(last, -to_first)) / 2


def speed(flow: Tensor) -> Tensor:
    """Returns the mean length `[N]` of the fastest twentieth of flow `[N, 2, H, W]`; 1 is what VBench calls moving."""
    lengths = flow.norm(dim=1).flatten(1)
    fastest = lengths.topk(max(1, int(FASTEST * lengths.shape[1])), dim=1).values.mean(1)
    return fastest / (MOVING * min(flow.shape[2:]))


def _looked_up(frames: Tensor, flow: Tensor) -> Tensor:
    """Returns what frames `[N, 3, H, W]` show where `flow` points from each pixel; beyond their edges, the edge."""
    height, width = frames.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([columns, rows]).to(flow) + flow
    ends = torch.tensor([max(1, width - 1), max(1, height - 1)]).to(flow)
    grid = places.permute(0, 2, 3, 1) / ends * 2 - 1
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=True)
