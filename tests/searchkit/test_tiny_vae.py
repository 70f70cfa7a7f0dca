"""Laws of the tiny decoder, on random weights in the published layout of taew2_1."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from searchkit.checkpoint import read_tensors
from searchkit.codecs.tiny import Cache, TinyDecoder, load

CHANNELS = {"decoder.1": (16, 256), "decoder.8": (256, 128), "decoder.14": (128, 64), "decoder.20": (64, 64)}
GROW = {"decoder.7": (256, 1), "decoder.13": (128, 2), "decoder.19": (64, 2)}  # channels, frames that one becomes
BLOCKS = {256: (3, 4, 5), 128: (9, 10, 11), 64: (15, 16, 17)}


def _published_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the decoder's tensors in taew2_1.pth, by their names there."""
    shapes: dict[str, tuple[int, ...]] = {"decoder.1.bias": (256,), "decoder.22.bias": (3,)}
    shapes["decoder.22.weight"] = (3, 64, 3, 3)
    shapes |= {f"{name}.weight": (outward, inward, 3, 3) for name, (inward, outward) in CHANNELS.items()}
    shapes |= {f"{name}.conv.weight": (channels * num, channels, 1, 1) for name, (channels, num) in GROW.items()}
    for channels, layers in BLOCKS.items():
        for layer in layers:
            for index, inward in ((0, 2 * channels), (2, channels), (4, channels)):
                shapes[f"decoder.{layer}.conv.{index}.weight"] = (channels, inward, 3, 3)
                shapes[f"decoder.{layer}.conv.{index}.bias"] = (channels,)
    return shapes


def _make_weights() -> dict[str, Tensor]:
    """Returns random weights whose frames move and stay mostly within [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in sorted(_published_shapes().items()):
        spread = 1.2 / torch.tensor(shape[1:]).prod().sqrt() if len(shape) > 1 else 0.05
        weights[name] = spread * torch.randn(shape, generator=generator)
    weights["decoder.22.weight"] *= 0.2
    weights["decoder.22.bias"] += 0.5
    return {"encoder.0.weight": torch.zeros(64, 3, 3, 3), "encoder.0.bias": torch.zeros(64), **weights}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return _make_weights()


@pytest.fixture(scope="module")
def path(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("weights") / "taew2_1.pth"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def decoder(path: Path) -> TinyDecoder:
    return load(str(path))


def _make_latents(num: int, *, frames: int) -> Tensor:
    return 1.5 * torch.randn(num, frames, 16, 2, 3, generator=torch.Generator().manual_seed(1))


def _decode_pieces(
    decoder: TinyDecoder, latents: Tensor, sizes: list[int], caches: Sequence[Cache | None] = (None,)
) -> list[Tensor]:
    pieces = []
    for part in latents.split(sizes, dim=1):
        frames, caches = decoder.decode(part, caches)
        pieces.append(frames)
    return pieces


def _decode_whole(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Returns what the published definition makes of whole videos: all frames go through one layer after the other."""

    def convolve(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding="same")

    def remember(x: Tensor, layer: int) -> Tensor:
        videos = x.unflatten(0, (len(latents), -1))
        before = torch.cat([torch.zeros_like(videos[:, :1]), videos[:, :-1]], dim=1).flatten(0, 1)
        y = torch.cat([x, before], dim=1)
        for index in (0, 2, 4):
            y = convolve(y if index == 0 else y.relu(), f"decoder.{layer}.conv.{index}")
        return (y + x).relu()

    x = (latents.flatten(0, 1) / 3).tanh() * 3
    x = convolve(x, "decoder.1").relu()
    for layers, grow, reduce in ((3, 4, 5), 7, 8), ((9, 10, 11), 13, 14), ((15, 16, 17), 19, 20):
        for layer in layers:
            x = remember(x, layer)
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = convolve(x, f"decoder.{grow}.conv")
        x = x.reshape(-1, GROW[f"decoder.{grow}"][0], *x.shape[2:])
        x = convolve(x, f"decoder.{reduce}")
    x = convolve(x.relu(), "decoder.22")
    return x.clamp(0, 1).unflatten(0, (len(latents), -1))[:, 3:]


# Decoding


def test_decoding_equals_the_published_definition(decoder, weights):
    latents = _make_latents(2, frames=4)
    frames, _ = decoder.decode(latents, [None, None])
    expected = _decode_whole(weights, latents)
    assert frames.shape == expected.shape == (2, 13, 3, 16, 24)
    torch.testing.assert_close(frames, expected, rtol=1e-5, atol=1e-5)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5  # the clamp hides no mistake
    assert (expected[:, 1:] - expected[:, :-1]).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("sizes", "num_frames"), [([3, 3], [9, 12]), ([1] * 6, [1] + [4] * 5), ([2, 1, 3], [5, 4, 12])]
)
def test_decoding_piece_by_piece_equals_decoding_the_whole(decoder, sizes, num_frames):
    latents = _make_latents(1, frames=6)
    whole, _ = decoder.decode(latents, [None])
    pieces = _decode_pieces(decoder, latents, sizes)
    assert [piece.shape[1] for piece in pieces] == num_frames
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_batched_streams_equal_single_ones_whatever_their_ages(decoder):
    latents = _make_latents(2, frames=3)
    caches = [decoder.decode(_make_latents(1, frames=age), [None])[1][0] for age in (1, 2)]
    batched, _ = decoder.decode(latents, caches)
    for row, cache in enumerate(caches):
        alone, _ = decoder.decode(latents[row : row + 1], [cache])
        torch.testing.assert_close(batched[row], alone[0], rtol=1e-5, atol=1e-5)


