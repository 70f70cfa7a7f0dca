"""A wrapper that keeps every pixel frame of an episode, where Gymnasium's `RecordVideo` keeps one a step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from searchkit.video import write_video

if TYPE_CHECKING:
    from envs.stream import Observation, StepResult
    from searchkit.types import Action


class FrameRecorder(gymnasium.Wrapper["Observation", Any, "Observation", Any], RecordConstructorArgs):
    """Keeps all pixel frames of a `StreamEnv`'s episode.

    Args:
        env: a `StreamEnv`, which may be wrapped.
        folder: where every finished episode is written, as `episode-0.mp4` and so on; None writes none.
    """

    def __init__(self, env: gymnasium.Env[Observation, Any], folder: Path | str | None = None) -> None:
        RecordConstructorArgs.__init__(self, folder=folder)
        super().__init__(env)
        self.folder = None if folder is None else Path(folder)
        self.num_episodes = 0
        self._pieces: list[NDArray[np.uint8]] = []

    @property
    def frames(self) -> NDArray[np.uint8]:
        """The episode's pixel frames so far, `[F, H, W, 3]`."""
        return np.concatenate([self.get_wrapper_attr("new_frames")[:0], *self._pieces])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._pieces = []
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> StepResult:
        observation, reward, terminated, truncated, info = super().step(action)
        return self._keep((observation, float(reward), terminated, truncated, info))

    def apply(self, action: Action) -> StepResult:
        """Takes an explicit action and records its frames; wrappers in between do not see it."""
        return self._keep(self.env.get_wrapper_attr("apply")(action))

    def write(self, path: Path) -> None:
        """Writes the episode so far as a video file."""
        write_video(path, self.frames, self.metadata["render_fps"])

    def _keep(self, result: StepResult) -> StepResult:
        self._pieces.append(self.get_wrapper_attr("new_frames"))
        _, _, terminated, truncated, _ = result
        if terminated or truncated:
            if self.folder is not None:
                self.write(self.folder / f"episode-{self.num_episodes}.mp4")
            self.num_episodes += 1
        return result
