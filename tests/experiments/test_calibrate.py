"""Calibrations measured on plain videos, stored, and given to searches."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from experiments.arguments import parse
from experiments.calibrate import main, measure
from experiments.calibration import calibrated, read, with_calibration, write
from experiments.config import Experiment, with_prompts
from experiments.worlds import world_of
from policies import BestOfN, Greedy, StreamT1
from searchkit.fusion import Calibration, Fusion
from searchkit.types import Scores

PROMPTS = ("a fast red circle moving left on a sand background", "a slow blue square moving up on a slate background")
EXPERIMENT = Experiment(prompts=PROMPTS, num_chunks=2, policies=(StreamT1(),))
SCORES = (Scores(0.0, 3.0), Scores(2.0, 7.0))
FIXED = Calibration(scale="fixed", short_mean=1.0, short_deviation=1.0, long_mean=5.0, long_deviation=2.0)


def test_calibration_gives_the_scores_it_was_measured_on_mean_0_and_deviation_1(small_world):
    seen: list[Scores] = []
    measured = measure(EXPERIMENT, on_video=lambda trial, scores: seen.extend(scores))
    assert measured.num_scores == len(seen) == 4 and measured.scored_by == {"model": "shapes"}
    greedy = Greedy()(world_of(EXPERIMENT).make_stream(EXPERIMENT, PROMPTS[0]), seed=0)
    assert seen[:2] == [record.scores for record in greedy.records]
    for values in zip(*measured.calibration(seen), strict=True):
        assert fmean(values) == pytest.approx(0, abs=5e-3) and pstdev(values) == pytest.approx(1, rel=1e-3)


def test_command_writes_what_a_search_takes(small_world, capsys):
    line = ["--prompts", *PROMPTS, "--num-chunks", "1", "--seeds", "3"]
    assert main([*line, "--out", "measured.json"]) == 0
    printed = capsys.readouterr().out
    stored = json.loads(Path("measured.json").read_text())["calibration"]
    assert f"--policy.fusion.calibration.long-mean {stored['long_mean']}" in printed
    assert "seed 3" in printed and "2 chunks measured" in printed

    searched = ["--policies", "greedy", "best-of-n", "stream-t1", "--calibration", "measured.json"]
    experiment = parse([*line, *searched]).experiment
    assert [getattr(policy, "fusion", None) for policy in experiment.policies[:2]] == [None, None]
    by_file = experiment.policies[2].fusion
    assert by_file == Fusion(calibration=Calibration(**stored)) and by_file.calibration.scale == "fixed"
    options = printed.splitlines()[-1].split()
    assert parse([*line, "--policy", "stream-t1", *options]).experiment.policies[0].fusion == by_file


def test_calibration_keeps_other_options_of_a_fusion():
    policies = (Greedy(), StreamT1(beam_width=3, fusion=Fusion(short_cap=0.1)))
    plain, changed = with_calibration(policies, FIXED)
    assert plain == policies[0]
    assert changed == StreamT1(beam_width=3, fusion=Fusion(short_cap=0.1, calibration=FIXED))
    assert with_calibration((changed,), FIXED) == (changed,)


def test_calibration_is_not_for_policies_that_have_one_or_take_none():
    with pytest.raises(ValueError, match=r"takes the place of fusion\.calibration, got scale rank"):
        with_calibration((StreamT1(fusion=Fusion(calibration=Calibration(scale="rank"))),), FIXED)
    with pytest.raises(ValueError, match="for policies that fuse scores"):
        with_calibration((Greedy(), BestOfN()), FIXED)


def test_calibration_of_other_rewards_is_refused(tmp_path):
    longlive = parse(["--model", "longlive", "--prompts", "A cat sits"]).experiment
    path = tmp_path / "x.json"
    write(path, calibrated(SCORES, longlive))
    assert read(path, longlive) == FIXED
    assert read(path, replace(longlive, num_chunks=3)) == FIXED
    other = replace(longlive.published, rewards=replace(longlive.published.rewards, image="pickscore"))
    with pytest.raises(ValueError, match=r"is of rewards\.image hpsv3, got rewards\.image pickscore"):
        read(path, replace(longlive, published=other))
    with pytest.raises(ValueError, match="is of model longlive, got model shapes"):
        read(path, EXPERIMENT)


def test_scores_that_do_not_differ_have_no_calibration():
    with pytest.raises(ValueError, match="short scores of 2 chunks do not differ"):
        calibrated([Scores(1.0, 2.0), Scores(1.0, 3.0)], with_prompts(EXPERIMENT))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not of experiments.calibrate"),
        ("[]", "is not of experiments.calibrate"),
        ('{"calibration": {"short_deviation": 0}}', "short_deviation must be a finite number above 0"),
    ],
)
def test_file_that_is_none_is_refused(content, message, tmp_path):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        parse(["--calibration", str(path)])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--policy stream-t1", "--policy is for searches"),
        ("--budget 4x", "--budget is for searches"),
        ("--dry-run", "--dry-run is for searches"),
        ("--num-chunks none --max-passes 9 --memory.positions window", "num_chunks must be a number"),
        ("--out nowhere/x.json", "out must be a file in a folder that is there"),
        ("--model longliv", "nearest is 'longlive'"),
    ],
)
def test_bad_option_exits_with_one_sentence(line, words, small_world, capsys):
    assert main(line.split()) == 2
    (refusal,) = capsys.readouterr().err.splitlines()
    assert refusal.startswith("calibrate: ") and words in refusal
    assert not Path("calibration.json").exists()
