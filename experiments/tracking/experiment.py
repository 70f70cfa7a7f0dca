"""Weights & Biases: one run per policy of an experiment, in a group of the experiment.

Trials are logged as they finish, and at the end of the experiment what takes all of them. W&B takes a second to import,
so it is imported when the first trial is logged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self

from experiments.config import Experiment
from experiments.registry import flat, plain, policy_label, policy_name
from experiments.results import Finished
from experiments.summary import means
from experiments.tracking import tables
from experiments.tracking.runs import Mode, Runs

COMPARISON = "comparison"  # the run of what is of all policies
TRIAL = "trial"  # before the keys of trials


class Tracking:
    """Logs finished trials; a context manager, so that runs end properly however the experiment ends.

    Args:
        folder: the experiment's; W&B's files go into it.
        group: what the runs of the experiment are grouped by.
        mode: None for online when logged in, else offline; WANDB_MODE, if set, comes before that.
    """

    def __init__(self, experiment: Experiment, *, folder: Path, group: str, mode: Mode | None) -> None:
        self._experiment = experiment
        self._policies = {policy_label(policy): policy for policy in experiment.policies}
        self._runs = Runs(folder, group=group, mode=mode, config=self._config)
        self._trials: dict[str, list[Finished]] = {}
        if "WANDB_SWEEP_ID" in os.environ and len(self._policies) == 1:
            self._begin_for_agent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._runs.is_on:
            return
        try:
            for label in self._trials:
                if self._runs.knows(label):
                    self._log_all(label, is_whole=kind is None)
            if kind is None:
                self._log_scaling()
        finally:
            self._runs.finish(exit_code=0 if kind is None else 1)

    def add(self, one: Finished, *, is_new: bool = True) -> None:
        """Logs a trial. Those of an earlier command count too, but do not start a run by themselves."""
        label = one.result.label
        self._trials.setdefault(label, []).append(one)
        if is_new and self._runs.is_on:
            self._log_trials(label, [one] if self._runs.is_open(label) else self._trials[label])

    @property
    def where(self) -> str:
        """Where the runs of this command are, in words; empty if there are none."""
        return self._runs.where

    def _begin_for_agent(self) -> None:
        """Begins the run that an agent of a sweep waits for, even where its trials are done already."""
        (label,) = self._policies
        if self._runs.is_on:
            self._runs.open_planned(label)

    def _config(self, label: str) -> dict[str, Any]:
        config = self._experiment.describe()
        if label not in self._policies:
            return config
        policy = self._policies[label]
        options = {f"policy.{name}": value for name, value in plain(flat(policy)).items()}
        return {**config, "policy": policy_name(policy), **options}

    def _log_trials(self, label: str, trials: Sequence[Finished]) -> None:
        for one in trials:
            self._runs.log(label, f"{TRIAL} {one.folder.name}", partial(self._trial_row, label, one))

    def _trial_row(self, label: str, one: Finished) -> dict[str, float]:
        index = sum(key.startswith(TRIAL) for key in self._runs.keys(label))
        return {"trial/index": index, "trial/seed": one.result.seed, **_values([one], prefix="trial/")}

    def _log_all(self, label: str, *, is_whole: bool) -> None:
        """Logs what takes all trials: mean curves over chunks, tables of the first trials, and the summary.

        Args:
            is_whole: whether all trials of the experiment are there; curves and tables are logged once, of all.
        """
        trials = self._trials[label]
        self._log_trials(label, trials)
        if is_whole:
            for chunk in range(max(len(one.result.curve) for one in trials)):
                self._runs.log(label, f"chunk {chunk}", partial(_chunk_row, trials, chunk))
            self._runs.log(label, "videos", lambda: {"videos": tables.videos(trials)})
            self._runs.log(label, "candidates", lambda: {"candidates": tables.candidates(trials)})
        self._runs.summarize(label, {"trials": len(trials), **_values(trials)})

    def _log_scaling(self) -> None:
        """Logs a run with scaling curves, where some policy ran at several budgets."""
        results = [one.result for trials in self._trials.values() for one in trials]
        if any(map(self._runs.knows, self._trials)) and tables.has_curves(self._trials):
            self._runs.log(COMPARISON, "scaling", lambda: tables.scaling(results))


def _chunk_row(trials: list[Finished], chunk: int) -> dict[str, float]:
    points = [one.result.curve[chunk] for one in trials if chunk < len(one.result.curve)]
    values = {f"chunk/{name}": fmean(getattr(point, name) for point in points) for name in points[0]._fields[1:]}
    return {"chunk/index": chunk, **values}


def _values(trials: list[Finished], *, prefix: str = "") -> dict[str, float]:
    """Returns the means over trials, by names that W&B takes; none of what no trial has."""
    found = means([one.result for one in trials])
    return {prefix + name.replace(" ", "_").replace("/", "_"): value for name, value in found.items()}
