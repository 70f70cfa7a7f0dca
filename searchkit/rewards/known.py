"""Scores that were given before, so that a candidate which comes again, in any search, is not scored twice."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from searchkit.rewards import View
from searchkit.types import Scores


class Scored(NamedTuple):
    """A candidate's scores, and the seconds that it took to find them: a search pays them, whoever came first."""

    scores: Scores
    seconds: float


class KnownScores:
    """Scores by what was scored, in a folder that any number of processes share without locks.

    Each process adds lines to a file of its own and reads everybody's. A line that was cut off is passed over.

    Args:
        scored_by: names what gives the scores: the model that decodes, the rewards, and how candidates are decoded.
    """

    def __init__(self, folder: Path, *, scored_by: str) -> None:
        self.folder = folder
        self._scored_by = scored_by
        self._known: dict[str, Scored] = {}
        self._read: dict[Path, int] = {}  # bytes of each file
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
        """Returns the scores of all candidates, of which only those that are not known are scored.

        Raises:
            OSError: they cannot be written.
        """
        keys = [self._key(view) for view in views]
        new = {key: view for key, view in zip(keys, views, strict=True) if key not in self._known}
        found = dict(zip(new, score(list(new.values())), strict=True)) if new else {}
        whole = [found[key] if key in found else self._known[key] for key in keys]
        self._add({key: one for key, one in found.items() if all(map(math.isfinite, one.scores))})
        return whole

    def _add(self, found: Mapping[str, Scored]) -> None:
        self._known |= found
        if not found:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps([key, *one.scores, one.seconds]) + "\n" for key, one in found.items())
        with self._own.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def _key(self, view: View) -> str:
        """Returns a name of what is scored: the window's latents stand for its frames, which are decoded from them.

        Frames depend on the chunks before the window, too; but so do the latents, down to their last digit.
        """
        lengths = [len(frames) for frames in (*view.window, view.newest)]
        digest = hashlib.sha256(json.dumps([self._scored_by, view.prompt, lengths]).encode())
        for latents in view.latents:
            digest.update(latents.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:32]


def _entries(lines: Iterable[bytes]) -> Iterable[tuple[str, Scored]]:
    for line in lines:
        try:
            key, short, long, seconds = json.loads(line)
        except ValueError:
            continue
        yield key, Scored(Scores(short, long), seconds)
