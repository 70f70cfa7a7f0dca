"""The stream as a Gymnasium environment."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from envs.recorder import FrameRecorder
from envs.stream import StepResult, StreamEnv
from policies import BeamSearch, StreamT1
from searchkit.fusion import Fusion
from searchkit.model import VideoModel
from searchkit.pruning import keep_best
from searchkit.rewards import Scorer
from searchkit.search import search
from searchkit.types import Action, Route
from searchkit.video import read_video, to_pixels

MakeEnv = Callable[..., StreamEnv]
PROMPTS = ("one", "two", "three")


@pytest.fixture
def make_env(make_model: Callable[..., VideoModel], scorer: Scorer) -> MakeEnv:
    """Makes an environment of the tiny model in batches of one, so that replays are exact."""
    model = make_model(max_batch=1)

    def make(**options: Any) -> StreamEnv:
        return StreamEnv(model, scorer, **{"prompts": PROMPTS, "num_candidates": 3, "horizon": 6, **options})

    return make


@pytest.fixture
def env_id(make_env: MakeEnv) -> Iterator[str]:
    """Registers the tiny environment, as `check_env` and `gymnasium.make` want it."""
    gymnasium.register(id="test/TinyStream-v0", entry_point=make_env)
    yield "test/TinyStream-v0"
    del gymnasium.registry["test/TinyStream-v0"]


def _assert_equal(a: Any, b: Any) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def _assert_same_step(a: StepResult, b: StepResult) -> None:
    """The same but for the passes, as the clean pass of a state is done once."""
    _assert_equal(a[0], b[0])
    assert a[1:4] == b[1:4]
    assert {**a[4], "passes": 0} == {**b[4], "passes": 0}


def _play(env: gymnasium.Env[Any, Any], *, seed: int) -> list[float]:
    env.reset(seed=seed)
    env.action_space.seed(seed)
    rewards, done = [], False
    while not done:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        rewards.append(float(reward))
        done = terminated or truncated
    return rewards


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_environment_passes_gymnasiums_checks_without_a_warning(env_id: str, render_mode: str | None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, render_mode=render_mode).unwrapped)


def test_random_agent_plays_whole_episodes_within_the_spaces(make_env: MakeEnv):
    env = make_env(noise_correlation=-0.2, noise_pooling=2)
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        assert info["prompt"] in PROMPTS
        assert observation in env.observation_space
        env.action_space.seed(seed)
        for chunk in range(1, 7):
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            assert observation in env.observation_space
            assert observation["chunk"] == chunk
            assert isinstance(reward, float)
            assert (terminated, truncated) == (chunk == 6, False)
            assert not any("seconds" in key or "time" in key for key in info)


def test_episode_depends_on_its_seed_alone(make_env: MakeEnv):
    a, b = make_env(), make_env()
    b.reset(seed=9)
    assert _play(a, seed=1) == _play(b, seed=1) != _play(a, seed=2)


def test_reward_is_the_fused_score(make_env: MakeEnv):
    fusion = Fusion(short_cap=0.7)
    env = make_env(fusion=fusion)
    rewards = _play(env, seed=0)
    assert rewards == [fusion([scores], chunk=i, horizon=6)[0] for i, scores in enumerate(env.state.scores)]


def test_observed_noise_is_the_noise_that_starts_the_chunk(make_env: MakeEnv):
    env = make_env(noise_correlation=-0.5)
    observation, _ = env.reset(seed=0)
    for index in (2, 0, 1):
        chosen = observation["noises"][index]
        observation = env.step(np.array([index, 0]))[0]
        assert env.state.noise is not None
        np.testing.assert_array_equal(chosen, env.state.noise.numpy().clip(-6, 6))


def test_pooled_noise_keeps_unit_variance(make_env: MakeEnv):
    observation, _ = make_env(num_candidates=200, noise_pooling=4).reset(seed=0)
    assert observation["noises"].shape == (200, 2, 4, 1, 1)
    assert observation["noises"].std() == pytest.approx(1.0, abs=0.05)


def test_memory_rows_say_what_memory_holds(make_env: MakeEnv):
    env = make_env()
    observation, _ = env.reset(seed=0)
    assert not observation["memory_mask"].any()
    assert not observation["memory"].any()
    for route in (0, 0, 0, 0, 2, 1):
        assert observation["route_matters"] == (env.state.leaving is not None)
        observation = env.step(np.array([0, route]))[0]
    # Slots: up to three sinks of two latent frames, then two past chunks and the newest one.
    assert observation["memory_mask"].tolist() == [1, 1, 0, 1, 1, 1]
    assert observation["memory"][:, 0].tolist() == [0, 2, 0, 6, 8, 10]
    assert observation["memory"][:, 1].tolist() == [6, 5, 0, 3, 2, 1]
    stored = np.array(env.state.scores, np.float32)
    np.testing.assert_array_equal(observation["memory"][[0, 1, 3, 4, 5], 2:4], stored[[0, 1, 3, 4, 5]])
    norms = observation["memory"][:, 4:]
    assert (norms[[0, 1, 3, 4]] > 0).all()
    assert not norms[[2, 5]].any()  # an empty slot, and the newest chunk
    assert observation["route_matters"] == 1


def test_observing_runs_no_clean_pass_and_does_not_change_with_expansion(make_env: MakeEnv):
    env = make_env()
    env.reset(seed=0)
    env.step(np.array([0, 0]))
    slot, before, point = env.state.slot, env.observation(), env.clone_state()
    assert slot is not None
    assert not slot.block.filled
    env.step(np.array([1, 0]))
    env.restore_state(point)
    assert slot.block.filled
    _assert_equal(env.observation(), before)


def test_scores_beyond_the_bounds_are_clipped(make_env: MakeEnv, scorer: Scorer):
    class Loud:
        def score(self, views: Any) -> Any:
            return [score._replace(short=1e6, long=-1e6) for score in scorer.score(views)]

    env = make_env()
    env.scorer = Loud()
    env.reset(seed=0)
    observation = env.step(np.array([0, 0]))[0]
    assert observation in env.observation_space
    assert observation["scores"][0].tolist() == [100.0, -100.0]


def test_restored_state_goes_on_as_it_did(make_env: MakeEnv):
    env = make_env()
    env.reset(seed=0)
    env.step(np.array([1, 0]))
    point = env.clone_state()
    actions = [np.array([2, 0]), np.array([0, 2]), np.array([1, 1])]
    first = [env.step(action) for action in actions]
    env.restore_state(point)
    again = [env.step(action) for action in actions]
    for a, b in zip(first, again, strict=True):
        _assert_same_step(a, b)


def test_state_restores_in_another_environment(make_env: MakeEnv):
    env, other = make_env(), make_env()
    env.reset(seed=0, options={"prompt": "a prompt of its own"})
    env.step(np.array([1, 0]))
    other.restore_state(env.clone_state())
    _assert_equal(other.observation(), env.observation())
    _assert_same_step(other.step(np.array([2, 0])), env.step(np.array([2, 0])))


@pytest.mark.parametrize("policy", [BeamSearch(), StreamT1(noise_correlation=-0.3)])
def test_searched_actions_replay_to_the_same_video(make_env: MakeEnv, policy: BeamSearch | StreamT1):
    env = make_env()
    env.reset(seed=3, options={"prompt": "two"})
    output = policy(env.problem, seed=3)
    results = [env.apply(action) for action in output.best.actions]
    assert env.state.video.equal(output.best.video)
    fused = {record.lineage: record.fused for record in output.records}
    assert [result[1] for result in results] == [fused[output.best.actions[: n + 1]] for n in range(len(results))]
    assert [result[2] for result in results] == [False] * 5 + [True]


def test_candidates_are_those_of_a_search_with_the_episodes_seed(make_env: MakeEnv):
    env = make_env()
    env.reset(seed=5)
    output = search(
        env.problem,
        propose=lambda state, rank: env.problem.actions(state, num=3, seed=5),
        select=keep_best(1, Fusion()),
    )
    for best in output.best.actions:
        index = [action.seed for action in env.candidates()].index(best.seed)
        env.step(np.array([index, Route.DISCARD]))
    assert env.state.video.equal(output.best.video)


def test_prompt_option_sets_the_prompt(make_env: MakeEnv):
    env = make_env()
    observation, info = env.reset(seed=0, options={"prompt": "mine"})
    assert info["prompt"] == env.state.prompt.text == "mine"
    np.testing.assert_array_equal(observation["prompt"], env.model.encode_text("mine").mean(0).numpy())
    assert env.step(np.array([0, 0]))[4]["prompt"] == "mine"


def test_prompts_are_drawn_from_the_list(make_env: MakeEnv):
    env = make_env()
    assert {env.reset(seed=seed)[1]["prompt"] for seed in range(20)} == set(PROMPTS)


@pytest.mark.parametrize(
    "action", [[3, 0], [0, 3], [-1, 0], [0], [0, 0, 0], [0.0, 1.0], 2, "ab", None, [[0, 0], [0, 0]]]
)
def test_action_outside_the_space_is_refused_and_changes_nothing(make_env: MakeEnv, action: Any):
    env = make_env()
    env.reset(seed=0)
    before = env.clone_state()
    with pytest.raises(ValueError, match=r"a candidate from 0 to 2 and a route from 0 to 2, got"):
        env.step(action)
    assert env.clone_state() is before


def test_action_may_be_a_list_of_integers(make_env: MakeEnv):
    env = make_env()
    env.reset(seed=0)
    assert env.step([1, 2])[4]["seeds"] == (env.state.actions[0].seed,)


def test_step_needs_an_episode_that_has_started_and_not_ended(make_env: MakeEnv):
    env = make_env(horizon=1)
    with pytest.raises(ResetNeeded, match="has not started: call reset"):
        env.step(np.array([0, 0]))
    env.reset(seed=0)
    env.step(np.array([0, 0]))
    with pytest.raises(ResetNeeded, match="has ended after 1 chunks: call reset"):
        env.step(np.array([0, 0]))


def test_score_that_is_not_finite_is_refused(make_env: MakeEnv, scorer: Scorer):
    class Broken:
        def score(self, views: Any) -> Any:
            return [score._replace(short=float("nan")) for score in scorer.score(views)]

    env = make_env()
    env.scorer = Broken()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="the short reward returned nan for chunk 0"):
        env.step(np.array([0, 0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "prompts must be a list of at least one prompt"),
        ({"prompts": "one"}, "prompts must be a list .* got 'one'"),
        ({"num_candidates": 0}, "num_candidates must be at least 1, got 0"),
        ({"noise_correlation": 2.0}, "noise_correlation must be from -1 to 1, got 2.0"),
        ({"noise_pooling": 3}, "noise_pooling must divide the latent size .* got 3"),
        ({"noise_pooling": 0}, "noise_pooling must divide the latent size .* got 0"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
        ({"horizon": 0}, "horizon must be at least 1 chunk, got 0"),
        ({"long_window": 0}, "long_window must be at least 1 chunk, got 0"),
    ],
)
def test_options_out_of_range_are_refused(make_env: MakeEnv, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_env(**options)


def test_unknown_reset_option_is_refused(make_env: MakeEnv):
    with pytest.raises(ValueError, match=r"options of reset must be .* got promt"):
        make_env().reset(options={"promt": "one"})


def test_gymnasiums_wrappers_work(env_id: str):
    env = TimeLimit(RecordEpisodeStatistics(gymnasium.make(env_id)), max_episode_steps=3)
    env.reset(seed=0)
    results = [env.step(np.array([0, 0])) for _ in range(3)]
    assert [result[3] for result in results] == [False, False, True]
    assert not results[-1][2]
    assert "episode" not in results[-1][4]  # the statistics are inside, and the episode goes on
    episodes = RecordEpisodeStatistics(gymnasium.make(env_id))
    rewards = _play(episodes, seed=0)
    assert episodes.return_queue[0] == pytest.approx(sum(rewards))


def test_render_shows_the_newest_pixel_frame(make_env: MakeEnv):
    env = make_env(render_mode="rgb_array")
    env.reset(seed=0)
    black = env.render()
    env.step(np.array([0, 0]))
    frame = env.render()
    assert black is not None
    assert frame is not None
    assert black.shape == frame.shape == (4, 4, 3)
    assert black.dtype == frame.dtype == np.uint8
    assert not black.any()
    np.testing.assert_array_equal(frame, to_pixels(env.state.video)[-1])
    assert env.metadata["render_fps"] == 8
    assert make_env().render() is None


def test_recorder_keeps_every_pixel_frame(make_env: MakeEnv):
    env = FrameRecorder(TimeLimit(make_env(), max_episode_steps=9))
    for seed in range(2):
        _play(env, seed=seed)
        state = env.unwrapped.state
        np.testing.assert_array_equal(env.frames, to_pixels(state.video))
        assert env.frames.shape == (6 * 4 - 1, 4, 4, 3)
    env.reset(seed=0)
    assert env.frames.shape == (0, 4, 4, 3)
    env.apply(Action(5))
    assert env.frames.shape == (3, 4, 4, 3)


def test_recorder_writes_every_finished_episode(make_env: MakeEnv, tmp_path: Path):
    env = FrameRecorder(make_env(), folder=tmp_path / "videos")
    for seed in range(2):
        _play(env, seed=seed)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["episode-0.mp4", "episode-1.mp4"]
    assert read_video(tmp_path / "videos" / "episode-1.mp4").shape == env.frames.shape


def test_episode_needs_no_gradients(make_env: MakeEnv):
    env = make_env(horizon=2)
    _play(env, seed=0)
    assert not any(tensor.requires_grad for tensor in (*env.state.latents, *env.state.frames))
    assert torch.is_grad_enabled()
