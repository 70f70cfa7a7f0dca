"""The laws of a stream as a search problem."""

import copy
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from policies import BeamSearch, Greedy
from searchkit.backbones.sampler import Sampler
from searchkit.backbones.wan import Prefix
from searchkit.memory import Memory, MemoryConfig
from searchkit.model import VideoModel
from searchkit.pruning import keep_best
from searchkit.search import search
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Action, Child, Request, Route

MakeStream = Callable[..., Stream]
ROUTES = tuple(Route)


def _actions(num: int) -> list[Action]:
    """Actions that take every route and carry noise on."""
    return [Action(seed=100 + i, route=ROUTES[i % 3], correlation=-0.3) for i in range(num)]


def _replay(stream: Stream, actions: Sequence[Action]) -> StreamState:
    state = stream.root
    for action in actions:
        [child] = stream.expand([Request(state, action)])
        state = child.state
    return state


def _contents(memory: Memory) -> list[tuple[int, Tensor | None, Tensor | None]]:
    return [
        (block.start_frame, block.keys if block.filled else None, block.values if block.filled else None)
        for block in memory.blocks
    ]


def _assert_same_states(a: StreamState, b: StreamState, *, atol: float) -> None:
    tolerance: dict[str, Any] = {"atol": atol, "rtol": 0.0}
    assert a.actions == b.actions
    torch.testing.assert_close(a.latents, b.latents, **tolerance)
    torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores), **tolerance)
    torch.testing.assert_close(a.frames, b.frames, **tolerance)
    torch.testing.assert_close(_contents(a.memory), _contents(b.memory), **tolerance)


def _tensors(state: StreamState) -> list[Tensor]:
    """All tensors that a state holds, apart from its latents, its prompt and its model."""
    found = [*state.frames, state.noise, state.decoder_cache]
    for block in (*state.memory_after.blocks, state.slot and state.slot.prefix):
        found += [block.keys, block.values] if isinstance(block, Prefix) or (block and block.filled) else []
    return [tensor for tensor in found if tensor is not None]


