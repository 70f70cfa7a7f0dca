"""Experiments by name. A preset is a function, and may derive from another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from experiments.ablations import (
    ABLATIONS,
    stream_t1_append_only,
    stream_t1_ema_only,
    stream_t1_without_memory,
    stream_t1_without_propagation,
    stream_t1_without_pruning,
)
from experiments.budget import at_budget
from experiments.config import Experiment
from experiments.registry import POLICIES, nearest
from policies import BeamSearch, BestOfN, BestOfNPerChunk, Greedy, StreamT1
from searchkit.fusion import RewardRouting

CORE_ABLATIONS = (stream_t1_without_propagation, stream_t1_without_pruning, stream_t1_without_memory)


def shapes_quick() -> Experiment:
    """Three prompts that training never showed, 5 s each: greedy, and four searches of 4 candidates a chunk."""
    return Experiment(
        prompts=(
            "a fast blue circle moving left on a sand background",
            "a slow yellow triangle moving left on a sand background",
            "a fast orange square moving right behind a pillar on a night background",
        ),
        num_chunks=7,
        seeds=(0,),
        policies=(Greedy(), BestOfN(), BestOfNPerChunk(), BeamSearch(), StreamT1()),
    )


def shapes_long() -> Experiment:
    """The quick experiment with videos of 30 s, where memory matters."""
    return replace(shapes_quick(), num_chunks=40)


def stream_t1() -> Experiment:
    """Stream-T1 as its paper says (arXiv 2605.04461), on the quick prompts."""
    return replace(shapes_quick(), policies=(StreamT1(),))


def stream_t1_released() -> Experiment:
    """Stream-T1 as its release of June 2026 does it: seeds that repeat, cold decoding, a gate on all chunks before.

    Where the paper (arXiv 2605.04461) says something else, or nothing: a beam's first child takes its parent's seed
    again, scores see what is decoded from nothing, and a chunk is worth keeping if it is better than the mean of all
    chunks before it, not of the last ones.
    """
    released = StreamT1(seeds="counted", routing=RewardRouting(window=None))
    return replace(stream_t1(), decoding="cold", policies=(released,))


def ablations() -> Experiment:
    """What each idea of Stream-T1 adds: greedy, Stream-T1 and Stream-T1 without one of them, on the quick prompts.

    Chunks leave the window in the last 2 s of these videos only: memory wants longer ones, as with --num-chunks 40.
    """
    return replace(shapes_quick(), policies=(Greedy(), StreamT1(), *(start() for start in ABLATIONS.values())))


def shapes_study() -> Experiment:
    """64 unseen prompts x 3 seeds at 5 s: greedy, and searches and ablations at 4 candidates a chunk."""
    policies = (*shapes_quick().policies, *(start() for start in CORE_ABLATIONS))
    return replace(
        shapes_quick(), prompts=(), num_prompts=64, seeds=(0, 1, 2), measure_candidates=True, policies=policies
    )


def shapes_scaling() -> Experiment:
    """24 unseen prompts x 2 seeds at 5 s: four searches at 1, 2, 4, 8 and 16 candidates a chunk."""
    # With 1 candidate three of them are greedy, which stands for these; Stream-T1 still carries noise on.
    searches = (BestOfN(), BestOfNPerChunk(), BeamSearch(), StreamT1())
    scaled = (at_budget(policy, num) for num in (2, 4, 8, 16) for policy in searches)
    policies = (Greedy(), at_budget(StreamT1(), 1), *scaled)
    return replace(shapes_study(), num_prompts=24, seeds=(0, 1), policies=policies)


def shapes_study_long() -> Experiment:
    """16 unseen prompts at 30 s, where memory matters: greedy, three searches, and Stream-T1 without its memory."""
    policies = (Greedy(), BestOfNPerChunk(), BeamSearch(), StreamT1(), stream_t1_without_memory())
    return replace(shapes_study(), num_prompts=16, seeds=(0,), num_chunks=40, policies=policies)


def shapes_return() -> Experiment:
    """16 unseen scenes that are left and come back, 4.5 s each time: does memory bring the first one back?"""
    memories = (stream_t1_without_memory(), stream_t1_ema_only(), stream_t1_append_only())
    policies = (Greedy(), BestOfNPerChunk(), StreamT1(), *memories)
    return replace(
        shapes_study(), num_prompts=16, prompts_from="returning", seeds=(0, 1), num_chunks=18, policies=policies
    )


PRESETS: Mapping[str, Callable[[], Experiment]] = {
    "shapes-quick": shapes_quick,
    "shapes-long": shapes_long,
    "stream-t1": stream_t1,
    "stream-t1-released": stream_t1_released,
    "ablations": ablations,
    "shapes-study": shapes_study,
    "shapes-scaling": shapes_scaling,
    "shapes-study-long": shapes_study_long,
    "shapes-return": shapes_return,
}


def preset(name: str) -> Experiment:
    """Returns the experiment of a name; a policy's name stands for the quick prompts with this policy alone.

    Raises:
        ValueError: there is no such preset; the nearest one is named.
    """
    if name in PRESETS:
        return PRESETS[name]()
    if name in POLICIES:
        return replace(shapes_quick(), policies=(POLICIES[name](),))
    raise ValueError(f"preset {name!r} is unknown{nearest(name, {**PRESETS, **POLICIES})}")
