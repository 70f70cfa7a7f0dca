"""Trains the generator by teacher forcing: noisy chunks see clean ones through the window and sinks of streaming.

A clip is a row of groups of one chunk each, clean ones first. Every group attends to a few others, given by a table,
so that the attention costs what streaming costs instead of a dense mask over the whole clip.
Letters: B batch, G groups, J groups that a group may attend to, N = 48 tokens a chunk, D width, L text tokens.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from envs.shapes.model import untrained_network
from experiments.train_shapes.data import CHUNK
from experiments.train_shapes.log import log


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which stored chunk each group shows, how many groups are clean, and whom each attends to (itself last).

    extra: the group of a second sink, which a clip shows at random, or None.
    """

    shows: tuple[int, ...]
    num_clean: int
    attends: tuple[tuple[int, ...], ...]
    extra: int | None = None


# Chunk n sees the first chunk (the sink), the two before itself, and itself.
START = Layout(
    shows=(0, 1, 2, 3, 0, 1, 2, 3, 4),
    num_clean=4,
    attends=((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (4,), (0, 5), (0, 1, 6), (0, 1, 2, 7), (0, 2, 3, 8)),
)
MIDDLE = Layout(
    shows=(0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7),
    num_clean=7,
    attends=(
        *((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4), (0, 1, 3, 4, 5), (0, 1, 4, 5, 6)),
        *((0, 1, 2, 3, 7), (0, 1, 3, 4, 8), (0, 1, 4, 5, 9), (0, 1, 5, 6, 10)),
    ),
    extra=1,
)


class Context(NamedTuple):
    """What a group's self-attention needs: its rotation, its neighbours' indices and who is hidden from it."""

    cos: Tensor  # [B, G, N, 1, D / heads / 2]
    sin: Tensor
    neighbours: Tensor  # [G, J]
    bias: Tensor  # [B, G, 1, 1, J * N]


class GroupedSelfAttention:
    """Attention of every group to its neighbours; an attention processor for diffusers' blocks."""

    def __call__(self, attn: Any, hidden: Tensor, _text: None, _mask: None, context: Context) -> Tensor:
        batch, groups = context.bias.shape[:2]
        tokens, heads = hidden.shape[1], attn.heads
        split = (batch, groups, tokens, heads, -1)
        query = _rotate(attn.norm_q(attn.to_q(hidden)).view(split), context)
        key = _rotate(attn.norm_k(attn.to_k(hidden)).view(split), context)
        value = attn.to_v(hidden).view(split)
        key, value = (x[:, context.neighbours].flatten(2, 3).transpose(2, 3) for x in (key, value))
        scores = query.transpose(2, 3) @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        mixed = (scores + context.bias).softmax(-1).to(value.dtype) @ value
        return attn.to_out[0](mixed.transpose(2, 3).reshape(hidden.shape))


class SharedCrossAttention:
    """Attention of all groups of a clip to its text."""

    def __call__(self, attn: Any, hidden: Tensor, text: Tensor, _mask: None, _rotary: None) -> Tensor:
        query = attn.norm_q(attn.to_q(hidden)).view(text.shape[0], -1, attn.heads, hidden.shape[-1] // attn.heads)
        key = attn.norm_k(attn.to_k(text)).unflatten(-1, (attn.heads, -1))
        value = attn.to_v(text).unflatten(-1, (attn.heads, -1))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        return attn.to_out[0]((scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).reshape(hidden.shape))


def _rotate(x: Tensor, context: Context) -> Tensor:
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * context.cos - odd * context.sin, even * context.sin + odd * context.cos], dim=-1)
    return turned.flatten(-2).to(torch.bfloat16)


