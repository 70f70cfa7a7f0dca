"""What a published model's search keeps on its GPU, told from sizes before anything is loaded: `--memory-budget 24GB`.

Planned is what stays. What a pass, the decoder or a reward takes for a moment comes on top, and batches become smaller
where it does not fit (see `searchkit.batches`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from experiments.config import Experiment
from experiments.dry_run import sketch_of, workload_of
from searchkit.backbones.presets import PIXELS_PER_LATENT
from searchkit.metrics import JUDGES
from searchkit.plan import Workload
from searchkit.rewards.registry import REWARDS
from searchkit.rewards.terms import Term, parse
from searchkit.sketch import LevelSize
from searchkit.wrappers import Budgeted

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PREFIX_BUDGET = 2**28  # of `searchkit.model.VideoModel`
VAE_PARAMETERS = 126.9e6
VAE_CACHE = 151_328  # numbers of a decoder cache for each pixel of the latents, 1.76 GiB at 832x480
TINY_PARAMETERS = 9.84e6
TINY_CACHE = 5_376
TEXT_ENCODER = 11.4e9  # bytes of 5.68 billion parameters in bfloat16
_SIZE = re.compile(r"([\d.]+) GB in (\w+)$")  # the end of a model card's line


class Part(NamedTuple):
    """Something that stays on the GPU, and its bytes."""

    name: str
    nbytes: float


def parse_size(text: str) -> float:
    """Returns the bytes of "24GB" or "22.5GiB".

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GB|GiB)", text)
    if found is None or not float(found[1]):
        raise ValueError(f"memory_budget must be a size such as 24GB or 22.5GiB, got {text!r}")
    return float(found[1]) * (1e9 if found[2] == "GB" else 2**30)


def check_budget(experiment: Experiment, budget: str) -> list[str]:
    """Returns the plan's lines.

    Args:
        experiment: with prompts as texts.
        budget: the GPU's memory.

    Raises:
        ValueError: what has to stay does not fit; the largest part is named.
    """
    room = parse_size(budget)
    workload = workload_of(experiment)
    if workload is None:
        raise ValueError(f"memory_budget is for published models, got {budget} for the model {experiment.model}")
    found = parts(experiment, workload)
    if experiment.published.device == "cpu":
        raise ValueError(f"memory_budget is of a GPU, got {budget} for --device cpu")
    needed, largest = sum(part.nbytes for part in found), max(found, key=lambda part: part.nbytes)
    if needed > room:
        raise ValueError(
            f"memory_budget {budget} cannot hold the {needed / 1e9:.1f} GB that have to stay on the GPU, of which "
            f"the most, {largest.nbytes / 1e9:.1f} GB, are for {largest.name}: "
            "--decode tiny makes caches small, rewards can run elsewhere with --rewards.device, and fewer candidates "
            "or a smaller video take less of everything"
        )
    lines = [f"Stays on the GPU, of {budget}:"]
    lines += [f"  {part.nbytes / 1e9:6.2f} GB  {part.name}" for part in found]
    lines.append(f"  {(room - needed) / 1e9:6.2f} GB  left for what a pass, the decoder and rewards take meanwhile")
    if not experiment.published.is_random:
        lines.append(
            f"  {TEXT_ENCODER / 1e9:6.2f} GB  before, for the text encoder alone, unless its cache has all prompts"
        )
    return lines


def parts(experiment: Experiment, workload: Workload) -> list[Part]:
    """Returns what stays on the GPU while the policy that takes most makes its largest level, and while judges judge.

    Rewards and judges of the user's own are not known, and are left out.
    """
    published, itemsize = experiment.published, BYTES[experiment.published.dtype]
    found = [Part("the network", workload.num_parameters * itemsize), Part("the VAE", VAE_PARAMETERS * itemsize)]
    if published.decode == "tiny":
        found.append(Part("the tiny VAE", TINY_PARAMETERS * itemsize))
    levels = (_held(experiment, workload, num, level) for num, level in _levels(experiment))
    largest = max(levels, key=lambda held: sum(part.nbytes for part in held))
    return [part for part in (*found, *largest, *_scorers(experiment)) if part.nbytes]


