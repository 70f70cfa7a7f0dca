"""Qwen2-VL as a reward model: the network that HPSv3 and VideoReward share, their sizes and their files.

The rewards' own code gives no positions, so plain ones count every token on all three axes, and that is what the
weights were trained with; what transformers 5 computes for pictures by itself (M-RoPE) changes scores by more than 1.
Letters: B rows, L tokens, P patches, N pictures, R reward tokens, O outputs of the reward head.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from searchkit.backbones.convert import load_renamed

if TYPE_CHECKING:
    from transformers import Qwen2VLConfig, Qwen2VLModel

    from searchkit.backbones.sources import Source

# What both published sizes have in common, in the words of their config.json.
_COMMON = {
    "num_hidden_layers": 28,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "use_sliding_window": False,
    "attention_dropout": 0.0,
}
_VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_act": "quick_gelu"}
QWEN2_VL_2B: Mapping[str, Any] = {
    **_COMMON,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vision_config": {**_VISION, "hidden_size": 1536},
}
QWEN2_VL_7B: Mapping[str, Any] = {
    **_COMMON,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vision_config": {**_VISION, "hidden_size": 3584},
}


class Inputs(NamedTuple):
    """What the network reads.

    ids: token ids `[B, L]`, padded on the right; attention is causal, so that pads are never seen.
    patches: `[P, 1176]` of all rows' pictures, in order.
    grids: `[N, 3]`, the patches of each picture in time, height and width.
    """

    ids: Tensor
    patches: Tensor
    grids: Tensor


class RewardNetwork(nn.Module):
    """Qwen2-VL without its language head, and a reward head in float32.

    Args:
        rm_head: maps the final hidden state of a reward token to O outputs.
        vision_id: the token id that stands for a patch.
        reward_ids: the token ids at which the head is read; a row has each of them once.
        dtype: of all but the head.
        attention: what transformers calls `attn_implementation`.
    """

    def __init__(
        self,
        config: Qwen2VLConfig,
        rm_head: nn.Module,
        *,
        vision_id: int,
        reward_ids: tuple[int, ...],
        dtype: torch.dtype,
        attention: str = "sdpa",
    ) -> None:
        from transformers import AutoModel

        super().__init__()
        self.model: Qwen2VLModel = AutoModel.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=attention
        )
        self.rm_head = rm_head.float()
        self.vision_id, self.reward_ids = vision_id, reward_ids

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> Tensor:
        """Returns the head's outputs `[B, R, O]` at the reward tokens, in order of appearance, in float32."""
        hidden = self.read(inputs.ids, self.see(inputs))
        is_reward = torch.isin(inputs.ids, torch.tensor(self.reward_ids, device=inputs.ids.device)).to(self.device)
        assert (is_reward.sum(1) == len(self.reward_ids)).all(), "a row must have every reward token once"
        outputs: Tensor = self.rm_head(hidden[is_reward].float())
        return outputs.unflatten(0, (len(inputs.ids), -1))

    @torch.no_grad()
    def see(self, inputs: Inputs) -> Tensor:
        """Returns the vision tower's tokens `[P / 4, D]`."""
        patches, grids = inputs.patches.to(self.device), inputs.grids.to(self.device)
        seen: Tensor = self.model.visual(patches, grid_thw=grids).pooler_output
        return seen

    @torch.no_grad()
    def read(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Returns the language model's last hidden states `[B, L, D]`, after its norm, of token ids `[B, L]`.

        Args:
            seen: the vision tower's tokens.
        """
        ids = ids.to(self.device)
        language = self.model.language_model
        embedded = language.embed_tokens(ids)
        embedded = embedded.masked_scatter((ids == self.vision_id)[..., None], seen.to(embedded.dtype))
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        hidden: Tensor = language(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state
        return hidden


def make_network(
    sizes: Mapping[str, Any],
    rm_head: nn.Module,
    *,
    vision_id: int,
    reward_ids: tuple[int, ...],
    device: str | torch.device,
    dtype: torch.dtype,
    attention: str = "sdpa",
    initialise: bool = False,
) -> RewardNetwork:
    """Returns a network in evaluation mode, with undefined weights unless `initialise` asks for random ones.

    Args:
        sizes: a flat `config.json`, such as `QWEN2_VL_7B`.
    """
    from transformers import Qwen2VLConfig
    from transformers.initialization import no_init_weights

    config = Qwen2VLConfig(**copy.deepcopy(dict(sizes)))  # transformers writes into what it is given
    with torch.device(device), contextlib.nullcontext() if initialise else no_init_weights():
        network = RewardNetwork(
            config, rm_head, vision_id=vision_id, reward_ids=reward_ids, dtype=dtype, attention=attention
        )
    return network.to(device).eval().requires_grad_(False)


def load_weights(network: RewardNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Loads tensors under their published names, all of them or none.

    The language head is left out: it is in the files, but makes no score.

    Raises:
        ValueError: names the keys that are missing, unexpected or of another shape.
    """
    wanted = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    load_renamed(network, wanted, diffusers_name=transformers_name, original_name=published_name)


def transformers_name(published: str) -> str:
    """Returns the network's name of a tensor, which is transformers 5's."""
    for old, new in _PARTS.items():
        if published.startswith(old):
            return new + published.removeprefix(old)
    return published


def published_name(transformers: str) -> str:
    """Returns the published name of a tensor, which is transformers 4.45's: the inverse of `transformers_name`."""
    for old, new in _PARTS.items():
        if transformers.startswith(new):
            return old + transformers.removeprefix(new)
    return transformers


_PARTS = {"visual.": "model.visual.", "model.": "model.language_model."}


def load_sizes(base: Source) -> dict[str, Any]:
    """Returns the `config.json` of Qwen2-VL from a folder or repository.

    Raises:
        ValueError: there is none, or it is another model's.
    """
    try:
        sizes: dict[str, Any] = json.loads(base.find("config.json").read_text())
    except ValueError as error:  # of JSON too
        raise ValueError(f"base must have the config.json of Qwen2-VL, got {base.where!r}: {error}") from error
    if sizes.get("model_type") != "qwen2_vl":
        raise ValueError(f"base must be of model type qwen2_vl, but {base.where!r} is {sizes.get('model_type')!r}")
    if "hidden_size" not in sizes:
        raise ValueError(f"base must have its config.json as published, without text_config, got {base.where!r}")
    return sizes
