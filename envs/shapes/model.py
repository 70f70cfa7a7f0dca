"""Loads the models of shapes from the weights that this repository ships."""

import hashlib
from functools import cache
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from envs.shapes import text
from envs.shapes.codec import CHANNELS, PATCH, Codec
from envs.shapes.rewards import ImageReward, VideoReward
from envs.shapes.world import FPS, SIZE, Caption
from searchkit.backbones.sampler import Sampler
from searchkit.backbones.wan import CausalWan
from searchkit.memory import MemoryConfig
from searchkit.model import VideoModel
from searchkit.rewards import RewardScorer, Scorer
from searchkit.schedule import cues
from searchkit.stream import Stream
from searchkit.types import Decoding

WEIGHTS = Path(__file__).parent / "weights"
LATENT_SIZE = SIZE // PATCH
NETWORK = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": text.TEXT_DIM,
    "freq_dim": 64,
    "ffn_dim": 512,
    "num_layers": 6,
    "cross_attn_norm": True,
}
SAMPLER = Sampler(timesteps=(1000.0, 750.0, 500.0, 250.0), shift=4.0, kind="euler")


def read_weights(name: str) -> dict[str, Tensor]:
    """Returns the tensors of a shipped file, in float32.

    Raises:
        ValueError: the file is missing, or is not the one that SHA256SUMS lists.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        raise ValueError(f"weights {path} are missing: restore them, or train with python -m experiments.train_shapes")
    if hashlib.sha256(path.read_bytes()).hexdigest() != checksums().get(path.name):
        raise ValueError(f"weights {path} are damaged: their SHA-256 is not the one in {WEIGHTS / 'SHA256SUMS'}")
    return {key: tensor.float() for key, tensor in load_file(path).items()}


def checksums() -> dict[str, str]:
    """Returns the SHA-256 of every shipped file, by its name.

    Raises:
        ValueError: the list is missing.
    """
    if not (WEIGHTS / "SHA256SUMS").exists():
        raise ValueError(f"weights cannot be checked: {WEIGHTS / 'SHA256SUMS'} is missing, restore it")
    rows = (line.split() for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines())
    return {name: digest for digest, name in rows}


@cache
def load_model(*, memory: MemoryConfig = MemoryConfig(), sampler: Sampler = SAMPLER, max_batch: int = 16) -> VideoModel:
    """Returns the generator with its codec; the same object for the same settings.

    Args:
        max_batch: most candidates in one call; 1 makes results independent of how a level is grouped.

    Raises:
        ValueError: weights are missing or damaged.
    """
    network = WanTransformer3DModel(**NETWORK)
    network.load_state_dict(read_weights("generator"))
    return VideoModel(
        engine=CausalWan(network, latent_size=(LATENT_SIZE, LATENT_SIZE)),
        decoder=load_codec(),
        encode_text=text.encode,
        sampler=sampler,
        memory=memory,
        latent_shape=(CHANNELS, LATENT_SIZE, LATENT_SIZE),
        fps=FPS,
        shares=True,
        checksum=hashlib.sha256("".join(checksums().values()).encode()).hexdigest()[:16],
        max_batch=max_batch,
    )


def load_codec() -> Codec:
    """Returns the codec.

    Raises:
        ValueError: weights are missing or damaged.
    """
    codec = Codec().eval().requires_grad_(False)
    codec.load_state_dict(read_weights("codec"))
    return codec


def load_rewards() -> tuple[ImageReward, VideoReward]:
    """Returns the two rewards.

    Raises:
        ValueError: weights are missing or damaged.
    """
    image, video = ImageReward(), VideoReward()
    image.load_state_dict(read_weights("image_reward"))
    video.load_state_dict(read_weights("video_reward"))
    return image.eval().requires_grad_(False), video.eval().requires_grad_(False)


@cache
def load_scorer(*, max_batch: int = RewardScorer.max_batch) -> RewardScorer:
    """Returns the image and video rewards as one scorer; errors are those of `load_rewards`.

    Args:
        max_batch: most candidates in one call; 1 makes scores independent of how a level is grouped.
    """
    image, video = load_rewards()
    return RewardScorer(image=image, video=video, max_batch=max_batch)


def make_scorer(*, deterministic: bool = False) -> RewardScorer:
    """Returns what scores streams, one candidate at a time if `deterministic`; errors are those of `load_rewards`."""
    return load_scorer(max_batch=1) if deterministic else load_scorer()


def untrained_network(seed: int) -> WanTransformer3DModel:
    """Returns the generator's network at its first initialisation."""
    torch.manual_seed(seed)
    return WanTransformer3DModel(**NETWORK)


def make_stream(
    prompt: str,
    *,
    horizon: int | None = 7,
    long_window: int = 10,
    decoding: Decoding = "streamed",
    memory: MemoryConfig = MemoryConfig(),
    deterministic: bool = False,
    scorer: Scorer | None = None,
) -> Stream:
    """Returns the stream of a prompt, ready to be searched: `StreamT1()(make_stream(prompt), seed=0).best.video`.

    Args:
        horizon: chunks to make (7 are 5 s); None for a stream without end.
        long_window: chunks that the long score sees.
        decoding: what scores see, see `Stream`.
        memory: its sizes; streams without end need positions "window".
        deterministic: run candidates one at a time, so that results do not depend on how they are grouped.
        scorer: what scores it; None for the shipped rewards.

    Raises:
        ValueError: the prompt is not in the shapes grammar, an option is out of range, or weights are missing or
            damaged.
    """
    for cue in cues(prompt, horizon, shares=True):
        Caption.parse(cue.text)
    model = load_model(memory=memory, max_batch=1) if deterministic else load_model(memory=memory)
    return Stream(
        model=model,
        scorer=make_scorer(deterministic=deterministic) if scorer is None else scorer,
        prompt=prompt,
        horizon=horizon,
        long_window=long_window,
        decoding=decoding,
    )
