"""What it costs a trial to survive: journal, store, scores, pictures, tracking and progress, over a bare search."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from experiments.benchmark.timing import Figure, interleaved
from experiments.config import Execution, Experiment, Trial
from experiments.engines.making import Maker
from experiments.presets import shapes_quick
from experiments.progress import make_reporter
from experiments.results import Folder
from experiments.tracking import Tracking
from experiments.trials import run_trial
from experiments.worlds import world_of
from policies import StreamT1


def overhead(repeats: int) -> Iterator[Figure]:
    """Yields what a 5 s trial of Stream-T1 takes with all that is around it, over the same trial in memory alone.

    Both sides search, decode and measure, on as many threads as a run takes by itself. What a run does once, such as
    W&B's start, is not a trial's.
    """
    experiment = replace(shapes_quick(), policies=(StreamT1(),))
    [prompt, *_], world = experiment.prompts, world_of(experiment)
    stream = world.make_stream(experiment, prompt)

    def bare() -> None:
        run_trial(experiment, Trial(StreamT1(), prompt, 0), stream=stream, on_chunk=lambda chunk: None)

    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        with Tracking(experiment, folder=path, group="benchmark", mode="offline") as tracking:
            sides: dict[str, Callable[[], object]] = {
                "bare": bare,
                "whole": _stored(experiment, prompt, path / "whole", tracking=tracking, has_clips=True),
                "no clips": _stored(experiment, prompt, path / "plain", tracking=tracking, has_clips=False),
            }
            for side in sides.values():  # W&B starts, and kernels are loaded
                side()
            with _threads(Execution().threads):
                seconds = interleaved(sides, repeats)
    name = "5 s Stream-T1, a trial"
    yield Figure(f"{name}: searched, decoded and measured", seconds["bare"], "s")
    yield Figure(
        f"{name}: journal, store, scores, tracking and progress", seconds["no clips"] / seconds["bare"] - 1, "", 0.03
    )
    yield Figure(f"{name}: the same and pictures of all candidates", seconds["whole"] / seconds["bare"] - 1, "")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stored(
    experiment: Experiment, prompt: str, path: Path, *, tracking: Tracking, has_clips: bool
) -> Callable[[], object]:
    """Returns what makes the trial as the command line does, each time in a folder of its own."""
    reporter = make_reporter(Console(quiet=True), num_trials=1000, num_chunks=experiment.num_chunks)
    checksum, trial = world_of(experiment).make_stream(experiment, prompt).model.checksum, Trial(StreamT1(), prompt, 0)
    count = iter(range(10**6))

    def make() -> None:
        folder = Folder(path / str(next(count)), experiment, model_checksum=checksum, has_clips=has_clips)
        reporter.start("stream-t1")
        finished = Maker(folder=folder, tell=reporter.at, check=lambda: None).make(trial)
        reporter.end()
        reporter.finish("done")
        tracking.add(finished)

    return make
