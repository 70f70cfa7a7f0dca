"""The memory: blocks are written once and shared, and routes do what Stream-T1's release does."""

import functools
import gc
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from searchkit.memory import Average, Block, Memory, MemoryConfig, averaged, evicts, make_room, num_frames, places, push
from searchkit.types import Route

CONFIG = MemoryConfig()


def _make_block(chunk: int, *, frames: int = 3, dtype: torch.dtype = torch.float32) -> Block:
    """A block whose keys all equal `chunk`, and whose values are their negatives."""
    block = Block(chunk * frames, frames)
    keys = torch.full((2, frames, 1, 2), float(chunk), dtype=dtype)
    block.fill(keys, -keys)
    return block


def _make_stream(routes: list[Route], config: MemoryConfig = CONFIG) -> Memory:
    """The memory after one chunk for each route, where a route acts before its chunk."""
    memory = Memory()
    for chunk, route in enumerate(routes):
        memory = push(make_room(memory, route, config), _make_block(chunk, frames=config.chunk_frames), config)
    return memory


def _starts(blocks: tuple[Block, ...]) -> list[int]:
    return [block.start_frame for block in blocks]


def test_block_reads_back_what_filled_it():
    block = Block(6, 3)
    keys, values = torch.randn(2, 3, 1, 2), torch.randn(2, 3, 1, 2)
    assert not block.filled and block.nbytes == 0
    block.fill(keys, values)
    assert block.filled and block.nbytes == 2 * keys.nbytes
    assert block.keys is keys and block.values is values


def test_block_refuses_to_be_read_empty():
    with pytest.raises(RuntimeError, match=r"start_frame=6.*before its clean pass"):
        Block(6, 3).keys  # noqa: B018


def test_block_refuses_to_be_filled_twice():
    block = _make_block(1)
    with pytest.raises(RuntimeError, match="twice"):
        block.fill(block.keys, block.values)


@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3, 1, 4)])
def test_block_refuses_keys_unlike_its_values(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="keys and values"):
        Block(0, 3).fill(torch.zeros(shape), torch.zeros(2, 3, 1, 2))


def test_averaging_leaves_both_blocks_and_keeps_the_sinks_place():
    sink, evicted = _make_block(1), _make_block(5)
    average = averaged(sink, evicted, 0.75)
    assert average.start_frame == sink.start_frame
    assert average.keys.eq(2.0).all() and average.values.eq(-2.0).all()
    assert sink.keys.eq(1.0).all() and evicted.keys.eq(5.0).all()


def test_average_holds_what_it_is_of_until_it_is_settled():
    sink, evicted = _make_block(1), _make_block(5)
    average = averaged(sink, evicted, 0.75)
    assert average.filled and average.holds == (sink, evicted) and average.nbytes == 0
    before, last = average.keys, weakref.ref(evicted)
    average.settle()
    del evicted
    gc.collect()
    assert average.holds == (average,) and last() is None
    assert average.nbytes == sink.nbytes and average.keys.equal(before) and average.keys is average.keys


def test_average_of_an_average_settles_it_first():
    first = averaged(_make_block(1), _make_block(5), 0.75)
    second = averaged(first, _make_block(6), 0.5)
    assert first.holds == (first,) and second.holds[0] is first
    assert second.keys.eq(4.0).all()


