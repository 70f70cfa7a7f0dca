"""The rewards: they prefer what they should on captions never trained on, whatever they are batched with."""

from functools import cache

import pytest
import torch
from torch import Tensor

from envs.shapes.model import load_scorer
from envs.shapes.rewards import ImageReward, VideoReward
from envs.shapes.world import Scene, all_captions, is_held_out, render
from experiments.train_shapes.rewards import held_out_accuracy

PROMPTS = [str(caption) for caption in all_captions() if is_held_out(caption)][:3]


@cache
def _load() -> tuple[ImageReward, VideoReward]:
    scorer = load_scorer()
    assert isinstance(scorer.image, ImageReward) and isinstance(scorer.video, VideoReward)
    return scorer.image, scorer.video


def _make_clips(num_frames: int) -> Tensor:
    """Renderings `[3, F, 3, 64, 64]` of the prompts."""
    scenes = [Scene(caption=caption, x=30, y=34, radius=11) for caption in all_captions() if str(caption) in PROMPTS]
    return torch.stack([torch.from_numpy(render(scene, range(num_frames))) for scene in scenes]).movedim(-1, 2)


def test_image_reward_prefers_the_better_frame_of_held_out_pairs():
    assert held_out_accuracy(_load()[0], num_pairs=200)["overall"] >= 0.9


def test_video_reward_prefers_the_better_window_of_held_out_pairs():
    assert held_out_accuracy(_load()[1], num_pairs=160)["overall"] >= 0.85


def test_scores_do_not_depend_on_what_they_are_batched_with():
    image, video = _load()
    clips = _make_clips(21)
    frames, windows = image(frames=clips, prompts=PROMPTS), video(windows=clips, prompts=PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = clips[row : row + 1]
        assert torch.allclose(image(frames=alone, prompts=[prompt])[0], frames[row], atol=1e-5)
        assert torch.allclose(video(windows=alone, prompts=[prompt])[0], windows[row], atol=1e-5)


def test_a_frame_scores_the_same_among_any_frames():
    image, clips = _load()[0], _make_clips(9)
    assert torch.allclose(
        image(frames=clips, prompts=PROMPTS)[:, 4:5], image(frames=clips[:, 4:5], prompts=PROMPTS), atol=1e-5
    )


def test_the_overall_score_is_the_sum_of_the_aspects():
    video, clips = _load()[1], _make_clips(12)
    total = sum(video.aspects(windows=clips, prompts=PROMPTS))
    assert torch.allclose(video(windows=clips, prompts=PROMPTS), total)


def test_visual_and_motion_quality_do_not_depend_on_the_prompt():
    video, clips = _load()[1], _make_clips(12)
    first = video.aspects(windows=clips, prompts=PROMPTS)
    second = video.aspects(windows=clips, prompts=PROMPTS[::-1])
    assert torch.equal(first.visual, second.visual) and torch.equal(first.motion, second.motion)
    assert not torch.equal(first.text, second.text)


@pytest.mark.parametrize("num_frames", [9, 12, 33, 117])
def test_renderings_score_alike_at_any_length(num_frames: int):
    video = _load()[1]
    longer = video(windows=_make_clips(num_frames), prompts=PROMPTS)
    assert (longer.mean() - video(windows=_make_clips(21), prompts=PROMPTS).mean()).abs() < 1


@pytest.mark.parametrize(
    ("clips", "prompts", "message"),
    [
        (torch.zeros(1, 9, 64, 64, 3), PROMPTS[:1], r"\[B, F, 3, 64, 64\], got \[1, 9, 64, 64, 3\]"),
        (torch.zeros(9, 3, 64, 64), PROMPTS[:1], r"got \[9, 3, 64, 64\]"),
        (torch.full((1, 9, 3, 64, 64), 255.0), PROMPTS[:1], "from 0 to 1, got values from 255 to 255"),
        (torch.full((1, 9, 3, 64, 64), torch.nan), PROMPTS[:1], "from 0 to 1"),
        (torch.zeros(2, 9, 3, 64, 64), PROMPTS[:1], "one for each of the 2"),
        (torch.zeros(1, 9, 3, 64, 64), ["a red dog"], "'dog'"),
    ],
)
def test_damaged_input_is_refused_by_name(clips: Tensor, prompts: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        ImageReward()(frames=clips, prompts=prompts)
    with pytest.raises(ValueError, match=message):
        VideoReward()(windows=clips, prompts=prompts)


def test_windows_shorter_than_a_first_chunk_are_refused():
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        VideoReward()(windows=torch.zeros(1, 8, 3, 64, 64), prompts=PROMPTS[:1])
