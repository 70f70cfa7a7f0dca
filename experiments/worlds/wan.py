"""Published models: prompts of any kind, and nobody who knows the truth. What judges say is what is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.worlds import ROOT, Clip, Measured, spelled
from searchkit.backbones.presets import MODELS
from searchkit.rewards.terms import find_target
from searchkit.schedule import cues

if TYPE_CHECKING:  # torch is not needed to say what is wrong with an option
    from torch import Tensor
    from torch.nn import Module

    from experiments.config import Experiment
    from experiments.worlds.loading import Loaded
    from searchkit.rewards import Scorer
    from searchkit.state import StreamState
    from searchkit.stream import Stream

MANY_AT_ONCE = False


def check(experiment: Experiment) -> None:
    if experiment.num_prompts is not None:
        raise ValueError(
            f"num_prompts takes prompts of the model shapes, got {experiment.num_prompts} for {experiment.model}: give "
            "--prompts of your own"
        )


def passes_a_chunk(experiment: Experiment) -> int:
    return MODELS[experiment.model].sampler.num_passes


def prompts(experiment: Experiment, texts: Iterable[str]) -> tuple[str, ...]:
    """Returns the texts as they are; "..., then @14 ..." changes a prompt, as captions may hold ", then "."""
    return tuple(spelled(text, experiment.num_chunks, spell=str.strip) for text in texts)


def make_stream(experiment: Experiment, prompt: str, *, scorer: Scorer | None = None) -> Stream:
    from experiments.worlds.loading import RoutedStream

    loaded = _loaded(experiment)
    return RoutedStream(
        model=loaded.model,
        scorer=_scorer(experiment, loaded.model.engine.network) if scorer is None else scorer,
        prompt=prompt,
        given=loaded.given,
        horizon=experiment.num_chunks,
        long_window=experiment.long_window,
        decoding=experiment.decoding,
        route=MODELS[experiment.model].route,
    )


def make_scorer(experiment: Experiment) -> Scorer:
    return _scorer(experiment, None)


def wants_gpu(experiment: Experiment) -> bool:
    return not (experiment.published.device or "cuda").startswith("cpu")


def decode(experiment: Experiment, state: StreamState) -> Iterator[Tensor]:
    """Yields the chunks of a finished video from the full VAE, whatever the search saw, those that were given first."""
    return replace(state, model=replace(state.model, decoder=_loaded(experiment).decoder)).decode_all()


def measure(experiment: Experiment, clip: Clip) -> Measured:
    """Returns what the judges say of a clip."""
    import torch

    from experiments.worlds.loading import judges_of

    judges = judges_of(experiment.published, fps=clip.fps, placement=experiment.placement)
    measures: dict[str, float] = {}
    with judges.room():
        for judge in judges.by_name.values():
            video = torch.from_numpy(clip.pixels).permute(0, 3, 1, 2).float() / 255
            measures |= judge(video=video, prompt=clip.prompt, fps=clip.fps)
    return Measured(measures, {})


def window_truth(state: StreamState) -> None:
    return None


def sources(experiment: Experiment) -> tuple[Path, ...]:
    """Returns the library's folder, and the files of rewards and judges of the user's own."""
    files: dict[str, None] = {}
    for name in sorted({term.name for term in experiment.published.terms if term.is_own}):
        find_target("reward", name)
        if file := sys.modules[name.partition(":")[0]].__file__:
            files[file] = None
    return (ROOT / "searchkit", *map(Path, files))


def weights(experiment: Experiment) -> Mapping[str, str]:
    """Returns names of the weights of rewards, judges and the tiny decoder, and of frames that are given."""
    from experiments.worlds.loading import found_weights

    return found_weights(experiment.published)


def _scorer(experiment: Experiment, network: Module | None) -> Scorer:
    from experiments.worlds.loading import scorer_of

    return scorer_of(
        experiment.published,
        deterministic=experiment.deterministic,
        placement=experiment.placement,
        network=network,
    )


def _loaded(experiment: Experiment) -> Loaded:
    from experiments.worlds.loading import load

    texts = tuple(cue.text for prompt in experiment.prompts for cue in cues(prompt, experiment.num_chunks))
    return load(
        experiment.model,
        experiment.published,
        memory=experiment.memory,
        deterministic=experiment.deterministic,
        texts=texts,
        placement=experiment.placement,
    )
