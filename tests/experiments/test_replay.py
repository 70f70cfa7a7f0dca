"""A stored trial is made again from what it says of itself, and what differs is said."""

import json
from pathlib import Path

import pytest

from experiments.run import main

PROMPT = "a fast red circle moving left on a sand background"
LINE = ["--prompts", PROMPT, "--num-chunks", "5", "--out", "x", "--deterministic"]


def _trials() -> list[Path]:
    return sorted(Path("x/trials").glob("[0-9a-f]*"))


def test_trials_are_made_again_bit_by_bit(small_world, capsys):
    policies = ["greedy", "stream-t1-append-only", "preview-pruning"]
    settings = ["--memory.positions", "window", "--max-passes", "90", "--measure-candidates", "--long-window", "2"]
    assert main([*LINE, "--policies", *policies, "--budget", "2x", *settings]) == 0
    assert len(_trials()) == 3
    for folder in _trials():
        stored = json.loads((folder / "trial.json").read_text())["result"]
        capsys.readouterr()
        assert main(["--replay", str(folder)]) == 0
        [name, verdict] = capsys.readouterr().out.splitlines()
        assert name == f"{stored['label']}, seed 0, {PROMPT!r}" and verdict == "bit-equal"


def test_replay_says_what_is_different(small_world, capsys):
    assert main([*LINE, "--policies", "beam-search"]) == 0
    [folder] = _trials()
    path = folder / "trial.json"
    stored = json.loads(path.read_text())
    stored["made-with"]["versions"]["torch"] = "1.0"
    stored["pixels"] = "others"
    stored["result"]["curve"][2]["short"] += 0.25
    path.write_text(json.dumps(stored))
    capsys.readouterr()
    assert main(["--replay", str(folder)]) == 1
    [_, change, verdict] = capsys.readouterr().out.splitlines()
    assert change.startswith("versions.torch was 1.0 and is ")
    assert verdict == "differs: pixels are others, scores of chunks at most 0.25 apart"


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("{", "damaged or older"), ("{}", "older")])
def test_replay_of_what_is_no_trial_is_refused(content, reason, small_world, capsys):
    Path("y").mkdir()
    if content is not None:
        Path("y/trial.json").write_text(content)
    assert main(["--replay", "y"]) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith("run: replay must be a trial's folder, got y") and reason in sentence
