"""A first frame or video from which streams go on, read from a file and made to fit what a model makes.

Letters: F pixel frames, H and W their size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from searchkit.backbones.presets import FPS
from searchkit.video import Pixels, read_frames

if TYPE_CHECKING:  # to count frames must not wait for torch
    from torch import Tensor

LEAST_SHOWN = 0.75  # of a picture, after its sides are cut


def read_given(path: str | Path, *, height: int, width: int, chunk_frames: int) -> Tensor:
    """Returns the pixel frames `[F, 3, H, W]` in [0, 1] of an image or a video file that make whole chunks.

    Pictures are scaled, antialiased, until they cover the size, and their middle is taken. A video is seen at the
    models' 16 frames a second, and goes on at its end: what is too much for whole chunks is left out at its beginning.

    Args:
        height, width: of a model's video, in pixels.
        chunk_frames: latent frames of a chunk.

    Raises:
        ValueError: the file cannot be read, is too short or too slow, or of a very different shape.
    """
    import torch

    fitted = [_fitted(frame, height, width, path) for frame in _read(path)]
    num_frames = _num_frames(_num_chunks(len(fitted), chunk_frames, path), chunk_frames)
    return torch.stack(fitted[-num_frames:]).float() / 255


def count_given(path: str | Path, *, chunk_frames: int) -> int:
    """Returns how many chunks of so many latent frames `read_given` finds in a file; its errors but that of shape."""
    return _num_chunks(sum(1 for _ in _read(path)), chunk_frames, path)


def _read(path: str | Path) -> list[Pixels]:
    try:
        return list(read_frames(path, fps=FPS))
    except OSError as error:
        raise ValueError(f"given must be an image or a video: {error}") from error
    except ValueError as error:
        raise ValueError(f"given {error}") from error


def _num_chunks(num_frames: int, chunk_frames: int, path: str | Path) -> int:
    # The first latent frame is one pixel frame, every later one four.
    num_chunks = (num_frames + 3) // 4 // chunk_frames
    if num_chunks:
        return num_chunks
    raise ValueError(
        f"given must have at least {_num_frames(1, chunk_frames)} frames at {FPS} a second, a chunk of the model, and "
        f"{str(path)!r} has {num_frames}: give a longer video, or an image to a model that goes frame by frame, such "
        "as causal-forcing-framewise"
    )


def _num_frames(num_chunks: int, chunk_frames: int) -> int:
    return 4 * num_chunks * chunk_frames - 3


def _fitted(frame: Pixels, height: int, width: int, path: str | Path) -> Tensor:
    """Returns bytes `[3, H, W]`."""
    import torch
    import torch.nn.functional as F

    image = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
    before = image.shape[2:]
    scale = max(height / before[0], width / before[1])
    size = [round(side * scale) for side in before]
    shown = height * width / (size[0] * size[1])
    if shown < LEAST_SHOWN:
        raise ValueError(
            f"given must be of about the video's shape, {height} x {width} pixels, and {str(path)!r} is {before[0]} x "
            f"{before[1]}, of which {shown:.0%} would be seen: cut it, or say --height and --width of its shape"
        )
    scaled = F.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[0, :, top : top + height, left : left + width].round().clamp(0, 255).byte()
