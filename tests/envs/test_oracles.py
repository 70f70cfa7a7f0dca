"""The oracles: full marks for renderings, and for each fault a lower mark of the measure meant for it."""

from dataclasses import replace

import numpy as np
import pytest

from envs.shapes.oracles import Measures, measure
from envs.shapes.world import Caption, Scene, all_captions, render
from experiments.train_shapes.corruptions import MOTION, VISUAL

CAPTIONS = list(all_captions())


def _make_scenes(count: int, *, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [Scene.sample(CAPTIONS[rng.integers(len(CAPTIONS))], rng) for _ in range(count)]


def _mean(measures: list[Measures]) -> Measures:
    return Measures(*(np.mean(values) for values in zip(*measures, strict=True)))


@pytest.mark.parametrize(("num_frames", "count"), [(81, 40), (9, 40), (477, 3)])
def test_renderings_get_full_marks(num_frames: int, count: int):
    scenes = _make_scenes(count)
    assert any(scene.caption.pillar for scene in scenes)
    mean = _mean([measure(render(scene, range(num_frames)), scene.caption) for scene in scenes])
    assert min(mean) >= 0.97, mean
    assert mean.found == 1 and mean.background_right == 1


@pytest.mark.parametrize(
    ("fault", "meant"),
    {
        "blur": "sharpness",
        "noise": "sharpness",
        "flicker": "background",
        "tint": "background",
        "drift": "background",
        "fade": "subject",
        "vanish": "subject",
        "smear": "sharpness",
        "recolour": "identity",
        "reshape": "identity",
        "resize": "identity",
        "freeze": "motion",
        "stutter": "motion",
        "jump": "motion",
        "jitter": "motion",
    }.items(),
)
def test_a_fault_lowers_the_measure_meant_for_it(fault: str, meant: str):
    corrupt, rng = {**VISUAL, **MOTION}[fault], np.random.default_rng(1)
    bad = [measure(corrupt(scene, np.arange(81), 0.9, rng), scene.caption) for scene in _make_scenes(4)]
    mean = _mean(bad)
    assert getattr(mean, meant) <= 0.75
    assert mean.truth <= 0.96


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ({"colour": "purple"}, "appearance"),
        ({"shape": "triangle"}, "appearance"),
        ({"background": "night"}, "background"),
        ({"pillar": True}, "background"),
        ({"motion": "moving up"}, "motion"),
        ({"motion": "moving right"}, "motion"),
        ({"motion": "circling"}, "motion"),
        ({"speed": "fast"}, "motion"),
    ],
    ids=str,
)
def test_a_wrong_word_lowers_the_measure_meant_for_it(change: dict[str, object], meant: str):
    caption = Caption(speed="slow", colour="red", shape="square", motion="moving left", background="sand")
    scene = Scene(caption=caption, x=45, y=30, radius=11)
    video = render(scene, range(81))
    assert getattr(measure(video, replace(caption, **change)), meant) <= 0.5
    assert getattr(measure(video, caption), meant) >= 0.97


@pytest.mark.parametrize("fault", ["blur", "noise", "tint", "recolour", "jitter"])
def test_marks_fall_gradually(fault: str):
    corrupt, scenes = {**VISUAL, **MOTION}[fault], _make_scenes(4, seed=3)
    truths = [
        np.mean(
            [
                measure(corrupt(scene, np.arange(45), severity, np.random.default_rng(0)), scene.caption).truth
                for scene in scenes
            ]
        )
        for severity in (0.0, 0.2, 0.5, 1.0)
    ]
    assert truths == sorted(truths, reverse=True)
    assert truths[1] >= 0.75


def test_bytes_and_floats_are_measured_alike():
    (scene,) = _make_scenes(1)
    video = render(scene, range(21))
    first, second = measure(video, scene.caption), measure((video * 255).round().astype(np.uint8), scene.caption)
    assert np.allclose(first, second, atol=0.02)


def test_a_video_without_an_object_has_only_its_background():
    caption = Caption(speed="slow", colour="red", shape="square", motion="moving left", background="sand")
    empty = np.broadcast_to(np.float32((0.85, 0.76, 0.60)), (20, 64, 64, 3))
    result = measure(empty, caption)
    assert result.background == 1 and result.background_right
    assert sum(result[:6]) == 1 and result.found == 0


@pytest.mark.parametrize("shape", [(8, 64, 64, 3), (20, 32, 64, 3), (20, 64, 64), (20, 3, 64, 64)])
def test_videos_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"video must be .*got \["):
        measure(np.zeros(shape), CAPTIONS[0])
