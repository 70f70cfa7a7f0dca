"""Measures of a finished video against its caption, taken by tracking its pixels. For evaluation only.

Nothing is shared with the rewards: the object is found as what differs from the background, the outlines of the
three shapes are fitted to it, and the measures read the fits. What a pillar hides is left out, never counted as
missing. Scores are graded, so that a half-right video scores between.
Letters: F pixel frames, K clear frames (those whose outline is judged), H = W = 64 pixels, P = 40 pixels.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from envs.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    ORBIT_RADIUS,
    PILLAR,
    PILLAR_HALF_WIDTH,
    SHAPES,
    SIZE,
    SPEEDS,
    Caption,
)

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

MIN_FRAMES = 9
CROP = 40  # pixels; the largest object is 28 wide
MIN_CONTRAST = 0.15  # RGB distance from the background below which nothing is found
FULL_CONTRAST = 0.35  # a little less than any colour's from any background
MIN_AREA = 40  # pixels of a whole object
MIN_AREA_BEHIND_PILLAR = 10
HOP = 8  # frames over which straight motion is predicted
ORBIT_WINDOW = 33  # frames over which circling is fitted
WALL_TOLERANCE = 6.0  # pixels from a wall where a turn counts as a bounce
HEADINGS = {"moving left": (0, -1), "moving right": (0, 1), "moving up": (1, -1), "moving down": (1, 1)}

# Edges of shapes of radius 1, each an outward normal (x, y) and its distance from the centre.
EDGES = {
    "square": ((1.0, 0.0, 0.84), (-1.0, 0.0, 0.84), (0.0, 1.0, 0.84), (0.0, -1.0, 0.84)),
    "triangle": ((0.0, 1.0, 0.6), (0.75**0.5, -0.5, 0.5), (-(0.75**0.5), -0.5, 0.5)),
}
AREAS = {"circle": np.pi, "square": 1.68**2, "triangle": 1.28 / 0.75**0.5}  # of radius 1
GROWTH = {"circle": 1.0, "square": 0.84, "triangle": 0.53}  # how far edges move when the radius grows by 1

_PILLAR = np.array(PILLAR, dtype=np.float32)
_COLOURS = np.array(list(COLOURS.values()), dtype=np.float32)
_BACKGROUNDS = np.array(list(BACKGROUNDS.values()), dtype=np.float32)


class Measures(NamedTuple):
    """Six measures in [0, 1], and two facts that acceptance needs.

    subject: an object is there. appearance: its colour and shape are as asked. identity: its colour, size and shape
    stay. background: colour and pillar as asked, steady and plain. motion: as asked, and smooth. sharpness: edges as
    narrow as a rendering's, and no noise.
    found: the fraction of frames in which the object is found.
    background_right: whether the background's colour is nearest to the asked one in nine frames of ten.
    """

    subject: float
    appearance: float
    identity: float
    background: float
    motion: float
    sharpness: float
    found: float
    background_right: bool

    @property
    def truth(self) -> float:
        """The mean of the six measures: the primary metric."""
        return float(np.mean(self[:6]))


class _Plate(NamedTuple):
    """What is behind and before the object.

    colours: `[F, 3]` of the background. pillar: `[F, W]` how much of a column is pillar, from 0 to 1.
    visible: `[F, W]` columns that the pillar does not touch.
    """

    colours: Floats
    pillar: Floats
    visible: Flags


class _Sighting(NamedTuple):
    """Where the object is, roughly, in each frame.

    found: `[F]`. contrast: `[F]` RGB distance from the background. area: `[F]` visible pixels.
    corners: `[F, 2]` (x, y) of the crop's first pixel. cover: `[F, P, P]` how much of a pixel the object covers.
    seen: `[F, P, P]` pixels inside the frame and not hidden. colours: `[F, 3]`. start: `[F, 3]` a first guess of x and
    y (pixels in the crop) and of the area (pixels).
    """

    found: Flags
    contrast: Floats
    area: Floats
    corners: NDArray[np.int64]
    cover: Floats
    seen: Flags
    colours: Floats
    start: Floats


class _Views(NamedTuple):
    """The object's outline in clear frames.

    frames: `[K]`. colours: `[K, 3]`. overlaps: `[K, 3]` intersection over union with each of SHAPES. radii: `[K]`
    pixels. edges: `[K]` the outline's width over a rendering's.
    """

    frames: NDArray[np.int64]
    colours: Floats
    overlaps: Floats
    radii: Floats
    edges: Floats


def measure(video: NDArray[Any], caption: Caption) -> Measures:
    """Returns the measures of a video against its caption.

    Args:
        video: `[F, H, W, 3]` from the start of its stream, at least 9 frames; uint8, or float in [0, 1].
        caption: what the video was asked to show.

    Raises:
        ValueError: the video has another shape, or fewer frames.
    """
    if video.ndim != 4 or video.shape[1:] != (SIZE, SIZE, 3) or len(video) < MIN_FRAMES:
        raise ValueError(f"video must be [F, {SIZE}, {SIZE}, 3] with F >= {MIN_FRAMES}, got {list(video.shape)}")
    pixels = video.astype(np.float32) / np.float32(255 if video.dtype == np.uint8 else 1)
    plate = _read_plate(pixels)
    sighting = _sight(pixels, plate)
    if not sighting.found.any():
        everywhere = np.broadcast_to(plate.visible[:, None, :], pixels.shape[:3])
        background = _background(pixels, plate, everywhere, caption)
        return Measures(0.0, 0.0, 0.0, background, 0.0, 0.0, 0.0, _background_right(plate, caption))
    views = _view(sighting)
    shape = SHAPES[int(views.overlaps.mean(0).argmax())]
    radius = np.median(views.radii)
    centres = _follow(sighting, shape, radius)
    plain = _plain_area(sighting, plate, centres, radius)
    return Measures(
        subject=_presence(sighting, plate),
        appearance=_appearance(views, caption),
        identity=_identity(views),
        background=_background(pixels, plate, plain, caption),
        motion=_motion(centres, sighting.found, float(radius), caption),
        sharpness=_sharpness(pixels, plain, views),
        found=float(sighting.found.mean()),
        background_right=_background_right(plate, caption),
    )


def _read_plate(pixels: Floats) -> _Plate:
    # Object and pillar together never cover half of a frame, so the median pixel is background.
    colours = np.median(pixels[:, ::2, ::2].reshape(len(pixels), -1, 3), axis=1)
    # The dark blue of night is near the pillar's brown; no object's colour is within 0.45.
    span = np.clip(_length(colours - _PILLAR), 0.1, 0.45)
    away = _length(pixels[:, ::2] - _PILLAR) / span[:, None, None]
    pillar = np.clip(2 - 3 * away, 0, 1).mean(1)
    return _Plate(colours, pillar, ~ndimage.binary_dilation(pillar > 0.35, np.ones((1, 3), bool)))


def _sight(pixels: Floats, plate: _Plate) -> _Sighting:
    num_frames = len(pixels)
    distance = _length(pixels - plate.colours[:, None, None]) * plate.visible[:, None]
    # Averaging 3 x 3 keeps single noisy pixels from passing for an object.
    smooth = ndimage.uniform_filter(distance, (0, 3, 3)).reshape(num_frames, -1)
    contrast = np.partition(smooth, -12, axis=1)[:, -12:].mean(1)
    mask = distance > np.maximum(contrast / 2, MIN_CONTRAST / 2)[:, None, None]
    crowded = ndimage.uniform_filter(mask[:, ::2, ::2].astype(np.float32), (0, 11, 11)).reshape(num_frames, -1)
    y, x = np.divmod(crowded.argmax(1), SIZE // 2)
    corners = 2 * np.stack([x, y], 1) - CROP // 2
    crop, inside = _crop(pixels, corners)
    object_mask, _ = _crop(mask, corners)
    object_mask &= inside
    columns = corners[:, :1] + np.arange(CROP)
    seen = inside & np.take_along_axis(plate.visible, np.clip(columns, 0, SIZE - 1), 1)[:, None]
    area = object_mask.sum((1, 2)).astype(np.float32)
    found = (contrast > MIN_CONTRAST) & (area >= _needed_area(plate) / 2)

    offset = crop - plate.colours[:, None, None]
    # The core's colour: pixels far from the background tell it from the soft edge.
    weights = object_mask * np.square(offset).sum(-1) ** 2
    weights /= np.maximum(weights.sum((1, 2), keepdims=True), 1e-9)
    core = np.einsum("fpq,fpqc->fc", weights, offset)
    strength = np.maximum(np.square(core).sum(1), 1e-6)[:, None, None]
    cover = np.clip(np.einsum("fpqc,fc->fpq", offset, core) / strength, 0, 1)
    start = _first_guess(object_mask, seen)
    return _Sighting(found, contrast, area, corners, cover, seen, core + plate.colours, start)


def _first_guess(mask: Flags, seen: Flags) -> Floats:
    """Returns `[F, 3]` (x, y, area) of masks `[F, P, P]`, with hidden columns filled from their neighbours."""
    axis = np.arange(CROP)
    columns = seen.any(1)
    # Nearest visible column on each side of every column; a hidden pixel is the mean of the two.
    left = np.maximum.accumulate(np.where(columns, axis, -1), axis=1)
    right = np.minimum.accumulate(np.where(columns, axis, CROP)[:, ::-1], axis=1)[:, ::-1]
    left, right = np.where(left < 0, right, left) % CROP, np.where(right == CROP, left, right) % CROP
    sides = [np.take_along_axis(mask, side[:, None], 2) for side in (left, right)]
    filled = np.mean(sides, axis=0, dtype=np.float32)
    area = np.maximum(filled.sum((1, 2)), 1)
    return np.stack([filled.sum(1) @ axis / area, filled.sum(2) @ axis / area, area], 1).astype(np.float32)


def _view(sighting: _Sighting) -> _Views:
    """Fits every shape in about every fifth frame, at the least hidden of its neighbours."""
    hidden = (~sighting.seen).sum((1, 2))
    found = np.flatnonzero(sighting.found)
    groups = np.array_split(found, np.clip(len(found) // 5, 1, 48))
    frames = np.array([group[hidden[group].argmin()] for group in groups])
    cover, seen = sighting.cover[frames], sighting.seen[frames]
    fits, overlaps = [], []
    for shape in SHAPES:
        fit = sighting.start[frames].copy()
        fit[:, 2] = np.sqrt(fit[:, 2] / np.float32(AREAS[shape]))
        fit = _fit(cover, seen, shape, fit, free_radius=True)
        # Both at twice the contrast: the shape is judged by its half-way contour, sharpness apart.
        outline, sharper = _outline(shape, fit, 0.5), np.clip(2 * cover - 0.5, 0, 1)
        shared, either = np.minimum(outline, sharper), np.maximum(outline, sharper)
        overlaps.append((shared * seen).sum((1, 2)) / np.maximum((either * seen).sum((1, 2)), 1e-6))
        fits.append(fit)
    best = int(np.mean(overlaps, axis=1).argmax())
    ideal = _outline(SHAPES[best], fits[best], 1.0)
    width, ideal_width = ((_half_covered(image) * seen).sum((1, 2)) for image in (cover, ideal))
    edges = width / np.maximum(ideal_width, 1)
    return _Views(frames, sighting.colours[frames], np.stack(overlaps, 1), fits[best][:, 2], edges)


def _half_covered(cover: Floats) -> Floats:
    """Returns how much of an edge each pixel is; covers below 0.1 or above 0.9 are ripples, and none."""
    return np.clip(2 - 5 * np.abs(cover - np.float32(0.5)), 0, 1)


def _follow(sighting: _Sighting, shape: str, radius: np.floating[Any]) -> Floats:
    """Returns the object's centres `[F, 2]` as (x, y) in pixels; where it is not found, a line between neighbours."""
    found = np.flatnonzero(sighting.found)
    start = sighting.start[found].copy()
    start[:, 2] = radius
    fit = _fit(sighting.cover[found], sighting.seen[found], shape, start, free_radius=False)
    known = fit[:, :2] + sighting.corners[found] + np.float32(0.5)
    frames = np.arange(len(sighting.found))
    return np.stack([np.interp(frames, found, known[:, axis]) for axis in (0, 1)], 1).astype(np.float32)


