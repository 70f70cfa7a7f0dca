"""Search that spends most of its candidates on the first chunk, from which the rest of the video follows."""

from dataclasses import dataclass, field

from searchkit.fusion import Fusion
from searchkit.pruning import keep_best
from searchkit.search import Level, Selection, search
from searchkit.types import S, SearchOutput, SearchProblem


@dataclass(frozen=True, kw_only=True)
class FrontLoaded:
    """Tries many first chunks and goes on from a few of them: what a start gets wrong, later chunks rarely repair.

    With the defaults a video of 7 chunks has 28 candidates, as many as Stream-T1's.

    Attributes:
        first: candidates of the first chunk.
        widths: beams kept after the first chunk, the second, and so on; the last number holds from there on.
        children: candidates of each beam after the first chunk.
        noise_correlation: of a chunk's noise with the last chunk's, from -1 to 1.
        fusion: how a candidate's short and long scores become one.
    """

    first: int = 16
    widths: tuple[int, ...] = (2,)
    children: int = 1
    noise_correlation: float = 0.0
    fusion: Fusion = field(default_factory=Fusion)

    def __post_init__(self) -> None:
        for name in ("first", "children"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be numbers from 1 on, got {self.widths}")
        if not -1.0 <= self.noise_correlation <= 1.0:
            raise ValueError(f"noise_correlation must be from -1 to 1, got {self.noise_correlation}")

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        def select(level: Level[S]) -> Selection:
            return keep_best(self.widths[min(level.chunk, len(self.widths) - 1)], self.fusion)(level)

        return search(
            problem,
            propose=lambda state, rank: [
                action._replace(correlation=self.noise_correlation)
                for action in problem.actions(state, num=self.children if state.chunk else self.first, seed=seed)
            ],
            select=select,
        )
