"""The rehearsal at full size, at a small one: every phase is counted, and what it interrupts goes on."""

import json
from pathlib import Path

import pytest
import torch

from experiments.benchmark import rehearsal
from experiments.benchmark.rehearsal import Meter
from experiments.worlds import loading

OWN_MODULE = """
def brightness(*, frames, prompts):
    return frames.mean((2, 3, 4))

def contrast(*, windows, prompts):
    return windows.std((1, 2, 3, 4))
"""
OWN = "own_rewards_of_rehearsals"
LINE = ["--reduced", "--height", "32", "--width", "48", "--dtype", "float32", "--device", "cpu", "--judges"]
LINE += [f"{OWN}:contrast", "--rewards.image", f"{OWN}:brightness", "--rewards.video", f"{OWN}:brightness"]
PHASES = ["denoising", "decoding", "scoring", "final video", "judging"]


def test_rehearsal_measures_every_phase_of_every_trial(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / f"{OWN}.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    loading.load.cache_clear()
    rehearsal.main([*LINE, "--policies", "greedy", "stream-t1", "--num-chunks", "2", "--out", "x"])
    said, written = capsys.readouterr().out, json.loads(Path("x/rehearsal.json").read_text())
    assert [trial["label"] for trial in written["trials"]] == ["greedy", "stream-t1"]
    for trial in written["trials"]:
        assert trial["frames"] == 21 and set(trial["used"]) == set(PHASES)
        assert all(used["seconds"] > 0 for used in trial["used"].values())
        search = sum(trial["used"][name]["seconds"] for name in ("decoding", "scoring", "denoising"))
        assert search <= trial["seconds"]
        assert f"{trial['label']}: 21 frames" in said
    assert {*written["planned_bytes"], "judging"} == set(PHASES)  # nothing is known of a judge of one's own
    assert not Path("wandb").exists()


def test_phase_that_is_interrupted_is_counted_without_what_interrupts_it():
    meter = Meter()
    with meter.phase("outer"):
        with meter.phase("inner"):
            torch.linalg.svd(torch.randn(200, 200))
        with meter.phase("inner"):
            pass
    assert list(meter.used) == ["outer", "inner"]
    assert meter.used["outer"].seconds < meter.used["inner"].seconds


def test_command_that_is_wrong_is_refused_in_a_sentence():
    with pytest.raises(SystemExit, match="rehearsal: memory_budget 3GB cannot hold"):
        rehearsal.main(["--memory-budget", "3GB"])
