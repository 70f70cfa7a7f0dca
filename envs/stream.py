"""The stream as a Gymnasium environment: one step is one chunk.

Letters: N candidates, M slots of memory, T latent frames of a chunk, C channels, h and w latent size,
F pixel frames, H and W their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from searchkit.fusion import Fusion
from searchkit.noise import draw, propagate
from searchkit.schedule import cues
from searchkit.search import check_finite
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Action, Child, Request, Route
from searchkit.video import to_pixels

if TYPE_CHECKING:
    from searchkit.memory import Block, MemoryConfig
    from searchkit.model import VideoModel
    from searchkit.rewards import Scorer

Observation = dict[str, Any]
StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]

NOISE_BOUND = 6.0
BOUND = 100.0  # of scores, norms and embeddings


@dataclass(frozen=True, eq=False)
class Episode:
    """Where an environment stands: all that a step depends on, as an immutable value.

    Attributes:
        stream: the search problem.
        seed: from which the seeds of all candidates derive.
        embeddings: `[text_dim]` each, the tokens averaged of the texts that the prompt is made of.
        state: the stream after the chunks so far.
    """

    stream: Stream
    seed: int
    embeddings: Mapping[str, NDArray[np.float32]]
    state: StreamState


class StreamEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """A streaming video model as an environment: choose how every chunk starts and what memory keeps.

    ## Action space

    `MultiDiscrete([num_candidates, 3])`: which of this step's candidate noises starts the chunk, and the
    `Route` of the chunk that leaves the window.

    ## Observation space

    A `Dict` of

    - `noises` `[N, T, C, h, w]`: the candidates' noises as they would start the chunk, within +-6
    - `memory` `[M, 6]`: a row a slot, sinks first and then the window, oldest first: start frame (in latent
      frames), age (in chunks), short and long score when stored, root mean square of the keys and of the
      values; both are 0 for the newest chunk, which gets keys and values only when something follows it
    - `memory_mask` `[M]`: 1 where a slot is in use
    - `chunk`: chunks made so far
    - `scores` `[horizon, 2]`: short and long score of every chunk so far, then zeros
    - `route_matters`: 1 where a chunk is about to leave the window
    - `prompt` `[text_dim]`: the embedding of what the next chunk is to show, averaged over its tokens

    Scores, norms and embeddings are clipped to +-100.

    ## Reward

    The fused score of the new chunk. The episode terminates after `horizon` chunks and is never truncated.

    ## Reset

    `seed` is the episode's seed, from which its candidates derive as those of a search with this seed do;
    without one it is drawn. `options={"prompt": text}` sets the prompt, which is drawn otherwise.

    ## Info

    Of a step: the `prompt`, the `seeds` of all chunks, the raw `short` and `long` score, and the
    `passes` that it took, which are fewer from a state that was expanded before. Of a reset: the `prompt` and the
    `episode_seed`.

    Args:
        model: the video model.
        scorer: what scores a chunk.
        prompts: to draw from; each may change in mid-stream (see `searchkit.schedule`).
        num_candidates: noises to choose from at every step.
        horizon: chunks of an episode.
        long_window: chunks that the long score sees.
        fusion: how short and long score become the reward.
        noise_correlation: of a chunk's noise with the last chunk's, from -1 to 1.
        noise_pooling: side of the squares over which observed noise is averaged, and scaled to unit variance.
        render_mode: None or "rgb_array", the newest pixel frame.

    Raises:
        ValueError: an option is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 16}  # noqa: RUF012

    def __init__(
        self,
        model: VideoModel,
        scorer: Scorer,
        prompts: Sequence[str],
        *,
        num_candidates: int = 4,
        horizon: int = 7,
        long_window: int = 10,
        fusion: Fusion | None = None,
        noise_correlation: float = 0.0,
        noise_pooling: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a list of at least one prompt, got {prompts!r}")
        if num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, got {num_candidates}")
        if not -1.0 <= noise_correlation <= 1.0:
            raise ValueError(f"noise_correlation must be from -1 to 1, got {noise_correlation}")
        if fusion is not None and fusion.calibration.compares:
            raise ValueError(
                "fusion.calibration.scale must be published or fixed, as a reward compares no candidates, "
                f"got {fusion.calibration.scale!r}"
            )
        if noise_pooling < 1 or any(size % noise_pooling for size in model.latent_shape[1:]):
            raise ValueError(f"noise_pooling must divide the latent size {model.latent_shape[1:]}, got {noise_pooling}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.model = model
        self.scorer = scorer
        self.prompts = tuple(prompts)
        self.num_candidates = num_candidates
        self.horizon = horizon
        self.long_window = long_window
        self.fusion = fusion or Fusion()
        self.noise_correlation = noise_correlation
        self.noise_pooling = noise_pooling
        self.render_mode = render_mode
        self._stream(self.prompts[0])  # so that its options are checked now, not at the first reset
        self.metadata = {**type(self).metadata, "render_fps": model.fps}
        self.action_space = spaces.MultiDiscrete([num_candidates, len(Route)])
        self.observation_space = self._make_observation_space()
        self._episode: Episode | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        prompt = self._prompt(options or {})
        stream = self._stream(prompt)
        episode_seed = int(self.np_random.integers(2**63 - 1)) if seed is None else seed
        self._episode = Episode(stream, episode_seed, self._embeddings(stream.root), stream.root)
        return self.observation(), {"prompt": prompt, "episode_seed": episode_seed}

    def step(self, action: NDArray[np.int64]) -> StepResult:
        """Makes the next chunk.

        Raises:
            ValueError: the action is not in the action space.
            ResetNeeded: the episode has not started, or has ended.
        """
        return self.apply(self.explicit(action))

    def apply(self, action: Action) -> StepResult:
        """Makes the next chunk under an explicit action, such as a search found; returns what `step` does.

        Raises:
            ValueError: the action is not legal.
            ResetNeeded: the episode has not started, or has ended.
        """
        (child,) = self.problem.expand([self.request(action)])
        return self.accept(child)

    def request(self, action: Action) -> Request[StreamState]:
        """Returns what a step with this action asks of the stream; `accept` takes the answer."""
        if self.state.chunk >= self.horizon:
            raise ResetNeeded(f"the episode has ended after {self.horizon} chunks: call reset()")
        return Request(self.state, action)

    def accept(self, child: Child[StreamState]) -> StepResult:
        """Goes on to a child of the present state; returns what `step` does."""
        episode, state = self._playing(), child.state
        action = state.actions[-1]
        check_finite(child.scores, chunk=state.chunk - 1, action=action)
        self._episode = Episode(episode.stream, episode.seed, episode.embeddings, state)
        [reward] = self.fusion([child.scores], chunk=state.chunk - 1, horizon=self.horizon)
        info = {
            "prompt": state.prompt.text,
            "seeds": tuple(action.seed for action in state.actions),
            "short": child.scores.short,
            "long": child.scores.long,
            "passes": child.cost.passes,
        }
        return self.observation(), reward, state.chunk == self.horizon, False, info

    def candidates(self) -> list[Action]:
        """Returns this step's candidate actions, whose route is DISCARD; the action space indexes them."""
        episode = self._playing()
        actions = episode.stream.actions(episode.state, num=self.num_candidates, seed=episode.seed)
        return [action._replace(correlation=self.noise_correlation) for action in actions]

    def explicit(self, action: NDArray[np.int64]) -> Action:
        """Returns the explicit action that a candidate's index and a route stand for.

        Raises:
            ValueError: the action is not in the action space.
        """
        pair = np.asarray(action)
        if not self.action_space.contains(pair):
            raise ValueError(
                f"action must be two integers, a candidate from 0 to {self.num_candidates - 1} and a route "
                f"from 0 to {len(Route) - 1}, got {action!r}"
            )
        candidate = self.candidates()[int(pair[0])]
        return candidate._replace(route=Route(int(pair[1])))

    @property
    def problem(self) -> Stream:
        """The episode's stream as a search problem, from its first chunk on."""
        return self._playing().stream

    @property
    def state(self) -> StreamState:
        """The stream after the chunks so far."""
        return self._playing().state

    def clone_state(self) -> Episode:
        """Returns where the episode stands, as a value; what later `reset`s draw is not part of it."""
        return self._playing()

    def restore_state(self, state: Episode) -> None:
        """Goes to where `clone_state` was called, in this environment or in another of its kind."""
        self._episode = state

    def observation(self) -> Observation:
        """Returns the observation of where the episode stands."""
        episode = self._playing()
        memory, mask = self._memory_rows(episode.state)
        scores = np.zeros((self.horizon, 2), np.float32)
        if episode.state.chunk:
            scores[: episode.state.chunk] = episode.state.scores
        return {
            "noises": self._noises(),
            "memory": memory,
            "memory_mask": mask,
            "chunk": np.int64(episode.state.chunk),
            "scores": scores.clip(-BOUND, BOUND),
            "route_matters": np.int64(episode.state.leaving is not None),
            "prompt": episode.embeddings[episode.state.next_prompt.text].clip(-BOUND, BOUND),
        }

    def render(self) -> NDArray[np.uint8] | None:
        """Returns the newest pixel frame `[H, W, 3]`, which is black before the first chunk."""
        if self.render_mode is None:
            return None
        frames = self.new_frames
        return frames[-1] if len(frames) else np.zeros(self._frame_shape, np.uint8)

    @property
    def new_frames(self) -> NDArray[np.uint8]:
        """All pixel frames `[F, H, W, 3]` of the newest chunk; none before the first one."""
        frames = self.state.frames
        return to_pixels(frames[-1]) if frames else np.zeros((0, *self._frame_shape), np.uint8)

    @cached_property
    def _frame_shape(self) -> tuple[int, int, int]:
        """H, W and 3; a model tells its frame size by decoding only."""
        (frames,), _ = self.model.decode([torch.zeros(self.model.chunk_shape)], [None])
        return (*frames.shape[-2:], 3)

    def _stream(self, prompt: str) -> Stream:
        return Stream(
            model=self.model,
            scorer=self.scorer,
            prompt=prompt,
            horizon=self.horizon,
            long_window=self.long_window,
        )

    def _playing(self) -> Episode:
        if self._episode is None:
            raise ResetNeeded("the episode has not started: call reset()")
        return self._episode

    def _prompt(self, options: dict[str, Any]) -> str:
        if unknown := options.keys() - {"prompt"}:
            raise ValueError(f"options of reset must be {{'prompt': text}}, got {', '.join(sorted(unknown))}")
        drawn = self.prompts[self.np_random.integers(len(self.prompts))]
        return str(options.get("prompt", drawn))

    def _embeddings(self, root: StreamState) -> dict[str, NDArray[np.float32]]:
        texts = dict.fromkeys(prompt.text for prompt in root.prompts)
        return {text: self.model.encode_text(text).float().mean(0).cpu().numpy() for text in texts}

    def _noises(self) -> NDArray[np.float32]:
        previous, side = self.state.noise, self.noise_pooling
        noises = [
            propagate(previous, draw(action.seed, self.model.chunk_shape, count=1)[0], action.correlation)
            for action in self.candidates()
        ]
        # The mean of `side ** 2` unit normals has a deviation of 1 / side.
        pooled = torch.nn.functional.avg_pool2d(torch.cat(noises), side) * side
        clipped = pooled.clamp(-NOISE_BOUND, NOISE_BOUND).unflatten(0, (len(noises), -1))
        return np.asarray(clipped.numpy(), np.float32)

    def _memory_rows(self, state: StreamState) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        num_sinks, num_slots = _num_slots(self.model.memory)
        rows, mask = np.zeros((num_slots, 6), np.float32), np.zeros(num_slots, np.int8)
        memory, scores = state.memory_after, state.scores
        newest = None if state.slot is None else state.slot.block
        for slot, block in (*enumerate(memory.sinks), *enumerate(memory.window, start=num_sinks)):
            chunk = block.start_frame // self.model.memory.chunk_frames
            # Not the newest block's, even if it is filled: expanding must not change what is observed.
            norms = (0.0, 0.0) if block is newest else _norms(block)
            rows[slot] = (block.start_frame, state.chunk - chunk, *scores[chunk], *norms)
            mask[slot] = 1
        rows[:, 2:] = rows[:, 2:].clip(-BOUND, BOUND)
        return rows, mask

    def _make_observation_space(self) -> spaces.Dict:
        frames, channels, height, width = self.model.chunk_shape
        side, (_, num_slots) = self.noise_pooling, _num_slots(self.model.memory)
        first, *_ = cues(self.prompts[0], self.horizon, shares=self.model.shares)
        text_dim = self.model.encode_text(first.text).shape[-1]
        low = np.array([0, 0, -BOUND, -BOUND, 0, 0], np.float32)
        high = np.array([self.horizon * frames, self.horizon, BOUND, BOUND, BOUND, BOUND], np.float32)
        noises = (self.num_candidates, frames, channels, height // side, width // side)
        return spaces.Dict(
            {
                "noises": spaces.Box(-NOISE_BOUND, NOISE_BOUND, noises, np.float32),
                "memory": spaces.Box(np.tile(low, (num_slots, 1)), np.tile(high, (num_slots, 1))),
                "memory_mask": spaces.MultiBinary(num_slots),
                "chunk": spaces.Discrete(self.horizon + 1),
                "scores": spaces.Box(-BOUND, BOUND, (self.horizon, 2), np.float32),
                "route_matters": spaces.Discrete(2),
                "prompt": spaces.Box(-BOUND, BOUND, (text_dim,), np.float32),
            }
        )


def _num_slots(config: MemoryConfig) -> tuple[int, int]:
    """Returns the most sinks, and the most sinks and window chunks, between two chunks."""
    num_sinks = config.max_sink_frames // config.chunk_frames
    return num_sinks, num_sinks + config.num_past_chunks + 1


def _norms(block: Block) -> tuple[float, float]:
    """Returns the root mean squares of a block's keys and values."""
    keys, values = (float(tensor.float().square().mean().sqrt()) for tensor in (block.keys, block.values))
    return keys, values
