"""CLIP rewards on tiny checkpoints in the published formats, against the recipes of the originals."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from searchkit.rewards.aesthetic import Aesthetic
from searchkit.rewards.clip import CLIPScore, HPSv2, PickScore, prepare_as_hps
from searchkit.rewards.clip_model import (
    ClipSize,
    make_clip,
    prepare_as_openai,
    prepare_as_transformers,
    stand_in_tokenizer,
)
from searchkit.rewards.open_clip import hugging_face_name, load, original_name
from searchkit.rewards.pixels import CLIP_MEAN, CLIP_STD, resize_by_pillow

SIZES: dict[str, Any] = {
    "image_size": 28,
    "vision_width": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "text_width": 24,
    "text_layers": 2,
    "text_heads": 2,
    "embed_dim": 16,
    "vocabulary": 60,
    "context": 12,
}
SIZE = ClipSize(**SIZES)
OPENAI_SIZE = ClipSize(**SIZES, activation="quick_gelu")
PROMPTS = ("a cat", "two dogs and a very long tail")


class TinyHPSv2(HPSv2):
    """The real one at a size that tests can make."""

    SIZE = SIZE


def _make_model(size: ClipSize) -> CLIPModel:
    torch.manual_seed(0)
    clip = make_clip(size, initialise=True)
    for parameter in clip.parameters():  # transformers' own are too small to show a mistake
        parameter.data += (0.3 if parameter.ndim > 1 else 0.02) * torch.randn_like(parameter)
    clip.logit_scale.data.fill_(4.6)
    return clip.eval()


def _make_folder(path: Path, size: ClipSize) -> str:
    _make_model(size).save_pretrained(path)
    stand_in_tokenizer(size).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _make_folder(tmp_path_factory.mktemp("laion"), SIZE)


@pytest.fixture(scope="module")
def openai_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _make_folder(tmp_path_factory.mktemp("openai"), OPENAI_SIZE)


def _make_frames(*shape: int) -> Tensor:
    """Returns frames of smooth pictures, in the 256 values that a file knows, so that nothing is lost by rounding."""
    coarse = torch.rand(*shape, 3, 5, 7, generator=torch.Generator().manual_seed(1)).flatten(0, -4)
    fine = F.interpolate(coarse, size=(40, 60), mode="bicubic").clamp(0, 1)
    return ((fine * 255).round() / 255).unflatten(0, shape)


def _make_bytes(num: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=generator)


def _to_pictures(images: Tensor) -> list[Image.Image]:
    values = (images * 255).round().byte() if images.is_floating_point() else images
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in values]


# Preprocessing


@pytest.mark.parametrize(
    ("height", "width", "new"),
    [
        (48, 83, (22, 38)),
        (83, 48, (38, 22)),
        (20, 20, (56, 56)),
        (224, 224, (224, 99)),
        (13, 90, (40, 17)),
        (9, 7, (3, 2)),
    ],
)
def test_resizing_equals_pillow_to_the_last_bit(height, width, new):
    images = _make_bytes(2, height, width)
    images[1] = images[1] // 128 * 255  # edges, where the kernel goes below 0 and above 255
    expected = [np.asarray(picture.resize(new[::-1], Image.Resampling.BICUBIC)) for picture in _to_pictures(images)]
    resized = resize_by_pillow(images, *new)
    assert torch.equal(resized, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 40), (33, 49), (28, 28), (20, 23)])
def test_frames_are_prepared_as_by_transformers(height, width):
    images = _make_bytes(2, height, width)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    expected = processor(_to_pictures(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepare_as_transformers(images, 28), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "left"), [(30, 1), (31, 2), (33, 2), (35, 4)])
def test_the_middle_is_torchvisions_for_openai(width, left):
    """Its CenterCrop rounds half a pixel to the even one: 1.5 and 2.5 to 2, 3.5 to 4."""
    images = _make_bytes(1, 28, width)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    expected = (images[..., left : left + 28] / 255 - mean) / std
    torch.testing.assert_close(prepare_as_openai(images, 28), expected)


def _cubic_weights(before: int, after: int) -> Tensor:
    """Returns `[after, before]`, cubic convolution with a = -0.75 at the centres of pixels, without antialiasing."""
    weights = torch.zeros(after, before)
    for pixel in range(after):
        at = (pixel + 0.5) * before / after - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            x = abs(at - tap)
            inner, outer = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
            weights[pixel, min(max(tap, 0), before - 1)] += inner if x <= 1 else outer
    return weights


@pytest.mark.parametrize(("height", "width", "new"), [(40, 60, (19, 28)), (60, 40, (28, 19)), (12, 16, (21, 28))])
def test_frames_are_prepared_as_by_hps(height, width, new):
    images = _make_bytes(2, height, width)
    resized = _cubic_weights(height, new[0]) @ (images / 255) @ _cubic_weights(width, new[1]).T
    top, left = (28 - new[0]) // 2, (28 - new[1]) // 2
    expected = torch.zeros(2, 3, 28, 28)  # black, and only then normalised
    expected[..., top : top + new[0], left : left + new[1]] = resized
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(prepare_as_hps(images, 28), (expected - mean) / std, rtol=1e-4, atol=1e-4)


# Scores


def _score_as_on_the_card(folder: str, frames: Tensor, prompts: Sequence[str]) -> Tensor:
    """Returns logit scale x cosine by transformers' own processors and model, as PickScore's card has it."""
    clip, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    rows = []
    for row, prompt in zip(frames, prompts, strict=True):
        images = processor(_to_pictures(row), return_tensors="pt")
        text = tokenizer(prompt, padding=True, truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            rows.append(clip(**images, **text).logits_per_image[:, 0])
    return torch.stack(rows)


def test_pickscore_equals_its_card(folder):
    frames = _make_frames(2, 3)
    expected = _score_as_on_the_card(folder, frames, PROMPTS)
    assert expected.std() > 1
    scores = PickScore.load(folder, tokenizer=folder)(frames=frames, prompts=PROMPTS)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_clipscore_is_a_percentage_that_is_never_negative(openai_folder):
    frames, prompts = _make_frames(4, 1), ["a", "quite other words", "z", "hills"]
    cosines = _score_as_on_the_card(openai_folder, frames, prompts) / np.exp(4.6)
    assert (cosines > 0).any() and (cosines < 0).any()
    scores = CLIPScore.load(openai_folder)(frames=frames, prompts=prompts)
    torch.testing.assert_close(scores, (100 * cosines).clamp(min=0), rtol=1e-4, atol=1e-4)


def test_aesthetic_equals_its_script(openai_folder, tmp_path):
    head = _make_head_file(tmp_path)
    frames = _make_frames(2, 3)
    reward = Aesthetic.load(str(tmp_path), clip=openai_folder)
    clip = CLIPModel.from_pretrained(openai_folder).eval()
    with torch.no_grad():
        pixels = prepare_as_openai((frames * 255).round().byte().flatten(0, 1), 28)
        x = clip.visual_projection(clip.vision_model(pixels).pooler_output)
        x = x / x.norm(dim=-1, keepdim=True)
        for layer in (0, 2, 4, 6, 7):
            x = F.linear(x, head[f"layers.{layer}.weight"], head[f"layers.{layer}.bias"])
    assert x.std() > 0.01
    torch.testing.assert_close(reward(frames=frames, prompts=PROMPTS).flatten(), x[:, 0], rtol=1e-4, atol=1e-5)


def _make_head_file(path: Path) -> dict[str, Tensor]:
    """Writes the aesthetic head as published: linear layers 0, 2, 4, 6 and 7, dropouts between."""
    generator = torch.Generator().manual_seed(0)
    head = {}
    for layer, inward, outward in ((0, 16, 1024), (2, 1024, 128), (4, 128, 64), (6, 64, 16), (7, 16, 1)):
        head[f"layers.{layer}.weight"] = torch.randn(outward, inward, generator=generator) / inward**0.5
        head[f"layers.{layer}.bias"] = torch.randn(outward, generator=generator)
    torch.save(head, path / "sac+logos+ava1-l14-linearMSE.pth")
    return head


# HPSv2.1: open_clip's names and open_clip's network


def _make_open_clip() -> dict[str, Tensor]:
    """Returns random tensors under the names that open_clip's CLIP has, at its shapes."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (12, 24),
        "text_projection": (24, 16),
        "logit_scale": (),
        "token_embedding.weight": (60, 24),
        "ln_final.weight": (24,),
        "ln_final.bias": (24,),
        "visual.class_embedding": (32,),
        "visual.positional_embedding": (5, 32),
        "visual.proj": (32, 16),
        "visual.conv1.weight": (32, 3, 14, 14),
    }
    shapes |= {f"visual.{norm}.{kind}": (32,) for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")}
    for tower, width in (("", 24), ("visual.", 32)):
        for layer in range(2):
            block = f"{tower}transformer.resblocks.{layer}"
            shapes |= {f"{block}.{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
            for name, outward, inward in (
                ("attn.in_proj_", 3 * width, width),
                ("attn.out_proj.", width, width),
                ("mlp.c_fc.", 4 * width, width),
                ("mlp.c_proj.", width, 4 * width),
            ):
                shapes |= {f"{block}.{name}weight": (outward, inward), f"{block}.{name}bias": (outward,)}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _norm(x: Tensor, tensors: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)


def _run_tower(x: Tensor, tensors: dict[str, Tensor], tower: str, mask: Tensor | None) -> Tensor:
    """Returns what open_clip's residual attention blocks make of `[N, L, D]`."""
    for layer in range(2):
        block = f"{tower}transformer.resblocks.{layer}"
        attention = nn.MultiheadAttention(x.shape[-1], 2, batch_first=True)
        names = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
        attention.load_state_dict({name: tensors[f"{block}.attn.{name}"] for name in names})
        normed = _norm(x, tensors, f"{block}.ln_1")
        x = x + attention(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        wide = _norm(x, tensors, f"{block}.ln_2")
        wide = F.linear(wide, tensors[f"{block}.mlp.c_fc.weight"], tensors[f"{block}.mlp.c_fc.bias"])
        x = x + F.linear(F.gelu(wide), tensors[f"{block}.mlp.c_proj.weight"], tensors[f"{block}.mlp.c_proj.bias"])
    return x


@torch.no_grad()
def _score_as_open_clip(tensors: dict[str, Tensor], frames: Tensor, ids: list[int]) -> Tensor:
    """Returns the cosines of frames `[N, 3, H, W]` and a text, by open_clip's definition of both towers."""
    pixels = prepare_as_hps((frames * 255).round().byte(), 28)
    patches = F.conv2d(pixels, tensors["visual.conv1.weight"], stride=14).flatten(2).transpose(1, 2)
    first = tensors["visual.class_embedding"].expand(len(frames), 1, -1)
    x = torch.cat([first, patches], dim=1) + tensors["visual.positional_embedding"]
    x = _run_tower(_norm(x, tensors, "visual.ln_pre"), tensors, "visual.", None)
    images = _norm(x[:, 0], tensors, "visual.ln_post") @ tensors["visual.proj"]

    padded = torch.tensor([ids + [0] * (12 - len(ids))])
    x = F.embedding(padded, tensors["token_embedding.weight"]) + tensors["positional_embedding"]
    x = _run_tower(x, tensors, "", torch.full((12, 12), -torch.inf).triu(1))
    text = _norm(x, tensors, "ln_final")[0, padded.argmax()] @ tensors["text_projection"]
    return F.cosine_similarity(images, text[None])


def _tokenize(text: str) -> list[int]:
    """Returns a text's tokens: letters, those at the ends of words being others, between the two marks."""
    letters = [
        2 * (ord(letter) - ord("a")) + (index == len(word) - 1)
        for word in text.split()
        for index, letter in enumerate(word)
    ]
    return [58, *letters[:10], 59]


@pytest.mark.parametrize("prompt", ["a cat", "Two  CATS", "a very long tail of a cat"])
def test_hps_equals_open_clip(prompt, folder, tmp_path):
    tensors = _make_open_clip()
    torch.save({"state_dict": tensors}, tmp_path / "HPS_v2.1_compressed.pt")
    frames = _make_frames(1, 3)
    scores = TinyHPSv2.load(str(tmp_path), tokenizer=folder)(frames=frames, prompts=[prompt])
    expected = _score_as_open_clip(tensors, frames[0], _tokenize(prompt.lower()))
    assert expected.std() > 0.005
    torch.testing.assert_close(scores[0], expected, rtol=1e-4, atol=1e-5)


def test_hps_cleans_prompts_as_open_clip_does(folder, tmp_path):
    torch.save({"state_dict": _make_open_clip()}, tmp_path / "HPS_v2.1_compressed.pt")
    reward, frames = TinyHPSv2.load(str(tmp_path), tokenizer=folder), _make_frames(1, 1)
    plain, escaped = (reward(frames=frames, prompts=[text]) for text in ("a é cat", html.escape("a &eacute;\n cat")))
    assert torch.equal(plain, escaped)


def test_names_convert_both_ways():
    names = {name for name in _make_model(SIZE).state_dict()}
    originals = {original_name(name) for name in names}
    assert len(originals) == len(names)
    assert {hugging_face_name(name) for name in originals} == names
    whole = {name.split(" of ")[0] for name in originals}
    assert whole == set(_make_open_clip())


def test_loading_keeps_every_value():
    wanted, tensors = _make_model(SIZE), _make_open_clip()
    clip = make_clip(SIZE)
    load(clip, tensors)
    state = clip.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == sum(tensor.numel() for tensor in tensors.values())
    assert state.keys() == wanted.state_dict().keys()
    projections = [state[f"text_model.encoder.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(projections), tensors["transformer.resblocks.1.attn.in_proj_weight"])
    assert torch.equal(state["visual_projection.weight"].T, tensors["visual.proj"])


def test_loading_names_missing_unexpected_and_misshaped():
    tensors = _make_open_clip()
    del tensors["transformer.resblocks.0.mlp.c_fc.bias"], tensors["visual.transformer.resblocks.1.attn.in_proj_bias"]
    tensors["transformer.resblocks.2.ln_1.bias"] = torch.zeros(24)
    tensors["visual.proj"] = torch.zeros(32, 8)
    with pytest.raises(ValueError) as refusal:
        load(make_clip(SIZE), tensors)
    message = str(refusal.value)
    assert (
        "missing: transformer.resblocks.0.mlp.c_fc.bias, visual.transformer.resblocks.1.attn.in_proj_bias of k"
        in message
    )
    assert "unexpected: transformer.resblocks.2.ln_1.bias" in message
    assert "mis-shaped: visual.proj (8, 32) for (16, 32)" in message


# All of them


@pytest.fixture(scope="module")
def reward(folder: str) -> PickScore:
    return PickScore.load(folder, tokenizer=folder)


def test_batches_change_nothing(folder, reward):
    frames = _make_frames(2, 3)
    single = PickScore.load(folder, tokenizer=folder, batch_size=1)
    together, alone = (each(frames=frames, prompts=PROMPTS) for each in (reward, single))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reward(frames=frames[:1], prompts=PROMPTS[:1]), together[:1], rtol=1e-4, atol=1e-4)


def test_of_every_stride_frames_the_middle_one_is_scored(folder, reward):
    frames = _make_frames(1, 8)
    every = reward(frames=frames, prompts=PROMPTS[:1])
    strided = PickScore.load(folder, tokenizer=folder, stride=3)(frames=frames, prompts=PROMPTS[:1])
    expected = every[:, [1, 1, 1, 4, 4, 4, 6, 6]]
    torch.testing.assert_close(strided, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_scores_in_float32_where_the_frames_are(folder, reward):
    frames = _make_frames(1, 2)
    scores = PickScore.load(folder, tokenizer=folder, dtype=torch.bfloat16)(frames=frames, prompts=PROMPTS[:1])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, reward(frames=frames, prompts=PROMPTS[:1]), rtol=0.1, atol=3.0)


@pytest.mark.parametrize("kind", [PickScore, HPSv2, CLIPScore, Aesthetic])
def test_random_rewards_need_no_files(kind):
    scores = kind.random(size=SIZE)(frames=_make_frames(2, 2), prompts=PROMPTS)
    assert scores.shape == (2, 2)
    assert scores.isfinite().all()


@pytest.mark.parametrize("kind", [PickScore, Aesthetic])
@pytest.mark.parametrize(
    ("frames", "prompts", "message"),
    [
        (torch.rand(3, 8, 8), ["a"], r"frames must be \[B, F, 3, H, W\], got \[3, 8, 8\]"),
        (torch.rand(1, 2, 3, 8, 8), ["a", "b"], "prompts must be one for each of the 1 frames, got 2"),
        (torch.rand(1, 2, 3, 8, 8) * 255, ["a"], "frames must be from 0 to 1"),
        (torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), ["a"], "frames must be floating point"),
    ],
)
def test_frames_of_another_kind_are_refused(kind, frames, prompts, message):
    with pytest.raises(ValueError, match=message):
        kind.random(size=SIZE)(frames=frames, prompts=prompts)


@pytest.mark.parametrize(
    ("options", "message"), [({"stride": 0}, "stride must"), ({"batch_size": 0}, "batch_size must")]
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"{message} be at least 1, got 0"):
        PickScore.random(size=SIZE, **options)


def test_a_checkpoint_without_a_tensor_is_refused(folder, tmp_path):
    clip = CLIPModel.from_pretrained(folder)
    state = {name: tensor for name, tensor in clip.state_dict().items() if name != "visual_projection.weight"}
    clip.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"do not fit the network: missing: visual_projection\.weight"):
        PickScore.load(str(tmp_path), tokenizer=folder)


def test_checkpoints_of_older_transformers_load(folder, reward, tmp_path):
    """They hold positions, too, which are no weights."""
    clip = CLIPModel.from_pretrained(folder)
    clip.save_pretrained(
        tmp_path, state_dict={**clip.state_dict(), "text_model.embeddings.position_ids": torch.arange(12)[None]}
    )
    frames = _make_frames(1, 2)
    older = PickScore.load(str(tmp_path), tokenizer=folder)
    assert torch.equal(older(frames=frames, prompts=PROMPTS[:1]), reward(frames=frames, prompts=PROMPTS[:1]))


def test_a_checkpoint_of_another_shape_is_refused(folder, tmp_path):
    clip = CLIPModel.from_pretrained(folder)
    clip.save_pretrained(tmp_path, state_dict={**clip.state_dict(), "visual_projection.weight": torch.zeros(16, 8)})
    with pytest.raises(ValueError, match=r"mismatched: .*visual_projection\.weight"):
        PickScore.load(str(tmp_path), tokenizer=folder)


def test_a_head_of_another_shape_is_refused(openai_folder, tmp_path):
    head = _make_head_file(tmp_path)
    torch.save({**head, "layers.0.weight": torch.zeros(1024, 768)}, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    with pytest.raises(ValueError, match=r"mis-shaped: layers\.0\.weight \(1024, 768\) for \(1024, 16\)"):
        Aesthetic.load(str(tmp_path), clip=openai_folder)


def test_a_folder_without_weights_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match=r"must hold config\.json"):
        PickScore.load(str(tmp_path))
    with pytest.raises(ValueError, match=r"must hold HPS_v2\.1_compressed\.pt or"):
        TinyHPSv2.load(str(tmp_path), tokenizer=folder)
