"""Studies that are killed at random moments lose nothing; `python -m experiments.endure` kills more often."""

import json
from pathlib import Path

import pytest

from experiments import endure

PROMPT = "a fast red circle moving left on a sand background"
STUDY = ["--prompts", PROMPT, "--num-chunks", "5", "--seeds", "0", "1"]
STUDY += ["--policies", "greedy", "stream-t1", "preview-pruning"]


def test_killed_study_comes_to_the_same_results(small_world):
    found = endure.endure([*STUDY, "--engine", "in-process"], small_world, kills=8, longest=0.1)
    assert found.kills == 8 and found.trials == 6 * found.studies
    assert not list(small_world.glob("killed-*/trials/.*")), "nothing unfinished is left"


def test_what_is_lost_or_made_twice_is_named(tmp_path):
    before = endure.Written({"a": 1}, {"b/0": b"2", "c/0": b"3"})
    endure._check_kept(before, endure.Written({"a": 1, "c": 4}, {"b/0": b"2"}))
    with pytest.raises(AssertionError, match="trial a was lost or made twice"):
        endure._check_kept(before, endure.Written({"a": 5}, before.levels))
    with pytest.raises(AssertionError, match="level b/0 was lost"):
        endure._check_kept(before, endure.Written({"a": 1, "c": 4}, {}))


def test_other_results_are_named(small_world):
    study = ["--prompts", PROMPT, "--num-chunks", "2", "--policies", "greedy"]
    endure._run(study, Path("x"))
    [path] = Path("x/trials").glob("[0-9a-f]*")
    expected = endure._results(Path("x"))
    endure._check_same(expected, endure._results(Path("x")))
    stored = json.loads((path / "trial.json").read_text())
    stored["result"]["curve"][1]["seconds"] += 1.0
    (path / "trial.json").write_text(json.dumps(stored))
    endure._check_same(expected, endure._results(Path("x")))
    stored["result"]["curve"][1]["short"] += 1e-9
    (path / "trial.json").write_text(json.dumps(stored))
    with pytest.raises(AssertionError, match=f"trial {path.name} has another result"):
        endure._check_same(expected, endure._results(Path("x")))