def _fit(cover: Floats, seen: Flags, shape: str, start: Floats, *, free_radius: bool) -> Floats:
    """Returns `[N, 3]` (x, y, radius) that bring a shape's outline closest to `cover` where it is seen.

    Gauss-Newton on outlines that start soft, so that an outline some pixels off still feels its edge.
    """
    fit = start.copy()
    unknowns = 3 if free_radius else 2
    for softness in (6.0, 4.0, 2.0, 2.0):
        outline = _outline(shape, fit, softness)
        down, across = np.gradient(outline, axis=(1, 2))
        band = ((outline > 0) & (outline < 1)) * np.float32(GROWTH[shape] / softness)
        slopes = np.stack([-across, -down, band][:unknowns], 1) * seen[:, None]
        slopes = slopes.reshape(len(fit), unknowns, -1)
        error = ((cover - outline) * seen).reshape(len(fit), -1, 1)
        normal = slopes @ slopes.transpose(0, 2, 1) + np.eye(unknowns, dtype=np.float32) * 0.1
        fit[:, :unknowns] += np.clip(np.linalg.solve(normal, slopes @ error)[..., 0], -3, 3)
        fit[:, 2] = np.clip(fit[:, 2], 4, 18)
    return fit


def _outline(shape: str, fit: Floats, softness: float) -> Floats:
    """Returns `[N, P, P]` covers of shapes at (x, y, radius), with edges `softness` pixels wide."""
    axis = np.arange(CROP, dtype=np.float32)
    x, y, radius = fit.T[..., None, None]
    dx, dy = axis - x, axis[:, None] - y
    if shape == "circle":
        outside = np.hypot(dx, dy) - radius
    else:
        edges = np.array(EDGES[shape], dtype=np.float32)
        outside = np.maximum.reduce([right * dx + below * dy - far * radius for right, below, far in edges])
    return np.clip(np.float32(0.5) - outside / np.float32(softness), 0, 1)


