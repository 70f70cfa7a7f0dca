"""Any Gymnasium environment that can be rewound, as a search problem."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from searchkit.cost import Cost
from searchkit.noise import derive_seed
from searchkit.types import Action, Child, Request, Scores, Whole

Environment = gymnasium.Env[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeState:
    """An episode after some steps; a step is what a chunk is to a stream.

    Attributes:
        snapshot: what the environment is rewound to.
        observation: the newest.
        legal: indices of the actions that may follow, or None where actions are decoded.
        ended: whether the environment has terminated or truncated the episode, so that no action may follow.
        actions: all so far.
        scores: of every step so far; short is its reward, long the return up to it, with any value to come.
    """

    snapshot: Any
    observation: Any
    legal: tuple[int, ...] | None
    ended: bool = False
    actions: tuple[Action, ...] = ()
    scores: tuple[Scores, ...] = ()

    @property
    def chunk(self) -> int:
        return len(self.actions)

    @property
    def leaving(self) -> None:
        """Nothing ever leaves: routes have no effect."""

    @property
    def total(self) -> float:
        """The return so far, without discount."""
        return sum(score.short for score in self.scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class GymProblem:
    """An environment as a search problem (see `SearchProblem`); an action's seed is its index.

    Takes the environment over: it is reset, rewound and stepped. Its wrappers are left out because a restore
    does not rewind them, so a time limit is given here, as the horizon.

    Rewinding is done by `clone` and `restore`, or else by the environment's `clone_state()` and
    `restore_state(snapshot)`, or else by deep copies. A snapshot must hold all that a step depends on, with
    any random generator.

    Attributes:
        env: the environment.
        horizon: most steps to make; None goes on until every episode has ended.
        seed: resets the environment.
        clone: returns a snapshot of the environment.
        restore: takes the environment back to a snapshot.
        decode: an action to the environment's; its seeds are then large random integers. Needed unless the
            action space is `Discrete`.
        heuristic: the value of what may follow an observation, added to the long score of steps that do not
            end the episode.
    """

    env: Environment
    horizon: int | None
    seed: int = 0
    clone: Callable[[Environment], Any] | None = None
    restore: Callable[[Environment, Any], None] | None = None
    decode: Callable[[Action], Any] | None = None
    heuristic: Callable[[Any], float] | None = None

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon must be at least 1 step, got {self.horizon}")
        if (self.clone is None) != (self.restore is None):
            raise ValueError("clone and restore must be given together")
        if self.decode is None and not isinstance(self.env.action_space, spaces.Discrete):
            raise ValueError(f"decode must be given unless actions are Discrete, got {self.env.action_space}")

    @cached_property
    def root(self) -> EpisodeState:
        """The episode before its first step."""
        env = copy.deepcopy(self.env.unwrapped) if self._copies else self.env.unwrapped
        observation, info = env.reset(seed=self.seed)
        return EpisodeState(snapshot=self._snapshot(env), observation=observation, legal=self._legal(info))

    def actions(self, state: EpisodeState, *, num: int, seed: int) -> list[Action]:
        """Returns up to `num` legal actions, shuffled by the seed; all of them if there are no more.

        Where an environment's info has an `action_mask`, actions outside it are not legal.
        """
        if state.ended:
            return []
        lineage = [action.seed for action in state.actions]
        if state.legal is None:
            return [Action(derive_seed(seed, lineage, index)) for index in range(num)]
        shuffled = list(state.legal)
        random.Random(derive_seed(seed, lineage, 0)).shuffle(shuffled)
        return [Action(index) for index in shuffled[:num]]

    def expand(self, requests: Sequence[Request[EpisodeState]]) -> list[Child[EpisodeState]]:
        """Returns the children, one step each, which costs one pass.

        Raises:
            ValueError: a state's episode has ended.
        """
        return [self._child(*request) for request in requests]

    def score_whole(self, states: Sequence[EpisodeState]) -> list[Whole]:
        """Returns the return of every episode."""
        return [Whole(state.total, Cost()) for state in states]

    def _child(self, state: EpisodeState, action: Action) -> Child[EpisodeState]:
        if state.ended:
            raise ValueError(f"the episode has ended after {state.chunk} steps, got one more action {action}")
        began = time.perf_counter()
        env = self._rewound(state.snapshot)
        observation, reward, terminated, truncated, info = env.step(self._decoded(action))
        ended = bool(terminated or truncated)
        to_come = self.heuristic(observation) if self.heuristic is not None and not ended else 0.0
        scores = Scores(float(reward), state.total + float(reward) + to_come)
        child = EpisodeState(
            snapshot=self._snapshot(env),
            observation=observation,
            legal=self._legal(info),
            ended=ended,
            actions=(*state.actions, action),
            scores=(*state.scores, scores),
        )
        seconds = time.perf_counter() - began
        return Child(child, scores, Cost(denoise_passes=1, denoise_calls=1, seconds_generate=seconds))

    @property
    def _copies(self) -> bool:
        return self.clone is None and not hasattr(self.env.unwrapped, "clone_state")

    def _snapshot(self, env: Environment) -> Any:
        if self._copies:
            return env  # stepped never again: `_rewound` copies it
        return env.clone_state() if self.clone is None else self.clone(env)  # type: ignore[attr-defined]

    def _rewound(self, snapshot: Any) -> Environment:
        """Returns an environment to step that stands where the snapshot was taken."""
        if self._copies:
            copied: Environment = copy.deepcopy(snapshot)
            return copied
        env = self.env.unwrapped
        if self.restore is None:
            env.restore_state(snapshot)  # type: ignore[attr-defined]
        else:
            self.restore(env, snapshot)
        return env

    def _decoded(self, action: Action) -> Any:
        if self.decode is not None:
            return self.decode(action)
        assert isinstance(self.env.action_space, spaces.Discrete)
        return self.env.action_space.start + action.seed

    def _legal(self, info: dict[str, Any]) -> tuple[int, ...] | None:
        if self.decode is not None:
            return None
        assert isinstance(self.env.action_space, spaces.Discrete)
        mask = info.get("action_mask", np.ones(int(self.env.action_space.n)))
        return tuple(np.flatnonzero(mask).tolist())
