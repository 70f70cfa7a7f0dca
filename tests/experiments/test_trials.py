"""A trial's curve and pieces are the chosen video's own, and nothing that measures a candidate changes a search."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from envs.shapes.world import Caption, Scene, render
from experiments.config import Experiment, Trial, with_prompts
from experiments.presets import shapes_quick
from experiments.prompts import unseen_prompts
from experiments.trials import Outcome, Segment, measure_video, run_trial
from experiments.worlds import TRUTH, Clip, Measured
from experiments.worlds.shapes import MEASURES, make_stream, measure
from policies import BeamSearch, Greedy, PreviewPruning
from searchkit.cost import total
from searchkit.fusion import Fusion
from searchkit.pruning import keep_best
from searchkit.search import search
from searchkit.types import Action, Policy, Record, Request, Route, S, SearchOutput, SearchProblem
from searchkit.video import Pixels

PROMPT = "a fast red circle moving left on a sand background"


@dataclass(frozen=True, kw_only=True)
class EveryRoute:
    """Tries one seed a chunk, under all three routes."""

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        def propose(state: S, rank: int) -> Sequence[Action]:
            (action,) = problem.actions(state, num=1, seed=seed)
            return [action._replace(route=route) for route in Route]

        return search(problem, propose=propose, select=keep_best(1, Fusion()))


def test_candidates_of_one_seed_are_told_apart_by_their_routes():
    experiment = replace(shapes_quick(), num_chunks=6)
    trial = Trial(EveryRoute(), experiment.prompts[0], 0)
    outcome = run_trial(experiment, trial, stream=make_stream(experiment, trial.prompt), on_chunk=lambda chunk: None)
    on_path = [record for record in outcome.records if record.lineage == outcome.chosen[: len(record.lineage)]]
    assert [record.chunk for record in on_path] == list(range(6))
    # The window still holds the whole video, so its last long score is the whole one's.
    assert outcome.result.curve[-1].long == pytest.approx(outcome.result.reward)


def _run(policy: Policy, **settings) -> Outcome:
    """Returns what a policy makes of a prompt, with every candidate measured if not said otherwise."""
    experiment = Experiment(prompts=(PROMPT,), policies=(policy,), **{"measure_candidates": True, **settings})
    (trial,) = experiment.trials
    return run_trial(
        experiment, trial, stream=make_stream(experiment, PROMPT), on_chunk=lambda chunk: None, has_clips=True
    )


def test_measuring_candidates_changes_nothing_and_costs_nothing(small_world):
    measured, plain = (_run(BeamSearch(), num_chunks=3, measure_candidates=flag) for flag in (True, False))
    assert [one.lineage for one in measured.records] == [one.lineage for one in plain.records]
    assert (measured.pixels == plain.pixels).all() and measured.result.measures == plain.result.measures
    assert measured.result.cost.passes == plain.result.cost.passes
    assert measured.result.cost.frames_scored == plain.result.cost.frames_scored
    assert len(measured.sights) == 12 and not plain.sights


def test_measuring_takes_no_seconds_of_a_search(small_world, monkeypatch):
    """Measuring that takes a minute, by a clock that only measuring moves on, leaves all seconds where they are."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("envs.shapes.oracles.measure", _slowed(now))
    outcome = _run(BeamSearch(), num_chunks=3, max_seconds=1.0)
    assert now[0] >= 12 * 60.0
    assert outcome.result.cost.seconds == 0.0 and len(outcome.result.curve) == 3


def _slowed(now: list[float]):
    from envs.shapes.oracles import measure

    def slow(*args):
        now[0] += 60.0
        return measure(*args)

    return slow


def test_truth_of_the_chosen_videos_last_candidate_is_the_videos(small_world):
    outcome = _run(BeamSearch(), num_chunks=7)
    assert outcome.sights[outcome.chosen].truth == pytest.approx(outcome.result.measures[TRUTH], abs=0.01)
    assert all(outcome.sights[record.lineage].truth is not None for record in outcome.records)


def test_diversity_is_the_levels_and_none_of_a_candidate_alone(small_world):
    outcome = _run(BeamSearch(), num_chunks=2)
    for chunk in range(2):
        (diversity,) = {sight.diversity for lineage, sight in outcome.sights.items() if len(lineage) == chunk + 1}
        assert 0.0 < diversity < 1.0
    assert all(sight.diversity is None for sight in _run(Greedy(), num_chunks=2).sights.values())


@dataclass(frozen=True, kw_only=True)
class Widens:
    """A tree search that tries one more first chunk beside every further step, and asks once for nothing."""

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        first, second = problem.actions(problem.root, num=2, seed=seed)
        [parent] = problem.expand([Request(problem.root, first)])
        (action,) = problem.actions(parent.state, num=1, seed=seed)
        both = problem.expand([Request(parent.state, action), Request(problem.root, second)])
        made = [parent, *both, *problem.expand([])]
        records = tuple(
            Record(one.state.chunk - 1, one.state.actions, one.state.actions[-1], one.scores, 0.0, True, one.cost)
            for one in made
        )
        return SearchOutput(both[0].state, records, total(record.cost for record in records))


