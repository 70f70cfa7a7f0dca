"""The world: prompts and captions are the same thing said twice, and a scene is a pure function of time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.shapes.world import (
    MOTIONS,
    RADII,
    SIZE,
    WORDS,
    Caption,
    Scene,
    all_captions,
    is_held_out,
    render,
)

CAPTIONS = list(all_captions())


def test_captions_survive_being_written_and_parsed():
    assert all(Caption.parse(str(caption)) == caption for caption in CAPTIONS)


def test_captions_are_all_different():
    assert len(set(CAPTIONS)) == len(CAPTIONS) == 1440


def test_prompts_may_differ_in_case_space_and_full_stop():
    caption = Caption(speed="slow", colour="red", shape="circle", motion="moving left", background="sand")
    assert Caption.parse(" A slow RED circle\n moving left on a sand  background.") == caption


def test_unknown_words_are_named_with_the_nearest_known_one():
    with pytest.raises(ValueError, match=r"'gren' \(nearest: 'green'\)"):
        Caption.parse("a slow gren circle moving left on a sand background")


def test_known_words_in_a_wrong_order_are_answered_with_the_grammar():
    with pytest.raises(ValueError, match="SPEED COLOUR SHAPE MOTION"):
        Caption.parse("a red slow circle moving left on a sand background")


def test_held_out_captions_are_one_in_eight_and_cover_every_word():
    held_out = [caption for caption in CAPTIONS if is_held_out(caption)]
    trained = [caption for caption in CAPTIONS if not is_held_out(caption)]
    assert len(held_out) == pytest.approx(len(CAPTIONS) / 8, rel=0.1)
    for captions in (held_out, trained):
        words = {word for caption in captions for word in str(caption).split()}
        assert words >= set(WORDS) - {"an"}  # no speed starts with a vowel


def test_the_same_seed_samples_the_same_scene_and_renders_the_same_pixels():
    first, second = (Scene.sample(CAPTIONS[7], np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert np.array_equal(render(first, range(9)), render(second, range(9)))


def test_a_frame_is_the_same_whichever_frames_are_rendered_with_it():
    scene = Scene.sample(CAPTIONS[100], np.random.default_rng(0))
    assert np.array_equal(render(scene, range(30))[20:], render(scene, range(20, 30)))


@given(st.integers(0, len(CAPTIONS) - 1), st.integers(0, 2**32 - 1))
def test_objects_stay_within_the_walls(index: int, seed: int):
    scene = Scene.sample(CAPTIONS[index], np.random.default_rng(seed))
    positions = scene.positions(np.arange(500))
    assert RADII[0] <= scene.radius <= RADII[1]
    assert positions.min() >= scene.radius - 1e-6
    assert positions.max() <= SIZE - scene.radius + 1e-6


@pytest.mark.parametrize("motion", MOTIONS)
def test_objects_move_as_far_a_frame_as_their_speed_says(motion: str):
    caption = Caption(speed="fast", colour="red", shape="square", motion=motion, background="night")
    positions = Scene.sample(caption, np.random.default_rng(1)).positions(np.arange(200))
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    assert steps.max() <= 1.5 + 1e-6
    assert np.median(steps) == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize("caption", CAPTIONS[::97], ids=str)
def test_renderings_are_colours(caption: Caption):
    video = render(Scene.sample(caption, np.random.default_rng(2)), range(5))
    assert video.dtype == np.float32 and video.shape == (5, SIZE, SIZE, 3)
    assert video.min() >= 0 and video.max() <= 1
