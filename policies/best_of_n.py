"""Best-of-N over whole videos."""

from dataclasses import dataclass

from searchkit.fusion import Fusion
from searchkit.pruning import keep_all
from searchkit.search import search
from searchkit.types import S, SearchOutput, SearchProblem


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Makes N whole videos side by side and picks one by its whole-video score.

    Attributes:
        num_candidates: videos to make.
    """

    num_candidates: int = 4

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, got {self.num_candidates}")

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        return search(
            problem,
            propose=lambda state, rank: problem.actions(
                state, num=1 if state.chunk else self.num_candidates, seed=seed
            ),
            select=keep_all(Fusion()),
        )
