"""The few-step samplers of causal video models distilled by Self-Forcing (arXiv 2506.08009) and its family.

Pure arithmetic on tensors: noise is given by the caller, never drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:  # configurations import this module and must not wait for torch
    from torch import Tensor

Kind = Literal["renoise", "euler"]


class Step(NamedTuple):
    """What a pass leaves, in the shape and dtype of its input.

    x_next: the input of the next pass; after the last pass the finished chunk.
    x0: the estimate of the finished chunk, for previews.
    """

    x_next: Tensor
    x0: Tensor


def warp(timesteps: Sequence[float], shift: float) -> tuple[float, ...]:
    """Returns uniform `timesteps` from 0 to 1000 moved towards noise: `1000 * shift*s / (1 + (shift - 1)*s)`.

    A shift of 5 warps 1000, 750, 500, 250 to 1000, 937.5, 833.33, 625; a shift of 1 changes nothing.
    """
    return tuple(1000.0 * shift * t / (1000.0 + (shift - 1.0) * t) for t in timesteps)


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How a chunk is denoised, one network pass a timestep.

    Attributes:
        timesteps: the passes before warping, strictly falling, above 0 and up to 1000.
        shift: see `warp`; a property of the model, lower for small resolutions.
        kind: "renoise" jumps to the estimate and adds fresh noise between passes (Self-Forcing); "euler"
            follows the flow and needs no noise.
    """

    timesteps: tuple[float, ...] = (1000.0, 750.0, 500.0, 250.0)
    shift: float = 5.0
    kind: Kind = "renoise"

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in pairwise((*self.timesteps, 0.0)))
        if not self.timesteps or self.timesteps[0] > 1000.0 or not falling:
            raise ValueError(f"timesteps must fall strictly, from 1000 at most to above 0, got {self.timesteps}")
        if self.shift <= 0.0:
            raise ValueError(f"shift must be above 0, got {self.shift}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")

    @property
    def num_passes(self) -> int:
        return len(self.timesteps)

    @property
    def num_renoise(self) -> int:
        """Fresh noises that a chunk takes besides the one that starts it."""
        return self.num_passes - 1 if self.kind == "renoise" else 0

    def with_passes(self, count: int | None) -> Sampler:
        """Returns the sampler with so many timesteps, spread as its own are; None changes nothing.

        A model that was distilled for its timesteps knows no others well; one that was trained on all of them makes
        more of more passes.

        Raises:
            ValueError: the count is below 1.
        """
        if count is None or count == self.num_passes:
            return self
        if count < 1:
            raise ValueError(f"passes must be at least 1 a chunk, got {count}")
        ends = (*self.timesteps, 0.0)
        places = (index * self.num_passes / count for index in range(count))
        timesteps = (ends[int(place)] + place % 1.0 * (ends[int(place) + 1] - ends[int(place)]) for place in places)
        return replace(self, timesteps=tuple(timesteps))

    @property
    def warped(self) -> tuple[float, ...]:
        """The timesteps that the network is given."""
        return warp(self.timesteps, self.shift)

    def step(self, x: Tensor, flow: Tensor, k: int, fresh: Tensor | None = None) -> Step:
        """Returns what pass `k` makes of its input and the network's output.

        Args:
            x: the input of pass `k`, any shape; noise for pass 0.
            flow: the network's `noise - x0` at `x`, same shape.
            k: index of the pass, from 0.
            fresh: standard normal noise of the same shape; wanted by "renoise" after every pass but the last.

        Raises:
            ValueError: "renoise" needs `fresh` and got none.
        """
        sigma, sigma_next = (t / 1000.0 for t in (*self.warped, 0.0)[k : k + 2])
        # Float64 because x and flow nearly cancel at high sigma; as in the released samplers.
        estimate = x.double() - sigma * flow.double()
        x0 = estimate.to(x.dtype)
        if k == self.num_passes - 1:
            return Step(x0, x0)
        if self.kind == "euler":
            return Step((x.double() + (sigma_next - sigma) * flow.double()).to(x.dtype), x0)
        if fresh is None:
            raise ValueError(f"fresh must be a noise tensor after pass {k} of kind 'renoise', got None")
        return Step((1.0 - sigma_next) * x0 + sigma_next * fresh, x0)
