"""A candidate that comes again is not scored twice, whoever scored it, and costs what it cost."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from policies import BeamSearch, BestOfNPerChunk, Greedy, PreviewPruning
from searchkit.rewards import View
from searchkit.rewards.known import KnownScores, Scored
from searchkit.types import Scores


@dataclass(frozen=True)
class CountingScorer:
    """Scores by brightness, and counts what it scores."""

    counted: list[int] = field(default_factory=lambda: [0])

    def score(self, views: Sequence[View]) -> list[Scores]:
        self.counted[0] += len(views)
        return [Scores(float(view.newest.mean()), float(torch.cat(view.window).mean())) for view in views]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        return [score.long for score in self.score(views)]


@pytest.fixture
def make_known(make_stream, make_model, tmp_path):
    model = make_model(max_batch=1)

    def make(folder: Path = tmp_path, scored_by: str = "bright", **options):
        known = KnownScores(folder, scored_by=scored_by)
        known.refresh()
        return make_stream(model=model, scorer=CountingScorer(), known=known, horizon=4, **options)

    return make


@pytest.mark.parametrize("policy", [Greedy(), BeamSearch(), PreviewPruning(children=3, preview_passes=1)])
def test_searches_find_the_same_with_and_without(policy, make_known):
    stream = make_known()
    plain = policy(replace(stream, known=None), seed=0)
    for _ in range(2):
        output = policy(stream, seed=0)
        assert [record.scores for record in output.records] == [record.scores for record in plain.records]
        assert torch.equal(output.best.video, plain.best.video)
        assert output.cost.frames_scored == plain.cost.frames_scored


def test_search_that_comes_again_scores_nothing_and_pays_for_it(make_known):
    first = make_known()
    paid = BeamSearch()(first, seed=0).cost.seconds_score
    first.known.save()
    again = make_known()  # as another process would
    assert BeamSearch()(again, seed=0).cost.seconds_score == pytest.approx(paid)
    assert first.scorer.counted[0] > 0 == again.scorer.counted[0]


def test_searches_share_the_candidates_that_they_have_in_common(make_known):
    stream = make_known()
    Greedy()(stream, seed=0)
    counted = stream.scorer.counted[0]
    BestOfNPerChunk(num_candidates=3)(stream, seed=0)
    assert stream.scorer.counted[0] < counted + 3 * 4  # of the first chunk at least, greedy's candidate is known


@pytest.mark.parametrize(
    "other", [{"scored_by": "others"}, {"prompt": "another prompt"}, {"decoding": "cold", "long_window": 2}]
)
def test_scores_of_something_else_are_not_taken(other, make_known):
    first = make_known()
    BeamSearch()(first, seed=0)
    first.known.save()
    plain, stream = make_known(**other), make_known(**other)
    expected = BeamSearch()(replace(plain, known=None), seed=0)
    assert BeamSearch()(stream, seed=0).records[0].scores == expected.records[0].scores
    assert stream.scorer.counted[0] > 0


def test_half_written_lines_are_passed_over(make_known, tmp_path):
    first = make_known()
    BeamSearch()(first, seed=0)
    first.known.save()
    first.known.save()  # which adds nothing
    [path] = tmp_path.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + b"[1, 2\n" + lines[-1][:20])
    again = make_known()
    BeamSearch()(again, seed=0)
    assert again.scorer.counted[0] == 2


def test_lines_that_are_added_meanwhile_are_read(make_known):
    early, late = make_known(), make_known()
    BeamSearch()(late, seed=0)
    late.known.save()
    early.known.refresh()
    BeamSearch()(early, seed=0)
    assert early.scorer.counted == [0]


def test_score_that_is_none_is_not_remembered(make_known, make_stream, tmp_path):
    class Blind(CountingScorer):
        def score(self, views: Sequence[View]) -> list[Scores]:
            return [Scores(float("nan"), 0.0) for _ in views]

    stream = replace(make_known(), scorer=Blind())
    with pytest.raises(ValueError, match="the short reward returned nan"):
        Greedy()(stream, seed=0)
    stream.known.save()
    assert not list(tmp_path.iterdir())


def test_known_scores_may_go_to_another_process_and_know_half_precision(tmp_path):
    def view(value: float) -> View:
        frames = torch.full((1, 3, 2, 2), value)
        return View("a prompt", (torch.ones(1, 2).bfloat16(), torch.full((1, 2), value).bfloat16()), (frames,), frames)

    known, scored = KnownScores(tmp_path, scored_by="x"), []

    def score(views: Sequence[View]) -> list[Scored]:
        scored.append(len(views))
        return [Scored(Scores(float(view.newest[0, 0, 0, 0]), 0.0), 1.0) for view in views]

    found = known.complete([view(0.5), view(0.25)], score)
    again = pickle.loads(pickle.dumps(known))
    assert again.complete([view(0.25), view(0.5), view(0.75)], score)[:2] == found[::-1]
    assert scored == [2, 1]
