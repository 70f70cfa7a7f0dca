"""The shapes world: a small grammar of prompts and a renderer of the videos that they describe.

A scene is a pure function of time, so any frame of a clip of any length renders without the frames before it.
Letters: F pixel frames, H = W = 64 pixels.
"""

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

SIZE = 64  # pixels
FPS = 16

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (0.86, 0.16, 0.16),
    "orange": (0.96, 0.55, 0.10),
    "yellow": (0.98, 0.90, 0.16),
    "green": (0.13, 0.65, 0.26),
    "blue": (0.16, 0.33, 0.88),
    "purple": (0.60, 0.20, 0.75),
}
BACKGROUNDS = {
    "sand": (0.85, 0.76, 0.60),
    "night": (0.08, 0.09, 0.18),
    "snow": (0.95, 0.96, 0.98),
    "slate": (0.42, 0.47, 0.52),
}
PILLAR = (0.30, 0.22, 0.16)
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "circling")
SPEEDS = {"slow": 0.6, "fast": 1.5}  # pixels a frame
RADII = (9.0, 14.0)  # pixels
PILLAR_HALF_WIDTH = 4.0  # pixels
ORBIT_RADIUS = 14.0  # pixels

_PATTERN = re.compile(
    rf"an? (?P<speed>{'|'.join(SPEEDS)}) (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)}) "
    rf"(?P<motion>{'|'.join(MOTIONS)})(?P<pillar> behind a pillar)? "
    rf"on an? (?P<background>{'|'.join(BACKGROUNDS)}) background"
)
GRAMMAR = "a SPEED COLOUR SHAPE MOTION [behind a pillar] on a BACKGROUND background"
WORDS = tuple(
    sorted(
        {word for motion in MOTIONS for word in motion.split()}
        | {*SPEEDS, *COLOURS, *SHAPES, *BACKGROUNDS}
        | {"a", "an", "on", "background", "behind", "pillar"}
    )
)


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What a prompt of the shapes grammar asks for."""

    speed: str
    colour: str
    shape: str
    motion: str
    background: str
    pillar: bool = False

    def __str__(self) -> str:
        behind = " behind a pillar" if self.pillar else ""
        article = "an" if self.speed[0] in "aeiou" else "a"
        return (
            f"{article} {self.speed} {self.colour} {self.shape} {self.motion}{behind} on a {self.background} background"
        )

    @staticmethod
    def parse(prompt: str) -> "Caption":
        """Returns the caption that a prompt spells.

        Raises:
            ValueError: words outside the grammar (each is named, with the nearest known one) or a wrong order.
        """
        text = " ".join(prompt.lower().split()).rstrip(".")
        unknown = [word for word in text.split() if word not in WORDS]
        if unknown:
            raise ValueError(f"prompt {prompt!r} has words that shapes does not know: {_with_hints(unknown)}")
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"prompt {prompt!r} is not of the form {GRAMMAR!r}")
        speed, colour, shape, motion, pillar, background = match.groups()
        return Caption(
            speed=speed,
            colour=colour,
            shape=shape,
            motion=motion,
            background=background,
            pillar=pillar is not None,
        )


def _with_hints(unknown: list[str]) -> str:
    nearest = {word: difflib.get_close_matches(word, WORDS, n=1) for word in unknown}
    return ", ".join(f"{word!r} (nearest: {near[0]!r})" if near else repr(word) for word, near in nearest.items())


def all_captions() -> Iterator[Caption]:
    """Yields every caption of the grammar, 1440 in all."""
    for speed, colour, shape, motion, background, pillar in product(
        SPEEDS, COLOURS, SHAPES, MOTIONS, BACKGROUNDS, (False, True)
    ):
        yield Caption(speed=speed, colour=colour, shape=shape, motion=motion, background=background, pillar=pillar)


def is_held_out(caption: Caption) -> bool:
    """Returns whether training never shows this caption: one in eight, spread over every word."""
    place = (
        list(COLOURS).index(caption.colour)
        + 3 * SHAPES.index(caption.shape)
        + 5 * MOTIONS.index(caption.motion)
        + 2 * list(BACKGROUNDS).index(caption.background)
        + 4 * list(SPEEDS).index(caption.speed)
    )
    return (place + caption.pillar) % 8 == 0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A caption with everything that it leaves open: where the object starts, its size, where the pillar stands.

    x, y, radius, pillar_x: pixels; for circling, (x, y) is the orbit's centre and `phase` its start in radians.
    """

    caption: Caption
    x: float
    y: float
    radius: float
    phase: float = 0.0
    pillar_x: float = SIZE / 2

    @staticmethod
    def sample(caption: Caption, rng: np.random.Generator) -> "Scene":
        """Returns a random scene of the caption."""
        radius = rng.uniform(*RADII)
        margin = radius + (ORBIT_RADIUS if caption.motion == "circling" else 0.0)
        x, y = rng.uniform(margin, SIZE - margin, size=2)
        return Scene(
            caption=caption,
            x=x,
            y=y,
            radius=radius,
            phase=rng.uniform(0, 2 * math.pi),
            pillar_x=rng.uniform(20.0, SIZE - 20.0),
        )

    def positions(self, frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the object's centre `[F, 2]` as (x, y) in pixels; it bounces at the walls."""
        distance = SPEEDS[self.caption.speed] * np.asarray(frames, dtype=np.float64)
        if self.caption.motion == "circling":
            angle = self.phase + distance / ORBIT_RADIUS
            return np.stack([self.x + ORBIT_RADIUS * np.cos(angle), self.y + ORBIT_RADIUS * np.sin(angle)], axis=1)
        dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[self.caption.motion.split()[1]]
        return np.stack([self._bounce(self.x + dx * distance), self._bounce(self.y + dy * distance)], axis=1)

    def _bounce(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        span = SIZE - 2 * self.radius
        return self.radius + span - np.abs((place - self.radius) % (2 * span) - span)


def render(scene: Scene, frames: NDArray[np.int64] | range) -> NDArray[np.float32]:
    """Returns the scene's pixel frames `[F, H, W, 3]` in [0, 1], anti-aliased, at the given times (frame numbers)."""
    caption = scene.caption
    axis = np.arange(SIZE, dtype=np.float32) + 0.5
    centres = scene.positions(np.asarray(frames)).astype(np.float32)
    dx = axis[None, None, :] - centres[:, 0, None, None]
    dy = axis[None, :, None] - centres[:, 1, None, None]
    cover = np.clip(0.5 - _signed_distance(caption.shape, dx, dy, np.float32(scene.radius)), 0, 1)[..., None]
    background = np.asarray(BACKGROUNDS[caption.background], dtype=np.float32)
    video = background + cover * (np.asarray(COLOURS[caption.colour], dtype=np.float32) - background)
    if caption.pillar:
        pillar = np.clip(PILLAR_HALF_WIDTH + 0.5 - np.abs(axis - np.float32(scene.pillar_x)), 0, 1)[:, None]
        video += pillar * (np.asarray(PILLAR, dtype=np.float32) - video)
    return video


def _signed_distance(
    shape: str, dx: NDArray[np.float32], dy: NDArray[np.float32], radius: np.float32
) -> NDArray[np.float32]:
    """Returns how far each pixel lies outside the shape, in pixels (negative inside).

    A triangle's lower corners reach a tenth beyond the radius; squares and circles stay within it or nearly so.
    """
    if shape == "circle":
        return np.hypot(dx, dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - np.float32(0.84) * radius
    # An upward triangle: the highest of the distances to its three edges.
    slope = np.float32(math.sqrt(0.75))
    return np.maximum(
        dy - np.float32(0.6) * radius, np.abs(dx) * slope - dy * np.float32(0.5) - np.float32(0.5) * radius
    )
