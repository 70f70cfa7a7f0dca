"""Published weight files, wherever they are: one file, a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchkit.backbones.sources import Source

if TYPE_CHECKING:  # to name files must not wait for torch
    from torch import Tensor

_NUM_PIECES, _PIECE = 64, 4096  # of a file, that its identity is drawn from


def find_file(weights: str, *names: str, revision: str | None = None) -> Path:
    """Returns the file that `weights` is, or the first of these names in the folder or the repository that it is.

    Raises:
        ValueError: there is no such file.
    """
    if Path(weights).is_file():
        return Path(weights)
    return Source(weights, revision).find(*names)


def file_identity(path: Path) -> str:
    """Returns a name of what a file holds: of all of a small one, of a large one's size and evenly spread pieces.

    To read 15 GB in order to name them would take as long as to load them.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size} ".encode())
    with path.open("rb") as file:
        for start in range(0, size, max(_PIECE, size // _NUM_PIECES)):
            file.seek(start)
            digest.update(file.read(_PIECE))
    return f"sha256:{digest.hexdigest()[:32]}"


def read_tensors(path: Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a file by their names, on the CPU. Nothing in the file is run.

    Args:
        path: safetensors where its name says so, and a pickle of torch otherwise.
        key: of the entry of a pickle that holds the tensors, where there is one; None takes the whole.

    Raises:
        ValueError: the file is damaged, or holds something else than tensors.
    """
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    if isinstance(loaded, dict) and key in loaded:
        loaded = loaded[key]
    if not _holds_tensors(loaded):
        raise ValueError(f"weights {str(path)!r} must hold tensors by name{f' under {key!r}' if key else ''}")
    return dict(loaded)


def _load_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"weights {str(path)!r} are damaged: {error}") from error


def _load_pickle(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"weights {str(path)!r} are damaged, or hold more than tensors: {reason}") from error


def _holds_tensors(loaded: Any) -> bool:
    import torch

    return (
        isinstance(loaded, dict) and bool(loaded) and all(isinstance(value, torch.Tensor) for value in loaded.values())
    )
