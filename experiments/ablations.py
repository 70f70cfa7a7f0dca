"""Ablations: Stream-T1 (arXiv 2605.04461) without one of its ideas, all else equal, to measure what the idea adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from policies import StreamT1


def stream_t1_without_propagation() -> StreamT1:
    """Stream-T1 with noise of its own for every chunk, to measure what carrying noise on adds."""
    return replace(StreamT1(), noise_correlation=0.0)


def stream_t1_without_pruning() -> StreamT1:
    """Stream-T1 with beams drawn at random at the same cost, to measure what choosing them by reward adds."""
    return replace(StreamT1(), pruning="random")


def stream_t1_without_memory() -> StreamT1:
    """Stream-T1 with every chunk that leaves the window discarded, to measure what memory sinking adds."""
    full = StreamT1()
    return replace(full, routing=replace(full.routing, short_threshold=math.inf))


def stream_t1_short_only() -> StreamT1:
    """Stream-T1 with candidates compared by the short score alone, to measure what the long score adds."""
    full = StreamT1()
    return replace(full, fusion=replace(full.fusion, short_cap=1.0, ramp=1))


def stream_t1_long_only() -> StreamT1:
    """Stream-T1 with candidates compared by the long score alone, to measure what the short score adds."""
    full = StreamT1()
    return replace(full, fusion=replace(full.fusion, short_cap=0.0))


def stream_t1_ema_only() -> StreamT1:
    """Stream-T1 with every chunk worth keeping averaged into the sink, to measure what sinks of their own add."""
    full = StreamT1()
    return replace(full, routing=replace(full.routing, long_threshold=math.inf))


def stream_t1_append_only() -> StreamT1:
    """Stream-T1 with every chunk worth keeping a sink of its own until all are full, to measure what averages add."""
    full = StreamT1()
    return replace(full, routing=replace(full.routing, long_threshold=-math.inf))


ABLATIONS: Mapping[str, Callable[[], StreamT1]] = {
    "stream-t1-without-propagation": stream_t1_without_propagation,
    "stream-t1-without-pruning": stream_t1_without_pruning,
    "stream-t1-without-memory": stream_t1_without_memory,
    "stream-t1-short-only": stream_t1_short_only,
    "stream-t1-long-only": stream_t1_long_only,
    "stream-t1-ema-only": stream_t1_ema_only,
    "stream-t1-append-only": stream_t1_append_only,
}
