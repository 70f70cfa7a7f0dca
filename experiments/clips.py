"""Small moving pictures of every candidate, for the report's tree.

    clips/00.jpg        one row a finished candidate of the chunk, in the order of its records, one column a pixel frame
    clips/clips.json    size of a cell in pixels, and frames a second

Letters: R candidates, F pixel frames, h and w size of a cell.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from searchkit.types import Action

if TYPE_CHECKING:
    from PIL.Image import Image

    from searchkit.state import StreamState
    from searchkit.video import Pixels

MAX_HEIGHT = 96  # pixels of a cell
EVERY = 2  # pixel frames, of which one is kept
QUALITY = 80  # of JPEG

Lineage = tuple[Action, ...]


class Sheet(NamedTuple):
    """Candidates of one chunk that were made together, and their picture as JPEG."""

    lineages: tuple[Lineage, ...]
    jpeg: bytes


class Cell(NamedTuple):
    """Size of a candidate's picture in pixels."""

    height: int
    width: int


def cell_of(height: int, width: int) -> Cell:
    """Returns the size at which frames of some size are kept."""
    scale = min(1.0, MAX_HEIGHT / height)
    return Cell(round(height * scale), round(width * scale))


def sheet_of(states: Sequence[StreamState]) -> bytes:
    """Returns a JPEG of candidates' newest chunks; nothing where they were decoded cold and keep no frames."""
    import torch
    import torch.nn.functional as F
    from PIL import Image as images

    if not states or not states[0].frames:
        return b""
    newest = torch.stack([state.frames[-1][::EVERY] for state in states])
    cell = cell_of(*newest.shape[-2:])
    if newest.shape[-2] > cell.height:
        newest = F.interpolate(newest.flatten(0, 1), cell, mode="area").unflatten(0, newest.shape[:2])
    levels = newest.mul_(255).round_().int().byte()  # from integers torch is three times as fast as from floats
    cells = levels.permute(2, 0, 3, 1, 4)  # [3, R, h, F, w]
    planes = cells.flatten(1, 2).flatten(2, 3).cpu().numpy()
    return _encoded(images.merge("RGB", [images.fromarray(plane) for plane in planes]))


def write_clips(folder: Path, sheets: Sequence[Sheet], order: Sequence[Lineage], *, size: Cell, fps: int) -> None:
    """Writes the sheets of a search, one a chunk; nothing where not all candidates have pictures.

    They have none where they were decoded cold, or were made before pictures were asked for.

    Args:
        order: the finished candidates' lineages in the order of their records.
        size: of the pixel frames.
        fps: pixel frames a second.
    """
    if not sheets or not {lineage for sheet in sheets for lineage in sheet.lineages}.issuperset(order):
        return
    folder.mkdir()
    cell = cell_of(*size)
    by_chunk: dict[int, list[Sheet]] = {}
    for sheet in sheets:
        by_chunk.setdefault(len(sheet.lineages[0]) - 1, []).append(sheet)
    for chunk, made in by_chunk.items():
        wanted = [lineage for lineage in order if len(lineage) == chunk + 1]
        (folder / f"{chunk:02}.jpg").write_bytes(_joined(made, wanted, cell))
    stored = {"height": cell.height, "width": cell.width, "fps": fps / EVERY}
    (folder / "clips.json").write_text(json.dumps(stored))


def _joined(sheets: Sequence[Sheet], wanted: Sequence[Lineage], cell: Cell) -> bytes:
    """Returns one picture of the candidates of a chunk; the one that there is, where they were made together."""
    if len(sheets) == 1 and list(sheets[0].lineages) == list(wanted):
        return sheets[0].jpeg
    import numpy as np
    from PIL import Image as images

    rows: Mapping[Lineage, Pixels] = {
        lineage: row
        for sheet in sheets
        for lineage, row in zip(sheet.lineages, _decoded(sheet.jpeg, cell), strict=True)
    }
    return _encoded(images.fromarray(np.concatenate([rows[lineage] for lineage in wanted])))


def _encoded(picture: Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _decoded(jpeg: bytes, cell: Cell) -> Pixels:
    """Returns the rows of a picture, `[R, h, F * w, 3]`."""
    import numpy as np
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(jpeg)))
    return picture.reshape(-1, cell.height, *picture.shape[1:])
