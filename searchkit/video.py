"""Reads and writes video files through PyAV, which brings its own FFmpeg.

Letters: F pixel frames, H and W their size.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]

THREADED_HEIGHT = 240  # pixels; with smaller frames, handing them to threads takes longer than they do


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
        with av.open(_located(path), "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if height < THREADED_HEIGHT:
                stream.codec_context.thread_count = 1
            for frame in np.ascontiguousarray(frames):
                container.mux(stream.encode(av.VideoFrame.from_numpy_buffer(frame, format="rgb24")))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(f"video {path} cannot be written: {error.strerror}") from error


def _located(path: str | Path) -> str:
    """Returns a path as FFmpeg takes it for one, even where what is before a colon in it could be a protocol."""
    return f"file:{path}"


def read_frames(path: str | Path, *, fps: int) -> Iterator[Pixels]:
    """Yields the frames `[H, W, 3]` of a video at a speed, upright: at each moment the nearest one of the file.

    An image is a video of one frame.

    Args:
        fps: frames a second.

    Raises:
        OSError: the file is missing or is neither video nor image.
        ValueError: the file has fewer frames a second, so that some would stand still.
    """
    try:
        with av.open(_located(path)) as container:
            yield from _at_speed(container, str(path), fps)
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"video {path} cannot be read: {getattr(error, 'strerror', error)}") from error


def _at_speed(container: Any, path: str, fps: int) -> Iterator[Pixels]:
    rate = container.streams.video[0].average_rate or Fraction(fps)
    before: Pixels | None = None
    second = moment = Fraction(0)  # of the frame before, and of the next one that is yielded
    for index, frame in enumerate(container.decode(video=0)):
        now = index / rate if frame.pts is None else frame.pts * frame.time_base
        if before is None:
            moment = now
        elif rate < 0.99 * fps:  # containers round
            raise ValueError(f"video {path!r} must have at least {fps} frames a second, got {float(rate):.4g}")
        else:
            while moment < (second + now) / 2:
                yield before
                moment += Fraction(1, fps)
        before, second = _upright(frame), now
    if before is not None and moment < second + 1 / (2 * rate):
        yield before


def _upright(frame: Any) -> Pixels:
    pixels: Pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return pixels


def read_video(path: str | Path) -> Pixels:
    """Returns the frames of a video file, uint8 `[F, H, W, 3]`.

    Raises:
        OSError: the file is missing or is no video.
    """
    try:
        with av.open(_located(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise OSError(f"video {path} cannot be read: {getattr(error, 'strerror', error)}") from error


def height_of(path: str | Path) -> int:
    """Returns the height of a video file in pixels.

    Raises:
        OSError: the file is missing or is no video.
    """
    try:
        with av.open(_located(path)) as container:
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
        with av.open(_located(path)) as source, av.open(written, "w", format="mp4") as target:
            shown: Any = source.streams.video[0]
            shown.thread_type = "AUTO"
            options = {"crf": str(crf), "preset": "ultrafast"}
            stream: Any = target.add_stream("libx264", rate=shown.average_rate, options=options)
            width = shown.width * height / shown.height
            stream.width, stream.height, stream.pix_fmt = 2 * round(width / 2), 2 * round(height / 2), "yuv420p"
            for frame in source.decode(shown):
                target.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
            target.mux(stream.encode())
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"video {path} cannot be read: {getattr(error, 'strerror', error)}") from error
    return written.getvalue()
