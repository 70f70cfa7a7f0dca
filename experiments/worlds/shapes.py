"""The embedded world: prompts of a small grammar, models that the repository ships, oracles that know the truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.budget import PASSES_A_CHUNK
from experiments.prompts import returning_prompts, unseen_prompts
from experiments.registry import flat
from experiments.worlds import ROOT, TRUTH, Clip, Measured, spelled
from experiments.worlds.options import Published

if TYPE_CHECKING:  # neither numpy nor torch is needed to say what is wrong with an option
    from torch import Tensor

    from envs.shapes.oracles import Measures
    from experiments.config import Experiment
    from searchkit.rewards import Scorer
    from searchkit.state import StreamState
    from searchkit.stream import Stream

MEASURES = ("subject", "appearance", "identity", "background", "motion", "sharpness")  # their mean is truth
MANY_AT_ONCE = True
MIN_LATENT_FRAMES = 3  # the oracles need 9 pixel frames
TURNED = {
    "moving left": "moving right",
    "moving right": "moving left",
    "moving up": "moving down",
    "moving down": "moving up",
}


def check(experiment: Experiment) -> None:
    defaults = flat(Published())
    for name, value in flat(experiment.published).items():
        if value != defaults[name]:
            raise ValueError(f"{name} is for published models, got {value} for the model {experiment.model}")
    chunks, size = experiment.num_chunks, experiment.memory.chunk_frames
    if chunks is not None and chunks * size < MIN_LATENT_FRAMES:
        raise ValueError(
            f"num_chunks must make at least {MIN_LATENT_FRAMES} latent frames, got {chunks} chunks of {size}"
        )


def passes_a_chunk(experiment: Experiment) -> int:
    return PASSES_A_CHUNK


def prompts(experiment: Experiment, texts: Iterable[str]) -> tuple[str, ...]:
    """Returns the texts in the grammar's spelling, or the unseen prompts that an experiment asks for."""
    if experiment.num_prompts is not None:
        tuning = experiment.prompts_from.startswith("tuning")
        if not experiment.prompts_from.endswith("returning"):
            return unseen_prompts(experiment.num_prompts, tuning=tuning)
        texts = returning_prompts(experiment.num_prompts, tuning=tuning)
    return tuple(spelled(text, experiment.num_chunks, spell=_in_grammar, shares=True) for text in texts)


def _in_grammar(text: str) -> str:
    from envs.shapes.world import Caption

    return str(Caption.parse(text))


def make_stream(experiment: Experiment, prompt: str, *, scorer: Scorer | None = None) -> Stream:
    from envs.shapes import model

    return model.make_stream(
        prompt,
        horizon=experiment.num_chunks,
        long_window=experiment.long_window,
        decoding=experiment.decoding,
        memory=experiment.memory,
        deterministic=experiment.deterministic,
        scorer=scorer,
    )


def make_scorer(experiment: Experiment) -> Scorer:
    from envs.shapes import model

    return model.make_scorer(deterministic=experiment.deterministic)


def wants_gpu(experiment: Experiment) -> bool:
    return False


def decode(experiment: Experiment, state: StreamState) -> Iterator[Tensor]:
    return state.decode()


def measure(experiment: Experiment, clip: Clip) -> Measured:
    """Returns what the oracles say of a clip, truth among it."""
    found = _measure(clip)
    named = {name: float(value) for name, value in found._asdict().items()}
    facts = {name: value for name, value in named.items() if name not in MEASURES}
    return Measured({**{name: named[name] for name in MEASURES}, TRUTH: found.truth}, facts)


def window_truth(state: StreamState) -> float:
    """Returns the truth of a candidate's window, which for the first chunks is its whole video."""
    import torch

    from searchkit.video import to_pixels

    pixels = to_pixels(torch.cat(state.frames))
    is_start = len(state.frames) == state.chunk
    return _measure(Clip(state.prompt.text, pixels, state.model.fps, is_start)).truth


def sources(experiment: Experiment) -> tuple[Path, ...]:
    return ROOT / "searchkit", ROOT / "envs/shapes"


def weights(experiment: Experiment) -> Mapping[str, str]:
    return {}  # the model's checksum is of all files


def _measure(clip: Clip) -> Measures:
    """Returns the oracles' measures of a clip.

    The oracles take an object to head as asked at first. In the midst of a video it may have bounced, so there the
    better of both headings counts.
    """
    from envs.shapes.oracles import measure
    from envs.shapes.world import Caption

    caption = Caption.parse(clip.prompt)
    measures = measure(clip.pixels, caption)
    if clip.is_start or caption.motion not in TURNED:
        return measures
    turned = measure(clip.pixels, replace(caption, motion=TURNED[caption.motion]))
    return measures._replace(motion=max(measures.motion, turned.motion))
