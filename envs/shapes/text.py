"""The text encoder of shapes: one unit vector a word, which the network's own text projection learns to read."""

import torch
from torch import Tensor

from envs.shapes.world import WORDS, Caption

TEXT_LENGTH = 16  # tokens; the longest prompt has 13 words
TEXT_DIM = 32


def encode(prompt: str) -> Tensor:
    """Returns `[16, 32]` embeddings of a prompt's words, zero after the last one (as Wan pads its text).

    Raises:
        ValueError: the prompt is not in the shapes grammar.
    """
    words = str(Caption.parse(prompt)).split()
    ids = torch.tensor([WORDS.index(word) for word in words])
    embeddings = torch.zeros(TEXT_LENGTH, TEXT_DIM)
    embeddings[: len(words)] = torch.eye(TEXT_DIM)[ids]
    return embeddings
