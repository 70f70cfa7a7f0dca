"""Ways in which generated videos go wrong: a scene, frame numbers and a severity give a bad video.

Severities run from 0 (as the scene) to 1. A corruption depends on its arguments and its random generator alone.
Letters: F pixel frames, H = W = 64 pixels.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from envs.shapes.world import BACKGROUNDS, COLOURS, RADII, SHAPES, SIZE, Scene, render

Video = NDArray[np.float32]
Frames = NDArray[np.int64]
Corruption = Callable[[Scene, Frames, float, np.random.Generator], Video]


def blur(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene out of focus."""
    return ndimage.gaussian_filter(render(scene, frames), (0, 3 * severity, 3 * severity, 0), mode="nearest")


def noise(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene under grain: of single pixels or in blotches, new in every frame."""
    grain = rng.standard_normal((len(frames), SIZE, SIZE, 3), dtype=np.float32)
    if rng.random() < 0.5:
        grain = ndimage.gaussian_filter(grain, (0, 1.5, 1.5, 0), mode="wrap")
        grain /= grain.std()
    return np.clip(render(scene, frames) + np.float32(0.2 * severity) * grain, 0, 1)


def flicker(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with a brightness that changes from frame to frame."""
    gains = 1 + 0.35 * severity * rng.uniform(-1, 1, size=(len(frames), 1, 1, 1))
    return np.clip(render(scene, frames) * gains.astype(np.float32), 0, 1)


def tint(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene on a background of a colour of no name."""
    return _shift_background(scene, frames, _random_shift(scene, severity, rng))


def drift(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene on a background whose colour changes with time or from side to side."""
    shift = _random_shift(scene, severity, rng)
    if rng.random() < 0.5:
        ramp = np.linspace(0, 1, len(frames), dtype=np.float32)[:, None, None, None]
    else:
        ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)[None, None, :, None]
        ramp = ramp if rng.random() < 0.5 else ramp.swapaxes(1, 2)
    return _shift_background(scene, frames, shift * ramp)


def fade(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with a see-through object."""
    return _mix(render(scene, frames), _without_object(scene, frames), 0.9 * severity)


def vanish(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with an object that fades away for a part of the time."""
    gone = np.zeros(len(frames))
    length = math.ceil(len(frames) * rng.uniform(0.3, 0.7))
    start = rng.integers(len(frames) - length + 1)
    gone[start : start + length] = severity
    return _mix(render(scene, frames), _without_object(scene, frames), gone)


def smear(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the mean of renderings with the object in several places: an unsure generator's compromise."""
    angles = rng.uniform(0, 2 * math.pi) + np.arange(3) * 2 * math.pi / 3
    offsets = 7 * severity * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ghosts = [render(replace(scene, x=scene.x + dx, y=scene.y + dy), frames) for dx, dy in offsets]
    weights = rng.dirichlet((3.0,) * len(ghosts)).astype(np.float32)
    return np.tensordot(weights, np.stack(ghosts), axes=1)


def recolour(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with an object that takes another colour on the way."""
    others = [colour for colour in COLOURS if colour != scene.caption.colour]
    other = replace(scene, caption=replace(scene.caption, colour=str(rng.choice(others))))
    return _turn_into(scene, other, frames, severity, rng)


def reshape(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with an object that takes another shape on the way."""
    others = [shape for shape in SHAPES if shape != scene.caption.shape]
    other = replace(scene, caption=replace(scene.caption, shape=str(rng.choice(others))))
    return _turn_into(scene, other, frames, severity, rng)


def resize(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with an object that takes another size on the way."""
    factor = 1 + 0.6 * severity if scene.radius < np.mean(RADII) else 1 - 0.4 * severity
    return _turn_into(scene, replace(scene, radius=scene.radius * factor), frames, 1.0, rng)


def freeze(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with an object that stands still for a part of the time, then goes on from there."""
    length = max(2, round(len(frames) * severity))
    start = int(rng.integers(len(frames) - length + 1))
    index = np.arange(len(frames))
    return render(scene, frames[np.minimum(index, start) + np.maximum(index - start - length + 1, 0)])


def stutter(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with frames held and then skipped."""
    hold = 1 + math.ceil(5 * severity)
    index = np.arange(len(frames))
    return render(scene, frames[index - (index + rng.integers(hold)) % hold * (index >= hold)])


def jump(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with an object that leaps to another place on the way."""
    angle = rng.uniform(0, 2 * math.pi)
    leap = 2 + 20 * severity
    moved = replace(scene, x=scene.x + leap * math.cos(angle), y=scene.y + leap * math.sin(angle))
    cut = _cut(frames, rng)
    return np.concatenate([render(scene, frames[:cut]), render(moved, frames[cut:])])


def jitter(scene: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene with an object that trembles."""
    offsets = rng.normal(0, 3 * severity, size=(len(frames), 2))
    shaken = [
        render(replace(scene, x=scene.x + dx, y=scene.y + dy), frames[place : place + 1])
        for place, (dx, dy) in enumerate(offsets)
    ]
    return np.concatenate(shaken)


# What one frame can show, what a clip's look shows, and what its movement shows.
IMAGE: dict[str, Corruption] = {"blur": blur, "noise": noise, "tint": tint, "fade": fade, "smear": smear}
VISUAL: dict[str, Corruption] = {
    **IMAGE,
    "flicker": flicker,
    "drift": drift,
    "vanish": vanish,
    "recolour": recolour,
    "reshape": reshape,
    "resize": resize,
}
MOTION: dict[str, Corruption] = {"freeze": freeze, "stutter": stutter, "jump": jump, "jitter": jitter}


def _random_shift(scene: Scene, severity: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns an RGB shift of the background that stays within [0, 1]."""
    direction = rng.standard_normal(3)
    shift = 0.35 * severity * direction / np.linalg.norm(direction)
    shifted = np.array(BACKGROUNDS[scene.caption.background]) + shift
    return np.where((shifted < 0) | (shifted > 1), -shift, shift).astype(np.float32)


def _shift_background(scene: Scene, frames: Frames, shift: NDArray[np.float32]) -> Video:
    video = render(scene, frames)
    background = np.array(BACKGROUNDS[scene.caption.background], dtype=np.float32)
    away = np.linalg.norm(video - background, axis=-1, keepdims=True)
    return np.clip(video + np.clip(1 - away / 0.2, 0, 1) * shift, 0, 1)


def _without_object(scene: Scene, frames: Frames) -> Video:
    # At this radius no pixel is inside of any shape.
    return render(replace(scene, radius=-2.0), frames)


def _turn_into(scene: Scene, other: Scene, frames: Frames, severity: float, rng: np.random.Generator) -> Video:
    """Returns the scene blended with another by up to `severity`, suddenly or over a quarter of the time."""
    index = np.arange(len(frames)) - _cut(frames, rng)
    length = 1 if rng.random() < 0.5 else max(1, len(frames) // 4)
    return _mix(render(scene, frames), render(other, frames), severity * np.clip((index + 1) / length, 0, 1))


def _mix(first: Video, second: Video, share: float | NDArray[np.float64]) -> Video:
    shares = np.asarray(share, dtype=np.float32)
    return first + shares.reshape(-1, 1, 1, 1) * (second - first)


def _cut(frames: Frames, rng: np.random.Generator) -> int:
    """Returns a place in the middle half of the frames."""
    return int(rng.integers(len(frames) // 4, max(len(frames) // 4 + 1, 3 * len(frames) // 4)))
