"""Ways for attention to join a shared prefix with a chunk's own keys, of which the engine uses the fastest.

Candidates of one parent share its prefix; every pass and layer attends to prefix and own keys together.

- expanded: concatenates the prefix, expanded over the candidates, with their own keys (what the engine does).
- folded: attends to the prefix once, with all candidates' queries in a row, and to the own keys apart; the two
  results merge by their log-sum-exp. Copies nothing.
- buffer: keys and values of prefix and chunk lie in one buffer, of which a pass writes the chunk's part only. It takes
  a copy of the prefix a candidate and layer, for as long as the chunk is denoised. Timed with one buffer for all
  layers, and without filling it: less than it would really take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from experiments.benchmark.timing import interleaved
from searchkit.backbones.attention import CausalSelfAttention, SelfContext, _rows
from searchkit.backbones.rotary import rotate
from searchkit.stream import Draft, Stream


@torch.no_grad()
def measure(stream: Stream, drafts: list[Draft], repeats: int) -> dict[str, float]:
    """Returns the seconds that denoising a level takes by each way, and the folded way's largest difference.

    "join" is how long the concatenations of a whole chunk take alone, "assembly" the prefixes. Candidates of several
    parents are joined in the engine's way only.
    """
    memories = {draft.prefix: draft.memory for draft in drafts if draft.prefix}
    prefix = next(iter(memories))
    own = stream.model.memory.chunk_frames * stream.model.engine.tokens_per_frame
    buffers = [torch.zeros(len(drafts), prefix.num_tokens + own, *prefix.keys.shape[2:]) for _ in range(2)]
    ways: dict[str, CausalSelfAttention] = {"expanded": CausalSelfAttention()}
    if len(memories) == 1:
        ways |= {"folded": _Folded(), "buffer": _Buffered(buffers)}

    def denoise(way: CausalSelfAttention) -> Callable[[], list[Draft]]:
        def run() -> list[Draft]:
            with _processor(stream, way):
                return stream.advance(drafts)

        return run

    tasks: dict[str, Callable[[], object]] = {name: denoise(way) for name, way in ways.items()}
    tasks["join"] = _join(stream, drafts, own)
    tasks["assembly"] = lambda: [stream.model.assemble(memory) for memory in memories.values()]
    seconds = interleaved(tasks, repeats)
    if len(memories) > 1:
        return seconds
    reference, folded = denoise(ways["expanded"])(), denoise(ways["folded"])()
    difference = max(float((a.x - b.x).abs().max()) for a, b in zip(reference, folded, strict=True))
    return {**seconds, "folded, largest difference": difference}


def _join(stream: Stream, drafts: list[Draft], num_own: int) -> Callable[[], None]:
    """Returns the concatenations of all layers and passes of a chunk, alone."""
    prefixes = list(dict.fromkeys(draft.prefix for draft in drafts if draft.prefix))
    chunk = torch.zeros(len(drafts), num_own, *prefixes[0].keys.shape[2:])
    layers = range(len(prefixes[0].keys))
    kinds = [[prefix.keys for prefix in prefixes], [prefix.values for prefix in prefixes]]
    joined = [tuple(tensor[layer] for tensor in kind) for layer in layers for kind in kinds]

    def run() -> None:
        for _ in range(stream.model.sampler.num_passes):
            for rows in joined:
                torch.cat([_rows(rows, len(drafts)), chunk], dim=1)

    return run


@contextmanager
def _processor(stream: Stream, way: CausalSelfAttention) -> Iterator[None]:
    layers = [block.attn1 for block in stream.model.engine.network.blocks]
    before = [layer.processor for layer in layers]
    for layer in layers:
        layer.processor = way
    try:
        yield
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.processor = processor


class _Folded(CausalSelfAttention):
    def __call__(
        self, attention: Any, hidden: Tensor, encoder_hidden_states: None, attention_mask: None, context: SelfContext
    ) -> Tensor:
        query, key, value = _projected(attention, hidden, context)
        batch, tokens = query.shape[:2]
        folded = query.flatten(0, 1)[None]
        over_prefix, prefix_weight = _attend(folded, context.prefix.keys[0][None], context.prefix.values[0][None])
        over_own, own_weight = _attend(query, key, value)
        share = torch.sigmoid(own_weight - prefix_weight.unflatten(1, (batch, tokens))[0])
        merged = torch.lerp(over_prefix.unflatten(1, (batch, tokens))[0], over_own, share.unsqueeze(-1))
        linear, _ = attention.to_out
        output: Tensor = linear(merged.flatten(2))
        return output


class _Buffered(CausalSelfAttention):
    def __init__(self, buffers: list[Tensor]) -> None:
        self.buffers = buffers

    def __call__(
        self, attention: Any, hidden: Tensor, encoder_hidden_states: None, attention_mask: None, context: SelfContext
    ) -> Tensor:
        query, *own = _projected(attention, hidden, context)
        for buffer, part in zip(self.buffers, own, strict=True):
            buffer[:, -part.shape[1] :] = part
        keys, values = self.buffers
        output, _ = _attend(query, keys, values)
        linear, _ = attention.to_out
        projected: Tensor = linear(output.flatten(2))
        return projected


def _projected(attention: Any, hidden: Tensor, context: SelfContext) -> tuple[Tensor, Tensor, Tensor]:
    """Returns rotated queries, rotated keys and values, `[B, N, H, D]`."""
    heads = (attention.heads, -1)
    query = attention.norm_q(attention.to_q(hidden)).unflatten(2, heads)
    key = attention.norm_k(attention.to_k(hidden)).unflatten(2, heads)
    value = attention.to_v(hidden).unflatten(2, heads)
    return rotate(query, context.rotation), rotate(key, context.rotation), value


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Returns attention `[B, N, H, D]` and its log-sum-exp `[B, N, H]`, by torch's CPU flash kernel."""
    output, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return output.transpose(1, 2), weight.reshape(len(query), query.shape[2], query.shape[1]).transpose(1, 2)
