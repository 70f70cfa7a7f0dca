"""What an experiment is and what it is expected to cost: `python -m experiments.run --dry-run`. Nothing is loaded."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.config import Execution, Experiment
from experiments.registry import flat, plain, policy_label, policy_name
from experiments.worlds import world_of
from experiments.worlds.options import RANDOM
from searchkit.backbones.presets import APACHE, MODELS, REDUCED, Licence
from searchkit.metrics import JUDGES
from searchkit.plan import Pass, Workload, seconds
from searchkit.rewards.registry import REWARDS
from searchkit.rewards.terms import parse
from searchkit.schedule import cues
from searchkit.sketch import Sketch
from searchkit.types import Policy
from searchkit.wrappers import Budgeted

ENDLESS_FRAMES = 120  # latent ones, 30 s: so much is counted of a stream that only seconds end
NAME_WIDTH = 38


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Passes that a video, or several, are expected to take.

    Attributes:
        denoising, clean: how often each kind of pass is run.
    """

    denoising: Counter[Pass]
    clean: Counter[Pass]

    def __add__(self, other: Expected) -> Expected:
        return Expected(denoising=self.denoising + other.denoising, clean=self.clean + other.clean)


def print_dry_run(experiment: Experiment, *, preset: str, out: Path, execution: Execution, console: Console) -> None:
    """Prints the resolved configuration, the trials, and what they are expected to cost.

    Args:
        experiment: with prompts as texts.
        preset: the name of the one that it started from.
        out: where results would go.

    Raises:
        ValueError: seconds are asked for that cannot be told, or a policy asks for what no stream can do.
    """
    workload = workload_of(experiment)
    if execution.gpu is not None and workload is None:
        raise ValueError(f"gpu is for published models, got {execution.gpu} for the model {experiment.model}")
    if execution.gpu is not None and experiment.published.dtype == "float32":
        raise ValueError(f"gpu knows the speed of bfloat16 and float16, got {execution.gpu} for --dtype float32")
    show = functools.partial(console.print, soft_wrap=True, highlight=False, markup=False)
    for line in _configuration(experiment, execution, preset=preset, out=out):
        show(line)
    prompts, seeds = dict.fromkeys(experiment.prompts), dict.fromkeys(experiment.seeds)
    costs = {
        policy_label(policy): [expected(experiment, policy, prompt) for prompt in prompts]
        for policy in experiment.policies
    }
    counts = f"{len(costs)} policies x {len(prompts)} prompts x {len(seeds)} seeds"
    show(f"\n{len(experiment.trials)} trials: {counts}\n")
    console.print(_table({label: videos[0] for label, videos in costs.items()}, workload, execution))
    whole = [cost for videos in costs.values() for cost in videos]
    for line in (*_notes(experiment), *_total(whole, len(seeds), workload, execution), *_licences(experiment)):
        show(line)


def expected(experiment: Experiment, policy: Policy, prompt: str) -> Expected:
    """Returns the passes that a policy is expected to take for a prompt's video.

    The policy searches a sketch of the stream, whose scores are drawn at random.

    Raises:
        ValueError: the policy asks for what no stream can do.
    """
    sketch = sketch_of(experiment, prompt)
    policy(Budgeted(sketch, passes=experiment.max_passes), seed=experiment.seeds[0])
    return Expected(denoising=sketch.denoising, clean=sketch.clean)


def sketch_of(experiment: Experiment, prompt: str) -> Sketch:
    """Returns the sketch of a prompt's stream."""
    model = MODELS.get(experiment.model)
    options: dict[str, Any] = {}
    if model is not None:
        given = num_given(experiment.published.given, experiment.memory.chunk_frames)
        options = {"first_passes": model.first_passes, "route": model.route, "given": given}
    horizon = experiment.num_chunks
    if horizon is None and experiment.max_passes is None:
        horizon = _endless_chunks(experiment)
    return Sketch(
        memory=experiment.memory,
        num_passes=world_of(experiment).passes_a_chunk(experiment),
        switches=tuple(cue.chunk for cue in cues(prompt, experiment.num_chunks)[1:]),
        horizon=horizon,
        **options,
    )


@functools.cache
def num_given(path: str | None, chunk_frames: int) -> int:
    """Returns how many chunks an experiment's videos go on from; errors are those of `count_given`."""
    if path is None:
        return 0
    from searchkit.given import count_given  # help must not wait for PyAV

    return count_given(path, chunk_frames=chunk_frames)


def workload_of(experiment: Experiment) -> Workload | None:
    """Returns the network's work, or None where the model is none of the published ones."""
    if experiment.model not in MODELS:
        return None
    published = experiment.published
    size = REDUCED if published.reduced else MODELS[experiment.model].size
    return Workload(size=size, height=published.height, width=published.width)


def _endless_chunks(experiment: Experiment) -> int:
    return ENDLESS_FRAMES // experiment.memory.chunk_frames


