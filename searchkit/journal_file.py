"""The file of a journal, which only grows: by one record a level, so that a kill can cost it no more than the last one.

A record is two lengths in bytes, then so much JSON, which holds calls to a problem and their answers, then so much of
tensors, which are latents and notes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchkit.types import Action, Route

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2  # of records; where one has another format, a file ends
LENGTHS = struct.Struct("<QQ")

# A candidate's place: the record that holds it, and its row among those of the record. None is the root.
Place = tuple[int, int] | None


class JournalFile:
    """Records by their numbers. What lies after the last whole one is passed over.

    Args:
        path: of the file, which need not be there; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._bounds = record_bounds(path)

    def append(self, calls: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Writes a record after the last one.

        Raises:
            OSError: the file cannot be written.
        """
        import torch

        forms = {name: (str(tensor.dtype).removeprefix("torch."), tensor.shape) for name, tensor in tensors.items()}
        header = json.dumps({"format": FORMAT, "tensors": forms, "calls": calls}).encode()
        content = [tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data for tensor in tensors.values()]
        record = b"".join([LENGTHS.pack(len(header), sum(map(len, content))), header, *content])
        with self._path.open("ab") as file:
            file.write(record)
        self._bounds.append(self._bounds[-1] + len(record))

    def calls(self, record: int) -> list[dict[str, Any]]:
        """Returns the calls of a record; none where there is none, or it is damaged or of another format."""
        try:
            header = self._read(record)[0]
            calls: list[dict[str, Any]] = header["calls"] if header["format"] == FORMAT else []
        except (OSError, IndexError, ValueError, KeyError, TypeError):
            return []
        return calls

    def tensors(self, record: int) -> dict[str, Tensor]:
        """Returns the tensors of a record that has calls."""
        import numpy as np
        import torch

        header, content = self._read(record)
        forms = [(getattr(torch, dtype), shape) for dtype, shape in header["tensors"].values()]
        sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in forms]
        pieces = torch.from_numpy(np.frombuffer(bytearray(content), np.uint8)).split(sizes)
        tensors = [piece.clone().view(dtype).view(shape) for piece, (dtype, shape) in zip(pieces, forms, strict=True)]
        return dict(zip(header["tensors"], tensors, strict=True))

    def cut(self, record: int) -> None:
        """Removes a record and whatever lies after it, whole or not.

        Raises:
            OSError: the file cannot be written.
        """
        del self._bounds[record + 1 :]
        if self._path.exists():
            os.truncate(self._path, self._bounds[-1])

    def _read(self, record: int) -> tuple[dict[str, Any], bytes]:
        """Returns a record's JSON, and its tensors' bytes."""
        start, end = self._bounds[record : record + 2]
        with self._path.open("rb") as file:
            file.seek(start)
            length = LENGTHS.unpack(file.read(LENGTHS.size))[0]
            return json.loads(file.read(length)), file.read(end - file.tell())


def record_bounds(path: Path) -> list[int]:
    """Returns where the whole records of a file start, and where the last one ends; 0 for a file that is not there."""
    bounds = [0]
    if not path.exists():
        return bounds
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while len(lengths := file.read(LENGTHS.size)) == LENGTHS.size:
            end = bounds[-1] + LENGTHS.size + sum(LENGTHS.unpack(lengths))
            if end > size:
                break
            bounds.append(end)
            file.seek(end)
    return bounds


def place_of(stored: Sequence[int] | None) -> Place:
    """Returns a place that was stored."""
    return None if stored is None else (stored[0], stored[1])


def action_of(stored: Sequence[Any]) -> Action:
    """Returns an action that was stored."""
    seed, route, correlation, passes = stored
    return Action(seed, Route(route), correlation, passes)
