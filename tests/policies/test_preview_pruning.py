"""Searches that give candidates up by previews, on a stream of the tiny model."""

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from policies import BestOfNPerChunk, PreviewPruning
from searchkit.backbones.sampler import Sampler
from searchkit.cost import Cost, total
from searchkit.fusion import Calibration, Fusion
from searchkit.gym_adapter import GymProblem
from searchkit.model import VideoModel
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Draft, Preview, Request, SearchOutput
from searchkit.wrappers import Budgeted

MakeStream = Callable[..., Stream]
POLICY = PreviewPruning(beam_width=2, children=4, preview_passes=2)


@pytest.fixture
def stream(make_stream: MakeStream, make_model: Callable[..., VideoModel]) -> Stream:
    """A stream of four passes a chunk, whose final pick costs something."""
    return make_stream(model=make_model(sampler=Sampler()), horizon=3, long_window=2)


def _level(output: SearchOutput[StreamState], chunk: int) -> list[Any]:
    return [record for record in output.records if record.chunk == chunk]


def test_eight_candidates_cost_24_passes_a_chunk_instead_of_32(stream: Stream):
    output = PreviewPruning(children=8, preview_passes=2)(stream, seed=0)
    for chunk in range(3):
        records = _level(output, chunk)
        assert [record.pruned_after for record in records] == [None] * 4 + [2] * 4
        spent = total(record.cost for record in records)
        assert spent.denoise_passes == pytest.approx(24)
        assert spent.clean_passes == pytest.approx(1 if chunk else 0)
    assert output.cost.denoise_passes == pytest.approx(3 * 24)


def test_records_and_the_final_pick_add_up_to_the_cost(stream: Stream):
    output = POLICY(stream, seed=0)
    finalists = [record for record in output.records if record.kept and record.chunk == 2]
    assert len(finalists) == 2
    spent, whole = total(record.cost for record in output.records), stream.score_whole([output.best])[0].cost
    for field in fields(Cost):
        if field.name.startswith(("seconds", "peak")):
            assert getattr(output.cost, field.name) >= getattr(spent, field.name) > 0
        else:
            expected = getattr(spent, field.name) + 2 * getattr(whole, field.name)
            assert getattr(output.cost, field.name) == pytest.approx(expected)


def test_pruned_candidates_are_recorded_with_their_preview_and_kept_never(stream: Stream):
    output = POLICY(stream, seed=0)
    pruned = [record for record in output.records if record.pruned_after is not None]
    assert len(pruned) == 3 * 4
    kept = {record.lineage for record in output.records if record.kept} | {()}
    for record in pruned:
        assert (record.kept, record.pruned_after) == (False, 2)
        assert record.lineage[-1] == record.action and len(record.lineage) == record.chunk + 1
        assert record.lineage[:-1] in kept
        assert record.cost.denoise_passes == pytest.approx(2)
    first = [record for record in pruned if record.chunk == 0]
    previews = stream.preview(stream.advance(stream.start([Request(stream.root, r.action) for r in first]), passes=2))
    for record, preview in zip(first, previews, strict=True):
        assert record.scores == pytest.approx(preview.scores, abs=1e-5)


def test_every_candidate_is_recorded_once(stream: Stream):
    output = POLICY(stream, seed=0)
    assert [len(_level(output, chunk)) for chunk in range(3)] == [8, 8, 8]
    assert len({record.lineage for record in output.records}) == 24
    for chunk in range(3):
        finished = [record for record in _level(output, chunk) if record.pruned_after is None]
        kept = {record.lineage for record in finished if record.kept}
        best = sorted(finished, key=lambda record: -record.fused)[:2]
        assert kept == {record.lineage for record in best}


def test_previews_after_all_passes_find_what_finishing_every_candidate_finds(stream: Stream):
    fusion = Fusion(calibration=Calibration(scale="rank"))
    previewed = PreviewPruning(children=5, preview_passes=4, fusion=fusion)(stream, seed=0)
    whole = BestOfNPerChunk(num_candidates=5, fusion=fusion)(stream, seed=0)
    assert previewed.best.actions == whole.best.actions
    torch.testing.assert_close(previewed.best.latents, whole.best.latents, atol=1e-5, rtol=0.0)


def test_search_is_the_same_for_the_same_seed(stream: Stream):
    first, again, other = (POLICY(stream, seed=seed) for seed in (0, 0, 1))
    assert [record.lineage for record in first.records] == [record.lineage for record in again.records]
    assert [record.scores for record in first.records] == [record.scores for record in again.records]
    assert first.best.actions != other.best.actions


def test_pruned_drafts_are_gone_before_the_next_level_is_made(stream: Stream):
    alive: list[int] = []
    made: list[weakref.ref[Tensor]] = []

    class Counting(Budgeted[StreamState]):
        def start(self, requests: Sequence[Request[StreamState]]) -> Sequence[Draft[StreamState]]:
            gc.collect()
            alive.append(sum(ref() is not None for ref in made))
            return super().start(requests)

        def preview(self, drafts: Sequence[Any]) -> Sequence[Preview]:
            made.extend(weakref.ref(tensor) for draft in drafts for tensor in (draft.x, draft.x0))
            return super().preview(drafts)

    POLICY(Counting(stream), seed=0)
    assert len(made) == 3 * 8 * 2
    assert alive == [0, 0, 0]


class _Coin(gymnasium.Env[int, int]):
    action_space = spaces.Discrete(2)
    observation_space = spaces.Discrete(1)


def test_problem_that_cannot_be_opened_up_is_refused_by_name():
    with pytest.raises(ValueError, match=r"prunes while denoising needs a problem with start, .* got GymProblem"):
        PreviewPruning()(GymProblem(env=_Coin(), horizon=2), seed=0)


@pytest.mark.parametrize("name", ["beam_width", "children", "preview_passes"])
@pytest.mark.parametrize("value", [0, -1])
def test_policy_refuses_options_below_one(name: str, value: int):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        PreviewPruning(**{name: value})


def test_preview_beyond_a_chunks_passes_is_refused_by_name(make_stream: MakeStream, model: VideoModel):
    stream = make_stream(model=replace(model, sampler=Sampler(timesteps=(1000.0,)), first_passes=4))
    with pytest.raises(ValueError, match="preview_passes must be at most those of chunk 1, got 2: passes must be"):
        PreviewPruning(preview_passes=2)(stream, seed=0)
    assert len(PreviewPruning(preview_passes=1)(stream, seed=0).best.actions) == 7