def test_average_of_an_empty_block_is_refused():
    with pytest.raises(RuntimeError, match=r"Block\(start_frame=3, num_frames=3, empty\) is averaged before"):
        averaged(_make_block(1), Block(3, 3), 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_many_small_updates_do_not_round_away_whatever_the_dtype(dtype: torch.dtype):
    sink, evicted = _make_block(1, dtype=dtype), _make_block(2, dtype=dtype)
    for _ in range(1000):
        sink = averaged(sink, evicted, 0.999)
    assert sink.keys.dtype == sink.values.dtype == torch.float32
    expected = torch.full_like(sink.keys, 2.0 - 0.999**1000)
    torch.testing.assert_close((sink.keys, sink.values), (expected, -expected), atol=1e-4, rtol=0.0)


def test_first_chunk_is_a_sink_that_never_leaves():
    memory = _make_stream([Route.DISCARD] * 9)
    assert _starts(memory.sinks) == [0]
    assert _starts(memory.window) == [18, 21, 24]


def test_nothing_leaves_before_the_window_is_full():
    full = [evicts(_make_stream([Route.DISCARD] * chunks), CONFIG) for chunks in range(6)]
    assert full == [False, False, False, False, True, True]
    memory = _make_stream([Route.DISCARD] * 3)
    assert make_room(memory, Route.APPEND_SINK, CONFIG) is memory


def test_appending_grows_the_sinks_and_keeps_the_window():
    memory = _make_stream([Route.APPEND_SINK] * 6)
    assert _starts(memory.sinks) == [0, 3, 6]
    assert _starts(memory.window) == [9, 12, 15]


def test_appending_to_full_sinks_averages_into_the_newest():
    full = _make_stream([Route.APPEND_SINK] * 8)
    assert num_frames(full.sinks) == CONFIG.max_sink_frames
    after = make_room(full, Route.APPEND_SINK, CONFIG)
    assert _starts(after.sinks) == _starts(full.sinks)
    assert after.sinks[:-1] == full.sinks[:-1]
    assert after.sinks[-1].keys.allclose(torch.tensor(0.999 * 4 + 0.001 * 5))


def test_siblings_share_their_parents_blocks():
    parent = _make_stream([Route.DISCARD] * 5)
    children = [make_room(parent, route, CONFIG) for route in Route]
    assert all(child.window == parent.window[1:] for child in children)
    assert children[Route.APPEND_SINK].sinks == (parent.sinks[0], parent.window[0])
    assert _starts(parent.window) == [6, 9, 12]


def test_beams_that_average_the_same_blocks_may_share_the_result_and_get_the_same_numbers():
    parent = _make_stream([Route.DISCARD] * 4)
    siblings = [push(parent, _make_block(chunk), CONFIG) for chunk in (4, 5)]
    average = functools.cache(averaged)
    first, second = (make_room(memory, Route.EMA_SINK, CONFIG, average).sinks[-1] for memory in siblings)
    alone = make_room(siblings[1], Route.EMA_SINK, CONFIG).sinks[-1]
    assert first is second and first is not alone
    assert first.keys.equal(alone.keys) and first.values.equal(alone.values)


def test_average_is_asked_for_only_where_the_route_averages():
    def refuse(sink: Block, evicted: Block, decay: float) -> Block:
        raise AssertionError("nothing is to be averaged")

    memory = _make_stream([Route.DISCARD] * 6)
    for route in (Route.DISCARD, Route.APPEND_SINK):
        assert evicts(memory, CONFIG)
        make_room(memory, route, CONFIG, refuse)
    make_room(_make_stream([Route.DISCARD] * 3), Route.EMA_SINK, CONFIG, refuse)


def test_without_sinks_averaging_discards_and_appending_makes_the_first_sink():
    config = replace(CONFIG, sink_frames=0, max_sink_frames=3)
    memory = _make_stream([Route.DISCARD] * 4, config)
    assert memory.sinks == () and evicts(memory, config)
    assert make_room(memory, Route.EMA_SINK, config).sinks == ()
    assert make_room(memory, Route.APPEND_SINK, config).sinks == memory.window[:1]
    no_sinks = replace(config, max_sink_frames=0)
    assert make_room(memory, Route.APPEND_SINK, no_sinks).sinks == ()


@pytest.mark.parametrize(
    ("window", "sink", "chunk", "past"),
    [(12, 3, 3, 2), (12, 0, 3, 3), (21, 0, 3, 6), (14, 3, 3, 2), (6, 3, 3, 0), (9, 3, 1, 5), (12, 6, 3, 1)],
)
def test_window_holds_whole_past_chunks_only(window: int, sink: int, chunk: int, past: int):
    config = MemoryConfig(window_frames=window, sink_frames=sink, chunk_frames=chunk)
    assert config.num_past_chunks == past
    memory = make_room(_make_stream([Route.DISCARD] * 30, config), Route.DISCARD, config)
    assert len(memory.window) == past
    assert num_frames(memory.sinks) == sink


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("chunk_frames", 0),
        ("chunk_frames", -1),
        ("sink_frames", -3),
        ("sink_frames", 1),
        ("sink_frames", 4),
        ("max_sink_frames", 2),
        ("max_sink_frames", -1),
        ("window_frames", 5),
        ("window_frames", 0),
        ("ema_decay", 1.5),
        ("ema_decay", -0.1),
        ("ema_decay", float("nan")),
        ("positions", "absolute"),
    ],
)
def test_config_refusal_names_option_and_value(option: str, value: object):
    with pytest.raises(ValueError, match=rf"^{option} must .*got {re.escape(repr(value))}$"):
        replace(CONFIG, **{option: value})


