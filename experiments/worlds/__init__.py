"""Worlds: what makes an experiment's videos, and what measures them. No torch here.

A world is a module with the functions of `World`. What runs, stores, sums up and reports experiments knows no other
names of it than these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from experiments.registry import nearest
from searchkit.backbones.presets import MODELS
from searchkit.schedule import SEPARATOR, cues

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.config import Experiment
    from searchkit.rewards import Scorer
    from searchkit.state import StreamState
    from searchkit.stream import Stream
    from searchkit.video import Pixels

ROOT = Path(__file__).parents[2]
SHAPES = "shapes"  # the model that the repository ships
TRUTH = "truth"  # the measure that says most, where a world has one


class Clip(NamedTuple):
    """A run of a finished video with one prompt.

    pixels: `[F, H, W, 3]`.
    is_start: whether the video starts with it.
    """

    prompt: str
    pixels: Pixels
    fps: int
    is_start: bool


class Measured(NamedTuple):
    """What a world says of a clip, by name; always the same names.

    measures: what videos are compared by; higher is better.
    facts: what else is stored of them.
    """

    measures: Mapping[str, float]
    facts: Mapping[str, float]


class World(Protocol):
    """What an experiment needs of a world.

    Attributes:
        MANY_AT_ONCE: whether a machine has room for the models of several processes.
    """

    MANY_AT_ONCE: bool

    def check(self, experiment: Experiment) -> None:
        """Looks at an experiment's options before anything is loaded.

        Raises:
            ValueError: an option is wrong, or is for other worlds; it is named.
        """

    def passes_a_chunk(self, experiment: Experiment) -> int:
        """Returns the denoising passes that the model wants for a chunk."""

    def prompts(self, experiment: Experiment, texts: Iterable[str]) -> tuple[str, ...]:
        """Returns an experiment's prompts, in the spelling that its model sees.

        Args:
            texts: the experiment's own prompts, none of them the path of a file.

        Raises:
            ValueError: the model cannot be asked for this.
        """

    def make_stream(self, experiment: Experiment, prompt: str, *, scorer: Scorer | None = None) -> Stream:
        """Returns a prompt's stream under an experiment's settings; models are loaded once.

        Args:
            scorer: what scores it; None for that of `make_scorer`, which otherwise is not loaded.

        Raises:
            ValueError: what it is made of is missing or damaged.
        """

    def make_scorer(self, experiment: Experiment) -> Scorer:
        """Returns what scores an experiment's streams, loaded once, without what makes them; errors likewise."""

    def wants_gpu(self, experiment: Experiment) -> bool:
        """Returns whether its models run on a GPU where there is one."""

    def decode(self, experiment: Experiment, state: StreamState) -> Iterator[Tensor]:
        """Yields the pixel frames `[F, 3, H, W]` in [0, 1] of every chunk of a finished video, oldest first.

        Chunks that were given come before those that were made.
        """

    def measure(self, experiment: Experiment, clip: Clip) -> Measured:
        """Measures a clip."""

    def window_truth(self, state: StreamState) -> float | None:
        """Returns the truth of what a candidate's window shows, or None where nobody knows it."""

    def sources(self, experiment: Experiment) -> tuple[Path, ...]:
        """Returns the folders and files with the code that results depend on, but for policies."""

    def weights(self, experiment: Experiment) -> Mapping[str, str]:
        """Returns names of the files that results depend on besides the model's, other ones for other contents.

        Raises:
            ValueError: some are not there; they are named.
        """


def world_of(experiment: Experiment) -> World:
    """Returns the world that an experiment's model lives in.

    Raises:
        ValueError: there is no such model; the nearest one is named.
    """
    from experiments.worlds import shapes, wan

    if experiment.model == SHAPES:
        return shapes
    if experiment.model in MODELS:
        return wan
    raise ValueError(f"model {experiment.model!r} is unknown{nearest(experiment.model, [SHAPES, *MODELS])}")


def spelled(prompt: str, num_chunks: int | None, *, spell: Callable[[str], str], shares: bool = False) -> str:
    """Returns a prompt with each of its texts spelled anew, and the chunk at which each further text starts.

    Args:
        shares: see `searchkit.schedule.cues`.

    Raises:
        ValueError: the texts do not fit a video of so many chunks.
    """
    first, *others = [(cue.chunk, spell(cue.text)) for cue in cues(prompt, num_chunks, shares=shares)]
    return SEPARATOR.join([first[1], *(f"@{chunk} {text}" for chunk, text in others)])


def headline_first(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names of measures in their order, but truth before the others."""
    return tuple(sorted(names, key=lambda name: name != TRUTH))
