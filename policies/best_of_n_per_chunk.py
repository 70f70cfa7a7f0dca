"""Best-of-N for every chunk."""

from dataclasses import dataclass, field

from searchkit.fusion import Fusion
from searchkit.pruning import keep_best
from searchkit.search import search
from searchkit.types import S, SearchOutput, SearchProblem


@dataclass(frozen=True, kw_only=True)
class BestOfNPerChunk:
    """Tries N candidates a chunk and goes on from the best one.

    Attributes:
        num_candidates: candidates a chunk.
        fusion: how a candidate's short and long scores become one.
    """

    num_candidates: int = 4
    fusion: Fusion = field(default_factory=Fusion)

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, got {self.num_candidates}")

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        return search(
            problem,
            propose=lambda state, rank: problem.actions(state, num=self.num_candidates, seed=seed),
            select=keep_best(1, self.fusion),
        )