def _crop(values: NDArray[Any], corners: NDArray[np.int64]) -> tuple[NDArray[Any], Flags]:
    """Returns `[F, P, P, ...]` of values `[F, H, W, ...]`, and which of them lie inside the frame."""
    columns, rows = (corners[:, axis, None] + np.arange(CROP) for axis in (0, 1))
    inside = ((rows >= 0) & (rows < SIZE))[:, :, None] & ((columns >= 0) & (columns < SIZE))[:, None, :]
    rows, columns = np.clip(rows, 0, SIZE - 1), np.clip(columns, 0, SIZE - 1)
    return values[np.arange(len(values))[:, None, None], rows[:, :, None], columns[:, None, :]], inside


def _plain_area(sighting: _Sighting, plate: _Plate, centres: Floats, radius: np.floating[Any]) -> Flags:
    """Returns `[F, H, W]`: background that neither the object nor the pillar touches."""
    axis = np.arange(SIZE) + 0.5
    x, y = centres.T[..., None, None]
    near = np.hypot(axis - x, axis[:, None] - y) < radius + 4
    clear = ~ndimage.binary_dilation(~plate.visible, np.ones((1, 3), bool))
    return ~(near & sighting.found[:, None, None]) & clear[:, None]


def _presence(sighting: _Sighting, plate: _Plate) -> float:
    whole = np.clip(sighting.area / _needed_area(plate), 0, 1)
    return float((whole * np.clip(sighting.contrast / FULL_CONTRAST, 0, 1)).mean())


