"""Sizes that are told without a model are those of the model, and a sketch's counts those of a stream."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from policies import BeamSearch, BestOfN, FrontLoading, Greedy, PreviewPruning, StreamT1
from searchkit.backbones.load import random_model
from searchkit.backbones.presets import LONGLIVE, REDUCED, WAN_1_3B, WAN_14B
from searchkit.fusion import RewardRouting
from searchkit.memory import MemoryConfig
from searchkit.model import VideoModel
from searchkit.plan import PEAK_TFLOPS, Gpu, Pass, Workload, seconds
from searchkit.sketch import Sketch, random_scores
from searchkit.stream import Stream
from searchkit.types import Action, Policy, Scores

MakeModel = Callable[..., VideoModel]
TFLOP = {3: 16.2, 6: 20.2, 9: 24.3, 12: 28.3, 15: 32.3, 18: 36.4, 21: 40.4, 24: 44.5}  # by frames attended, as measured
SWITCHED = "a prompt, then @2 another, then @4 a third"
ALWAYS = RewardRouting(short_threshold=-9.0)


@pytest.mark.parametrize("size", [WAN_1_3B, WAN_14B, REDUCED])
def test_parameters_are_those_of_the_network(size):
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        network = WanTransformer3DModel(**size.arguments)
    assert Workload(size=size).num_parameters == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("attended", TFLOP)
def test_operations_of_a_pass_are_those_measured_on_the_published_network(attended):
    assert Workload(size=WAN_1_3B).tflop(Pass(3, attended)) == pytest.approx(TFLOP[attended], abs=0.06)


def test_operations_are_those_that_torch_counts():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = random_model(LONGLIVE, size=REDUCED, vae_base_dim=4, height=32, width=48, dtype=torch.float32)
    stream = Stream(model=model, scorer=None, prompt="a prompt")  # type: ignore[arg-type]
    place = model.place(0, stream.root.memory, model.assemble(stream.root.memory), stream.root.prompt)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.denoise([torch.randn(model.chunk_shape)], [1000.0], [place])
    told = Workload(size=REDUCED, height=32, width=48).tflop(Pass(3, 3)) * 1e12
    # Patches, the time's embedding and the head are left out, which are little even here.
    assert told <= counter.get_total_flops() <= 1.1 * told


def test_bytes_of_keys_and_values_are_the_engines():
    model = random_model(LONGLIVE, size=REDUCED, vae_base_dim=4, height=32, width=48)
    workload = Workload(size=REDUCED, height=32, width=48)
    assert workload.key_value_bytes(7, itemsize=2) == model.engine.prefix_bytes(7)
    assert Workload(size=WAN_1_3B).key_value_bytes(1, itemsize=2) == 287_539_200


def test_seconds_are_operations_by_what_the_gpu_reaches():
    assert seconds(989.0, gpu="h100", utilisation=0.5) == pytest.approx(2.0)
    assert set(PEAK_TFLOPS) == set(get_args(Gpu))


POLICIES: dict[str, Policy] = {
    "greedy": Greedy(),
    "best-of-n": BestOfN(num_candidates=3),
    "beam-search": BeamSearch(),
    "front-loading": FrontLoading(num_candidates=5, first_passes=3, later_passes=1),
    "stream-t1": StreamT1(),
    "stream-t1 that averages": StreamT1(routing=replace(ALWAYS, long_threshold=9.0)),
    "stream-t1 that appends": StreamT1(routing=replace(ALWAYS, long_threshold=-9.0)),
}


def _sketch_of(
    stream: Stream, policy: Policy, *, switches: tuple[int, ...] = (), given: int = 0
) -> tuple[Sketch, Any, Any]:
    """Searches a stream, and then its sketch by the scores that the stream gave."""
    output = policy(stream, seed=0)
    seen: dict[tuple[Action, ...], Scores] = {record.lineage: record.scores for record in output.records}
    sketch = Sketch(
        memory=stream.model.memory,
        num_passes=stream.model.sampler.num_passes,
        first_passes=stream.model.first_passes,
        given=given,
        switches=switches,
        horizon=stream.horizon,
        score=seen.__getitem__,
    )
    return sketch, output, policy(sketch, seed=0)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("prompt", ["a prompt", SWITCHED])
@pytest.mark.parametrize("sink", ["keep", "rerun"])
def test_sketch_spends_and_holds_what_the_stream_does(make_model: MakeModel, scorer, policy, prompt, sink):
    memory = MemoryConfig(chunk_frames=2, window_frames=8, sink_frames=2, max_sink_frames=6, sink_on_switch=sink)
    model = replace(make_model(memory=memory), first_passes=3, prefix_budget=0)
    stream = Stream(model=model, scorer=scorer, prompt=prompt, horizon=7)
    sketch, real, drawn = _sketch_of(stream, policy, switches=(2, 4) if prompt == SWITCHED else ())
    assert [record.lineage for record in drawn.records] == [record.lineage for record in real.records]
    assert sketch.denoising.total() == pytest.approx(real.cost.denoise_passes)
    assert sketch.clean.total() == pytest.approx(real.cost.clean_passes)
    assert drawn.cost.passes == pytest.approx(real.cost.passes)
    frame = model.engine.prefix_bytes(1)  # in float32, as averages are
    held = max(level.block_frames for level in sketch.levels) * frame
    # A stream does not count the chunk that leaves at once after it ran again; parents settle averages in turn.
    assert real.cost.peak_block_bytes <= held <= real.cost.peak_block_bytes + 6 * frame
    assert max(max(level.prefixes) for level in sketch.levels) * frame == real.cost.peak_prefix_bytes


@pytest.mark.parametrize("given", [1, 3, 6])
def test_sketch_goes_on_from_given_chunks_as_the_stream_does(make_model: MakeModel, scorer, given):
    memory = MemoryConfig(chunk_frames=2, window_frames=8, sink_frames=2, max_sink_frames=6)
    model = replace(make_model(memory=memory), first_passes=3, prefix_budget=0)
    latents = torch.randn(2 * given, *model.latent_shape)
    stream = Stream(model=model, scorer=scorer, prompt="a prompt, then @2 another", horizon=6, given=latents)
    policy = StreamT1(routing=replace(ALWAYS, long_threshold=-9.0))
    sketch, real, drawn = _sketch_of(stream, policy, switches=(2,), given=given)
    assert [record.lineage for record in drawn.records] == [record.lineage for record in real.records]
    assert drawn.best.leaving == real.best.leaving
    assert drawn.cost.passes == pytest.approx(real.cost.passes)
    assert sketch.clean.total() == pytest.approx(real.cost.clean_passes)
    frame = model.engine.prefix_bytes(1)
    assert max(max(level.prefixes) for level in sketch.levels) * frame == real.cost.peak_prefix_bytes


def test_sketch_opens_up_for_policies_that_prune_while_denoising(make_model: MakeModel, scorer):
    stream = Stream(model=make_model(), scorer=scorer, prompt="a prompt", horizon=5)
    policy = PreviewPruning(beam_width=2, children=3, preview_passes=1)
    real = policy(stream, seed=0).cost
    sketch = Sketch(memory=stream.model.memory, num_passes=2, horizon=5)
    policy(sketch, seed=0)
    assert (sketch.denoising.total(), sketch.clean.total()) == pytest.approx((real.denoise_passes, real.clean_passes))
    assert all(level.is_at_once for level in sketch.levels)


def test_sketch_refuses_what_a_stream_refuses(make_model: MakeModel, scorer):
    policy = PreviewPruning(preview_passes=3)
    stream = Stream(model=make_model(), scorer=scorer, prompt="a prompt")
    with pytest.raises(ValueError, match="passes must be from 0 to 2") as real:
        policy(stream, seed=0)
    with pytest.raises(ValueError, match="passes must be from 0 to 2") as drawn:
        policy(Sketch(memory=stream.model.memory, num_passes=2), seed=0)
    assert str(real.value) == str(drawn.value)


def test_random_scores_are_those_of_the_seeds():
    lineages = [tuple(Action(seed) for seed in seeds) for seeds in ((1, 2), (1, 3), (1, 2))]
    scores = [random_scores(lineage) for lineage in lineages]
    assert scores[0] == scores[2] != scores[1]


@pytest.mark.parametrize("module", ["searchkit.plan", "searchkit.sketch", "experiments.dry_run"])
def test_module_imports_without_torch(module):
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