class GroupedForward(nn.Module):
    """The network applied to the groups of a batch of clips."""

    def __init__(self, network: WanTransformer3DModel) -> None:
        super().__init__()
        self.network = network
        for block in network.blocks:
            block.attn1.set_processor(GroupedSelfAttention())
            block.attn2.set_processor(SharedCrossAttention())

    def forward(self, x: Tensor, timesteps: Tensor, texts: Tensor, context: Context) -> Tensor:
        """Returns the velocity `[B, G, 3, C, h, w]` for latents of that shape at timesteps `[B, G]` in [0, 1000]."""
        network, (batch, groups, _, _, height, width) = self.network, x.shape
        hidden = network.patch_embedding(x.flatten(0, 1).transpose(1, 2)).flatten(2).transpose(1, 2)
        temb, modulation, text, _ = network.condition_embedder(timesteps.flatten(), texts, None)
        modulation = modulation.unflatten(1, (6, -1))
        for block in network.blocks:
            hidden = block(hidden, text, modulation, context)
        shift, scale = (network.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        out = network.proj_out(network.norm_out(hidden.float()) * (1 + scale) + shift)
        out = out.view(batch, groups, CHUNK, height // 2, width // 2, 2, 2, -1)
        return out.permute(0, 1, 2, 7, 3, 5, 4, 6).reshape(x.shape)


def context_of(layout: Layout, chunks: Tensor, network: WanTransformer3DModel, *, extra_share: float) -> Context:
    """Returns the attention context of clips whose groups show the given chunk numbers `[B, G]`.

    Args:
        extra_share: how often the second sink is seen.
    """
    rope, (batch, groups) = network.rope, chunks.shape
    time_width = rope.t_dim
    frames = (chunks[..., None] * CHUNK + torch.arange(CHUNK)).view(batch, groups, CHUNK, 1, 1)
    rows, columns = torch.arange(4).view(4, 1), torch.arange(4).view(1, 4)
    tables = []
    for table, parity in ((rope.freqs_cos, 0), (rope.freqs_sin, 1)):
        t, h, w = table.float().split([time_width, rope.h_dim, rope.w_dim], dim=1)
        place = (batch, groups, CHUNK, 4, 4, -1)
        axes = [t[frames].expand(place), h[rows].expand(place), w[columns].expand(place)]
        tables.append(torch.cat(axes, dim=-1)[..., parity::2].reshape(batch, groups, CHUNK * 16, 1, -1))
    most = max(map(len, layout.attends))
    neighbours = torch.tensor([[*row, *[row[-1]] * (most - len(row))] for row in layout.attends])
    hidden = torch.tensor([[False] * len(row) + [True] * (most - len(row)) for row in layout.attends])
    hidden = hidden.expand(batch, -1, -1).clone()
    if layout.extra is not None:
        unseen = torch.rand(batch) >= extra_share
        is_extra = (neighbours == layout.extra) & (torch.arange(groups)[:, None] != layout.extra)
        hidden |= unseen[:, None, None] & is_extra
    bias = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    bias = bias.repeat_interleave(CHUNK * 16, dim=-1)[:, :, None, None]
    return Context(tables[0], tables[1], neighbours, bias.to(torch.bfloat16))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the generator is trained.

    start_share: how many batches show the beginning of streams, whose first chunk is the hardest and counts
        `first_weight` times.
    shift: of the training noise levels; context_noise: highest noise on half of the clean groups.
    level_share: how many noise levels are exactly those that sampling visits; the rest are continuous.
    """

    steps: int = 4600
    batch: int = 16
    learning_rate: float = 2e-3
    warmup: int = 200
    decay_share: float = 0.3
    start_share: float = 0.5
    first_weight: float = 2.0
    shift: float = 4.0
    level_share: float = 0.5
    context_noise: float = 0.15
    seed: int = 0


def optimizers_of(network: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Returns Muon for the blocks' matrices and AdamW for the rest."""
    matrices = [p for name, p in network.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    others = [p for name, p in network.named_parameters() if p.ndim != 2 or not name.startswith("blocks.")]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def pace(step: int, recipe: Recipe) -> float:
    """Returns the learning rate's factor: a short warm-up, a plateau, a linear decay to zero."""
    left = (recipe.steps - step) / (recipe.decay_share * recipe.steps)
    return min(1.0, (step + 1) / recipe.warmup, max(left, 0.0))


def train(clips: dict[str, dict[str, Tensor]], recipe: Recipe, checkpoint: Path) -> WanTransformer3DModel:
    """Returns the trained network; goes on from the checkpoint's last save where there is one.

    Args:
        clips: for `start` and `middle`, what `encoded_clips` returns.
    """
    network = untrained_network(recipe.seed)
    nn.init.zeros_(network.proj_out.weight)
    model = GroupedForward(network)
    optimizers = optimizers_of(network, recipe.learning_rate)
    first = _resume(checkpoint, network, optimizers)
    compiled = torch.compile(model, dynamic=False)
    smooth, begun = {"start": 0.0, "first": 0.0, "middle": 0.0}, time.monotonic()
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        scheme, layout = ("start", START) if torch.rand(()) < recipe.start_share else ("middle", MIDDLE)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * pace(step, recipe)
        losses = _losses(compiled, network, layout, clips[scheme], recipe)
        weights = torch.ones_like(losses)
        weights[0] = recipe.first_weight if layout is START else 1.0
        (losses * weights / weights.sum()).sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for name, value in ((scheme, losses), *([("first", losses[0])] if layout is START else [])):
            smooth[name] += (value.mean().item() - smooth[name]) * (0.02 if smooth[name] else 1.0)
        if step % 100 == 0 or step == recipe.steps - 1:
            curve = ", ".join(f"{name} {value:.4f}" for name, value in smooth.items())
            log(f"generator step {step} of {recipe.steps}: {curve}; {time.monotonic() - begun:.0f} s")
        if (step + 1) % 500 == 0 or step == recipe.steps - 1:
            _save(checkpoint, step + 1, network, optimizers)
    return network


def _losses(
    model: Callable[..., Tensor],
    network: WanTransformer3DModel,
    layout: Layout,
    clips: dict[str, Tensor],
    recipe: Recipe,
) -> Tensor:
    """Returns the mean squared error of each noisy group's velocity, `[G_noisy]`."""
    pick = torch.randint(len(clips["latents"]), (recipe.batch,))
    shows, num_clean = torch.tensor(layout.shows), layout.num_clean
    clean = clips["latents"][pick][:, shows].float()
    texts = clips["texts"][pick].float()
    noise = torch.randn(clean.shape)
    uniform = torch.rand(recipe.batch, len(layout.shows))
    visited = torch.rand(uniform.shape) < recipe.level_share
    grid = torch.where(visited, torch.ceil(4 * uniform) / 4, uniform)
    sigma = recipe.shift * grid / (1 + (recipe.shift - 1) * grid)
    sigma[:, :num_clean] = recipe.context_noise * (2 * uniform[:, :num_clean] - 1).clamp_min(0)
    timesteps = 1000 * sigma
    timesteps[:, :num_clean] = 0.0  # context is always declared clean
    level = sigma[..., None, None, None, None]
    context = context_of(layout, clips["chunks"][pick][:, shows], network, extra_share=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        flow = model((1 - level) * clean + level * noise, timesteps, texts, context)
    error = flow.float() - (noise - clean)
    return error[:, num_clean:].square().mean((0, 2, 3, 4, 5))


def _save(path: Path, step: int, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "network": network.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _resume(path: Path, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    log(f"generator goes on from step {state['step']}")
    return int(state["step"])
