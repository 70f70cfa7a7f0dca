"""Searches videos with several policies and compares them: `python -m experiments.run`, with --help for options."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from experiments.claim import claimed
from experiments.config import Execution, Experiment
from experiments.dry_run import print_dry_run
from experiments.engines import Work, choose_engine
from experiments.failures import Failure, TrialsFailed, is_ours
from experiments.interrupts import Interrupts, Stopped
from experiments.logs import listening, make_handler
from experiments.memory_plan import plan, unbounded
from experiments.progress import make_reporter
from experiments.registry import policy_label
from experiments.results import Finished, Folder
from experiments.summary import headlines, print_summary
from experiments.sweeps import Part, commands
from experiments.tracking import Tracking
from experiments.trials import Result
from experiments.worlds import world_of

if TYPE_CHECKING:  # nor for torch
    from searchkit.model import VideoModel

FAILED = 1
WRONG_INPUT = 2
INTERRUPTED = 130
PLAIN_WIDTH = 110  # columns where there is no terminal to ask


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of a command line: 0, or after sentences on stderr 1 where some trials failed, 2, or 130.

    2 says that nothing can be done like this, and 130 that somebody stopped it.
    """
    try:
        parts = commands(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        return _refuse(error)
    finished: dict[str, list[Finished]] = {}
    num_failed = 0
    console = _console()
    for part in parts:
        try:
            if part.command.execution.replay is not None:
                return _replay(part.command.execution.replay, console)
            finished[part.name] = _do(part, console)
        except TrialsFailed as failed:
            num_failed += len(failed.failures)
            for failure in failed.failures:
                print(f"run: {failure}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"interrupted: finished trials are kept in {part.out}, and the same command goes on", file=sys.stderr)
            return INTERRUPTED
        except (ValueError, OSError) as error:
            if not is_ours(error):  # a fault in a policy of the user's own needs its traceback
                raise
            return _refuse(_in_words(error, part.out) if isinstance(error, OSError) and error.errno else error)
    results = [one for name, made in finished.items() for one in _named(name, made)]
    if len(parts) > 1 and results:
        print_summary(console, results)
    return FAILED if num_failed else 0


def _do(part: Part, console: Console) -> list[Finished]:
    """Does what a command line asks for, with one experiment of it."""
    experiment, execution = part.command.experiment, part.command.execution
    budget = execution.memory_budget
    planned = unbounded(experiment) if execution.dry_run else None
    if budget is not None:
        planned = plan(experiment, budget)
    if planned is not None:
        for line in planned.lines:
            console.print(line, soft_wrap=True, highlight=False)
        experiment = replace(experiment, placement=planned.placement)
    if execution.dry_run:
        print_dry_run(experiment, preset=part.command.preset, out=part.out, execution=execution, console=console)
        return []
    group = f"{part.out.resolve().parent.name}/{part.name}" if part.name else None
    return run(experiment, out=part.out, execution=execution, group=group)


def _named(name: str, finished: Sequence[Finished]) -> list[Result]:
    """Returns results whose labels say which part of a sweep they are of."""
    return [replace(one.result, label=f"{name}: {one.result.label}") for one in finished]


def _replay(folder: Path, console: Console) -> int:
    """Prints what became of a trial that is made again, and returns 0 if it is the same, else 1."""
    from experiments.replay import BIT_EQUAL, replay

    sentences = []
    for sentence in replay(folder):
        sentences.append(sentence)
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    return 0 if sentences[-1] == BIT_EQUAL else 1


def _in_words(error: OSError, out: Path) -> ValueError:
    """Returns what the system could not do, and what becomes of the experiment."""
    is_full = any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in (error, error.__cause__))
    where = f" ({error.filename})" if error.filename else ""
    reason = "no space is left on the disk" if is_full else error.strerror or str(error)
    return ValueError(f"{reason}{where}: finished trials are kept in {out}, and the same command goes on")


def run(experiment: Experiment, *, out: Path, execution: Execution, group: str | None = None) -> list[Finished]:
    """Makes the trials of an experiment that are not done yet; writes, prints and returns what all of them gave.

    Args:
        group: of the experiment's W&B runs; None for the folder's name.

    Raises:
        ValueError: something that was asked for cannot be done; one sentence says what.
        TrialsFailed: some trials could not be made; all others are written and printed.
        KeyboardInterrupt: somebody asked to stop; what was made is kept.
    """
    console = _console()
    console.print(f"writing to {out.resolve()}", soft_wrap=True, highlight=False)
    with listening(make_handler(console), execution.log_level), claimed(out, experiment):
        model = _load(experiment, execution)
        folder = Folder(out, experiment, model_checksum=model.checksum, has_clips=execution.clips)
        with Tracking(experiment, folder=out, group=group or out.resolve().name, mode=execution.wandb) as tracking:
            finished, failures = _make_trials(folder, console, tracking, execution)
        if finished:
            _write_and_print(folder, finished, console, tracking, fps=model.fps)
    if failures:
        raise TrialsFailed(failures)
    return finished


def _write_and_print(
    folder: Folder, finished: Sequence[Finished], console: Console, tracking: Tracking, *, fps: int
) -> None:
    from experiments.pictures import to_compare, write_comparisons  # help must not wait for numpy

    tables = folder.write_tables(finished)
    compared = to_compare(finished)
    sheets = write_comparisons(folder.path / "videos", compared, fps=fps)
    print_summary(console, [one.result for one in finished])
    pictures = f"{sheets[0]} (and .mp4)" + (f", and {len(sheets) - 1} more" if len(sheets) > 1 else "")
    if len(compared) < len(finished):
        pictures += f": seed {compared[0].result.seed} of the first prompts, as all of them would be too many"
    written = {
        **tables._asdict(),
        "videos": folder.path / "videos",
        "pictures": pictures,
        "W&B": tracking.where,
    }
    for name, path in written.items():
        if path:
            console.print(f"{name:12}{path}", soft_wrap=True, highlight=False, markup=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def _load(experiment: Experiment, execution: Execution) -> VideoModel:
    # Threads that wait for each other by spinning take a busy machine ten times as long. Read as torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(execution.threads)
    return world_of(experiment).make_stream(experiment, experiment.prompts[0]).model


def _make_trials(
    folder: Folder, console: Console, tracking: Tracking, execution: Execution
) -> tuple[list[Finished], list[Failure]]:
    """Returns the trials of the experiment, in its order, whatever the order they were made in, and those that failed.

    Raises:
        KeyboardInterrupt: somebody asked to stop.
    """
    experiment = folder.experiment
    trials = {(policy_label(trial.policy), trial.prompt, trial.seed): trial for trial in experiment.trials}
    finished = {key: done for key, trial in trials.items() if (done := folder.find(trial)) is not None}
    missing = [trial for key, trial in trials.items() if key not in finished]
    if finished:
        console.print(f"{len(finished)} of {len(trials)} trials are done already", highlight=False)
    for one in finished.values():
        tracking.add(one, is_new=False)
    make = choose_engine(execution, num_trials=len(missing), many_at_once=world_of(experiment).MANY_AT_ONCE)
    with (
        make_reporter(console, num_trials=len(missing), num_chunks=experiment.num_chunks) as reporter,
        Interrupts(reporter.say) as interrupts,
    ):

        def on_finished(one: Finished) -> None:
            finished[one.result.label, one.result.prompt, one.result.seed] = one
            reporter.finish(_line(one.result))
            tracking.add(one)

        try:
            failures = make(Work(folder, missing, reporter, on_finished, interrupts))
        except Stopped:
            if finished:
                folder.write_tables([finished[key] for key in trials if key in finished])
            raise
    return [finished[key] for key in trials if key in finished], failures


def _line(result: Result) -> str:
    scores = ", ".join(f"{row.name.removeprefix('search ')} {row.shown(row.read(result))}" for row in headlines(result))
    return (
        f"{result.label}, seed {result.seed}, {result.prompt!r}: {scores}, "
        f"{result.cost.passes:.0f} passes, {result.cost.seconds:.1f} s"
    )


def _refuse(error: Exception) -> int:
    print(f"run: {error}", file=sys.stderr)
    return WRONG_INPUT


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # whoever reads our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
