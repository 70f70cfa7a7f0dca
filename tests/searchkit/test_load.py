"""Loading published weights, on tiny ones in the layout of the published folders; and random ones."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, processors
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from policies import StreamT1
from searchkit.backbones.load import load_model, random_model
from searchkit.backbones.presets import LONGLIVE, MODELS, REDUCED, SELF_FORCING, WAN_14B
from searchkit.backbones.sources import Source
from searchkit.backbones.text import TextEncoder
from searchkit.backbones.wan import CausalWan
from searchkit.codecs.wan import WanDecoder
from searchkit.memory import Memory
from searchkit.model import VideoModel
from searchkit.plan import Workload
from searchkit.rewards import View
from searchkit.stream import Stream
from searchkit.types import Scores

HEIGHT, WIDTH = 32, 48
WEIGHTS = "diffusion_pytorch_model.safetensors"


class MeanScorer:
    """Scores any number of frames, even the single one which a video by frames starts with."""

    def score(self, views: Sequence[View]) -> list[Scores]:
        return [
            Scores(float(view.newest.mean()), long) for view, long in zip(views, self.score_whole(views), strict=True)
        ]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        return [float(torch.cat(view.window).mean()) for view in views]


def _make_network(seed: int = 0) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(**REDUCED.arguments)


def _make_vae(seed: int = 0) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    return AutoencoderKLWan(base_dim=4, num_res_blocks=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as Wan2.1's on the hub, with a network of its own size."""
    folder = tmp_path_factory.mktemp("files")
    _make_network().save_pretrained(folder / "transformer")
    _make_vae().save_pretrained(folder / "vae")
    UMT5EncoderModel(
        UMT5Config(vocab_size=8, d_model=REDUCED.text_dim, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(folder / "text_encoder")
    pieces = ["<pad>", "</s>", "<s>", "<unk>", "a", "b", " "]
    tokenizer = Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], unk_id=3))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer/tokenizer.json"))
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def encoder(files: Path, tmp_path: Path) -> TextEncoder:
    return TextEncoder(Source(str(files)), dtype=torch.float32, cache=tmp_path / "prompts")


def _load(
    weights: Path, wan: Path, encoder: TextEncoder, *, dtype: torch.dtype = torch.float32, height: int = HEIGHT
) -> VideoModel:
    sources = {"weights": Source(str(weights)), "wan": Source(str(wan))}
    return load_model(LONGLIVE, **sources, encode_text=encoder, dtype=dtype, height=height, width=WIDTH)


def _copied(files: Path, folder: Path) -> Path:
    return Path(shutil.copytree(files, folder))


def _searched(model: VideoModel, *, horizon: int = 3) -> Tensor:
    stream = Stream(model=model, scorer=MeanScorer(), prompt="ab a", horizon=horizon)
    return torch.cat(StreamT1()(stream, seed=0).best.latents)


# Published weights


def test_loaded_model_makes_what_its_parts_make(files, encoder):
    """The law of the loader: it adds nothing, and leaves nothing out."""
    by_hand = VideoModel(
        engine=CausalWan(_make_network(), latent_size=(4, 6)),
        decoder=WanDecoder(_make_vae()),
        encode_text=encoder,
        sampler=LONGLIVE.sampler,
        memory=LONGLIVE.memory,
        latent_shape=(16, 4, 6),
        fps=16,
        checksum="by hand",
    )
    loaded = _load(files, files, encoder)
    assert torch.equal(_searched(loaded), _searched(by_hand))
    assert loaded.chunk_shape == by_hand.chunk_shape
    assert loaded.fps == by_hand.fps


def test_prepared_prompts_need_no_encoder(files, encoder):
    encoder.prepare(["ab a"])
    _searched(_load(files, files, encoder), horizon=1)
    assert not encoder.is_loaded


