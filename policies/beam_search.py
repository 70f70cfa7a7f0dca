"""Beam search."""

from dataclasses import dataclass, field

from searchkit.fusion import Fusion
from searchkit.pruning import keep_best
from searchkit.search import search
from searchkit.types import S, SearchOutput, SearchProblem


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Tries some children of every beam and goes on from the best of all of them.

    The first chunk, which has one parent only, gets as many candidates as the other chunks have in all.

    Attributes:
        beam_width: beams kept after each chunk.
        children: candidates of each beam.
        fusion: how a candidate's short and long scores become one.
    """

    beam_width: int = 2
    children: int = 2
    fusion: Fusion = field(default_factory=Fusion)

    def __post_init__(self) -> None:
        for name in ("beam_width", "children"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        return search(
            problem,
            propose=lambda state, rank: problem.actions(
                state, num=self.children if state.chunk else self.beam_width * self.children, seed=seed
            ),
            select=keep_best(self.beam_width, self.fusion),
        )
