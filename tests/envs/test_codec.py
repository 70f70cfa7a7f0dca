"""Laws of the codec of shapes, on its shipped weights."""

import numpy as np
import pytest
import torch

from envs.shapes.codec import CHANNELS, Codec, to_patches, to_video
from envs.shapes.model import load_model
from envs.shapes.world import Scene, all_captions, is_held_out, render


@pytest.fixture(scope="module")
def codec() -> Codec:
    decoder = load_model().decoder
    assert isinstance(decoder, Codec)
    return decoder


def _make_clips(num: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    captions = [caption for caption in all_captions() if is_held_out(caption)]
    scenes = [Scene.sample(captions[i], rng) for i in rng.choice(len(captions), num, replace=False)]
    return torch.from_numpy(np.stack([render(scene, range(33)) for scene in scenes])).permute(0, 1, 4, 2, 3)


def test_patches_join_to_the_same_video() -> None:
    clips = _make_clips(2)[:, 1:]
    assert torch.equal(to_video(to_patches(clips)), clips)


def test_frames_reduce_as_in_wan(codec: Codec) -> None:
    assert codec.encode(_make_clips(2)).shape == (2, 9, CHANNELS, 8, 8)


def test_decoding_chunk_by_chunk_equals_decoding_the_whole(codec: Codec) -> None:
    latents = codec.encode(_make_clips(2))
    whole, _ = codec.decode(latents, [None, None])
    caches: list[torch.Tensor | None] = [None, None]
    pieces = []
    for part in latents.split(3, dim=1):
        frames, caches = codec.decode(part, caches)
        pieces.append(frames)
    assert [piece.shape[1] for piece in pieces] == [9, 12, 12]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-5)


def test_unseen_clips_come_back_at_thirty_decibels(codec: Codec) -> None:
    clips = _make_clips(24)
    decoded, _ = codec.decode(codec.encode(clips), [None] * len(clips))
    decibels = -10 * torch.log10((decoded - clips).square().mean((1, 2, 3, 4)))
    assert decibels.mean() >= 30


def test_streams_at_their_start_do_not_mix_with_others(codec: Codec) -> None:
    latents = codec.encode(_make_clips(2))
    with pytest.raises(ValueError, match="at their start"):
        codec.decode(latents, [None, latents[0, 0]])
