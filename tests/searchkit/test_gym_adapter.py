"""Gymnasium environments as search problems."""

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import pytest
from gymnasium import spaces

from policies import BeamSearch, BestOfN, BestOfNPerChunk, Greedy
from searchkit.fusion import Fusion
from searchkit.gym_adapter import EpisodeState, GymProblem
from searchkit.types import Action, Request

RETURN = Fusion(short_cap=0.0)  # compares by the return so far
REWARD = Fusion(short_cap=1.0, ramp=2)  # compares by the newest reward, from the second step on


class _Tree(gymnasium.Env[int, int]):
    """A tree of three branches and three levels; its first step baits: 1 now, and nothing later.

    Past the first step all branches of a subtree pay alike, and the best subtree pays last.
    """

    action_space = spaces.Discrete(3)
    observation_space = spaces.Discrete(100)
    PAYS: ClassVar[dict[int, Sequence[float]]] = {0: (1.0, 0.0, 0.0), 1: (0.2, 0.1, 5.0), 2: (0.5, 0.2, 0.3)}

    def __init__(self) -> None:
        self.path: tuple[int, ...] = ()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.path = ()
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.path = (*self.path, int(action))
        return sum(self.path), self.pay(), len(self.path) == 3, False, {}

    def pay(self) -> float:
        return self.PAYS[self.path[0]][len(self.path) - 1]


