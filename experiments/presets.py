"""Experiments by name. A preset is a function, and may derive from another one."""

from __future__ import annotations

import math
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
from experiments.presets_wan import WAN_PRESETS
from experiments.registry import POLICIES, nearest
from policies import BeamSearch, BestOfN, BestOfNPerChunk, FrontLoading, Greedy, StreamT1
from searchkit.fusion import Calibration, Fusion, RewardRouting, Scale
from searchkit.types import Policy

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
    """24 unseen prompts x 2 seeds at 5 s: five searches at 1, 2, 4, 8 and 16 candidates a chunk."""
    # With 1 candidate three of them are greedy, which stands for these; Stream-T1 still carries noise on.
    searches = (BestOfN(), BestOfNPerChunk(), BeamSearch(), StreamT1(), FrontLoading())
    scaled = (at_budget(policy, num) for num in (2, 4, 8, 16) for policy in searches)
    policies = (Greedy(), at_budget(StreamT1(), 1), at_budget(FrontLoading(), 1), *scaled)
    return replace(shapes_study(), num_prompts=24, seeds=(0, 1), measure_candidates=False, policies=policies)


def shapes_study_long() -> Experiment:
    """16 unseen prompts at 30 s, where memory matters: greedy, four searches, and Stream-T1 without its memory."""
    policies = (Greedy(), BestOfNPerChunk(), BeamSearch(), StreamT1(), stream_t1_without_memory(), FrontLoading())
    return replace(
        shapes_study(), num_prompts=16, seeds=(0,), num_chunks=40, measure_candidates=False, policies=policies
    )


def shapes_return() -> Experiment:
    """16 unseen scenes that are left and come back, 4.5 s each time: does memory bring the first one back?"""
    memories = (stream_t1_without_memory(), stream_t1_ema_only(), stream_t1_append_only())
    policies = (Greedy(), BestOfNPerChunk(), StreamT1(), *memories)
    return replace(
        shapes_study(), num_prompts=16, prompts_from="returning", seeds=(0, 1), num_chunks=18, policies=policies
    )


def shapes_front_loading() -> Experiment:
    """Our search against Stream-T1 at its passes and at half of them, and each of its two ideas without the other."""
    half = FrontLoading(num_candidates=5, first_passes=6, later_passes=2)
    passes_alone = FrontLoading(num_candidates=1)
    halving_alone = FrontLoading(num_candidates=12, first_passes=4, later_passes=4)
    policies = (Greedy(), BestOfN(), StreamT1(), FrontLoading(), half, passes_alone, halving_alone)
    return replace(shapes_study(), measure_candidates=False, policies=policies)


def shapes_tuning() -> Experiment:
    """60 prompts that are never reported x 2 seeds: Stream-T1 and our search with one option changed at a time."""
    full, front = StreamT1(), FrontLoading()
    scales: tuple[Scale, ...] = ("z-score", "rank")
    policies: list[Policy] = [Greedy(), full, front]
    policies += [replace(full, noise_correlation=value) for value in (-0.5, 0.3, 0.8)]
    for searched in (full, front):
        policies += [replace(searched, fusion=Fusion(short_cap=cap)) for cap in (0.0, 0.2, 0.8)]
        policies += [replace(searched, fusion=Fusion(calibration=Calibration(scale=scale))) for scale in scales]
    sizes = ((4, 16, 3), (7, 10, 3), (11, 6, 3), (14, 4, 3), (10, 8, 2), (4, 8, 2), (5, 6, 2), (4, 7, 3))
    policies += [
        FrontLoading(num_candidates=num, first_passes=first, later_passes=later) for num, first, later in sizes
    ]
    return replace(
        shapes_study(),
        num_prompts=60,
        prompts_from="tuning",
        seeds=(0, 1),
        measure_candidates=False,
        policies=tuple(policies),
    )


def shapes_tuning_memory() -> Experiment:
    """16 scenes that are left and come back, never reported, x 2 seeds: Stream-T1 with one threshold changed at a time.

    The EMA rate is an option of the memory: add `--memory.ema-decay 0.9`, and so on.
    """
    short, long = (-math.inf, -0.2, 0.2), (-math.inf, 0.0, 0.1)
    policies = (
        StreamT1(),
        stream_t1_without_memory(),
        *(StreamT1(routing=RewardRouting(short_threshold=value)) for value in short),
        *(StreamT1(routing=RewardRouting(long_threshold=value)) for value in long),
        StreamT1(routing=RewardRouting(short_threshold=-math.inf, long_threshold=-math.inf)),
        stream_t1_ema_only(),
    )
    return replace(shapes_return(), prompts_from="tuning-returning", measure_candidates=False, policies=policies)


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
    "shapes-front-loading": shapes_front_loading,
    "shapes-tuning": shapes_tuning,
    "shapes-tuning-memory": shapes_tuning_memory,
    **WAN_PRESETS,
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
