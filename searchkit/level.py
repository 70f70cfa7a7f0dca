"""The requests of a level by what they share: branches of one prefix, and turns of as many as memory holds at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from searchkit.cost import Cost
from searchkit.memory import Memory, evicts
from searchkit.state import StreamState
from searchkit.types import Request, Route

if TYPE_CHECKING:
    from searchkit.backbones.wan import Prefix

Branch = tuple[StreamState, Route]


def branch_of(request: Request[StreamState]) -> Branch:
    """Returns the parent and the route in effect, by which siblings share a prefix: DISCARD where nothing leaves."""
    state, action = request
    route = Route(action.route)
    return state, route if evicts(state.memory_after, state.model.memory) else Route.DISCARD


def in_turns(requests: Sequence[Request[StreamState]], budget: int) -> list[list[int]]:
    """Returns the requests' indices in turns whose prefixes fit a budget of bytes; a branch is never divided."""
    branches: dict[Branch, list[int]] = {}
    for row, request in enumerate(requests):
        branches.setdefault(branch_of(request), []).append(row)
    turns: list[list[int]] = []
    room = 0
    for (state, _), rows in branches.items():
        size = state.model.prefix_bytes(state.memory_after)
        if not turns or size > room:
            turns.append([])
            room = budget
        turns[-1] += rows
        room -= size
    return [sorted(rows) for rows in turns]


def cache_bytes(caches: Iterable[Any]) -> int:
    """Returns the bytes of the distinct tensors in decoder caches; a cache is one, several of them, or None."""
    parts = [part for cache in caches for part in (cache if isinstance(cache, tuple) else (cache,))]
    return sum({id(part): part.nbytes for part in parts if hasattr(part, "nbytes")}.values())


def peak(memories: Sequence[Memory], prefixes: Sequence[Prefix]) -> Cost:
    """Returns the bytes of the distinct blocks and prefixes that are alive."""
    held = {part for memory in memories for block in memory.blocks for part in block.holds}
    block_bytes = sum(block.nbytes for block in held)
    prefix_bytes = sum(prefix.nbytes for prefix in prefixes)
    return Cost(peak_bytes=block_bytes + prefix_bytes, peak_block_bytes=block_bytes, peak_prefix_bytes=prefix_bytes)