@given(st.integers(-1, 4), st.integers(-1, 6), st.integers(-1, 8), st.integers(-1, 12))
def test_config_is_refused_exactly_where_its_sizes_do_not_fit(chunk: int, sink: int, max_sink: int, window: int):
    fits = chunk >= 1 and sink >= 0 and sink % chunk == 0 and max_sink >= sink and window >= sink + chunk
    try:
        MemoryConfig(chunk_frames=chunk, sink_frames=sink, max_sink_frames=max_sink, window_frames=window)
    except ValueError:
        assert not fits
    else:
        assert fits


@st.composite
def _configs(draw: st.DrawFn) -> MemoryConfig:
    """Sizes whose windows and sinks need not be whole chunks."""
    chunk_frames = draw(st.integers(1, 3))
    sink_frames = chunk_frames * draw(st.integers(0, 2))
    return MemoryConfig(
        chunk_frames=chunk_frames,
        sink_frames=sink_frames,
        max_sink_frames=sink_frames + draw(st.integers(0, 7)),
        window_frames=sink_frames + chunk_frames + draw(st.integers(0, 7)),
        ema_decay=draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0])),
    )


@settings(deadline=None)
@given(_configs(), st.lists(st.sampled_from(Route), max_size=16))
def test_places_are_start_frames_or_count_from_zero_alike_while_no_chunk_is_lost(
    config: MemoryConfig, routes: list[Route]
):
    memory, left = Memory(), False
    for chunk, route in enumerate(routes):
        left |= evicts(memory, config)
        memory = make_room(memory, route, config)
        here = chunk * config.chunk_frames
        stream = places(memory, here, replace(config, positions="stream"))
        window = places(memory, here, replace(config, positions="window"))
        assert stream == [*_starts(memory.blocks), here]
        assert window == [config.chunk_frames * index for index in range(len(memory.blocks) + 1)]
        assert (stream == window) == (len(memory.blocks) == chunk)
        assert left or stream == window
        memory = push(memory, _make_block(chunk, frames=config.chunk_frames), config)


class _Plain(NamedTuple):
    """What a memory should hold: `(start_frame, content)` of every block, without any tensor."""

    sinks: tuple[tuple[int, float], ...] = ()
    window: tuple[tuple[int, float], ...] = ()

    def fate(self, route: Route, config: MemoryConfig) -> Route | None:
        """What becomes of the window's oldest block before the next chunk; None where it may stay."""
        if config.sink_frames + (len(self.window) + 1) * config.chunk_frames <= config.window_frames:
            return None
        if route == Route.APPEND_SINK and (len(self.sinks) + 1) * config.chunk_frames <= config.max_sink_frames:
            return Route.APPEND_SINK
        return Route.EMA_SINK if route != Route.DISCARD and self.sinks else Route.DISCARD

    def with_room(self, route: Route, config: MemoryConfig) -> "_Plain":
        fate = self.fate(route, config)
        if fate is None:
            return self
        sinks = list(self.sinks)
        if fate == Route.APPEND_SINK:
            sinks.append(self.window[0])
        elif fate == Route.EMA_SINK:
            start, content = sinks[-1]
            sinks[-1] = start, config.ema_decay * content + (1.0 - config.ema_decay) * self.window[0][1]
        return _Plain(tuple(sinks), self.window[1:])

    def with_chunk(self, start: int, content: float, config: MemoryConfig) -> "_Plain":
        if start < config.sink_frames:
            return self._replace(sinks=(*self.sinks, (start, content)))
        return self._replace(window=(*self.window, (start, content)))


class _Beam(NamedTuple):
    """A memory after some chunks, and what it should hold."""

    memory: Memory = Memory()
    plain: _Plain = _Plain()
    num_chunks: int = 0


_MOST_BEAMS = 5
_routes = st.sampled_from(Route)
_which = st.integers(0, _MOST_BEAMS - 1)


def _for_all(route: Route) -> list[Route]:
    return [route] * _MOST_BEAMS


