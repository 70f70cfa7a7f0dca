"""What a page embeds of a trial: its video, small enough to be sent around, and the clips of its candidates.

A trial's `clips/` holds a JPEG a chunk: a row for each finished candidate in the order of candidates.parquet, a column
for each stored pixel frame, and `clips.json` with the size and the frame rate of a cell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

MAX_HEIGHT = 256  # pixels; larger videos are embedded at this height
CRF = 26  # of those: a page is for looking, the trial's own folder has the original


class Video(NamedTuple):
    """A video as it is embedded: the bytes of its mp4, and whether it was made smaller for it."""

    content: bytes
    is_smaller: bool


class Clips(NamedTuple):
    """Candidates of a trial as sheets of cells.

    height, width: of a cell, in pixels.
    fps: of the stored pixel frames.
    sheets: JPEGs by their chunks.
    """

    height: int
    width: int
    fps: float
    sheets: Mapping[int, bytes]

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.sheets.values()))


def read_video(path: Path, *, kept: Path) -> Video:
    """Returns a stored video, scaled down if it is higher than MAX_HEIGHT pixels.

    Args:
        kept: the file that keeps a scaled one for the next report; it is made anew where the stored one is newer.

    Raises:
        OSError: the stored video is missing or is none, or the scaled one cannot be written.
    """
    from searchkit.video import height_of, smaller

    if height_of(path) <= MAX_HEIGHT:
        return Video(path.read_bytes(), is_smaller=False)
    if not kept.exists() or kept.stat().st_mtime < path.stat().st_mtime:
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f".{kept.name}")
        draft.write_bytes(smaller(path, height=MAX_HEIGHT, crf=CRF))
        os.replace(draft, kept)
    return Video(kept.read_bytes(), is_smaller=True)


def read_clips(folder: Path, num_finished: Mapping[int, int]) -> Clips:
    """Returns the clips of a trial's folder.

    Args:
        num_finished: candidates that were finished, by chunk.

    Raises:
        ValueError: there are none, or they are not those of these candidates; a sentence says so.
    """
    from PIL import Image

    described = folder / "clips" / "clips.json"
    if not described.is_file():
        raise ValueError(
            "This trial stored no clips of its candidates, as those of older runs and of cold decoding do not."
        )
    try:
        cell = json.loads(described.read_text())
        clips = Clips(int(cell["height"]), int(cell["width"]), float(cell["fps"]), _sheets(described.parent))
        for chunk, num in num_finished.items():
            with Image.open(described.parent / f"{chunk:02}.jpg") as sheet:
                columns, rest = divmod(sheet.width, clips.width)
                if rest or not columns or sheet.height != num * clips.height:
                    raise ValueError(f"sheet of chunk {chunk} is {sheet.width} x {sheet.height}")
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
        return _refuse(folder)
    return clips


def _sheets(folder: Path) -> dict[int, bytes]:
    return {int(path.stem): path.read_bytes() for path in sorted(folder.glob("*.jpg"))}


def _refuse(folder: Path) -> Clips:
    raise ValueError(f"The clips of trial {folder.name} are damaged or belong to other candidates.")
