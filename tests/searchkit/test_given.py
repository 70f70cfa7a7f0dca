"""Laws of streams that go on from frames that were given."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from policies import BeamSearch, Greedy, StreamT1
from searchkit.codecs.wan import encode
from searchkit.given import count_given, read_given
from searchkit.live import LiveSearch
from searchkit.memory import MemoryConfig
from searchkit.stream import Stream
from searchkit.types import Request
from searchkit.video import write_video

MEMORY = MemoryConfig(chunk_frames=2, window_frames=6, sink_frames=2, max_sink_frames=4)


def _replayed(stream, actions):
    state = stream.root
    for action in actions:
        [child] = stream.expand([Request(state, action)])
        state = child.state
    return state


@pytest.mark.parametrize("num_given", [1, 2, 4])
@pytest.mark.parametrize("positions", ["stream", "window"])
def test_stream_goes_on_from_its_own_beginning_as_it_went_on(make_model, scorer, num_given, positions):
    model = make_model(memory=replace(MEMORY, positions=positions))
    options = {"model": model, "scorer": scorer, "prompt": "a prompt"}
    whole = Greedy()(Stream(**options, horizon=6), seed=0).best
    given = torch.cat(whole.latents[:num_given])
    stream = Stream(**options, horizon=6 - num_given, given=given)
    state = _replayed(stream, whole.actions[num_given:])
    assert torch.equal(torch.cat(state.latents), torch.cat(whole.latents[num_given:]))
    assert torch.equal(state.video, whole.video)
    assert torch.equal(torch.cat(list(state.decode())), torch.cat(list(whole.decode())[num_given:]))
    assert [scores.short for scores in state.scores] == [scores.short for scores in whole.scores[num_given:]]
    assert [block.start_frame for block in state.memory_after.blocks] == [
        block.start_frame for block in whole.memory_after.blocks
    ]


def test_given_chunk_leaves_without_a_route_and_later_ones_with(make_model, scorer):
    stream = Stream(
        model=make_model(memory=MEMORY), scorer=scorer, prompt="a prompt", horizon=4, given=torch.randn(4, 4, 4, 4)
    )
    state, leaving = stream.root, []
    for _ in range(4):
        leaving.append(state.leaving)
        [child] = stream.expand([Request(state, stream.actions(state, num=1, seed=0)[0])])
        state = child.state
    assert leaving == [None, None, 0, 1]


def test_prompt_may_change_after_given_frames(make_model, scorer):
    model = make_model(memory=MEMORY)
    prompt = "one, then @3 two"
    whole = Greedy()(Stream(model=model, scorer=scorer, prompt=prompt, horizon=5), seed=0).best
    stream = Stream(model=model, scorer=scorer, prompt="one, then @2 two", horizon=4, given=whole.latents[0])
    state = _replayed(stream, whole.actions[1:])
    assert torch.equal(torch.cat(state.latents), torch.cat(whole.latents[1:]))


@pytest.mark.parametrize("policy", [StreamT1(), BeamSearch()])
@pytest.mark.parametrize("decoding", ["streamed", "cold"])
def test_searches_and_live_searches_go_on_from_given_frames(make_stream, policy, decoding):
    stream = make_stream(given=torch.randn(2, 4, 4, 4), horizon=3, decoding=decoding)
    output = policy(stream, seed=0)
    assert len(output.best.latents) == 3
    assert len(output.best.video) == 2 * 2 * 4 - 1
    live = LiveSearch(policy=policy, problem=stream, seed=0)
    frames = torch.cat([decided.frames for decided in live])
    assert torch.equal(frames, torch.cat(list(output.best.decode())))


def test_final_pick_is_charged_for_decoding_what_was_given(make_stream):
    stream = make_stream(given=torch.randn(4, 4, 4, 4), horizon=3, long_window=1)
    [whole] = stream.score_whole([Greedy()(stream, seed=0).best])
    assert whole.cost.latent_frames_decoded == 4 + 3 * 2


def test_given_frames_leave_room_in_the_rotary_table(make_stream):
    with pytest.raises(ValueError, match=r"given must be less than 1024 latent frames, .* got 2000"):
        make_stream(given=torch.zeros(2000, 4, 4, 4))


@pytest.mark.parametrize("shape", [(3, 4, 4, 4), (2, 4, 4, 5), (0, 4, 4, 4)])
def test_given_latents_that_are_no_whole_chunks_are_refused(make_stream, shape):
    with pytest.raises(ValueError, match="given must be"):
        make_stream(given=torch.zeros(shape))


def _make_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=4, num_res_blocks=1).eval()


@pytest.mark.parametrize(("num_frames", "num_latent"), [(1, 1), (5, 2), (9, 3)])
def test_frames_encode_to_the_normalised_mean_as_by_wan(num_frames, num_latent):
    vae, frames = _make_vae(), torch.rand(num_frames, 3, 32, 48)
    latents = encode(vae, frames)
    assert latents.shape == (num_latent, 16, 4, 6)
    mean, std = (torch.tensor(values)[:, None, None] for values in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():
        raw = vae.encode((2 * frames - 1).permute(1, 0, 2, 3)[None]).latent_dist.mean[0].transpose(0, 1)
    torch.testing.assert_close(latents * std + mean, raw, rtol=1e-5, atol=1e-5)


def test_frames_that_are_no_video_of_0_to_1_are_refused():
    with pytest.raises(ValueError, match=r"1, 5, 9, \.\.\. pixel frames, got 4"):
        encode(_make_vae(), torch.rand(4, 3, 32, 48))
    with pytest.raises(ValueError, match="from 0 to 1, got"):
        encode(_make_vae(), torch.rand(1, 3, 32, 48) * 255)


def _write_file(path, num_frames: int, height: int = 64, width: int = 96, rate: int = 16):
    """Writes a video whose frames are told apart by their greys: 0, 8, 16, ..."""
    greys = (8 * np.arange(num_frames)).astype(np.uint8)
    write_video(path, np.broadcast_to(greys[:, None, None, None], (num_frames, height, width, 3)).copy(), rate, crf=0)
    return path


@pytest.mark.parametrize(
    ("num_frames", "chunk_frames", "num_chunks"), [(1, 1, 1), (4, 1, 1), (5, 1, 2), (9, 3, 1), (20, 3, 1), (21, 3, 2)]
)
def test_file_gives_the_whole_chunks_at_its_end(tmp_path, num_frames, chunk_frames, num_chunks):
    path = _write_file(tmp_path / "clip.mp4", num_frames)
    frames = read_given(path, height=32, width=48, chunk_frames=chunk_frames)
    count = 4 * num_chunks * chunk_frames - 3
    assert frames.shape == (count, 3, 32, 48)
    assert (255 * frames.mean((1, 2, 3)) / 8).round().tolist() == list(range(num_frames - count, num_frames))
    assert count_given(path, chunk_frames=chunk_frames) == num_chunks


def test_middle_of_a_picture_is_given_scaled(tmp_path):
    from PIL import Image

    picture = np.zeros((64, 112, 3), np.uint8)
    picture[:, 8:104] = (np.arange(96) * 2)[None, :, None]  # what 32 x 48 pixels see of it
    Image.fromarray(picture).save(tmp_path / "picture.png")
    [frame] = read_given(tmp_path / "picture.png", height=32, width=48, chunk_frames=1)
    expected = torch.arange(96).mul(2.0).reshape(48, 2).mean(1) / 255
    torch.testing.assert_close(frame[:, :, 2:-2], expected[2:-2].expand(3, 32, 44), atol=0.01, rtol=0.0)


@pytest.mark.parametrize(
    ("num_frames", "size", "rate", "words"),
    [
        (8, (64, 96), 16, r"at least 9 frames at 16 a second, .*clip\.mp4' has 8: .* causal-forcing-framewise"),
        (9, (96, 64), 16, r"about the video's shape, 32 x 48 pixels, and .* is 96 x 64, of which 44% would be seen"),
        (9, (64, 96), 10, r"given video .*clip\.mp4' must have at least 16 frames a second, got 10"),
    ],
)
def test_file_that_does_not_suit_is_refused(tmp_path, num_frames, size, rate, words):
    path = _write_file(tmp_path / "clip.mp4", num_frames, *size, rate)
    with pytest.raises(ValueError, match=words):
        read_given(path, height=32, width=48, chunk_frames=3)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"given must be an image or a video: .*none\.png cannot be read: No"):
        count_given(tmp_path / "none.png", chunk_frames=1)
