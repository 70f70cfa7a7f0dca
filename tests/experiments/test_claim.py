"""An output folder is one experiment's, and one process's at a time; what is wrong with one is one sentence."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.claim import claimed
from experiments.config import Experiment
from experiments.run import main
from policies import BeamSearch, Greedy

PROMPT = "a fast red circle moving left on a sand background"
EXPERIMENT = Experiment(prompts=(PROMPT,), num_chunks=2, seeds=(0, 1), policies=(Greedy(), BeamSearch()))
SHORT = ["--prompts", PROMPT, "--num-chunks", "2", "--policies", "greedy"]


def _claim(path: Path, experiment: Experiment = EXPERIMENT) -> None:
    with claimed(path, experiment):
        pass


def test_folder_in_which_nothing_was_made_is_free_for_another_experiment(tmp_path):
    _claim(tmp_path / "x")
    _claim(tmp_path / "x", dataclasses.replace(EXPERIMENT, num_chunks=40))
    assert json.loads((tmp_path / "x/experiment.json").read_text())["experiment"]["num-chunks"] == 40


def test_folder_of_another_experiment_is_refused(tmp_path):
    _claim(tmp_path / "x")
    (tmp_path / "x/trials").mkdir()
    _claim(tmp_path / "x")  # the same one is welcome
    with pytest.raises(ValueError, match=r"holds another experiment \(num-chunks: 2 there, 40 here\)"):
        _claim(tmp_path / "x", dataclasses.replace(EXPERIMENT, num_chunks=40))
    with pytest.raises(ValueError, match="greedy, beam-search there, greedy here"):
        _claim(tmp_path / "x", dataclasses.replace(EXPERIMENT, policies=(Greedy(),)))


def test_folder_of_foreign_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="holds files that are not an experiment's"):
        _claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_folder_with_a_damaged_marker_is_refused(tmp_path):
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged experiment\.json"):
        _claim(tmp_path)


def test_folder_of_an_older_version_is_refused_and_left_alone(tmp_path):
    _claim(tmp_path / "x")
    marker = json.loads((tmp_path / "x/experiment.json").read_text())
    older = json.dumps({**marker, "format": 4})
    (tmp_path / "x/experiment.json").write_text(older)
    with pytest.raises(ValueError, match=r"of another version of searchkit \(format 4, this one writes \d+\): choose"):
        _claim(tmp_path / "x")
    assert (tmp_path / "x/experiment.json").read_text() == older


def test_folder_is_one_processs_at_a_time(tmp_path):
    holds = "import sys, pathlib; from tests.experiments.test_claim import *; c = claimed(pathlib.Path(sys.argv[1]), "
    holds += "EXPERIMENT); c.__enter__(); print('claimed', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holds, str(tmp_path / "x")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "claimed\n"
        with pytest.raises(ValueError, match=f"is in use by process {other.pid} on .*: wait until that has ended"):
            _claim(tmp_path / "x")
        other.send_signal(signal.SIGKILL)
    _claim(tmp_path / "x")  # a process that was killed holds nothing


def test_command_on_a_folder_in_use_is_one_sentence(small_world, capsys):
    assert main([*SHORT, "--out", "x"]) == 0
    capsys.readouterr()
    with claimed(Path("x"), dataclasses.replace(EXPERIMENT, seeds=(0,), policies=(Greedy(),))):
        assert main([*SHORT, "--out", "x"]) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"run: output folder x is in use by process {os.getpid()} on ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False).returncode:
        pytest.skip("a small disk cannot be mounted: that takes root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_is_one_sentence_and_what_was_finished_is_kept(small_world, small_disk, capsys):
    line = ["--prompts", PROMPT, "--num-chunks", "2", "--policies", "greedy", "beam-search", "--out"]
    line += [str(small_disk / "x"), "--seeds", *map(str, range(4))]
    (small_disk / "ballast").write_bytes(bytes(8 * 2**20 - 150_000))
    assert main(line) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "no space is left on the disk" in sentence.lower() and "the same command goes on" in sentence
    finished = {path.name for path in (small_disk / "x/trials").glob("[0-9a-f]*") if path.is_dir()}
    assert len(finished) < 8 and not list((small_disk / "x/trials").glob("*.failed.json"))
    (small_disk / "ballast").unlink()
    assert main(line) == 0
    if finished:
        assert f"{len(finished)} of 8 trials are done already" in capsys.readouterr().out


def test_read_only_folder_is_one_sentence(small_world, small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert main([*SHORT, "--out", str(small_disk / "x")]) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"run: output folder {small_disk / 'x'} cannot be written: it is read-only")
