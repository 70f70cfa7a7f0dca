"""Video files: what was written comes back, nearly."""

import numpy as np
import pytest

from searchkit.video import height_of, read_frames, read_video, smaller, to_pixels, write_video


def _make_clip(frames: int = 9, height: int = 64, width: int = 48) -> np.ndarray:
    """A bright square that moves over a plain background."""
    clip = np.full((frames, height, width, 3), (217, 194, 153), np.uint8)
    for number, frame in enumerate(clip):
        frame[20:40, number : number + 20] = (219, 41, 41)
    return clip


def test_written_video_reads_back_in_size_length_and_colour(tmp_path):
    clip = _make_clip()
    write_video(tmp_path / "deep" / "clip.mp4", clip, 16)
    back = read_video(tmp_path / "deep" / "clip.mp4")
    assert back.shape == clip.shape and back.dtype == np.uint8
    assert np.abs(back.astype(float) - clip).mean() < 3.0


def test_path_with_a_colon_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # FFmpeg would take what is before the colon of a relative path for a protocol
    write_video("study:2/clip.mp4", np.zeros((3, 16, 16, 3), np.uint8), fps=4)
    assert len(read_video("study:2/clip.mp4")) == 3 and height_of("study:2/clip.mp4") == 16


def test_written_video_plays_at_its_speed(tmp_path):
    import av

    write_video(tmp_path / "clip.mp4", _make_clip(8), 16)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams.video
        assert stream.average_rate == 16 and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.name == "h264" and stream.frames == 8


def test_smaller_video_shows_the_same_at_the_same_speed(tmp_path):
    import av

    clip = _make_clip(height=128, width=192)
    write_video(tmp_path / "large.mp4", clip, 16)
    (tmp_path / "small.mp4").write_bytes(smaller(tmp_path / "large.mp4", height=64, crf=16))
    back = read_video(tmp_path / "small.mp4")
    assert back.shape == (9, 64, 96, 3) and height_of(tmp_path / "small.mp4") == 64
    assert np.abs(back.astype(float) - clip[:, ::2, ::2]).mean() < 4.0
    with av.open(str(tmp_path / "small.mp4")) as container:
        assert container.streams.video[0].average_rate == 16


def _write_greys(path, rate: int, num: int) -> None:
    """Writes a video whose frames are told apart by their greys."""
    greys = np.arange(num, dtype=np.uint8) * 8
    write_video(path, np.broadcast_to(greys[:, None, None, None], (num, 16, 16, 3)).copy(), rate, crf=0)


@pytest.mark.parametrize(
    ("rate", "num", "expected"),
    [
        (16, 5, [0, 1, 2, 3, 4]),
        (32, 9, [0, 2, 4, 6, 8]),
        (24, 10, [0, 2, 3, 5, 6, 8, 9]),  # the second moment lies between frames 1 and 2, the later one is taken
        (30, 12, [0, 2, 4, 6, 8, 9, 11]),
    ],
)
def test_video_is_read_at_another_speed_by_its_nearest_frames(rate, num, expected, tmp_path):
    _write_greys(tmp_path / "clip.mp4", rate, num)
    greys = [round(float(frame.mean()) / 8) for frame in read_frames(tmp_path / "clip.mp4", fps=16)]
    assert greys == expected


def test_slow_video_is_refused(tmp_path):
    _write_greys(tmp_path / "clip.mp4", 8, 4)
    with pytest.raises(ValueError, match=r"clip\.mp4' must have at least 16 frames a second, got 8"):
        list(read_frames(tmp_path / "clip.mp4", fps=16))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_image_is_a_video_of_one_upright_frame(orientation, turns, tmp_path):
    from PIL import Image

    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :16] = 255
    orientations = Image.Exif()
    orientations[0x0112] = orientation  # as a camera says how it was held
    Image.fromarray(picture).save(tmp_path / "picture.jpg", exif=orientations, quality=95)
    [frame] = read_frames(tmp_path / "picture.jpg", fps=16)
    upright = np.rot90(picture, turns)
    assert frame.shape == upright.shape and np.abs(frame.astype(int) - upright).mean() < 3


def test_streams_video_becomes_pixels():
    import torch

    video = torch.zeros(2, 3, 4, 6)
    video[1, 2] = 1.0
    pixels = to_pixels(video)
    assert pixels.shape == (2, 4, 6, 3) and pixels.dtype == np.uint8
    assert (pixels[1, ..., 2] == 255).all() and pixels.sum() == 255 * 24


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((2, 8, 8, 3)), "uint8"),
        (np.zeros((2, 3, 8, 8), np.uint8), "F, H, W, 3"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"\[0, 8, 8, 3\]"),
        (np.zeros((2, 8, 7, 3), np.uint8), "even"),
    ],
)
def test_frames_that_are_no_video_are_refused(frames, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_video(tmp_path / "clip.mp4", frames, 16)
    assert not (tmp_path / "clip.mp4").exists()


def test_errors_name_the_file(tmp_path):
    with pytest.raises(OSError, match=r"none\.mp4 cannot be read"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(OSError, match=r"none\.mp4 cannot be read"):
        height_of(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(OSError, match=r"text\.mp4 cannot be read"):
        smaller(tmp_path / "text.mp4", height=64, crf=16)
    for read in (read_video, lambda path: list(read_frames(path, fps=16))):
        with pytest.raises(OSError, match=r"text\.mp4 cannot be read"):
            read(tmp_path / "text.mp4")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken cannot be written"):
        write_video(tmp_path / "taken", _make_clip(), 16)
