"""The level-by-level search loop. It knows no policy: a policy is what to propose and what to select."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, cast

from searchkit.cost import Cost, total
from searchkit.types import Action, Child, Draft, Record, Request, S, Scores, SearchOutput, SearchProblem, StagedProblem

log = logging.getLogger(__name__)


class BudgetSpent(Exception):
    """Raised by a problem that has no more to spend; a search then returns the best that it has."""


class Level(NamedTuple, Generic[S]):
    """All candidates of one chunk in the order of their proposal, then the beams that have ended."""

    chunk: int
    horizon: int | None
    children: Sequence[Child[S]]


class Selection(NamedTuple):
    """The indices of the candidates that go on, by rank, and what every candidate was compared by."""

    kept: Sequence[int]
    fused: Sequence[float]


class Pruned(NamedTuple, Generic[S]):
    """A candidate that was given up while it was denoised: its draft, the preview's scores, and these fused."""

    draft: Draft[S]
    scores: Scores
    fused: float


class Expansion(NamedTuple, Generic[S]):
    """What became of a level's requests: the finished candidates in their order, and those given up before."""

    children: Sequence[Child[S]]
    pruned: Sequence[Pruned[S]]


Propose = Callable[[S, int], Sequence[Action]]
Select = Callable[[Level[S]], Selection]
Expand = Callable[[Sequence[Request[S]]], Expansion[S]]


def search(
    problem: SearchProblem[S], *, propose: Propose[S], select: Select[S], expand: Expand[S] | None = None
) -> SearchOutput[S]:
    """Returns the best of the beams left after the last chunk, all of which were expanded level by level.

    Args:
        propose: the candidates to try from a state, given its rank among the beams, 0 for the best.
        select: the candidates of a level to go on from.
        expand: makes a level's candidates, where not all of them are to be finished.

    Raises:
        ValueError: a score is NaN or infinite; the candidate is named.
    """
    expand = expand or (lambda requests: Expansion(problem.expand(requests), ()))
    beams: Sequence[S] = [problem.root]
    records: list[Record] = []
    for chunk in itertools.count() if problem.horizon is None else range(problem.horizon):
        try:
            beams, made = _level(problem, beams, chunk=chunk, propose=propose, select=select, expand=expand)
        except BudgetSpent as spent:
            log.warning("stopped before chunk %d: %s", chunk, spent)
            break
        if not made:  # every beam has ended, as an episode may before the horizon
            break
        records += made
    best, whole_cost = pick(problem, beams)
    return SearchOutput(best, tuple(records), total(record.cost for record in records) + whole_cost)


def _level(
    problem: SearchProblem[S],
    beams: Sequence[S],
    *,
    chunk: int,
    propose: Propose[S],
    select: Select[S],
    expand: Expand[S],
) -> tuple[Sequence[S], list[Record]]:
    """Returns the beams that a level leaves, and its records; none where no beam proposes anything.

    A function of its own, so that pruned candidates are gone before the next level is made.
    """
    proposals = [(state, propose(state, rank)) for rank, state in enumerate(beams)]
    requests = [Request(state, action) for state, actions in proposals for action in actions]
    if not requests:
        return beams, []
    children, pruned = expand(requests)
    for child in children:
        check_finite(child.scores, chunk=chunk, action=child.state.actions[-1])
    # Ended beams compete on, at no cost; behind the others, which win where they are equal.
    ended = [Child(state, state.scores[-1], Cost()) for state, actions in proposals if not actions]
    candidates = [*children, *ended]
    selection = select(Level(chunk, problem.horizon, candidates))
    records = [*_records(chunk, children, selection), *(_pruned_record(chunk, given_up) for given_up in pruned)]
    return [candidates[index].state for index in selection.kept], records


def pick(problem: SearchProblem[S], beams: Sequence[S]) -> tuple[S, Cost]:
    """Returns the beam with the highest whole-video score, the earliest of equals, and what that cost."""
    wholes = problem.score_whole(beams) if len(beams) > 1 else []
    best = max(range(len(beams)), key=lambda index: wholes[index].score if wholes else 0.0)
    return beams[best], total(whole.cost for whole in wholes)


def staged(problem: SearchProblem[S]) -> StagedProblem[S]:
    """Returns the problem as one whose `expand` opens up.

    Raises:
        ValueError: it cannot be opened up.
    """
    # By the class: an `isinstance` of a protocol would compute the problem's root.
    if all(hasattr(type(problem), stage) for stage in ("start", "advance", "preview", "finish")):
        return cast(StagedProblem[S], problem)
    raise ValueError(
        f"a policy that prunes while denoising needs a problem with start, advance, preview and finish, as a Stream "
        f"has, got {type(problem).__name__}"
    )


def check_finite(scores: Scores, *, chunk: int, action: Action) -> None:
    """Raises a ValueError that names the candidate where a score is NaN or infinite."""
    for name, value in scores._asdict().items():
        if not math.isfinite(value):
            raise ValueError(f"the {name} reward returned {value} for chunk {chunk}, candidate seed {action.seed}")


def _records(chunk: int, children: Sequence[Child[S]], selection: Selection) -> list[Record]:
    """Returns one record a new candidate; ended beams, which follow in the selection, have theirs already."""
    return [
        Record(
            chunk=chunk,
            lineage=child.state.actions,
            action=child.state.actions[-1],
            scores=child.scores,
            fused=fused,
            kept=index in selection.kept,
            cost=child.cost,
        )
        for index, (child, fused) in enumerate(zip(children, selection.fused, strict=False))
    ]


def _pruned_record(chunk: int, pruned: Pruned[S]) -> Record:
    state, action = pruned.draft.request
    return Record(
        chunk=chunk,
        lineage=(*state.actions, action),
        action=action,
        scores=pruned.scores,
        fused=pruned.fused,
        kept=False,
        cost=pruned.draft.cost,
        pruned_after=pruned.draft.passes_done,
    )
