"""One trial: a policy searches a stream, then its world measures what it chose.

Where an experiment asks for it, what else was tried is measured, too: beside the search, which is neither told nor
charged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.clips import Lineage, Sheet, sheet_of
from experiments.config import Experiment, Trial
from experiments.manifest import manifest
from experiments.registry import policy_label
from experiments.worlds import Clip, Measured, world_of
from policies import Greedy
from searchkit.cost import Cost, total
from searchkit.types import Action, Child, Record, SearchOutput
from searchkit.wrappers import Budgeted, Watched

if TYPE_CHECKING:  # torch is not needed to say what went wrong with an option
    from pathlib import Path

    from torch import Tensor

    from searchkit.state import StreamState
    from searchkit.stream import Stream
    from searchkit.video import Pixels

SEGMENT_FRAMES = 81  # pixel frames, 5 s
Measure = Callable[[Clip], Measured]


class Point(NamedTuple):
    """A chunk of the chosen video: its scores, and what all candidates of its level cost."""

    chunk: int
    short: float
    long: float
    fused: float
    passes: float
    seconds: float


class Segment(NamedTuple):
    """Five seconds of the chosen video: when they start, and their measures."""

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
        measures: what its world says of the whole video; nothing where nobody measures it.
        curve: the chosen video, chunk by chunk.
        segments: the chosen video in pieces of 5 s, one after the other.
        facts: what else its world tells of the whole video.
    """

    label: str
    prompt: str
    seed: int
    reward: float
    measures: Mapping[str, float]
    cost: Cost
    curve: tuple[Point, ...]
    segments: tuple[Segment, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)


class Outcome(NamedTuple):
    """What a trial leaves.

    records: what was tried.
    sights: what was seen of candidates, by their lineages; none of those that were not finished.
    chosen: the actions of the chosen video's chunks.
    pixels: its `[F, H, W, 3]`, frames that were given included, which nothing measures.
    made_with: see `experiments.manifest`.
    sheets: pictures of the candidates, level by level.
    """

    result: Result
    records: tuple[Record, ...]
    sights: Mapping[Lineage, Sight]
    chosen: Lineage
    pixels: Pixels
    made_with: Mapping[str, Any]
    sheets: tuple[Sheet, ...] = ()


def warm_up(stream: Stream) -> None:
    """Makes one chunk, so that the first trial's seconds are not those of loading kernels."""
    Greedy()(replace(stream, horizon=1), seed=0)


def run_trial(
    experiment: Experiment,
    trial: Trial,
    *,
    stream: Stream,
    on_chunk: Callable[[int], None],
    journal: Path | None = None,
    has_clips: bool = False,
) -> Outcome:
    """Searches and measures.

    Args:
        on_chunk: told the number of chunks made so far after every level.
        journal: file from which a search goes on that was stopped, and where it is written down; None for neither.
        has_clips: whether to make pictures of the candidates.

    Raises:
        ValueError: the policy or a score is at fault.
        OSError: the journal cannot be written.
    """
    import numpy as np

    from searchkit.video import to_pixels

    world = world_of(experiment)
    onlooker = Onlooker(truth_of=world.window_truth if experiment.measure_candidates else None, has_clips=has_clips)
    output = _search(experiment, trial, stream=stream, on_chunk=on_chunk, journal=journal, onlooker=onlooker)
    reward = stream.score_whole([output.best])[0].score
    if not math.isfinite(reward):
        raise ValueError(f"the reward of the whole video is {reward} for {trial.prompt!r}, seed {trial.seed}")
    pieces = [to_pixels(piece) for piece in world.decode(experiment, output.best)]
    num_given = len(output.best.given)
    whole, segments = measure_video(
        list(_clips(output.best, pieces[num_given:], fps=stream.model.fps)),
        lambda clip: world.measure(experiment, clip),
        first_frame=sum(map(len, pieces[:num_given])),
    )
    chosen = output.best.actions
    result = Result(
        label=policy_label(trial.policy),
        prompt=trial.prompt,
        seed=trial.seed,
        reward=reward,
        measures=whole.measures,
        cost=output.cost,
        curve=_curve(output.records, chosen),
        segments=segments,
        facts=whole.facts,
    )
    made_with = manifest(experiment, trial, stream.model)
    pixels = np.concatenate(pieces)
    return Outcome(result, output.records, onlooker.sights, chosen, pixels, made_with, tuple(onlooker.sheets))


def _search(
    experiment: Experiment,
    trial: Trial,
    *,
    stream: Stream,
    on_chunk: Callable[[int], None],
    journal: Path | None,
    onlooker: Onlooker,
) -> SearchOutput[StreamState]:
    """Returns what the policy finds, its best state as one of the stream's own."""
    from searchkit.journal import Journaled

    def on_level(children: Sequence[Child[StreamState]]) -> None:
        if journal is None:
            onlooker.keep(children, onlooker.look(children))
        if children:  # a policy may ask for none
            on_chunk(max(child.state.chunk for child in children))

    journaled = None if journal is None else Journaled(stream, path=journal)
    if journaled is not None:
        journaled.observe, journaled.told = onlooker.look, onlooker.keep
    budgeted = Budgeted(journaled or stream, passes=experiment.max_passes, seconds=experiment.max_seconds)
    output = trial.policy(Watched(budgeted, on_level=on_level), seed=trial.seed)
    return output if journaled is None else output._replace(best=journaled.real([output.best])[0])


