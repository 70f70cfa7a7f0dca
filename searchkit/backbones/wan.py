"""The causal engine: chunk-by-chunk generation with diffusers' stock `WanTransformer3DModel`.

The stock network sees a whole video at once. Here its blocks are called by a short forward of our own, one
chunk at a time, with the keys and values of earlier chunks handed in as a prefix.

Letters: B rows of a batch, T latent frames of a chunk, C channels, h and w latent height and width,
L layers, N tokens of a chunk, M tokens of a prefix or text, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from searchkit.backbones.attention import CachedCrossAttention, CausalSelfAttention, KeysValues, SelfContext
from searchkit.backbones.rotary import RotaryTable, Rotation, rotate

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from searchkit.memory import Memory

Item = TypeVar("Item")
ROTATED_AT_ONCE = 2**24  # numbers of keys


@dataclass(frozen=True, eq=False)
class LayerCache:
    """Keys and values of all layers, `[L, M, H, D]` each, constant and shared by whoever attends to them."""

    keys: Tensor
    values: Tensor

    @property
    def num_tokens(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class TextContext(LayerCache):
    """A prompt's cross-attention keys and values."""


class Prefix(LayerCache):
    """A memory's rotated keys and its values in one run; serves all siblings and all passes of a chunk."""


class CleanPass(NamedTuple):
    """One row's un-rotated keys and values, `[L, N, H, D]` each, in storage of their own: fills a block."""

    keys: Tensor
    values: Tensor


