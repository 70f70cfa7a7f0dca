"""Prompts that change in mid-stream: when their texts hold, and what a change does to memory and scores."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from policies import BeamSearch, Greedy
from searchkit.memory import Memory, MemoryConfig
from searchkit.model import VideoModel
from searchkit.rewards import View
from searchkit.schedule import Cue, cues
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Action, Request, Route

MakeStream = Callable[..., Stream]


@pytest.mark.parametrize(
    ("prompt", "horizon", "expected"),
    [
        ("a", 7, [(0, "a")]),
        ("a", None, [(0, "a")]),
        ("a, then b", 7, [(0, "a"), (4, "b")]),
        ("a, then b, then a", 18, [(0, "a"), (6, "b"), (12, "a")]),
        ("a, then @5 b, then c", 18, [(0, "a"), (5, "b"), (12, "c")]),
        ("a, then @5 b", None, [(0, "a"), (5, "b")]),
    ],
)
def test_texts_share_the_video_or_start_where_they_say(prompt: str, horizon: int | None, expected: list[Cue]):
    assert list(cues(prompt, horizon, shares=True)) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a, then b", [(0, "a, then b")]),
        ("a, then b, then @5 c, then\nd", [(0, "a, then b"), (5, "c, then\nd")]),
        ("a, then @home, then @7", [(0, "a, then @home, then @7")]),
    ],
)
def test_words_of_a_caption_change_nothing_without_a_chunk(prompt: str, expected: list[Cue]):
    assert list(cues(prompt, 7)) == expected
    assert list(cues(prompt, None)) == expected


@pytest.mark.parametrize(
    ("prompt", "horizon", "words"),
    [
        ("a, then b", None, "say at which chunk a text starts"),
        ("a, then @0 b", 7, "start 'b' after chunk 0, got chunk 0"),
        ("a, then @5 b, then @3 c", 7, "start 'c' after chunk 5, got chunk 3"),
        ("a, then @7 b", 7, "start 'b' within 7 chunks, got chunk 7"),
        ("a, then b, then c", 2, "must start"),
        ("a, then  , then b", 7, "a text before and after"),
    ],
)
def test_schedules_that_cannot_be_are_refused(prompt: str, horizon: int | None, words: str):
    with pytest.raises(ValueError, match=words):
        cues(prompt, horizon, shares=True)


def test_model_says_whether_words_alone_change_a_prompt(make_stream: MakeStream, model: VideoModel):
    texts = [
        [prompt.text for prompt in make_stream(prompt="one, then two", model=each).root.prompts]
        for each in (model, replace(model, shares=True))
    ]
    assert texts == [["one, then two"], ["one", "two"]]


def _walk(stream: Stream, num: int) -> list[StreamState]:
    states = [stream.root]
    for seed in range(num):
        [child] = stream.expand([Request(states[-1], Action(seed, Route(seed % 3), 0.2))])
        states.append(child.state)
    return states


def _latents(state: StreamState) -> torch.Tensor:
    return torch.cat(state.latents)


def test_nothing_differs_before_the_prompt_changes_and_all_after(make_stream: MakeStream):
    plain = _walk(make_stream(prompt="one"), 7)
    changed = _walk(make_stream(prompt="one, then @4 two"), 7)
    assert torch.equal(_latents(plain[4]), _latents(changed[4]))
    assert not torch.allclose(plain[5].latents[-1], changed[5].latents[-1], atol=1e-3)
    assert [state.prompt.text for state in changed[1:]] == ["one"] * 4 + ["two"] * 3


def test_window_runs_again_in_one_dense_pass_with_the_new_text(make_stream: MakeStream):
    state = _walk(make_stream(prompt="one, then @2 two"), 2)[-1]
    [child] = make_stream(prompt="one, then @2 two").expand([Request(state, Action(9))])
    model, [sink, newest] = state.model, child.state.memory.blocks
    [made] = model.engine.clean(
        _latents(state)[None],
        start_frame=0,
        prefixes=model.assemble(Memory()),
        text=state.next_prompt.context,
    )
    tokens = newest.keys.shape[1]
    assert torch.equal(newest.keys, made.keys[:, tokens:]) and torch.equal(newest.values, made.values[:, tokens:])
    assert sink is state.memory_after.sinks[0]  # kept, with the old text


def test_window_forgets_the_old_text_and_sinks_do_not(make_stream: MakeStream):
    stream = make_stream(prompt="one, then @5 two")
    before = _walk(stream, 5)[-1]
    [child] = stream.expand([Request(before, Action(9, Route.APPEND_SINK))])
    after = child.state.memory
    kept = set(before.memory_after.blocks) & set(after.blocks)
    assert kept == {block for block in before.memory_after.sinks if block in after.sinks}
    assert [block.start_frame for block in after.window] == [b.start_frame for b in before.memory_after.window][1:]


def test_first_sink_runs_again_on_demand_unless_it_is_an_average(
    make_model: Callable[..., VideoModel], make_stream: MakeStream
):
    memory = MemoryConfig(chunk_frames=2, window_frames=8, sink_frames=2, max_sink_frames=6, sink_on_switch="rerun")
    stream = make_stream(model=make_model(memory=memory), prompt="one, then @5 two")
    for route, is_rerun in ((Route.DISCARD, True), (Route.EMA_SINK, False)):
        state = stream.root
        for seed in range(5):
            [child] = stream.expand([Request(state, Action(seed, route))])
            state = child.state
        [child] = stream.expand([Request(state, Action(9))])
        assert (child.state.memory.sinks[0] is not state.memory.sinks[0]) == is_rerun


def test_prompts_score_their_own_part_of_the_video(make_stream: MakeStream):
    stream = make_stream(prompt="one, then @4 two", horizon=7)
    best = Greedy()(stream, seed=0).best
    assert len(best.frames) == 3  # the window starts anew with the prompt
    pieces = tuple(best.decode())
    one, two = (
        stream.scorer.score_whole([View(text, (), part, part[-1])])[0]
        for text, part in (("one", pieces[:4]), ("two", pieces[4:]))
    )
    assert stream.score_whole([best])[0].score == pytest.approx((4 * one + 3 * two) / 7)


def test_streams_that_change_at_different_chunks_expand_together_as_alone(make_stream: MakeStream):
    one, other = make_stream(prompt="one, then @3 two"), make_stream(prompt="three, then @4 four")
    a, b = _walk(one, 3)[-1], _walk(other, 3)[-1]
    together = one.expand([Request(a, Action(7)), Request(b, Action(8))])
    alone = [stream.expand([Request(state, Action(seed))])[0] for stream, state, seed in ((one, a, 7), (other, b, 8))]
    for left, right in zip(together, alone, strict=True):
        torch.testing.assert_close(left.state.latents[-1], right.state.latents[-1], atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(("sink", "passes", "calls"), [("keep", 4, 1), ("rerun", 5, 2)])
def test_running_memory_again_is_charged(
    make_stream: MakeStream, make_model: Callable[..., VideoModel], sink: Any, passes: int, calls: int
):
    memory = MemoryConfig(chunk_frames=2, window_frames=8, sink_frames=2, max_sink_frames=6, sink_on_switch=sink)
    model = make_model(memory=memory)
    plain = BeamSearch()(make_stream(model=model, prompt="one"), seed=0).cost
    changed = BeamSearch()(make_stream(model=model, prompt="one, then @5 two"), seed=0).cost
    assert changed.clean_passes == pytest.approx(
        plain.clean_passes + 2 * passes
    )  # two beams, a window of 4 chunks each
    assert changed.clean_calls == pytest.approx(plain.clean_calls + 2 * calls)
    assert changed.prefixes == pytest.approx(plain.prefixes + 2 * calls)
