"""The file that W&B keeps of a run on this machine, `run-ID.wandb`, and that `wandb sync` uploads.

It is a LevelDB log of protobuf records: blocks of 32 KiB, whose pieces of records are each headed by a checksum, a
length and a kind. W&B writes it late, so a killed process leaves one that is empty or that ends in the middle of a
record. `wandb sync` stops at either, and does not go on to the files of the same run that come after it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7  # bytes; the file begins with a header of its own of the same size
LAST = (1, 4)  # kinds of pieces that end a record: a whole one, and the last piece of one


def read(path: Path) -> Iterator[Any]:
    """Yields the whole records of a file, as W&B's protobuf messages."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # which takes its names from a module for the version of protobuf
    for data, _ in _records(path.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        yield record


def mend(path: Path) -> int:
    """Cuts a killed process's file off after its last whole record, and returns the rows of history that it has.

    A file that does not even say whose it is holds nothing, and is removed.
    """
    kinds = [record.WhichOneof("record_type") for record in read(path)]
    if "run" not in kinds:
        path.unlink()
        return 0
    whole = max(end for _, end in _records(path.read_bytes()))
    if whole < path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(whole)
    return kinds.count("history")


def _records(log: bytes) -> Iterator[tuple[bytes, int]]:
    """Yields whole records, and where each ends."""
    at, record = HEADER, b""
    while at + HEADER <= len(log):
        if BLOCK - at % BLOCK < HEADER:  # no room for a piece: the block is filled up
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<HB", log[at + 4 : at + HEADER])
        piece = log[at + HEADER : at + HEADER + length]
        if len(piece) < length:
            return
        at += HEADER + length
        record += piece
        if kind in LAST:
            yield record, at
            record = b""