def _needed_area(plate: _Plate) -> NDArray[np.int64]:
    return np.where(plate.visible.all(1), MIN_AREA, MIN_AREA_BEHIND_PILLAR)


def _appearance(views: _Views, caption: Caption) -> float:
    distances = _length(views.colours[:, None] - _COLOURS)
    asked = list(COLOURS).index(caption.colour)
    nearest_other = np.delete(distances, asked, axis=1).min(1)
    colour = 1 / (1 + np.square(distances[:, asked] / np.maximum(nearest_other, 1e-3)))
    asked = SHAPES.index(caption.shape)
    overlap, other = views.overlaps[:, asked], np.delete(views.overlaps, asked, axis=1).max(1)
    shape = np.clip((overlap - 0.4) / 0.5, 0, 1) / (1 + np.exp(-60 * (overlap - other)))
    return float(np.sqrt(colour * shape).mean())


def _identity(views: _Views) -> float:
    """Returns how alike the object is in two frames, over all pairs of clear frames."""
    colour = _alike(_length(views.colours[:, None] - views.colours), 0.2)
    size = _alike(np.log(views.radii[:, None] / views.radii), 0.2)
    likely = np.exp(40 * (views.overlaps - views.overlaps.max(1, keepdims=True)))
    likely /= likely.sum(1, keepdims=True)
    shape = 1 - np.abs(likely[:, None] - likely).sum(-1) / 2
    return float((colour * size * shape).mean())


def _background(pixels: Floats, plate: _Plate, plain: Flags, caption: Caption) -> float:
    usual = np.median(plate.colours, axis=0)
    colour = _alike(_length(usual - _BACKGROUNDS[list(BACKGROUNDS).index(caption.background)]), 0.15)
    strayed = np.square(pixels - usual).sum(-1)
    steady = _alike(np.sqrt((strayed * plain).sum() / max(plain.sum(), 1)), 0.12)
    width = plate.pillar.sum(1)
    wrong = np.abs(width - 2 * PILLAR_HALF_WIDTH * caption.pillar)
    # A pixel more or less is how the pillar's edges fall on the grid.
    pillar = 1 - np.clip((wrong - 1) / (2 * PILLAR_HALF_WIDTH - 1), 0, 1).mean()
    if caption.pillar and (width > 0).any():
        places = (plate.pillar @ np.arange(SIZE))[width > 0] / width[width > 0]
        pillar *= _alike(places.std(), 2.0)
    return float(colour * steady * pillar)


