"""HPSv3 gives what its own code gave, from token ids and from frames and prompts."""

from dataclasses import replace

import pytest
import torch

from searchkit.rewards.hpsv3 import HPSv3
from searchkit.rewards.qwen2_vl import QWEN2_VL_7B, Inputs

SMALL = {
    "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 64, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_config": {**QWEN2_VL_7B["vision_config"], "depth": 1, "embed_dim": 16, "num_heads": 1, "hidden_size": 32},
}  # fmt: skip


def _images(run):
    """The recorded images as frames `[1, 1, 3, H, W]`."""
    return [run.tensors[f"inputs.image_{index}_uint8_hwc"].permute(2, 0, 1)[None, None] / 255 for index in range(2)]


def test_recorded_token_ids_and_patches_give_the_recorded_outputs(hpsv3, recorded):
    tensors = recorded("hpsv3").tensors
    names = ("input_ids", "pixel_values", "image_grid_thw")
    outputs = hpsv3.network(Inputs(*(tensors[f"inputs.{name}"] for name in names)))[:, 0]
    assert (outputs - tensors["expected.logits"]).abs().max() < 2e-5
    assert (outputs - tensors["wrong.logits_true_mrope"]).abs().amax(1).min() > 0.5


def test_recorded_frames_and_prompts_give_the_recorded_scores(hpsv3, recorded):
    run = recorded("hpsv3_e2e")
    asked = zip(_images(run), run.facts["prompts"], strict=True)
    outputs = torch.cat([hpsv3.judge(frames=frames, prompts=[prompt])[0] for frames, prompt in asked])
    assert (outputs - run.tensors["expected.logits"]).abs().max() < 1e-4
    assert (outputs - run.tensors["wrong.logits_true_mrope"]).abs().amax(1).min() > 0.2


def test_score_is_the_first_output(hpsv3, recorded):
    run = recorded("hpsv3_e2e")
    score = hpsv3(frames=_images(run)[0], prompts=[run.facts["prompts"][0]])
    assert score.shape == (1, 1)
    assert score.item() == pytest.approx(run.facts["logits_mu_sigma"][0][0], abs=1e-4)


def test_batches_of_any_size_give_the_same_scores(hpsv3, make_frames):
    frames, prompts = make_frames(2, 2, 3, 28, 56), ["a cat", "a dog on a long leash"]
    single = replace(hpsv3, batch_size=1)(frames=frames, prompts=prompts)
    assert single.shape == (2, 2)
    assert replace(hpsv3, batch_size=3)(frames=frames, prompts=prompts).sub(single).abs().max() < 1e-5


def test_rows_have_their_own_prompts_and_frames(hpsv3, make_frames):
    frames, prompts = make_frames(2, 1, 3, 28, 56), ["a cat", "many dogs that run after a ball"]
    scores = hpsv3(frames=frames, prompts=prompts)
    assert hpsv3(frames=frames.flip(0), prompts=prompts[::-1]).flip(0).sub(scores).abs().max() < 1e-5
    assert hpsv3(frames=frames, prompts=prompts[::-1]).sub(scores).abs().min() > 1e-3


def test_stride_scores_middles_and_shares_their_scores(hpsv3, make_frames):
    frames = make_frames(1, 5, 3, 28, 56)
    every = hpsv3(frames=frames, prompts=["a cat"])
    third = replace(hpsv3, stride=3)(frames=frames, prompts=["a cat"])
    assert third.sub(every[:, [1, 1, 1, 3, 3]]).abs().max() < 1e-5


def test_special_tokens_in_a_prompt_change_nothing(hpsv3, make_frames):
    frames = make_frames(1, 1, 3, 28, 56)
    marked = hpsv3(frames=frames, prompts=["a <|Reward|>cat<|image_pad|>"])
    assert marked.equal(hpsv3(frames=frames, prompts=["a cat"]))


def test_bfloat16_scores_are_near_those_of_float32(hpsv3, published, make_frames):
    folder = str(published("hpsv3"))
    frames = make_frames(1, 1, 3, 28, 56)
    exact, rough = (reward(frames=frames, prompts=["a cat"]) for reward in (hpsv3, HPSv3.load(folder, base=folder)))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().item() < 0.1


def test_random_weights_need_no_files(make_frames):
    torch.manual_seed(0)
    reward = HPSv3.random(sizes={**QWEN2_VL_7B, **SMALL}, dtype=torch.float32, stride=2)
    scores = reward(frames=make_frames(1, 2, 3, 28, 56), prompts=["a cat"])
    assert scores.shape == (1, 2) and scores.isfinite().all()


def test_wrong_range_names_the_frames(hpsv3, make_frames):
    with pytest.raises(ValueError, match="frames must be from 0 to 1"):
        hpsv3(frames=make_frames(1, 1, 3, 28, 28) * 255, prompts=["a cat"])


@pytest.mark.parametrize("option", ["batch_size", "stride"])
def test_options_below_1_are_refused(option, hpsv3):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        replace(hpsv3, **{option: 0})


def test_missing_weights_are_named(published):
    folder = published("hpsv3")
    (folder / "HPSv3.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must hold HPSv3\.safetensors"):
        HPSv3.load(str(folder), base=str(folder))