class _RandomTree(_Tree):
    """A tree whose every node pays something of its own, and some of whose branches end early."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        observation, pay, ended, truncated, info = super().step(action)
        return observation, pay, ended or self.path in {(0,), (1, 2)}, truncated, info

    def pay(self) -> float:
        return random.Random(str(self.path)).uniform(-1.0, 1.0)


class _Masked(_Tree):
    """A tree that allows its odd action only."""

    def reset(self, **options: Any) -> tuple[int, dict[str, Any]]:
        return super().reset(**options)[0], {"action_mask": [0, 1, 0]}


def _best_return(env: gymnasium.Env[Any, int], *, horizon: int) -> float:
    """The best return of all sequences of actions, tried one by one."""
    best = -math.inf
    for actions in itertools.product(range(3), repeat=horizon):
        env.reset(seed=0)
        total = 0.0
        for action in actions:
            _, reward, terminated, _, _ = env.step(action)
            total += float(reward)
            if terminated:
                break
        best = max(best, total)
    return best


def _make_frozen_lake(**options: Any) -> GymProblem:
    env = gymnasium.make("FrozenLake-v1", map_name="4x4", is_slippery=False)
    return GymProblem(
        env=env,
        **{
            "horizon": 6,
            "clone": lambda env: (env.s, env.lastaction),
            "restore": _restore_frozen_lake,
            **options,
        },
    )


def _restore_frozen_lake(env: Any, snapshot: tuple[int, int | None]) -> None:
    env.s, env.lastaction = snapshot


def _replay(env: gymnasium.Env[Any, Any], actions: Sequence[Action]) -> float:
    env.reset(seed=0)
    return sum(float(env.step(action.seed)[1]) for action in actions)


def test_wide_beam_search_finds_the_optimum_of_frozen_lake():
    output = BeamSearch(beam_width=2048, children=4, fusion=RETURN)(_make_frozen_lake(), seed=0)
    assert output.best.total == 1.0
    assert output.best.ended
    assert output.best.chunk == 6
    env = gymnasium.make("FrozenLake-v1", map_name="4x4", is_slippery=False)
    assert _replay(env, output.best.actions) == 1.0


def test_heuristic_lets_a_narrow_beam_find_the_optimum_of_frozen_lake():
    def nearness(square: int) -> float:
        return 0.9 ** float(6 - square // 4 - square % 4)

    found = [
        BeamSearch(beam_width=8, children=4, fusion=RETURN)(_make_frozen_lake(heuristic=heuristic), seed=0).best
        for heuristic in (None, nearness)
    ]
    assert [state.total for state in found] == [0.0, 1.0]


def test_beam_search_and_best_of_n_find_what_greedy_choice_misses():
    best = _best_return(_Tree(), horizon=3)
    problem = GymProblem(env=_Tree(), horizon=3)
    assert BestOfNPerChunk(num_candidates=3, fusion=REWARD)(problem, seed=0).best.total == pytest.approx(1.0)
    assert BestOfNPerChunk(num_candidates=3, fusion=RETURN)(problem, seed=0).best.total == pytest.approx(1.0)
    assert BeamSearch(beam_width=9, children=3, fusion=RETURN)(problem, seed=0).best.total == pytest.approx(best)
    assert BestOfN(num_candidates=3)(problem, seed=0).best.total == pytest.approx(best)


@pytest.mark.parametrize("env_class", [_Tree, _RandomTree])
def test_beam_search_wide_enough_equals_brute_force(env_class: type[_Tree]):
    problem = GymProblem(env=env_class(), horizon=3)
    output = BeamSearch(beam_width=27, children=3, fusion=RETURN)(problem, seed=0)
    assert output.best.total == pytest.approx(_best_return(env_class(), horizon=3))
    assert _replay(env_class(), output.best.actions) == pytest.approx(output.best.total)


def test_episode_that_ends_early_survives_to_the_final_pick():
    problem = GymProblem(env=_RandomTree(), horizon=3)
    output = BeamSearch(beam_width=27, children=3, fusion=RETURN)(problem, seed=0)
    whole = [record for record in output.records if [action.seed for action in record.lineage] in ([0], [1, 2])]
    assert len(whole) == 2
    assert all(record.kept for record in whole)
    assert len(output.records) == 3 + 6 + 15  # what has ended is neither expanded nor recorded again


def test_search_replays_through_gymnasium_at_the_same_return():
    problem = _make_frozen_lake(horizon=20)
    output = Greedy()(problem, seed=3)
    env = gymnasium.make("FrozenLake-v1", map_name="4x4", is_slippery=False)
    assert _replay(env, output.best.actions) == output.best.total
    assert output.best.ended or output.best.chunk == 20


def test_all_ways_to_rewind_give_the_same_search():
    class Cloning(_RandomTree):
        def clone_state(self) -> tuple[int, ...]:
            return self.path

        def restore_state(self, state: tuple[int, ...]) -> None:
            self.path = state

    def restore(env: Any, path: tuple[int, ...]) -> None:
        env.path = path

    problems = [
        GymProblem(env=_RandomTree(), horizon=3),
        GymProblem(env=Cloning(), horizon=3),
        GymProblem(env=_RandomTree(), horizon=3, clone=lambda env: env.path, restore=restore),
    ]
    outputs = [BeamSearch()(problem, seed=0) for problem in problems]
    assert outputs[0].best.actions == outputs[1].best.actions == outputs[2].best.actions
    assert outputs[0].best.scores == outputs[1].best.scores == outputs[2].best.scores


def test_expanding_a_state_again_gives_the_same_child_although_the_environment_draws():
    """Deep copies hold the generator, so that even an episode with chance replays."""
    problem = GymProblem(env=gymnasium.make("FrozenLake-v1", is_slippery=True), horizon=9, seed=4)
    state = problem.root
    for _ in range(5):
        a, b = problem.expand([Request(state, problem.actions(state, num=1, seed=0)[0])] * 2)
        assert (a.state.observation, a.scores) == (b.state.observation, b.scores)
        if a.state.ended:
            break
        state = a.state


def test_wrappers_are_left_out():
    env = gymnasium.wrappers.TimeLimit(_Tree(), max_episode_steps=1)
    assert Greedy()(GymProblem(env=env, horizon=None), seed=0).best.chunk == 3


@pytest.mark.parametrize("num", [1, 2, 3, 10])
def test_actions_are_distinct_legal_and_the_same_for_the_same_seed(num: int):
    problem = GymProblem(env=_Tree(), horizon=3)
    actions = problem.actions(problem.root, num=num, seed=1)
    assert len({action.seed for action in actions}) == len(actions) == min(num, 3)
    assert all(problem.env.action_space.contains(action.seed) for action in actions)
    assert actions == problem.actions(problem.root, num=num, seed=1)
    assert actions == problem.actions(problem.root, num=10, seed=1)[:num]


def test_seeds_shuffle_the_actions():
    problem = GymProblem(env=_Tree(), horizon=3)
    orders = {tuple(action.seed for action in problem.actions(problem.root, num=3, seed=s)) for s in range(40)}
    assert len(orders) == 6


def test_actions_outside_the_mask_are_not_legal():
    problem = GymProblem(env=_Masked(), horizon=3)
    assert problem.actions(problem.root, num=9, seed=0) == [Action(1)]


def test_other_action_spaces_are_decoded():
    class Reaching(_Tree):
        action_space = spaces.Box(-1.0, 1.0, (1,))

        def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
            return 0, -abs(float(action) - 0.5), False, False, {}

    def decode(action: Action) -> float:
        return random.Random(action.seed).uniform(-1.0, 1.0)

    problem = GymProblem(env=Reaching(), horizon=3, decode=decode)
    searched = BestOfNPerChunk(num_candidates=16)(problem, seed=0)
    assert searched.best.total > Greedy()(problem, seed=0).best.total
    assert len({record.action.seed for record in searched.records}) == 48


def test_step_costs_one_pass():
    output = BeamSearch(beam_width=2, children=2)(GymProblem(env=_Tree(), horizon=3), seed=0)
    assert output.cost.passes == output.cost.calls == len(output.records)


def _make_ended_state() -> EpisodeState:
    return EpisodeState(snapshot=None, observation=0, legal=(0, 1, 2), ended=True, actions=(Action(0),))


def test_ended_episode_proposes_nothing_and_refuses_more():
    problem = GymProblem(env=_Tree(), horizon=3)
    assert problem.actions(_make_ended_state(), num=3, seed=0) == []
    with pytest.raises(ValueError, match="the episode has ended after 1 steps"):
        problem.expand([Request(_make_ended_state(), Action(0))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1 step, got 0"),
        ({"horizon": 1, "clone": id}, "clone and restore must be given together"),
        ({"horizon": 1, "env": gymnasium.make("Pendulum-v1")}, "decode must be given unless .* got Box"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        GymProblem(**{"env": _Tree(), **options})
