"""The memory: blocks are written once and shared, and routes do what Stream-T1's release does."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from searchkit.memory import Block, Memory, MemoryConfig, averaged, evicts, make_room, num_frames, push
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


def test_many_small_updates_do_not_round_away_in_bfloat16():
    sink, evicted = _make_block(1, dtype=torch.bfloat16), _make_block(2, dtype=torch.bfloat16)
    for _ in range(1000):
        sink = averaged(sink, evicted, 0.999)
    torch.testing.assert_close(sink.keys, torch.full_like(sink.keys, 2.0 - 0.999**1000), atol=1e-4, rtol=0.0)


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
        ("sink_frames", -3),
        ("sink_frames", 4),
        ("max_sink_frames", 2),
        ("window_frames", 5),
        ("ema_decay", 1.5),
    ],
)
def test_config_refusal_names_option_and_value(option: str, value: float):
    with pytest.raises(ValueError, match=rf"{option} must .*got {value}"):
        replace(CONFIG, **{option: value})


@given(
    routes=st.lists(st.sampled_from(Route), max_size=30),
    chunk_frames=st.integers(1, 3),
    sink_chunks=st.integers(0, 2),
    spare_sink_frames=st.integers(0, 8),
    past_frames=st.integers(0, 9),
)
def test_any_routes_agree_with_a_plain_model(
    routes: list[Route], chunk_frames: int, sink_chunks: int, spare_sink_frames: int, past_frames: int
):
    sink_frames = sink_chunks * chunk_frames
    config = MemoryConfig(
        chunk_frames=chunk_frames,
        sink_frames=sink_frames,
        max_sink_frames=sink_frames + spare_sink_frames,
        window_frames=sink_frames + chunk_frames + past_frames,
        ema_decay=0.5,
    )
    starts: list[int] = []  # of the sinks, in chunks
    contents: list[float] = []  # of the sinks
    window: list[int] = []  # chunks
    memory = Memory()
    for chunk, route in enumerate(routes):
        if (len(window) + 1) * chunk_frames > past_frames + chunk_frames:
            leaving = window.pop(0)
            fits = (len(starts) + 1) * chunk_frames <= sink_frames + spare_sink_frames
            if route == Route.APPEND_SINK and fits:
                starts.append(leaving)
                contents.append(leaving)
            elif route != Route.DISCARD and contents:
                contents[-1] = 0.5 * contents[-1] + 0.5 * leaving
        if chunk < sink_chunks:
            starts.append(chunk)
            contents.append(chunk)
        else:
            window.append(chunk)

        memory = push(make_room(memory, route, config), _make_block(chunk, frames=chunk_frames), config)
        assert _starts(memory.sinks) == [start * chunk_frames for start in starts]
        assert [_content(sink.keys) for sink in memory.sinks] == pytest.approx(contents)
        assert [_content(block.keys) for block in memory.window] == window


def _content(keys: Tensor) -> float:
    return float(keys.flatten()[0])


def test_configurations_import_without_torch():
    code = "import sys, searchkit.memory, searchkit.backbones.sampler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
