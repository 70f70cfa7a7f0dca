"""How a published model's search fits a GPU, decided before anything is loaded: `--memory-budget 24GB`.

What makes room is taken from the cheapest on, as far as it is needed, and what turns out to be needless is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from experiments.config import Experiment
from experiments.dry_run import workload_of
from experiments.memory_phases import Phase, Sizes, sizes_of
from searchkit.placement import Placement

# From the cheapest to the dearest, each with what is said of it.
LADDER: Sequence[tuple[Mapping[str, Any], str]] = (
    ({"encodes_on_cpu": True}, "prompts are encoded on the CPU, once each"),
    ({"takes_turns": True}, "parents take turns, so that one prefix is held at a time"),
    ({"judges_wait": True}, "judges wait in CPU memory, and come to the GPU one at a time"),
    *(({"max_batch": most}, f"at most {most} candidates are in one call") for most in (8, 4, 2)),
    ({"max_batch": 1}, "candidates are in calls of their own"),
    ({"rewards_wait": True}, "rewards wait in CPU memory, and come to the GPU one at a time, once a level"),
    ({"caches_wait": True}, "the decoder's caches wait in CPU memory, but for those of the candidates being decoded"),
    ({"blocks_wait": True}, "keys and values wait in CPU memory, and are copied as prefixes are assembled"),
    ({"network_leaves": True}, "the network goes to CPU memory while rewards score"),
)


class Step(NamedTuple):
    """A rung of the ladder that was taken.

    change: of the placement. words: what it does. phase: what would not have fitted without it.
    """

    change: Mapping[str, Any]
    words: str
    phase: Phase


class Plan(NamedTuple):
    """What a search is to do with a GPU's memory.

    room: bytes of the GPU; infinite where nobody said.
    """

    room: float
    phases: Sequence[Phase]
    placement: Placement
    steps: Sequence[Step]

    @property
    def lines(self) -> Iterator[str]:
        """The plan in words."""
        is_known = math.isfinite(self.room)
        size = _gb(self.room) if is_known else "of any size (--memory-budget says which)"
        yield f"Memory of the GPU, {size}, by phases:"
        for phase in self.phases:
            parts = sorted(phase.parts, key=lambda part: -part.nbytes)
            listed = ", ".join(f"{part.name} {part.nbytes / 1e9:.2f}" for part in parts)
            left = f", {_gb(self.room - phase.nbytes)} left" if is_known else ""
            yield f"  {phase.name:12}{_gb(phase.nbytes)}{left}: {listed}"
        if not self.steps:
            yield "Everything stays on the GPU."
        for step in self.steps:
            yield f"To make room, {step.words}: else {step.phase.name} would take {_gb(step.phase.nbytes)}."


def parse_size(text: str) -> float:
    """Returns the bytes of "24GB" or "22.5GiB".

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GB|GiB)", text)
    if found is None or not float(found[1]):
        raise ValueError(f"memory_budget must be a size such as 24GB or 22.5GiB, got {text!r}")
    return float(found[1]) * (1e9 if found[2] == "GB" else 2**30)


def unbounded(experiment: Experiment) -> Plan | None:
    """Returns what an experiment takes of a GPU where everything stays there, or None where it takes nothing.

    Args:
        experiment: with prompts as texts.
    """
    workload = workload_of(experiment)
    if workload is None or experiment.published.device == "cpu":
        return None
    return Plan(math.inf, sizes_of(experiment, workload).phases(Placement()), Placement(), ())


def plan(experiment: Experiment, budget: str) -> Plan:
    """Returns how an experiment fits a GPU.

    Args:
        experiment: with prompts as texts.
        budget: the GPU's memory.

    Raises:
        ValueError: it does not fit, whatever is done; the largest part is named.
    """
    room, workload = parse_size(budget), workload_of(experiment)
    if workload is None:
        raise ValueError(f"memory_budget is for published models, got {budget} for the model {experiment.model}")
    if experiment.published.device == "cpu":
        raise ValueError(f"memory_budget is of a GPU, got {budget} for --device cpu")
    sizes = sizes_of(experiment, workload)
    steps = _needed(sizes, _climb(sizes, room), room)
    placement = _placement(steps)
    found = sizes.phases(placement)
    if over := _largest_over(found, room):
        raise ValueError(
            f"memory_budget {budget} cannot hold the {_gb(over.nbytes)} that {over.name} takes on the GPU, whatever "
            f"waits in CPU memory: the most, {_gb(over.largest.nbytes)}, is for {over.largest.name}. {_advice(sizes)}"
        )
    return Plan(room, found, placement, steps)


def _climb(sizes: Sizes, room: float) -> list[Step]:
    """Returns the rungs that help what does not fit, as far as it takes."""
    steps: list[Step] = []
    before = sizes.phases(Placement())
    for change, words in LADDER:
        over = _largest_over(before, room)
        if over is None:
            break
        after = sizes.phases(replace(_placement(steps), **change))
        lower = {phase.name: phase.nbytes for phase in after}
        helped = [phase for phase in before if room < phase.nbytes > lower[phase.name]]
        if helped:
            steps.append(Step(change, words, max(helped, key=lambda phase: phase.nbytes)))
            before = after
    return steps


def _needed(sizes: Sizes, steps: list[Step], room: float) -> list[Step]:
    """Returns the steps without those that dearer ones after them made needless, the dearest of which goes first."""
    if _largest_over(sizes.phases(_placement(steps)), room):
        return steps
    for step in steps[::-1]:
        without = [other for other in steps if other is not step]
        if not _largest_over(sizes.phases(_placement(without)), room):
            steps = without
    return steps


def _placement(steps: Sequence[Step]) -> Placement:
    changes: dict[str, Any] = {}
    for step in steps:
        changes |= step.change
    return Placement(**changes)


def _largest_over(found: Sequence[Phase], room: float) -> Phase | None:
    """Returns the phase that exceeds the room by most, or None where all fit."""
    largest = max(found, key=lambda phase: phase.nbytes)
    return largest if largest.nbytes > room else None


def _advice(sizes: Sizes) -> str:
    """Returns what else would take less, of what is not done already."""
    published, advice = sizes.experiment.published, []
    if published.decode != "tiny":
        advice.append("--decode tiny makes the decoder's caches small")
    if sizes.rewards:
        advice += ["--rewards.device cpu or cuda:1 has rewards run elsewhere", "smaller rewards take less"]
    if not published.fp8:
        advice.append("--fp8 halves the network")
    least = "fewer candidates or a smaller video take less of everything"
    return f"{', '.join(advice)}, and {least}" if advice else least.capitalize()


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB"
