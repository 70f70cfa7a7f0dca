"""Prompts that change in mid-stream: "a red circle ..., then a blue square ...", one text for a run of chunks each."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

SEPARATOR = ", then "
_AT_CHUNK = re.compile(r"@(\d+) (.*)")


class Cue(NamedTuple):
    """From which chunk on, counted from 0, a text holds."""

    chunk: int
    text: str


def cues(prompt: str, horizon: int | None) -> tuple[Cue, ...]:
    """Returns the texts of a prompt and when they start.

    Args:
        prompt: texts with ", then " between them, which get equal shares of the video, or start at a chunk of their
            own: "..., then @14 ...".
        horizon: chunks of the video; None for one without end.

    Raises:
        ValueError: a text is empty, starts do not rise, lie beyond the video, or are missing in one without end.
    """
    first, *others = prompt.split(SEPARATOR)
    found = [Cue(0, first)]
    for number, part in enumerate(others, start=1):
        at_chunk = _AT_CHUNK.fullmatch(part)
        if at_chunk:
            found.append(Cue(int(at_chunk[1]), at_chunk[2]))
        elif horizon is None:
            raise ValueError(
                f"prompt of a stream without end must say at which chunk a text starts, as '@14 ...', {part!r}"
            )
        else:
            found.append(Cue(round(number * horizon / (1 + len(others))), part))
    for before, cue in itertools.pairwise(found):
        if cue.chunk <= before.chunk:
            raise ValueError(f"prompt must start {cue.text!r} after chunk {before.chunk}, got chunk {cue.chunk}")
    if horizon is not None and found[-1].chunk >= horizon:
        raise ValueError(f"prompt must start {found[-1].text!r} within {horizon} chunks, got chunk {found[-1].chunk}")
    if others and not all(cue.text.strip() for cue in found):
        raise ValueError(f"prompt must have a text before and after each {SEPARATOR.strip()!r}, got {prompt!r}")
    return tuple(found)


def text_at(schedule: tuple[Cue, ...], chunk: int) -> str:
    """Returns the text that a chunk, counted from 0, is made with."""
    return [cue.text for cue in schedule if cue.chunk <= chunk][-1]
