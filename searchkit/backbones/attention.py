"""Attention processors that take what they need as arguments: rotation, prefix and text keys and values.

diffusers' blocks hand `rotary_emb` untouched to self-attention and `encoder_hidden_states` to
cross-attention. Both carry the values defined here, so no call changes the network and calls may overlap.

Letters: B rows of a batch, N tokens of the chunk, M tokens of a prefix or text, H heads, D channels of a
head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor

from searchkit.backbones.rotary import Rotation, rotate

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_wan import WanAttention


class KeysValues(NamedTuple):
    """One layer's keys and values, `[M, H, D]` each: one tensor a row of the batch, or one for all rows.

    Rows stay apart until their layer needs them: stacking all layers at once would copy the whole memory.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class SelfContext(NamedTuple):
    """What one layer's self-attention needs of a call.

    rotation: where the chunk's tokens are.
    prefix: rotated keys and values of the memory.
    store: tensors `[N, H, D]`, one a row, that receive the chunk's un-rotated keys and its values; or None.
    """

    rotation: Rotation
    prefix: KeysValues
    store: KeysValues | None


class CausalSelfAttention:
    """Dense attention of a chunk's tokens over the prefix and the chunk itself."""

    _attention_backend: AttentionBackendName | None = None  # set by diffusers' `set_attention_backend`

    def __call__(
        self,
        attention: WanAttention,
        hidden: Tensor,
        encoder_hidden_states: None,
        attention_mask: None,
        context: SelfContext,
    ) -> Tensor:
        heads = (attention.heads, -1)
        query = attention.norm_q(attention.to_q(hidden)).unflatten(2, heads)
        key = attention.norm_k(attention.to_k(hidden)).unflatten(2, heads)
        value = attention.to_v(hidden).unflatten(2, heads)
        if context.store is not None:
            _write(context.store.keys, key)
            _write(context.store.values, value)
        batch = len(hidden)
        output = dispatch_attention_fn(
            rotate(query, context.rotation),
            torch.cat([_rows(context.prefix.keys, batch), rotate(key, context.rotation)], dim=1),
            torch.cat([_rows(context.prefix.values, batch), value], dim=1),
            backend=self._attention_backend,
        )
        return _project(attention, output)


class CachedCrossAttention:
    """Attention of a chunk's tokens over a prompt's keys and values, which were computed once."""

    _attention_backend: AttentionBackendName | None = None  # set by diffusers' `set_attention_backend`

    def __call__(
        self,
        attention: WanAttention,
        hidden: Tensor,
        text: KeysValues,
        attention_mask: None,
        rotary_emb: None,
    ) -> Tensor:
        query = attention.norm_q(attention.to_q(hidden)).unflatten(2, (attention.heads, -1))
        batch = len(hidden)
        output = dispatch_attention_fn(
            query, _rows(text.keys, batch), _rows(text.values, batch), backend=self._attention_backend
        )
        return _project(attention, output)


def _rows(tensors: tuple[Tensor, ...], batch: int) -> Tensor:
    """Returns `[B, M, H, D]`; a single tensor is expanded, not copied."""
    if len(tensors) == 1:
        return tensors[0].expand(batch, -1, -1, -1)
    return torch.stack(tensors)


def _write(rows: tuple[Tensor, ...], batch: Tensor) -> None:
    for row, source in zip(rows, batch.unbind(), strict=True):
        row.copy_(source)


def _project(attention: WanAttention, output: Tensor) -> Tensor:
    linear, dropout = attention.to_out
    projected: Tensor = dropout(linear(output.flatten(2)))
    return projected
