"""One trial: a policy searches a stream of the embedded world, then the oracles measure what it chose.

Where an experiment asks for it they measure what else was tried, too: beside the search, which is neither told nor
charged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from experiments.config import Experiment, Trial
from experiments.registry import policy_label
from policies import Greedy
from searchkit.cost import Cost, total
from searchkit.types import Action, Child, Record
from searchkit.wrappers import Budgeted, Watched

if TYPE_CHECKING:  # torch is not needed to say what went wrong with an option
    from envs.shapes.oracles import Measures
    from envs.shapes.world import Caption
    from searchkit.state import StreamState
    from searchkit.stream import Stream
    from searchkit.video import Pixels

MEASURES = ("subject", "appearance", "identity", "background", "motion", "sharpness")
TRUTH = "truth"
SEGMENT_FRAMES = 81  # pixel frames, 5 s
TURNED = {
    "moving left": "moving right",
    "moving right": "moving left",
    "moving up": "moving down",
    "moving down": "moving up",
}


class Point(NamedTuple):
    """A chunk of the chosen video: its scores, and what all candidates of its level cost."""

    chunk: int
    short: float
    long: float
    fused: float
    passes: float
    seconds: float


class Segment(NamedTuple):
    """Five seconds of the chosen video: when they start, and what the oracles say of them."""

    start_second: float
    measures: Mapping[str, float]


class Sight(NamedTuple):
    """What the search is not told of a candidate.

    truth: of its window, which for the first chunks is its whole video; None if it was not measured.
    diversity: of its level, the mean over all pairs of candidates of the root mean square difference of the pixels
        (in [0, 1]) of their newest chunks; None for a candidate without others.
    """

    truth: float | None = None
    diversity: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a trial gave.

    Attributes:
        label: the policy, with its options that are not at their defaults.
        reward: the search reward of the whole video.
        measures: what the oracles say, truth among them.
        curve: the chosen video, chunk by chunk.
        segments: the chosen video in pieces of 5 s, one after the other.
    """

    label: str
    prompt: str
    seed: int
    reward: float
    measures: Mapping[str, float]
    cost: Cost
    curve: tuple[Point, ...]
    segments: tuple[Segment, ...] = ()


class Outcome(NamedTuple):
    """What a trial leaves.

    records: what was tried.
    sights: what the oracles saw of candidates, by their lineages; none of those that were not finished.
    chosen: the actions of the chosen video's chunks.
    pixels: its `[F, H, W, 3]`.
    """

    result: Result
    records: tuple[Record, ...]
    sights: Mapping[tuple[Action, ...], Sight]
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
    import numpy as np

    onlooker = Onlooker() if experiment.measure_candidates else None

    def on_level(children: Sequence[Child[StreamState]]) -> None:
        if onlooker is not None:
            onlooker.look(children)
        on_chunk(max(child.state.chunk for child in children))

    budgeted = Budgeted(stream, passes=experiment.max_passes, seconds=experiment.max_seconds)
    output = trial.policy(Watched(budgeted, on_level=on_level), seed=trial.seed)
    reward = stream.score_whole([output.best])[0].score
    if not math.isfinite(reward):
        raise ValueError(f"the reward of the whole video is {reward} for {trial.prompt!r}, seed {trial.seed}")
    parts = _parts(output.best)
    chosen = output.best.actions
    result = Result(
        label=policy_label(trial.policy),
        prompt=trial.prompt,
        seed=trial.seed,
        reward=reward,
        measures=_whole_measures(parts),
        cost=output.cost,
        curve=_curve(output.records, chosen),
        segments=tuple(segment for part in parts for segment in segments(part, fps=stream.model.fps)),
    )
    pixels = np.concatenate([part.pixels for part in parts])
    return Outcome(result, output.records, onlooker.sights if onlooker else {}, chosen, pixels)


@dataclass
class Onlooker:
    """Measures every candidate of a search.

    Attributes:
        sights: of the candidates seen, by their lineages.
    """

    sights: dict[tuple[Action, ...], Sight] = field(default_factory=dict)

    def look(self, children: Sequence[Child[StreamState]]) -> None:
        """Measures a level."""
        diversity = _diversity([child.state for child in children])
        for child in children:
            self.sights[child.state.actions] = Sight(_window_truth(child.state), diversity)


class Part(NamedTuple):
    """The run of a video that has one prompt: its caption, its pixels `[F, H, W, 3]`, and its first frame."""

    caption: Caption
    pixels: Pixels
    first_frame: int


def _parts(state: StreamState) -> list[Part]:
    """Returns a video's parts, one unless its prompt changes."""
    import numpy as np

    from envs.shapes.world import Caption
    from searchkit.video import to_pixels

    pieces = [to_pixels(piece) for piece in state.decode()]
    starts = [prompt.start for prompt in state.prompts if prompt.start < state.chunk]
    return [
        Part(
            Caption.parse(state.prompt_of(start).text), np.concatenate(pieces[start:end]), sum(map(len, pieces[:start]))
        )
        for start, end in zip(starts, [*starts[1:], state.chunk], strict=True)
    ]


def _whole_measures(parts: Sequence[Part]) -> dict[str, float]:
    """Returns the measures of a video: the mean over its parts, by their frames."""
    measured = [_named(_measure(part.pixels, part.caption, is_start=part.first_frame == 0)) for part in parts]
    lengths = [len(part.pixels) for part in parts]
    return {name: fmean([one[name] for one in measured], lengths) for name in measured[0]}


def segments(part: Part, *, fps: int) -> tuple[Segment, ...]:
    """Returns the measures of a part of a video in pieces of 5 s; a shorter part is one piece.

    A rest of at least half a piece is one, too; what is shorter belongs to none.
    """
    pieces = []
    for start in range(0, max(1, len(part.pixels) - SEGMENT_FRAMES // 2), SEGMENT_FRAMES):
        frame = part.first_frame + start
        measures = _measure(part.pixels[start : start + SEGMENT_FRAMES], part.caption, is_start=frame == 0)
        pieces.append(Segment(frame / fps, _named(measures)))
    return tuple(pieces)


def _measure(pixels: Pixels, caption: Caption, *, is_start: bool = True) -> Measures:
    """Returns the oracles' measures of pixels `[F, H, W, 3]` from the start of a video, or from its midst.

    The oracles take an object to head as asked at first. In the midst of a video it may have bounced, so there the
    better of both headings counts.
    """
    from envs.shapes.oracles import measure

    measures = measure(pixels, caption)
    if is_start or caption.motion not in TURNED:
        return measures
    turned = measure(pixels, replace(caption, motion=TURNED[caption.motion]))
    return measures._replace(motion=max(measures.motion, turned.motion))


def _window_truth(state: StreamState) -> float:
    import torch

    from envs.shapes.world import Caption
    from searchkit.video import to_pixels

    pixels = to_pixels(torch.cat(state.frames))
    return _measure(pixels, Caption.parse(state.prompt.text), is_start=len(state.frames) == state.chunk).truth


def _diversity(states: Sequence[StreamState]) -> float | None:
    import torch

    if len(states) < 2:
        return None
    newest = torch.stack([state.frames[-1].flatten() for state in states])
    return float(torch.pdist(newest).mean()) / math.sqrt(newest.shape[1])


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
