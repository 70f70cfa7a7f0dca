"""The key/value memory of a stream: blocks, a local window, sinks, and the routes between them.

Pure values, and no network: blocks hold un-rotated keys and values, so that a block may be placed, averaged
and shared between beams without touching it.

The order of events, as in Stream-T1 (arXiv 2605.04461): before the first pass of a chunk, `make_room` sends
away the block for which the window has no room; all passes of the chunk, the clean one included, attend to
what is left; `push` then adds the chunk's own block.

Letters: L layers, N tokens of a chunk, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, get_args

from searchkit.types import Route

if TYPE_CHECKING:  # configurations import this module and must not wait for torch
    from torch import Tensor


class Block:
    """One chunk's un-rotated keys and values of all layers, `[L, N, H, D]`: a slot that is written once.

    A block is created with its chunk and filled by the chunk's clean pass, which only chunks that are
    expanded from ever run. Blocks are compared by identity and shared between beams, so nobody changes their
    tensors. An average holds what it is of until it is settled, and is computed whenever it is read before: most
    candidates are given up, and until one of the others is gone on from, all share their parent's blocks.
    """

    __slots__ = ("__weakref__", "_average", "_contents", "is_average", "num_frames", "start_frame")

    def __init__(self, start_frame: int, num_frames: int, *, is_average: bool = False) -> None:
        self.start_frame = start_frame
        self.num_frames = num_frames
        self.is_average = is_average
        self._contents: tuple[Tensor, Tensor] | None = None
        self._average: tuple[Block, Block, float] | None = None

    def __repr__(self) -> str:
        state = "filled" if self.filled else "empty"
        return f"Block(start_frame={self.start_frame}, num_frames={self.num_frames}, {state})"

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Writes the keys and values, `[L, N, H, D]` each, and takes ownership of them.

        Raises:
            ValueError: the shapes differ or are not four-dimensional.
            RuntimeError: the block is filled already.
        """
        if keys.ndim != 4 or keys.shape != values.shape:
            raise ValueError(f"keys and values must be [L, N, H, D] alike, got {keys.shape} and {values.shape}")
        if self.filled:
            raise RuntimeError(f"{self} cannot be filled twice")
        self._contents = keys, values

    def settle(self) -> None:
        """Computes an average once and for all, and lets go of the blocks that it is of."""
        if self._average is not None:
            self._contents = self.keys, self.values
            self._average = None

    @property
    def filled(self) -> bool:
        return self._contents is not None or self._average is not None

    @property
    def keys(self) -> Tensor:
        return self._read(0)

    @property
    def values(self) -> Tensor:
        return self._read(1)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values; 0 while the block is empty, or an average that is not settled."""
        return sum(tensor.nbytes for tensor in self._contents or ())

    @property
    def holds(self) -> tuple[Block, ...]:
        """The blocks whose bytes it keeps alive: itself, or those that it is the average of."""
        return (self,) if self._average is None else self._average[:2]

    def _read(self, index: int) -> Tensor:
        average = self._average
        if average is not None:
            sink, evicted, decay = average
            # `lerp` allocates: the old sink may be shared with another beam.
            return sink._read(index).float().lerp(evicted._read(index).float(), 1.0 - decay)
        if self._contents is None:
            raise RuntimeError(f"{self} is read before its clean pass filled it")
        return self._contents[index]


def averaged(sink: Block, evicted: Block, decay: float) -> Block:
    """Returns a new block `decay * sink + (1 - decay) * evicted` at the sink's place (Stream-T1, EMA-Sink).

    The average is float32 whatever the model's dtype: at a decay of 0.999 most of an update would round away
    in bfloat16. Whoever reads the block casts it.

    Raises:
        RuntimeError: one of the two is empty.
    """
    for part in (sink, evicted):
        if not part.filled:
            raise RuntimeError(f"{part} is averaged before its clean pass filled it")
        part.settle()  # an average of averages would hold all that they are of
    block = Block(sink.start_frame, sink.num_frames, is_average=True)
    block._average = sink, evicted, decay
    return block


Average = Callable[[Block, Block, float], Block]
Positions = Literal["stream", "window"]
SinkOnSwitch = Literal["keep", "rerun"]


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Sizes of the memory, in latent frames. The defaults are those of Stream-T1's release.

    Attributes:
        chunk_frames: frames of a chunk.
        window_frames: frames attended in all while nothing is appended: sink, past chunks, current chunk.
        sink_frames: the first frames of the stream, never evicted; 0 or a multiple of `chunk_frames`.
        max_sink_frames: frames of all sinks, the first included, up to which evicted chunks are appended.
        ema_decay: weight of the old sink in an average, from 0 to 1.
        positions: where the network sees a block. "stream" numbers latent frames from the stream's start, which ends
            where the network's rotary table does; "window" numbers what is attended from 0, so a stream may go on
            for ever. A model wants what it was trained with. Both are the same until something leaves the window.
        sink_on_switch: whether a change of prompt in mid-stream keeps the first sinks, or runs them again with the new
            text; the window always runs again, and averages never do.
    """

    chunk_frames: int = 3
    window_frames: int = 12
    sink_frames: int = 3
    max_sink_frames: int = 15
    ema_decay: float = 0.999
    positions: Positions = "stream"
    sink_on_switch: SinkOnSwitch = "keep"

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {self.chunk_frames}")
        if self.sink_frames < 0 or self.sink_frames % self.chunk_frames:
            raise ValueError(
                f"sink_frames must be a multiple of chunk_frames ({self.chunk_frames}) or 0, got {self.sink_frames}"
            )
        if self.max_sink_frames < self.sink_frames:
            raise ValueError(
                f"max_sink_frames must be at least sink_frames ({self.sink_frames}), got {self.max_sink_frames}"
            )
        if self.window_frames < self.sink_frames + self.chunk_frames:
            raise ValueError(
                f"window_frames must hold the sink and one chunk ({self.sink_frames} + {self.chunk_frames}), "
                f"got {self.window_frames}"
            )
        if not 0.0 <= self.ema_decay <= 1.0:
            raise ValueError(f"ema_decay must be from 0 to 1, got {self.ema_decay}")
        if self.positions not in get_args(Positions):
            raise ValueError(f"positions must be one of {', '.join(get_args(Positions))}, got {self.positions!r}")
        if self.sink_on_switch not in get_args(SinkOnSwitch):
            raise ValueError(
                f"sink_on_switch must be one of {', '.join(get_args(SinkOnSwitch))}, got {self.sink_on_switch!r}"
            )

    @property
    def num_past_chunks(self) -> int:
        """Whole chunks of the window between the sink and the current chunk."""
        return (self.window_frames - self.sink_frames - self.chunk_frames) // self.chunk_frames

    @property
    def max_attended_frames(self) -> int:
        """Frames attended once the sinks are full."""
        return self.window_frames - self.sink_frames + self.max_sink_frames


