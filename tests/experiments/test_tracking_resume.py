"""W&B runs that several commands log to: killed, interrupted, without a server, and with one that goes away."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb

from experiments.run import main
from experiments.tracking.log_file import mend, read
from experiments.tracking.runs import Runs
from tests.experiments.wandb_runs import Logged, runs
from tests.experiments.wandb_server import KEY, Server

PROMPT = "a fast red circle moving left on a sand background"
LINE = ["--prompts", PROMPT, "--num-chunks", "2", "--seeds", "0", "1", "--out", "x", "--policy", "greedy"]

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from experiments.tracking.runs import Runs

runs = Runs(Path("x"), group="x", mode="offline", config=lambda label: {})
for index in range(int(sys.argv[1])):
    runs.log("greedy", f"trial {index}", lambda: {"trial/index": index})
if sys.argv[2] == "end":
    runs.finish(exit_code=0)
else:
    time.sleep(float(sys.argv[2]))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nobody is logged in, and W&B reads its environment anew."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "30")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        _log_in(monkeypatch, server.url)
        yield server


def _log_in(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def _sync(command: str) -> str:
    """Types what a run says is to be typed; `wandb` is the one beside this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr
    return done.stderr


def _script(folder: Path, *arguments: str) -> None:
    place = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}}
    subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=arguments[-1] == "end", timeout=60, **place)


def _interrupted_and_gone_on(mode: str, stop_after_one: Callable[[], Callable[[], None]]) -> None:
    go_on = stop_after_one()
    assert main([*LINE, "--wandb", mode]) == 130
    go_on()
    assert main([*LINE, "--wandb", mode]) == 0


def _check_whole(rows: list[dict]) -> None:
    """The rows of two trials of two chunks, once each and under steps that go on."""
    assert [row["_step"] for row in rows] == list(range(6))
    assert [row["trial/index"] for row in rows if "trial/index" in row] == [0, 1]
    assert [row["trial/seed"] for row in rows if "trial/seed" in row] == [0, 1]
    assert [row["chunk/index"] for row in rows if "chunk/index" in row] == [0, 1]


def test_interrupted_experiment_goes_on_in_the_same_run(small_world, stop_after_one):
    _interrupted_and_gone_on("offline", stop_after_one)
    assert len(list((small_world / "x/wandb").glob("offline-run-*"))) == 2
    run = runs(small_world / "x")["greedy"]
    _check_whole(run.history)
    assert run.rows("videos/nrows") == [2] and run.summary["trials"] == 2 and run.exit_codes == [1, 0]
    assert run.resumes == [True, True]


def test_same_command_again_logs_nothing(small_world, capsys):
    assert main([*LINE, "--wandb", "offline"]) == 0
    before = runs(small_world / "x")["greedy"]
    capsys.readouterr()
    assert main([*LINE, "--wandb", "offline"]) == 0
    assert "wandb" not in capsys.readouterr().out
    assert runs(small_world / "x")["greedy"].history == before.history


def test_experiment_begun_anew_in_the_same_place_is_another_run(small_world):
    ids = set()
    for _ in range(2):
        assert main([*LINE, "--wandb", "offline"]) == 0
        ids.add(runs(small_world / "x")["greedy"].id)
        shutil.rmtree(small_world / "x")
    assert len(ids) == 2


@pytest.mark.parametrize("seconds", ["0", "0.3", "1.5"])  # before and after W&B writes what it was given
def test_killed_command_loses_and_doubles_nothing(seconds, small_world, server):
    (small_world / "x").mkdir()
    _script(small_world, "3", seconds)
    _script(small_world, "5", "end")
    run = runs(small_world / "x", num_ended=1)["greedy"]
    assert run.rows("trial/index") == run.rows("_step") == [0, 1, 2, 3, 4]
    _sync(f"wandb sync {small_world}/x/wandb/offline-run-*")
    assert [row["trial/index"] for row in server.named("greedy").rows] == [0, 1, 2, 3, 4]


