"""Laws of the streaming Wan decoder, on the golden runs' tiny VAE; and the conversion of original VAE names."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import load_file
from torch import Tensor

from searchkit.codecs.convert import diffusers_name, load, original_name
from searchkit.codecs.wan import Cache, WanDecoder
from searchkit.level import cache_bytes

GOLDEN = Path(__file__).parents[1] / "golden"


def _make_vae(*, num_res_blocks: int = 1) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=4, num_res_blocks=num_res_blocks)


def _make_weights(run: str = "beam_search") -> dict[str, Tensor]:
    tensors = load_file(GOLDEN / f"{run}.safetensors")
    return {name.removeprefix("vae."): tensor for name, tensor in tensors.items() if name.startswith("vae.")}


def _make_latents(num: int, *, frames: int) -> Tensor:
    return torch.randn(num, frames, 16, 4, 6, generator=torch.Generator().manual_seed(1))


def _make_decoder(run: str = "beam_search") -> WanDecoder:
    vae = _make_vae()
    load(vae, _make_weights(run))
    return WanDecoder(vae)


@pytest.fixture(scope="module")
def decoder() -> WanDecoder:
    return _make_decoder()


def _make_cache(decoder: WanDecoder, age: int) -> Cache | None:
    """Returns the cache of a stream that has had `age` latent frames."""
    return decoder.decode(_make_latents(1, frames=age), [None])[1][0] if age else None


def _decode_pieces(
    decoder: WanDecoder, latents: Tensor, sizes: list[int], caches: Sequence[Cache | None] = (None,)
) -> list[Tensor]:
    pieces = []
    for part in latents.split(sizes, dim=1):
        frames, caches = decoder.decode(part, caches)
        pieces.append(frames)
    return pieces


def _tensors(cache: Cache) -> list[Tensor]:
    return [entry for entry in cache if isinstance(entry, Tensor)]


# Decoding


@pytest.mark.parametrize(
    ("sizes", "num_frames"), [([3, 3, 3], [9, 12, 12]), ([1] * 9, [1] + [4] * 8), ([2, 1, 6], [5, 4, 24])]
)
def test_decoding_piece_by_piece_equals_decoding_the_whole(decoder, sizes, num_frames):
    latents = _make_latents(1, frames=9)
    whole, _ = decoder.decode(latents, [None])
    pieces = _decode_pieces(decoder, latents, sizes)
    assert [piece.shape[1] for piece in pieces] == num_frames
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_decoding_equals_diffusers_own(decoder):
    latents = _make_latents(1, frames=7)
    frames, _ = decoder.decode(latents, [None])
    config = decoder.vae.config
    std, mean = (torch.tensor(values)[:, None, None] for values in (config.latents_std, config.latents_mean))
    with torch.no_grad():
        sample = decoder.vae.decode((latents * std + mean).transpose(1, 2)).sample
    assert torch.equal(frames, (sample.transpose(1, 2) + 1) / 2)


@pytest.mark.parametrize("ages", [(0, 0), (1, 1), (3, 3), (1, 2), (5, 1)])
def test_batched_streams_equal_single_ones(decoder, ages):
    latents = _make_latents(2, frames=6)
    caches = [_make_cache(decoder, age) for age in ages]
    batched = _decode_pieces(decoder, latents, [3, 3], caches)
    for row, cache in enumerate(caches):
        alone = _decode_pieces(decoder, latents[row : row + 1], [3, 3], [cache])
        torch.testing.assert_close(torch.cat(batched, 1)[row], torch.cat(alone, 1)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("age", [1, 2])
def test_forked_streams_share_a_cache_that_never_changes(decoder, age):
    latents = _make_latents(2, frames=3)
    cache = _make_cache(decoder, age)
    before = [entry.clone() if isinstance(entry, Tensor) else entry for entry in cache]
    first, _ = decoder.decode(latents[:1], [cache])
    decoder.decode(latents, [cache, cache])
    again, _ = decoder.decode(latents[:1], [cache])
    assert torch.equal(first, again)
    for entry, old in zip(cache, before, strict=True):
        assert torch.equal(entry, old) if isinstance(old, Tensor) else entry is old


@pytest.mark.parametrize("num", [1, 2])
def test_caches_hold_no_bytes_but_their_own(decoder, num):
    latents = _make_latents(num, frames=4)
    _, caches = decoder.decode(latents[:, :1], [None] * num)
    _, caches = decoder.decode(latents[:, 1:], caches)
    tensors = [tensor for cache in caches for tensor in _tensors(cache)]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


def test_bytes_of_shared_caches_are_counted_once(decoder):
    _, [cache, other] = decoder.decode(_make_latents(2, frames=2), [None, None])
    size = sum(entry.nbytes for entry in cache if isinstance(entry, torch.Tensor))
    assert cache_bytes([cache]) == cache_bytes([cache, cache, None]) == size
    assert cache_bytes([cache, other]) == 2 * size


def test_streams_at_their_start_do_not_mix_with_others(decoder):
    with pytest.raises(ValueError, match="at their start"):
        decoder.decode(_make_latents(2, frames=1), [None, _make_cache(decoder, 1)])


def test_frames_are_float32_whatever_the_dtypes_of_latents_and_vae():
    decoder = WanDecoder(_make_vae().to(torch.bfloat16))
    frames, (cache,) = decoder.decode(_make_latents(1, frames=2).half(), [None])
    assert frames.dtype == torch.float32
    assert 0 <= frames.min() < frames.max() <= 1
    assert {tensor.dtype for tensor in _tensors(cache)} == {torch.bfloat16}


# Recorded scores


def _score_short(frames: Tensor) -> float:
    """The golden runs' stand-in for an image reward, over frames `[F, 3, H, W]` in [0, 1]."""
    values = (frames * 255).byte().double() / 255
    return sum(float(10 * frame.mean() + 5 * frame.std(correction=0)) for frame in values) / len(values)


