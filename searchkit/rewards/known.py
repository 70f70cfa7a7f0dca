"""Scores that were given before, so that a candidate which comes again, in any search, is not scored twice."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from searchkit.rewards import View
from searchkit.types import Scores


class Scored(NamedTuple):
    """A candidate's scores, and the seconds that it took to find them: a search pays them, whoever came first."""

    scores: Scores
    seconds: float


class KnownScores:
    """Scores by what was scored, in a folder that any number of processes share without locks.

    Each process adds lines to a file of its own, when told to save, and reads everybody's when told to refresh. A line
    that was cut off is passed over.

    Args:
        scored_by: names what gives the scores: the model that decodes, the rewards, and how candidates are decoded.
    """

    def __init__(self, folder: Path, *, scored_by: str) -> None:
        self.folder = folder
        self._scored_by = scored_by
        self._known: dict[str, Scored] = {}
        self._unsaved: dict[str, Scored] = {}
        self._read: dict[Path, int] = {}  # bytes of each file
        self._digests: list[tuple[Tensor, str]] = []  # of the last level's chunks
        self._born = time.time_ns()

    @property
    def _own(self) -> Path:
        """The file that this process writes to, though the object may come from another one."""
        return self.folder / f"{socket.gethostname()}-{os.getpid()}-{self._born}.jsonl"

    def refresh(self) -> None:
        """Reads what other processes have added."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob("*.jsonl"):
            start = self._read.get(path, 0)
            if path == self._own or path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                whole, newline, _ = file.read().rpartition(b"\n")  # the last line may be half written
            self._read[path] = start + len(whole) + len(newline)
            self._known |= dict(_entries(whole.splitlines()))

    def complete(self, views: Sequence[View], score: Callable[[Sequence[View]], Sequence[Scored]]) -> list[Scored]:
        """Returns the scores of all candidates, of which only those that are not known are scored."""
        keys = [self._key(view, digests) for view, digests in zip(views, self._digests_of(views), strict=True)]
        new = {key: view for key, view in zip(keys, views, strict=True) if key not in self._known}
        found = dict(zip(new, score(list(new.values())), strict=True)) if new else {}
        whole = [found[key] if key in found else self._known[key] for key in keys]
        finite = {key: one for key, one in found.items() if all(map(math.isfinite, one.scores))}
        self._known |= finite
        self._unsaved |= finite
        return whole

    def save(self) -> None:
        """Adds what was found since the last time to the folder.

        Raises:
            OSError: it cannot be written.
        """
        if not self._unsaved:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps([key, *one.scores, one.seconds]) + "\n" for key, one in self._unsaved.items())
        with self._own.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
        self._unsaved = {}

    def _digests_of(self, views: Sequence[View]) -> list[list[str]]:
        """Returns the digests of candidates' chunks, most of which they share, or had parents alone the last time."""
        distinct = {id(latents): latents for view in views for latents in view.latents}
        digests = {id(latents): digest for latents, digest in self._digests}
        digests |= {key: _digest(latents) for key, latents in distinct.items() if key not in digests}
        self._digests = [(latents, digests[key]) for key, latents in distinct.items()]
        return [[digests[id(latents)] for latents in view.latents] for view in views]

    def _key(self, view: View, digests: Sequence[str]) -> str:
        """Returns a name of what is scored: the window's latents stand for its frames, which are decoded from them.

        Frames depend on the chunks before the window, too; but so do the latents, down to their last digit.
        """
        lengths = [len(frames) for frames in (*view.window, view.newest)]
        content = json.dumps([self._scored_by, view.prompt, lengths, *digests])
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def _digest(latents: Tensor) -> str:
    content = latents.cpu().contiguous().view(torch.uint8)  # numpy has no bfloat16
    return hashlib.sha256(content.numpy().data).hexdigest()


def _entries(lines: Iterable[bytes]) -> Iterable[tuple[str, Scored]]:
    for line in lines:
        try:
            key, short, long, seconds = json.loads(line)
        except ValueError:
            continue
        yield key, Scored(Scores(short, long), seconds)