def test_file_cut_anywhere_is_mended_to_its_whole_records(tmp_path):
    (tmp_path / "x").mkdir()
    _script(tmp_path, "40", "end")
    (file,) = tmp_path.glob("x/wandb/offline-run-*/*.wandb")
    whole = [record.SerializeToString() for record in read(file)]
    data, cut = file.read_bytes(), tmp_path / "cut.wandb"
    num_mended = 0
    for length in range(7, len(data), 101):
        cut.write_bytes(data[:length])
        num_rows = mend(cut)
        if not cut.exists():
            assert num_rows == 0 and not num_mended  # not even the record that names the run
            continue
        num_mended += 1
        left = list(read(cut))
        assert [record.SerializeToString() for record in left] == whole[: len(left)]
        assert sum(record.HasField("history") for record in left) == num_rows
        assert mend(cut) == num_rows and cut.stat().st_size <= length
    assert num_mended > 10


def test_offline_folders_become_one_run_when_they_are_uploaded(small_world, server, stop_after_one, capsys):
    _interrupted_and_gone_on("offline", stop_after_one)
    (where,) = [line for line in capsys.readouterr().out.splitlines() if "upload with" in line][-1:]
    command = where.partition("upload with: ")[2].removesuffix(")")
    _sync(command)
    run = server.named("greedy")
    _check_whole(run.rows)
    assert '"trials":2' in run.summary and run.is_complete
    assert any(name.startswith("media/table/videos") for name in run.files)
    assert len(server.committed) == len(server.artifacts) > 0
    media = [path for path, size in server.uploads.items() if size and path.startswith("/artifacts/media/")]
    assert {Path(path).suffix for path in media} == {".mp4", ".png"}
    assert "No runs to sync" in _sync(command)


def test_online_experiment_goes_on_in_the_same_run(small_world, server, stop_after_one):
    _interrupted_and_gone_on("online", stop_after_one)
    (run,) = server.runs.values()
    _check_whole(run.rows)
    assert '"trials":2' in run.summary


def test_closed_port_leaves_everything_offline_to_be_uploaded(small_world, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE")
    _log_in(monkeypatch, "http://127.0.0.1:9")
    began = time.monotonic()
    assert main(LINE) == 0
    assert time.monotonic() - began < 60  # not a speed: W&B's own patience is longer
    ours = [record for record in caplog.records if record.name.startswith("experiments")]
    warnings = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "http://127.0.0.1:9 cannot be reached, so logs stay offline" in warnings[0], warnings
    _check_whole(runs(small_world / "x")["greedy"].history)
    with Server() as server:
        _log_in(monkeypatch, server.url)
        _sync(f"wandb sync {small_world}/x/wandb/offline-run-*")
        _check_whole(server.named("greedy").rows)


def test_server_that_does_not_begin_a_run_is_left_alone(small_world, server, caplog):
    server.refusal = 403
    assert main([*LINE, "--wandb", "online"]) == 0
    assert "logs stay offline" in caplog.text
    _check_whole(_offline(small_world / "x").history)


def _offline(folder: Path) -> Logged:
    return Logged(sorted(folder.glob("wandb/offline-run-*/*.wandb")))


def test_server_that_goes_away_takes_nothing_with_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    made = Runs(tmp_path, group="x", mode="online", config=lambda label: {})
    with Server() as before:
        _log_in(monkeypatch, before.url)
        made.log("greedy", "trial 0", lambda: {"trial/index": 0})
    made.log("greedy", "trial 1", lambda: {"trial/index": 1})
    made.finish(exit_code=0)
    assert f"wandb sync --include-online {tmp_path}/wandb/*run-*" in caplog.text
    wandb.teardown()

    with Server(before.runs) as after:
        _log_in(monkeypatch, after.url)
        monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "30")
        made = Runs(tmp_path, group="x", mode="online", config=lambda label: {})
        for index in range(3):
            made.log("greedy", f"trial {index}", lambda index=index: {"trial/index": index})
        made.finish(exit_code=0)
        (run,) = after.runs.values()
        assert [row["trial/index"] for row in run.rows] == [0, 1, 2]
