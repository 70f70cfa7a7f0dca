"""Unseen prompts: what studies report on and what settings are chosen on have nothing in common."""

from collections import Counter
from dataclasses import astuple

import pytest

from envs.shapes.world import Caption, all_captions, is_held_out
from experiments.prompts import returning_prompts, unseen_prompts
from searchkit.schedule import cues

NUM_REPORT, NUM_TUNING = 120, 60


def test_every_held_out_prompt_is_for_reports_or_for_tuning():
    report, tuning = unseen_prompts(NUM_REPORT), unseen_prompts(NUM_TUNING, tuning=True)
    assert not set(report) & set(tuning)
    assert {*report, *tuning} == {str(caption) for caption in all_captions() if is_held_out(caption)}


@pytest.mark.parametrize("tuning", [False, True])
def test_longer_lists_begin_as_shorter_ones(tuning):
    longest = unseen_prompts(NUM_TUNING, tuning=tuning)
    assert all(unseen_prompts(num, tuning=tuning) == longest[:num] for num in (1, 4, 16, 24))


def test_prompts_stay_what_they_are():
    assert unseen_prompts(2) == (
        "a fast blue circle moving down behind a pillar on a sand background",
        "a slow green square circling on a slate background",
    )
    assert unseen_prompts(1, tuning=True) == ("a fast purple square moving down behind a pillar on a snow background",)


@pytest.mark.parametrize("num", [16, 24, 64])
def test_lists_use_the_values_of_every_word_about_evenly(num):
    captions = [astuple(Caption.parse(prompt)) for prompt in unseen_prompts(num)]
    for values, choices in zip(zip(*captions, strict=True), (2, 6, 3, 5, 4, 2), strict=True):
        counts = Counter(values)
        assert len(counts) == choices and max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize(("num", "tuning"), [(NUM_REPORT + 1, False), (NUM_TUNING + 1, True), (0, False), (-1, True)])
def test_more_prompts_than_there_are_are_refused(num, tuning):
    with pytest.raises(ValueError, match=f"num_prompts must be from 1 to .* got {num}"):
        unseen_prompts(num, tuning=tuning)


def test_returning_prompts_come_back_to_where_they_were():
    for prompt in returning_prompts(16):
        first, other, last = (cue.text for cue in cues(prompt, 18, shares=True))
        assert first == last != other
        assert {first, other} <= set(unseen_prompts(32))
    assert set(returning_prompts(16)).isdisjoint(returning_prompts(30, tuning=True))
    with pytest.raises(ValueError, match="num_prompts must be from 1 to 60, all returning report prompts, got 61"):
        returning_prompts(61)