class _Branching(RuleBasedStateMachine):
    """Beams that go on, fork and are pruned at random; each is compared with its plain model after every step."""

    @initialize(config=_configs(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    def begin(self, config: MemoryConfig, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype
        self.beams = [_Beam()]
        self.num_made = 0
        # Keys and values of every block as they were when a beam first had it.
        self.originals: WeakKeyDictionary[Block, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    @rule(which=_which, routes=st.lists(_routes, min_size=1, max_size=8))
    def go_on(self, which: int, routes: list[Route]) -> None:
        index = which % len(self.beams)
        for route in routes:
            self.beams[index] = self._child(self.beams[index], route)

    @precondition(lambda self: len(self.beams) < _MOST_BEAMS)
    @rule(which=_which, routes=st.lists(_routes, min_size=1, max_size=3))
    def fork(self, which: int, routes: list[Route]) -> None:
        """Siblings join their parent, which is compared on, too."""
        parent = self.beams[which % len(self.beams)]
        self.beams += [self._child(parent, route) for route in routes[: _MOST_BEAMS - len(self.beams)]]

    @rule(routes=st.lists(_routes, min_size=_MOST_BEAMS, max_size=_MOST_BEAMS) | _routes.map(_for_all))
    def go_on_together(self, routes: list[Route]) -> None:
        """A level whose beams share their averages: there is one for each pair of blocks, however many ask for it."""
        asked = list(zip(self.beams, routes, strict=False))
        pairs = [
            (beam.memory.sinks[-1], beam.memory.window[0])
            for beam, route in asked
            if beam.plain.fate(route, self.config) == Route.EMA_SINK
        ]
        known = set(self.originals)
        average = functools.cache(averaged)
        children = [self._child(beam, route, average) for beam, route in asked]
        assert len(set(self.originals) - known) == len(children) + len(set(pairs))
        self.beams = children

    @rule(kept=st.sets(_which, min_size=1))
    def prune(self, kept: set[int]) -> None:
        self.beams = [beam for index, beam in enumerate(self.beams) if index in kept] or self.beams[:1]

    @rule(which=_which)
    def settle(self, which: int) -> None:
        for block in self.beams[which % len(self.beams)].memory.blocks:
            block.settle()
            assert block.holds == (block,)

    def _child(self, beam: _Beam, route: Route, average: Average = averaged) -> _Beam:
        fate = beam.plain.fate(route, self.config)
        assert evicts(beam.memory, self.config) == (fate is not None)
        room, plain = make_room(beam.memory, route, self.config, average), beam.plain.with_room(route, self.config)
        _assert_holds(room, plain)
        if fate == Route.EMA_SINK:
            assert room.sinks[:-1] == beam.memory.sinks[:-1] and room.sinks[-1] not in beam.memory.blocks
            assert room.sinks[-1].keys.dtype == room.sinks[-1].values.dtype == torch.float32
        else:
            assert set(room.blocks) <= set(beam.memory.blocks)

        chunk_frames = self.config.chunk_frames
        content = self.num_made % 200 - 100  # exact in every dtype
        self.num_made += 1
        block = Block(beam.num_chunks * chunk_frames, chunk_frames)
        keys = torch.full((2, chunk_frames, 1, 2), float(content), dtype=self.dtype)
        block.fill(keys, -keys)
        memory = push(room, block, self.config)
        for held in memory.blocks:
            self.originals.setdefault(held, (held.keys.clone(), held.values.clone()))
        return _Beam(memory, plain.with_chunk(block.start_frame, content, self.config), beam.num_chunks + 1)

    @invariant()
    def every_beam_holds_what_it_should(self) -> None:
        for memory, plain, _ in self.beams:
            _assert_holds(memory, plain)
            assert _starts(memory.blocks) == sorted(set(_starts(memory.blocks)))

    @invariant()
    def sinks_and_window_keep_to_their_sizes(self) -> None:
        for memory, _, _ in self.beams:
            room = make_room(memory, Route.DISCARD, self.config)
            assert num_frames(memory.sinks) <= self.config.max_sink_frames
            attended = self.config.sink_frames + num_frames(room.window) + self.config.chunk_frames
            assert attended <= self.config.window_frames

    @invariant()
    def no_block_ever_changes_or_shares_its_tensors(self) -> None:
        for block, (keys, values) in self.originals.items():
            assert block.keys.equal(keys) and block.values.equal(values)
        tensors = [tensor for block in self.originals for tensor in (block.keys, block.values)]
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)

    @invariant()
    def only_blocks_of_living_beams_are_alive(self) -> None:
        blocks = {block for beam in self.beams for block in beam.memory.blocks}
        assert set(self.originals) == blocks.union(*(block.holds for block in blocks))


def _assert_holds(memory: Memory, plain: _Plain) -> None:
    for blocks, expected in ((memory.sinks, plain.sinks), (memory.window, plain.window)):
        assert _starts(blocks) == [start for start, _ in expected]
        for block, (_, content) in zip(blocks, expected, strict=True):
            # Closer than half precision could be.
            assert block.keys.flatten().tolist() == pytest.approx([content] * block.keys.numel(), rel=1e-5, abs=1e-4)
            assert block.values.equal(-block.keys)


def test_branching_memory_agrees_with_a_plain_model_whatever_is_routed_and_pruned():
    options = settings(max_examples=100, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(_Branching, settings=options)


def test_configurations_import_without_torch():
    code = "import sys, searchkit.memory, searchkit.backbones.sampler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
