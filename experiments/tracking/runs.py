"""W&B runs that begin when something is logged to them, go on where an earlier command stopped, and never block."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

from experiments.tracking.ledger import Ledger, Session

log = logging.getLogger(__name__)

PROJECT = "searchkit"
Mode = Literal["online", "offline", "disabled"]
REACH_SECONDS = 5.0  # after which a server that does not answer is taken to be away
INIT_SECONDS = 20.0  # for a run to begin
FINISH_SECONDS = 120.0  # for all runs together to send what they still hold
FLUSH_SECONDS = 1.0  # between W&B's writes to its file: what a killed command had logged since is logged again


class Runs:
    """The W&B runs of one folder, by label.

    Args:
        folder: W&B's files go into it, and so does the note of what was logged.
        group: what the runs are grouped by.
        mode: None for online when logged in, else offline; WANDB_MODE, if set, comes before that.
        config: returns the configuration of a label's run.
    """

    def __init__(
        self, folder: Path, *, group: str, mode: Mode | None, config: Callable[[str], Mapping[str, Any]]
    ) -> None:
        self._folder = folder.resolve()  # W&B writes from a process with a working folder of its own
        self._group = group
        self._mode = mode or _mode_of_environment()
        self._config = config
        self._open: dict[str, Any] = {}
        self._logged: list[str] = []  # labels, also of runs that have ended
        self._planned: str | None = None  # label of the run that an agent of a sweep has planned
        self._url = ""
        self.ledger = Ledger(self._folder) if self.is_on else None

    @property
    def is_on(self) -> bool:
        return self._mode != "disabled"

    def log(self, label: str, key: str, row: Callable[[], Mapping[str, Any]]) -> None:
        """Logs a row of history under a key, unless it was logged already, by this command or an earlier one.

        Args:
            row: makes it when it is needed.
        """
        if self.ledger is None or (self.knows(label) and key in self.keys(label)):
            return
        ledger, made = self.ledger, dict(row())

        def give(run: Any) -> None:
            step = ledger.note(label, key)
            try:
                run.log(made, step=step, commit=True)
            except Exception:
                ledger.take_back(label)
                raise

        self.give(label, give)

    def give(self, label: str, give: Callable[[Any], object]) -> None:
        """Gives something to a run; again, offline, where the server that should take it at once does not answer."""
        try:
            give(self.open(label))
        except Exception as error:  # of any kind: it comes from the other side
            if self._mode != "online":
                raise
            self._go_offline(f"W&B does not answer, so logs stay offline: {error}")
            give(self.open(label))

    def knows(self, label: str) -> bool:
        """Returns whether this command or an earlier one has logged to a run."""
        return self.ledger is not None and label in self.ledger

    def is_open(self, label: str) -> bool:
        """Returns whether this command is logging to a run."""
        return label in self._open

    def keys(self, label: str) -> list[str]:
        """Returns the keys of the rows that a run has, in their order."""
        assert self.ledger is not None
        return self.ledger.run(label).rows

    def summarize(self, label: str, values: Mapping[str, float]) -> None:
        """Sets the summary of a run that this command has logged to."""
        if label in self._open:
            self._open[label].summary.update(dict(values))

    def open_planned(self, label: str) -> None:
        """Begins the run that the environment says an agent of a sweep has planned, or goes on with it."""
        assert self.ledger is not None
        self._planned = label
        self.ledger.run(label, id=os.environ.get("WANDB_RUN_ID"))
        self.open(label)

    def open(self, label: str) -> Any:
        """Returns W&B's run of a label, which begins or goes on."""
        assert self.ledger is not None
        if label not in self._open:
            self.ledger.run(label)
            if self._mode is None:
                self._mode = _mode_of_login()
            if self._mode == "online" and not (self._reaches_server() and self._send_rest(label)):
                self._mode = "offline"
            self._open[label] = self._begin(label)
        return self._open[label]

    def finish(self, *, exit_code: int) -> None:
        """Ends all runs; what cannot be sent in time stays on disk, and a warning says where."""
        assert self.ledger is not None
        ended, self._open = self._open, {}
        if not ended:
            return
        with ThreadPoolExecutor(len(ended)) as pool:  # they wait for the same server
            late = [
                label
                for label, is_sent in pool.map(_finish, ended, ended.values(), [exit_code] * len(ended))
                if not is_sent
            ]
        for label in ended:
            if label not in late:
                self.ledger.end(label)
        if late:
            log.warning(
                "W&B did not take everything in time: nothing is lost; upload the rest with: %s",
                self._sync_command(late),
            )

    @property
    def where(self) -> str:
        """Where the runs that were logged to are, in words; empty if there are none."""
        if not self._logged:
            return ""
        if self._mode == "online":
            return self._url
        return f"{self._folder / 'wandb'} (offline; upload with: {self._sync_command(self._logged)})"

    def _sync_command(self, labels: list[str]) -> str:
        assert self.ledger is not None
        is_any_online = any(session.is_online for label in labels for session in self.ledger.unsent(label))
        options, pattern = (" --include-online", "*run-*-*") if is_any_online else ("", "offline-run-*")
        return f"wandb sync{options} {shlex.quote(str(self._folder / 'wandb'))}/{pattern}"

    def _begin(self, label: str) -> Any:
        import wandb

        assert self.ledger is not None
        settings: dict[str, Any] = {
            **{"console": "off", "quiet": True, "silent": True},
            **{"disable_git": True, "disable_code": True, "x_disable_stats": True},
            **{"finish_timeout_raises": True, "x_transaction_log_flush_interval": FLUSH_SECONDS},
        }
        for name, seconds in (("init_timeout", INIT_SECONDS), ("finish_timeout", FINISH_SECONDS)):
            if f"WANDB_{name.upper()}" not in os.environ:
                settings[name] = seconds
        # What an agent's environment says is of the planned run alone: W&B would give its id to every run.
        shared = wandb.setup().settings
        shared.sweep_id = shared.sweep_param_path = shared.run_id = None
        if label == self._planned:
            settings |= {name: os.environ.get(f"WANDB_{name.upper()}") for name in ("sweep_id", "sweep_param_path")}
        os.environ.setdefault("WANDB_DATA_DIR", str(self._folder / "wandb"))  # files of tables wait there
        try:
            run = wandb.init(
                mode=self._mode,
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                group=self._group,
                name=label,
                id=self.ledger.run(label).id,
                resume="allow",  # offline, too: `wandb sync` then makes one run of the folders of an id
                dir=str(self._folder),
                config=dict(self._config(label)),
                reinit="create_new",
                settings=wandb.Settings(**settings),
            )
        except wandb.Error as error:
            if self._mode == "offline":
                raise
            self._go_offline(f"W&B does not begin a run, so logs stay offline: {error}")
            return self._begin(label)
        run.define_metric("trial/*", step_metric="trial/index")
        run.define_metric("chunk/*", step_metric="chunk/index")
        is_online = self._mode == "online"
        folder = Path(run.dir).parent.name
        self.ledger.begin(label, folder=folder, is_online=is_online, step=run.step if is_online else 0)
        self._logged.append(label)
        if is_online:
            self._url = self._url or str(run.url)
        return run

    def _go_offline(self, reason: str) -> None:
        """Ends all runs, which go on offline when they are logged to again.

        W&B's process is ended, too: it would hold the id of a run that did not begin.
        """
        import wandb

        self._mode = "offline"
        log.warning("%s", reason)
        self.finish(exit_code=0)
        wandb.teardown()

    def _reaches_server(self) -> bool:
        """Returns whether anybody answers; W&B itself would try for much longer."""
        import wandb

        url = wandb.setup().settings.base_url
        try:
            urllib.request.urlopen(url, timeout=REACH_SECONDS).close()
        except urllib.error.HTTPError:
            return True
        except (OSError, ValueError) as error:
            log.warning("W&B's server %s cannot be reached, so logs stay offline: %s", url, error)
            return False
        return True

    def _send_rest(self, label: str) -> bool:
        """Sends what earlier commands could not, and returns whether it is sent: rows go to the server in order."""
        assert self.ledger is not None
        rest: list[Session] = self.ledger.unsent(label)
        if not rest:
            return True
        folders = [str(self.ledger.file(label, session).parent) for session in rest]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [sys.executable, "-m", "wandb", "sync", "--include-online", *folders],
                cwd=self._folder,  # where W&B leaves a log of it
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=FINISH_SECONDS,
                check=False,
            )
        if not self.ledger.unsent(label):
            return True
        log.warning("W&B does not take what earlier commands logged, so logs stay offline: %s", ", ".join(folders))
        return False


def _finish(label: str, run: Any, exit_code: int) -> tuple[str, bool]:
    import wandb

    with contextlib.suppress(TimeoutError, wandb.Error):
        run.finish(exit_code=exit_code)
        return label, True
    return label, False


def _mode_of_environment() -> Mode | None:
    wanted = os.environ.get("WANDB_MODE")
    return next((mode for mode in get_args(Mode) if mode == wanted), None)


def _mode_of_login() -> Mode:
    import wandb

    with contextlib.suppress(wandb.Error):
        if wandb.login(prompt=False, verify=False):
            return "online"
    return "offline"
