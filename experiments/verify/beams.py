"""Replays a recorded beam search of Stream-T1's release: the preset, with the recording's sizes and scorers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from experiments.presets import stream_t1_released
from experiments.verify.recording import Pair, Recording, load_engine, memory_config
from policies import StreamT1
from searchkit.backbones.sampler import Sampler
from searchkit.fusion import RewardRouting
from searchkit.memory import num_frames
from searchkit.types import Child, Request, Route, Scores, Whole
from searchkit.wrappers import Wrapper

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


@dataclass(kw_only=True)
class _Noting(Wrapper["StreamState"]):
    """Notes all candidates, and the beams that go on from each chunk; they stay alive, as these runs are tiny."""

    children: list[Child[StreamState]] = field(default_factory=list)
    kept: list[Sequence[StreamState]] = field(default_factory=list)

    def expand(self, requests: Sequence[Request[StreamState]]) -> Sequence[Child[StreamState]]:
        beams = list(dict.fromkeys(request.state for request in requests))
        self.kept += [beams] if beams[0].chunk else []
        made = self.problem.expand(requests)
        self.children += made
        return made

    def score_whole(self, states: Sequence[StreamState]) -> Sequence[Whole]:
        self.kept.append(states)
        return self.problem.score_whole(states)


def replay_beams(recording: Recording) -> Iterator[Pair]:
    """Yields every recorded candidate, selection and result with what this code makes of it."""
    facts = recording.facts
    policy = released_policy(recording)
    stream = released_stream(recording)
    watched = _Noting(stream)
    output = policy(watched, seed=facts["seed"])
    yield Pair("number of candidates", len(facts["events"]), len(watched.children))
    for index, (event, child) in enumerate(zip(facts["events"], watched.children, strict=False)):
        yield from _candidate(event, child, policy.routing)
        yield Pair("noise of every candidate", recording.tensors[f"noise.{index}"], child.state.noise, is_exact=True)
    for event, record in zip(facts["events"], output.records, strict=False):
        yield Pair("fused score", event["score"], record.fused)
    fused = {record.lineage: record.fused for record in output.records}
    yield Pair("number of chunks", len(facts["kept"]), len(watched.kept))
    for kept, beams in zip(facts["kept"], watched.kept, strict=False):
        seeds = [[action.seed for action in beam.actions] for beam in beams]
        yield Pair("kept beams, best first", [beam["seeds"] for beam in kept], seeds)
        for recorded, beam in zip(kept, beams, strict=False):
            yield Pair("fused score of kept beams", recorded["score"], fused[beam.actions])
    yield from _results(recording, stream, watched.kept[-1], output.best)


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


def _results(
    recording: Recording, stream: Stream, survivors: Sequence[StreamState], best: StreamState
) -> Iterator[Pair]:
    import torch

    facts = recording.facts
    wholes = stream.score_whole(survivors)
    yield Pair("number of final scores", len(facts["final_scores"]), len(wholes))
    for index, (state, whole) in enumerate(zip(survivors, wholes, strict=True)):
        yield Pair("final latents", recording.tensors.get(f"final_latents.{index}"), torch.cat(state.latents))
        yield Pair("final score", facts["final_scores"][index], whole.score)
    yield Pair("final pick", facts["final_pick"], list(survivors).index(best))


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
