"""The figures of the model card: what the shipped weights do on prompts that training never saw."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from envs.shapes.codec import Codec
from envs.shapes.model import SAMPLER, load_codec, load_model, load_rewards
from envs.shapes.oracles import Measures, measure
from envs.shapes.world import MOTIONS, SHAPES, Caption, Scene, all_captions, is_held_out, render
from experiments.train_shapes.codec import measure as decibels
from experiments.train_shapes.data import to_tensor
from experiments.train_shapes.log import log
from experiments.train_shapes.rewards import Reward, held_out_accuracy
from policies import BestOfN, Greedy
from searchkit.backbones.sampler import Sampler
from searchkit.rewards import View
from searchkit.stream import Stream
from searchkit.types import Policy, Scores

CHUNKS_5S, CHUNKS_30S = 7, 40
SAMPLERS = {  # beside the shipped one
    "shift 3": replace(SAMPLER, shift=3.0),
    "shift 6": replace(SAMPLER, shift=6.0),
    "re-noised": replace(SAMPLER, kind="renoise"),
    "12 passes": replace(SAMPLER, timesteps=tuple(1000.0 * (1 - k / 12) for k in range(12))),
}


class TruthScorer:
    """Scores whole videos by truth itself: an upper bound that no real search has."""

    def score(self, views: Sequence[View]) -> list[Scores]:
        return [Scores(0.0, 0.0) for _ in views]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        return [_measure(view).truth for view in views]


def _measure(view: View) -> Measures:
    video = np.concatenate([frames.permute(0, 2, 3, 1).numpy() for frames in view.window])
    return measure(video, Caption.parse(view.prompt))


def unseen(num: int, *, seed: int = 5) -> list[tuple[Caption, int]]:
    """Returns `num` held-out captions, each with a trial seed of its own."""
    rng = np.random.default_rng(seed)
    captions = [caption for caption in all_captions() if is_held_out(caption)]
    return [(captions[rng.integers(len(captions))], trial) for trial in range(num)]


def generated(
    pairs: Sequence[tuple[Caption, int]], *, policy: Policy, chunks: int = CHUNKS_5S, sampler: Sampler = SAMPLER
) -> Iterator[Measures]:
    """Yields the measures of the policy's video for each caption and seed, with truth as the search's reward."""
    model, scorer = load_model(sampler=sampler), TruthScorer()
    for caption, seed in pairs:
        # A window of no chunk but the last makes the search score its whole videos by truth, not by the window.
        stream = Stream(model=model, scorer=scorer, prompt=str(caption), horizon=chunks, long_window=1)
        video = policy(stream, seed=seed).best.video
        yield measure(video.permute(0, 2, 3, 1).numpy(), caption)


def rendered(pairs: Sequence[tuple[Caption, int]], *, codec: Codec | None = None) -> list[Measures]:
    """Returns the measures of real renderings of the captions, 81 frames each, as they are or through the codec."""
    results = []
    for caption, seed in pairs:
        video = render(Scene.sample(caption, np.random.default_rng(seed)), range(81))
        if codec is not None:
            decoded, _ = codec.decode(codec.encode(to_tensor(video)), [None])
            video = decoded[0].permute(0, 2, 3, 1).numpy()
        results.append(measure(video, caption))
    return results


def print_card(*, num_pairs: int) -> None:
    """Prints every figure of the model card.

    Args:
        num_pairs: unseen captions with seeds of their own; a quarter of them at 30 s.
    """
    pairs, codec = unseen(num_pairs), load_codec()
    real = rendered(pairs)
    reference = float(np.mean([measures.truth for measures in real]))
    _report("real renderings, 5 s", real, relative_to=1.0)
    _report("real renderings through the codec, 5 s", rendered(pairs, codec=codec), relative_to=reference)
    greedy = list(generated(pairs, policy=Greedy()))
    _report("greedy, 5 s", greedy, relative_to=reference)
    print_failures(pairs, greedy)
    long = generated(pairs[: num_pairs // 4], policy=Greedy(), chunks=CHUNKS_30S)
    _report("greedy, 30 s", list(long), relative_to=reference)
    for name, sampler in SAMPLERS.items():
        _report(f"greedy, 5 s, {name}", list(generated(pairs, policy=Greedy(), sampler=sampler)), relative_to=reference)
    best = generated(pairs, policy=BestOfN(num_candidates=16))
    _report("best of 16 by truth, 5 s", list(best), relative_to=reference)
    log(f"codec: {decibels(codec):.2f} dB on held-out clips")
    print_preferences(codec)


def print_failures(pairs: Sequence[tuple[Caption, int]], results: Sequence[Measures]) -> None:
    """Prints what goes wrong, and with which captions."""
    captions = [caption for caption, _ in pairs]
    lost = sum(result.found < 0.5 for result in results)
    # With the colour right, which `background_right` tells, a measure under a half is a pillar that is not as asked.
    wrong = [result.background < 0.5 for result in results]
    for asked in (True, False):
        of = [is_wrong for caption, is_wrong in zip(captions, wrong, strict=True) if caption.pillar == asked]
        log(f"  pillar {'asked' if asked else 'not asked'}: wrong in {sum(of)} of {len(of)} videos")
    log(f"  object lost in {lost} of {len(results)} videos")
    for shape in SHAPES:
        truth = [result.truth for caption, result in zip(captions, results, strict=True) if caption.shape == shape]
        log(f"  {shape}: truth {np.mean(truth):.3f} ({len(truth)} videos)")
    for motion in MOTIONS:
        right = [result.motion for caption, result in zip(captions, results, strict=True) if caption.motion == motion]
        log(f"  {motion}: motion {np.mean(right):.3f} ({len(right)} videos)")


def print_preferences(codec: Codec) -> None:
    """Prints how often each reward prefers the better of two held-out clips, on two sets of pairs."""
    image, video = load_rewards()
    rewards: tuple[tuple[str, Reward], ...] = (("image reward", image), ("video reward", video))
    for name, reward in rewards:
        for seed in (6, 11):
            right = held_out_accuracy(reward, codec, seed=seed)
            shares = ", ".join(f"{kind} {share:.3f}" for kind, share in right.items())
            log(f"{name} prefers the better of two (pairs of seed {seed}): {shares}")


def _report(name: str, results: Sequence[Measures], *, relative_to: float) -> None:
    means = ", ".join(
        f"{field} {np.mean([getattr(result, field) for result in results]):.3f}" for field in Measures._fields
    )
    truth = np.mean([result.truth for result in results])
    log(f"{name} ({len(results)} videos): truth {truth:.3f}, relative {truth / relative_to:.3f}; {means}")
