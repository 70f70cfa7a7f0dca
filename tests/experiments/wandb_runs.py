"""W&B's own files, read back: what an offline run holds for `wandb sync` to upload."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from experiments.tracking.log_file import read


class Logged:
    """What the files of one run hold, all commands together: config, history, summary, names, artifacts, exit code."""

    def __init__(self, files: list[Path]) -> None:
        self.id, self.name, self.group, self.sweep = "", "", "", ""
        self.resumes: list[bool] = []
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: dict[str, list[str]] = {}
        self.artifact_types: set[str] = set()
        self.exit_codes: list[int] = []
        for file in files:
            for record in read(file):
                self._take(record)

    def rows(self, key: str) -> list[Any]:
        """Returns the values of a key of history."""
        return [row[key] for row in self.history if key in row]

    def _take(self, record: Any) -> None:
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                self.id, self.name, self.group, self.sweep = run.run_id, run.display_name, run.run_group, run.sweep_id
                self.resumes.append(run.resume)
                self.config |= _values(run.config.update)
            case "config":
                self.config |= _values(record.config.update)
            case "history":
                self.history.append(_values(record.history.item))
            case "summary":
                self.summary |= _values(record.summary.update)
            case "artifact":
                one = record.artifact
                self.artifacts[one.name] = [entry.path for entry in one.manifest.contents]
                self.artifact_types.add(one.type)
                assert all(Path(entry.local_path).is_file() for entry in one.manifest.contents)
            case "exit":
                self.exit_codes.append(record.exit.exit_code)


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def runs(folder: Path, *, num_ended: int | None = None) -> dict[str, Logged]:
    """Returns a folder's runs by name, when W&B's own process, which may take a moment, has written them.

    Args:
        num_ended: commands that ended properly; None if all did.
    """
    by_id: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("wandb/*run-*/run-*.wandb")):
        by_id.setdefault(file.stem, []).append(file)
    for _ in range(100):
        found = [Logged(files) for files in by_id.values()]
        ended = sum(len(run.exit_codes) for run in found)
        if found and ended >= (sum(map(len, by_id.values())) if num_ended is None else num_ended):
            break
        time.sleep(0.1)
    return {run.name: run for run in found}
