"""Halving streams, most of whose passes go into the first chunk."""

from dataclasses import dataclass, field

from searchkit.fusion import Fusion
from searchkit.pruning import keep_better_half
from searchkit.search import search
from searchkit.types import Action, S, SearchOutput, SearchProblem


@dataclass(frozen=True, kw_only=True)
class FrontLoading:
    """Spends its passes where a stream is decided, in its first chunk, and gives up the worse half at every chunk.

    The first chunk remembers nothing, so its noise decides what the video shows, and every pass counts. Later chunks go
    on with what they remember: few passes make them, and there is no use in trying several of one stream.

    Attributes:
        num_candidates: streams to begin; 9 become 5, 3, 2 and 1.
        first_passes: denoising passes of the first chunk.
        later_passes: of every other chunk.
        fusion: how a candidate's short and long scores become one.
    """

    num_candidates: int = 9
    first_passes: int = 8
    later_passes: int = 3
    fusion: Fusion = field(default_factory=Fusion)

    def __post_init__(self) -> None:
        for name in ("num_candidates", "first_passes", "later_passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        def propose(state: S, rank: int) -> list[Action]:
            num, passes = (1, self.later_passes) if state.chunk else (self.num_candidates, self.first_passes)
            return [action._replace(passes=passes) for action in problem.actions(state, num=num, seed=seed)]

        return search(problem, propose=propose, select=keep_better_half(self.fusion))
