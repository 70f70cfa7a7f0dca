"""The costs of a search tell the truth: they are what is counted at the network, the decoder and the scorer."""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies import BeamSearch, BestOfN, BestOfNPerChunk, FrontLoading, Greedy, PreviewPruning, StreamT1
from searchkit.backbones.sampler import Sampler
from searchkit.backbones.wan import Prefix
from searchkit.codecs import Decoder
from searchkit.cost import Cost, total
from searchkit.memory import Block, MemoryConfig
from searchkit.model import VideoModel
from searchkit.rewards import Scorer, View
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Child, Policy, Record, Request, Route, Scores
from searchkit.wrappers import Watched

MakeModel = Callable[..., VideoModel]
COUNTED = (
    "denoise_passes", "clean_passes", "denoise_calls", "clean_calls",
    "prefixes", "latent_frames_decoded", "frames_scored",
)  # fmt: skip
POLICIES = [
    Greedy(),
    BestOfN(num_candidates=3),
    BestOfNPerChunk(num_candidates=3),
    BeamSearch(),
    StreamT1(),
    PreviewPruning(beam_width=2, children=3, preview_passes=3),
    FrontLoading(num_candidates=3, first_passes=6, later_passes=2),
]
by_name = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)


@dataclass
class _Meter:
    """What really runs, under the names of the costs; `levels` has the counts after each level."""

    counts: Counter[str] = field(default_factory=Counter)
    levels: list[Counter[str]] = field(default_factory=list)
    branches: int = 0
    peaks: list[tuple[int, int]] = field(default_factory=list)

    def install(self, model: VideoModel) -> None:
        """Counts the network's rows and calls, those at t = 0 apart, and the assemblies of prefixes."""
        network, engine = model.engine.network, model.engine
        kind = ""

        def embed(_: nn.Module, arguments: tuple[Tensor]) -> None:
            nonlocal kind
            kind = "denoise" if bool(arguments[0].all()) else "clean"
            assert kind == "denoise" or not arguments[0].any(), "clean and noisy rows are mixed"

        def run(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            self.counts[f"{kind}_passes"] += len(arguments[0])
            self.counts[f"{kind}_calls"] += 1

        network.condition_embedder.timesteps_proj.register_forward_pre_hook(embed)
        network.blocks[0].register_forward_pre_hook(run)
        assemble = engine.assemble

        def assembled(*arguments: Any, **options: Any) -> Prefix:
            self.counts["prefixes"] += 1
            return assemble(*arguments, **options)

        engine.assemble = assembled  # type: ignore[method-assign]

    def weigh(self, model: VideoModel) -> None:
        """Notes the bytes of all living blocks and prefixes before and after every call of the engine."""
        engine = model.engine
        flow, clean = engine.flow, engine.clean

        def weighed_flow(*arguments: Any, **options: Any) -> Tensor:
            self.peaks.append(_living_bytes())
            return flow(*arguments, **options)

        def weighed_clean(*arguments: Any, **options: Any) -> list[Any]:
            self.peaks.append(_living_bytes())
            made = clean(*arguments, **options)
            block_bytes, prefix_bytes = _living_bytes()
            self.peaks.append((block_bytes + sum(part.nbytes for row in made for part in row), prefix_bytes))
            return made

        engine.flow, engine.clean = weighed_flow, weighed_clean  # type: ignore[method-assign]

    def watch(self, stream: Stream) -> Watched[StreamState]:
        return Watched(stream, on_level=self._made)

    def _made(self, _: Sequence[Child[StreamState]]) -> None:
        self.levels.append(self.counts.copy())


def _living_bytes() -> tuple[int, int]:
    """Returns the bytes of the blocks and of the prefixes that are alive, found by the garbage collector."""
    bytes_of = {Block: 0, Prefix: 0}
    for one in gc.get_objects():  # without a name for the list, which would keep what it lists
        if type(one) in bytes_of:
            bytes_of[type(one)] += one.nbytes
    return bytes_of[Block], bytes_of[Prefix]


@dataclass(frozen=True)
class _CountingDecoder:
    inner: Decoder
    counts: Counter[str]

    def decode(self, latents: Tensor, caches: Sequence[Any]) -> tuple[Tensor, Sequence[Any]]:
        self.counts["latent_frames_decoded"] += latents.shape[0] * latents.shape[1]
        return self.inner.decode(latents, caches)


@dataclass(frozen=True)
class _CountingScorer:
    """Counts what `RewardScorer` shows: the newest chunk to one reward and the window to the other."""

    inner: Scorer
    counts: Counter[str]

    def score(self, views: Sequence[View]) -> Sequence[Scores]:
        self.counts["frames_scored"] += sum(len(torch.cat([view.newest, *view.window])) for view in views)
        return self.inner.score(views)

    def score_whole(self, views: Sequence[View]) -> Sequence[float]:
        self.counts["frames_scored"] += sum(len(torch.cat(view.window)) for view in views)
        return self.inner.score_whole(views)


MakeMetered = Callable[..., tuple[Stream, _Meter]]


@pytest.fixture
def make_metered(make_model: MakeModel, scorer: Scorer) -> MakeMetered:
    """Makes a stream of a model of its own in Stream-T1's sizes, and the meter of what runs in it."""

    def make(*, max_batch: int = 16, prefix_budget: int | None = None, **options: Any) -> tuple[Stream, _Meter]:
        meter = _Meter()
        model = make_model(memory=MemoryConfig(), sampler=Sampler(), max_batch=max_batch)
        meter.install(model)
        model = replace(model, decoder=_CountingDecoder(model.decoder, meter.counts))
        if prefix_budget is not None:
            model = replace(model, prefix_budget=prefix_budget)
        counted = _CountingScorer(scorer, meter.counts)
        return Stream(model=model, scorer=counted, prompt="a prompt", **options), meter

    return make


@pytest.fixture
def new_objects_only() -> Iterator[None]:
    """Makes the garbage collector list only what a test makes, so that it is fast and sees no other test's."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _counted(cost: Cost) -> dict[str, float]:
    return {name: getattr(cost, name) for name in COUNTED}


def _exactly(counts: Counter[str], share: int = 1) -> Any:
    """Equals costs with these counts, but for what floats lose when shares are added up."""
    return pytest.approx({name: counts[name] / share for name in COUNTED}, rel=1e-12, abs=1e-9)


def _by_chunk(records: Sequence[Record]) -> list[list[Record]]:
    return [[record for record in records if record.chunk == chunk] for chunk in range(records[-1].chunk + 1)]


@by_name
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"horizon": 5, "long_window": 3},  # so that the final pick is paid for
        {"decoding": "cold", "horizon": 5, "long_window": 3},
        {"max_batch": 3},
        {"prefix_budget": 0},
    ],
    ids=["default", "short window", "cold", "small batches", "turns"],
)
def test_costs_are_what_is_counted(make_metered: MakeMetered, policy: Policy, options: dict[str, Any]):
    stream, meter = make_metered(**options)
    began = time.perf_counter()
    output = policy(meter.watch(stream), seed=0)
    assert 0.0 < output.cost.seconds <= time.perf_counter() - began
    assert _counted(output.cost) == _exactly(meter.counts)
    levels = [after - before for before, after in pairwise([Counter(), *meter.levels])]
    for records, counts in zip(_by_chunk(output.records), levels, strict=True):
        assert _counted(total(record.cost for record in records)) == _exactly(counts)
        if all(record.pruned_after is None for record in records):
            assert all(_counted(record.cost) == _exactly(counts, len(records)) for record in records)


@by_name
def test_final_pick_is_the_rest_of_the_costs(make_metered: MakeMetered, policy: Policy):
    stream, meter = make_metered(horizon=4, long_window=2)
    output = policy(meter.watch(stream), seed=0)
    tried = total(record.cost for record in output.records)
    assert _counted(output.cost.since(tried)) == _exactly(meter.counts - meter.levels[-1])
    last = sum(record.kept and record.chunk == 3 for record in output.records)
    decoded = output.cost.latent_frames_decoded - tried.latent_frames_decoded
    assert decoded == pytest.approx(0 if last == 1 else last * 4 * 3)


def test_candidate_that_is_given_up_pays_for_its_passes_and_its_preview(make_metered: MakeMetered):
    stream, _ = make_metered(horizon=3)
    output = PreviewPruning(beam_width=2, children=3, preview_passes=3)(stream, seed=0)
    for records in _by_chunk(output.records):
        pruned = [record for record in records if record.pruned_after is not None]
        assert len(pruned) == 3 == len(records) - len(pruned)
        for record in records:
            cost, is_pruned = record.cost, record in pruned
            assert cost.denoise_passes == pytest.approx(3 if is_pruned else 4)
            assert cost.latent_frames_decoded == pytest.approx(3 if is_pruned else 6)
            assert cost.clean_passes == pytest.approx((0 if record.chunk == 0 else 2) / 6)
            assert cost.prefixes == pytest.approx((1 if record.chunk == 0 else 2) / 6)
        assert len({(record.cost.frames_scored, record.pruned_after) for record in records}) == 2


def test_stream_t1_of_seven_chunks_costs_what_its_sizes_say(make_metered: MakeMetered):
    """Two beams of two children, chunks of 3 latent frames, 4 passes, a window of 12 and a sink of 3."""
    stream, meter = make_metered(horizon=7)
    branches: set[tuple[StreamState, Route]] = set()

    class Noting:
        root, horizon, actions, score_whole = stream.root, stream.horizon, stream.actions, stream.score_whole

        def expand(self, requests: Sequence[Request[StreamState]]) -> Sequence[Child[StreamState]]:
            branches.update(
                (state, Route.DISCARD if state.leaving is None else action.route) for state, action in requests
            )
            return stream.expand(requests)

    output = StreamT1(beam_width=2, children=2)(Noting(), seed=0)
    assert len(output.records) == 28
    assert meter.counts["denoise_passes"] == 112
    assert meter.counts["clean_passes"] <= 12
    assert meter.counts["latent_frames_decoded"] == 84
    assert meter.counts["prefixes"] == len(branches)
    assert _counted(output.cost) == _exactly(meter.counts)


def test_calls_are_as_few_as_the_batches_allow(make_metered: MakeMetered):
    for max_batch, calls in ((16, 1), (4, 1), (3, 2), (1, 4)):
        stream, meter = make_metered(horizon=1, max_batch=max_batch)
        BestOfN(num_candidates=4)(stream, seed=0)
        assert meter.counts["denoise_calls"] == 4 * calls, max_batch


@by_name
@pytest.mark.parametrize("prefix_budget", [2**28, 36864, 24576, 0])
def test_peak_is_the_most_bytes_that_were_alive(
    make_metered: MakeMetered, new_objects_only: None, policy: Policy, prefix_budget: int
):
    stream, meter = make_metered(prefix_budget=prefix_budget)
    meter.weigh(stream.model)
    cost = policy(stream, seed=0).cost
    assert cost.peak_bytes == max(map(sum, meter.peaks))
    assert cost.peak_block_bytes == max(block_bytes for block_bytes, _ in meter.peaks)
    assert cost.peak_prefix_bytes == max(prefix_bytes for _, prefix_bytes in meter.peaks)


@pytest.mark.parametrize("prefix_budget", [36864, 24576, 0])
def test_prefixes_keep_to_their_budget(make_metered: MakeMetered, new_objects_only: None, prefix_budget: int):
    """But for a single one, which may be larger."""
    stream, meter = make_metered(prefix_budget=prefix_budget)
    meter.weigh(stream.model)
    BestOfN(num_candidates=4)(stream, seed=0)
    largest = 3 * 6144  # three chunks, with keys and values
    assert max(prefix_bytes for _, prefix_bytes in meter.peaks) <= max(prefix_budget, largest)


@pytest.mark.parametrize("policy", [BeamSearch(), StreamT1()])
def test_turns_hold_less_than_a_level_at_once(make_metered: MakeMetered, policy: Policy):
    at_once, in_turns = (
        policy(make_metered(prefix_budget=prefix_budget)[0], seed=0).cost for prefix_budget in (2**28, 0)
    )
    assert in_turns.peak_prefix_bytes == at_once.peak_prefix_bytes // 2
    assert in_turns.passes == at_once.passes and in_turns.prefixes > at_once.prefixes