def _score_long(frames: Tensor) -> float:
    """The golden runs' stand-in for a video reward."""
    frames = frames.double()
    return float(3 * frames.mean() - 20 * (frames[1:] - frames[:-1]).abs().mean() + frames.std())


@pytest.mark.parametrize("run", ["beam_search", "beam_search_append", "beam_search_transition"])
@pytest.mark.parametrize("beam", [0, 1])
def test_recorded_scores_come_back(run, beam):
    """Every chunk of a surviving video is a recorded candidate; its seed tells which."""
    decoder = _make_decoder(run)
    facts = json.loads((GOLDEN / f"{run}.json").read_text())
    recorded = {(event["block"], event["seed"]): event for event in facts["events"]}
    chunks = load_file(GOLDEN / f"{run}.safetensors")[f"final_latents.{beam}"].split(3)

    def decode(*parts: Tensor) -> Tensor:
        return decoder.decode(torch.cat(parts)[None], [None])[0][0]

    for n, seed in enumerate(facts["kept"][-1][beam]["seeds"]):
        window = chunks[max(0, n + 1 - facts["long_window_chunks"]) : n + 1]
        assert _score_short(decode(chunks[n])) == pytest.approx(recorded[n, seed]["short_score"], abs=2e-5)
        assert _score_long(decode(*window)) == pytest.approx(recorded[n, seed]["long_score"], abs=2e-5)
    assert _score_long(decode(*chunks)) == pytest.approx(facts["final_scores"][beam], abs=2e-5)


# Names


@pytest.mark.parametrize("num_res_blocks", [1, 2, 3])
def test_names_convert_both_ways(num_res_blocks):
    names = set(_make_vae(num_res_blocks=num_res_blocks).state_dict())
    originals = {original_name(name, num_res_blocks=num_res_blocks) for name in names}
    assert len(originals) == len(names)
    assert {diffusers_name(name, num_res_blocks=num_res_blocks) for name in originals} == names


def test_recorded_names_are_the_originals_of_one_residual_block():
    assert {original_name(name, num_res_blocks=1) for name in _make_vae().state_dict()} == set(_make_weights())


def test_names_of_two_residual_blocks_convert_as_by_diffusers():
    originals = [original_name(name, num_res_blocks=2) for name in _make_vae(num_res_blocks=2).state_dict()]
    theirs = convert_wan_vae_to_diffusers({name: name for name in originals})
    assert {diffusers_name(name, num_res_blocks=2): name for name in originals} == theirs


@pytest.mark.parametrize("num_res_blocks", [1, 2])
def test_loading_keeps_every_value(num_res_blocks):
    wanted = _make_vae(num_res_blocks=num_res_blocks).state_dict()
    fresh = AutoencoderKLWan(base_dim=4, num_res_blocks=num_res_blocks)
    load(fresh, {original_name(name, num_res_blocks=num_res_blocks): tensor for name, tensor in wanted.items()})
    assert all(tensor.equal(wanted[name]) for name, tensor in fresh.state_dict().items())


def test_loading_names_missing_unexpected_and_misshaped_and_changes_nothing():
    vae, weights = _make_vae(), _make_weights()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    del weights["decoder.upsamples.5.time_conv.bias"]
    weights["decoder.upsamples.11.residual.2.bias"] = torch.zeros(4)
    weights["conv2.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as refusal:
        load(vae, weights)
    assert "missing: decoder.upsamples.5.time_conv.bias" in str(refusal.value)
    assert "unexpected: decoder.upsamples.11.residual.2.bias" in str(refusal.value)
    assert "mis-shaped: conv2.bias (3,) for (16,)" in str(refusal.value)
    assert all(tensor.equal(before[name]) for name, tensor in vae.state_dict().items())
