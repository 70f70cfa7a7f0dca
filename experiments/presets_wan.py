"""Presets of published models (see docs/models.md for their files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from experiments.config import Experiment
from experiments.worlds.options import RANDOM, Published
from policies import Greedy, StreamT1
from searchkit.backbones.presets import (
    CAUSAL_FORCING,
    CAUSAL_FORCING_1STEP,
    CAUSAL_FORCING_2STEP,
    CAUSAL_FORCING_FRAMEWISE,
    LONGLIVE,
    REWARD_FORCING,
    SELF_FORCING,
    PublishedModel,
)
from searchkit.fusion import RewardRouting
from searchkit.rewards.registry import Rewards

LATENT_FRAMES = 21  # 5 s
LONG_WINDOW = 30  # latent frames that the long score sees in Stream-T1's release
PROMPTS = (
    "A corgi with a red collar trots along a wet beach at sunset, leaving prints in the sand, while small waves "
    "roll in behind it. The camera follows at the height of the dog, and warm light glitters on the water.",
    "An old clockmaker in a leather apron bends over a bench and turns a tiny brass gear with tweezers. Dust floats in "
    "the light of a single lamp, and shelves of ticking clocks fill the dark room behind him. Close-up, still camera.",
    "A yellow tram climbs a steep street of a hillside town after the rain, past tiled houses and hanging laundry. "
    "Its lights are mirrored in the wet rails, and pedestrians with umbrellas step aside. Wide shot, slow pan.",
)


def longlive() -> Experiment:
    """LongLive-1.3B as it was published, without a search: 5 s of each of three prompts."""
    return _plain(LONGLIVE)


def longlive_stream_t1() -> Experiment:
    """Stream-T1 on LongLive as the paper says (arXiv 2605.04461), by HPSv3 and VideoReward."""
    return replace(longlive(), policies=(StreamT1(),))


def longlive_stream_t1_released() -> Experiment:
    """Stream-T1 on LongLive as its release of June 2026 does it, with the release's seed."""
    released = StreamT1(seeds="counted", routing=RewardRouting(window=None))
    return replace(longlive_stream_t1(), decoding="cold", seeds=(42,), policies=(released,))


def longlive_rehearsal() -> Experiment:
    """Stream-T1 on a network, a VAE, rewards and judges of true size with random weights: nothing is fetched."""
    rewards = Rewards(image="hpsv3(weights=random)", video="videoreward(weights=random)")
    judges = tuple(f"{name}(weights=random)" for name in ("subject-consistency", "background-consistency"))
    published = Published(weights=RANDOM, decode="tiny", rewards=rewards, judges=judges)
    return replace(longlive_stream_t1(), prompts=PROMPTS[:1], num_chunks=3, published=published)


def self_forcing() -> Experiment:
    """Self-Forcing as it was published, without a search."""
    return _plain(SELF_FORCING)


def causal_forcing() -> Experiment:
    """Causal-Forcing, chunk by chunk, as it was published, without a search."""
    return _plain(CAUSAL_FORCING)


def causal_forcing_framewise() -> Experiment:
    """Causal-Forcing, latent frame by latent frame, as it was published, without a search."""
    return _plain(CAUSAL_FORCING_FRAMEWISE)


def causal_forcing_2step() -> Experiment:
    """Causal-Forcing++ with two passes a latent frame, as it was published, without a search."""
    return _plain(CAUSAL_FORCING_2STEP)


def causal_forcing_1step() -> Experiment:
    """Causal-Forcing++ with one pass a latent frame, as it was published, without a search."""
    return _plain(CAUSAL_FORCING_1STEP)


def reward_forcing() -> Experiment:
    """Reward-Forcing, which averages what leaves its window into the sink, without a search."""
    return _plain(REWARD_FORCING)


def _plain(model: PublishedModel) -> Experiment:
    frames = model.memory.chunk_frames
    return Experiment(
        model=model.name,
        prompts=PROMPTS,
        num_chunks=LATENT_FRAMES // frames,
        long_window=LONG_WINDOW // frames,
        memory=model.memory,
        policies=(Greedy(),),
    )


WAN_PRESETS: Mapping[str, Callable[[], Experiment]] = {
    "longlive": longlive,
    "longlive-stream-t1": longlive_stream_t1,
    "longlive-stream-t1-released": longlive_stream_t1_released,
    "longlive-rehearsal": longlive_rehearsal,
    "self-forcing": self_forcing,
    "causal-forcing": causal_forcing,
    "causal-forcing-framewise": causal_forcing_framewise,
    "causal-forcing-2step": causal_forcing_2step,
    "causal-forcing-1step": causal_forcing_1step,
    "reward-forcing": reward_forcing,
}
