"""Measures what a model's rewards give plain videos, for the calibrated fusion: `python -m experiments.calibrate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments.arguments import parse
from experiments.calibration import Calibrated, calibrated, write
from experiments.config import Experiment, Trial, with_prompts
from experiments.registry import flat
from experiments.worlds import world_of
from policies import Greedy
from searchkit.types import Scores

OF_SEARCHES = ("--policy", "--policies", "--budget", "--calibration", "--dry-run")  # what plain videos have none of


def measure(experiment: Experiment, *, on_video: Callable[[Trial, Sequence[Scores]], None]) -> Calibrated:
    """Returns the mean and the deviation of the short and the long score of all chunks of an experiment's videos.

    They are made without a search, so that the scores are those of a model's own videos, whatever searches prefer.

    Args:
        experiment: whose prompts are texts (see `with_prompts`); its policies take no part.
        on_video: told of every video when it is made.

    Raises:
        ValueError: videos have no end, what the model is made of is missing, or scores do not differ.
    """
    if experiment.num_chunks is None:
        raise ValueError("num_chunks must be a number of chunks, got none: plain videos without end never end")
    found: list[Scores] = []
    for trial in replace(experiment, policies=(Greedy(),)).trials:
        stream = world_of(experiment).make_stream(experiment, trial.prompt)
        scores = [record.scores for record in trial.policy(stream, seed=trial.seed).records]
        on_video(trial, scores)
        found += scores
    return calibrated(found, experiment)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of a command line: 0, or 2 after one sentence on stderr."""
    own, others = tyro.cli(_calibrate, args=argv, prog="python -m experiments.calibrate", return_unknown_args=True)
    try:
        if given := [word for word in others if word.startswith(OF_SEARCHES)]:
            raise ValueError(f"{given[0]} is for searches: what is measured are videos made without one")
        if not own.parent.is_dir():
            raise ValueError(f"out must be a file in a folder that is there, got {own}")
        command = parse([*others, "--policies", "greedy"])
        _set_threads(command.execution.threads)
        measured = measure(with_prompts(command.experiment), on_video=_print_video)
        write(own, measured)
    except (ValueError, OSError) as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 2
    options = flat(measured.calibration, "--policy.fusion.calibration.")
    print(
        f"{measured.num_scores} chunks measured, written to {own}. Search with --calibration {own}, or one policy with"
    )
    print(" ".join(f"{name} {value}" for name, value in options.items()))
    return 0


def _calibrate(out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("calibration.json")) -> Path:
    """Measures mean and deviation of the short and the long score over videos that are made without a search.

    Takes the options of python -m experiments.run that say which videos: --preset, --model, --prompts, --num-prompts,
    --seeds, --num-chunks, --weights, --rewards.image and so on; by default those of the model shapes.

    Args:
        out: JSON file to write, which --calibration of python -m experiments.run reads.
    """
    return out


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _print_video(trial: Trial, scores: Sequence[Scores]) -> None:
    means = (sum(values) / len(scores) for values in zip(*scores, strict=True))
    words = ", ".join(f"{name} {mean:.4g}" for name, mean in zip(Scores._fields, means, strict=True))
    print(f"seed {trial.seed}, {trial.prompt!r}: {words}, means of {len(scores)} chunks")


if __name__ == "__main__":
    sys.exit(main())
