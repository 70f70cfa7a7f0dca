"""The embedded default as it is shipped."""

import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from envs.shapes import make_env, model, text
from envs.shapes.model import load_model, load_scorer, make_stream
from envs.shapes.world import WORDS, all_captions
from envs.vector import StreamVectorEnv
from policies import Greedy, StreamT1
from searchkit.rewards import View
from searchkit.types import Request


def test_every_prompt_of_the_grammar_fits_the_text_encoder() -> None:
    assert len(WORDS) <= text.TEXT_DIM
    assert max(len(str(caption).split()) for caption in all_captions()) <= text.TEXT_LENGTH


def test_different_prompts_have_different_embeddings() -> None:
    embeddings = {tuple(text.encode(str(caption)).flatten().tolist()) for caption in all_captions()}
    assert len(embeddings) == 1440


def test_weights_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in model.WEIGHTS.iterdir()) < 25e6


def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(model.WEIGHTS, tmp_path / "weights")
    damaged = bytearray((tmp_path / "weights" / "codec.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "weights" / "codec.safetensors").write_bytes(damaged)
    monkeypatch.setattr(model, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(ValueError, match=r"codec\.safetensors are damaged"):
        model.read_weights("codec")


def test_missing_weights_say_how_to_train_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="train_shapes"):
        model.read_weights("generator")


def test_a_greedy_stream_follows_its_prompt_s_background() -> None:
    video = Greedy()(make_stream("a slow red circle moving left on a snow background", horizon=2), seed=0).best.video
    assert video.shape == (21, 3, 64, 64)
    assert video.min() >= 0
    assert video.max() <= 1
    # The border of the frame is nearest to snow, the lightest of the four backgrounds.
    assert video[:, :, :2].mean() > 0.85


def test_thirty_seconds_stay_inside_the_rotary_table() -> None:
    network = load_model().engine.network
    assert network.config.rope_max_seq_len >= 120


def test_the_scorer_scores_clips_of_different_lengths_as_it_does_alone() -> None:
    stream = make_stream("a slow red circle moving left on a snow background", horizon=2)
    generator = torch.Generator().manual_seed(0)
    short, long = (torch.rand(frames, 3, 64, 64, generator=generator) for frames in (9, 12))
    views = [View(stream.prompt, (), (short,), short), View(stream.prompt, (), (short, long), long)]
    scorer = load_scorer()
    together, alone = scorer.score(views), [scorer.score([view])[0] for view in views]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_batched_candidates_equal_sequential_ones_to_five_digits() -> None:
    """Relative to the largest latent, which is about 6: float32 carries seven digits."""
    prompt = "a fast green square circling behind a pillar on a night background"
    together, alone = make_stream(prompt), make_stream(prompt, deterministic=True)
    children = together.expand(
        [Request(together.root, action) for action in together.actions(together.root, num=4, seed=0)]
    )
    for child in children:
        (other,) = alone.expand([Request(alone.root, child.state.actions[0])])
        (latents,), (expected,) = child.state.latents, other.state.latents
        assert (latents - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_searched_actions_replay_bit_for_bit_through_the_environment() -> None:
    env = make_env(max_batch=1, horizon=5)
    env.reset(seed=3)
    output = StreamT1()(env.problem, seed=3)
    for action in output.best.actions:
        env.apply(action)
    assert torch.equal(env.state.video, output.best.video)
    assert env.state.scores == output.best.scores


@pytest.mark.filterwarnings("error")
def test_the_registered_environment_passes_gymnasium_s_checks() -> None:
    env = gymnasium.make("searchkit/ShapesStream-v0", render_mode="rgb_array", horizon=2)
    check_env(env.unwrapped)
    env.close()


def test_registered_vector_environment_steps_its_streams_as_they_step_alone() -> None:
    together = gymnasium.make_vec("searchkit/ShapesStream-v0", num_envs=2, horizon=3)
    assert type(together) is StreamVectorEnv
    _, infos = together.reset(seed=4)
    _, rewards, *_ = together.step(np.array([[0, 0], [1, 0]]))
    for row in range(2):
        alone = make_env(horizon=3)
        alone.reset(seed=4 + row, options={"prompt": infos["prompt"][row]})
        assert alone.step(np.array([row, 0]))[1] == pytest.approx(rewards[row], abs=1e-3)
