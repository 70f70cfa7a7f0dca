"""VideoReward gives what its own code gave, from token ids and from frames and prompts."""

from dataclasses import replace

import pytest
import torch

from searchkit.rewards.qwen2_vl import QWEN2_VL_2B, Inputs
from searchkit.rewards.videoreward import VideoReward, merge_lora, normalise

SMALL = {
    "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 64, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_config": {**QWEN2_VL_2B["vision_config"], "depth": 1, "embed_dim": 16, "num_heads": 1, "hidden_size": 32},
}  # fmt: skip


def _video(run, index):
    """A recorded video as a window `[1, F, 3, H, W]`, and its frame rate."""
    frames = run.tensors[f"inputs.video_{index}_uint8_thwc"].permute(0, 3, 1, 2)[None] / 255
    return frames, run.facts["videos_T_fps_H_W"][index][1]


def test_recorded_token_ids_and_patches_give_the_recorded_outputs(videoreward, recorded):
    tensors = recorded("videoreward").tensors
    names = ("input_ids", "pixel_values_videos", "video_grid_thw")
    outputs = videoreward.network(Inputs(*(tensors[f"inputs.{name}"] for name in names)))[..., 0]
    assert (outputs - tensors["expected.logits"]).abs().max() < 2e-5
    assert (normalise(outputs) - tensors["expected.normalised_scores"][:, :3]).abs().max() < 2e-5
    for wrong in ("true_mrope", "without_lora", "lora_scaling_1"):
        assert (outputs - tensors[f"wrong.logits_{wrong}"]).abs().amax(1).min() > 0.1, wrong


@pytest.mark.parametrize("index", [0, 1])
def test_recorded_frames_and_prompts_give_the_recorded_scores(index, videoreward, recorded):
    run = recorded("videoreward_e2e")
    windows, fps = _video(run, index)
    asked = {"windows": windows, "prompts": [run.facts["prompts"][index]]}
    reward = replace(videoreward, fps=fps)
    aspects = reward.aspects(**asked)
    scores = torch.cat([*aspects, aspects.overall])
    assert (scores - run.tensors["expected.normalised_scores"][index]).abs().max() < 1e-4
    raw = torch.cat(replace(reward, normalised=False).aspects(**asked))
    assert (raw - run.tensors["expected.raw_scores"][index, :3]).abs().max() < 1e-4
    assert (raw - run.tensors["wrong.logits_true_mrope"][index]).abs().max() > 0.2
    assert reward(**asked).item() == pytest.approx(run.facts["normalised"][index]["Overall"], abs=1e-4)


def test_call_returns_the_chosen_aspect(videoreward, make_frames):
    asked = {"windows": make_frames(1, 4, 3, 28, 56), "prompts": ["a cat"]}
    aspects = videoreward.aspects(**asked)
    for name, scores in aspects._asdict().items():
        assert replace(videoreward, aspect=name)(**asked).equal(scores)
    assert videoreward(**asked).equal(sum(aspects))


def test_batches_of_any_size_give_the_same_scores(videoreward, make_frames):
    asked = {"windows": make_frames(3, 4, 3, 28, 56), "prompts": ["a cat", "a dog on a long leash", "a cat"]}
    single = replace(videoreward, batch_size=1)(**asked)
    assert single.shape == (3,)
    assert replace(videoreward, batch_size=2)(**asked).sub(single).abs().max() < 1e-5


def test_frame_rate_decides_what_is_seen(videoreward, make_frames):
    asked = {"windows": make_frames(1, 24, 3, 28, 56), "prompts": ["a cat"]}
    assert videoreward(**asked).sub(replace(videoreward, fps=4)(**asked)).abs() > 1e-3


def test_lora_is_merged_at_twice_its_product(recorded):
    weights = recorded("videoreward").under("weights.")
    merged = merge_lora(weights)
    module = "base_model.model.model.layers.1.self_attn.k_proj"
    base, a, b = (weights[f"{module}.{name}.weight"] for name in ("base_layer", "lora_A.default", "lora_B.default"))
    assert merged["model.layers.1.self_attn.k_proj.weight"].sub(base + 2 * b @ a).abs().max() < 1e-6
    assert merged["model.layers.1.self_attn.k_proj.bias"] is weights[f"{module}.base_layer.bias"]
    assert not any("lora" in name or "base" in name for name in merged)


def test_factor_without_its_partner_is_named(published):
    folder = published("videoreward")
    file = folder / "checkpoint-11352" / "model.pth"
    weights = torch.load(file, weights_only=True)
    del weights["base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight"]
    torch.save(weights, file)
    with pytest.raises(ValueError, match=r"unexpected: model\.layers\.0\.mlp\.up_proj\.lora_A\.default\.weight"):
        VideoReward.load(str(folder), base=str(folder), fps=16)


def test_checkpoint_that_would_run_code_is_refused(published):
    folder = published("videoreward")
    torch.save({"base_model.model.rm_head.weight": print}, folder / "checkpoint-11352" / "model.pth")
    with pytest.raises(ValueError, match="damaged, or hold more than tensors"):
        VideoReward.load(str(folder), base=str(folder), fps=16)


def test_folder_of_the_checkpoint_loads_too(published, videoreward, make_frames):
    folder = published("videoreward")
    loaded = VideoReward.load(str(folder / "checkpoint-11352"), base=str(folder), fps=16, dtype=torch.float32)
    asked = {"windows": make_frames(1, 4, 3, 28, 56), "prompts": ["a cat"]}
    assert loaded(**asked).equal(videoreward(**asked))


def test_random_weights_need_no_files(make_frames):
    torch.manual_seed(0)
    reward = VideoReward.random(sizes={**QWEN2_VL_2B, **SMALL}, dtype=torch.float32, fps=16)
    scores = reward(windows=make_frames(2, 5, 3, 28, 56), prompts=["a cat", "a dog"])
    assert scores.shape == (2,) and scores.isfinite().all()


def test_single_frames_are_no_windows(videoreward, make_frames):
    with pytest.raises(ValueError, match="windows must have at least 2 frames, got 1"):
        videoreward(windows=make_frames(1, 1, 3, 28, 28), prompts=["a cat"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 1 / 16}, "fps must be from 1 to 240 frames a second, got 0.0625"),
        ({"fps": float("nan")}, "fps must be from 1 to 240"),
        ({"aspect": "VQ"}, "aspect must be overall, visual, motion, text, got 'VQ'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, message, videoreward):
    with pytest.raises(ValueError, match=message):
        replace(videoreward, **options)
