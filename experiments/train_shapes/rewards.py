"""Trains the rewards of shapes on preferences: clean over corrupted, mild over strong, as asked over one word wrong.

Half of the clips pass through the codec first, as every generated video does; what is compared always passes alike.
Letters: N pairs, F pixel frames, A aspects (1 for the image reward, 3 for the video reward), H = W = 64 pixels.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from envs.shapes.codec import STRIDE, Codec
from envs.shapes.rewards import FIELDS, IMAGE_FIELDS, VIDEO_FIELDS, Aspects, ImageReward, VideoReward
from envs.shapes.world import SIZE, Caption, Scene, all_captions, is_held_out, render
from experiments.train_shapes.corruptions import IMAGE, MOTION, VISUAL
from experiments.train_shapes.data import CHUNK, LAST_CHUNK, to_tensor, training_captions
from experiments.train_shapes.log import log

OPPOSITE = {
    "moving left": "moving right",
    "moving right": "moving left",
    "moving up": "moving down",
    "moving down": "moving up",
}
# What a pair can differ in: a corruption by its name, `latent` for noise on the codec's latents (as few passes
# leave it), a wrong word by its field, `heading` for a motion turned round.
IMAGE_KINDS = (*IMAGE, "latent", *IMAGE_FIELDS)
VIDEO_KINDS = (*VISUAL, "latent", *MOTION, *VIDEO_FIELDS, "heading")
ASPECT = {
    **dict.fromkeys((*VISUAL, "latent"), Aspects._fields.index("visual")),
    **dict.fromkeys(MOTION, Aspects._fields.index("motion")),
    **dict.fromkeys((*VIDEO_FIELDS, "heading"), Aspects._fields.index("text")),
}

Reward = ImageReward | VideoReward


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a reward is trained.

    num_pairs: for each number of frames, how many pairs are rendered. Windows of 4T + 1 frames start their stream.
    anchor: weight of the squared distance of clean clips' scores from `clean_score`, which makes scores compare
        between scenes and between lengths.
    whole: weight of the preference by the sum of the aspects, beside that by the pair's own aspect.
    reading: weight of the preference of the right word over all others of its field at once.
    smoothing: what that leaves to the others, so that no single word can outweigh everything else.
    """

    num_pairs: tuple[tuple[int, int], ...]
    steps: int
    batch: int
    learning_rate: float = 2e-3
    anchor: float = 0.02
    clean_score: float = 3.0
    whole: float = 0.5
    reading: float = 0.5
    smoothing: float = 0.05
    seed: int = 5


IMAGE_RECIPE = Recipe(num_pairs=((1, 12_000),), steps=2000, batch=64)
VIDEO_RECIPE = Recipe(
    num_pairs=((9, 2400), (12, 2400), (21, 600), (24, 600), (36, 200), (81, 40), (120, 30)), steps=3000, batch=16
)


class Pairs(NamedTuple):
    """Preferences between clips of one length.

    kinds: N names of what differs. clean: `[N]` whether the better clip is a faultless one. better, worse:
    `[N, F, 3, H, W]` uint8. better_prompts, worse_prompts: N each; only for changed words do they differ.
    """

    kinds: list[str]
    clean: Tensor
    better: Tensor
    worse: Tensor
    better_prompts: list[str]
    worse_prompts: list[str]


def train_image_reward(codec: Codec | None = None, recipe: Recipe = IMAGE_RECIPE) -> ImageReward:
    """Returns a trained image reward.

    Args:
        codec: what half of the clips pass through; None trains on renderings only.
        recipe: how to train.
    """
    torch.manual_seed(recipe.seed)
    reward = ImageReward()
    train(reward, make_pools(IMAGE_KINDS, recipe.num_pairs, seed=recipe.seed, codec=codec), recipe)
    return reward


