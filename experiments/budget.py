"""Equal compute: the options with which a policy spends a multiple of greedy's denoising passes. No torch here."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from typing import Any

from experiments.registry import policy_name
from policies import Greedy
from searchkit.types import Policy

PASSES_A_CHUNK = 4  # of the sampler of shapes, which is not read here because it comes with torch
NUM_CHUNKS = 7  # of a video of 5 s, where nobody says how long it is


def parse_budget(text: str) -> int:
    """Returns the candidates a chunk that a budget pays for: 4 for "4x", 2 for "2.5x".

    Raises:
        ValueError: it is no multiple, or pays for no whole candidate.
    """
    multiple = re.fullmatch(r"([0-9]+)(\.[0-9]+)?x?", text)
    if multiple is None or int(multiple[1]) < 1:
        raise ValueError(f"--budget must be a multiple of greedy's passes from 1x on, such as 4x, got {text!r}")
    return int(multiple[1])


def at_budget(
    policy: Policy, num_candidates: int, *, passes_a_chunk: int = PASSES_A_CHUNK, num_chunks: int = NUM_CHUNKS
) -> Policy:
    """Returns the policy with options at which denoising a video costs at most `num_candidates` times greedy's.

    It goes by the names of options, so that policies of a user's own have a budget, too. `beam_width` and `children`
    become the two factors of the number that are nearest to each other, the larger one `children`; a policy with
    `preview_passes` keeps its `beam_width` and starts as many candidates as fit, of which it finishes half; one with
    `num_candidates`, `first_passes` and `later_passes` begins as many streams as fit into the video; `num_candidates`
    alone becomes the number. Greedy stays as it is. But for the one with `first_passes`, it holds for each chunk. Clean
    passes are not counted.

    Args:
        passes_a_chunk: the model's, for a candidate that is finished.
        num_chunks: of the video.

    Raises:
        ValueError: the policy has none of these options, or its passes are more than the budget for one candidate.
    """
    options: Any = policy
    names = {field.name for field in fields(options)}
    if isinstance(policy, Greedy):
        return policy
    if {"beam_width", "children", "preview_passes"} <= names:
        started = _num_started(num_candidates * passes_a_chunk, options.preview_passes, passes_a_chunk)
        width = min(options.beam_width, started)
        return replace(options, beam_width=width, children=started // width)
    if {"num_candidates", "first_passes", "later_passes"} <= names:
        passes = num_candidates * passes_a_chunk * num_chunks
        begun = _num_begun(passes, num_chunks, options.first_passes, options.later_passes)
        return replace(options, num_candidates=begun)
    if {"beam_width", "children"} <= names:
        width = max(n for n in range(1, math.isqrt(num_candidates) + 1) if num_candidates % n == 0)
        return replace(options, beam_width=width, children=num_candidates // width)
    if "num_candidates" in names:
        return replace(options, num_candidates=num_candidates)
    raise ValueError(
        f"policy {policy_name(policy)!r} cannot keep to --budget: it has neither num_candidates nor beam_width "
        "and children"
    )


def _num_started(passes: int, preview_passes: int, passes_a_chunk: int) -> int:
    """Returns the most candidates that can be started if the better half of them is finished."""
    started = 1
    while (started + 1) * preview_passes + (started + 2) // 2 * (passes_a_chunk - preview_passes) <= passes:
        started += 1
    return started


def _num_begun(passes: int, num_chunks: int, first_passes: int, later_passes: int) -> int:
    """Returns the most streams that can be begun if the worse half of them is given up at every chunk."""

    def spent(begun: int) -> int:
        left, later = begun, 0
        for _ in range(num_chunks - 1):
            left = (left + 1) // 2
            later += left
        return begun * first_passes + later * later_passes

    if spent(1) > passes:
        raise ValueError(
            f"--budget must pay for one stream of {first_passes} first_passes and {later_passes} later_passes, which "
            f"is {spent(1)} passes over {num_chunks} chunks, got {passes} passes"
        )
    begun = 1
    while spent(begun + 1) <= passes:
        begun += 1
    return begun
