"""VideoScore2 as a judge: its question to the byte, its preprocessing, its scores; on a tiny checkpoint."""

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from searchkit.metrics import check_judges
from searchkit.metrics.videoscore2 import VideoScore2, max_pixels, positions, read_scores, sampled_frames
from searchkit.rewards.registry import REWARDS, Rewards, load_reward
from searchkit.rewards.terms import parse
from searchkit.rewards.videoscore2 import VideoScore2Reward

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


def _make_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of bytes, with the special tokens of Qwen2.5-VL that a chat needs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<|im_end|>", eos_token="<|im_end|>")
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    return tokenizer


def _make_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    ids = tokenizer.get_added_vocab()
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
            "eos_token_id": ids["<|im_end|>"],
            "bos_token_id": ids["<|im_start|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("videoscore2")
    tokenizer = _make_tokenizer()
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(_make_config(tokenizer))
    for parameter in model.parameters():  # transformers' own are too small to show a mistake
        parameter.data += (0.2 if parameter.ndim > 1 else 0.0) * torch.randn_like(parameter)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def judge(folder: str) -> VideoScore2:
    return VideoScore2.load(folder, dtype=torch.float32, max_tokens=12)


def _make_video(num: int) -> Tensor:
    return torch.rand(num, 3, 60, 90, generator=torch.Generator().manual_seed(0))


# What is asked


def test_the_chat_is_the_published_one_to_the_byte(judge):
    text = judge.chat.render("A red ball rolls.").encode()
    assert b"    visual quality: <v_score>; \n    text-to-video alignment: <t_score>, \n" in text
    assert hashlib.sha256(text).hexdigest() == "bbc8730a948a2b5f1b5b52d68c5c02094eea52bdc46b55349734317104ac91bc"


@pytest.mark.parametrize(
    ("num_frames", "fps", "num_sampled", "last_two"),
    [(81, 16, 10, [71, 80]), (477, 16, 58, [468, 476]), (9, 16, 4, [5, 8]), (3, 16, 2, [0, 2]), (33, 8, 8, [27, 32])],
)
def test_frames_are_sampled_as_by_qwen_vl_utils(num_frames, fps, num_sampled, last_two):
    frames = sampled_frames(num_frames, fps)
    assert len(frames) == num_sampled
    assert frames[0] == 0 and frames[-2:] == last_two


def test_long_videos_are_seen_smaller():
    assert max_pixels(10) == 768 * 28 * 28
    assert max_pixels(768) == 90_316_800 * 2 // 768
    assert max_pixels(100_000) == int(128 * 28 * 28 * 1.05)


# Where the chat's tokens are


def _make_grid(num_times: int, height: int, width: int) -> dict[str, Tensor]:
    """Returns a chat of 4 tokens, a video in patches and 3 more tokens."""
    num = num_times * height * width // 4
    kinds = torch.tensor([[0] * 4 + [2] * num + [0] * 3])
    return {
        "input_ids": kinds,
        "mm_token_type_ids": kinds,
        "video_grid_thw": torch.tensor([[num_times, height, width]]),
    }


def test_positions_of_short_videos_are_transformers(judge):
    grid = _make_grid(5, 6, 22)
    ours = positions(judge.model.config, **grid, second_per_grid_ts=[1.0])
    theirs = type(judge.model.model).get_rope_index(judge.model.model, **grid, second_per_grid_ts=[1.0])
    assert all(map(torch.equal, ours, theirs))


def test_text_goes_on_after_a_long_videos_last_moment(judge):
    placed, ahead = positions(judge.model.config, **_make_grid(10, 4, 6), second_per_grid_ts=[1.0])
    assert placed[0, 0, [4, -4]].tolist() == [4, 22]  # two positions a second, for 18 s
    assert placed[:, 0, -3:].tolist() == [[23, 24, 25]] * 3
    assert ahead.item() == 26 - placed.shape[-1]


def test_the_model_goes_by_these_positions(judge):
    video = _make_video(1).repeat(200, 1, 1, 1)  # 12.5 s, so 24 frames of 280 x 392
    judge.answer(video=video, prompt="a cat", fps=16)
    asked = judge.chat.encode(["a cat"], num_vision_tokens=12 * 10 * 14)
    before = (asked[0] == judge.chat.vision_id).int().argmax()
    after = asked.shape[1] - before - 12 * 10 * 14
    assert judge.model.model.rope_deltas.item() == (before + 2 * 11 + 1 + after) - asked.shape[1]


# What is answered


def _make_answer(text: str) -> tuple[Any, list[int], list[Tensor]]:
    """Returns a tokenizer, an answer's tokens, and their logits; those of a digit before `#v` are SHARES["v"]."""
    tokenizer = _make_tokenizer()
    digits = {digit: tokenizer.encode(str(digit))[0] for digit in range(1, 6)}
    ids: list[int] = []
    logits: list[Tensor] = []
    for piece, mark in re.findall(r"(.+?)(#[vtp]|$)", text, re.DOTALL):
        new = tokenizer.encode(piece, add_special_tokens=False)
        ids += new
        logits += [torch.zeros(1, len(tokenizer)) for _ in new]
        for digit, token in digits.items() if mark else ():
            share = SHARES[mark[1]].get(digit, 0.0)
            logits[-1][0, token] = math.log(share) if share else -math.inf
    return tokenizer, ids, logits


SHARES = {"v": {4: 0.6, 3: 0.2}, "t": {2: 0.1}, "p": {5: 0.3, 1: 0.1, 4: 0.1}}
SCORES = {"visual": 4 * 0.75, "text": 2.0, "physics": 5 * 0.6}


@pytest.mark.parametrize(
    "text",
    [
        "visual quality: 4#v; \ntext-to-video alignment: 2#t, \nphysical/common-sense consistency: 5#p",
        "<think>its visual quality: 1 at first</think>\n(1) visual quality – clarity, smoothness, artifacts: 4#v\n"
        "(2) Text-to-video alignment – fidelity to the prompt: 2#t\n"
        "(3) physical/common-sense consistency – naturalness and physics plausibility: 5#p",
    ],
    ids=["as asked", "as the released model writes"],
)
def test_scores_are_the_published_soft_ones(text):
    assert read_scores(*_make_answer(text)) == {name: pytest.approx(score) for name, score in SCORES.items()}


def test_a_score_that_was_not_written_is_nan():
    scores = read_scores(*_make_answer("visual quality: 4#v, text-to-video alignment: good"))
    assert scores["visual"] == pytest.approx(3.0)
    assert math.isnan(scores["text"]) and math.isnan(scores["physics"])


def test_the_same_video_is_judged_the_same(judge):
    video = _make_video(20)
    state = torch.get_rng_state()
    first = judge(video=video, prompt="a cat", fps=16)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert str(judge(video=video, prompt="a cat", fps=16)) == str(first)
    assert set(first) == {"videoscore2_visual", "videoscore2_text", "videoscore2_physics"}


def test_the_answer_depends_on_seed_and_video(judge, folder):
    other = VideoScore2.load(folder, dtype=torch.float32, max_tokens=12, seed=1)
    asked = {"video": _make_video(20), "prompt": "a cat", "fps": 16}
    first = judge.answer(**asked).tokens
    assert len(first) <= 12
    assert judge.answer(**asked).tokens == first
    assert other.answer(**asked).tokens != first
    assert judge.answer(**{**asked, "video": 1 - asked["video"]}).tokens != first


# As a reward


def _unsure(*, video: Tensor, prompt: str, fps: float) -> dict[str, float]:
    assert fps == 8
    text = math.nan if prompt == "a cat" else 3.0
    return {"videoscore2_visual": float(video.mean()), "videoscore2_text": text, "videoscore2_physics": 1.0}


@pytest.mark.parametrize(
    ("aspect", "expected"), [("overall", [1.5 / 3, 4.25 / 3]), ("text", [0.0, 3.0]), ("visual", [0.5, 0.25])]
)
def test_a_search_may_go_by_what_was_written(aspect, expected):
    windows = torch.tensor([0.5, 0.25])[:, None, None, None, None].expand(2, 4, 3, 60, 90)
    reward = VideoScore2Reward(judge=_unsure, fps=8, aspect=aspect)
    assert reward(windows=windows, prompts=["a cat", "a dog"]).tolist() == pytest.approx(expected)


def test_the_reward_loads_as_the_judge_does(folder):
    (term,) = parse("reward", f"videoscore2(weights={folder}, max_tokens=3, seed=5, aspect=physics)", REWARDS)
    reward = load_reward(term, defaults={"device": "cpu", "dtype": "float32"}, fps=16)
    assert (reward.fps, reward.aspect) == (16, "physics")
    assert (reward.judge.seed, reward.judge.max_tokens, reward.judge.model.dtype) == (5, 3, torch.float32)
    assert 0 <= float(reward(windows=_make_video(4)[None], prompts=["a cat"])) <= 5


def test_a_search_that_goes_by_it_has_other_judges():
    with pytest.raises(ValueError, match="judge 'videoscore2' is a reward of the search"):
        check_judges(["videoscore2(seed=1)"], Rewards(video="videoscore2"))
    with pytest.raises(ValueError, match="judge 'videoscore2' has no option 'aspect'"):
        check_judges(["videoscore2(aspect=text)"])


def test_a_wrong_aspect_is_refused(judge):
    with pytest.raises(ValueError, match="aspect must be overall, visual, text or physics, got 'motion'"):
        VideoScore2Reward(judge=judge, fps=16, aspect="motion")  # type: ignore[arg-type]


# What is refused


@pytest.mark.parametrize(
    ("video", "message"),
    [(torch.rand(4, 3, 60, 90) * 2, "video must be from 0 to 1"), (torch.rand(1, 3, 60, 90), "at least 2 frames")],
)
def test_videos_of_another_kind_are_refused(judge, video, message):
    with pytest.raises(ValueError, match=message):
        judge(video=video, prompt="a cat", fps=16)


def test_a_frame_rate_that_cannot_be_is_refused(judge):
    with pytest.raises(ValueError, match="fps must be from 1 to 240 frames a second, got 0"):
        judge(video=torch.rand(4, 3, 60, 90), prompt="a cat", fps=0)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tokenizer"):
        VideoScore2.load(str(tmp_path))
