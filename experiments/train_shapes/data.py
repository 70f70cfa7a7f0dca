"""Renders the clips that the models of shapes are trained on."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.shapes.codec import Codec
from envs.shapes.text import encode
from envs.shapes.world import Caption, Scene, all_captions, is_held_out, render
from experiments.train_shapes.log import log

CHUNK = 3  # latent frames
STRIDE = 4  # pixel frames a latent frame
LAST_CHUNK = 39  # of a stream of 30 s


def training_captions() -> list[Caption]:
    """Returns the captions that training may show."""
    return [caption for caption in all_captions() if not is_held_out(caption)]


def chunk_frames(chunk: int) -> NDArray[np.int64]:
    """Returns the pixel frames that a chunk's latents encode; the first frame of all counts four times."""
    first = CHUNK * STRIDE * chunk - (STRIDE - 1)
    return np.maximum(np.arange(first, first + CHUNK * STRIDE), 0)


def to_tensor(video: NDArray[np.float32]) -> Tensor:
    """Returns `[1, F, 3, H, W]` of a rendered `[F, H, W, 3]`."""
    return torch.from_numpy(video).permute(0, 3, 1, 2)[None]


def start_chunks(rng: np.random.Generator) -> list[int]:
    """Returns the first five chunks of a stream."""
    return [0, 1, 2, 3, 4]


def middle_chunks(rng: np.random.Generator) -> list[int]:
    """Returns the first chunk, an earlier one that may serve as a second sink, and six in a row."""
    first = int(rng.integers(3, LAST_CHUNK - 2))
    return [0, int(rng.integers(1, max(2, first - 2))), *range(first - 2, first + 4)]


SCHEMES = {"start": start_chunks, "middle": middle_chunks}


def _encode_some(scheme: str, count: int, seed: int, codec: Codec) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    captions = training_captions()
    chunks, latents, texts = [], [], []
    for _ in range(count):
        caption = captions[rng.integers(len(captions))]
        chosen = SCHEMES[scheme](rng)
        frames = np.concatenate([chunk_frames(chunk) for chunk in chosen])
        with torch.no_grad():
            encoded = codec.encode(to_tensor(render(Scene.sample(caption, rng), frames)), is_start=False)
        chunks.append(chosen)
        latents.append(encoded[0].unflatten(0, (len(chosen), CHUNK)).half())
        texts.append(encode(str(caption)).half())
    return {"chunks": torch.tensor(chunks), "latents": torch.stack(latents), "texts": torch.stack(texts)}


def encoded_clips(scheme: str, count: int, *, seed: int, codec: Codec, cache: Path) -> dict[str, Tensor]:
    """Returns `count` clips as latents, rendered on all cores and kept in `cache` for the next start.

    Keys: `chunks` `[N, G]` (chunk numbers), `latents` `[N, G, 3, C, h, w]`, `texts` `[N, 16, 32]`, float16.
    """
    path = cache / f"{scheme}-{count}-{seed}.pt"
    if not path.exists():
        log(f"rendering {count} clips of scheme {scheme}")
        with ProcessPoolExecutor() as pool:
            size = 500
            jobs = [
                pool.submit(_encode_some, scheme, min(size, count - done), seed * 100_003 + done, codec)
                for done in range(0, count, size)
            ]
            parts: Sequence[dict[str, Tensor]] = [job.result() for job in jobs]
        cache.mkdir(parents=True, exist_ok=True)
        torch.save({key: torch.cat([part[key] for part in parts]) for key in parts[0]}, path)
    loaded: dict[str, Tensor] = torch.load(path, weights_only=True)
    return loaded
