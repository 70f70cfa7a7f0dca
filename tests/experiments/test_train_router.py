"""The example that trains a chooser of routes and seeds."""

import sys

import numpy as np
import pytest

from experiments import train_router
from experiments.train_router import NUM_CHUNKS, Chooser, make_env, training_prompts
from policies import Greedy
from searchkit.schedule import cues
from searchkit.types import Route


def test_training_prompts_come_back_and_are_none_of_the_studies():
    from envs.shapes.world import Caption, is_held_out

    for prompt in training_prompts(20, seed=0):
        first, other, last = (cue.text for cue in cues(prompt, NUM_CHUNKS, shares=True))
        assert first == last != other
        assert not is_held_out(Caption.parse(first)) and not is_held_out(Caption.parse(other))
    assert training_prompts(20, seed=0) == training_prompts(20, seed=0) != training_prompts(20, seed=1)


def test_chooser_of_the_first_candidate_is_greedy_and_sees_what_the_environment_shows(small_world):
    env = make_env(training_prompts(1, seed=0))
    env.reset(seed=0)
    seen = []

    def choose(observation):
        seen.append(int(np.asarray(observation["chunk"]).item()))
        return np.array([0, Route.DISCARD])

    chosen = Chooser(env=env, choose=choose)(env.problem, seed=5).best
    assert chosen.actions == Greedy()(env.problem, seed=5).best.actions
    assert seen == list(range(NUM_CHUNKS))


def test_chooser_takes_the_candidate_and_the_route_that_are_chosen(small_world):
    env = make_env(training_prompts(1, seed=0))
    env.reset(seed=0)
    output = Chooser(env=env, choose=lambda _: np.array([2, Route.APPEND_SINK]))(env.problem, seed=5)
    assert {action.route for action in output.best.actions} == {Route.APPEND_SINK}
    root = env.problem.root
    assert output.best.actions[0].seed == env.problem.actions(root, num=3, seed=5)[2].seed
    assert output.cost.denoise_passes == pytest.approx(NUM_CHUNKS * env.problem.model.sampler.num_passes)


def test_missing_library_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert train_router.main() == 2
    assert "pip install -c constraints.txt -e '.[rl]'" in capsys.readouterr().err


def test_training_gives_a_chooser_of_legal_actions(small_world):
    pytest.importorskip("stable_baselines3", reason="the extra rl is not installed")
    prompts = training_prompts(2, seed=0)
    choose = train_router.train(prompts, steps=1, seed=0)
    env = make_env(prompts)
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(choose(observation))
