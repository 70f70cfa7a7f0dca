"""Experiments by name. A preset is a function, and may derive from another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from experiments.config import Experiment
from experiments.registry import nearest
from policies import BeamSearch, BestOfN, BestOfNPerChunk, Greedy, StreamT1


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


PRESETS: Mapping[str, Callable[[], Experiment]] = {
    "shapes-quick": shapes_quick,
    "shapes-long": shapes_long,
}


def preset(name: str) -> Experiment:
    """Returns the experiment of a name.

    Raises:
        ValueError: there is no such preset; the nearest one is named.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown{nearest(name, PRESETS)}")
    return PRESETS[name]()
