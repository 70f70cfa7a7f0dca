"""VBench's measures on tiny checkpoints in the published formats, against the definitions of the originals."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from searchkit.metrics.vbench import AestheticQuality, BackgroundConsistency, SubjectConsistency, consistency
from searchkit.rewards.clip_model import ClipSize, make_clip
from searchkit.rewards.pixels import CLIP_MEAN, CLIP_STD

SIZE = ClipSize(
    image_size=28,
    vision_width=32,
    vision_layers=2,
    vision_heads=2,
    text_width=24,
    text_layers=1,
    text_heads=2,
    embed_dim=16,
    vocabulary=60,
    context=12,
    activation="quick_gelu",
)
DINO = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
DINO |= {"image_size": 32, "patch_size": 8}


def _make_video(num: int, height: int = 40, width: int = 60) -> Tensor:
    """Returns smooth frames in the 256 values that a file knows, each a little further from the first."""
    generator = torch.Generator().manual_seed(2)
    first, last = torch.rand(2, 1, 3, 4, 6, generator=generator)
    share = torch.linspace(0, 1, num)[:, None, None, None]
    fine = F.interpolate((1 - share) * first + share * last, size=(height, width), mode="bicubic")
    return (fine.clamp(0, 1) * 255).round() / 255


def _measure_as_vbench(features: Tensor) -> float:
    """Returns the consistency by VBench's loop."""
    total = 0.0
    for index in range(1, len(features)):
        others = (features[index - 1], features[0])
        total += sum(max(0.0, float(F.cosine_similarity(other, features[index], dim=0))) for other in others) / 2
    return total / (len(features) - 1)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    clip = make_clip(SIZE, initialise=True)
    for parameter in clip.parameters():  # transformers' own are too small to show a mistake
        parameter.data += (0.3 if parameter.ndim > 1 else 0.02) * torch.randn_like(parameter)
    clip.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def clip_features(clip_folder: str) -> Tensor:
    """What OpenAI's CLIP sees of a video that VBench prepared."""
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(clip_folder).eval()
    values = _make_video(5) * 255
    resized = F.interpolate(values, size=(28, 42), mode="bicubic")[..., 7:35]
    mean, std = (torch.tensor(part)[:, None, None] for part in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        pooled = clip.vision_model((resized / 255 - mean) / std).pooler_output
        return clip.visual_projection(pooled)


# Consistency


def test_consistency_equals_vbenchs_loop():
    features = F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert (features[1:] * features[:-1]).sum(-1).min() < 0  # some are floored
    assert consistency(features) == pytest.approx(_measure_as_vbench(features), abs=1e-6)


def test_a_still_video_is_consistent():
    video = _make_video(2)[:1].repeat(4, 1, 1, 1)
    for judge in (SubjectConsistency.random(sizes=DINO), BackgroundConsistency.random(size=SIZE)):
        (value,) = judge(video=video, prompt="a cat", fps=16).values()
        assert value == pytest.approx(1.0, abs=1e-5)


def test_background_consistency_equals_vbench(clip_folder, clip_features):
    expected = _measure_as_vbench(clip_features)
    assert 0.1 < expected < 0.99
    measured = BackgroundConsistency.load(clip_folder, batch_size=2)(video=_make_video(5), prompt="a cat", fps=16)
    assert measured == {"background_consistency": pytest.approx(expected, abs=1e-5)}


def test_aesthetic_quality_equals_vbench(clip_folder, clip_features, tmp_path):
    generator = torch.Generator().manual_seed(0)
    head = {"weight": torch.randn(1, 16, generator=generator), "bias": torch.tensor([5.0])}
    torch.save(head, tmp_path / "sa_0_4_vit_l_14_linear.pth")
    expected = F.linear(F.normalize(clip_features, dim=-1), head["weight"], head["bias"]).mean() / 10
    measured = AestheticQuality.load(str(tmp_path), clip=clip_folder)(video=_make_video(5), prompt="a cat", fps=16)
    assert measured == {"aesthetic_quality": pytest.approx(float(expected), abs=1e-5)}


# DINO


def _make_dino() -> dict[str, Tensor]:
    """Returns random tensors under the names of facebook/dino-vitb16."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, 24),
        "embeddings.position_embeddings": (1, 17, 24),
        "embeddings.patch_embeddings.projection.weight": (24, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": (24,),
        "layernorm.weight": (24,),
        "layernorm.bias": (24,),
    }
    for layer in range(2):
        block = f"encoder.layer.{layer}"
        for part in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            shapes |= {f"{block}.{part}.weight": (24, 24), f"{block}.{part}.bias": (24,)}
        for part, outward, inward in (
            ("attention.output.dense", 24, 24),
            ("intermediate.dense", 96, 24),
            ("output.dense", 24, 96),
        ):
            shapes |= {f"{block}.{part}.weight": (outward, inward), f"{block}.{part}.bias": (outward,)}
        for part in ("layernorm_before", "layernorm_after"):
            shapes |= {f"{block}.{part}.weight": (24,), f"{block}.{part}.bias": (24,)}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    norms = {name for name in shapes if "layernorm" in name and name.endswith("weight")}
    return {
        name: (name in norms) + (0.05 if name.endswith("bias") or name in norms else 0.4) * tensor
        for name, tensor in tensors.items()
    }


def _write_dino(path: Path, tensors: dict[str, Tensor]) -> str:
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["ViTModel"], "model_type": "vit", "layer_norm_eps": 1e-12, "hidden_act": "gelu", **DINO}
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


@torch.no_grad()
def _run_dino(tensors: dict[str, Tensor], video: Tensor) -> Tensor:
    """Returns what DINO's own vision_transformer.py makes of a video that VBench prepared."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (24,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6)

    height, width = video.shape[2:]
    new = (32, int(32 * width / height)) if height <= width else (int(32 * height / width), 32)
    images = F.interpolate(video * 255, size=new, mode="bilinear") / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images - mean[:, None, None]) / std[:, None, None]

    patch = "embeddings.patch_embeddings.projection"
    x = F.conv2d(images, tensors[f"{patch}.weight"], tensors[f"{patch}.bias"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([tensors["embeddings.cls_token"].expand(len(x), -1, -1), x], dim=1)
    table = tensors["embeddings.position_embeddings"]
    if new != (32, 32):
        grid = table[:, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
        factors = ((new[0] // 8 + 0.1) / 4, (new[1] // 8 + 0.1) / 4)
        grown = F.interpolate(grid, scale_factor=factors, mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 24)
        table = torch.cat([table[:, :1], grown], dim=1)
    x = x + table
    for layer in range(2):
        block = f"encoder.layer.{layer}"
        normed = norm(x, f"{block}.layernorm_before")
        q, k, v = (
            linear(normed, f"{block}.attention.attention.{part}").unflatten(-1, (2, 12)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        attended = (q @ k.transpose(2, 3) * 12**-0.5).softmax(-1) @ v
        x = x + linear(attended.transpose(1, 2).flatten(2), f"{block}.attention.output.dense")
        wide = F.gelu(linear(norm(x, f"{block}.layernorm_after"), f"{block}.intermediate.dense"))
        x = x + linear(wide, f"{block}.output.dense")
    return norm(x, "layernorm")[:, 0]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 33), (32, 32)])
def test_subject_consistency_equals_dinos_own_network(height, width, tmp_path):
    tensors, video = _make_dino(), _make_video(5, height, width)
    features = _run_dino(tensors, video)
    judge = SubjectConsistency.load(_write_dino(tmp_path, tensors), batch_size=2)
    torch.testing.assert_close(judge.embed(video), F.normalize(features, dim=-1), rtol=1e-4, atol=1e-5)
    measured = judge(video=video, prompt="a cat", fps=16)
    assert measured == {"subject_consistency": pytest.approx(_measure_as_vbench(features), abs=1e-5)}
    assert measured["subject_consistency"] < 0.999


def test_a_dino_without_a_tensor_is_refused(tmp_path):
    tensors = _make_dino()
    del tensors["encoder.layer.1.output.dense.bias"]
    with pytest.raises(ValueError, match=r"do not fit the network: missing: layers\.1\.mlp\.fc2\.bias"):
        SubjectConsistency.load(_write_dino(tmp_path, tensors))


# All of them


@pytest.mark.parametrize("kind", [SubjectConsistency, BackgroundConsistency, AestheticQuality])
def test_videos_of_another_kind_are_refused(kind):
    judge = kind.random(sizes=DINO) if kind is SubjectConsistency else kind.random(size=SIZE)
    with pytest.raises(ValueError, match="video must be from 0 to 1"):
        judge(video=_make_video(2) * 255, prompt="a cat", fps=16)
    with pytest.raises(ValueError, match=r"video must be \[B, F, 3, H, W\]"):
        judge(video=_make_video(2)[0], prompt="a cat", fps=16)


@pytest.mark.parametrize("kind", [SubjectConsistency, BackgroundConsistency])
def test_one_frame_has_no_consistency(kind):
    judge = kind.random(sizes=DINO) if kind is SubjectConsistency else kind.random(size=SIZE)
    with pytest.raises(ValueError, match="video must have at least 2 frames, got 1"):
        judge(video=_make_video(1), prompt="a cat", fps=16)
