"""What is on the GPU in each phase of a search, told from sizes. No torch here, and nothing is loaded.

What stays is exact but for rounding. What a call takes for a moment was counted at 832x480 by following every tensor of
a call without computing it; what libraries take besides is in the reserve.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from experiments.config import Experiment
from experiments.dry_run import num_given, sketch_of
from searchkit.backbones.presets import PIXELS_PER_LATENT
from searchkit.metrics import JUDGES
from searchkit.placement import Placement, is_same
from searchkit.plan import Pass, Workload
from searchkit.rewards.registry import REWARDS
from searchkit.rewards.terms import Known, Term, parse
from searchkit.sketch import LevelSize
from searchkit.wrappers import Budgeted

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PREFIX_BUDGET = 2**28  # of `searchkit.model.VideoModel`
TEXT_ENCODER = 11.4e9  # bytes of 5.68 billion parameters in bfloat16
RESERVE = 1e9  # bytes of CUDA itself, of its libraries' workspaces, and of what lies unused between tensors
LONGEST_STRETCH = 40  # of `searchkit.stream`
NUM_DRAWS = 8  # searches by random scores, of which the one counts that takes most

# Bytes that a reward or a judge takes in a call: for 8 frames of HPSv3, 4 windows of VideoReward, 32 frames of others.
CALLS = {"hpsv3": 1.3e9, "videoreward": 2.7e9, "videoscore2": 3e9}  # VideoScore2's is an estimate
OTHER_CALLS = 1e9


class Coder(NamedTuple):
    """Sizes of a decoder: its parameters, and for each pixel of the latents the numbers that it keeps and takes.

    cache: of a stream's cache. call: of a call, for each stream, besides the caches before and after it.
    """

    parameters: float
    cache: int
    call: int


VAE = Coder(126.9e6, 151_328, 182_000)  # a cache is 1.76 GiB at 832x480, and a call takes 2.3 GB
TINY = Coder(9.84e6, 5_376, 43_400)
ENCODING = 245_000  # numbers that the VAE's encoder keeps and takes for each pixel of the latents


class Part(NamedTuple):
    """Something on the GPU, and its bytes."""

    name: str
    nbytes: float


class Phase(NamedTuple):
    """A phase of a search, and what is on the GPU then, when it is most."""

    name: str
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> float:
        return sum(part.nbytes for part in self.parts)

    @property
    def largest(self) -> Part:
        return max(self.parts, key=lambda part: part.nbytes)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What an experiment's phases are told from.

    Attributes:
        experiment: with prompts as texts.
        levels: of all its policies and prompts, each with the number of its prompt's texts.
    """

    experiment: Experiment
    workload: Workload
    levels: frozenset[tuple[int, LevelSize]]

    def phases(self, placement: Placement) -> list[Phase]:
        """Returns the phases in their order, each as the level has it that takes most.

        Rewards and judges of the user's own are not known, and are left out.
        """
        if self.experiment.deterministic:
            placement = replace(placement, max_batch=1)
        most: dict[str, Phase] = {}
        for phase in self._all(placement):
            if phase.name not in most or phase.nbytes > most[phase.name].nbytes:
                most[phase.name] = phase._replace(parts=tuple(part for part in phase.parts if part.nbytes))
        return list(most.values())

    def _all(self, placement: Placement) -> Iterator[Phase]:
        if not self.experiment.published.is_random:
            encoder = Part("the text encoder", 0.0 if placement.encodes_on_cpu else TEXT_ENCODER)
            yield Phase("text", (encoder, Part("the reserve", RESERVE)))
        if given := num_given(self.experiment.published.given, self._chunk):
            yield from self._of_given(placement, given)
        for num_texts, level in self.levels:
            yield from self._of_level(placement, num_texts, level)

    def _of_given(self, placement: Placement, num_chunks: int) -> Iterator[Phase]:
        """Yields what it takes to encode given frames, before rewards come, and to decode them once these are there."""
        reserve, coders, pixels = Part("the reserve", RESERVE), list(self._coders), num_chunks * self._chunk_pixels
        seen = Part("the given frames", pixels / BYTES["float32"] * self._itemsize)
        encoding = Part("a call of the encoder", self._per_latent(ENCODING))
        yield Phase("given", (self._network, *coders, reserve, seen, encoding))
        frames = min(num_chunks * self._chunk, self.experiment.memory.max_attended_frames)
        nbytes = self.workload.key_value_bytes(frames, itemsize=self._itemsize)
        blocks = Part("keys and values", nbytes * (not placement.blocks_wait))
        decoding = Part("a call of the decoder", self._call(self._coder) + 2 * self._cache(self._coder))
        decoded = Part("the given frames", 3 * pixels)  # joined, and then brought to [0, 1]
        yield Phase("given", (self._network, *self._models(placement), reserve, blocks, decoded, decoding))

    def _of_level(self, placement: Placement, num_texts: int, level: LevelSize) -> Iterator[Phase]:
        text = Part("the prompts' keys and values", num_texts * self.workload.text_bytes(itemsize=self._itemsize))
        blocks, own = (
            self._blocks(placement, level),
            self.workload.key_value_bytes(self._chunk, itemsize=self._itemsize),
        )
        prefixes, stay = self._prefixes(placement, level)
        network, models = self._network, [*self._models(placement), text, Part("the reserve", RESERVE)]
        held = [*models, blocks, *self._decoded(placement, level)]
        kept = Part("prefixes", prefixes if stay else 0.0)

        # A clean pass of each parent, or a denoising pass of each candidate.
        one = self.workload.pass_bytes(Pass(self._chunk, self._chunk + max(level.prefixes)), itemsize=self._itemsize)
        parents = level.num_parents if stay else 1
        rows = min(placement.max_batch, level.num_candidates if stay else max(level.siblings))
        clean = min(placement.max_batch, parents) * (one + placement.blocks_wait * own)
        averaging = 2 * own * bool(level.averaged_frames) * (not placement.blocks_wait)  # of keys, then of values
        passes = Part("a call of the network", max(rows * one, clean, averaging))
        yield Phase("denoising", (network, *held, Part("prefixes", prefixes), passes))

        rows = min(placement.max_batch, level.num_candidates)
        yield Phase("decoding", (network, *held, kept, self._decoding(placement, rows, level.num_candidates)))

        rewards, call = _seated(self.rewards, placement.rewards_wait)
        stacked = 2 * rows * self._window * self._chunk_pixels  # joined, and then cut by whoever sees some frames only
        leaving = Part(network.name, 0.0 if placement.network_leaves else network.nbytes)
        yield Phase("scoring", (leaving, *held, kept, rewards, Part("a call of a reward", stacked + call)))
        if self._is_long:
            stacked = 3 * min(LONGEST_STRETCH, self.experiment.num_chunks or LONGEST_STRETCH) * self._chunk_pixels
            pick = Part("a call of a reward", stacked + call)
            yield Phase("final pick", (leaving, *held, kept, rewards, pick))

        best = [network, *models, self._best_blocks(placement, level)]
        yield Phase("final video", (*best, self._decoding_whole()))
        if self._judges:
            judges, call = _seated(self._judges, placement.judges_wait)
            yield Phase("judging", (*best, judges, Part("a call of a judge", call)))

    @property
    def _itemsize(self) -> int:
        return BYTES[self.experiment.published.dtype]

    @property
    def _chunk(self) -> int:
        return self.experiment.memory.chunk_frames

    @property
    def _pixels(self) -> int:
        """Pixels of a frame, for which there is a latent pixel 64 times fewer."""
        return self.experiment.published.height * self.experiment.published.width

    @property
    def _chunk_pixels(self) -> int:
        """Bytes of a chunk's pixel frames, which are float32."""
        return 4 * self._chunk * 3 * self._pixels * BYTES["float32"]

    @property
    def _window(self) -> int:
        """Most chunks that the long score sees."""
        return min(self.experiment.long_window, self.experiment.num_chunks or self.experiment.long_window)

    @property
    def _is_long(self) -> bool:
        """Whether whole videos are decoded once more to be scored."""
        return self.experiment.num_chunks is None or self.experiment.num_chunks > self.experiment.long_window

    @property
    def _network(self) -> Part:
        fp8 = self.experiment.published.fp8
        return Part("the network", self.workload.weight_bytes(itemsize=self._itemsize, fp8=fp8))

    @property
    def _coder(self) -> Coder:
        """What decodes candidates."""
        return TINY if self.experiment.published.decode == "tiny" else VAE

    @property
    def rewards(self) -> list[Scoring]:
        """The known rewards that run on the GPU."""
        rewards = self.experiment.published.rewards
        terms = [term for text in (rewards.image, rewards.video) for term in parse("reward", text, REWARDS)]
        return self._scoring(terms, REWARDS, device=rewards.device, dtype=rewards.dtype)

    @property
    def _judges(self) -> list[Scoring]:
        known = {**JUDGES, **REWARDS}
        terms = [term for text in self.experiment.published.judges for term in parse("judge", text, known)]
        return self._scoring(terms, known, device=self.experiment.published.device, dtype=None)

    def _scoring(
        self, terms: Iterable[Term], known: Mapping[str, Known], *, device: str | None, dtype: str | None
    ) -> list[Scoring]:
        """Returns the known models that run on the GPU, each once."""
        gpu, found = self.experiment.published.device or "cuda", []
        for term in dict.fromkeys(term._replace(weight=1.0) for term in terms if not term.is_own):
            options = dict(term.options)
            if is_same(str(options.get("device", device or "cuda")), gpu):
                nbytes = known[term.name].weight_bytes(str(options["dtype"]) if "dtype" in options else dtype)
                found.append(Scoring(term.name, nbytes, CALLS.get(term.name, OTHER_CALLS)))
        return found

    @property
    def _coders(self) -> Iterator[Part]:
        yield Part("the VAE", VAE.parameters * self._itemsize)
        if self._coder is TINY:
            yield Part("the tiny VAE", TINY.parameters * self._itemsize)

    def _models(self, placement: Placement) -> Iterator[Part]:
        """Yields the models that are there all the time, but for the network."""
        yield from self._coders
        if not placement.rewards_wait:
            yield from (Part(f"the reward {one.name}", one.nbytes) for one in self.rewards)
        if not placement.judges_wait:
            yield from (Part(f"the judge {one.name}", one.nbytes) for one in self._judges)

    def _blocks(self, placement: Placement, level: LevelSize) -> Part:
        """Returns a level's keys and values, of which averages are float32."""
        plain = self.workload.key_value_bytes(level.block_frames - level.averaged_frames, itemsize=self._itemsize)
        averages = self.workload.key_value_bytes(level.averaged_frames, itemsize=BYTES["float32"])
        return Part("keys and values", (plain + averages) * (not placement.blocks_wait))

    def _best_blocks(self, placement: Placement, level: LevelSize) -> Part:
        """Returns those of the one state that is left when a search is over."""
        whole = self._blocks(placement, level)
        frames = min(level.block_frames, self.experiment.memory.max_attended_frames)
        return whole._replace(nbytes=whole.nbytes * frames / max(1, level.block_frames))

    def _prefixes(self, placement: Placement, level: LevelSize) -> tuple[float, bool]:
        """Returns the bytes of the prefixes that are held at once, and whether they stay while candidates are scored.

        Of parents that take turns, one has its prefix at a time, or some that fit together.
        """
        budget = 0 if placement.takes_turns else PREFIX_BUDGET
        together, largest = (
            self.workload.key_value_bytes(frames, itemsize=self._itemsize)
            for frames in (sum(level.prefixes), max(level.prefixes))
        )
        if level.is_at_once or together <= max(budget, largest):
            return together, True
        return max(largest, budget), False

    def _decoded(self, placement: Placement, level: LevelSize) -> Iterator[Part]:
        """Yields what states and candidates hold of their videos; decoded cold, states hold nothing."""
        if self.experiment.decoding == "cold":
            yield Part("decoded frames", level.num_candidates * (self._window + 1) * self._chunk_pixels)
            return
        states = level.num_parents + level.num_candidates
        yield Part("the decoder's caches", states * self._cache(self._coder) * (not placement.caches_wait))
        chunks = level.num_parents * self._window + level.num_candidates
        yield Part("decoded frames", chunks * self._chunk_pixels)

    def _cache(self, coder: Coder) -> float:
        return self._per_latent(coder.cache)

    def _call(self, coder: Coder) -> float:
        return self._per_latent(coder.call)

    def _per_latent(self, count: int) -> float:
        """Returns the bytes of so many numbers for each pixel of the latents."""
        return count * self._pixels / PIXELS_PER_LATENT**2 * self._itemsize

    def _decoding(self, placement: Placement, rows: int, num_candidates: int) -> Part:
        """Returns what a call of the decoder takes for some candidates of a level."""
        nbytes = rows * self._call(self._coder)
        if self.experiment.decoding == "cold":  # caches of all candidates until the last is decoded, and whole windows
            waiting = rows if placement.caches_wait else num_candidates
            nbytes += waiting * self._cache(self._coder) + rows * 4 * self._window * self._chunk_pixels
        elif placement.caches_wait:
            nbytes += 2 * rows * self._cache(self._coder)  # one that came, and one that goes
        return Part("a call of the decoder", nbytes)

    def _decoding_whole(self) -> Part:
        """Returns what it takes to decode the chosen video by the full VAE."""
        return Part("a call of the full decoder", self._call(VAE) + 2 * self._cache(VAE))


