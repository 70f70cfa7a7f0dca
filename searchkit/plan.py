"""What a Wan network costs before there is one: parameters, bytes of its memory, operations, seconds. No torch here.

Arithmetic on sizes alone. Operations are floating-point ones, two for a multiplication and its addition; those of
normalisations and rotations are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from searchkit.backbones.presets import LATENT_CHANNELS, PIXELS_PER_LATENT, NetworkSize

TEXT_LENGTH = 512  # tokens of a prompt, all of which are attended
PATCH = 2  # latent pixels of a token on either side

# Dense bfloat16 with float32 sums, as NVIDIA's data sheets say: half of what they say of sparse matrices.
Gpu = Literal["h200", "h100", "a100", "l40s", "4090"]
PEAK_TFLOPS: Mapping[Gpu, float] = {"h200": 989.0, "h100": 989.0, "a100": 312.0, "l40s": 362.0, "4090": 165.0}


class Pass(NamedTuple):
    """An evaluation of the network for one candidate.

    own: latent frames that go through it.
    attended: latent frames that these attend to, themselves included.
    """

    own: int
    attended: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A Wan network and the video that it makes.

    Attributes:
        height: of the video in pixels.
        width: of the video in pixels.
    """

    size: NetworkSize
    height: int = 480
    width: int = 832

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a latent frame."""
        side = PIXELS_PER_LATENT * PATCH
        return (self.height // side) * (self.width // side)

    @property
    def num_parameters(self) -> int:
        """Parameters of the network, which diffusers' of this size has, too."""
        width, inner, size = self._width, self.size.ffn_dim, self.size
        patch = PATCH**2 * LATENT_CHANNELS
        attention = 4 * _linear(width, width) + 2 * width  # with the norms of queries and keys
        block = 2 * attention + 2 * width + _linear(width, inner) + _linear(inner, width) + 6 * width
        embedders = sum(_linear(inward, width) + _linear(width, width) for inward in (size.text_dim, size.freq_dim))
        head = _linear(width, patch) + 2 * width
        return _linear(patch, width) + embedders + _linear(width, 6 * width) + size.num_layers * block + head

    @property
    def num_linear_weights(self) -> int:
        """Those parameters that are the weights of linear layers of the blocks, without biases."""
        return self.size.num_layers * (8 * self._width**2 + 2 * self._width * self.size.ffn_dim)

    def pass_bytes(self, one: Pass, *, itemsize: int) -> int:
        """Returns the bytes that a candidate's pass takes for a moment, besides its prefix.

        Most are alive in one block: the keys and values of a layer, joined, and the inner layer of its MLP.
        """
        own, attended = one.own * self.tokens_per_frame, one.attended * self.tokens_per_frame
        return (2 * attended * self._width + own * (self.size.ffn_dim + 3 * self._width)) * itemsize

    def weight_bytes(self, *, itemsize: int, fp8: bool = False) -> int:
        """Returns the bytes of the network.

        Args:
            fp8: whether the blocks' linear weights are float8; a row's scale is float32.
        """
        if not fp8:
            return self.num_parameters * itemsize
        rows = self.size.num_layers * (9 * self._width + self.size.ffn_dim)
        return (self.num_parameters - self.num_linear_weights) * itemsize + self.num_linear_weights + 4 * rows

    def tflop(self, one: Pass) -> float:
        """Returns the operations of a pass, in 10**12."""
        own, attended = one.own * self.tokens_per_frame, one.attended * self.tokens_per_frame
        # Queries, keys, values and outputs of self-attention; of cross-attention, keys and values are the prompt's.
        weights = 6 * self._width**2 + 2 * self._width * self.size.ffn_dim
        attention = 2 * (attended + TEXT_LENGTH) * self._width
        return 2 * self.size.num_layers * own * (weights + attention) / 1e12

    def key_value_bytes(self, num_frames: int, *, itemsize: int) -> int:
        """Returns the bytes of the keys and values of so many latent frames."""
        return 2 * self.size.num_layers * num_frames * self.tokens_per_frame * self._width * itemsize

    def text_bytes(self, *, itemsize: int) -> int:
        """Returns the bytes of a prompt's keys and values, to which all passes attend."""
        return 2 * self.size.num_layers * TEXT_LENGTH * self._width * itemsize

    @property
    def _width(self) -> int:
        """Channels of a token."""
        return self.size.num_heads * self.size.head_dim


def seconds(tflop: float, *, gpu: Gpu, utilisation: float) -> float:
    """Returns how long a GPU takes for so many 10**12 operations in bfloat16 or float16.

    Args:
        utilisation: the share of its peak that it reaches, above 0 and up to 1.
    """
    return tflop / (PEAK_TFLOPS[gpu] * utilisation)


def _linear(inward: int, outward: int) -> int:
    return inward * outward + outward
