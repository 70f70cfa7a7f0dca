"""Weights & Biases: one run per policy of an experiment, in a group of the experiment.

W&B takes a second to import, so it is imported when the first trial is logged.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Literal, Self, get_args

from experiments.config import Experiment
from experiments.registry import flat, plain, policy_name
from experiments.results import Finished
from experiments.summary import rows

log = logging.getLogger(__name__)

PROJECT = "searchkit"
MAX_VIDEOS = 24  # of a run: those of a study would take longer to upload than to make
Mode = Literal["online", "offline", "disabled"]


class Tracking:
    """Logs finished trials; a context manager, so that runs end properly however the experiment ends.

    Args:
        folder: the experiment's; W&B's files go into it.
        group: what the runs of the experiment are grouped by.
        mode: None for online when logged in, else offline; WANDB_MODE, if set, comes before that.
    """

    def __init__(self, experiment: Experiment, *, folder: Path, group: str, mode: Mode | None) -> None:
        self._experiment = experiment
        self._folder = folder
        self._group = group
        self._mode = mode or _mode_of_environment()
        self._runs: dict[str, Any] = {}
        self._trials: dict[str, list[Finished]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as stack:  # every run ends, whatever becomes of the others
            for label, run in self._runs.items():
                stack.callback(run.finish, exit_code=0 if kind is None else 1)
                stack.callback(_log_whole, run, self._trials[label])

    def add(self, one: Finished, *, is_new: bool = True) -> None:
        """Logs a trial. Those of an earlier command count too, but do not start a run by themselves."""
        label = one.result.label
        known = self._trials.setdefault(label, [])
        known.append(one)
        if self._mode == "disabled" or not (is_new or label in self._runs):
            return
        if label in self._runs:
            _log_trial(self._runs[label], len(known) - 1, one)
            return
        self._runs[label] = self._start(one)
        for index, earlier in enumerate(known):
            _log_trial(self._runs[label], index, earlier)

    @property
    def where(self) -> str:
        """Where the runs of this command are, in words; empty if there are none."""
        if not self._runs:
            return ""
        if self._mode == "online":
            return str(next(iter(self._runs.values())).url)
        return f"{self._folder / 'wandb'} (offline; upload with: wandb sync {self._folder / 'wandb' / 'offline-run-*'})"

    def _start(self, one: Finished) -> Any:
        import wandb

        if self._mode is None:
            self._mode = _mode_of_login()
        identity = f"{self._group}:{one.result.label}:{self._folder.resolve()}"
        arguments: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "group": self._group,
            "name": one.result.label,
            "id": hashlib.sha256(identity.encode()).hexdigest()[:16],
            "dir": str(self._folder.resolve()),  # W&B writes from a process with a working folder of its own
            "config": {
                **self._experiment.describe(),
                "policy": policy_name(one.trial.policy),
                **{f"policy.{name}": value for name, value in plain(flat(one.trial.policy)).items()},
            },
            "reinit": "create_new",
            "settings": wandb.Settings(
                console="off", quiet=True, silent=True, disable_git=True, disable_code=True, x_disable_stats=True
            ),
        }
        try:
            run = wandb.init(mode=self._mode, resume="allow" if self._mode == "online" else None, **arguments)
        except wandb.Error as error:
            if self._mode == "offline":
                raise
            self._mode = "offline"
            log.warning("W&B cannot be reached, so logs stay offline: %s", error)
            run = wandb.init(mode="offline", **arguments)
        run.define_metric("trial/*", step_metric="trial/index")
        run.define_metric("chunk/*", step_metric="chunk/index")
        return run


def _mode_of_environment() -> Mode | None:
    wanted = os.environ.get("WANDB_MODE")
    return next((mode for mode in get_args(Mode) if mode == wanted), None)


def _mode_of_login() -> Mode:
    import wandb

    with contextlib.suppress(wandb.Error):
        if wandb.login(prompt=False, verify=False):
            return "online"
    return "offline"


def _log_trial(run: Any, index: int, one: Finished) -> None:
    row = {f"trial/{_key(row.name)}": row.read(one.result) for row in rows(one.result)}
    run.log({"trial/index": index, "trial/seed": one.result.seed, **row})


def _log_whole(run: Any, trials: Sequence[Finished]) -> None:
    """Logs what takes all trials: mean curves over chunks, a table of the first videos, and the summary."""
    import wandb

    for chunk in range(max(len(one.result.curve) for one in trials)):
        points = [one.result.curve[chunk] for one in trials if chunk < len(one.result.curve)]
        means = {f"chunk/{name}": fmean(getattr(point, name) for point in points) for name in points[0]._fields[1:]}
        run.log({"chunk/index": chunk, **means})
    shown = rows(trials[0].result)
    table = wandb.Table(columns=["prompt", "seed", "video", *(row.name for row in shown)])
    for one in trials[:MAX_VIDEOS]:
        video = wandb.Video(str(one.video), format="mp4")
        table.add_data(one.result.prompt, one.result.seed, video, *(row.read(one.result) for row in shown))
    run.log({"videos": table})
    run.summary.update({_key(row.name): fmean(row.read(one.result) for one in trials) for row in shown})
    run.summary["trials"] = len(trials)


def _key(name: str) -> str:
    return name.replace(" ", "_").replace("/", "_")
