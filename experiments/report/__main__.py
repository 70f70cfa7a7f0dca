"""Turns a run's stored trials into tables and plots: `python -m experiments.report runs/NAME`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:  # pandas, scipy and matplotlib are not needed for help
    from experiments.report.data import Run
    from experiments.report.page import Section

WRONG_INPUT = 2
PLAIN_WIDTH = 140  # columns where there is no terminal to ask


def report(
    folder: Path, *, failures: int = 8, html: bool = False, preferences: Sequence[Path] = (), wandb: bool = False
) -> Path:
    """Writes and prints the report of a run's folder, and returns the path of its report.md.

    Args:
        failures: worst videos to show.
        html: writes report.html as well, one page with videos and search trees.
        preferences: files that viewers downloaded from its blind comparison.
        wandb: log it to W&B, too.

    Raises:
        ValueError: there is no such run, it has no finished trial, or a table is damaged; one sentence names the path.
        OSError: the report cannot be written.
    """
    from rich.console import Console

    from experiments.report.data import load
    from experiments.report.page import show, write

    if failures < 1:
        raise ValueError(f"failures must be at least 1, got {failures}")
    run = load(folder)
    title, made = f"Report of {folder.resolve().name}", sections(run, failures=failures, preferences=preferences)
    path = write(folder / "report", title, preface(run, made), made)
    console = Console()
    show(console if console.is_terminal else Console(width=PLAIN_WIDTH), title, preface(run, made), made)
    print(f"\nreport      {path}")
    if html:
        from experiments.report.html.page import size_text
        from experiments.report.html.page import write as write_page

        page = write_page(path.parent, run, title, preface(run, made), made)
        print(f"page        {page} ({size_text(page)})")
    if wandb:
        from experiments.tracking.report import log_report

        print(f"W&B         {log_report(folder, run.settings)}")
    return path


def sections(run: Run, *, failures: int, preferences: Sequence[Path] = ()) -> list[Section]:
    """Returns the sections in the order of the report."""
    from experiments.report.sections import ablations, diversity, drift, hacking, metrics, regret, scaling
    from experiments.report.sections import failures as worst
    from experiments.report.sections import preferences as blind

    return [
        *([metrics.truth(run)] if run.has_truth else []),
        metrics.reward(run),
        metrics.measures(run),
        *([blind.preferences(run, preferences)] if preferences else []),
        scaling.scaling(run),
        ablations.ablations(run),
        hacking.hacking(run),
        drift.drift(run),
        regret.regret(run),
        diversity.diversity(run),
        worst.failures(run, count=failures),
    ]


def preface(run: Run, made: Sequence[Section]) -> list[str]:
    """Returns what the run is, and how the numbers of its sections are to be read."""
    from experiments.report.data import extent
    from experiments.report.statistics import CONFIDENCE, MIN_TO_SHOW, NUM_RESAMPLES
    from experiments.report.words import too_few

    num_comparisons = sum(table.num_comparisons for section in made for table in section.tables)
    few = too_few(run.trials["prompt"].nunique())
    length = run.settings.get("num-chunks")
    chunks = "no fixed number of" if length is None else length
    return [
        f"{extent(run.trials).capitalize()} of {run.trials['policy'].nunique()} policies (a policy with other options "
        f"counts as another one), videos of {chunks} chunks.",
        f"{_meanings(run)} Passes are network evaluations of a mean video, seconds the wall-clock time of the machine "
        "that ran it.",
        f"Brackets are {100 * CONFIDENCE:.0f} % intervals of the mean over prompts (percentile bootstrap of prompts, "
        f"{NUM_RESAMPLES:,} resamples; seeds are averaged within a prompt first). Differences are paired: over the "
        "prompts and seeds that both policies finished, whose number stands under pairs; wins count ties as half. "
        f"Where an interval includes 0, no difference is shown, nor is any with fewer than {MIN_TO_SHOW} prompts.",
        f"Intervals are not corrected for multiple comparisons. There are {num_comparisons:,} in all, some of them in "
        "two tables (captions say how many a table has); of those without a true difference about one in twenty "
        "excludes 0 by chance. The highest mean of many is flattered by having been chosen.",
        *([f"Mind that {few}."] if few else []),
    ]


def _meanings(run: Run) -> str:
    """Returns what the metrics of a run are."""
    from experiments.report.words import listed

    reward = "Search reward is what policies search with"
    if run.has_truth:
        return f"Truth is the mean of oracle measures in [0, 1] that no policy sees; {reward.lower()}."
    if run.measures:
        return f"{reward}; {listed(run.measures)} are what judges say, which no policy sees."
    return f"{reward}; nothing else measured the videos."


def main(
    folder: Annotated[Path, tyro.conf.Positional],
    *,
    failures: int = 8,
    html: bool = False,
    preferences: tuple[Path, ...] = (),
    wandb: bool = False,
) -> int:
    """Writes FOLDER/report/report.md with plots and tables, and prints its summary.

    Args:
        folder: a run of `python -m experiments.run`, such as runs/NAME.
        failures: worst videos to show, those with the least truth or, where it was not measured, search reward.
        html: write FOLDER/report/report.html as well: one page with videos, search trees and a blind comparison, that
            opens from disk.
        preferences: files that viewers downloaded from the page's blind comparison, for a section of win rates.
        wandb: log the report to Weights & Biases, too, as an artifact (see docs/tracking.md).
    """
    try:
        report(folder, failures=failures, html=html, preferences=preferences, wandb=wandb)
    except BrokenPipeError:
        raise
    except OSError as error:  # tables that cannot be read are a ValueError
        print(f"report: a report of {folder} cannot be written: {_in_words(error)}", file=sys.stderr)
        return WRONG_INPUT
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return WRONG_INPUT
    return 0


def _in_words(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{where}" if error.strerror else str(error)


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main, prog="python -m experiments.report"))
    except BrokenPipeError:  # whoever reads our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
