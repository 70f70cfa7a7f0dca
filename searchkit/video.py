"""Reads and writes video files through PyAV, which brings its own FFmpeg.

Letters: F pixel frames, H and W their size.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]


def to_pixels(video: Tensor) -> Pixels:
    """Returns uint8 `[F, H, W, 3]` of a stream's video, float `[F, 3, H, W]` in [0, 1]."""
    pixels: Pixels = video.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def write_video(path: str | Path, frames: Pixels, fps: int, *, crf: int = 16) -> None:
    """Writes an H.264 mp4 that browsers play (yuv420p); makes parent folders.

    Args:
        frames: uint8 `[F, H, W, 3]`; H and W even, as yuv420p wants.
        fps: pixel frames a second.
        crf: quality, from 0 (lossless) to 51; the default shows no blocks even on 64 x 64 pixels.

    Raises:
        ValueError: the frames have another shape or type, or there are none.
        OSError: the file cannot be written.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"{path}: frames must be uint8 [F, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: height and width must be even, got {height} x {width}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(path), "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "fast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(f"video {path} cannot be written: {error.strerror}") from error


def read_video(path: str | Path) -> Pixels:
    """Returns the frames of a video file, uint8 `[F, H, W, 3]`.

    Raises:
        OSError: the file is missing or is no video.
    """
    try:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise OSError(f"video {path} cannot be read: {getattr(error, 'strerror', error)}") from error


def height_of(path: str | Path) -> int:
    """Returns the height of a video file in pixels.

    Raises:
        OSError: the file is missing or is no video.
    """
    try:
        with av.open(str(path)) as container:
            return int(container.streams.video[0].height)
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"video {path} cannot be read: {getattr(error, 'strerror', error)}") from error


def smaller(path: str | Path, *, height: int, crf: int) -> bytes:
    """Returns a video file scaled to about a height, as the bytes of an H.264 mp4 of the same rate.

    Args:
        height: in pixels; the width follows, both made even.
        crf: quality, from 0 (lossless) to 51.

    Raises:
        OSError: the file is missing or is no video.
    """
    written = io.BytesIO()
    try:
        with av.open(str(path)) as source, av.open(written, "w", format="mp4") as target:
            shown: Any = source.streams.video[0]
            shown.thread_type = "AUTO"
            options = {"crf": str(crf), "preset": "veryfast"}
            stream: Any = target.add_stream("libx264", rate=shown.average_rate, options=options)
            width = shown.width * height / shown.height
            stream.width, stream.height, stream.pix_fmt = 2 * round(width / 2), 2 * round(height / 2), "yuv420p"
            for frame in source.decode(shown):
                target.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
            target.mux(stream.encode())
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"video {path} cannot be read: {getattr(error, 'strerror', error)}") from error
    return written.getvalue()
