"""Motion by optical flow: VBench's definitions on videos whose flow is known, and the network's inputs and outputs."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PerceiverConfig, PerceiverForOpticalFlow

from searchkit.metrics import load_judges
from searchkit.metrics.motion import FLOW_SCALE, SIZES, Motion, PerceiverFlow, interpolate, speed

SMALL = {"num_latents": 8, "d_latents": 16, "num_self_attends_per_block": 1, "num_self_attention_heads": 2}
SMALL |= {"train_size": [12, 20]}


def _make_pan(num: int, step: float, height: int = 32, width: int = 64) -> Tensor:
    """Returns a smooth pattern that goes `step` pixels to the right with every frame."""
    columns = torch.arange(width)[None] - step * torch.arange(num)[:, None]
    waves = torch.stack([torch.sin(2 * torch.pi * columns / period) for period in (16, 23, 31)], dim=1)
    frames = (0.5 + 0.4 * waves)[:, :, None].expand(num, 3, height, width)
    return (frames * 255).round() / 255


def _pan(step: float):
    """Returns an estimate that knows: of later frames `step` pixels to the right, of earlier ones to the left."""

    def flow(first: Tensor, last: Tensor) -> Tensor:
        # The later frames are those whose first column was further left: by the pattern's slope there.
        later = (last[:, 0, 0, 0].float() < first[:, 0, 0, 0].float()).float() * 2 - 1
        return torch.stack([step * later, torch.zeros(len(first))], 1)[..., None, None].expand(-1, 2, *first.shape[2:])

    return flow


def test_half_way_frames_of_a_pan_are_those_that_are_there():
    video = _make_pan(9, 2.0)
    there = torch.zeros(4, 2, 32, 64)
    there[:, 0] = 4.0
    made = interpolate(video[:-2:2], video[2::2], there, -there)
    torch.testing.assert_close(made[..., 4:-4], video[1::2][..., 4:-4], atol=0.01, rtol=0.0)
    still = interpolate(video[:-2:2], video[2::2], 0 * there, 0 * there)
    assert (still - video[1::2]).abs().mean() > 0.03


def test_judge_measures_how_far_and_how_evenly_a_video_moves():
    video, step = _make_pan(3, 1.0), 2.0
    measured = Motion(flow=_pan(step))(video=video, prompt="a cat", fps=16)
    assert measured["motion_smoothness_by_flow"] == pytest.approx(1, abs=0.01)
    assert measured["motion_strength_by_flow"] == pytest.approx(step / (6 * 32 / 256))
    jumping = video.clone()
    jumping[1] = video[0]  # the frame between is late
    late = Motion(flow=_pan(step))(video=jumping, prompt="a cat", fps=16)
    assert late["motion_smoothness_by_flow"] < measured["motion_smoothness_by_flow"] - 0.02
    assert late["motion_strength_by_flow"] == measured["motion_strength_by_flow"]


def test_strength_is_of_an_eighth_of_a_second_whatever_the_frame_rate():
    def constant(first: Tensor, last: Tensor) -> Tensor:
        return torch.full((len(first), 2, *first.shape[2:]), float(seen.append(len(first)) or 3.0))

    seen: list[int] = []
    video = torch.rand(17, 3, 32, 64)
    strengths = [
        Motion(flow=constant)(video=video, prompt="", fps=fps)["motion_strength_by_flow"] for fps in (16, 32, 24)
    ]
    assert seen == [8, 8, 4, 4, 4, 4]  # pairs, there and back: 2, 4 and 4 frames apart
    assert strengths[1] == pytest.approx(strengths[0])
    assert strengths[2] == pytest.approx(strengths[0] * 24 / 32)


def test_speed_is_vbenchs_of_the_fastest_twentieth():
    flow = torch.randn(2, 2, 20, 30, generator=torch.Generator().manual_seed(0))
    for one, found in zip(flow, speed(flow), strict=True):
        lengths = np.sqrt((one.numpy() ** 2).sum(0)).flatten()
        expected = np.sort(lengths)[::-1][: int(len(lengths) * 0.05)].mean() / (6.0 * (20 / 256.0))
        assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_network_reads_the_pixels_around_each_row_by_row_with_colours_together():
    estimate = PerceiverFlow(PerceiverForOpticalFlow(PerceiverConfig(**{**SIZES, **SMALL})))
    frames = torch.randint(0, 256, (2, 3, 12, 20), dtype=torch.uint8)
    read = estimate._patches(frames, (12, 20))
    normal = torch.nn.functional.pad(frames.float() / 255 * 2 - 1, (1, 1, 1, 1))
    for row, column in ((0, 0), (5, 7), (11, 19)):
        around = normal[:, :, row : row + 3, column : column + 3].permute(0, 2, 3, 1).flatten(1)
        torch.testing.assert_close(read[:, :, row, column], around)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_flow_is_in_pixels_of_the_frames(batch_size):
    model = PerceiverForOpticalFlow(PerceiverConfig(**{**SIZES, **SMALL}))
    last = model.perceiver.decoder.decoder.final_layer
    last.weight.data.zero_()
    last.bias.data = torch.tensor([100.0, -50.0])  # which the decoder divides by 100
    frames = torch.randint(0, 256, (3, 3, 24, 80), dtype=torch.uint8)
    flow = PerceiverFlow(model, batch_size=batch_size)(frames, frames)
    assert flow.shape == (3, 2, 24, 80)
    expected = torch.tensor([FLOW_SCALE * 80 / 20, -0.5 * FLOW_SCALE * 24 / 12])
    torch.testing.assert_close(flow, expected[:, None, None].expand_as(flow))


def test_judge_loads_by_name_and_strictly(tmp_path):
    model = PerceiverForOpticalFlow(PerceiverConfig(**{**SIZES, **SMALL}))
    model.save_pretrained(tmp_path)
    [judge] = load_judges([f"motion(weights={tmp_path}, batch_size=2)"]).values()
    measured = judge(video=torch.rand(5, 3, 24, 40), prompt="a cat", fps=16)
    assert set(measured) == {"motion_smoothness_by_flow", "motion_strength_by_flow"}
    assert 0 <= measured["motion_smoothness_by_flow"] <= 1 and measured["motion_strength_by_flow"] >= 0
    state = model.state_dict()
    del state["perceiver.embeddings.latents"]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"missing: perceiver\.embeddings\.latents"):
        load_judges([f"motion(weights={tmp_path})"])


def test_random_weights_need_no_files():
    measured = Motion.random(sizes=SMALL)(video=torch.rand(3, 3, 24, 40), prompt="a cat", fps=16)
    assert all(np.isfinite(value) for value in measured.values())


@pytest.mark.parametrize(
    ("video", "fps", "message"),
    [
        (torch.rand(4, 3, 24, 40) * 2, 16, "video must be from 0 to 1"),
        (torch.rand(2, 3, 24, 40), 16, "video must have at least 3 frames at 16 a second, got 2"),
        (torch.rand(4, 3, 24, 40), 0, "fps must be from 1 to 240"),
    ],
)
def test_videos_of_another_kind_are_refused(video, fps, message):
    with pytest.raises(ValueError, match=message):
        Motion(flow=_pan(1.0))(video=video, prompt="a cat", fps=fps)
