"""The embedded default: a small complete world of moving shapes, with its models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.stream import StreamEnv
    from envs.vector import StreamVectorEnv


def make_env(*, prompts: Sequence[str] | None = None, max_batch: int = 16, **options: Any) -> StreamEnv:
    """Returns the environment of shapes.

    Args:
        prompts: to draw from; None takes `default_prompts`.
        max_batch: most candidates in one call of the models; 1 makes results independent of the grouping.
        options: see `envs.stream.StreamEnv`.

    Raises:
        ValueError: the weights are missing or damaged, or an option is out of range.
    """
    from envs.shapes.model import load_model, load_scorer
    from envs.stream import StreamEnv

    model, scorer = load_model(max_batch=max_batch), load_scorer(max_batch=max_batch)
    return StreamEnv(model, scorer, prompts or default_prompts(), **options)


def make_vector_env(
    *, num_envs: int = 1, prompts: Sequence[str] | None = None, max_batch: int = 16, **options: Any
) -> StreamVectorEnv:
    """Returns environments of shapes that step in one batch; arguments and errors are those of `make_env`."""
    from envs.shapes.model import load_model, load_scorer
    from envs.vector import StreamVectorEnv

    return StreamVectorEnv(
        load_model(max_batch=max_batch),
        load_scorer(max_batch=max_batch),
        prompts or default_prompts(),
        num_envs=num_envs,
        **options,
    )


def default_prompts(num: int = 8) -> list[str]:
    """Returns some prompts that training never shows, drawn over the whole grammar; always the same ones."""
    from envs.shapes.world import all_captions, is_held_out

    held_out = [str(caption) for caption in all_captions() if is_held_out(caption)]
    return random.Random(0).sample(held_out, num)
