"""Trains the codec: principal components in closed form, then the decoder's refinement."""

import time

import numpy as np
import torch
from torch import Tensor

from envs.shapes.codec import CHANNELS, PATCH_VALUES, Codec, to_patches
from envs.shapes.world import Scene, all_captions, is_held_out, render
from experiments.train_shapes.data import CHUNK, LAST_CHUNK, STRIDE, to_tensor, training_captions
from experiments.train_shapes.log import log


def fit_components(codec: Codec, *, num_clips: int = 1500, seed: int = 1) -> None:
    """Sets the codec's mean, components and scale from the patches of random clips.

    Dividing by the root of each component's deviation leaves the strong components stronger: few-step denoising then
    settles the background and the object's place before the details.
    """
    rng = np.random.default_rng(seed)
    total, product, count = (
        torch.zeros(PATCH_VALUES).double(),
        torch.zeros(PATCH_VALUES, PATCH_VALUES).double(),
        0,
    )
    for _ in range(num_clips):
        patches = to_patches(_random_clip(rng, num_latent_frames=5)).movedim(2, -1).reshape(-1, PATCH_VALUES).double()
        total += patches.sum(0)
        product += patches.T @ patches
        count += len(patches)
    mean = total / count
    variances, vectors = torch.linalg.eigh(product / count - torch.outer(mean, mean))
    codec.mean.copy_(mean)
    codec.components.copy_(vectors.flip(1)[:, :CHANNELS].T)
    codec.scale.copy_(variances.flip(0)[:CHANNELS] ** 0.25)


def train_refinement(codec: Codec, *, steps: int = 2000, batch: int = 24, seed: int = 2) -> None:
    """Trains the decoder on clips with a little noise on their latents, as a generator's have."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(codec.refinement.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    torch.nn.init.zeros_(next(codec.refinement[-1].parameters()))  # starts as the linear codec
    pool = torch.cat([_random_clip(rng, num_latent_frames=3) for _ in range(4000)])
    start = time.monotonic()
    for step in range(steps):
        video = pool[torch.randint(len(pool), (batch,), generator=generator)]
        with torch.no_grad():
            latents = codec.encode(video, is_start=False)
            level = 0.15 * torch.rand(batch, 1, 1, 1, 1, generator=generator)
            latents = latents + level * torch.randn(latents.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = codec.decode_frames(latents[:, 1:], latents[:, :-1]).float()
        error = decoded - video[:, STRIDE:]
        loss = error.square().mean() + 0.02 * error.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps - 1:
            decibels = -10 * torch.log10(error.detach().square().mean())
            log(f"codec step {step} of {steps}: {decibels:.2f} dB (noisy latents), {time.monotonic() - start:.0f} s")


@torch.no_grad()
def measure(codec: Codec, *, num_clips: int = 64, seed: int = 3) -> float:
    """Returns the mean peak signal-to-noise ratio in dB over clips of 81 frames of held-out captions."""
    rng = np.random.default_rng(seed)
    captions = [caption for caption in all_captions() if is_held_out(caption)]
    decibels = []
    for _ in range(num_clips):
        video = to_tensor(render(Scene.sample(captions[rng.integers(len(captions))], rng), range(81)))
        decoded, _ = codec.decode(codec.encode(video), [None])
        decibels.append(-10 * torch.log10((decoded - video).square().mean()).item())
    return float(np.mean(decibels))


def _random_clip(rng: np.random.Generator, *, num_latent_frames: int) -> Tensor:
    captions = training_captions()
    scene = Scene.sample(captions[rng.integers(len(captions))], rng)
    first = int(rng.integers(0, LAST_CHUNK * CHUNK * STRIDE))
    return to_tensor(render(scene, range(first, first + num_latent_frames * STRIDE)))
