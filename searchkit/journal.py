"""The journal of a search: what was tried and scored, on disk after every level, so that a stopped search goes on.

A resumed search is the same policy with the same seed, and policies are deterministic. It asks for the same levels
again and is answered from the journal at once; where that ends, the stream goes on. Only then the states that are gone
on from are made again, from their latents, each with all that lies before it: what deeper layers remember depends on
chunks that have left the window.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from searchkit.cost import Cost
from searchkit.journal_file import JournalFile, Place, action_of, place_of
from searchkit.state import StreamState
from searchkit.stream import Made, Stream
from searchkit.types import Action, Child, Draft, Preview, Request, Scores, Whole
from searchkit.wrappers import Wrapper

log = logging.getLogger(__name__)

Children = Sequence[Child[StreamState]]
Notes = Mapping[str, Tensor]

LATENTS, NOTE = "latents", "note."  # names of a record's tensors


class Remembered:
    """A state that was made before this search went on: what policies look at, without what it takes to go on from it.

    Whatever else the stream's own state has, it has too, at the price of being made again.

    Attributes:
        place: in the journal.
        real: the stream's state, once something was asked for that needs it.
    """

    def __init__(
        self,
        place: Place,
        *,
        actions: tuple[Action, ...],
        scores: tuple[Scores, ...],
        leaving: int | None,
        again: Callable[[Sequence[Remembered]], Sequence[StreamState]],
    ) -> None:
        self.place = place
        self._again = again
        self.actions = actions
        self.scores = scores
        self.leaving = leaving
        self.real: StreamState | None = None

    @property
    def chunk(self) -> int:
        return len(self.actions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._again([self])[0], name)


class RememberedDraft(NamedTuple):
    """A candidate that was being denoised before this search went on."""

    request: Request[Any]
    passes_done: int
    cost: Cost


@dataclass(kw_only=True)
class Journaled(Wrapper[StreamState]):
    """Writes every level down as soon as it is made, and answers from what is written as long as it is asked the same.

    Staged calls, of policies that prune while denoising, are written when candidates are finished. States are the
    stream's own, or `Remembered` ones where they come from the journal: `real` turns both into the stream's.

    Attributes:
        path: a file of this search alone; what is of another one is passed over.
        observe: says what else to keep of new children, as tensors by names of its own.
        told: gets the children of every level, new or not, and what was kept of them.
        num_remembered: levels and other calls that were answered from the journal so far.
    """

    problem: Stream = field(kw_only=False)
    path: Path
    observe: Callable[[Children], Notes] | None = None
    told: Callable[[Children, Notes], None] | None = None
    num_remembered: int = field(default=0, init=False)
    _file: JournalFile = field(init=False)
    _calls: list[dict[str, Any]] = field(default_factory=list, init=False)  # to be written with the next children
    _left: list[dict[str, Any]] = field(default_factory=list, init=False)  # of the record that answers now
    _answered: list[dict[str, Any]] = field(default_factory=list, init=False)  # by the same record
    _next: int = field(default=0, init=False)  # record
    _goes_on: bool = field(default=True, init=False)  # whether records still answer
    _places: WeakKeyDictionary[StreamState, Place] = field(default_factory=WeakKeyDictionary, init=False)

    def __post_init__(self) -> None:
        self._file = JournalFile(self.path)

    def actions(self, state: StreamState, *, num: int, seed: int) -> Sequence[Action]:
        return self.problem.actions(state, num=num, seed=seed)

    def expand(self, requests: Sequence[Request[StreamState]]) -> Children:
        asked = self._requests(requests)
        if (found := self._recall("expand", asked)) is not None:
            return self._recalled_children(found, [request.state for request in requests])
        children = self.problem.expand(self._real_requests(requests))
        return self._keep_children("expand", asked, children)

    def start(self, requests: Sequence[Request[StreamState]]) -> Sequence[Draft[StreamState]]:
        asked = self._requests(requests)
        if (found := self._recall("start", asked)) is not None:
            return [
                self._recalled_draft(request, made) for request, made in zip(requests, found["drafts"], strict=True)
            ]
        return self._keep_drafts("start", asked, self.problem.start(self._real_requests(requests)))

    def advance(
        self, drafts: Sequence[Draft[StreamState]], *, passes: int | None = None
    ) -> Sequence[Draft[StreamState]]:
        asked = [*self._drafts(drafts), passes]
        if (found := self._recall("advance", asked)) is not None:
            return [self._recalled_draft(old.request, made) for old, made in zip(drafts, found["drafts"], strict=True)]
        return self._keep_drafts("advance", asked, self.problem.advance(self._real_drafts(drafts), passes=passes))

    def preview(self, drafts: Sequence[Draft[StreamState]]) -> Sequence[Preview]:
        asked = self._drafts(drafts)
        if (found := self._recall("preview", asked)) is not None:
            made = zip(drafts, found["drafts"], found["scores"], strict=True)
            return [Preview(self._recalled_draft(old.request, draft), Scores(*scores)) for old, draft, scores in made]
        previews = self.problem.preview(self._real_drafts(drafts))
        self._keep_drafts("preview", asked, [one.draft for one in previews], scores=[one.scores for one in previews])
        return previews

    def finish(self, drafts: Sequence[Draft[StreamState]]) -> Children:
        asked = self._drafts(drafts)
        if (found := self._recall("finish", asked)) is not None:
            return self._recalled_children(found, [draft.request.state for draft in drafts])
        return self._keep_children("finish", asked, self.problem.finish(self._real_drafts(drafts)))

    def score_whole(self, states: Sequence[StreamState]) -> Sequence[Whole]:
        asked = [self._place(state) for state in states]
        if (found := self._recall("whole", asked)) is not None:
            return [Whole(score, Cost(**cost)) for score, cost in found["wholes"]]
        wholes = self.problem.score_whole(self.real(states))
        self._calls.append({"kind": "whole", "asked": asked, "wholes": [(one.score, vars(one.cost)) for one in wholes]})
        self._write({})
        return wholes

    def real(self, states: Sequence[StreamState | Remembered]) -> list[StreamState]:
        """Returns states of the stream for states of either kind; those remembered are made again, with what is before.

        Those of one call share what they have in common, as they did before.
        """
        remembered = [state for state in states if isinstance(state, Remembered) and state.real is None]
        if remembered:
            made = self._made_again({state.place for state in remembered})
            for state in remembered:
                state.real = made[state.place]
                self._places[state.real] = state.place
        return [cast(StreamState, state.real) if isinstance(state, Remembered) else state for state in states]

    def _made_again(self, places: set[Place]) -> dict[Place, StreamState]:
        """Returns the states of places, made level by level from the root on."""
        parents: dict[Place, Place] = {}
        rows: dict[int, dict[int, dict[str, Any]]] = {}
        for place in places:
            while place is not None and place not in parents:
                record, row = place
                child = self._file.calls(record)[-1]["children"][row]
                rows.setdefault(record, {})[row] = child
                parents[place] = place = place_of(child["parent"])
        states: dict[Place, StreamState] = {None: self.problem.root}
        for record in sorted(rows):
            latents = self._file.tensors(record)[LATENTS]
            made = [
                Made(
                    Request(states[place_of(child["parent"])], action_of(child["action"])),
                    Scores(*child["scores"]),
                    latents[row].clone(),
                    child["has_prefix"],
                )
                for row, child in rows[record].items()
            ]
            for row, state in zip(rows[record], self.problem.restore(made), strict=True):
                states[record, row] = state
        return states

    def _recall(self, kind: str, asked: list[Any]) -> dict[str, Any] | None:
        """Returns what came of a call the last time, or None where nobody knows."""
        if not self._goes_on:
            return None
        if not self._left:
            self._left, self._answered = self._file.calls(self._next), []
            self._next += 1
        wanted = json.loads(json.dumps([kind, asked]))
        if self._left and [self._left[0]["kind"], self._left[0]["asked"]] == wanted:
            self.num_remembered += 1
            self._answered.append(self._left.pop(0))
            return self._answered[-1]
        self._forget_the_rest(is_expected=not self._left)
        return None

    def _forget_the_rest(self, *, is_expected: bool) -> None:
        """Lets the stream go on, from the last record that was answered from to its end."""
        self._goes_on = False
        self._next -= 1
        self._calls = self._answered  # of a record that answered in part: it is written once more
        self._left = []
        if not is_expected:
            log.warning(
                "journal %s holds another search from its level %d on, which is made anew: a policy must ask for the "
                "same whenever it is given the same",
                self.path,
                self._next,
            )
        self._file.cut(self._next)

    def _recalled_children(self, found: Mapping[str, Any], parents: Sequence[StreamState]) -> Children:
        record = self._next - 1
        children = []
        for row, (child, parent) in enumerate(zip(found["children"], parents, strict=True)):
            action, scores = action_of(child["action"]), Scores(*child["scores"])
            state = Remembered(
                (record, row),
                actions=(*parent.actions, action),
                scores=(*parent.scores, scores),
                leaving=child["leaving"],
                again=self.real,
            )
            children.append(Child(cast(StreamState, state), scores, Cost(**child["cost"])))
        if self.told is not None:
            tensors = self._file.tensors(record)
            self.told(children, {name.removeprefix(NOTE): one for name, one in tensors.items() if name != LATENTS})
        return children

    def _recalled_draft(self, request: Request[StreamState], made: Mapping[str, Any]) -> Draft[StreamState]:
        draft = RememberedDraft(request, made["passes_done"], Cost(**made["cost"]))
        return cast(Draft[StreamState], draft)

    def _keep_children(self, kind: str, asked: list[Any], children: Children) -> Children:
        notes = self.observe(children) if self.observe is not None and children else {}
        parents = [entry[0] for entry in asked]
        rows = [
            {
                "parent": parent,
                "action": child.state.actions[-1],
                "scores": child.scores,
                "leaving": child.state.leaving,
                "has_prefix": child.state.slot is not None and child.state.slot.prefix is not None,
                "cost": vars(child.cost),
            }
            for parent, child in zip(parents, children, strict=True)
        ]
        self._calls.append({"kind": kind, "asked": asked, "children": rows})
        for row, child in enumerate(children):
            self._places[child.state] = (self._next, row)
        tensors = {NOTE + name: note for name, note in notes.items()}
        if latents := [child.state.last.latents for child in children if child.state.last]:
            tensors[LATENTS] = torch.stack(latents)
        self._write(tensors)
        if self.told is not None:
            self.told(children, notes)
        return children

    def _keep_drafts(
        self, kind: str, asked: list[Any], drafts: Sequence[Draft[StreamState]], **others: Any
    ) -> Sequence[Draft[StreamState]]:
        made = [{"passes_done": draft.passes_done, "cost": vars(draft.cost)} for draft in drafts]
        self._calls.append({"kind": kind, "asked": asked, "drafts": made, **others})
        return drafts

    def _write(self, tensors: Mapping[str, Tensor]) -> None:
        self._file.append(self._calls, tensors)
        self._calls = []
        self._next += 1

    def _place(self, state: StreamState | Remembered) -> Place:
        if isinstance(state, Remembered):
            return state.place
        return None if state.last is None else self._places[state]

    def _requests(self, requests: Sequence[Request[StreamState]]) -> list[Any]:
        return [[self._place(state), action] for state, action in requests]

    def _drafts(self, drafts: Sequence[Draft[StreamState]]) -> list[Any]:
        return [[*self._requests([draft.request])[0], draft.passes_done] for draft in drafts]

    def _real_requests(self, requests: Sequence[Request[StreamState]]) -> list[Request[StreamState]]:
        states = self.real([request.state for request in requests])
        return [Request(state, request.action) for state, request in zip(states, requests, strict=True)]

    def _real_drafts(self, drafts: Sequence[Draft[StreamState]]) -> list[Any]:
        """Returns drafts of the stream; those remembered run their passes again, and cost what they did."""
        return [self._draft_again(draft) if isinstance(draft, RememberedDraft) else draft for draft in drafts]

    def _draft_again(self, draft: RememberedDraft) -> Any:
        started = self.problem.start(self._real_requests([draft.request]))
        [made] = self.problem.advance(started, passes=draft.passes_done)
        return made._replace(cost=draft.cost)