@dataclass(kw_only=True)
class Onlooker:
    """Looks at every candidate of a search.

    Attributes:
        truth_of: a candidate's truth, if anybody knows it; None to leave candidates unmeasured.
        has_clips: whether to make pictures.
        sights: of the candidates seen, by their lineages.
        sheets: pictures of the candidates, level by level.
    """

    truth_of: Callable[[StreamState], float | None] | None
    has_clips: bool = False
    sights: dict[Lineage, Sight] = field(default_factory=dict)
    sheets: list[Sheet] = field(default_factory=list)

    def look(self, children: Sequence[Child[StreamState]]) -> dict[str, Tensor]:
        """Returns what is seen of a level, for a journal to keep; nan for what nobody knows."""
        import torch

        states = [child.state for child in children]
        levels = _by_chunk(states)
        seen: dict[str, Tensor] = {}
        if self.truth_of is not None:
            diversity = {chunk: _or_nan(_diversity(level)) for chunk, level in levels.items()}
            seen["truth"] = torch.tensor([_or_nan(self.truth_of(state)) for state in states], dtype=torch.float64)
            seen["diversity"] = torch.tensor([diversity[state.chunk] for state in states], dtype=torch.float64)
        for chunk, level in levels.items() if self.has_clips else ():
            if jpeg := sheet_of(level):
                seen[f"sheet.{chunk}"] = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        return seen

    def keep(self, children: Sequence[Child[StreamState]], seen: Mapping[str, Tensor]) -> None:
        """Keeps what was seen of a level."""
        states = [child.state for child in children]
        if "truth" in seen:
            for state, truth, diversity in zip(states, seen["truth"].tolist(), seen["diversity"].tolist(), strict=True):
                self.sights[state.actions] = Sight(_or_none(truth), _or_none(diversity))
        for chunk, level in _by_chunk(states).items():
            if (jpeg := seen.get(f"sheet.{chunk}")) is not None:
                self.sheets.append(Sheet(tuple(state.actions for state in level), jpeg.numpy().tobytes()))


def _by_chunk(states: Sequence[StreamState]) -> dict[int, list[StreamState]]:
    """Returns states by how many chunks they have: a tree search may make candidates of several chunks at once."""
    levels: dict[int, list[StreamState]] = {}
    for state in states:
        levels.setdefault(state.chunk, []).append(state)
    return levels


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _clips(state: StreamState, pieces: Sequence[Pixels], *, fps: int) -> Iterator[Clip]:
    """Yields a video's parts of one prompt each, one unless its prompt changes.

    Args:
        pieces: pixel frames `[F, H, W, 3]` of every chunk that was made.
    """
    import numpy as np

    starts = [prompt.start for prompt in state.prompts if prompt.start < state.chunk]
    for start, end in zip(starts, [*starts[1:], state.chunk], strict=True):
        is_start = start == 0 and not state.given
        yield Clip(state.prompt_of(start).text, np.concatenate(pieces[start:end]), fps, is_start)


def measure_video(
    clips: Sequence[Clip], measure: Measure, *, first_frame: int = 0
) -> tuple[Measured, tuple[Segment, ...]]:
    """Returns what is measured of a video, the mean over its parts by their frames, and of its pieces of 5 s.

    A part is divided from its own start; a shorter one is one piece, and so is a rest of at least half a piece. A
    shorter rest belongs to none.

    Args:
        first_frame: of the first part, within the video.
    """
    wholes = [measure(clip) for clip in clips]
    lengths = [len(clip.pixels) for clip in clips]
    segments = []
    for clip, whole, first in zip(clips, wholes, itertools.accumulate(lengths, initial=first_frame), strict=False):
        for start in range(0, max(1, len(clip.pixels) - SEGMENT_FRAMES // 2), SEGMENT_FRAMES):
            pixels = clip.pixels[start : start + SEGMENT_FRAMES]
            piece = clip._replace(pixels=pixels, is_start=clip.is_start and start == 0)
            found = whole if len(pixels) == len(clip.pixels) else measure(piece)
            segments.append(Segment((first + start) / clip.fps, found.measures))
    return Measured(*(_means(each, lengths) for each in zip(*wholes, strict=True))), tuple(segments)


def _means(parts: Sequence[Mapping[str, float]], lengths: Sequence[int]) -> dict[str, float]:
    return {name: fmean([part[name] for part in parts], lengths) for name in parts[0]}


def _diversity(states: Sequence[StreamState]) -> float | None:
    import torch

    if len(states) < 2:
        return None
    newest = torch.stack([state.frames[-1].flatten() for state in states])
    return float(torch.pdist(newest).mean()) / math.sqrt(newest.shape[1])


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
