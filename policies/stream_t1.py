"""Stream-T1 (arXiv 2605.04461): beam search with noise propagation, reward pruning and memory sinking."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from searchkit.fusion import Fusion, RewardRouting
from searchkit.search import keep_best, search
from searchkit.types import Action, S, SearchOutput, SearchProblem


@dataclass(frozen=True, kw_only=True)
class StreamT1:
    """Beam search whose noise carries on from chunk to chunk and whose memory is routed by the scores.

    Attributes:
        beam_width: beams kept after each chunk.
        children: candidates of each beam; the first chunk gets beam_width * children.
        noise_correlation: of a chunk's noise with the last chunk's, from -1 to 1.
        fusion: how a candidate's short and long scores become one.
        routing: where the chunk that leaves the window goes.
    """

    beam_width: int = 2
    children: int = 2
    noise_correlation: float = -0.1
    fusion: Fusion = field(default_factory=Fusion)
    routing: RewardRouting = field(default_factory=RewardRouting)

    def __post_init__(self) -> None:
        for name in ("beam_width", "children"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not -1.0 <= self.noise_correlation <= 1.0:
            raise ValueError(f"noise_correlation must be from -1 to 1, got {self.noise_correlation}")

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        def propose(state: S) -> Sequence[Action]:
            num = self.children if state.chunk else self.beam_width * self.children
            route = self.routing(state.scores, state.leaving)
            return [
                action._replace(route=route, correlation=self.noise_correlation)
                for action in problem.actions(state, num=num, seed=seed)
            ]

        return search(problem, propose=propose, select=keep_best(self.beam_width, self.fusion))
