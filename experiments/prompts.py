"""Prompts that training never showed, split once and for all: those that studies report, and those that tune.

Settings are chosen on tuning prompts and reported on the others, so that no figure was tuned on what it is measured on.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

from searchkit.schedule import SEPARATOR

if TYPE_CHECKING:  # numpy is not needed for help
    from envs.shapes.world import Caption

SEED = 0
NUM_TUNING = 60  # of the 180 that there are


def unseen_prompts(num: int, *, tuning: bool = False) -> tuple[str, ...]:
    """Returns so many prompts, always the same ones: the first of a longer list are those of a shorter one.

    Every list uses the values of every word about evenly.

    Args:
        tuning: of those for choosing settings, which are never reported, instead of those for reports.

    Raises:
        ValueError: there are not so many.
    """
    prompts = _split()[tuning]
    if not 1 <= num <= len(prompts):
        kind = "tuning" if tuning else "report"
        raise ValueError(f"num_prompts must be from 1 to {len(prompts)}, all {kind} prompts that there are, got {num}")
    return prompts[:num]


def returning_prompts(num: int, *, tuning: bool = False) -> tuple[str, ...]:
    """Returns prompts that leave for another scene and come back: one text, another, the first again.

    Args:
        tuning: of those for choosing settings, instead of those for reports.

    Raises:
        ValueError: there are not so many.
    """
    prompts = _split()[tuning]
    if not 1 <= num <= len(prompts) // 2:
        kind = "tuning" if tuning else "report"
        raise ValueError(f"num_prompts must be from 1 to {len(prompts) // 2}, all returning {kind} prompts, got {num}")
    pairs = zip(prompts[:num], prompts[num : 2 * num], strict=True)
    return tuple(SEPARATOR.join((first, other, first)) for first, other in pairs)


@functools.cache
def _split() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the prompts for reports and those for tuning."""
    from envs.shapes.world import all_captions, is_held_out

    captions = [caption for caption in all_captions() if is_held_out(caption)]
    random.Random(SEED).shuffle(captions)
    return _evenly(captions[NUM_TUNING:]), _evenly(captions[:NUM_TUNING])


def _evenly(captions: Sequence[Caption]) -> tuple[str, ...]:
    """Returns captions in an order in which each has the words that were used least before it.

    Shuffled alone, 14 of the first 24 would be about triangles and 4 about circles.
    """
    left, used = list(captions), Counter[tuple[int, str | bool]]()
    ordered = []
    while left:
        caption = min(left, key=lambda one: sum(used[word] for word in enumerate(astuple(one))))
        left.remove(caption)
        used.update(enumerate(astuple(caption)))
        ordered.append(str(caption))
    return tuple(ordered)
