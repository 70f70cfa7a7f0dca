"""What a published model's world is made of, loaded once a process."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.worlds.options import SCORING, Published
from searchkit.backbones.load import load_model, random_model
from searchkit.backbones.presets import FPS, MODELS, REDUCED, PublishedModel
from searchkit.backbones.sources import WAN, Source
from searchkit.backbones.text import TextEncoder
from searchkit.checkpoint import file_identity, find_file
from searchkit.codecs import Decoder, tiny
from searchkit.codecs.wan import WanDecoder, encode
from searchkit.given import read_given
from searchkit.memory import MemoryConfig
from searchkit.metrics import Judge, load_judges
from searchkit.model import VideoModel
from searchkit.offload import ScorerWithin, Seat, WaitingCaches, leaving
from searchkit.placement import Placement
from searchkit.rewards import Scorer
from searchkit.rewards.registry import load_scorer
from searchkit.rewards.terms import file_identities
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Action, Route

REDUCED_VAE = 4  # channels of its widest level
TINY_VAE_FILES = ("taew2_1.pth", "taew2_1.safetensors")


Room = Callable[[], AbstractContextManager[None]]  # has room on the device while it is entered


class Judges(NamedTuple):
    """Judges by their names, and what has room for them."""

    by_name: Mapping[str, Judge]
    room: Room


class Loaded(NamedTuple):
    """A model as the search sees it, what scores it, the decoder of finished videos, and latents that are given."""

    model: VideoModel
    decoder: Decoder
    given: Tensor | None


@dataclass(frozen=True, kw_only=True)
class RoutedStream(Stream):
    """A stream of a model that was trained to keep, or not to keep, what leaves its window.

    Attributes:
        route: where a chunk goes that leaves the window, unless a policy says otherwise.
    """

    route: Route

    def actions(self, state: StreamState, *, num: int, seed: int) -> list[Action]:
        return [action._replace(route=self.route) for action in super().actions(state, num=num, seed=seed)]


@functools.lru_cache(maxsize=1)
def load(
    name: str,
    published: Published,
    *,
    memory: MemoryConfig,
    deterministic: bool,
    texts: tuple[str, ...],
    placement: Placement = Placement(),
) -> Loaded:
    """Returns a model with all that it takes to make and to decode its videos.

    Args:
        texts: what will be asked for; encoded first, so that the text encoder is gone before anything else is loaded.
        placement: where its parts are between their uses.

    Raises:
        ValueError: files are missing, damaged or of another kind.
    """
    # A file that does not suit is told of before anything is loaded.
    frames = _given_frames(published, memory)
    placement = replace(placement, max_batch=1) if deterministic else placement
    model = _load_model(MODELS[name], published, memory=memory, placement=placement, texts=texts)
    seen = replace(model, decoder=_tiny_decoder(published)) if published.decode == "tiny" else model
    device = _device(published)
    return Loaded(
        _placed(seen, placement, device),
        _placed(model, placement, device).decoder,
        None if frames is None else _encode(model.decoder, frames),
    )


@functools.lru_cache(maxsize=1)
def scorer_of(
    published: Published,
    *,
    deterministic: bool,
    placement: Placement = Placement(),
    network: torch.nn.Module | None = None,
) -> Scorer:
    """Returns what scores a search, and what makes room while it does; errors are those of `load_scorer`.

    Args:
        network: what leaves the device meanwhile, where the placement says so; None where there is none beside.
    """
    seat = Seat(_device(published)) if placement.rewards_wait else None
    most = 1 if deterministic else placement.max_batch
    scorer = load_scorer(published.rewards, fps=FPS, max_batch=most, seat=seat)
    room: list[Room] = [] if seat is None else [seat.until_empty]
    if placement.network_leaves and network is not None:
        room.insert(0, functools.partial(leaving, network))  # back last, when the rewards have gone
    return ScorerWithin(scorer=scorer, room=tuple(room)) if room else scorer


@functools.lru_cache(maxsize=1)
def found_weights(published: Published) -> Mapping[str, str]:
    """Returns names of the weights that score, of those of the tiny decoder, and of given frames; none is loaded.

    Raises:
        ValueError: some are not there; they are named.
    """
    found = file_identities(published.terms, SCORING)
    if published.tiny_vae is not None:
        path = find_file(published.tiny_vae, *TINY_VAE_FILES)
        found[f"tiny-vae={published.tiny_vae}"] = file_identity(path)
    if published.given is not None:
        with open(published.given, "rb") as file:
            found["given"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@functools.lru_cache(maxsize=1)
def judges_of(published: Published, *, fps: int, placement: Placement = Placement()) -> Judges:
    """Returns the judges; errors are those of `load_judges`."""
    seat = Seat(_device(published)) if placement.judges_wait else None
    judges = load_judges(published.judges, device=_device(published), fps=fps, seat=seat)
    return Judges(judges, contextlib.nullcontext if seat is None else seat.until_empty)


def _placed(model: VideoModel, placement: Placement, device: str) -> VideoModel:
    """Returns a model whose memory and decoder are where they have room."""
    return replace(
        model,
        prefix_budget=0 if placement.takes_turns else model.prefix_budget,
        block_device="cpu" if placement.blocks_wait else None,
        decoder=WaitingCaches(decoder=model.decoder, device=device) if placement.caches_wait else model.decoder,
    )


def _load_model(
    model: PublishedModel,
    published: Published,
    *,
    memory: MemoryConfig,
    placement: Placement,
    texts: tuple[str, ...],
) -> VideoModel:
    made = functools.partial(
        random_model if published.is_random else load_model,
        model,
        device=_device(published),
        dtype=_dtype(published),
        height=published.height,
        width=published.width,
        memory=memory,
        max_batch=placement.max_batch,
        speedups=published.speedups,
    )
    if published.is_random:
        return made(size=REDUCED, vae_base_dim=REDUCED_VAE) if published.reduced else made()
    wan = WAN if published.wan is None else Source(published.wan)
    network = Source(published.weights or default_weights(model), published.revision)
    # What is not installed, and what scores, is missed before 11 GB of text encoder are read.
    published.speedups.check()
    found_weights(published)
    encoder = TextEncoder(wan, device="cpu" if placement.encodes_on_cpu else _device(published))
    encoder.prepare(texts)
    return made(network, encode_text=encoder, wan=wan)


def default_weights(model: PublishedModel) -> str:
    """Returns the folder of a model's network where none is named.

    Raises:
        ValueError: there is no such folder.
    """
    folder = Path("weights", model.name)
    if not folder.is_dir():
        raise ValueError(
            f"weights of {model.name} are not in {folder}: make the folder with python -m experiments.convert, or say "
            "--weights DIR_OR_HUB_ID (see docs/models.md)"
        )
    return str(folder)


def _given_frames(published: Published, memory: MemoryConfig) -> Tensor | None:
    if published.given is None:
        return None
    size = {"height": published.height, "width": published.width}
    return read_given(published.given, **size, chunk_frames=memory.chunk_frames)


def _encode(decoder: Decoder, frames: Tensor) -> Tensor:
    assert isinstance(decoder, WanDecoder)
    return encode(decoder.vae, frames)


def _tiny_decoder(published: Published) -> Decoder:
    if published.tiny_vae is not None:
        return tiny.load(published.tiny_vae, device=_device(published), dtype=_dtype(published))
    torch.manual_seed(0)
    return tiny.TinyDecoder(tiny.make_layers().to(device=_device(published), dtype=_dtype(published)))


def _device(published: Published) -> str:
    return published.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(published: Published) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, published.dtype)
    return dtype
