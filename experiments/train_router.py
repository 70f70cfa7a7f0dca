"""Trains a chooser of routes and seeds with Stable-Baselines3: `python -m experiments.train_router` (extra `rl`).

PPO learns on `searchkit/ShapesStream-v0`, on prompts that the generator was trained on, and is compared on report
prompts with other ways of making one candidate a chunk: Stream-T1's routing rule, chance, and plain generation. Scenes
are left and come back, since there routes matter; see docs/learning.md.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import tyro
from numpy.typing import NDArray

import envs  # noqa: F401  registers the environment
from experiments.ablations import stream_t1_append_only
from experiments.config import Experiment, Trial, with_prompts
from experiments.report.comparisons import differences, means
from experiments.trials import run_trial
from experiments.worlds import world_of
from policies import Greedy, StreamT1
from searchkit.fusion import Fusion
from searchkit.pruning import keep_best
from searchkit.schedule import SEPARATOR
from searchkit.search import search
from searchkit.types import Action, Policy, Route, S, SearchOutput, SearchProblem

if TYPE_CHECKING:  # help must not wait for torch
    import pandas as pd

    from envs.stream import StreamEnv

NUM_CHUNKS = 12  # three scenes of 3 s
POOLING = 8  # all of a latent frame: what is left of a noise is its mean in each channel
NUM_ENVS = 8
Choose = Callable[[Mapping[str, Any]], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Makes the one candidate of each chunk that is chosen before anything of it is seen.

    Attributes:
        env: whose observations are chosen by, and whose stream is that of the problem.
        choose: an observation to an action of the environment.
    """

    env: StreamEnv
    choose: Choose

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        start = self.env.clone_state()

        def propose(state: Any, rank: int) -> Sequence[Action]:
            self.env.restore_state(replace(start, seed=seed, state=state))
            return [self.env.explicit(self.choose(self.env.observation()))]

        return search(problem, propose=propose, select=keep_best(1, Fusion()))


def make_env(prompts: Sequence[str]) -> StreamEnv:
    """Returns an environment of scenes that are left and come back."""
    made = gymnasium.make("searchkit/ShapesStream-v0", prompts=prompts, horizon=NUM_CHUNKS, noise_pooling=POOLING)
    env: Any = made.unwrapped
    return env


def training_prompts(num: int, *, seed: int) -> list[str]:
    """Returns scenes that are left and come back, of captions that the generator was trained on."""
    from envs.shapes.world import all_captions, is_held_out

    captions = [str(caption) for caption in all_captions() if not is_held_out(caption)]
    draw = random.Random(seed)
    pairs = [draw.sample(captions, 2) for _ in range(num)]
    return [SEPARATOR.join((first, other, first)) for first, other in pairs]


def train(prompts: Sequence[str], *, steps: int, seed: int) -> Choose:
    """Returns what PPO learned in at least so many steps."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vectored: Any = DummyVecEnv([lambda: make_env(prompts)] * NUM_ENVS)
    vectored.seed(seed)
    boxes = [key for key, space in vectored.observation_space.items() if isinstance(space, gymnasium.spaces.Box)]
    scaled = VecNormalize(vectored, norm_obs_keys=boxes, gamma=1.0)
    rollout = 4 * NUM_CHUNKS  # whole videos
    agent = PPO("MultiInputPolicy", scaled, n_steps=rollout, batch_size=2 * rollout, gamma=1.0, seed=seed)
    agent.learn(steps)
    scaled.training = False

    def choose(observation: Mapping[str, Any]) -> NDArray[np.int64]:
        seen: Any = scaled.normalize_obs(dict(observation))
        return np.asarray(agent.predict(seen, deterministic=True)[0], np.int64)

    return choose


def compare(learned: Choose, *, num_prompts: int, seeds: Sequence[int]) -> pd.DataFrame:
    """Returns a row a video: its policy, prompt, seed, search reward, truth, and truth of the scene that came back."""
    import pandas as pd

    experiment = with_prompts(
        Experiment(
            num_prompts=num_prompts,
            prompts_from="returning",
            num_chunks=NUM_CHUNKS,
            seeds=tuple(seeds),
            policies=(Greedy(),),
        )
    )
    rows = []
    for trial in experiment.trials:
        env = make_env([trial.prompt])
        env.reset(seed=0)
        for name, policy in _policies(env, learned, seed=trial.seed).items():
            outcome = run_trial(
                experiment,
                Trial(policy, trial.prompt, trial.seed),
                stream=world_of(experiment).make_stream(experiment, trial.prompt),
                on_chunk=lambda chunk: None,
            )
            result = outcome.result
            back = result.segments[-1].measures["truth"]
            measured = {"reward": result.reward, "truth": result.measures["truth"], "back": back}
            rows.append({"policy": name, "prompt": trial.prompt, "seed": trial.seed, **measured})
    return pd.DataFrame(rows)


def _policies(env: StreamEnv, learned: Choose, *, seed: int) -> dict[str, Policy]:
    """Returns what is compared, each with one candidate a chunk."""
    draw = np.random.default_rng(seed)

    def by_chance(observation: Mapping[str, Any]) -> NDArray[np.int64]:
        return draw.integers([env.num_candidates, len(Route)])

    one = {"beam_width": 1, "children": 1, "noise_correlation": 0.0}
    return {
        "greedy": Greedy(),
        "Stream-T1's rule": StreamT1(**one),  # type: ignore[arg-type]
        "appending all it keeps": replace(stream_t1_append_only(), **one),  # type: ignore[arg-type]
        "chance": Chooser(env=env, choose=by_chance),
        "learned": Chooser(env=env, choose=learned),
    }


def main(*, steps: int = 6144, num_prompts: int = 16, seeds: tuple[int, ...] = (0, 1), training_seed: int = 0) -> int:
    """Trains a chooser of routes and seeds and compares it with the rule of Stream-T1.

    Args:
        steps: chunks to train on.
        num_prompts: of the report's returning prompts, to compare on.
        seeds: of the comparison.
        training_seed: of the training.
    """
    try:
        import stable_baselines3  # noqa: F401
    except ImportError:
        print("train_router: Stable-Baselines3 is missing: pip install -c constraints.txt -e '.[rl]'", file=sys.stderr)
        return 2
    began = time.perf_counter()
    learned = train(training_prompts(500, seed=training_seed), steps=steps, seed=training_seed)
    print(f"trained on {steps} chunks in {(time.perf_counter() - began) / 60:.1f} minutes")
    rows = compare(learned, num_prompts=num_prompts, seeds=seeds)
    for column in ("reward", "truth", "back"):
        references = {name: "Stream-T1's rule" for name in rows["policy"].unique() if name != "Stream-T1's rule"}
        found = differences(rows, column, references)
        for name, mean in means(rows, column).items():
            one = found[name].estimate if name in found else None
            beside = f", to Stream-T1's rule {one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" if one else ""
            print(f"{column:7}{name:24}{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]{beside}")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main, prog="python -m experiments.train_router"))
