"""An output folder is one experiment's, and one process's at a time."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.config import Experiment
from experiments.results import FORMAT, MARKER
from searchkit.files import written_whole

LOCK, OWNER = ".lock", ".owner"  # what is locked, and who has locked it, in words


@contextmanager
def claimed(path: Path, experiment: Experiment) -> Iterator[None]:
    """Makes and marks an experiment's output folder, and keeps other processes out of it during the block.

    Raises:
        ValueError: the folder cannot be written, is in use, or holds another experiment, one of another version of
            this program, or other files.
    """
    from filelock import FileLock, Timeout

    try:
        path.mkdir(parents=True, exist_ok=True)
        if not (path / MARKER).exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise ValueError(f"output folder {path} holds files that are not an experiment's: choose another --out")
        lock = FileLock(path / LOCK, fallback_to_soft=False)  # the system lets go of it whatever ends a process
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"output folder {path} is in use{_owner(path)}: wait until that has ended, or choose another --out"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        _mark(path, experiment)
        yield
    finally:
        lock.release()


def _mark(path: Path, experiment: Experiment) -> None:
    marker, described = path / MARKER, experiment.describe()
    try:
        is_ours = marker.exists() and _check(path, json.loads(marker.read_text()), described)
        (path / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        if not is_ours:
            with written_whole(marker) as draft:
                draft.write_text(json.dumps({"format": FORMAT, "experiment": described}, indent=1))
    except json.JSONDecodeError as error:
        raise ValueError(f"output folder {path} has a damaged {MARKER}: choose another --out") from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ValueError:
    reason = "it is read-only" if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) else error.strerror
    return ValueError(f"output folder {path} cannot be written: {reason}")


def _owner(path: Path) -> str:
    try:
        return f" by {(path / OWNER).read_text()}"
    except OSError:
        return ""


def _check(path: Path, marker: Any, described: dict[str, Any]) -> bool:
    """Returns whether a folder is marked as an experiment's; one in which nothing was made yet is not held by another.

    Raises:
        ValueError: it is another one's, or of another version.
    """
    written_as = marker.get("format") if isinstance(marker, dict) else None
    if written_as != FORMAT:
        raise ValueError(
            f"output folder {path} is of another version of searchkit (format {written_as}, this one writes {FORMAT}): "
            "choose another --out; python -m experiments.report still reads it"
        )
    held = marker.get("experiment", {})
    for name, value in described.items():
        if held.get(name) != value and not (path / "trials").exists():
            return False  # models did not load, and another option is to make them
        if held.get(name) != value:
            raise ValueError(
                f"output folder {path} holds another experiment ({name}: {_short(held.get(name))} there, "
                f"{_short(value)} here): choose another --out"
            )
    return True


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) < 70 else f"{text[:67]}..."
