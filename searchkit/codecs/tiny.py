"""Wan's latents decoded by a tiny network, TAEHV's `taew2_1` (https://github.com/madebyollin/taehv).

Card: MIT, (c) 2025 Ollin Boer Bohan, as the repository's LICENSE says, which huggingface.co/OzzyGT/taew2_1 keeps beside
its mirror of the weights; 22.6 MB in float16, of which this decoder is 19.7 MB.

It gives as many frames as Wan's VAE, a little softer, for a twenty-fifth of its operations (0.54 TFLOP a latent frame
at 832x480): good for scoring candidates.
Letters: B streams, T latent frames, n frames at some layer for one latent frame, C channels, h and w latent size,
F = 4T pixel frames (4T - 3 from a video's start), H = 8h and W = 8w their size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from searchkit.backbones.convert import load_renamed
from searchkit.checkpoint import find_file, read_tensors

# What each layer with a memory saw last, `[1, C, H, W]` at its own sizes.
Cache = tuple[Tensor, ...]

LATENT_CHANNELS = 16
UPSCALING = 4  # pixel frames of a latent frame
_FILES = ("taew2_1.pth", "taew2_1.safetensors")
_LEVELS = ((256, 128, 1), (128, 64, 2), (64, 64, 2))  # channels in and out, frames that one becomes


class Clamp(nn.Module):
    """Squeezes latents to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """A residual block that also sees the frame before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        inner = [_convolution(channels, channels) for _ in range(2)]
        self.conv = nn.Sequential(_convolution(2 * channels, channels), nn.ReLU(), inner[0], nn.ReLU(), inner[1])

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """Returns frames of `x` `[N, C, H, W]`, each with the one before in `past`."""
        return (self.conv(torch.cat([x, past], dim=1)) + x).relu()


class Grow(nn.Module):
    """Makes a frame `stride` frames, one after the other."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grown: Tensor = self.conv(x)
        return grown.reshape(-1, *x.shape[1:])


def make_layers() -> nn.Sequential:
    """Returns the decoder's layers, with random weights under their published names (less `decoder.`)."""
    layers = [Clamp(), _convolution(LATENT_CHANNELS, _LEVELS[0][0]), nn.ReLU()]
    for inward, outward, stride in _LEVELS:
        layers += [MemoryBlock(inward) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), Grow(inward, stride), _convolution(inward, outward, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), _convolution(_LEVELS[-1][1], 3))


class TinyDecoder:
    """Decodes streams of Wan's latents as its network makes them. Methods change nothing, so threads may share one.

    Takes the layers over: puts them in evaluation mode and freezes their weights. Move, cast and load them before.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        self.layers = layers.eval().requires_grad_(False)
        self._weight = next(layers.parameters())

    def cache_bytes(self, height: int, width: int) -> int:
        """Returns the bytes of one stream's cache, for latents of `height` x `width`."""
        per_level = (3 * inward * 4**level for level, (inward, _, _) in enumerate(_LEVELS))
        return sum(per_level) * height * width * self._weight.element_size()

    def decode(self, latents: Tensor, caches: Sequence[Cache | None]) -> tuple[Tensor, list[Cache]]:
        """Returns the next pixel frames `[B, F, 3, H, W]` in [0, 1] of B streams, and their new caches.

        Frames are float32 on the layers' device. Caches are there in the layers' dtype, each in storage of its own.

        Args:
            latents: `[B, T, C, h, w]` of any dtype on any device, normalised: the network's own.
            caches: what the last call returned for each stream, or None at the start of its video. The streams
                of one call are all at their start, or none is. A cache is never changed.

        Raises:
            ValueError: streams at their start are mixed with others, or latents are no Wan2.1 latents.
        """
        if latents.ndim != 5 or latents.shape[2] != LATENT_CHANNELS:
            raise ValueError(f"latents must be [B, T, {LATENT_CHANNELS}, h, w], got {list(latents.shape)}")
        earlier = [cache for cache in caches if cache is not None]
        if earlier and len(earlier) < len(caches):
            raise ValueError("streams at their start decode to fewer frames: decode them in a call of their own")
        memories: list[Tensor | None] = [torch.cat(rows) for rows in zip(*earlier, strict=True)]
        memories = memories or [None] * self._num_memories
        pieces = []
        # One latent frame at a time: kernels of other batch sizes round otherwise, and pieces would not join exactly.
        for frame in latents.to(self._weight).unbind(1):
            piece, seen = self._decode_one(frame, memories)
            memories = [*seen]
            pieces.append(piece)
        frames = torch.cat(pieces, dim=1).float().clamp(0, 1)
        # Copies, as views would keep the bytes of pruned streams.
        rows = ([row.clone() for row in memory.split(1)] for memory in memories if memory is not None)
        # The network was trained to give its first frame last of four.
        return frames[:, 0 if earlier else UPSCALING - 1 :], list(zip(*rows, strict=True))

    @property
    def _num_memories(self) -> int:
        return sum(isinstance(layer, MemoryBlock) for layer in self.layers)

    def _decode_one(self, frame: Tensor, memories: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
        """Returns the four pixel frames `[B, 4, 3, H, W]` of latents `[B, C, h, w]`, and what memories hold then."""
        num, x = len(frame), frame
        left, seen = list(memories), []
        for layer in self.layers:
            if isinstance(layer, MemoryBlock):
                by_stream = x.unflatten(0, (num, -1))
                memory = left.pop(0)
                first = torch.zeros_like(by_stream[:, 0]) if memory is None else memory
                past = torch.cat([first[:, None], by_stream[:, :-1]], dim=1)
                seen.append(by_stream[:, -1])
                x = layer(x, past.flatten(0, 1))
            else:
                x = layer(x)
        return x.unflatten(0, (num, -1)), seen


def load(
    weights: str,
    *,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TinyDecoder:
    """Returns the decoder with published weights.

    Args:
        weights: the file `taew2_1.pth` or its safetensors, or a folder or hub id with one of them.
        revision: of a hub id.

    Raises:
        ValueError: there is no such file, or its tensors are others; they are named.
    """
    tensors = read_tensors(find_file(weights, *_FILES, revision=revision))
    # The file holds an encoder, too, which nothing here needs.
    decoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.")}
    layers = make_layers()
    load_renamed(
        layers,
        decoder,
        diffusers_name=lambda name: name.removeprefix("decoder.") if name.startswith("decoder.") else f"not {name}",
        original_name=lambda name: f"decoder.{name}",
    )
    return TinyDecoder(layers.to(device=device, dtype=dtype))


def _convolution(inward: int, outward: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, 3, padding=1, bias=bias)
