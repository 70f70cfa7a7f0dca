"""Plain generation: one candidate a chunk. What every search is compared with."""

from dataclasses import dataclass

from searchkit.fusion import Fusion
from searchkit.pruning import keep_best
from searchkit.search import search
from searchkit.types import S, SearchOutput, SearchProblem


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Takes candidate 0 of every chunk."""

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        return search(
            problem,
            propose=lambda state, rank: problem.actions(state, num=1, seed=seed),
            select=keep_best(1, Fusion()),
        )