def test_candidates_of_several_chunks_may_be_made_at_once(small_world):
    outcome = _run(Widens(), num_chunks=2)
    assert [len(lineage) for lineage in outcome.sights] == [1, 2, 1]
    assert all(sight.truth is not None and sight.diversity is None for sight in outcome.sights.values())
    assert [[len(lineage) for lineage in sheet.lineages] for sheet in outcome.sheets] == [[1], [2], [1]]


def test_candidates_given_up_have_no_sight(small_world):
    outcome = _run(PreviewPruning(children=4), num_chunks=2)
    finished = {record.lineage for record in outcome.records if record.pruned_after is None}
    assert outcome.sights.keys() == finished and len(finished) < len(outcome.records)


def test_short_video_is_one_segment_with_the_measures_of_all_of_it(small_world):
    result = _run(Greedy(), num_chunks=2, measure_candidates=False).result
    (segment,) = result.segments
    assert segment.start_second == 0.0 and segment.measures == pytest.approx(result.measures)  # a fit by BLAS


def _segments(video: Pixels, prompt: str) -> tuple[Segment, ...]:
    return measure_video([Clip(prompt, video, 16, is_start=True)], lambda clip: measure(shapes_quick(), clip))[1]


@pytest.mark.parametrize(
    ("num_frames", "starts"), [(9, [0]), (81, [0]), (121, [0]), (122, [0, 81]), (477, range(0, 477, 81))]
)
def test_segments_are_5_s_each_and_a_rest_of_half_as_much_is_one(num_frames, starts):
    video = np.zeros((num_frames, 64, 64, 3), np.uint8)
    found = _segments(video, PROMPT)
    assert [segment.start_second for segment in found] == [start / 16 for start in starts]
    assert all({TRUTH, *MEASURES} <= segment.measures.keys() for segment in found)


@pytest.mark.parametrize("prompt", unseen_prompts(5))  # one of every motion
def test_segments_of_a_right_video_are_right_whichever_way_it_heads_by_then(prompt):
    video = (
        (render(Scene.sample(Caption.parse(prompt), np.random.default_rng(0)), range(477)) * 255)
        .round()
        .astype(np.uint8)
    )
    for segment in _segments(video, prompt):
        assert all(segment.measures[name] > 0.9 for name in MEASURES) and segment.measures["motion"] > 0.98


def test_video_whose_prompt_changes_is_measured_part_by_part(small_world):
    other = "a slow green triangle moving right on a night background"
    experiment = replace(shapes_quick(), prompts=(f"{PROMPT}, then {other}",), num_chunks=6, measure_candidates=True)
    [prompt] = with_prompts(experiment).prompts
    assert prompt == f"{PROMPT}, then @3 {other}"
    trial = Trial(policy=BeamSearch(), prompt=prompt, seed=0)
    stream = make_stream(experiment, prompt)
    outcome = run_trial(experiment, trial, stream=stream, on_chunk=lambda _: None)
    first, second = outcome.result.segments
    assert (first.start_second, second.start_second) == (0.0, 33 / 16)  # 9 + 12 + 12 pixel frames
    for name in (TRUTH, *MEASURES):
        expected = (33 * first.measures[name] + 36 * second.measures[name]) / 69
        assert outcome.result.measures[name] == pytest.approx(expected)
    assert len(outcome.pixels) == 69 and len(outcome.sights) == len(outcome.records)


def test_video_that_nobody_measures_has_pieces_without_measures():
    clips = [Clip("one", np.zeros((33, 4, 4, 3), np.uint8), 16, is_start=True)]
    clips.append(Clip("two", np.zeros((130, 4, 4, 3), np.uint8), 16, is_start=False))
    whole, segments = measure_video(clips, lambda clip: Measured({}, {}))
    assert whole == Measured({}, {})
    assert segments == (Segment(0.0, {}), Segment(33 / 16, {}), Segment(114 / 16, {}))


def test_short_part_is_measured_once():
    seen: list[tuple[str, int, bool]] = []

    def measure(clip: Clip) -> Measured:
        seen.append((clip.prompt, len(clip.pixels), clip.is_start))
        return Measured({"length": float(len(clip.pixels))}, {"is_start": float(clip.is_start)})

    clips = [Clip("one", np.zeros((81, 4, 4, 3), np.uint8), 16, is_start=True)]
    clips.append(Clip("two", np.zeros((162, 4, 4, 3), np.uint8), 16, is_start=False))
    whole, segments = measure_video(clips, measure)
    assert seen == [("one", 81, True), ("two", 162, False), ("two", 81, False), ("two", 81, False)]
    assert whole == ({"length": (81 * 81 + 162 * 162) / 243}, {"is_start": 81 / 243})
    assert [segment.measures["length"] for segment in segments] == [81.0, 81.0, 81.0]
