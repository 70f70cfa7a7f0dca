"""Prompts as the Qwen2-VL rewards read them: a template and a picture's place in a chat, as token ids.

Letters: B prompts, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from searchkit.backbones.sources import Source

_BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
_BETWEEN = "<|vision_end|>"
_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Chat:
    """How a prompt is asked about.

    Attributes:
        tokenizer: Qwen2-VL's, which knows the reward tokens.
        template: what is asked, with `{text_prompt}` in it.
        vision_token: what stands for one patch of the picture, after merging.
        reward_tokens: where the reward head is read, as they appear in the template.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    vision_token: Literal["<|image_pad|>", "<|video_pad|>"]
    reward_tokens: tuple[str, ...]

    def render(self, prompt: str, *, num_vision_tokens: int = 1) -> str:
        """Returns the whole chat as text; special tokens in the prompt are left out, however they are nested.

        One of them would be a second picture or a second place to read the reward from.
        """
        special = self.tokenizer.get_added_vocab()
        while found := [token for token in special if token in prompt]:
            for token in found:
                prompt = prompt.replace(token, "")
        picture = self.vision_token * num_vision_tokens
        return _BEFORE + picture + _BETWEEN + self.template.format(text_prompt=prompt) + _AFTER

    def encode(self, prompts: Sequence[str], *, num_vision_tokens: int) -> Tensor:
        """Returns token ids `[B, L]`, padded on the right: attention is causal, so that pads are never seen."""
        texts = [self.render(prompt, num_vision_tokens=num_vision_tokens) for prompt in prompts]
        ids = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
        assert isinstance(ids, torch.Tensor)
        return ids

    @property
    def vision_id(self) -> int:
        """The token id that stands for a patch."""
        return self._id(self.vision_token)

    @property
    def reward_ids(self) -> tuple[int, ...]:
        """The token ids at which the reward head is read."""
        return tuple(self._id(token) for token in self.reward_tokens)

    def _id(self, token: str) -> int:
        token_id = self.tokenizer.get_added_vocab().get(token)
        if token_id is None:
            raise ValueError(f"tokenizer must be Qwen2-VL's, but it has no token {token}")
        return token_id


def load_tokenizer(base: Source, reward_tokens: Sequence[str]) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a folder or repository, with the reward tokens after its own.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**base.arguments())
    except (OSError, ValueError) as error:
        raise ValueError(f"base must have the tokenizer of Qwen2-VL, got {base.where!r}: {error}") from error
    return _with_rewards(tokenizer, reward_tokens)


def stand_in_tokenizer(reward_tokens: Sequence[str]) -> PreTrainedTokenizerBase:
    """Returns a tokenizer that needs no files, for random weights: it counts words, and knows no word from another."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<|endoftext|>": 0}, unk_token="<|endoftext|>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, unk_token="<|endoftext|>", pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    return _with_rewards(tokenizer, (*_SPECIAL, *reward_tokens))


def _with_rewards(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> PreTrainedTokenizerBase:
    from transformers import AddedToken

    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    return tokenizer
