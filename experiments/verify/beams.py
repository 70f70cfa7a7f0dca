"""Replays a recorded beam search of Stream-T1's release: the preset, with the recording's sizes and scorers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.presets import stream_t1_released
from experiments.verify.recording import Pair, Recording, load_engine, memory_config
from policies import StreamT1
from searchkit.backbones.sampler import Sampler
from searchkit.fusion import RewardRouting
from searchkit.memory import num_frames
from searchkit.types import Child, Record, Route, Scores
from searchkit.wrappers import Watched

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.model import VideoModel
    from searchkit.rewards import View
    from searchkit.state import StreamState
    from searchkit.stream import Stream


class StandInScorer:
    """The two simple scores that were recorded, so that no reward model is needed (`tests/golden/README.md`)."""

    def score(self, views: Sequence[View]) -> list[Scores]:
        return [Scores(_short(view.newest), _long(view)) for view in views]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        return [_long(view) for view in views]


def replay_beams(recording: Recording) -> Iterator[Pair]:
    """Yields every recorded candidate, selection and result with what this code makes of it."""
    facts = recording.facts
    policy = released_policy(recording)
    stream = released_stream(recording)
    children: list[Child[StreamState]] = []  # all of them stay alive, as these runs are tiny
    output = policy(Watched(stream, on_level=children.extend), seed=facts["seed"])
    for index, (event, child) in enumerate(zip(facts["events"], children, strict=True)):
        yield from _candidate(event, child, policy.routing)
        yield Pair("noise of every candidate", recording.tensors[f"noise.{index}"], child.state.noise, is_exact=True)
    yield Pair("number of candidates", len(facts["events"]), len(output.records))
    for event, record in zip(facts["events"], output.records, strict=True):
        yield Pair("fused score", event["score"], record.fused)
    for chunk, kept in enumerate(facts["kept"]):
        beams = _kept(output.records, chunk)
        yield Pair("kept beams, best first", [beam["seeds"] for beam in kept], [_seeds(beam) for beam in beams])
        for recorded, beam in zip(kept, beams, strict=True):
            yield Pair("fused score of kept beams", recorded["score"], beam.fused)
    yield from _results(recording, stream, output.records, children, output.best)


def released_policy(recording: Recording) -> StreamT1:
    """Returns the preset's policy with the sizes and thresholds of the recording."""
    facts = recording.facts
    [policy] = stream_t1_released().policies
    assert isinstance(policy, StreamT1)
    thresholds = {name: facts[name] for name in ("short_threshold", "long_threshold")}
    return replace(
        policy,
        beam_width=facts["beams_kept"],
        children=facts["children_per_beam"],
        noise_correlation=facts["noise_correlation"],
        fusion=replace(policy.fusion, short_cap=facts["short_weight_cap"]),
        routing=replace(policy.routing, **thresholds),
    )


def released_stream(recording: Recording) -> Stream:
    """Returns the recorded stream, whose prompt is the one that was recorded whatever its text."""
    from searchkit.stream import Stream

    facts = recording.facts
    return Stream(
        model=_model(recording),
        scorer=StandInScorer(),
        prompt="",
        horizon=facts["num_chunks"],
        long_window=facts["long_window_chunks"],
        decoding=stream_t1_released().decoding,
    )


def _model(recording: Recording) -> VideoModel:
    from diffusers import AutoencoderKLWan

    from searchkit.codecs import convert
    from searchkit.codecs.wan import WanDecoder
    from searchkit.model import VideoModel

    _, channels, height, width = recording.tensors["noise.0"].shape
    vae = AutoencoderKLWan(base_dim=4, num_res_blocks=1)
    convert.load(vae, recording.under("vae."))
    return VideoModel(
        engine=load_engine(recording),
        decoder=WanDecoder(vae),
        encode_text=lambda _: recording.tensors["prompt_embeds"],
        # The recorded timesteps are warped already.
        sampler=Sampler(timesteps=tuple(recording.tensors["timesteps"].tolist()), shift=1.0),
        memory=memory_config(recording),
        latent_shape=(channels, height, width),
        fps=16,
        checksum="recorded",
    )


def _candidate(event: dict[str, Any], child: Child[StreamState], routing: RewardRouting) -> Iterator[Pair]:
    state = child.state
    sinks = state.memory_after.sinks
    own = state.chunk - 1
    yield Pair("seed of every candidate", event["seed"], state.actions[-1].seed)
    yield Pair("short score", event["short_score"], child.scores.short)
    yield Pair("long score", event["long_score"], child.scores.long)
    route = routing(state.scores, own)  # the one that its newest chunk will take when it leaves
    gates = (route == Route.EMA_SINK, route == Route.APPEND_SINK) if own else (None, None)
    yield Pair("gates", (event["ema"], event["append"]), gates)
    yield Pair("sink frames", event["sink"], num_frames(sinks))
    first = state.model.memory.sink_frames
    yield Pair("appended sinks", event["appended"], [s.start_frame for s in sinks if s.start_frame >= first])


def _kept(records: Sequence[Record], chunk: int) -> list[Record]:
    """Returns the records of the beams that went on from a chunk, in the order in which they did."""
    kept = {record.lineage: record for record in records if record.chunk == chunk and record.kept}
    later = [record.lineage[:-1] for record in records if record.chunk == chunk + 1]
    order = dict.fromkeys(later) or sorted(kept, key=lambda lineage: -kept[lineage].fused)
    return [kept[lineage] for lineage in order]


def _seeds(record: Record) -> list[int]:
    return [action.seed for action in record.lineage]


def _results(
    recording: Recording,
    stream: Stream,
    records: Sequence[Record],
    children: Sequence[Child[StreamState]],
    best: StreamState,
) -> Iterator[Pair]:
    import torch

    facts = recording.facts
    states = {child.state.actions: child.state for child in children}
    survivors = [states[record.lineage] for record in _kept(records, facts["num_chunks"] - 1)]
    for index, (state, score) in enumerate(zip(survivors, stream.score_whole(survivors), strict=True)):
        yield Pair("final latents", recording.tensors[f"final_latents.{index}"], torch.cat(state.latents))
        yield Pair("final score", facts["final_scores"][index], score.score)
    yield Pair("final pick", facts["final_pick"], survivors.index(best))


def _short(frames: Tensor) -> float:
    """Returns the score of a chunk's pixel frames `[F, 3, H, W]` in [0, 1]."""
    values = (frames * 255).byte().double() / 255
    flat = values.flatten(1)
    return float((10 * flat.mean(1) + 5 * flat.std(1, correction=0)).mean())


def _long(view: View) -> float:
    """Returns the score of a window's pixel frames."""
    import torch

    video = torch.cat(view.window).double()
    return float(3 * video.mean() - 20 * (video[1:] - video[:-1]).abs().mean() + video.std())
