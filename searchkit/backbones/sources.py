"""Where weights are: a folder, or a repository of the Hugging Face hub. No torch here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from searchkit.backbones.presets import WAN_REPOSITORY, WAN_REVISION

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SUFFIXES = {".json", ".safetensors", ".model"}  # of what makes a model; a README beside it changes nothing
_NUM_PIECES, _PIECE = 64, 4096


@dataclass(frozen=True)
class Source:
    """A folder or a hub repository with weights.

    Attributes:
        where: a folder, which goes before, or a hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers. A hub id may bring its
            revision, as in user/name@commit.
        revision: commit, branch or tag of a hub repository; None for its main branch.

    Raises:
        ValueError: `where` is neither a folder nor a hub id, a folder is given a revision, or a hub id another one.
    """

    where: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.is_folder:
            if self.revision is not None:
                raise ValueError(f"revision is for hub ids, got {self.revision!r} for the folder {self.where!r}")
            return
        named = _HUB_ID.fullmatch(self.where)
        if named is None:
            raise ValueError(f"weights must be a folder or a hub id such as user/name, got {self.where!r}")
        if named["revision"] is not None:
            if self.revision not in (None, named["revision"]):
                raise ValueError(f"revision must be that of {self.where!r}, or left out, got {self.revision!r}")
            object.__setattr__(self, "where", named["id"])  # once, before anybody sees it
            object.__setattr__(self, "revision", named["revision"])

    @property
    def is_folder(self) -> bool:
        return Path(self.where).is_dir()

    def find(self, *names: str) -> Path:
        """Returns the first of these files that is there; a repository's is fetched, unless it is in the hub's cache.

        Raises:
            ValueError: none of them is, or the repository cannot be reached.
        """
        return self.find_named(*names)[1]

    def find_named(self, *names: str) -> tuple[str, Path]:
        """Returns the name and the path of the first of these files that is there, as `find` does."""
        if self.is_folder:
            for name in names:
                if (path := Path(self.where, name)).is_file():
                    return name, path
            raise ValueError(f"weights folder {self.where!r} must hold {' or '.join(names)}, and does not")
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        problem: Exception | None = None
        for name in names:
            try:
                return name, Path(hf_hub_download(self.where, name, revision=self.revision))
            except EntryNotFoundError as error:
                problem = error
            except OSError as error:
                raise ValueError(f"weights {self.where!r} are no folder here, and no hub id: {error}") from error
        raise ValueError(
            f"weights {self.where!r} are no folder here, and the hub gave no {' or '.join(names)}: {problem}"
        ) from problem

    def arguments(self, subfolder: str = "") -> dict[str, Any]:
        """Returns what `from_pretrained` of diffusers and transformers takes to load the weights in a subfolder."""
        arguments: dict[str, Any] = {"pretrained_model_name_or_path": self.where}
        if subfolder:
            arguments["subfolder"] = subfolder
        if self.revision is not None:
            arguments["revision"] = self.revision
        return arguments

    @cached_property
    def _commit(self) -> str:
        """The commit that a hub's revision is; the hub's cache keeps a file of it under this name."""
        return self.find("model_index.json", "config.json").parent.name

    def identity(self, subfolder: str = "") -> str:
        """Returns a name of the weights in a subfolder, another one for other weights.

        A repository's is its commit. A folder's is drawn from the sizes of its files and from pieces of them, since
        reading 11 GB to name them would take as long as loading them.

        Raises:
            ValueError: the folder holds no weights, or the repository cannot be reached.
        """
        if not self.is_folder:
            return f"{self.where}@{self._commit}/{subfolder}".removesuffix("/")
        paths = sorted(path for path in Path(self.where, subfolder).glob("*") if path.suffix in _SUFFIXES)
        if not paths:
            raise ValueError(f"weights folder {str(Path(self.where, subfolder))!r} must hold weights, and does not")
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            for piece in _pieces(path):
                digest.update(piece)
        return f"sha256:{digest.hexdigest()[:32]}"


WAN = Source(WAN_REPOSITORY, WAN_REVISION)


def _pieces(path: Path) -> Iterator[bytes]:
    """Yields the whole of a small file, evenly spread pieces of a large one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _NUM_PIECES * _PIECE:
            yield file.read()
            return
        for index in range(_NUM_PIECES):
            file.seek(index * (size - _PIECE) // (_NUM_PIECES - 1))
            yield file.read(_PIECE)
