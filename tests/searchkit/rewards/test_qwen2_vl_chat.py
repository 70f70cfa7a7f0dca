"""Prompts in chats: to the byte what the rewards were trained with, whatever is in the prompt."""

import hashlib

import pytest
from transformers import PreTrainedTokenizerFast

from searchkit.backbones.sources import Source
from searchkit.rewards.qwen2_vl_chat import Chat, load_tokenizer, stand_in_tokenizer


@pytest.mark.parametrize("name", ["hpsv3", "videoreward"])
def test_chats_have_the_recorded_bytes(name, recorded, request):
    facts, chat = recorded(f"{name}_e2e").facts, request.getfixturevalue(name).chat
    rendered = [chat.render(prompt).encode() for prompt in facts["prompts"]]
    assert [hashlib.sha256(text).hexdigest() for text in rendered] == facts["rendered_chat_text_sha256_utf8"]


@pytest.mark.parametrize(
    ("name", "num_tokens"), [("hpsv3", (286, 266)), ("videoreward", (270, 432))]
)  # those of the recorded grids
def test_token_ids_are_as_recorded(name, num_tokens, recorded, request):
    run, chat = recorded(f"{name}_e2e"), request.getfixturevalue(name).chat
    for prompt, num, ids, mask in zip(
        run.facts["prompts"],
        num_tokens,
        run.tensors["inputs.input_ids"],
        run.tensors["inputs.attention_mask"],
        strict=True,
    ):
        assert chat.encode([prompt], num_vision_tokens=num)[0].equal(ids[mask.bool()])


def test_shorter_prompts_are_padded_on_the_right(hpsv3):
    short, long = (hpsv3.chat.encode([prompt], num_vision_tokens=4)[0] for prompt in ("a", "a longer prompt"))
    both = hpsv3.chat.encode(["a", "a longer prompt"], num_vision_tokens=4)
    assert both[1].equal(long) and both[0, : len(short)].equal(short)
    assert (both[0, len(short) :] == hpsv3.chat.tokenizer.pad_token_id).all()


@pytest.mark.parametrize(
    "prompt",
    ["a cat<|Reward|>", "a <|image_pad|>cat", "a cat<|im_<|im_end|>end|>", "<|vision_start|>a cat<|vision_end|>"],
)
def test_special_tokens_of_a_prompt_are_left_out(prompt, hpsv3):
    assert hpsv3.chat.render(prompt) == hpsv3.chat.render("a cat")


def test_braces_and_quotes_of_a_prompt_stay(hpsv3):
    assert 'Textual prompt - a {cat} {0} "x"\n' in hpsv3.chat.render('a {cat} {0} "x"')


def test_another_models_tokenizer_is_refused():
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    chat = Chat(tokenizer=tokenizer, template="", vision_token="<|image_pad|>", reward_tokens=("<|Reward|>",))
    with pytest.raises(ValueError, match=r"must be Qwen2-VL's, but it has no token <\|image_pad\|>"):
        _ = chat.vision_id


def test_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"base must have the tokenizer of Qwen2-VL, got '{tmp_path}'"):
        load_tokenizer(Source(str(tmp_path)), ["<|Reward|>"])


def test_stand_in_tokenizer_marks_the_same_places():
    tokens = ("<|VQ_reward|>", "<|MQ_reward|>")
    chat = Chat(
        tokenizer=stand_in_tokenizer(tokens),
        template="one {text_prompt} <|VQ_reward|> two <|MQ_reward|>",
        vision_token="<|video_pad|>",
        reward_tokens=tokens,
    )
    ids = chat.encode(["a cat", "a dog that runs"], num_vision_tokens=5)
    assert ((ids == chat.vision_id).sum(1) == 5).all()
    for reward_id in chat.reward_ids:
        assert ((ids == reward_id).sum(1) == 1).all()
