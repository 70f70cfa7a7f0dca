"""The laws of a stream as a search problem."""

import copy
import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from policies import BeamSearch, Greedy, PreviewPruning
from searchkit.backbones.sampler import Kind, Sampler
from searchkit.backbones.wan import Prefix
from searchkit.cost import total
from searchkit.memory import Memory, MemoryConfig
from searchkit.model import VideoModel
from searchkit.pruning import keep_best
from searchkit.rewards import Scorer, View
from searchkit.search import search
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Action, Child, Request, Route
from searchkit.wrappers import Watched

MakeStream = Callable[..., Stream]
MakeModel = Callable[..., VideoModel]
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
    make_stream: MakeStream, make_model: MakeModel
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


@pytest.mark.parametrize(
    "memory",
    [
        MemoryConfig(chunk_frames=1, window_frames=4, sink_frames=1, max_sink_frames=3),
        MemoryConfig(chunk_frames=3, max_sink_frames=6, positions="window"),  # beyond the rotary table
    ],
    ids=["stream", "window"],
)
def test_long_stream_holds_no_more_tensors_than_a_short_one_apart_from_latents(
    make_stream: MakeStream, make_model: MakeModel, memory: MemoryConfig
):
    model = make_model(num_layers=1, sampler=Sampler(timesteps=(1000.0,)), memory=memory)
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
    assert all(latents.isfinite().all() for latents in state.latents)


@pytest.mark.parametrize("horizon", [400, 342, None])
def test_stream_beyond_the_rotary_table_is_refused_before_anything_runs(
    make_stream: MakeStream, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, horizon: int | None
):
    model = make_model(memory=MemoryConfig())
    for name in ("encode_text", "flow", "clean"):
        monkeypatch.setattr(model.engine, name, _out_of_memory)
    with pytest.raises(ValueError, match=rf"horizon must be at most 341 .*got {horizon}: .*positions 'window'"):
        make_stream(model=model, horizon=horizon)
    make_stream(model=model, horizon=341)
    make_stream(model=make_model(memory=MemoryConfig(positions="window")), horizon=horizon)


@pytest.mark.parametrize("route", ROUTES)
def test_window_numbering_is_stream_numbering_until_a_chunk_is_forgotten(
    make_stream: MakeStream, make_model: MakeModel, route: Route
):
    """Until then the two give the same numbers to the bit: appended chunks stay where they were."""
    memory = MemoryConfig(chunk_frames=2, window_frames=8, sink_frames=2, max_sink_frames=4)
    latents = {}
    for positions in ("stream", "window"):
        stream = make_stream(model=make_model(memory=replace(memory, positions=positions)))
        latents[positions] = _replay(stream, [Action(seed, route) for seed in range(7)]).latents
    same = [a.equal(b) for a, b in zip(latents["stream"], latents["window"], strict=True)]
    first = 5 if route is Route.APPEND_SINK else 4  # the window is full with chunk 3; one chunk may be appended
    assert same == [True] * first + [False] * (7 - first)


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


def _make_parents(stream: Stream, num: int) -> list[StreamState]:
    """Makes streams that went apart at their first chunk, side by side."""
    states = [stream.root] * num
    for chunk in range(6):
        requests = [Request(state, Action(10 * chunk + row, ROUTES[row % 3])) for row, state in enumerate(states)]
        states = [child.state for child in stream.expand(requests)]
    return states


