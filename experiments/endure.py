"""Kills a study again and again and shows that nothing is lost: `python -m experiments.endure`.

A study is run undisturbed, and another one is ended by SIGKILL at random moments, over and over, until it is done. What
was finished, or written down in a journal, must stay as it is, and all results must be those of the first study.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from experiments.run import main as run
from searchkit.journal_file import record_bounds

PROMPTS = (
    "a fast blue circle moving left on a sand background",
    "a slow yellow triangle moving left on a sand background",
)
STUDY = (
    *("--prompts", *PROMPTS, "--seeds", "0", "1", "2", "3", "4", "--num-chunks", "5"),
    *("--policies", "greedy", "beam-search", "stream-t1", "preview-pruning", "--budget", "2x"),
)
ALWAYS = ("--deterministic", "--wandb", "disabled")
POLL_SECONDS = 0.002


class Written(NamedTuple):
    """What a study has on disk: finished trials, each with the number of its folder, and levels of unfinished ones.

    levels: what is written of each, by trial and number; with its seconds, so that nothing is made twice alike.
    """

    trials: dict[str, int]
    levels: dict[str, bytes]


class Endured(NamedTuple):
    """What became of studies that were killed.

    studies: that came to their end.
    resumed: kills after which a trial went on in the middle.
    """

    kills: int
    studies: int
    trials: int
    resumed: int


def endure(study: Sequence[str], folder: Path, *, kills: int, longest: float, seed: int = 0) -> Endured:
    """Returns what became of studies that were killed so many times.

    Args:
        study: options of `experiments.run`.
        folder: for the output of all of them.
        longest: seconds after the first new level or trial within which a kill comes.

    Raises:
        AssertionError: something was lost, made twice, or came out differently; it is named.
        ValueError: a study failed by itself.
    """
    import envs.shapes.model  # noqa: F401  (before processes are made, which then need not)

    drawn = random.Random(seed)
    whole = folder / "undisturbed"
    _run(study, whole)
    expected = _results(whole)
    done = resumed = num_studies = 0
    while done < kills:
        killed, num_studies = folder / f"killed-{num_studies}", num_studies + 1
        before = Written({}, {})
        while done < kills and _kill(study, killed, drawn.uniform(0.0, longest)):
            after = _written(killed)
            _check_kept(before, after)
            before, done, resumed = after, done + 1, resumed + bool(after.levels)
        _run(study, killed)
        _check_kept(before, _written(killed))
        _check_same(expected, _results(killed))
    return Endured(done, num_studies, len(expected) * num_studies, resumed)


def _start(study: Sequence[str], out: Path) -> BaseProcess:
    """Starts a study in a process that has what this one has imported, so that most of its time is not for imports."""
    process = multiprocessing.get_context("fork").Process(target=_study, args=(study, out))
    process.start()
    return process


def _study(study: Sequence[str], out: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(run([*study, *ALWAYS, "--out", str(out)]))


def _run(study: Sequence[str], out: Path) -> None:
    process = _start(study, out)
    process.join()
    if process.exitcode:
        raise ValueError(f"a study ended with {process.exitcode} by itself: it says why above")


def _kill(study: Sequence[str], out: Path, seconds: float) -> bool:
    """Runs a study and kills it some seconds after it has made something new; returns False where it was done first."""
    before = _written(out)
    process = _start(study, out)
    while process.is_alive() and _written(out) == before:
        time.sleep(POLL_SECONDS)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _written(out: Path) -> Written:
    trials = out / "trials"
    finished: dict[str, int] = {}
    levels: dict[str, bytes] = {}
    for path in list(trials.iterdir()) if trials.is_dir() else []:
        if not path.name.startswith("."):
            finished[path.name] = path.stat().st_ino
        elif path.name.endswith(".unfinished"):
            levels |= dict(_levels(path))
    return Written(finished, levels)


def _levels(journal: Path) -> Iterator[tuple[str, bytes]]:
    try:
        bounds, content = record_bounds(journal), journal.read_bytes()  # in this order: it may grow meanwhile
    except FileNotFoundError:  # the trial has been finished meanwhile
        return
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        yield f"{journal.name[1:].partition('.')[0]}/{number}", content[start:end]


def _check_kept(before: Written, after: Written) -> None:
    """Checks that what was there is still the same, or part of a trial that is finished now."""
    for name, number in before.trials.items():
        assert after.trials.get(name) == number, f"trial {name} was lost or made twice"
    for name, content in before.levels.items():
        assert name.partition("/")[0] in after.trials or after.levels.get(name) == content, f"level {name} was lost"


def _results(out: Path) -> dict[str, Any]:
    """Returns all that trials gave, but for seconds."""
    import pyarrow.parquet as pq

    found = {}
    for path in sorted((out / "trials").glob("[0-9a-f]*")):
        stored = json.loads((path / "trial.json").read_text())
        candidates = pq.ParquetFile(path / "candidates.parquet").read().to_pylist()
        clips = [file.read_bytes() for file in sorted(path.glob("clips/*"))]
        found[path.name] = [_timeless(stored["result"]), stored["pixels"], _timeless(candidates), clips]
    return found


def _timeless(value: Any) -> Any:
    """Returns a value without whatever is named after seconds."""
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if not name.startswith("seconds")}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def _check_same(expected: dict[str, Any], found: dict[str, Any]) -> None:
    assert expected.keys() == found.keys(), f"trials are missing: {sorted(expected.keys() - found.keys())}"
    for name, one in expected.items():
        for what, part, other in zip(("result", "pixels", "candidates", "clips"), one, found[name], strict=True):
            assert part == other, f"trial {name} has another {what} than without kills"


def main(kills: int = 100, longest: float = 0.4, seed: int = 0, engine: str = "in-process") -> None:
    """Ends studies of 40 short trials by SIGKILL and prints what became of them.

    Args:
        kills: in all; where a study is done before, another one starts.
        longest: seconds after the first new level or trial of a command within which a kill comes.
        seed: of the moments.
        engine: that makes the trials; see python -m experiments.run --help.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = endure((*STUDY, "--engine", engine), Path(folder), kills=kills, longest=longest, seed=seed)
        except AssertionError as error:
            sys.exit(f"endure: {error}")
    print(
        f"{found.kills} kills over {found.studies} studies, {found.trials} trials in all: nothing lost, nothing done "
        f"twice, results identical to an undisturbed run. After {found.resumed} of them a search went on in its middle."
    )


if __name__ == "__main__":
    tyro.cli(main)