def _background_right(plate: _Plate, caption: Caption) -> bool:
    distances = _length(plate.colours[:, None] - _BACKGROUNDS)
    asked = list(BACKGROUNDS).index(caption.background)
    return bool((distances.argmin(1) == asked).mean() >= 0.9)


def _motion(centres: Floats, found: Flags, radius: float, caption: Caption) -> float:
    predict = _orbit_errors if caption.motion == "circling" else _straight_errors
    speed = SPEEDS[caption.speed]
    # Standing still is off by half the way of a hop on average; a tenth of that costs little.
    scale = 0.3 * speed * HOP / 2 + 0.5
    scores = [
        _alike(errors[seen].mean(), scale) * seen.mean() if seen.any() else 0.0
        for errors, seen in predict(centres, found, radius, caption)
    ]
    # Hops judge the course. A leap spoils but one of them, so steps are judged too.
    leaps = np.clip(_length(np.diff(centres, axis=0)) - 2 * speed - 2, 0, 10)
    return float(np.mean(scores) * np.exp(-3 * leaps.mean()))


def _straight_errors(
    centres: Floats, found: Flags, radius: float, caption: Caption
) -> list[tuple[NDArray[np.float64], Flags]]:
    """Returns per hop how far (pixels) the object is from where the hop's first frame and the heading put it.

    The heading starts as asked and turns where the prediction meets a wall. Near a wall it may turn earlier.
    """
    axis, heading = HEADINGS[caption.motion]
    span = SIZE - 2 * radius
    way = SPEEDS[caption.speed] * np.arange(HOP + 1)
    hops = []
    for start in range(0, len(centres) - HOP, HOP):
        window = centres[start : start + HOP + 1]
        place = np.clip(window[0, axis] - radius, 0, span)
        near_wall = min(place, span - place) < WALL_TOLERANCE
        options = []
        for turn in (heading, -heading) if near_wall else (heading,):
            # The way unfolded: up the span and back down again.
            unfolded = ((place if turn > 0 else 2 * span - place) + way) % (2 * span)
            target = np.repeat(window[:1].astype(np.float64), HOP + 1, axis=0)
            target[:, axis] = radius + span - np.abs(unfolded - span)
            options.append((_length(window - target), 1 if unfolded[-1] < span else -1))
        errors, heading = min(options, key=lambda option: float(option[0].mean()))
        hops.append((errors, found[start : start + HOP + 1]))
    return hops


def _orbit_errors(
    centres: Floats, found: Flags, radius: float, caption: Caption
) -> list[tuple[NDArray[np.float64], Flags]]:
    """Returns per window how far (pixels) the object is from the nearest orbit of the asked radius and speed."""
    length = min(len(centres), ORBIT_WINDOW)
    angles = SPEEDS[caption.speed] / ORBIT_RADIUS * np.arange(length)
    turning = np.exp(1j * angles)
    windows = []
    for start in range(0, len(centres) - length + 1, HOP):
        path = centres[start : start + length, 0] + 1j * centres[start : start + length, 1]
        # Least squares for centre + arm * turning; the arm then gets the asked length.
        free = turning - turning.mean()
        arm = (free.conj() * path).sum() / np.square(np.abs(free)).sum()
        orbit = ORBIT_RADIUS * np.exp(1j * np.angle(arm)) * turning
        windows.append((np.abs(path - orbit - (path - orbit).mean()), found[start : start + length]))
    return windows


def _sharpness(pixels: Floats, plain: Flags, views: _Views) -> float:
    # Half again as wide costs nothing; the root leaves room below the edges of a codec, some four times as wide.
    edges = np.sqrt(np.clip(1.5 / np.maximum(views.edges, 1e-3), 0, 1)).mean()
    some, area = pixels[views.frames], plain[views.frames]
    both = area[:, :, 1:] & area[:, :, :-1]
    steps = np.square(some[:, :, 1:] - some[:, :, :-1]).mean(-1)
    noise = np.sqrt((steps * both).sum() / max(both.sum(), 1) / 2)
    return float(edges * _alike(noise, 0.06))


def _alike(difference: Any, scale: float) -> Any:
    """Returns 1 for no difference, falling to 0.37 at `scale`."""
    return np.exp(-np.square(difference / scale))


def _length(vectors: NDArray[Any]) -> NDArray[Any]:
    return np.sqrt(np.einsum("...c,...c->...", vectors, vectors))