def _num_bytes(tensors: Sequence[Tensor]) -> int:
    """The bytes that the tensors keep alive, which are more than their own where they are views."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def test_replay_from_the_root_is_bit_for_bit_the_same_with_batches_of_one(
    make_stream: MakeStream, make_model: Callable[..., VideoModel]
):
    stream = make_stream(model=make_model(max_batch=1))
    best = search(
        stream,
        propose=lambda state, rank: [
            action._replace(route=Route.APPEND_SINK, correlation=-0.3)
            for action in stream.actions(state, num=3, seed=0)
        ],
        select=keep_best(2, BeamSearch().fusion),
    ).best
    _assert_same_states(_replay(stream, best.actions), best, atol=0.0)


def test_replay_from_the_root_agrees_whatever_the_batches(make_stream: MakeStream):
    stream = make_stream()
    best = BeamSearch(beam_width=3, children=3)(stream, seed=0).best
    _assert_same_states(_replay(stream, best.actions), best, atol=1e-5)


def test_batched_candidates_equal_sequential_candidates(make_stream: MakeStream):
    stream = make_stream()
    parents = [_replay(stream, _actions(length)) for length in (0, 2, 6)]
    requests = [
        Request(parent, Action(seed, route, 0.2))
        for parent in parents
        for seed, route in enumerate((*ROUTES, Route.DISCARD))
    ]
    together = stream.expand(requests)
    for request, child in zip(requests, together, strict=True):
        [alone] = stream.expand([request])
        _assert_same_states(child.state, alone.state, atol=1e-5)


def test_streams_of_different_prompts_expand_together_as_alone(make_stream: MakeStream):
    streams = [make_stream(prompt=prompt) for prompt in ("one", "two")]
    together = streams[0].expand([Request(stream.root, Action(5)) for stream in streams])
    for stream, child in zip(streams, together, strict=True):
        _assert_same_states(child.state, _replay(stream, [Action(5)]), atol=1e-5)
    assert not together[0].state.latents[0].equal(together[1].state.latents[0])


def test_expanding_never_changes_what_can_be_observed_of_the_parent(make_stream: MakeStream):
    stream = make_stream()
    parent = _replay(stream, _actions(6))
    before = copy.deepcopy((parent.latents, parent.frames, parent.noise, parent.decoder_cache))
    facts = (parent.actions, parent.scores, parent.leaving, parent.memory, parent.memory_after.blocks)
    blocks = [tuple(part.clone() for part in (block.keys, block.values)) for block in parent.memory.blocks]
    stream.expand([Request(parent, Action(seed, route)) for seed in range(2) for route in ROUTES])
    after = (parent.latents, parent.frames, parent.noise, parent.decoder_cache)
    torch.testing.assert_close(after, before, atol=0.0, rtol=0.0)
    assert facts == (
        parent.actions, parent.scores, parent.leaving, parent.memory, parent.memory_after.blocks,
    )  # fmt: skip
    for (keys, values), block in zip(blocks, parent.memory.blocks, strict=True):
        assert block.keys.equal(keys) and block.values.equal(values)


def test_siblings_are_the_same_whoever_was_expanded_before_them(make_stream: MakeStream):
    stream = make_stream()
    parent = _replay(stream, _actions(6))
    [first] = stream.expand([Request(parent, Action(1, Route.EMA_SINK))])
    stream.expand([Request(parent, Action(2, Route.APPEND_SINK))])
    [again] = stream.expand([Request(parent, Action(1, Route.EMA_SINK))])
    _assert_same_states(first.state, again.state, atol=0.0)


def test_siblings_share_their_parents_blocks(make_stream: MakeStream):
    stream = make_stream()
    parent = _replay(stream, _actions(5))
    a, b = (child.state for child in stream.expand([Request(parent, Action(seed)) for seed in (1, 2)]))
    assert a.memory is b.memory
    assert parent.slot is not None and parent.slot.block in a.memory.blocks
    assert set(a.memory.blocks) <= set(parent.memory_after.blocks)
    assert a.slot is not None and b.slot is not None and a.slot.block is not b.slot.block


def test_clean_pass_runs_only_for_chunks_that_are_expanded_from(make_stream: MakeStream):
    stream = make_stream(horizon=4)
    output = BeamSearch(beam_width=2, children=3)(stream, seed=0)
    clean = sum(record.cost.clean_passes for record in output.records)
    assert clean == pytest.approx(2 * 3)  # two beams of three chunks, never the last
    assert sum(record.cost.denoise_passes for record in output.records) == 4 * 6 * 2
    assert output.best.slot is not None and not output.best.slot.block.filled


def test_clean_pass_runs_once_however_often_a_state_is_expanded(make_stream: MakeStream):
    stream = make_stream()
    parent = _replay(stream, _actions(1))
    [first], [second] = (stream.expand([Request(parent, Action(seed))]) for seed in (1, 2))
    assert (first.cost.clean_passes, second.cost.clean_passes) == (1, 0)


def test_failed_clean_pass_may_be_tried_again(make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch):
    stream = make_stream()
    parent = _replay(stream, _actions(1))
    with monkeypatch.context() as patch:
        patch.setattr(stream.model.engine, "clean", _out_of_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            stream.expand([Request(parent, Action(1))])
    [child] = stream.expand([Request(parent, Action(1))])
    _assert_same_states(child.state, _replay(stream, [*_actions(1), Action(1)]), atol=0.0)


def _out_of_memory(*_: Any, **__: Any) -> None:
    raise RuntimeError("out of memory")


def test_one_prefix_is_assembled_for_each_parent_and_route(make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch):
    stream = make_stream()
    a, b = _replay(stream, _actions(6)), _replay(stream, _actions(5))
    assembled: list[Prefix] = []
    assemble = stream.model.engine.assemble

    def counted(memory: Memory, **options: Any) -> Prefix:
        assembled.append(assemble(memory, **options))
        return assembled[-1]

    monkeypatch.setattr(stream.model.engine, "assemble", counted)
    children = stream.expand(
        [Request(state, Action(seed, route)) for state in (a, b) for route in ROUTES[:2] for seed in range(3)]
    )
    assert len(assembled) == 4
    assert sum(child.cost.prefixes for child in children) == pytest.approx(4)
    used = {id(child.state.slot.prefix) for child in children if child.state.slot is not None}
    assert used == {id(prefix) for prefix in assembled}


def test_routes_share_a_prefix_while_nothing_leaves_the_window(make_stream: MakeStream):
    stream = make_stream()
    state = _replay(stream, _actions(2))
    assert state.leaving is None
    children = stream.expand([Request(state, Action(1, route)) for route in ROUTES])
    assert sum(child.cost.prefixes for child in children) == pytest.approx(1)
    assert all(child.state.latents[-1].allclose(children[0].state.latents[-1], atol=1e-5) for child in children)


def test_leaving_chunk_is_the_one_whose_route_has_an_effect(make_stream: MakeStream):
    stream = make_stream()
    leaving = [_replay(stream, _actions(num)).leaving for num in range(6)]
    assert leaving == [None, None, None, None, 1, 2]  # a sink, two past chunks and a newest one fit
    discarded, appended = (
        _replay(stream, [*(Action(1),) * 4, Action(1, route)]) for route in (Route.DISCARD, Route.APPEND_SINK)
    )
    assert not discarded.latents[-1].equal(appended.latents[-1])
    assert [block.start_frame for block in appended.memory.sinks] == [0, 2]


def test_pruned_candidates_release_their_bytes(make_stream: MakeStream):
    stream = make_stream()
    level = stream.expand([Request(_replay(stream, _actions(3)), Action(seed)) for seed in range(6)])
    kept = level[2].state
    gone = [weakref.ref(child.state) for child in level if child.state is not kept]
    gone += [weakref.ref(child.state.slot) for child in level if child.state is not kept]
    alone = _replay(stream, kept.actions)
    del level
    gc.collect()
    assert all(ref() is None for ref in gone)
    # Nor does what is kept hold on to theirs, as views of a batch would.
    assert _num_bytes(_tensors(kept)) == _num_bytes(_tensors(alone))
    assert _num_bytes(kept.latents) == _num_bytes(alone.latents)


def test_search_drops_pruned_candidates_before_it_makes_the_next_level(make_stream: MakeStream):
    stream = make_stream(horizon=4)
    alive: list[int] = []
    made: list[weakref.ref[StreamState]] = []

    class Counting:
        root, horizon, actions, score_whole = stream.root, stream.horizon, stream.actions, stream.score_whole

        def expand(self, requests: Sequence[Request[StreamState]]) -> list[Child[StreamState]]:
            gc.collect()
            alive.append(sum(ref() is not None for ref in made))
            children = stream.expand(requests)
            made.extend(weakref.ref(child.state) for child in children)
            return children

    BeamSearch(beam_width=2, children=3)(Counting(), seed=0)
    assert alive == [0, 2, 2, 2]


def test_filled_slots_release_the_prefix_of_their_clean_pass(make_stream: MakeStream):
    stream = make_stream()
    parent = _replay(stream, _actions(4))
    assert parent.slot is not None and parent.slot.prefix is not None
    prefix: weakref.ref[Prefix] = weakref.ref(parent.slot.prefix)
    stream.expand([Request(parent, Action(1))])
    gc.collect()
    assert prefix() is None


def _count_tensors() -> int:
    gc.collect()
    return sum(type(found) is Tensor for found in gc.get_objects())


def test_long_stream_holds_no_more_tensors_than_a_short_one_apart_from_latents(
    make_stream: MakeStream, make_model: Callable[..., VideoModel]
):
    model = make_model(
        num_layers=1,
        sampler=Sampler(timesteps=(1000.0,)),
        memory=MemoryConfig(chunk_frames=1, window_frames=4, sink_frames=1, max_sink_frames=3),
    )
    stream = make_stream(model=model, horizon=400)
    state, counts, held = stream.root, {}, {}
    for chunk in range(1, 401):
        [child] = stream.expand([Request(state, Action(chunk, ROUTES[chunk % 3], 0.5))])
        state = child.state
        del child
        if chunk in (40, 400):
            counts[chunk] = _count_tensors()
            held[chunk] = len(_tensors(state)), _num_bytes(_tensors(state))
    assert counts[400] - counts[40] == 360  # one latent tensor a chunk
    assert held[400] == held[40]


def test_propagated_noise_has_unit_variance(make_stream: MakeStream):
    stream = make_stream(horizon=40)
    state = _replay(stream, [Action(seed, correlation=-0.5) for seed in range(40)])
    noises, walk = [], stream.root
    for action in state.actions:
        [child] = stream.expand([Request(walk, action)])
        walk = child.state
        noises.append(walk.noise)
    assert all(noise is not None for noise in noises)
    values = torch.stack([noise for noise in noises if noise is not None])
    assert float(values.std()) == pytest.approx(1.0, abs=0.03)
    previous, later = values[:-1].flatten(), values[1:].flatten()
    assert float((previous * later).mean()) == pytest.approx(-0.5, abs=0.05)


def test_decoding_chunk_by_chunk_equals_decoding_the_whole(make_stream: MakeStream):
    stream = make_stream(long_window=10)
    state = _replay(stream, _actions(5))
    [whole], _ = stream.model.decode([torch.cat(state.latents)], [None])
    torch.testing.assert_close(torch.cat(state.frames), whole, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(state.video, whole, atol=1e-5, rtol=0.0)


def test_state_holds_the_frames_of_the_long_window_only(make_stream: MakeStream):
    stream = make_stream(long_window=2)
    state = _replay(stream, _actions(5))
    assert [len(frames) for frames in state.frames] == [4, 4]
    torch.testing.assert_close(torch.cat(state.frames), state.video[-8:], atol=1e-5, rtol=0.0)


def test_whole_score_is_free_while_the_window_holds_the_whole(make_stream: MakeStream):
    short, long = make_stream(long_window=5), make_stream(long_window=4)
    [free] = short.score_whole([_replay(short, _actions(5))])
    [paid] = long.score_whole([_replay(long, _actions(5))])
    assert free.cost.latent_frames_decoded == 0
    assert paid.cost.latent_frames_decoded == 10
    assert paid.score == pytest.approx(free.score, abs=1e-5)


def test_candidates_are_distinct_and_depend_on_seed_and_lineage_only(make_stream: MakeStream):
    stream = make_stream()
    state = _replay(stream, [Action(3), Action(4)])
    actions = stream.actions(state, num=50, seed=0)
    assert len({action.seed for action in actions}) == 50
    assert actions[:4] == stream.actions(_replay(stream, [Action(3), Action(4)]), num=4, seed=0)
    others = [*stream.actions(state, num=50, seed=1), *stream.actions(stream.root, num=50, seed=0)]
    assert not {action.seed for action in actions} & {action.seed for action in others}


def test_first_candidate_is_the_same_for_every_policy(make_stream: MakeStream):
    stream = make_stream(horizon=2)
    greedy, beam = Greedy()(stream, seed=3), BeamSearch()(stream, seed=3)
    assert greedy.records[0].action == beam.records[0].action
    assert greedy.records[0].scores.short == pytest.approx(beam.records[0].scores.short, abs=1e-5)


def test_staged_expansion_equals_expanding_at_once(make_stream: MakeStream):
    stream = make_stream()
    requests = [Request(stream.root, Action(seed)) for seed in range(3)]
    drafts = stream.start(requests)
    for _ in range(stream.model.sampler.num_passes):
        drafts = stream.advance(drafts, passes=1)
    for staged, child in zip(stream.finish(drafts), stream.expand(requests), strict=True):
        _assert_same_states(staged.state, child.state, atol=0.0)
        assert staged.cost.passes == child.cost.passes


@pytest.mark.parametrize(
    ("options", "message"),
    [({"horizon": 0}, "horizon must be at least 1 chunk, got 0"), ({"long_window": 0}, "long_window .* got 0")],
)
def test_options_out_of_range_are_refused(make_stream: MakeStream, options: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        make_stream(**options)


def test_correlation_out_of_range_is_refused(make_stream: MakeStream):
    stream = make_stream()
    with pytest.raises(ValueError, match=r"noise_correlation must be from -1 to 1, got 1.5"):
        stream.expand([Request(stream.root, Action(1, correlation=1.5))])