class CausalWan:
    """A causal Wan network at one latent size. Methods change nothing, so threads may share an engine.

    Takes the network over: puts it in evaluation mode, freezes its weights and installs attention processors,
    after which its own `forward` no longer works. Move, cast and load it before;
    `network.compile_repeated_blocks()` and `network.set_attention_backend(...)` may follow.

    Args:
        network: a text-to-video Wan network with temporal patches of 1.
        latent_size: height and width of the latents.

    Raises:
        ValueError: the network takes images or patches over time, or its patches do not divide the latents.
    """

    def __init__(self, network: WanTransformer3DModel, *, latent_size: tuple[int, int]) -> None:
        config = network.config
        patch_time, *patch = config.patch_size
        if patch_time != 1:
            raise ValueError(f"patch_size must be 1 in time, got {tuple(config.patch_size)}")
        if config.image_dim is not None:
            raise ValueError(f"image_dim must be None for a text-to-video network, got {config.image_dim}")
        if any(size % side for size, side in zip(latent_size, patch, strict=True)):
            raise ValueError(f"latent_size must be a multiple of the patch {tuple(patch)}, got {latent_size}")
        self.network = network.eval().requires_grad_(False)
        self.latent_size = latent_size
        self._dtype = network.patch_embedding.weight.dtype
        self._device = network.patch_embedding.weight.device
        self._patch: tuple[int, int] = (patch[0], patch[1])
        self._grid: tuple[int, int] = (latent_size[0] // patch[0], latent_size[1] // patch[1])
        self._heads = (config.num_attention_heads, config.attention_head_dim)
        self._rotary = RotaryTable(
            config.attention_head_dim, *self._grid, num_frames=config.rope_max_seq_len, device=self._device
        )
        for block in network.blocks:
            block.attn1.set_processor(CausalSelfAttention())
            block.attn2.set_processor(CachedCrossAttention())

    @property
    def tokens_per_frame(self) -> int:
        return self._grid[0] * self._grid[1]

    def encode_text(self, prompt_embeds: Tensor) -> TextContext:
        """Returns a prompt's cross-attention keys and values from the text encoder's `[M, text_dim]` output.

        Every token is attended, as Wan was trained: rows of padding must be zero.
        """
        hidden = self.network.condition_embedder.text_embedder(prompt_embeds.to(self._device, self._dtype))
        layers = [block.attn2 for block in self.network.blocks]
        keys = torch.stack([layer.norm_k(layer.to_k(hidden)) for layer in layers])
        values = torch.stack([layer.to_v(hidden) for layer in layers])
        return TextContext(keys.unflatten(2, self._heads), values.unflatten(2, self._heads))

    @property
    def num_positions(self) -> int:
        """Latent frames that the rotary table holds; positions beyond were never trained."""
        return self._rotary.num_frames

    def prefix_bytes(self, num_frames: int) -> int:
        """Returns the bytes of a prefix of so many latent frames."""
        heads, dim = self._heads
        numbers = 2 * len(self.network.blocks) * num_frames * self.tokens_per_frame * heads * dim
        return numbers * self._dtype.itemsize

    def assemble(self, memory: Memory, *, starts: Sequence[int] | None = None) -> Prefix:
        """Returns the prefix of a memory: every block rotated at its place, sinks first.

        Args:
            starts: the latent frame at which each block sits; by default where it was in the stream.

        Raises:
            ValueError: a block lies beyond the rotary table.
            RuntimeError: a block is empty.
        """
        num_tokens = [block.num_frames * self.tokens_per_frame for block in memory.blocks]
        shape = (len(self.network.blocks), sum(num_tokens), *self._heads)
        keys = torch.empty(shape, dtype=self._dtype, device=self._device)
        values = torch.empty_like(keys)
        key_parts, value_parts = keys.split(num_tokens, dim=1), values.split(num_tokens, dim=1)
        if starts is None:
            starts = [block.start_frame for block in memory.blocks]
        for block, start, key_part, value_part in zip(memory.blocks, starts, key_parts, value_parts, strict=True):
            rotation, block_keys = self._rotary.at(start, block.num_frames), block.keys
            # Some layers at a time: rotating takes six times the bytes of the keys.
            num_layers = max(1, ROTATED_AT_ONCE * len(block_keys) // block_keys.numel())
            for ours, theirs in zip(block_keys.split(num_layers), key_part.split(num_layers), strict=True):
                theirs.copy_(rotate(ours.to(self._device), rotation))
            value_part.copy_(block.values)
        return Prefix(keys, values)

    def flow(
        self,
        x: Tensor,
        timestep: float | Tensor,
        *,
        start_frame: int | Sequence[int],
        prefixes: Prefix | Sequence[Prefix],
        text: TextContext | Sequence[TextContext],
    ) -> Tensor:
        """Returns the predicted velocity, noise minus clean latents, `[B, T, C, h, w]`, where and as `x` is.

        What is given once serves all rows; a sequence gives one item a row. Rows need not share their parent,
        prompt or position, but their prefixes must have the same number of tokens.

        Args:
            x: noisy latents `[B, T, C, h, w]`.
            timestep: from 0 (clean) to 1000, or `[B]`.
            start_frame: latent frame at which the chunk sits.
            prefixes: what the chunk attends to besides itself.
            text: the prompt.

        Raises:
            ValueError: the latent size is not the engine's, a sequence has not one item a row, prefixes or
                texts differ in length, or the chunk lies beyond the rotary table.
        """
        temb = self._embed(timestep, len(x))
        hidden = self._forward(x, temb, start_frame, prefixes, text, stores=None)
        return self._unpatch(self._head(hidden, temb), num_frames=x.shape[1]).to(x)

    def clean(
        self,
        latents: Tensor,
        *,
        start_frame: int | Sequence[int],
        prefixes: Prefix | Sequence[Prefix],
        text: TextContext | Sequence[TextContext],
    ) -> list[CleanPass]:
        """Returns the keys and values of finished chunks, one pass at t = 0 for all rows.

        Arguments and errors are those of `flow`; each row's prefix is the one its chunk was denoised with.
        """
        batch, num_frames = latents.shape[:2]
        shape = (len(self.network.blocks), num_frames * self.tokens_per_frame, *self._heads)

        def allocate() -> Tensor:
            return torch.empty(shape, dtype=self._dtype, device=self._device)

        # Storage of its own for every row, so that a row's bytes go when its block goes.
        stores = [CleanPass(allocate(), allocate()) for _ in range(batch)]
        self._forward(latents, self._embed(0.0, batch), start_frame, prefixes, text, stores=stores)
        return stores

    def _forward(
        self,
        x: Tensor,
        temb: Tensor,
        start_frame: int | Sequence[int],
        prefixes: Prefix | Sequence[Prefix],
        text: TextContext | Sequence[TextContext],
        *,
        stores: Sequence[CleanPass] | None,
    ) -> Tensor:
        """Returns the last block's output, `[B, N, channels]`; blocks write keys and values into `stores`."""
        if tuple(x.shape[-2:]) != self.latent_size:
            raise ValueError(f"latent_size must be {self.latent_size} as the engine's, got {tuple(x.shape[-2:])}")
        batch, num_frames = x.shape[:2]
        rotation = self._rotation(_per_row(start_frame, batch, "start_frame"), num_frames)
        prefix_rows = _same_length(_per_row(prefixes, batch, "prefixes"), "prefixes")
        text_rows = _same_length(_per_row(text, batch, "text"), "text")
        embedder = self.network.condition_embedder
        modulation = embedder.time_proj(embedder.act_fn(temb)).unflatten(1, (6, -1))

        patches = self.network.patch_embedding(x.to(self._device, self._dtype).transpose(1, 2))
        hidden: Tensor = patches.flatten(2).transpose(1, 2).contiguous()
        for layer, block in enumerate(self.network.blocks):
            context = SelfContext(
                rotation,
                prefix=_layer(prefix_rows, layer),
                store=None if stores is None else _layer(stores, layer),
            )
            hidden = block(hidden, _layer(text_rows, layer), modulation, context)
        return hidden

    def _embed(self, timestep: float | Tensor, batch: int) -> Tensor:
        """Returns the time embedding `[B, channels]`."""
        if not isinstance(timestep, Tensor):
            timestep = torch.full((batch,), timestep)
        embedder = self.network.condition_embedder
        # diffusers may keep the time embedder in float32 beside a network in bfloat16.
        waves = embedder.timesteps_proj(timestep.to(self._device)).to(embedder.time_embedder.linear_1.weight.dtype)
        embedding: Tensor = embedder.time_embedder(waves).to(self._dtype)
        return embedding

    def _rotation(self, start_frames: Sequence[int], num_frames: int) -> Rotation:
        rotations = [self._rotary.at(start_frame, num_frames) for start_frame in start_frames]
        if len(rotations) == 1:
            return rotations[0]
        return Rotation(*(torch.stack(parts) for parts in zip(*rotations, strict=True)))

    def _head(self, hidden: Tensor, temb: Tensor) -> Tensor:
        shift, scale = (self.network.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        normed = self.network.norm_out(hidden.float()) * (1 + scale) + shift
        projected: Tensor = self.network.proj_out(normed.type_as(hidden))
        return projected

    def _unpatch(self, tokens: Tensor, *, num_frames: int) -> Tensor:
        """Returns tokens `[B, N, patch height * patch width * C]` as latents `[B, T, C, h, w]`."""
        patches = tokens.unflatten(2, (*self._patch, -1)).unflatten(1, (num_frames, *self._grid))
        latents: Tensor = patches.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return latents


def _per_row(given: Item | Sequence[Item], batch: int, name: str) -> Sequence[Item]:
    """Returns one item a row, or a single one where all rows share it, so that it is expanded, not copied."""
    if not isinstance(given, Sequence):
        return [given]
    if len(given) != batch:
        raise ValueError(f"{name} must have one item for each of {batch} rows, got {len(given)}")
    return given[:1] if all(item == given[0] for item in given) else given


def _same_length(rows: Sequence[LayerCache], name: str) -> Sequence[LayerCache]:
    lengths = {row.num_tokens for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"{name} of one batch must have the same number of tokens, got {sorted(lengths)}")
    return rows


def _layer(rows: Sequence[LayerCache] | Sequence[CleanPass], layer: int) -> KeysValues:
    return KeysValues(tuple(row.keys[layer] for row in rows), tuple(row.values[layer] for row in rows))
