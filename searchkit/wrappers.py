"""Search problems wrapped in search problems, as Gymnasium wraps environments: every policy gets them unchanged.

A wrapper counts what goes through it, so each search needs a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from searchkit.cost import Cost, total
from searchkit.search import BudgetSpent, staged
from searchkit.types import Action, Child, Draft, Preview, Request, S, SearchProblem, Whole

Made = TypeVar("Made", bound=Sequence[Any])  # drafts or children, which have a cost


@dataclass(kw_only=True)
class Wrapper(Generic[S]):
    """A problem that does what the one inside does; others derive from it and change what they need to."""

    problem: SearchProblem[S] = field(kw_only=False)

    @property
    def root(self) -> S:
        return self.problem.root

    @property
    def horizon(self) -> int | None:
        return self.problem.horizon

    def actions(self, state: S, *, num: int, seed: int) -> Sequence[Action]:
        return self.problem.actions(state, num=num, seed=seed)

    def expand(self, requests: Sequence[Request[S]]) -> Sequence[Child[S]]:
        return self.problem.expand(requests)

    def start(self, requests: Sequence[Request[S]]) -> Sequence[Draft[S]]:
        return staged(self.problem).start(requests)

    def advance(self, drafts: Sequence[Draft[S]], *, passes: int | None = None) -> Sequence[Draft[S]]:
        return staged(self.problem).advance(drafts, passes=passes)

    def preview(self, drafts: Sequence[Draft[S]]) -> Sequence[Preview]:
        return staged(self.problem).preview(drafts)

    def finish(self, drafts: Sequence[Draft[S]]) -> Sequence[Child[S]]:
        return staged(self.problem).finish(drafts)

    def score_whole(self, states: Sequence[S]) -> Sequence[Whole]:
        return self.problem.score_whole(states)


@dataclass(kw_only=True)
class Budgeted(Wrapper[S]):
    """Ends a search before the first level that would start with the budget spent.

    The level that crosses the budget is still made whole, and the first one always is, so a search has a video to
    return. The final pick is not counted.

    Attributes:
        passes: network evaluations allowed; None for no limit.
        seconds: of generating, decoding and scoring allowed, as the costs count them; None for no limit.
    """

    passes: float | None = None
    seconds: float | None = None
    spent: Cost = field(default=Cost(), init=False)

    def __post_init__(self) -> None:
        for name in ("passes", "seconds"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be above 0, got {limit}")

    def expand(self, requests: Sequence[Request[S]]) -> Sequence[Child[S]]:
        """Returns the children.

        Raises:
            BudgetSpent: nothing is left to spend.
        """
        self._check()
        return self._charge(self.problem.expand(requests))

    def start(self, requests: Sequence[Request[S]]) -> Sequence[Draft[S]]:
        """Returns drafts; errors are those of `expand`."""
        self._check()
        return self._charge(super().start(requests))

    def advance(self, drafts: Sequence[Draft[S]], *, passes: int | None = None) -> Sequence[Draft[S]]:
        return self._charge(super().advance(drafts, passes=passes), before=drafts)

    def preview(self, drafts: Sequence[Draft[S]]) -> Sequence[Preview]:
        previews = super().preview(drafts)
        self._charge([preview.draft for preview in previews], before=drafts)
        return previews

    def finish(self, drafts: Sequence[Draft[S]]) -> Sequence[Child[S]]:
        return self._charge(super().finish(drafts), before=drafts)

    def _check(self) -> None:
        # Shares of a level do not add up to the last digit, and passes are whole.
        if self.passes is not None and round(self.spent.passes, 6) >= self.passes:
            raise BudgetSpent(f"{self.spent.passes:g} of {self.passes:g} passes are spent")
        if self.seconds is not None and self.spent.seconds >= self.seconds:
            raise BudgetSpent(f"{self.spent.seconds:.1f} of {self.seconds:g} seconds are spent")

    def _charge(self, made: Made, before: Sequence[Draft[S]] = ()) -> Made:
        """Counts what candidates cost beyond what they had cost before, and returns them."""
        self.spent += total(one.cost for one in made).since(total(draft.cost for draft in before))
        return made


@dataclass(kw_only=True)
class Watched(Wrapper[S]):
    """Tells somebody of every level as soon as it is made.

    Attributes:
        on_level: gets the children, which it must not keep: they hold their memory.
    """

    on_level: Callable[[Sequence[Child[S]]], None]

    def expand(self, requests: Sequence[Request[S]]) -> Sequence[Child[S]]:
        """Returns the children."""
        return self._told(self.problem.expand(requests))

    def finish(self, drafts: Sequence[Draft[S]]) -> Sequence[Child[S]]:
        """Returns the children."""
        return self._told(super().finish(drafts))

    def _told(self, children: Sequence[Child[S]]) -> Sequence[Child[S]]:
        self.on_level(children)
        return children
