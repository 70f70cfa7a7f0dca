"""The figures of the model card: what the shipped weights do on prompts that training never saw."""

from collections.abc import Iterator, Sequence

import numpy as np

from envs.shapes.model import load_codec, load_model, load_rewards
from envs.shapes.oracles import Measures, measure
from envs.shapes.world import Caption, Scene, all_captions, is_held_out, render
from experiments.train_shapes.codec import measure as decibels
from experiments.train_shapes.log import log
from experiments.train_shapes.rewards import Reward, held_out_accuracy
from policies import BestOfN, Greedy
from searchkit.rewards import View
from searchkit.stream import Stream
from searchkit.types import Policy, Scores

CHUNKS_5S, CHUNKS_30S = 7, 40


class TruthScorer:
    """Scores whole videos by truth itself: an upper bound that no real search has."""

    def score(self, views: Sequence[View]) -> list[Scores]:
        return [Scores(0.0, 0.0) for _ in views]

    def score_whole(self, views: Sequence[View]) -> list[float]:
        return [_measure(view).truth for view in views]


def _measure(view: View) -> Measures:
    video = np.concatenate([frames.permute(0, 2, 3, 1).numpy() for frames in view.frames])
    return measure(video, Caption.parse(view.prompt))


def unseen(num: int, *, seed: int = 5) -> list[tuple[Caption, int]]:
    """Returns `num` held-out captions, each with a trial seed of its own."""
    rng = np.random.default_rng(seed)
    captions = [caption for caption in all_captions() if is_held_out(caption)]
    return [(captions[rng.integers(len(captions))], trial) for trial in range(num)]


def generated(pairs: Sequence[tuple[Caption, int]], *, policy: Policy, chunks: int) -> Iterator[Measures]:
    """Yields the measures of the policy's video for each caption and seed, with truth as the search's reward."""
    model, scorer = load_model(), TruthScorer()
    for caption, seed in pairs:
        # A window of no chunk but the last makes the search score its whole videos by truth, not by the window.
        stream = Stream(model=model, scorer=scorer, prompt=str(caption), horizon=chunks, long_window=1)
        video = policy(stream, seed=seed).best.video
        yield measure(video.permute(0, 2, 3, 1).numpy(), caption)


def rendered(pairs: Sequence[tuple[Caption, int]]) -> list[Measures]:
    """Returns the measures of real renderings of the captions, 81 frames each."""
    scenes = [Scene.sample(caption, np.random.default_rng(seed)) for caption, seed in pairs]
    return [measure(render(scene, range(81)), scene.caption) for scene in scenes]


def print_card(*, num_pairs: int) -> None:
    """Prints how renderings, greedy generation and the best of 16 measure, and how good codec and rewards are."""
    pairs = unseen(num_pairs)
    real = rendered(pairs)
    _report("real renderings, 5 s", real, relative_to=1.0)
    reference = float(np.mean([measures.truth for measures in real]))
    for name, policy, chunks, some in (
        ("greedy, 5 s", Greedy(), CHUNKS_5S, pairs),
        ("greedy, 30 s", Greedy(), CHUNKS_30S, pairs[: num_pairs // 4]),
        ("best of 16 by truth, 5 s", BestOfN(num_candidates=16), CHUNKS_5S, pairs),
    ):
        _report(name, list(generated(some, policy=policy, chunks=chunks)), relative_to=reference)
    codec = load_codec()
    log(f"codec: {decibels(codec):.2f} dB on held-out clips")
    image, video = load_rewards()
    rewards: tuple[tuple[str, Reward], ...] = (("image reward", image), ("video reward", video))
    for name, reward in rewards:
        right = held_out_accuracy(reward, codec)
        log(f"{name} prefers the better of two: " + ", ".join(f"{kind} {share:.3f}" for kind, share in right.items()))


def _report(name: str, results: Sequence[Measures], *, relative_to: float) -> None:
    means = ", ".join(
        f"{field} {np.mean([getattr(result, field) for result in results]):.3f}" for field in Measures._fields
    )
    truth = np.mean([result.truth for result in results])
    log(f"{name} ({len(results)} videos): truth {truth:.3f}, relative {truth / relative_to:.3f}; {means}")
