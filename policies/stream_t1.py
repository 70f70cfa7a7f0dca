"""Stream-T1 (arXiv 2605.04461): beam search with noise propagation, reward pruning and memory sinking."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from searchkit.fusion import Fusion, RewardRouting
from searchkit.noise import counted_seed
from searchkit.pruning import keep_best, keep_random
from searchkit.search import Select, search
from searchkit.types import Action, S, SearchOutput, SearchProblem

Pruning = Literal["reward", "random"]
Seeds = Literal["own", "counted"]


@dataclass(frozen=True, kw_only=True)
class StreamT1:
    """Beam search whose noise carries on from chunk to chunk and whose memory is routed by the scores.

    Attributes:
        beam_width: beams kept after each chunk.
        children: candidates of each beam; the first chunk gets beam_width * children.
        noise_correlation: of a chunk's noise with the last chunk's, from -1 to 1.
        fusion: how a candidate's short and long scores become one.
        routing: where the chunk that leaves the window goes.
        pruning: whether the reward says which candidates go on, or chance does, at the same cost.
        seeds: "own" never uses a seed twice; "counted" counts them up, and a beam's first child takes its parent's
            again, whose noise then returns (as in the release; the noise's deviation falls to 0.9). Streams only.
    """

    beam_width: int = 2
    children: int = 2
    noise_correlation: float = -0.1
    fusion: Fusion = field(default_factory=Fusion)
    routing: RewardRouting = field(default_factory=RewardRouting)
    pruning: Pruning = "reward"
    seeds: Seeds = "own"

    def __post_init__(self) -> None:
        for name in ("beam_width", "children"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not -1.0 <= self.noise_correlation <= 1.0:
            raise ValueError(f"noise_correlation must be from -1 to 1, got {self.noise_correlation}")
        for name, choices in (("pruning", Pruning), ("seeds", Seeds)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        def propose(state: S, rank: int) -> Sequence[Action]:
            num = self.children if state.chunk else self.beam_width * self.children
            actions = problem.actions(state, num=num, seed=seed)
            if self.seeds == "counted":
                actions = _counted(actions, state.actions, rank=rank, trial_seed=seed)
            route = self.routing(state.scores, state.leaving)
            return [action._replace(route=route, correlation=self.noise_correlation) for action in actions]

        select: Select[S] = keep_best(self.beam_width, self.fusion)
        if self.pruning == "random":
            select = keep_random(self.beam_width, self.fusion, seed=seed)
        return search(problem, propose=propose, select=select)


def _counted(actions: Sequence[Action], before: Sequence[Action], *, rank: int, trial_seed: int) -> list[Action]:
    """Returns the actions with the release's seeds: the first of a beam repeats its parent's."""
    seeds = [
        counted_seed(trial_seed, chunk=len(before), rank=rank, index=index) if index or not before else before[-1].seed
        for index in range(len(actions))
    ]
    return [action._replace(seed=seed) for action, seed in zip(actions, seeds, strict=True)]