def _configuration(experiment: Experiment, execution: Execution, *, preset: str, out: Path) -> Iterator[str]:
    """Yields every option's name and value, those of each policy below its name."""
    yield _row("preset", preset)
    yield _row("out", out)
    for name, value in plain(flat(execution)).items():
        if name not in ("out", "dry-run"):
            yield _row(name, value)
    yield _row("model", experiment.model)
    for name, value in plain(experiment.settings()).items():
        if name != "model":
            for index, item in enumerate(value if isinstance(value, list) and value else [value]):
                yield _row("" if index else name, item)
    for policy in experiment.policies:
        yield _row("policy", policy_name(policy))
        for name, value in plain(flat(policy)).items():
            yield _row(f"  {name}", value)


def _row(name: str, value: Any) -> str:
    text = "none" if value is None or value == [] else value
    return f"{name:{NAME_WIDTH}}{text}"


def _table(costs: dict[str, Expected], workload: Workload | None, execution: Execution) -> Table:
    """Returns a table of one video a policy, with operations and seconds where they are known."""
    table = Table(title="Expected of one video", title_justify="left")
    table.add_column("policy")
    heads = ["denoising passes", "clean passes"]
    if workload is not None:
        heads += ["PFLOP of denoising", "of clean passes"]
    if execution.gpu is not None:
        heads += ["seconds of denoising", "of clean passes"]
    for head in heads:
        table.add_column(head, justify="right")
    for label, cost in costs.items():
        kinds = (cost.denoising, cost.clean)
        cells = [f"{kind.total()}" for kind in kinds]
        if workload is not None:
            tflops = [_tflop(kind, workload) for kind in kinds]
            cells += [f"{tflop / 1000:.3g}" for tflop in tflops]
            if execution.gpu is not None:
                cells += [f"{_seconds(tflop, execution):.1f}" for tflop in tflops]
        table.add_row(label, *cells)
    return table


def _notes(experiment: Experiment) -> Iterator[str]:
    """Yields what the figures stand on."""
    yield (
        "Passes are those of a search by scores drawn at random: where a policy spends by its scores, and where routes "
        "make memory longer, a real search differs."
    )
    if len({tuple(cue.chunk for cue in cues(prompt, experiment.num_chunks)) for prompt in experiment.prompts}) > 1:
        yield "The table is of the first prompt: others change their text at other chunks, which costs clean passes."
    if given := num_given(experiment.published.given, experiment.memory.chunk_frames):
        yield f"{experiment.published.given} makes {given} chunks before the first one; to take them in is not counted."
    if experiment.num_chunks is None and experiment.max_passes is None:
        yield f"The stream has no end but max_seconds: {_endless_chunks(experiment)} chunks of it are counted."
    elif experiment.max_seconds is not None:
        yield f"max_seconds {experiment.max_seconds:g} is not counted in: it may end a search before."


def _total(videos: list[Expected], num_seeds: int, workload: Workload | None, execution: Execution) -> Iterator[str]:
    """Yields what all trials are expected to take.

    Args:
        videos: of every policy and prompt.
    """
    whole = functools.reduce(Expected.__add__, videos)
    passes = num_seeds * (whole.denoising + whole.clean).total()
    if workload is None or execution.gpu is None:
        yield f"All trials: {passes:,} passes."
        return
    tflop = num_seeds * (_tflop(whole.denoising, workload) + _tflop(whole.clean, workload))
    yield (
        f"All trials: {passes:,} passes, {_seconds(tflop, execution):,.0f} s in the network on one {execution.gpu} at "
        f"{execution.utilisation:.0%} of its peak; decoding and rewards come on top."
    )


def _tflop(passes: Counter[Pass], workload: Workload) -> float:
    return sum(count * workload.tflop(one) for one, count in passes.items())


def _seconds(tflop: float, execution: Execution) -> float:
    assert execution.gpu is not None
    return seconds(tflop, gpu=execution.gpu, utilisation=execution.utilisation)


def _licences(experiment: Experiment) -> Iterator[str]:
    """Yields under what the weights may be used that the experiment loads."""
    if experiment.model not in MODELS:
        return
    model, published = MODELS[experiment.model], experiment.published
    if published.is_random:
        yield "Weights of the network and the VAE are random: nothing is fetched."
    else:
        yield f"Weights of {model.name} ({model.repository}): {_words(model.licence)}"
        yield f"Weights of Wan2.1's VAE and text encoder: {_words(APACHE)}"
    if published.tiny_vae is not None:
        yield "Weights of the tiny VAE (madebyollin/taehv): MIT"
    known = {**JUDGES, **REWARDS}
    texts = (published.rewards.image, published.rewards.video, *published.judges)
    terms = [term for text in texts for term in parse("reward", text, known)]
    for name in dict.fromkeys(term.name for term in terms if ("weights", RANDOM) not in term.options):
        if name in known:
            yield f"Weights of {name}: {known[name].card}"


def _words(licence: Licence) -> str:
    return licence.name if licence.is_commercial else f"{licence.name}, not for commercial use"
