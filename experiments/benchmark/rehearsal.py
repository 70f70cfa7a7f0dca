"""Whole searches measured phase by phase, beside what the plan says: `python -m experiments.benchmark.rehearsal`.

Takes the options of `experiments.run`, and starts from the preset longlive-rehearsal: true size, random weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.arguments import parse
from experiments.config import Experiment, Trial, with_prompts
from experiments.dry_run import workload_of
from experiments.memory_phases import sizes_of
from experiments.memory_plan import plan
from experiments.registry import policy_label
from experiments.trials import warm_up
from experiments.worlds import Clip, world_of
from searchkit.codecs import Decoder
from searchkit.rewards import Scorer, View
from searchkit.state import StreamState
from searchkit.stream import Stream, now
from searchkit.types import Scores
from searchkit.video import to_pixels

GB = 1e9


class Usage(NamedTuple):
    """What a phase took: seconds, and the most bytes of the device that were allocated in it."""

    seconds: float
    peak_bytes: int


@dataclass
class Meter:
    """Tells what each phase takes; phases may interrupt each other.

    Attributes:
        used: by phase.
    """

    used: dict[str, Usage] = field(default_factory=dict)
    _phase: str = ""
    _since: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts for a phase, and then again for the one that it interrupted."""
        outer = self._phase
        self._turn(name)
        try:
            yield
        finally:
            self._turn(outer)

    def _turn(self, name: str) -> None:
        """Ends what is counted now and counts for another phase."""
        time = now()
        peak = 0
        if torch.cuda.is_initialized():
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        if self._phase:
            before = self.used.get(self._phase, Usage(0.0, 0))
            spent = before.seconds + time - self._since
            self.used[self._phase] = Usage(spent, max(before.peak_bytes, peak))
        self._phase, self._since = name, time


@dataclass(frozen=True, kw_only=True, eq=False)
class _MeteredDecoder:
    decoder: Decoder
    meter: Meter

    def decode(self, latents: Tensor, caches: Sequence[Any]) -> tuple[Tensor, Sequence[Any]]:
        with self.meter.phase("decoding"):
            return self.decoder.decode(latents, caches)


@dataclass(frozen=True, kw_only=True, eq=False)
class _MeteredScorer:
    scorer: Scorer
    meter: Meter

    def score(self, views: Sequence[View]) -> Sequence[Scores]:
        with self.meter.phase("scoring"):
            return self.scorer.score(views)

    def score_whole(self, views: Sequence[View]) -> Sequence[float]:
        with self.meter.phase("final pick"):
            return self.scorer.score_whole(views)


class Rehearsed(NamedTuple):
    """A trial that was measured.

    frames: of the chosen video.
    seconds: of the search alone, and what is done with its video is in `used`.
    """

    label: str
    frames: int
    passes: float
    seconds: float
    used: dict[str, Usage]

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds


def main(argv: Sequence[str]) -> None:
    """Makes the trials of a command line, and prints what each of them took."""
    if not {"--preset", "--model"} & {word.partition("=")[0] for word in argv}:
        argv = ["--preset", "longlive-rehearsal", *argv]
    try:
        command = parse(argv)
        experiment = with_prompts(command.experiment)
        if (budget := command.execution.memory_budget) is not None:
            planned = plan(experiment, budget)
            print("\n".join(planned.lines))
            experiment = replace(experiment, placement=planned.placement)
    except ValueError as error:
        raise SystemExit(f"rehearsal: {error}") from error
    torch.set_num_threads(command.execution.threads)
    with torch.no_grad():
        loading, rehearsed = rehearse(experiment)
    expected = expected_bytes(experiment)
    console = Console(width=110)
    console.print(f"loading: {loading.seconds:.1f} s, at most {loading.peak_bytes / GB:.2f} GB on the device")
    for one in rehearsed:
        console.print(
            f"{one.label}: {one.frames} frames, {one.seconds:.1f} s of search, {one.frames_per_second:.2f} frames a "
            f"second, {one.passes:.0f} passes",
            soft_wrap=True,
        )
        console.print(_table(one, expected))
    if (out := command.execution.out) is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "rehearsal.json").write_text(json.dumps(_plain(experiment, loading, rehearsed, expected), indent=1))


def rehearse(experiment: Experiment) -> tuple[Usage, list[Rehearsed]]:
    """Returns what loading took, and each trial of an experiment whose prompts are texts, after a first chunk."""
    meter = Meter()
    with meter.phase("loading"):
        stream = world_of(experiment).make_stream(experiment, experiment.prompts[0])
    warm_up(stream)
    return meter.used["loading"], [_rehearsed(experiment, trial) for trial in experiment.trials]


def expected_bytes(experiment: Experiment) -> dict[str, float]:
    """Returns the bytes that the plan tells of each phase."""
    workload = workload_of(experiment)
    assert workload is not None, "the model is none of the published ones"
    return {phase.name: phase.nbytes for phase in sizes_of(experiment, workload).phases(experiment.placement)}


def _rehearsed(experiment: Experiment, trial: Trial) -> Rehearsed:
    meter, world = Meter(), world_of(experiment)
    stream = _metered(world.make_stream(experiment, trial.prompt), meter)
    began = now()
    with meter.phase("denoising"):
        output = trial.policy(stream, seed=trial.seed)
    seconds = now() - began
    with meter.phase("final video"):
        pieces = [to_pixels(piece) for piece in world.decode(experiment, output.best)]
    with meter.phase("judging"):
        _judge(experiment, output.best, pieces)
    frames = sum(map(len, pieces))
    return Rehearsed(policy_label(trial.policy), frames, output.cost.passes, seconds, meter.used)


def _judge(experiment: Experiment, state: StreamState, pieces: Sequence[Any]) -> None:
    import numpy as np

    clip = Clip(state.prompt_of(0).text, np.concatenate(pieces), state.model.fps, is_start=True)
    world_of(experiment).measure(experiment, clip)


def _metered(stream: Stream, meter: Meter) -> Stream:
    decoder = _MeteredDecoder(decoder=stream.model.decoder, meter=meter)
    scorer = _MeteredScorer(scorer=stream.scorer, meter=meter)
    return replace(stream, scorer=scorer, model=replace(stream.model, decoder=decoder))


def _table(one: Rehearsed, expected: dict[str, float]) -> Table:
    table = Table("phase", "seconds", "most GB on the device", "planned, with a reserve")
    for name, used in one.used.items():
        planned = f"{expected[name] / GB:.2f}" if name in expected else ""
        table.add_row(name, f"{used.seconds:.2f}", f"{used.peak_bytes / GB:.2f}", planned)
    return table


def _plain(
    experiment: Experiment, loading: Usage, rehearsed: Sequence[Rehearsed], expected: dict[str, float]
) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu"
    trials = [
        {**one._asdict(), "frames_per_second": one.frames_per_second, "used": _dicts(one.used)} for one in rehearsed
    ]
    return {
        "device": device,
        "torch": torch.__version__,
        "experiment": experiment.describe(),
        "placement": vars(experiment.placement),
        "loading": loading._asdict(),
        "planned_bytes": expected,
        "trials": trials,
    }


def _dicts(used: dict[str, Usage]) -> dict[str, dict[str, float]]:
    return {name: one._asdict() for name, one in used.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
