"""Prompts that change in mid-stream: "a red circle ..., then @4 a blue square ...", a text for a run of chunks."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

SEPARATOR = ", then "
_AT_CHUNK = re.compile(r"@(\d+) (.*)", re.DOTALL)
_CHANGE = re.compile(rf"{SEPARATOR}(?=@\d+ )")


class Cue(NamedTuple):
    """From which chunk on, counted from 0, a text holds."""

    chunk: int
    text: str


def cues(prompt: str, horizon: int | None, *, shares: bool = False) -> tuple[Cue, ...]:
    """Returns the texts of a prompt and when they start.

    Args:
        prompt: one text, or several of which each further one says at which chunk it starts: "..., then @14 ...".
        horizon: chunks of the video; None for one without end.
        shares: whether ", then " alone starts a text, too, in equal shares of the video. A caption of any kind may
            hold the words, so they do only where no text does.

    Raises:
        ValueError: a text is empty, starts do not rise, lie beyond the video, or are missing in one without end.
    """
    first, *others = prompt.split(SEPARATOR) if shares else _CHANGE.split(prompt)
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