def test_network_may_lie_in_a_folder_of_its_own_or_in_several_files(files, encoder, tmp_path):
    _make_network().save_pretrained(tmp_path / "many", max_shard_size="200KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    whole, many = (_load(path, files, encoder) for path in (files / "transformer", tmp_path / "many"))
    assert torch.equal(_searched(whole), _searched(many))
    assert whole.checksum != many.checksum


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_float32_parts_and_runs(files, encoder, dtype):
    model = _load(files, files, encoder, dtype=dtype)
    dtypes = {name: parameter.dtype for name, parameter in model.engine.network.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == dtype
    assert dtypes["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    assert model.decoder.vae.dtype == dtype
    latents = _searched(model)
    assert latents.isfinite().all()
    full = _searched(_load(files, files, encoder), horizon=1)
    assert (latents[:3] - full).abs().mean() < 0.05 * full.abs().mean()


def test_checksum_names_whatever_makes_the_results(files, encoder, tmp_path):
    known = _load(files, files, encoder).checksum
    assert _load(_copied(files, tmp_path / "moved"), files, encoder).checksum == known
    others = [_copied(files, tmp_path / name) for name in ("network", "vae")]
    _make_network(seed=1).save_pretrained(others[0] / "transformer")
    _make_vae(seed=1).save_pretrained(others[1] / "vae")
    text = TextEncoder(encoder.source, dtype=torch.bfloat16, cache=encoder.cache)
    checksums = {
        known,
        _load(others[0], files, encoder).checksum,
        _load(files, others[1], encoder).checksum,
        _load(files, files, text).checksum,
        _load(files, files, encoder, dtype=torch.bfloat16).checksum,
    }
    assert len(checksums) == 5


def test_repositories_load_from_the_hubs_cache(files, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--user--name"
    _copied(files, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    made = []
    for source in (Source("user/name"), Source("user/name", revision=commit), Source(f"user/name@{commit}")):
        encoder = TextEncoder(source, dtype=torch.float32, cache=tmp_path / "prompts")
        options = {"encode_text": encoder, "wan": source, "dtype": torch.float32, "height": HEIGHT, "width": WIDTH}
        model = load_model(LONGLIVE, source, **options)
        made.append((model.checksum, _searched(model, horizon=1)))
        assert source.identity("vae") == f"user/name@{commit}/vae"
    assert made[0][0] == made[1][0] == made[2][0]
    assert torch.equal(made[0][1], made[1][1])
    with pytest.raises(ValueError, match="'user/other' are no folder here"):
        Source("user/other").find("config.json")


# Refusals


def test_missing_and_unexpected_weights_are_named(files, encoder, tmp_path):
    broken = _copied(files, tmp_path / "broken")
    tensors = load_file(broken / "transformer" / WEIGHTS)
    tensors["head"] = tensors.pop("proj_out.bias")
    save_file(tensors, broken / "transformer" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: proj_out\.bias; unexpected: head"):
        _load(broken, files, encoder)


def test_misshaped_weights_are_named(files, encoder, tmp_path):
    broken = _copied(files, tmp_path / "broken")
    tensors = load_file(broken / "transformer" / WEIGHTS)
    tensors["proj_out.bias"] = torch.zeros(3)
    save_file(tensors, broken / "transformer" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights '.*' cannot be loaded: .*proj_out\.bias expected shape .* got .*3"):
        _load(broken, files, encoder)


def test_weights_of_another_kind_are_refused(files, encoder):
    with pytest.raises(ValueError, match=r"must be of a WanTransformer3DModel, but .* says AutoencoderKLWan"):
        _load(files / "vae", files, encoder)


def test_pickles_are_never_read(files, encoder, tmp_path):
    broken = _copied(files, tmp_path / "broken")
    torch.save(load_file(broken / "transformer" / WEIGHTS), broken / "transformer/diffusion_pytorch_model.bin")
    (broken / "transformer" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        _load(broken, files, encoder)


def test_folder_without_weights_is_refused(files, encoder, tmp_path):
    with pytest.raises(ValueError, match=r"must hold config\.json or transformer/config\.json"):
        _load(tmp_path, files, encoder)


def test_name_of_nothing_is_refused():
    with pytest.raises(ValueError, match="weights must be a folder or a hub id such as user/name, got 'longlive'"):
        Source("longlive")


def test_hub_id_may_bring_its_revision():
    assert Source("user/name@v1.0") == Source("user/name", "v1.0") == Source("user/name@v1.0", "v1.0")
    assert Source("user/name@v1.0").arguments() == {"pretrained_model_name_or_path": "user/name", "revision": "v1.0"}
    with pytest.raises(ValueError, match=r"revision must be that of 'user/name@v1', or left out, got 'v2'"):
        Source("user/name@v1", "v2")


def test_revision_of_a_folder_is_refused(files):
    with pytest.raises(ValueError, match="revision is for hub ids, got 'main'"):
        Source(str(files), revision="main")


@pytest.mark.parametrize("height", [0, 40, 100])
def test_video_sizes_that_do_not_divide_into_tokens_are_refused(files, encoder, height):
    with pytest.raises(ValueError, match=f"height must be a multiple of 16 pixels, got {height}"):
        _load(files, files, encoder, height=height)


# Random weights


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_model_runs_at_reduced_size_with_random_weights(model):
    made = random_model(model, size=REDUCED, vae_base_dim=4, dtype=torch.float32, height=16, width=16)
    stream = Stream(model=made, scorer=MeanScorer(), prompt="a dog", horizon=8)
    output = StreamT1(beam_width=1, children=1)(stream, seed=0)
    passes = model.sampler.num_passes
    assert output.cost.denoise_passes == (model.first_passes or passes) + 7 * passes
    frames = 8 * model.memory.chunk_frames
    assert output.best.video.shape == (4 * frames - 3, 3, 16, 16)
    assert output.best.video.isfinite().all()


def test_network_of_wans_14b_sizes_runs_by_its_shapes():
    with torch.device("meta"), torch.no_grad():
        engine = CausalWan(WanTransformer3DModel(**WAN_14B.arguments), latent_size=(60, 104))
        chunk, prefix = torch.empty(1, 3, 16, 60, 104), engine.assemble(Memory(), starts=())
        where = {"start_frame": [0], "prefixes": [prefix], "text": [engine.encode_text(torch.empty(512, 4096))]}
        assert engine.flow(chunk, torch.empty(1), **where).shape == chunk.shape
        [(keys, values)] = engine.clean(chunk, **where)
    assert keys.shape == values.shape == (40, 4680, 40, 128)
    assert keys.nbytes + values.nbytes == Workload(size=WAN_14B).key_value_bytes(3, itemsize=4)


def test_random_weights_have_the_dtypes_of_loaded_ones(files, encoder):
    options = {"size": REDUCED, "vae_base_dim": 4, "height": HEIGHT, "width": WIDTH}
    made, loaded = random_model(LONGLIVE, **options), _load(files, files, encoder, dtype=torch.bfloat16)
    wanted, found = ({n: (p.shape, p.dtype) for n, p in m.engine.network.named_parameters()} for m in (loaded, made))
    assert found == wanted
    assert made.decoder.vae.dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32


def test_random_prompts_are_told_apart_and_come_back():
    made = random_model(SELF_FORCING, size=REDUCED, vae_base_dim=4, height=HEIGHT, width=WIDTH)
    assert torch.equal(made.encode_text("a dog"), made.encode_text("a dog"))
    assert not torch.equal(made.encode_text("a dog"), made.encode_text("a cat"))


def test_options_take_the_place_of_the_models_own():
    memory = replace(SELF_FORCING.memory, sink_frames=3, max_sink_frames=9)
    options = {"size": REDUCED, "vae_base_dim": 4, "height": HEIGHT, "width": WIDTH}
    made = random_model(SELF_FORCING, **options, memory=memory, max_batch=1)
    assert made.memory == memory
    assert made.max_batch == 1
    assert random_model(SELF_FORCING, **options).memory == SELF_FORCING.memory