@dataclass(frozen=True, eq=False)
class Memory:
    """What a chunk attends to, oldest first. Forking a stream copies these tuples and shares the blocks."""

    sinks: tuple[Block, ...] = ()
    window: tuple[Block, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.sinks + self.window


def num_frames(blocks: Sequence[Block]) -> int:
    """Returns the latent frames held by `blocks`."""
    return sum(block.num_frames for block in blocks)


def places(memory: Memory, start_frame: int, config: MemoryConfig) -> list[int]:
    """Returns the latent frames at which a memory's blocks sit, and last that of the chunk which attends to them.

    Args:
        start_frame: where the chunk starts in the stream.
    """
    if config.positions == "stream":
        return [*(block.start_frame for block in memory.blocks), start_frame]
    return list(accumulate((block.num_frames for block in memory.blocks), initial=0))


def push(memory: Memory, block: Block, config: MemoryConfig) -> Memory:
    """Returns the memory with a new chunk's block, in the window once the first sink is complete."""
    if not memory.window and num_frames(memory.sinks) < config.sink_frames:
        return replace(memory, sinks=(*memory.sinks, block))
    return replace(memory, window=(*memory.window, block))


def evicts(memory: Memory, config: MemoryConfig) -> bool:
    """Returns whether a block leaves the window before the next chunk, so that its route has an effect."""
    return len(memory.window) > config.num_past_chunks


def make_room(memory: Memory, route: Route, config: MemoryConfig, average: Average = averaged) -> Memory:
    """Returns the memory with room for the next chunk; `route` says where the window's oldest block goes.

    As in Stream-T1's release, appending to full sinks averages instead, and averaging goes into the newest
    sink. Without any sink an average discards. Where nothing has to leave, the memory comes back as it is.

    Args:
        average: makes an averaged block; a cached one lets beams that average the same blocks share the result.
    """
    if not evicts(memory, config):
        return memory
    evicted, *rest = memory.window
    return Memory(_sinks_after(memory.sinks, evicted, route, config, average), tuple(rest))


def _sinks_after(
    sinks: tuple[Block, ...], evicted: Block, route: Route, config: MemoryConfig, average: Average
) -> tuple[Block, ...]:
    has_room = num_frames(sinks) + evicted.num_frames <= config.max_sink_frames
    match route:
        case Route.APPEND_SINK if has_room:
            return (*sinks, evicted)
        case Route.APPEND_SINK | Route.EMA_SINK if sinks:
            return (*sinks[:-1], average(sinks[-1], evicted, config.ema_decay))
        case _:
            return sinks
