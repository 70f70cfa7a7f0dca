"""What was logged of an experiment, and where: OUT/tracking.json, from which a later command goes on.

Every row of history has a key, such as the trial that it is of, and a step, its place among the rows of its run. A row
is noted before it is given to W&B, whose process writes it to disk when it pleases. So what a killed command has noted
may not be there; its rows are counted in W&B's own file when the next command begins, and those that are missing are
logged again, under the same steps. What is there is not.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from experiments.tracking.log_file import mend
from searchkit.files import written_whole

FILE = "tracking.json"
FORMAT = 1


@dataclass(kw_only=True)
class Session:
    """What one command logged of a run.

    Attributes:
        folder: name of W&B's, under OUT/wandb.
        is_online: whether it was sent as it was logged.
        first_step: of its rows.
        rows: keys of what was logged, one a step.
        is_ended: whether W&B has written all of it and, online, sent it.
    """

    folder: str
    is_online: bool
    first_step: int
    rows: list[str] = field(default_factory=list)
    is_ended: bool = False


@dataclass(kw_only=True)
class Logged:
    """A W&B run, by its id, and the sessions that made it."""

    id: str
    sessions: list[Session] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        return [key for session in self.sessions for key in session.rows]


class Ledger:
    """The runs of an experiment's folder, by label.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._runs: dict[str, Logged] = {}
        self._unwritten: dict[str, list[str]] = {}  # rows of last sessions that W&B's files lack
        try:
            stored = json.loads(self._path.read_text())["runs"]
            for label, run in stored.items():
                sessions = [Session(**session) for session in run["sessions"]]
                self._runs[label] = Logged(id=run["id"], sessions=sessions)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"file {self._path} is damaged: delete it, and W&B runs begin anew") from error
        for label in self._runs:
            self._recount(label)

    def __contains__(self, label: str) -> bool:
        return label in self._runs

    def run(self, label: str, *, id: str | None = None) -> Logged:
        """Returns what is known of a run, a new one if there is none yet or if it is to have another id."""
        if label not in self._runs or id not in (None, self._runs[label].id):
            # Not a hash of the folder's path: what is begun anew in the same place is another run.
            self._runs[label] = Logged(id=id or secrets.token_hex(8))
            self._write()
        return self._runs[label]

    def unsent(self, label: str) -> list[Session]:
        """Returns the sessions of a run that W&B's server does not have, or not all of, as far as we know."""
        return [
            session
            for session in self._runs[label].sessions
            if not (session.is_online and session.is_ended)
            and (file := self.file(label, session)).exists()
            and not file.with_suffix(".wandb.synced").exists()
        ]

    def file(self, label: str, session: Session) -> Path:
        """Returns where W&B keeps a session."""
        return self._folder / "wandb" / session.folder / f"run-{self._runs[label].id}.wandb"

    def begin(self, label: str, *, folder: str, is_online: bool, step: int) -> None:
        """Notes that a command logs to a run.

        Args:
            step: the next one that the server expects; 0 offline.
        """
        run = self._runs[label]
        unwritten = self._unwritten.pop(label, [])
        if unwritten and is_online and run.sessions[-1].is_online:  # they may have been sent before they were written
            run.sessions[-1].rows += unwritten[: max(0, step - len(run.rows))]
        step = max(step, len(run.rows))
        run.sessions.append(Session(folder=folder, is_online=is_online, first_step=step))
        self._write()

    def note(self, label: str, key: str) -> int:
        """Notes a row that is about to be logged, and returns its step."""
        session = self._runs[label].sessions[-1]
        session.rows.append(key)
        self._write()
        return session.first_step + len(session.rows) - 1

    def take_back(self, label: str) -> None:
        """Notes that the last row was not logged after all."""
        self._runs[label].sessions[-1].rows.pop()
        self._write()

    def end(self, label: str) -> None:
        """Notes that all of a run's session is where it is to be."""
        self._runs[label].sessions[-1].is_ended = True
        self._write()

    def _recount(self, label: str) -> None:
        for session in self._runs[label].sessions:
            file = self.file(label, session)
            if not session.is_ended and file.exists():
                written = mend(file)
                self._unwritten[label] = session.rows[written:]
                del session.rows[written:]

    def _write(self) -> None:
        runs = {label: asdict(run) for label, run in self._runs.items()}
        with written_whole(self._path) as draft:
            draft.write_text(json.dumps({"format": FORMAT, "runs": runs}))
