"""One trial: a policy searches a stream of the embedded world, then the oracles measure what it chose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from experiments.config import Experiment, Trial
from experiments.registry import policy_label
from policies import Greedy
from searchkit.cost import Cost, total
from searchkit.types import Action, Record
from searchkit.wrappers import Budgeted, Watched

if TYPE_CHECKING:  # torch is not needed to say what went wrong with an option
    from envs.shapes.oracles import Measures
    from searchkit.state import StreamState
    from searchkit.stream import Stream
    from searchkit.video import Pixels

MEASURES = ("subject", "appearance", "identity", "background", "motion", "sharpness")
TRUTH = "truth"


class Point(NamedTuple):
    """A chunk of the chosen video: its scores, and what all candidates of its level cost."""

    chunk: int
    short: float
    long: float
    fused: float
    passes: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a trial gave.

    Attributes:
        label: the policy, with its options that are not at their defaults.
        reward: the search reward of the whole video.
        measures: what the oracles say, truth among them.
        curve: the chosen video, chunk by chunk.
    """

    label: str
    prompt: str
    seed: int
    reward: float
    measures: Mapping[str, float]
    cost: Cost
    curve: tuple[Point, ...]


class Outcome(NamedTuple):
    """A trial's result, what was tried, the actions of the chosen video's chunks, and its pixels `[F, H, W, 3]`."""

    result: Result
    records: tuple[Record, ...]
    chosen: tuple[Action, ...]
    pixels: Pixels


def make_stream(experiment: Experiment, prompt: str) -> Stream:
    """Returns a prompt's stream under an experiment's settings; models are loaded once."""
    from envs.shapes import model

    return model.make_stream(
        prompt,
        horizon=experiment.num_chunks,
        long_window=experiment.long_window,
        decoding=experiment.decoding,
        memory=experiment.memory,
        deterministic=experiment.deterministic,
    )


def warm_up(stream: Stream) -> None:
    """Makes one chunk, so that the first trial's seconds are not those of loading kernels."""
    Greedy()(replace(stream, horizon=1), seed=0)


def run_trial(experiment: Experiment, trial: Trial, *, stream: Stream, on_chunk: Callable[[int], None]) -> Outcome:
    """Searches and measures.

    Args:
        on_chunk: told the number of chunks made so far after every level.

    Raises:
        ValueError: the policy or a score is at fault.
    """
    from envs.shapes.oracles import measure
    from envs.shapes.world import Caption
    from searchkit.video import to_pixels

    problem: Watched[StreamState] = Watched(
        Budgeted(stream, passes=experiment.max_passes, seconds=experiment.max_seconds),
        on_level=lambda children: on_chunk(max(child.state.chunk for child in children)),
    )
    output = trial.policy(problem, seed=trial.seed)
    reward = stream.score_whole([output.best])[0].score
    if not math.isfinite(reward):
        raise ValueError(f"the reward of the whole video is {reward} for {trial.prompt!r}, seed {trial.seed}")
    pixels = to_pixels(output.best.video)
    chosen = output.best.actions
    result = Result(
        label=policy_label(trial.policy),
        prompt=trial.prompt,
        seed=trial.seed,
        reward=reward,
        measures=_named(measure(pixels, Caption.parse(trial.prompt))),
        cost=output.cost,
        curve=_curve(output.records, chosen),
    )
    return Outcome(result, output.records, chosen, pixels)


def _named(measures: Measures) -> dict[str, float]:
    named = {name: float(value) for name, value in measures._asdict().items()}
    return {**named, TRUTH: measures.truth}


def _curve(records: Sequence[Record], chosen: tuple[Action, ...]) -> tuple[Point, ...]:
    """Returns the chosen video's scores chunk by chunk, with the cost of each whole level."""
    points = []
    for chunk, level in itertools.groupby(sorted(records, key=lambda record: record.chunk), lambda r: r.chunk):
        tried = list(level)
        cost = total(record.cost for record in tried)
        for record in tried:
            if record.lineage == chosen[: chunk + 1]:
                points.append(Point(chunk, *record.scores, record.fused, cost.passes, cost.seconds))
                break
    return tuple(points)