def test_forked_streams_share_a_cache_that_never_changes(decoder):
    latents = _make_latents(2, frames=2)
    _, (cache,) = decoder.decode(_make_latents(1, frames=1), [None])
    before = [entry.clone() for entry in cache]
    first, _ = decoder.decode(latents[:1], [cache])
    decoder.decode(latents, [cache, cache])
    again, _ = decoder.decode(latents[:1], [cache])
    assert torch.equal(first, again)
    assert all(map(torch.equal, cache, before))


@pytest.mark.parametrize("num", [1, 2])
def test_caches_hold_no_bytes_but_their_own(decoder, num):
    _, caches = decoder.decode(_make_latents(num, frames=2), [None] * num)
    for cache in caches:
        assert all(entry.untyped_storage().nbytes() == entry.nbytes for entry in cache)
        assert sum(entry.nbytes for entry in cache) == decoder.cache_bytes(2, 3)
    assert len({entry.untyped_storage().data_ptr() for cache in caches for entry in cache}) == 9 * num


def test_a_cache_at_full_size_in_half_precision_takes_64_mib(path):
    decoder = load(str(path), dtype=torch.bfloat16)
    assert decoder.cache_bytes(60, 104) == pytest.approx(64 * 2**20, rel=1e-3)


def test_frames_are_float32_whatever_the_dtypes_of_latents_and_layers(path):
    decoder = load(str(path), dtype=torch.bfloat16)
    frames, (cache,) = decoder.decode(_make_latents(1, frames=2).half(), [None])
    assert frames.dtype == torch.float32
    assert 0 <= frames.min() < frames.max() <= 1
    assert {entry.dtype for entry in cache} == {torch.bfloat16}


def test_streams_at_their_start_do_not_mix_with_others(decoder):
    _, (cache,) = decoder.decode(_make_latents(1, frames=1), [None])
    with pytest.raises(ValueError, match="at their start"):
        decoder.decode(_make_latents(2, frames=1), [None, cache])


def test_latents_of_another_model_are_refused(decoder):
    with pytest.raises(ValueError, match=r"latents must be \[B, T, 16, h, w\], got \[1, 1, 48, 2, 3\]"):
        decoder.decode(torch.zeros(1, 1, 48, 2, 3), [None])


# Weights


def test_folder_and_safetensors_load_the_same(path, weights, decoder, tmp_path):
    save_file(weights, tmp_path / "taew2_1.safetensors")
    for where in (str(path.parent), str(tmp_path)):
        state = load(where).layers.state_dict()
        assert all(tensor.equal(state[name]) for name, tensor in decoder.layers.state_dict().items())


def test_loading_names_missing_unexpected_and_misshaped(weights, tmp_path):
    wrong = {**weights, "decoder.23.bias": torch.zeros(3), "decoder.7.conv.weight": torch.zeros(512, 256, 1, 1)}
    del wrong["decoder.10.conv.2.bias"]
    torch.save(wrong, tmp_path / "taew2_1.pth")
    with pytest.raises(ValueError) as refusal:
        load(str(tmp_path))
    assert "missing: decoder.10.conv.2.bias" in str(refusal.value)
    assert "unexpected: decoder.23.bias" in str(refusal.value)
    assert "mis-shaped: decoder.7.conv.weight (512, 256, 1, 1) for (256, 256, 1, 1)" in str(refusal.value)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold taew2_1\.pth or taew2_1\.safetensors"):
        load(str(tmp_path))


class _Runs:
    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize("content", [_Runs(), {"decoder.1.weight": _Runs()}], ids=["object", "entry"])
def test_files_run_nothing(content, tmp_path, capsys):
    torch.save(content, tmp_path / "taew2_1.pth")
    with pytest.raises(ValueError, match="damaged, or hold more than tensors"):
        load(str(tmp_path))
    assert capsys.readouterr().out == ""


def test_tensors_are_found_under_their_key(tmp_path):
    torch.save({"epoch": 3, "state_dict": {"a": torch.ones(1)}}, tmp_path / "model.pt")
    assert list(read_tensors(tmp_path / "model.pt", key="state_dict")) == ["a"]
    with pytest.raises(ValueError, match="must hold tensors by name"):
        read_tensors(tmp_path / "model.pt")