def _levels(experiment: Experiment) -> Iterator[tuple[int, LevelSize]]:
    """Yields the levels of all policies and prompts, and the texts of each one's prompt."""
    for policy in experiment.policies:
        for prompt in dict.fromkeys(experiment.prompts):
            sketch = sketch_of(experiment, prompt)
            policy(Budgeted(sketch, passes=experiment.max_passes), seed=experiment.seeds[0])
            yield from ((1 + len(sketch.switches), level) for level in sketch.levels)


def _held(experiment: Experiment, workload: Workload, num_texts: int, level: LevelSize) -> list[Part]:
    """Returns what a search holds while it makes a level; decoded cold, candidates keep neither caches nor frames."""
    published, itemsize = experiment.published, BYTES[experiment.published.dtype]
    pixels = published.height * published.width
    numbers = TINY_CACHE if published.decode == "tiny" else VAE_CACHE
    is_kept = experiment.decoding == "streamed"
    states = level.num_parents + level.num_candidates
    chunks = level.num_parents * experiment.long_window + level.num_candidates
    frame_bytes = 4 * 3 * pixels * BYTES["float32"]  # of the four that a latent frame becomes
    return [
        Part("the prompts' keys and values", num_texts * workload.text_bytes(itemsize=itemsize)),
        Part("the key/value memory", _key_value_bytes(level, workload, itemsize)),
        Part("the decoder's caches", is_kept * states * numbers * pixels / PIXELS_PER_LATENT**2 * itemsize),
        Part("the decoded frames", is_kept * chunks * experiment.memory.chunk_frames * frame_bytes),
    ]


def _key_value_bytes(level: LevelSize, workload: Workload, itemsize: int) -> float:
    """Returns the bytes of a level's blocks, averages being float32, and of the prefixes that it holds at once."""
    plain = workload.key_value_bytes(level.block_frames - level.averaged_frames, itemsize=itemsize)
    averages = workload.key_value_bytes(level.averaged_frames, itemsize=BYTES["float32"])
    together = workload.key_value_bytes(sum(level.prefixes), itemsize=itemsize)
    if level.is_at_once or together <= PREFIX_BUDGET:
        return plain + averages + together
    return plain + averages + workload.key_value_bytes(max(level.prefixes), itemsize=itemsize)


def _scorers(experiment: Experiment) -> Iterator[Part]:
    """Yields the rewards that run on the GPU, each once, and the judges."""
    published = experiment.published
    rewards = published.rewards
    terms = [term for text in (rewards.image, rewards.video) for term in parse("reward", text, REWARDS)]
    for term in dict.fromkeys(term._replace(weight=1.0) for term in terms):
        options = dict(term.options)
        where, dtype = options.get("device", rewards.device), str(options.get("dtype", rewards.dtype))
        if term.name in REWARDS and where != "cpu":
            yield Part(f"the reward {term.name}", _card_bytes(REWARDS[term.name].card, dtype))
    known = {**JUDGES, **REWARDS}
    for text in published.judges:
        for term in parse("judge", text, known):
            if term.name in known and _device_of(term, published.device) != "cpu":
                yield Part(f"the judge {term.name}", _card_bytes(known[term.name].card, None))


def _device_of(term: Term, default: str | None) -> str | None:
    return str(dict(term.options).get("device", default))


def _card_bytes(card: str, dtype: str | None) -> float:
    """Returns the bytes of a model by its card, in a dtype, or in the card's own."""
    size = _SIZE.search(card)
    assert size is not None, card
    return float(size[1]) * 1e9 * (BYTES[dtype or size[2]] / BYTES[size[2]])
