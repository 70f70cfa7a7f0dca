"""Pictures that compare videos: side by side, and as a sheet of frames.

Letters: F pixel frames, H and W their size.
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchkit.files import written_whole

if TYPE_CHECKING:
    from experiments.results import Finished
    from searchkit.video import Pixels

HEIGHT = 192  # pixels of a video in a picture, about
GAP = 6  # pixels
NUM_TIMES = 8  # columns of a sheet
TITLE_HEIGHT = 26  # pixels
LABEL_HEIGHT = 44
LABEL_WIDTH = 160
MANY_COMPARISONS = 24
FEW_COMPARISONS = 8


def to_compare(finished: Sequence[Finished]) -> list[Finished]:
    """Returns the trials to be compared in pictures: all, or where these are many the first prompts' with one seed."""
    cases = list(dict.fromkeys((one.trial.prompt, one.trial.seed) for one in finished))
    if len(cases) > MANY_COMPARISONS:
        cases = [case for case in cases if case[1] == cases[0][1]][:FEW_COMPARISONS]
    return [one for one in finished if (one.trial.prompt, one.trial.seed) in cases]


def write_comparisons(folder: Path, finished: Sequence[Finished], *, fps: int) -> list[Path]:
    """Writes a folder a prompt with copies of its videos under readable names, and each seed's comparisons.

    Args:
        finished: trials to be compared follow each other.

    Returns:
        The contact sheets; the video side by side lies beside each, under the same name. Those that are newer
        than their videos are not written again.
    """
    from searchkit.video import read_video, write_video

    prompts = list(dict.fromkeys(one.trial.prompt for one in finished))
    sheets = []
    for (prompt, seed), group in itertools.groupby(finished, lambda one: (one.trial.prompt, one.trial.seed)):
        place = folder / f"{prompts.index(prompt) + 1:02}-{_slug(prompt)}"
        trials = list(group)
        sheet = place / f"seed{seed}-comparison.png"
        sheets.append(sheet)
        if sheet.exists() and sheet.stat().st_mtime >= max(one.folder.stat().st_mtime for one in trials):
            continue
        place.mkdir(parents=True, exist_ok=True)
        for one in trials:
            shutil.copyfile(one.video, place / f"seed{seed}-{_slug(one.result.label)}.mp4")
        videos = {one.result.label: read_video(one.video) for one in trials}
        with written_whole(sheet.with_suffix(".mp4")) as path:
            write_video(path, side_by_side(videos, title=prompt), fps)
        save_picture(sheet, contact_sheet(videos, title=prompt, fps=fps))
    return sheets


def side_by_side(videos: Mapping[str, Pixels], *, title: str) -> Pixels:
    """Returns one video `[F, H, W, 3]` of several, at one height, each under its label; ended ones stand still."""
    length = max(len(video) for video in videos.values())
    columns = []
    for label, video in videos.items():
        large = _scaled(np.concatenate([video, video[-1:].repeat(length - len(video), 0)]))
        head = _caption(label, large.shape[2], LABEL_HEIGHT)
        columns.append(_framed(np.concatenate([np.broadcast_to(head, (length, *head.shape)), large], axis=1)))
    body = np.concatenate(columns, axis=2)
    top = _caption(title, body.shape[2], TITLE_HEIGHT)
    return _even(np.concatenate([np.broadcast_to(top, (length, *top.shape)), body], axis=1))


def contact_sheet(videos: Mapping[str, Pixels], *, title: str, fps: int) -> Pixels:
    """Returns a picture `[H, W, 3]`: a row a video, its label before it, a column a time."""
    length = max(len(video) for video in videos.values())
    times = np.linspace(0, length - 1, min(NUM_TIMES, length)).round().astype(int)
    rows = []
    for label, video in videos.items():
        large = _scaled(video[np.minimum(times, len(video) - 1)])
        head = _caption(label, LABEL_WIDTH, large.shape[1])
        rows.append(np.concatenate([_framed(head[None])[0], *_framed(large)], axis=1))
    width = rows[0].shape[1]
    title_row = _caption(title, width, TITLE_HEIGHT)
    cell = (width - LABEL_WIDTH - 2 * GAP) // len(times)
    corner = np.full((TITLE_HEIGHT, LABEL_WIDTH + 2 * GAP, 3), 255, np.uint8)
    clock = [_caption(f"{time / fps:.1f} s", cell, TITLE_HEIGHT) for time in times]
    return np.concatenate([title_row, np.concatenate([corner, *clock], axis=1), *rows])


def save_picture(path: Path, picture: Pixels) -> None:
    """Writes a PNG `[H, W, 3]`; makes parent folders."""
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as beside:
        imsave(beside, picture)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_]+", "-", text).strip("-")[:80]


def _scaled(video: Pixels) -> Pixels:
    """Returns a video whose pixels are repeated, or averaged, as often as brings it nearest to HEIGHT."""
    times, every = max(1, round(HEIGHT / video.shape[1])), max(1, round(video.shape[1] / HEIGHT))
    if every == 1:
        return video.repeat(times, 1).repeat(times, 2)
    height, width = (size // every for size in video.shape[1:3])
    blocks = video[:, : height * every, : width * every].reshape(len(video), height, every, width, every, 3)
    return blocks.mean((2, 4), dtype=np.float32).round().astype(np.uint8)


def _framed(video: Pixels) -> Pixels:
    return np.pad(video, ((0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


def _even(video: Pixels) -> Pixels:
    """Returns the video with a height and a width that yuv420p can halve."""
    height, width = video.shape[1:3]
    return np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)


@functools.lru_cache(maxsize=256)
def _caption(text: str, width: int, height: int) -> Pixels:
    """Returns text drawn in black on white, `[H, W, 3]`; what does not fit is cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves it untyped
    wrapped = "\n".join(textwrap.wrap(text, max(8, width // 7))[: max(1, height // 14)])
    figure.text(0.5, 0.5, wrapped, ha="center", va="center", fontsize=8.5, parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:height, :width, :3].copy()
