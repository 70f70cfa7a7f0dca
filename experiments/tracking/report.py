"""A run's report as an artifact of W&B."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.tracking.experiment import COMPARISON
from experiments.tracking.runs import Runs

KINDS = ("*.md", "*.html", "tables/*", "plots/*")


def log_report(folder: Path, settings: Mapping[str, Any]) -> str:
    """Logs the report of a run's folder as an artifact, to the run that compares its policies, and says where it is.

    An artifact of the same files is no new version.

    Args:
        settings: of the experiment.

    Raises:
        ValueError: W&B is disabled, or its note of the folder is damaged.
    """
    group = folder.resolve().name
    runs = Runs(folder, group=group, mode=None, config=lambda label: settings)
    if not runs.is_on:
        raise ValueError("--wandb logs the report, which WANDB_MODE disabled forbids")

    def give(run: Any) -> None:
        import wandb

        artifact = wandb.Artifact(f"report-{group}", type="report")
        for kind in KINDS:
            for file in sorted((folder / "report").glob(kind)):
                artifact.add_file(str(file), name=file.relative_to(folder / "report").as_posix())
        run.log_artifact(artifact)

    runs.give(COMPARISON, give)
    runs.finish(exit_code=0)
    return runs.where