def train_video_reward(
    codec: Codec | None = None, recipe: Recipe = VIDEO_RECIPE, *, image_reward: ImageReward | None = None
) -> VideoReward:
    """Returns a trained video reward.

    Args:
        codec: what half of the clips pass through; None trains on renderings only.
        recipe: how to train.
        image_reward: a trained one whose eye the video reward starts from, as it sees the same in single frames.
    """
    torch.manual_seed(recipe.seed)
    reward = VideoReward()
    if image_reward is not None:
        reward.eye.load_state_dict(image_reward.eye.state_dict())
    train(reward, make_pools(VIDEO_KINDS, recipe.num_pairs, seed=recipe.seed, codec=codec), recipe)
    return reward


def held_out_accuracy(
    reward: Reward, codec: Codec | None = None, *, num_pairs: int = 1600, seed: int = 6
) -> dict[str, float]:
    """Returns how often a reward prefers the better of two clips of held-out captions: per kind, and `overall`."""
    kinds, lengths = (IMAGE_KINDS, (1,)) if isinstance(reward, ImageReward) else (VIDEO_KINDS, (9, 12, 21, 36))
    counts = [(length, num_pairs // len(lengths)) for length in lengths]
    right: dict[str, list[bool]] = {kind: [] for kind in (*kinds, "overall")}
    for pairs in make_pools(kinds, counts, seed=seed, codec=codec, held_out=True):
        better, worse = _score_all(reward, pairs)
        for kind, preferred in zip(pairs.kinds, (better.sum(1) > worse.sum(1)).tolist(), strict=True):
            right[kind].append(preferred)
            right["overall"].append(preferred)
    return {kind: float(np.mean(answers)) for kind, answers in right.items() if answers}


def make_pools(
    kinds: Sequence[str],
    num_pairs: Sequence[tuple[int, int]],
    *,
    seed: int,
    codec: Codec | None,
    held_out: bool = False,
) -> list[Pairs]:
    """Returns random pairs, a pool for each number of frames. Without a codec there are none of kind `latent`."""
    kinds = [kind for kind in kinds if kind != "latent" or codec is not None]
    captions = [caption for caption in all_captions() if is_held_out(caption)] if held_out else training_captions()
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    pools = []
    for num_frames, count in num_pairs:
        log(f"rendering {count} pairs of {num_frames} frames")
        rows = [_sample_pair(kinds, captions, num_frames, rng, generator, codec) for _ in range(count)]
        names, clean, better, worse, better_prompts, worse_prompts = zip(*rows, strict=True)
        clips = torch.tensor(clean), torch.stack(better), torch.stack(worse)
        pools.append(Pairs(list(names), *clips, list(better_prompts), list(worse_prompts)))
    return pools


def _sample_pair(
    kinds: Sequence[str],
    captions: Sequence[Caption],
    num_frames: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    codec: Codec | None,
) -> tuple[str, bool, Tensor, Tensor, str, str]:
    kind = kinds[int(rng.integers(len(kinds)))]
    frames = _sample_window(num_frames, kind, rng)
    caption = captions[int(rng.integers(len(captions)))]
    if kind == "heading":
        straight = [caption for caption in captions if caption.motion in OPPOSITE]
        caption = straight[int(rng.integers(len(straight)))]
    scene = Scene.sample(caption, rng)
    mild = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.6)
    strong = rng.uniform(mild + 0.2, 1)
    better, worse, shown = _make_clips(kind, scene, frames, mild, strong, rng)
    levels = (0.8 * mild, 0.8 * strong) if kind == "latent" else (0.0, 0.0)
    if codec is not None and (kind == "latent" or rng.random() < 0.5):
        first, second = (
            through_codec(codec, video, level, generator) for video, level in zip((better, worse), levels, strict=True)
        )
    else:
        first, second = to_tensor(better)[0], to_tensor(worse)[0]
    if num_frames == 1:
        first, second = first[-1:], second[-1:]
    prompts = str(caption), str(caption)
    if shown != caption and rng.random() < 0.5:
        # The same clip under a wrong prompt, instead of a wrong clip under the same prompt.
        second, prompts = first, (str(caption), str(shown))
    return kind, mild == 0 or shown != caption, _to_bytes(first), _to_bytes(second), *prompts


def _make_clips(
    kind: str, scene: Scene, frames: NDArray[np.int64], mild: float, strong: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], Caption]:
    """Returns a better and a worse clip `[F, H, W, 3]`, and the caption of what the worse one shows."""
    better = render(scene, frames)
    if kind == "latent":
        return better, better, scene.caption
    if kind in FIELDS or kind == "heading":
        wrong = _change(scene.caption, kind, rng)
        return better, render(Scene.sample(wrong, rng), frames), wrong
    corrupt = {**VISUAL, **MOTION}[kind]
    better = corrupt(scene, frames, mild, rng) if mild else better
    return better, corrupt(scene, frames, strong, rng), scene.caption


