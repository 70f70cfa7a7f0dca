"""Laws of prompt embeddings, on a tiny umT5 in the layout of the published files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from searchkit.backbones.sources import Source
from searchkit.backbones.text import TEXT_LENGTH, TextEncoder, clean

PIECES = ["<pad>", "</s>", "<s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz'\"", *(f"<0x{i:02X}>" for i in range(256))]


def _make_tokenizer() -> Tokenizer:
    """The shape of umT5's: an end and no start, 3 for unknown characters, and bytes."""
    scores = [(piece, -float(index)) for index, piece in enumerate(PIECES)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=3, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.enable_padding(length=7)  # a setting of the file, which is nothing to us
    return tokenizer


def _make_model(seed: int = 0) -> UMT5EncoderModel:
    torch.manual_seed(seed)
    config = UMT5Config(vocab_size=len(PIECES), d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2)
    return UMT5EncoderModel(config).eval()


def _make_files(folder: Path, *, seed: int = 0) -> Path:
    """Writes a text encoder and a tokenizer as they are published."""
    _make_model(seed).save_pretrained(folder / "text_encoder")
    config = json.loads((folder / "text_encoder/config.json").read_text())
    (folder / "text_encoder/config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    (folder / "tokenizer").mkdir()
    _make_tokenizer().save(str(folder / "tokenizer/tokenizer.json"))
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make_files(tmp_path_factory.mktemp("wan"))


def _make_encoder(files: Path, cache: Path, *, dtype: torch.dtype = torch.float32) -> TextEncoder:
    return TextEncoder(Source(str(files)), dtype=dtype, cache=cache)


def _padded_as_wan_does(text: str) -> Tensor:
    """Returns the embedding of a clean text, encoded with its padding, which is masked and then zeroed."""
    tokenizer = _make_tokenizer()
    tokenizer.enable_padding(length=TEXT_LENGTH)
    tokenizer.enable_truncation(TEXT_LENGTH)
    encoded = tokenizer.encode(text)
    mask = torch.tensor([encoded.attention_mask])
    with torch.no_grad():
        embedding = _make_model()(torch.tensor([encoded.ids]), mask).last_hidden_state[0]
    embedding[int(mask.sum()) :] = 0.0
    return embedding


# Cleaning


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a\tdog\n\nand  a\u00a0cat ", "a dog and a cat"),
        ("a “dog’s” day", 'a "dog\'s" day'),
        ("fish &amp;amp; chips &lt;br&gt;", "fish & chips <br>"),
        ("schÃ¶n", "schön"),
        ("红色，圆", "红色,圆"),
    ],
)
def test_prompts_are_cleaned_as_by_wan(prompt, cleaned):
    assert clean(prompt) == cleaned
    assert clean(cleaned) == cleaned


# Embeddings


@pytest.mark.parametrize("prompt", ["a dog", "", "un ça 🙂", "a b " * 300])
def test_embedding_is_that_of_the_masked_and_zeroed_padding(files, tmp_path, prompt):
    embedding = _make_encoder(files, tmp_path)(prompt)
    torch.testing.assert_close(embedding, _padded_as_wan_does(clean(prompt)), rtol=1e-5, atol=1e-5)


def test_padding_is_zero_and_tokens_are_not(files, tmp_path):
    embedding = _make_encoder(files, tmp_path)("a dog")
    assert embedding.shape == (TEXT_LENGTH, 16)
    assert embedding.abs().sum(1).count_nonzero() == len("▁a▁dog") + 1


def test_unknown_characters_are_bytes(files, tmp_path):
    """A tokenizer of transformers' T5 class would make both of these the token of a start."""
    encoder = _make_encoder(files, tmp_path)
    assert not torch.equal(encoder("🙂"), encoder("🚀"))
    assert encoder("ç").abs().sum(1).count_nonzero() == len("▁") + len("ç".encode()) + 1


# The cache


def test_encoder_is_loaded_once_and_never_where_the_cache_has_the_prompts(files, tmp_path):
    first = _make_encoder(files, tmp_path)
    assert not first.is_loaded
    embedding = first("a dog")
    assert first.is_loaded
    first.free()
    assert not first.is_loaded
    assert torch.equal(first("a dog"), embedding)
    second = _make_encoder(files, tmp_path)
    assert torch.equal(second("  a   dog "), embedding)
    assert not first.is_loaded
    assert not second.is_loaded


def test_preparing_encodes_what_is_missing_and_frees_the_encoder(files, tmp_path):
    encoder = _make_encoder(files, tmp_path)
    encoder.prepare(["a dog", "a cat", "a dog"])
    assert not encoder.is_loaded
    assert len(list(tmp_path.iterdir())) == 2
    encoder("a cat")
    assert not encoder.is_loaded


def test_other_encoders_dtypes_and_texts_share_no_embedding(files, tmp_path):
    other = _make_files(tmp_path / "other", seed=1)
    cache = tmp_path / "cache"
    embedding = _make_encoder(files, cache)("a dog")
    assert not torch.allclose(_make_encoder(other, cache)("a dog"), embedding)
    half = _make_encoder(files, cache, dtype=torch.bfloat16)("a dog")
    assert half.dtype == torch.bfloat16
    _make_encoder(files, cache)("a cat")
    assert len(list(cache.iterdir())) == 4


def test_moved_files_keep_their_embeddings(files, tmp_path):
    cache = tmp_path / "cache"
    _make_encoder(files, cache)("a dog")
    moved = _make_files(tmp_path / "moved")
    encoder = _make_encoder(moved, cache)
    encoder("a dog")
    assert not encoder.is_loaded


def test_cache_holds_no_padding(files, tmp_path):
    _make_encoder(files, tmp_path)("a dog")
    (path,) = tmp_path.iterdir()
    assert load_file(path)["embedding"].shape == (len("▁a▁dog") + 1, 16)


def test_damaged_cache_is_named(files, tmp_path):
    encoder = _make_encoder(files, tmp_path)
    encoder("a dog")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"{path.name} is damaged, delete it"):
        encoder("a dog")


def test_folder_without_an_encoder_is_refused(tmp_path):
    (tmp_path / "text_encoder").mkdir()
    with pytest.raises(ValueError, match="text_encoder' must hold weights"):
        _make_encoder(tmp_path, tmp_path / "cache")("a dog")


def test_missing_weights_are_named(tmp_path):
    files = _make_files(tmp_path / "wan")
    path = files / "text_encoder/model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights: encoder\.block\.1\.layer\.1\.DenseReluDense\.wo\.weight"):
        _make_encoder(files, tmp_path / "cache")("a dog")