class _LivingPrefixes:
    """Notes how many prefixes that hold anything are alive whenever the network is called."""

    def __init__(self, model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: dict[str, list[int]] = {"flow": [], "clean": []}
        self.num_assembled = 0
        self._alive: weakref.WeakSet[Prefix] = weakref.WeakSet()
        self._assemble = model.engine.assemble
        monkeypatch.setattr(model.engine, "assemble", self._assembled)
        for name in self.counts:
            monkeypatch.setattr(model.engine, name, self._counted(name, getattr(model.engine, name)))

    def _assembled(self, memory: Memory, **options: Any) -> Prefix:
        prefix = self._assemble(memory, **options)
        self.num_assembled += 1
        self._alive.add(prefix)
        return prefix

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.counts[name].append(sum(prefix.nbytes > 0 for prefix in self._alive))
            return method(*arguments, **options)

        return call


def test_parents_that_take_turns_have_the_same_children_in_the_order_of_the_requests(
    make_stream: MakeStream, make_model: MakeModel
):
    model = make_model()
    results = []
    for budget in (2**28, 0):
        stream = make_stream(model=replace(model, prefix_budget=budget))
        parents = _make_parents(stream, 3)
        requests = [Request(parents[row % 3], Action(row, ROUTES[row % 2], -0.2)) for row in range(9)]
        results.append([child.state for child in stream.expand(requests)])
        assert [child.actions[-1] for child in results[-1]] == [request.action for request in requests]
    for at_once, in_turn in zip(*results, strict=True):
        _assert_same_states(at_once, in_turn, atol=1e-5)


def test_no_two_prefixes_are_alive_at_once_without_a_budget(
    make_stream: MakeStream, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
):
    model = replace(make_model(), prefix_budget=0)
    prefixes = _LivingPrefixes(model, monkeypatch)
    stream = make_stream(model=model)
    parents = _make_parents(stream, 3)
    stream.expand([Request(parent, Action(seed, route)) for parent in parents for seed in range(2) for route in ROUTES])
    assert max(prefixes.counts["flow"]) == 1
    assert max(prefixes.counts["clean"]) == 1


def test_prefix_of_a_level_at_once_is_gone_before_parents_take_turns(
    make_stream: MakeStream, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
):
    """Siblings share one prefix, which the later of them would keep while the first have their turn."""
    model = replace(make_model(), prefix_budget=0)
    stream = make_stream(model=model)
    parent = _replay(stream, _actions(5))
    prefixes = _LivingPrefixes(model, monkeypatch)
    siblings = stream.expand([Request(parent, Action(seed)) for seed in range(3)])
    stream.expand([Request(child.state, Action(9)) for child in siblings])
    assert max(prefixes.counts["flow"]) == max(prefixes.counts["clean"]) == 1


def test_level_holds_all_its_prefixes_and_a_turn_its_own(make_stream: MakeStream, make_model: MakeModel):
    model = make_model()
    costs = []
    for budget in (2**28, 0):
        stream = make_stream(model=replace(model, prefix_budget=budget))
        requests = [Request(parent, Action(seed)) for parent in _make_parents(stream, 3) for seed in range(2)]
        children = stream.expand(requests)
        costs.append(total(child.cost for child in children))
    sizes = [model.prefix_bytes(child.state.memory) for child in children[::2]]
    at_once, in_turns = costs
    assert at_once.peak_prefix_bytes == sum(sizes)
    assert in_turns.peak_prefix_bytes == max(sizes)
    assert at_once.peak_block_bytes == in_turns.peak_block_bytes
    assert in_turns.peak_bytes < at_once.peak_bytes


def test_prefix_that_gave_way_is_assembled_once_more_for_the_clean_pass(
    make_stream: MakeStream, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
):
    model = make_model()
    budgets = {2**28: 0, 0: 1}
    blocks = []
    for budget, times in budgets.items():
        stream = make_stream(model=replace(model, prefix_budget=budget))
        parent = _make_parents(stream, 2)[0]
        assert parent.slot is not None and (parent.slot.prefix is None) == (budget == 0)
        with monkeypatch.context() as patch:
            prefixes = _LivingPrefixes(stream.model, patch)
            [first] = stream.expand([Request(parent, Action(1))])
            assert prefixes.num_assembled == 1 + times == first.cost.prefixes
            [again] = stream.expand([Request(parent, Action(1))])
            assert again.cost.prefixes == 1
        blocks.append(parent.slot.block)
    torch.testing.assert_close(blocks[0].keys, blocks[1].keys, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(blocks[0].values, blocks[1].values, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("budget", [2**28, 0])
def test_beams_that_average_the_same_blocks_share_the_result(
    make_stream: MakeStream, make_model: MakeModel, budget: int
):
    stream = make_stream(model=replace(make_model(), prefix_budget=budget))
    parent = _replay(stream, _actions(4))
    siblings = stream.expand([Request(parent, Action(seed)) for seed in range(2)])
    a, b = stream.expand([Request(child.state, Action(9, Route.EMA_SINK)) for child in siblings])
    assert a.state.memory.sinks[-1] is b.state.memory.sinks[-1]
    assert a.state.memory.sinks[-1] not in parent.memory_after.sinks


@pytest.mark.parametrize("long_window", [10, 3, 1])
def test_cold_scores_are_of_what_is_decoded_from_nothing(make_stream: MakeStream, scorer: Scorer, long_window: int):
    stream = make_stream(decoding="cold", long_window=long_window)
    state = _replay(stream, _actions(5))
    assert state.frames == () and state.decoder_cache is None
    for chunk in range(5):
        latents = state.latents[: chunk + 1]
        [newest], _ = stream.model.decode([latents[-1]], [None])
        [window], _ = stream.model.decode([torch.cat(latents[-long_window:])], [None])
        [by_hand] = scorer.score([View("a prompt", latents[-long_window:], (window,), newest)])
        assert state.scores[chunk] == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("prefix_budget", [2**28, 0])
def test_decoder_caches_of_a_level_are_counted(make_stream: MakeStream, make_model: MakeModel, prefix_budget: int):
    stream = make_stream(model=replace(make_model(), prefix_budget=prefix_budget), horizon=2)
    cost = BeamSearch(beam_width=2, children=3)(stream, seed=0).cost
    one = 4 * 4 * 4 * 4  # a latent frame in float32
    assert cost.peak_cache_bytes == (2 + 6) * one
    assert Greedy()(make_stream(decoding="cold"), seed=0).cost.peak_cache_bytes == 0


def test_cold_decoding_changes_scores_but_not_the_video(make_stream: MakeStream):
    cold, streamed = (
        _replay(make_stream(decoding=decoding, long_window=2), _actions(5)) for decoding in ("cold", "streamed")
    )
    assert cold.latents[-1].equal(streamed.latents[-1])
    assert cold.video.equal(streamed.video) and len(cold.video) == 19
    assert cold.scores[0] == pytest.approx(streamed.scores[0], abs=1e-6)  # where nothing is before
    assert cold.scores[-1] != pytest.approx(streamed.scores[-1], abs=1e-4)


def test_latent_frames_that_a_search_decodes(make_stream: MakeStream, make_model: MakeModel):
    """A beam search of 28 candidates: each decodes itself, or itself and its whole window."""
    model = make_model(memory=MemoryConfig(), sampler=Sampler(timesteps=(1000.0,)))
    for decoding, frames in (("streamed", 28 * 3), ("cold", 4 * 3 * sum(1 + chunks for chunks in range(1, 8)))):
        output = BeamSearch()(make_stream(model=model, decoding=decoding), seed=0)
        assert output.cost.latent_frames_decoded == pytest.approx(frames)
    assert frames == 420


@pytest.mark.parametrize("decoding", ["streamed", "cold"])
def test_preview_after_the_last_pass_scores_what_is_finished(make_stream: MakeStream, decoding: str):
    stream = make_stream(decoding=decoding, long_window=3)
    parent = _replay(stream, _actions(4))
    drafts = stream.advance(stream.start([Request(parent, Action(seed)) for seed in range(2)]))
    for preview, child in zip(stream.preview(drafts), stream.finish(drafts), strict=True):
        assert preview.scores == pytest.approx(child.scores, abs=1e-6)
    output = PreviewPruning(children=4, preview_passes=1)(stream, seed=0)
    assert sum(record.pruned_after == 1 for record in output.records) == 7 * 2


def test_staged_expansion_equals_expanding_at_once(make_stream: MakeStream):
    stream = make_stream()
    requests = [Request(stream.root, Action(seed)) for seed in range(3)]
    drafts = stream.start(requests)
    for _ in range(stream.model.sampler.num_passes):
        drafts = stream.advance(drafts, passes=1)
    for staged, child in zip(stream.finish(drafts), stream.expand(requests), strict=True):
        _assert_same_states(staged.state, child.state, atol=0.0)
        assert staged.cost.passes == child.cost.passes


@pytest.mark.parametrize("kind", ["renoise", "euler"])
def test_passes_of_a_chunk_are_the_actions_choice(make_stream: MakeStream, make_model: MakeModel, kind: Kind):
    """A chunk of an action's passes is what a model with such a sampler makes, and replays as every other does."""
    stream = make_stream(model=make_model(sampler=Sampler(kind=kind)))
    other = replace(stream, model=replace(stream.model, sampler=stream.model.sampler.with_passes(6)))
    asked, own = _replay(stream, [Action(1, passes=6), Action(2)]), _replay(other, [Action(1), Action(2, passes=4)])
    torch.testing.assert_close(asked.latents, own.latents, atol=0.0, rtol=0.0)
    assert not torch.equal(asked.latents[0], _replay(stream, [Action(1)]).latents[0])
    _assert_same_states(_replay(stream, asked.actions), asked, atol=0.0)


def test_first_chunk_may_want_more_passes_than_the_others(make_stream: MakeStream, make_model: MakeModel):
    """As the models of Causal-Forcing++ do: 4 passes for the first chunk, 1 or 2 for the others."""
    plain = make_stream(model=make_model(sampler=Sampler(timesteps=(1000.0, 500.0))))
    stream = replace(plain, model=replace(plain.model, first_passes=4))
    cost = Greedy()(replace(stream, horizon=3), seed=0).cost
    assert cost.denoise_passes == pytest.approx(4 + 2 + 2)
    state, same = _replay(stream, [Action(1), Action(2)]), _replay(plain, [Action(1, passes=4), Action(2)])
    torch.testing.assert_close(state.latents, same.latents, atol=0.0, rtol=0.0)
    assert _replay(stream, [Action(1, passes=3)]).last.latents.ne(state.latents[0]).any()


def test_candidates_of_one_level_may_have_different_passes(make_stream: MakeStream, make_model: MakeModel):
    stream = make_stream(model=make_model(sampler=Sampler()))
    requests = [Request(stream.root, Action(seed, passes=passes)) for seed, passes in enumerate((2, None, 7))]
    together = stream.expand(requests)
    for request, child in zip(requests, together, strict=True):
        _assert_same_states(child.state, stream.expand([request])[0].state, atol=1e-5)
    assert [child.cost.denoise_passes for child in together] == pytest.approx([2, 4, 7])
    assert total(child.cost for child in together).denoise_calls == pytest.approx(7)


def test_drafts_advance_until_their_own_passes_are_done(make_stream: MakeStream, make_model: MakeModel):
    stream = make_stream(model=make_model(sampler=Sampler()))
    drafts = stream.start([Request(stream.root, Action(seed, passes=passes)) for seed, passes in ((1, 3), (2, 5))])
    ahead = stream.advance(drafts, passes=2)
    assert [draft.passes_done for draft in stream.advance([drafts[0], ahead[1]])] == [3, 5]
    with pytest.raises(ValueError, match="passes must be from 0 to 1, those left, got 2"):
        stream.advance(ahead, passes=2)
    with pytest.raises(ValueError, match="drafts must have had all 5 passes to be finished, got 2"):
        stream.finish([stream.advance(drafts)[0], ahead[1]])


def test_no_passes_are_refused_before_anything_runs(make_stream: MakeStream):
    stream = make_stream()
    with pytest.raises(ValueError, match="passes must be at least 1 a chunk, got 0"):
        stream.expand([Request(stream.root, Action(1, passes=0))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1 chunk, got 0"),
        ({"long_window": 0}, "long_window .* got 0"),
        ({"decoding": "warm"}, "decoding must be one of streamed, cold, got 'warm'"),
    ],
)
def test_options_out_of_range_are_refused(make_stream: MakeStream, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_stream(**options)


def test_correlation_out_of_range_is_refused(make_stream: MakeStream):
    stream = make_stream()
    with pytest.raises(ValueError, match=r"noise_correlation must be from -1 to 1, got 1.5"):
        stream.expand([Request(stream.root, Action(1, correlation=1.5))])


def test_memory_that_attends_beyond_the_rotary_table_is_refused(make_model: Callable[..., VideoModel]):
    with pytest.raises(ValueError, match=r"memory must attend to at most 1024 latent frames.*got 1200"):
        make_model(memory=MemoryConfig(window_frames=1188, sink_frames=3, max_sink_frames=15, positions="window"))


def test_long_videos_are_scored_in_stretches(make_stream: MakeStream):
    stream = make_stream(horizon=90, long_window=3)
    best = Greedy()(stream, seed=0).best
    pieces = list(best.decode())
    parts = [pieces[:40], pieces[40:80], pieces[80:]]
    scores = [stream.scorer.score_whole([View("", (), tuple(part), part[-1])])[0] for part in parts]
    [whole] = stream.score_whole([best])
    assert whole.score == pytest.approx((40 * scores[0] + 40 * scores[1] + 10 * scores[2]) / 90)
    assert whole.cost.latent_frames_decoded == 180


def test_nothing_asked_is_nothing_made(make_stream: MakeStream):
    stream = make_stream()
    assert stream.expand([]) == stream.start([]) == stream.advance([]) == stream.preview([]) == stream.finish([]) == []


def test_unknown_route_is_refused_even_while_nothing_leaves(make_stream: MakeStream):
    stream = make_stream()
    with pytest.raises(ValueError, match="7 is not a valid Route"):
        stream.expand([Request(stream.root, Action(0, 7))])  # type: ignore[arg-type]


def test_root_has_no_whole_score(make_stream: MakeStream):
    stream = make_stream()
    with pytest.raises(ValueError, match="at least 1 chunk to be scored, got the root"):
        stream.score_whole([stream.root])


@pytest.mark.parametrize("prefix_budget", [2**28, 0], ids=["parents together", "parents in turn"])
def test_stream_tells_how_many_candidates_are_made(make_stream: MakeStream, model: VideoModel, prefix_budget: int):
    told: list[tuple[float, int]] = []
    stream = make_stream(model=replace(model, prefix_budget=prefix_budget), horizon=2)
    stream = replace(stream, told=lambda made, num: told.append((made, num)))
    BeamSearch(beam_width=2, children=2)(Watched(stream, on_level=lambda children: None), seed=0)
    together = [(2.0, 4), (4.0, 4)]  # two passes of four candidates
    in_turn = [(1.0, 4), (2.0, 4), (3.0, 4), (4.0, 4)]
    assert told == [*together, *(in_turn if prefix_budget == 0 else together)]


def test_stream_that_tells_makes_the_same(make_stream: MakeStream):
    silent = make_stream(horizon=2)
    talking = replace(silent, told=lambda made, num: None)
    assert talking == silent
    _assert_same_states(*(PreviewPruning()(stream, seed=0).best for stream in (silent, talking)), atol=0.0)
