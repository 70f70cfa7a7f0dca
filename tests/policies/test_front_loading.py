"""Halving streams whose first chunk gets most of the passes, on a stream of the tiny model."""

from collections.abc import Callable

import pytest

from policies import FrontLoading, Greedy
from searchkit.backbones.sampler import Sampler
from searchkit.model import VideoModel
from searchkit.stream import Stream


@pytest.fixture
def stream(make_stream: Callable[..., Stream], make_model: Callable[..., VideoModel]) -> Stream:
    """A stream of four passes a chunk."""
    return make_stream(model=make_model(sampler=Sampler(kind="euler")), horizon=6)


def test_streams_are_halved_at_every_chunk_until_one_is_left(stream: Stream):
    output = FrontLoading()(stream, seed=0)
    levels = [[record for record in output.records if record.chunk == chunk] for chunk in range(6)]
    assert [len(level) for level in levels] == [9, 5, 3, 2, 1, 1]
    assert [sum(record.kept for record in level) for level in levels] == [5, 3, 2, 1, 1, 1]
    for level in levels:
        kept, given_up = ([one.fused for one in level if one.kept is kept] for kept in (True, False))
        assert min(kept) >= max(given_up, default=min(kept))


def test_first_chunk_gets_its_passes_and_later_ones_theirs(stream: Stream):
    output = FrontLoading(num_candidates=4, first_passes=8, later_passes=2)(stream, seed=0)
    assert [action.passes for action in output.best.actions] == [8, 2, 2, 2, 2, 2]
    assert output.cost.denoise_passes == pytest.approx(4 * 8 + 2 * (2 + 1 + 1 + 1 + 1))
    assert output.cost.clean_passes == pytest.approx(2 + 1 + 1 + 1 + 1)


def test_one_candidate_with_the_models_passes_is_greedy(stream: Stream):
    alone = FrontLoading(num_candidates=1, first_passes=4, later_passes=4)(stream, seed=3).best
    greedy = Greedy()(stream, seed=3).best
    assert all(map(lambda one, other: one.equal(other), alone.latents, greedy.latents))


def test_streams_that_are_left_at_the_end_compete_as_whole_videos(
    make_stream: Callable[..., Stream], make_model: Callable[..., VideoModel]
):
    stream = make_stream(model=make_model(sampler=Sampler(kind="euler")), horizon=2, long_window=1)
    output = FrontLoading(num_candidates=8)(stream, seed=0)
    finalists = [record.lineage for record in output.records if record.chunk == 1 and record.kept]
    assert len(finalists) == 2 and output.best.actions in finalists
    assert output.cost.latent_frames_decoded > sum(record.cost.latent_frames_decoded for record in output.records)


@pytest.mark.parametrize("name", ["num_candidates", "first_passes", "later_passes"])
def test_option_below_one_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        FrontLoading(**{name: 0})