class Scoring(NamedTuple):
    """A reward or judge on the GPU: the bytes of its weights, and of a call."""

    name: str
    nbytes: float
    call: float


def _seated(models: list[Scoring], is_one_at_a_time: bool) -> tuple[Part, float]:
    """Returns what comes to the GPU to score, and the bytes of a call."""
    if not models:
        return Part("nothing", 0.0), 0.0
    call = max(one.call for one in models)
    if not is_one_at_a_time:  # they are there already
        return Part("nothing", 0.0), call
    largest = max(models, key=lambda one: one.nbytes + one.call)
    return Part(f"{largest.name}, one of {len(models)} in turn", largest.nbytes), largest.call


def sizes_of(experiment: Experiment, workload: Workload) -> Sizes:
    """Returns the sizes of an experiment whose prompts are texts."""
    found = set()
    for policy in experiment.policies:
        for prompt in dict.fromkeys(experiment.prompts):
            for seed in range(NUM_DRAWS):  # routes go by scores, and with them how long memory becomes
                sketch = sketch_of(experiment, prompt)
                policy(Budgeted(sketch, passes=experiment.max_passes), seed=seed)
                found |= {(1 + len(sketch.switches), level) for level in sketch.levels}
    return Sizes(experiment=experiment, workload=workload, levels=frozenset(found))
