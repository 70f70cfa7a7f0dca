"""A file of a journal, safetensors: calls to a problem and their answers as JSON, latents and notes as tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchkit.files import written_whole
from searchkit.types import Action, Route

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # of the files; others are passed over
LATENTS, NOTE = "latents", "note."

# A candidate's place: the file that holds it, and its row among those of the file. None is the root.
Place = tuple[int, int] | None
Notes = Mapping[str, "Tensor"]


def write_calls(
    path: Path, calls: Sequence[Mapping[str, Any]], *, latents: Sequence[Tensor] = (), notes: Notes | None = None
) -> None:
    """Writes calls, whole or not at all.

    Args:
        latents: `[T, C, h, w]` of every child of the last call.
        notes: whatever else is to be kept of these children.

    Raises:
        OSError: the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    tensors = {NOTE + name: note.contiguous() for name, note in (notes or {}).items()}
    if latents:
        tensors[LATENTS] = torch.stack(list(latents))
    content = save(tensors, metadata={"format": str(FORMAT), "calls": json.dumps(calls)})
    with written_whole(path) as beside:
        beside.write_bytes(content)


def read_calls(path: Path) -> list[dict[str, Any]]:
    """Returns the calls of a file; none where it is missing, damaged or of another format."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") == str(FORMAT):
            calls: list[dict[str, Any]] = json.loads(metadata["calls"])
            return calls
    except (OSError, SafetensorError, ValueError, KeyError):
        pass
    return []


def read_latents(path: Path) -> Tensor:
    """Returns the latents `[R, T, C, h, w]` of a file's children."""
    from safetensors.torch import load_file

    return load_file(path)[LATENTS]


def read_notes(path: Path) -> dict[str, Tensor]:
    """Returns the notes of a file."""
    from safetensors.torch import load_file

    return {name.removeprefix(NOTE): note for name, note in load_file(path).items() if name != LATENTS}


def place_of(stored: Sequence[int] | None) -> Place:
    """Returns a place that was stored."""
    return None if stored is None else (stored[0], stored[1])


def action_of(stored: Sequence[Any]) -> Action:
    """Returns an action that was stored."""
    seed, route, correlation, passes = stored
    return Action(seed, Route(route), correlation, passes)
