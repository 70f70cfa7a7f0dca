"""What the Qwen2-VL rewards see of frames: sizes, sampled frames and patches as their own code makes them."""

import json
import math
from pathlib import Path

import pytest
import torch

from searchkit.rewards import hpsv3, videoreward
from searchkit.rewards.qwen2_vl_pixels import (
    MERGED,
    check_frames,
    patch_grid,
    quantise,
    resize_video,
    resized_size,
    sampled_frames,
    to_patches,
)

EXAMPLES = json.loads((Path(__file__).parents[2] / "golden/rewards/preprocessing_examples.json").read_text())
IMAGES = EXAMPLES["hpsv3_image"]["examples"]
VIDEOS = EXAMPLES["videoreward_video"]["examples"]


def test_all_recorded_examples_are_here():
    assert (len(IMAGES), len(VIDEOS)) == (9, 19)


@pytest.mark.parametrize("example", IMAGES, ids=lambda example: "x".join(map(str, example["input_width_x_height"])))
def test_images_are_resized_and_cut_as_recorded(example):
    width, height = example["input_width_x_height"]
    height, width = resized_size(height, width, min_pixels=hpsv3.PIXELS, max_pixels=hpsv3.PIXELS)
    assert [width, height] == example["resized_width_x_height"]
    patches, grids = to_patches(torch.zeros(1, 1, 3, height, width, dtype=torch.uint8))
    assert grids.tolist() == [example["image_grid_thw"]]
    assert list(patches.shape) == example["pixel_values_shape"]
    assert len(patches) // MERGED == example["image_pad_tokens"]


@pytest.mark.parametrize("example", VIDEOS, ids=lambda example: f"{example['frames']}@{example['fps']}")
def test_videos_are_sampled_and_resized_as_recorded(example):
    if "error" in example:
        with pytest.raises(ValueError, match=f"windows must have at least 2 frames, got {example['frames']}"):
            sampled_frames(example["frames"], example["fps"])
        return
    frames = sampled_frames(example["frames"], example["fps"])
    assert frames == example["frame_indices"] and len(frames) == example["sampled_frames"]
    limits = {"min_pixels": videoreward.MIN_PIXELS, "max_pixels": videoreward.MAX_PIXELS}
    size = resized_size(*example["height_x_width"], **limits)
    assert [*size] == example["resized_height_x_width"]
    grid = patch_grid(len(frames), *size)
    assert [*grid] == example["video_grid_thw"]
    assert math.prod(grid) // MERGED == example["video_pad_tokens"]


def test_four_patches_of_a_token_are_neighbours():
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    places = (10 * rows + columns).repeat_interleave(14, 0).repeat_interleave(14, 1)
    patches, _ = to_patches(places.to(torch.uint8).expand(1, 2, 3, -1, -1))
    order = patches[:, 0].unique(return_inverse=True)[1].tolist()
    assert order[:8] == [0, 1, 6, 7, 2, 3, 8, 9]  # rows of 6 patches: two of the first row, two of the second


def test_patch_holds_channels_then_frames():
    pictures = torch.arange(6, dtype=torch.uint8).view(1, 2, 3, 1, 1).expand(-1, -1, -1, 28, 28)
    patches, _ = to_patches(pictures)
    values = patches[0].view(3, 2, 14 * 14)
    assert (values == values[..., :1]).all()
    assert (values[:, 1] > values[:, 0]).all()  # in every channel, the second frame is the brighter one


def test_every_byte_survives_as_a_float():
    levels = torch.arange(256, dtype=torch.uint8)
    assert quantise(levels / 255).equal(levels)
    assert quantise((levels / 255).half()).equal(levels)


def test_resizing_a_video_stays_within_bytes_and_leaves_its_own_size_alone():
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(14).expand(2, 3, 28, 28)
    assert resize_video(stripes, height=28, width=28) is stripes
    larger = resize_video(stripes, height=56, width=84)
    assert larger.dtype == torch.uint8 and list(larger.shape) == [2, 3, 56, 84]
    assert larger.min() == 0 and larger.max() == 255  # bicubic overshoots are cut, and do not wrap around


def test_long_strips_are_refused():
    with pytest.raises(ValueError, match="at most 200 times the other, got 8 x 1601"):
        resized_size(8, 1601, min_pixels=100, max_pixels=1000)


@pytest.mark.parametrize(
    ("frames", "prompts", "message"),
    [
        (torch.zeros(2, 3, 4, 4), ["a"] * 2, r"\[B, F, 3, H, W\], got \[2, 3, 4, 4\]: one dimension is missing"),
        (torch.zeros(1, 2, 4, 4, 3), ["a"], "channels come last"),
        (torch.zeros(1, 3, 2, 4, 4), ["a"], "channels come before the frames"),
        (torch.zeros(1, 0, 3, 4, 4), ["a"], "must not be empty"),
        (torch.zeros(2, 1, 3, 4, 4), ["a"], "one for each of the 2 frames, got 1"),
        (torch.zeros(2, 1, 3, 4, 4), "ab", "one for each of the 2 frames, got one string"),
        (torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8), ["a"], "floating point .* got torch.uint8: divide by 255"),
        (torch.full((1, 1, 3, 4, 4), 255.0), ["a"], "from 0 to 1, got values from 255 to 255: divide by 255"),
        (torch.full((1, 1, 3, 4, 4), -1.0), ["a"], r"from 0 to 1, got values from -1 to -1: map -1..1"),
        (torch.full((1, 1, 3, 4, 4), 1.01), ["a"], r"from 0 to 1, got values from 1.01 to 1.01$"),
        (torch.full((1, 1, 3, 4, 4), float("nan")), ["a"], "from 0 to 1, got values from nan"),
    ],
)
def test_wrong_frames_are_refused_with_what_was_meant(frames, prompts, message):
    with pytest.raises(ValueError, match=message):
        check_frames("frames", frames, prompts)
