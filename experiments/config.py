"""What an experiment is, typed: these dataclasses are the command line's options. No torch here, so help is quick."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from experiments.registry import flat, plain, policy_label, policy_name
from experiments.worlds import SHAPES, world_of
from experiments.worlds.options import Published
from searchkit.memory import MemoryConfig
from searchkit.placement import Placement
from searchkit.plan import Gpu
from searchkit.types import Decoding, Policy

MAX_LATENT_FRAMES = 1024  # where the rotary table ends
LogLevel = Literal["debug", "info", "warning", "error"]
PUBLISHED = "published."  # before the names of what the command line knows without


class Trial(NamedTuple):
    """One search: of one prompt, by one policy, with one seed."""

    policy: Policy
    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What determines an experiment's results: every policy searches every prompt with every seed.

    Attributes:
        model: what makes the videos: shapes, which comes with this repository, or a published model: longlive,
            self-forcing, causal-forcing, causal-forcing-framewise, causal-forcing-2step, causal-forcing-1step or
            reward-forcing.
        prompts: texts of the videos, or the path of a file with one prompt a line. "..., then @14 ..." changes
            what is asked from chunk 14 on, and, with the model shapes, "..., then ..." in equal shares.
        num_prompts: take so many prompts that training never showed, in place of prompts of your own.
        prompts_from: which of those num_prompts takes; "tuning" ones are for choosing settings and are never reported,
            "returning" ones leave for another scene and come back, and so do "tuning-returning" ones.
        num_chunks: length of each video, in chunks (7 are 5 s, 40 are 30 s); None streams until max_passes or
            max_seconds ends it, and wants --memory.positions window.
        seeds: one trial a seed, for every prompt and policy.
        long_window: chunks that the long score sees, and that Stream-T1's gate looks back over unless told otherwise.
        decoding: what scores see; "streamed" decodes every chunk once, after those before it; "cold" decodes the chunk
            alone for the short score, and the window for the long one, as Stream-T1's release does.
        max_passes: network passes after which a search ends before its next chunk; None for no limit.
        max_seconds: seconds after which a search ends before its next chunk; None for no limit.
        deterministic: run candidates one at a time, so that results do not depend on how they are grouped.
        measure_candidates: look at every candidate, too: how far those of a level lie apart and, where the world knows
            it, the truth of each; policies are neither told nor charged.
        memory: sizes of the key/value memory, in latent frames (3 a chunk, 4 pixel frames each).
        published: options of published models.
        policies: what to compare.
        placement: where the parts of a published model's search are between their uses, as --memory-budget decides;
            results are the same within rounding, so that it tells no experiment from another.
    """

    model: str = SHAPES
    prompts: tuple[str, ...] = ()
    num_prompts: int | None = None
    prompts_from: Literal["report", "tuning", "returning", "tuning-returning"] = "report"
    num_chunks: int | None = 7
    seeds: tuple[int, ...] = (0,)
    long_window: int = 10
    decoding: Decoding = "streamed"
    max_passes: float | None = None
    max_seconds: float | None = None
    deterministic: bool = False
    measure_candidates: bool = False
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    published: Annotated[Published, tyro.conf.arg(name="")] = field(default_factory=Published)
    policies: Annotated[tuple[Policy, ...], tyro.conf.Suppress] = ()
    placement: Annotated[Placement, tyro.conf.Suppress] = Placement()

    def __post_init__(self) -> None:
        if self.long_window < 1:
            raise ValueError(f"long_window must be at least 1 chunk, got {self.long_window}")
        if self.num_chunks is None:
            self._check_endless()
        else:
            self._check_length(self.num_chunks)
        for name in ("max_passes", "max_seconds"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be above 0, got {limit}")
        world_of(self).check(self)
        self._check_previews()
        self._check_prompts()
        for name in ("seeds", "policies"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        if any(not 0 <= seed < 2**63 for seed in self.seeds):
            raise ValueError(f"seeds must be from 0 to 2**63 - 1, got {' '.join(map(str, self.seeds))}")
        if self.measure_candidates and self.decoding == "cold":
            raise ValueError("measure_candidates needs decoding streamed: candidates decoded cold keep no frames")

    def _check_prompts(self) -> None:
        if self.prompts and self.num_prompts is not None:
            raise ValueError(f"num_prompts takes the place of prompts: give one of the two, got {self.num_prompts} too")
        if not self.prompts and self.num_prompts is None:
            raise ValueError("prompts must not be empty")
        if self.prompts and self.prompts_from != "report":
            raise ValueError(f"prompts_from {self.prompts_from} says which prompts num_prompts takes: give num_prompts")

    def _check_previews(self) -> None:
        most = world_of(self).passes_a_chunk(self)
        for policy in self.policies:
            if (previewed := getattr(policy, "preview_passes", most)) > most:
                raise ValueError(
                    f"preview_passes of {policy_name(policy)} must be at most {most}, the denoising passes that "
                    f"{self.model} takes a chunk, got {previewed}"
                )

    def _check_endless(self) -> None:
        if self.max_passes is None and self.max_seconds is None:
            raise ValueError("num_chunks none streams until max_passes or max_seconds ends it: give one of the two")
        if self.memory.positions != "window":
            raise ValueError(
                f"num_chunks none needs --memory.positions window, which has no end, got {self.memory.positions}"
            )

    def _check_length(self, num_chunks: int) -> None:
        if num_chunks < 1:
            raise ValueError(f"num_chunks must be at least 1 chunk, got {num_chunks}")
        frames = num_chunks * self.memory.chunk_frames
        if frames > MAX_LATENT_FRAMES and self.memory.positions == "stream":
            raise ValueError(
                f"num_chunks must make at most {MAX_LATENT_FRAMES} latent frames, got {num_chunks} chunks of "
                f"{self.memory.chunk_frames}: with --memory.positions window there is no end"
            )

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All searches; those to be compared follow each other, so that an early end leaves whole comparisons.

        Of prompts that are texts, see `with_prompts`.
        """
        assert self.prompts
        return tuple(
            Trial(policy, prompt, seed)
            for prompt in dict.fromkeys(self.prompts)
            for seed in dict.fromkeys(self.seeds)
            for policy in {policy_label(policy): policy for policy in self.policies}.values()
        )

    def settings(self) -> dict[str, Any]:
        """Returns everything but the policies, by the names of the command line; prompts are there as texts alone.

        What is about published models is not there where the model is none.
        """
        others = ("policies", "num-prompts", "prompts-from", "placement")
        settings = {name: value for name, value in flat(self).items() if name.partition(".")[0] not in others}
        if self.model == SHAPES:
            del settings["model"]
            return {name: value for name, value in settings.items() if not name.startswith(PUBLISHED)}
        return {name.removeprefix(PUBLISHED): value for name, value in settings.items()}

    def describe(self) -> dict[str, Any]:
        """Returns what tells this experiment from another, as plain values for JSON."""
        return plain({**self.settings(), "policies": [policy_label(policy) for policy in self.policies]})


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What does not change results beyond rounding: where they go and what they are made with.

    Attributes:
        out: output folder; None for a folder of the experiment's own under runs/.
        wandb: how Weights & Biases logs; None for online when logged in (or as WANDB_MODE says), else offline.
        threads: CPU threads of torch. Models this small gain little from more, and lose much on a busy machine.
        engine: what makes trials; "processes" makes several at once, each in a process with threads of its own;
            "in-process" makes one after the other; "ray" makes as many at once as a cluster has room for; "auto" takes
            processes where the model is shapes and more than 8 trials are to be made.
        workers: processes, or workers of a cluster; None for the machine's cores by threads, or the cluster's GPUs.
        retries: how often a trial is tried again that failed, or whose worker died.
        ray_address: of a running cluster to join, with --engine ray; None for RAY_ADDRESS, or else a cluster of this
            machine alone.
        reward_placement: "own" puts the rewards into Ray workers of their own, on other GPUs than the models.
        reward_workers: those workers; candidates are scored by turns.
        log_level: how much the program tells of what it does.
        clips: keep small moving pictures of every candidate, which the report's tree shows.
        replay: a trial's folder, to make that trial again and say whether it is the same; nothing else is done.
        dry_run: print the resolved configuration, the trials and the passes to expect, and make, load and fetch
            nothing.
        gpu: whose seconds to print of a published model's network, with --dry-run.
        utilisation: the share of its peak that the GPU reaches, for --gpu.
        memory_budget: the GPU's memory, such as 24GB, for published models: prints what is going to stay there, and
            refuses what cannot fit before anything is loaded.
    """

    out: Path | None = None
    wandb: Literal["online", "offline", "disabled"] | None = None
    threads: int = 1
    engine: Literal["auto", "in-process", "processes", "ray"] = "auto"
    workers: int | None = None
    clips: bool = True
    replay: Path | None = None
    retries: int = 2
    ray_address: str | None = None
    reward_placement: Literal["with-model", "own"] = "with-model"
    reward_workers: int = 1
    log_level: LogLevel = "warning"
    dry_run: bool = False
    gpu: Gpu | None = None
    utilisation: float = 0.4
    memory_budget: str | None = None

    def __post_init__(self) -> None:
        if self.gpu is not None and not self.dry_run:
            raise ValueError(f"gpu is for --dry-run, which prints its seconds, got {self.gpu}")
        if not 0.0 < self.utilisation <= 1.0:
            raise ValueError(f"utilisation must be above 0 and at most 1, got {self.utilisation}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.workers is not None and self.engine == "in-process":
            raise ValueError(f"workers are for other engines, got {self.workers} for --engine in-process")
        if self.retries < 0:
            raise ValueError(f"retries must be at least 0, got {self.retries}")
        if self.reward_workers < 1:
            raise ValueError(f"reward_workers must be at least 1, got {self.reward_workers}")
        if self.engine != "ray":
            self._check_without_ray()

    def _check_without_ray(self) -> None:
        if self.ray_address is not None:
            raise ValueError(f"ray_address is for --engine ray, got {self.ray_address} for --engine {self.engine}")
        if self.reward_placement != "with-model":
            raise ValueError(
                f"reward_placement {self.reward_placement} is for --engine ray, got --engine {self.engine}"
            )


def with_prompts(experiment: Experiment) -> Experiment:
    """Returns the experiment with unseen prompts and those of files as texts, in the spelling that the model sees.

    Raises:
        ValueError: a file is missing, unreadable or empty, a prompt is none that the model can be asked for, or there
            are fewer unseen prompts than asked for.
    """
    texts = [text for value in experiment.prompts for text in _texts(value)]
    prompts = world_of(experiment).prompts(experiment, texts)
    return replace(experiment, prompts=prompts, num_prompts=None, prompts_from="report")


def _texts(value: str) -> Iterator[str]:
    """Yields a prompt, or those of a file: a value without blanks, or one that names a file, is a path."""
    if not value.strip():
        raise ValueError("prompts must not hold an empty text")
    path = Path(value)
    if len(value.split()) > 1 and not os.path.isfile(path):  # which takes texts longer than any name, too
        yield value
        return
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ValueError(
            f"prompts file {value!r} cannot be read: {reason} (a prompt has more than one word)"
        ) from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"prompts file {value!r} holds no prompt")
    yield from prompts
