"""Many streams in one environment, stepped in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from envs.stream import Observation, StepResult, StreamEnv

if TYPE_CHECKING:
    from searchkit.model import VideoModel
    from searchkit.rewards import Scorer

VectorResult = tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class StreamVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Independent episodes of `StreamEnv`, whose next chunks are made in one `Stream.expand`.

    An episode that has ended is reset by the next step, which ignores its action, as Gymnasium's own vector
    environments do by default.

    Args:
        model: the video model that all episodes share.
        scorer: what scores a chunk.
        prompts: to draw from.
        num_envs: episodes side by side.
        options: of every `StreamEnv`.
    """

    metadata = {**StreamEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, model: VideoModel, scorer: Scorer, prompts: Sequence[str], *, num_envs: int = 1, **options: Any
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.envs = [StreamEnv(model, scorer, prompts, **options) for _ in range(num_envs)]
        self.num_envs = num_envs
        self.metadata = {**type(self).metadata, "render_fps": model.fps}
        self.render_mode = self.envs[0].render_mode
        self.single_action_space = self.envs[0].action_space
        self.single_observation_space = self.envs[0].observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts new episodes.

        Args:
            seed: one for each episode; an integer stands for itself and those after it.
            options: `{"prompt": text}` for all episodes, or with a list of one text an episode.

        Raises:
            ValueError: seeds or prompts are not one an episode.
        """
        if seed is None or isinstance(seed, (int, np.integer)):
            seed = [None if seed is None else int(seed) + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must have one item for each of {self.num_envs} episodes, got {len(seed)}")
        results = [
            env.reset(seed=one, options=own)
            for env, one, own in zip(self.envs, seed, self._options(options or {}), strict=True)
        ]
        self._ended[:] = False
        observations, infos = zip(*results, strict=True)
        return self._batch(observations), self._infos(infos)

    def step(self, actions: NDArray[np.int64]) -> VectorResult:
        """Makes the next chunk of every episode in one batch, or starts the episode anew where it had ended.

        Raises:
            ValueError: an action is not in the action space; then no episode goes on.
            ResetNeeded: the episodes have not started.
        """
        rows = [row for row in range(self.num_envs) if not self._ended[row]]
        given = list(iterate(self.action_space, np.asarray(actions)))
        if len(given) != self.num_envs:
            raise ValueError(f"actions must be one for each of {self.num_envs} episodes, got {len(given)}")
        requests = [self.envs[row].request(self.envs[row].explicit(given[row])) for row in rows]
        children = dict(zip(rows, self.envs[0].problem.expand(requests) if requests else [], strict=True))
        results = [
            env.accept(children[row]) if row in children else _as_step(*env.reset())
            for row, env in enumerate(self.envs)
        ]
        observations, rewards, terminations, truncations, infos = zip(*results, strict=True)
        self._ended = np.array(terminations)
        return (
            self._batch(observations),
            np.array(rewards, np.float64),
            np.array(terminations),
            np.array(truncations),
            self._infos(infos),
        )

    def render(self) -> tuple[Any, ...] | None:
        """Returns every episode's newest pixel frame."""
        return None if self.render_mode is None else tuple(env.render() for env in self.envs)

    def _options(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        prompts = options.get("prompt")
        if prompts is None or isinstance(prompts, str):
            return [options] * self.num_envs
        if len(prompts) != self.num_envs:
            raise ValueError(f"prompt must be one for each of {self.num_envs} episodes, got {len(prompts)}")
        return [{**options, "prompt": prompt} for prompt in prompts]

    def _batch(self, observations: Sequence[Observation]) -> Observation:
        space = self.single_observation_space
        empty: Any = create_empty_array(space, self.num_envs)
        batch: Any = concatenate(space, observations, empty)
        return dict(batch)

    def _infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        together: dict[str, Any] = {}
        for row, info in enumerate(infos):
            together = self._add_info(together, info, row)
        return together


def _as_step(observation: Observation, info: dict[str, Any]) -> StepResult:
    return observation, 0.0, False, False, info
