"""Many streams in one environment."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from envs.stream import StreamEnv
from envs.vector import StreamVectorEnv
from searchkit.model import VideoModel
from searchkit.rewards import Scorer
from searchkit.stream import Stream

OPTIONS: dict[str, Any] = {"prompts": ("one", "two", "three"), "num_candidates": 3, "horizon": 3}


@pytest.fixture
def make_vector_env(model: VideoModel, scorer: Scorer) -> Callable[..., StreamVectorEnv]:
    def make(num_envs: int = 3, **options: Any) -> StreamVectorEnv:
        return StreamVectorEnv(model, scorer, num_envs=num_envs, **{**OPTIONS, **options})

    return make


def _assert_close(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], atol=1e-5, rtol=0.0, err_msg=key)


def test_batched_streams_equal_streams_on_their_own(
    make_vector_env: Callable[..., StreamVectorEnv], model: VideoModel, scorer: Scorer
):
    together = make_vector_env()
    apart = SyncVectorEnv([lambda: StreamEnv(model, scorer, **OPTIONS)] * 3)
    for ours, theirs in zip(together.reset(seed=7), apart.reset(seed=7), strict=True):
        _assert_close_or_equal(ours, theirs)
    assert together.observation_space == apart.observation_space
    assert together.action_space == apart.action_space
    together.action_space.seed(0)
    for _ in range(9):  # more than two episodes, so that resets are compared too
        actions = together.action_space.sample()
        for ours, theirs in zip(together.step(actions), apart.step(actions), strict=True):
            _assert_close_or_equal(ours, theirs)


def _assert_close_or_equal(ours: Any, theirs: Any) -> None:
    """Compares observations, arrays or infos, whose entries are numbers, texts and lineages."""
    if not isinstance(ours, dict):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0.0)
        assert ours.dtype == theirs.dtype
    elif "noises" in ours:
        _assert_close(ours, theirs)
    else:
        assert ours.keys() == theirs.keys()
        for key, values in ours.items():
            for a, b in zip(values.tolist(), theirs[key].tolist(), strict=True):
                assert a == pytest.approx(b, abs=1e-5) if isinstance(a, float) else a == b


def test_one_step_is_one_expand(make_vector_env: Callable[..., StreamVectorEnv], monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    expand = Stream.expand

    def counted(self: Stream, requests: Sequence[Any]) -> Any:
        sizes.append(len(requests))
        return expand(self, requests)

    monkeypatch.setattr(Stream, "expand", counted)
    env = make_vector_env(num_envs=4)
    env.reset(seed=0)
    for _ in range(4):
        env.step(env.action_space.sample())
    assert sizes == [4, 4, 4]  # the fourth step resets


def test_ended_episodes_are_reset_by_the_next_step(make_vector_env: Callable[..., StreamVectorEnv]):
    env = make_vector_env()
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    actions = np.zeros((3, 2), np.int64)
    ends = [env.step(actions)[2] for _ in range(3)]
    assert [list(end) for end in ends] == [[False] * 3, [False] * 3, [True] * 3]
    seeds = {env.clone_state().seed for env in env.envs}
    observation, rewards, terminations, truncations, infos = env.step(actions)
    assert observation["chunk"].tolist() == [0, 0, 0]
    assert not rewards.any()
    assert not terminations.any()
    assert not truncations.any()
    assert "episode_seed" in infos
    assert not seeds & {env.clone_state().seed for env in env.envs}


def test_streams_at_different_chunks_step_together(make_vector_env: Callable[..., StreamVectorEnv]):
    env = make_vector_env(num_envs=2)
    env.reset(seed=0)
    actions = np.zeros((2, 2), np.int64)
    env.envs[1].step(actions[1])
    chunks = [env.step(actions)[0]["chunk"].tolist() for _ in range(5)]
    assert chunks == [[1, 2], [2, 3], [3, 0], [0, 1], [1, 2]]


def test_prompts_may_be_given_one_an_episode(make_vector_env: Callable[..., StreamVectorEnv]):
    env = make_vector_env(num_envs=2)
    assert env.reset(options={"prompt": "same"})[1]["prompt"].tolist() == ["same", "same"]
    assert env.reset(seed=[4, 5], options={"prompt": ["one", "two"]})[1]["prompt"].tolist() == ["one", "two"]
    with pytest.raises(ValueError, match="prompt must be one for each of 2 episodes, got 1"):
        env.reset(options={"prompt": ["one"]})
    with pytest.raises(ValueError, match="seed must have one item for each of 2 episodes, got 3"):
        env.reset(seed=[1, 2, 3])


def test_bad_action_stops_no_single_episode(make_vector_env: Callable[..., StreamVectorEnv]):
    env = make_vector_env(num_envs=2)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros((2, 2), np.int64))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be two integers"):
        env.step(np.array([[0, 0], [3, 0]]))
    assert [env.state.chunk for env in env.envs] == [0, 0]


def test_environment_needs_at_least_one_episode(make_vector_env: Callable[..., StreamVectorEnv]):
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        make_vector_env(num_envs=0)


def test_renders_every_episode(make_vector_env: Callable[..., StreamVectorEnv]):
    env = make_vector_env(render_mode="rgb_array")
    env.reset(seed=0)
    frames = env.render()
    assert frames is not None
    assert [frame.shape for frame in frames] == [(4, 4, 3)] * 3
    assert make_vector_env().render() is None


def test_gymnasium_makes_it_from_its_entry_point(make_vector_env: Callable[..., StreamVectorEnv]):
    gymnasium.register(id="test/TinyStreams-v0", vector_entry_point=make_vector_env)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env = gymnasium.make_vec("test/TinyStreams-v0", num_envs=3, vectorization_mode="vector_entry_point")
        statistics = RecordEpisodeStatistics(env)
        statistics.reset(seed=0)
        rewards = [statistics.step(np.zeros((3, 2), np.int64))[1] for _ in range(3)]
        np.testing.assert_allclose(statistics.return_queue, np.sum(rewards, axis=0), rtol=1e-5)
        env.close()
    finally:
        del gymnasium.registry["test/TinyStreams-v0"]


@pytest.mark.parametrize("num_rows", [2, 4])
def test_actions_must_be_one_an_episode(make_vector_env: Callable[..., StreamVectorEnv], num_rows: int):
    env = make_vector_env(num_envs=3)
    env.reset(seed=np.int64(3))
    with pytest.raises(ValueError, match=f"actions must be one for each of 3 episodes, got {num_rows}"):
        env.step(np.zeros((num_rows, 2), np.int64))
