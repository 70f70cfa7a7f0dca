"""Rotary positions of Wan: each token is rotated by its latent frame, row and column.

Letters: N tokens, H heads, D channels of a head, P = D/2 rotated pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines of a run of tokens, float32, `[N, 1, P]` or, one a row of a batch, `[B, N, 1, P]`."""

    cos: Tensor
    sin: Tensor


class RotaryTable:
    """Wan's angles for one frame size: float64 frequencies, with the pairs split over time, height and width.

    Args:
        head_dim: D; height and width get `2 * (D // 6)` channels each, time the rest (44/42/42 of 128).
        height: rows of tokens of a latent frame.
        width: columns of tokens of a latent frame.
        num_frames: where the table ends; positions beyond were never trained.
        device: where the rotations are wanted.
    """

    def __init__(self, head_dim: int, height: int, width: int, *, num_frames: int, device: torch.device) -> None:
        space = 2 * (head_dim // 6)
        rows = _angles(space, height)[:, None].expand(height, width, space // 2)
        columns = _angles(space, width)[None, :].expand(height, width, space // 2)
        self._time = _angles(head_dim - 2 * space, num_frames).to(device)
        self._space = torch.cat([rows, columns], dim=-1).flatten(0, 1).to(device)

    @property
    def num_frames(self) -> int:
        return len(self._time)

    def at(self, start_frame: int, num_frames: int) -> Rotation:
        """Returns the `[N, 1, P]` rotation of the tokens of `num_frames` latent frames from `start_frame`.

        Raises:
            ValueError: the frames do not lie within the table.
        """
        end = start_frame + num_frames
        if start_frame < 0 or end > self.num_frames:
            raise ValueError(
                f"start_frame must be from 0 to {self.num_frames - num_frames} for {num_frames} frames, "
                f"as the rotary table ends at frame {self.num_frames}, got {start_frame}"
            )
        time = self._time[start_frame:end, None].expand(num_frames, len(self._space), self._time.shape[1])
        angles = torch.cat([time, self._space.expand(num_frames, *self._space.shape)], dim=-1)
        angles = angles.flatten(0, 1).unsqueeze(1)
        return Rotation(angles.cos().float(), angles.sin().float())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Returns `x`, `[..., N, H, D]`, with each neighbouring pair of channels rotated; computed in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotation
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


def _angles(dim: int, num_positions: int) -> Tensor:
    """Returns the float64 angles `[num_positions, dim / 2]` of one axis."""
    frequencies = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return torch.outer(torch.arange(num_positions, dtype=torch.float64), frequencies)