def _sample_window(num_frames: int, kind: str, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns the frame numbers of a window; a single frame comes with the three before it, as the codec needs."""
    if num_frames == 1:
        num_frames = STRIDE
    # Later in a stream the object may have bounced, so that its heading says nothing.
    starts = num_frames % STRIDE == 1 or kind == "heading"
    first = 0 if starts else int(rng.integers(1, LAST_CHUNK * CHUNK * STRIDE))
    return np.arange(first, first + num_frames)


def _change(caption: Caption, kind: str, rng: np.random.Generator) -> Caption:
    """Returns a caption with one word wrong."""
    if kind == "heading":
        return replace(caption, motion=OPPOSITE[caption.motion])
    current = getattr(caption, kind)
    others = [value for value in FIELDS[kind] if value not in (current, OPPOSITE.get(current))]
    change: dict[str, Any] = {kind: others[int(rng.integers(len(others)))]}
    return replace(caption, **change)


@torch.no_grad()
def through_codec(codec: Codec, video: NDArray[np.float32], level: float, generator: torch.Generator) -> Tensor:
    """Returns `[F, 3, H, W]` of a video `[F, H, W, 3]`, decoded from its latents with noise of deviation `level`."""
    is_start = len(video) % STRIDE == 1
    latents = codec.encode(to_tensor(video), is_start=is_start)
    latents = latents + level * torch.randn(latents.shape, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = codec.decode_frames(latents, torch.cat([latents[:, :1], latents[:, :-1]], dim=1))
    return decoded[0, STRIDE - 1 if is_start else 0 :].float().clamp(0, 1)


def train(reward: Reward, pools: Sequence[Pairs], recipe: Recipe) -> None:
    """Trains a reward on pairs, sets its constants, and freezes it."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(reward.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    # Long windows come in smaller batches, so that steps take about the same time.
    sizes = torch.tensor([float(len(pairs.kinds)) for pairs in pools])
    shortest = min(pairs.better.shape[1] for pairs in pools)
    start, recent = time.monotonic(), 0.0
    for step in range(recipe.steps):
        pairs = pools[int(torch.multinomial(sizes, 1, generator=generator))]
        batch = max(4, recipe.batch * 2 * shortest // (pairs.better.shape[1] + shortest))
        loss = _loss(reward, _draw(pairs, batch, generator), recipe)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reward.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent += (loss.item() - recent) * (0.01 if step else 1)
        if step % 250 == 0 or step == recipe.steps - 1:
            log(f"{type(reward).__name__} step {step}: loss {recent:.3f}, {time.monotonic() - start:.0f} s")
    _normalise(reward, pools)
    reward.eval().requires_grad_(False)


def _draw(pairs: Pairs, count: int, generator: torch.Generator) -> Pairs:
    """Returns random pairs, shifted by up to 4 pixels, half of them mirrored; their clips are floats."""
    rows = torch.randint(len(pairs.kinds), (count,), generator=generator)
    right, down = (int(place) for place in torch.randint(9, (2,), generator=generator))
    # A mirrored orbit would turn the wrong way.
    mirrored = (torch.rand(count, generator=generator) < 0.5) & torch.tensor(
        ["circling" not in pairs.better_prompts[row] + pairs.worse_prompts[row] for row in rows]
    )

    def move(clips: Tensor) -> Tensor:
        some = clips[rows].float() / 255
        some[mirrored] = some[mirrored].flip(-1)
        padded = F.pad(some.flatten(1, 2), (4, 4, 4, 4), mode="replicate").view(*some.shape[:3], SIZE + 8, SIZE + 8)
        return padded[..., down : down + SIZE, right : right + SIZE]

    def reword(prompts: Sequence[str]) -> list[str]:
        turned = {" left": " right", " right": " left"}
        return [
            re.sub(" left| right", lambda word: turned[word[0]], prompts[row]) if turn else prompts[row]
            for row, turn in zip(rows, mirrored, strict=True)
        ]

    return Pairs(
        [pairs.kinds[row] for row in rows],
        pairs.clean[rows],
        move(pairs.better),
        move(pairs.worse),
        reword(pairs.better_prompts),
        reword(pairs.worse_prompts),
    )


def _loss(reward: Reward, pairs: Pairs, recipe: Recipe) -> Tensor:
    """Returns the Bradley-Terry loss, -log sigmoid(better - worse), with the reading of words and the anchor."""
    better_asked = reward.reader.asked(pairs.better_prompts)
    worse_asked = reward.reader.asked(pairs.worse_prompts)
    with torch.autocast("cpu", torch.bfloat16):
        clips = torch.cat([pairs.better, pairs.worse])
        scores, likely = _judge(reward, clips, torch.cat([better_asked, worse_asked]))
    better, worse = scores.float().chunk(2)
    margin = better - worse
    # The image reward has but one aspect, the last and the first.
    aspects = torch.tensor([ASPECT[kind] for kind in pairs.kinds]).clamp(max=margin.shape[1] - 1)
    own = F.softplus(-margin.gather(1, aspects[:, None])).mean()
    whole = F.softplus(-margin.sum(1)).mean()
    fields = zip(
        likely[: len(better)].float().split(reward.reader.sizes, dim=1),
        better_asked.split(reward.reader.sizes, dim=1),
        strict=True,
    )
    reading = sum(F.cross_entropy(part, asked.argmax(1), label_smoothing=recipe.smoothing) for part, asked in fields)
    # The text aspect needs no anchor: no likelihood exceeds 1.
    strayed = (better[:, : Aspects._fields.index("text")] - recipe.clean_score).square().mean(1)
    anchor = (strayed * pairs.clean).mean()
    return own + recipe.whole * whole + recipe.reading * reading + recipe.anchor * anchor


def _judge(reward: Reward, clips: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    return reward.judge(clips[:, 0] if isinstance(reward, ImageReward) else clips, asked)


@torch.no_grad()
def _normalise(reward: Reward, pools: Sequence[Pairs]) -> None:
    """Sets the constants that give each aspect mean 0 and equal deviations, and their sum deviation 1."""
    some = [_score_all(reward, pairs, limit=200) for pairs in pools]
    scores = torch.cat([each for pair in some for each in pair])
    spread = scores.std(0)
    spread *= (scores / spread).sum(1).std()
    reward.shift.copy_(scores.mean(0).view_as(reward.shift))
    reward.scale.copy_(spread.view_as(reward.scale))


@torch.no_grad()
def _score_all(reward: Reward, pairs: Pairs, *, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Returns the raw scores `[N, A]` of the better and of the worse clips of the first `limit` pairs."""

    def score(clips: Tensor, prompts: Sequence[str]) -> Tensor:
        asked = reward.reader.asked(prompts[:limit])
        parts = zip(clips[:limit].split(16), asked.split(16), strict=True)
        return torch.cat([_judge(reward, part.float() / 255, rows)[0] for part, rows in parts])

    return score(pairs.better, pairs.better_prompts), score(pairs.worse, pairs.worse_prompts)


def _to_bytes(clip: Tensor) -> Tensor:
    return (clip * 255).round().byte()
