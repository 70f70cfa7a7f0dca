"""Weights & Biases: offline runs are read back from the files that `wandb sync` uploads."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.engines import making
from experiments.run import main

PROMPT = "a fast red circle moving left on a sand background"
LINE = ["--prompts", PROMPT, "--num-chunks", "2", "--seeds", "0", "1", "--out", "x", "--wandb", "offline"]


@pytest.fixture(scope="module", autouse=True)
def _no_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / "netrc"))
        patch.delenv("WANDB_API_KEY", raising=False)
        yield


class Logged:
    """What one offline run holds: config, rows of history, summary, name, group and exit code."""

    def __init__(self, file: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        self.name, self.group = "", ""
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None
        for data in _records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            match record.WhichOneof("record_type"):
                case "run":
                    self.name, self.group = record.run.display_name, record.run.run_group
                    self.config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                case "history":
                    items = record.history.item
                    row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                    self.history.append(row)
                case "summary":
                    for item in record.summary.update:
                        key = item.key or "/".join(item.nested_key)
                        self.summary[key] = json.loads(item.value_json)
                case "exit":
                    self.exit_code = record.exit.exit_code


def _records(log: bytes) -> Iterator[bytes]:
    """Yields the records of a LevelDB log, the format of W&B's files: pieces that never cross a block's end."""
    block, header = 32768, 7
    at, record = header, b""  # the first seven bytes name the format
    while at + header <= len(log):
        if block - at % block < header:
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", log[at + 4 : at + header])
        record += log[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield record
            record = b""


def _runs(folder: Path) -> dict[str, Logged]:
    """Returns the finished runs by name; W&B's own process may write their ends a moment later."""
    for _ in range(100):
        runs = [Logged(file) for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
        if runs and all(run.exit_code is not None for run in runs):
            break
        time.sleep(0.1)
    return {run.name: run for run in runs}


@pytest.fixture(scope="module")
def logged(small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Logged]:
    """The runs of one command over two policies and two seeds."""
    from envs.shapes import model
    from tests.experiments.conftest import SMALL, forget_models

    folder = tmp_path_factory.mktemp("command")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "NETWORK", SMALL)
        patch.setattr(model, "WEIGHTS", small_weights)
        patch.chdir(folder)
        forget_models()
        assert main([*LINE, "--policies", "greedy", "beam-search"]) == 0
        forget_models()
    return _runs(folder / "x")


def test_every_policy_has_a_run_in_the_experiments_group(logged):
    assert logged.keys() == {"greedy", "beam-search"}
    assert {run.group for run in logged.values()} == {"x"}
    assert {run.exit_code for run in logged.values()} == {0}


def test_config_is_flat_under_the_names_of_the_command_line(logged):
    config = logged["beam-search"].config
    assert config["policy"] == "beam-search" and config["policy.beam-width"] == 2
    assert config["policy.fusion.short-cap"] == 0.4 and config["memory.window-frames"] == 12
    assert config["num-chunks"] == 2 and config["prompts"] == [PROMPT] and config["seeds"] == [0, 1]


def test_curves_are_logged_by_chunk(logged):
    for run in logged.values():
        rows = [row for row in run.history if "chunk/index" in row]
        assert [row["chunk/index"] for row in rows] == [0, 1]
        names = {"short", "long", "fused", "passes", "seconds"}
        assert all({f"chunk/{name}" for name in names} <= row.keys() for row in rows)
    passes = [row["chunk/passes"] for row in logged["beam-search"].history if "chunk/index" in row]
    assert passes == [16.0, 18.0]  # four candidates of four passes, and two clean ones for the survivors


def test_trials_videos_and_summary_are_logged(logged):
    run = logged["greedy"]
    assert [row["trial/index"] for row in run.history if "trial/index" in row] == [0, 1]
    assert [row["videos/nrows"] for row in run.history if "videos/nrows" in row] == [2]
    assert run.summary["trials"] == 2 and run.summary["passes"] == 9.0
    assert 0.0 <= run.summary["truth"] <= 1.0


def test_disabled_leaves_no_files(small_world):
    assert main([*LINE[:-1], "disabled", "--policy", "greedy"]) == 0
    assert not (small_world / "x/wandb").exists()


def test_default_is_offline_where_nobody_is_logged_in(small_world, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    assert main([*LINE[:-2], "--policy", "greedy"]) == 0
    assert list(_runs(small_world / "x")) == ["greedy"]


@pytest.mark.parametrize(("fault", "code", "logged_code"), [(KeyboardInterrupt, 130, 1), (RuntimeError, 1, 0)])
def test_interrupted_run_is_finished_with_what_it_has(fault, code, logged_code, small_world, monkeypatch):
    whole, made = making.run_trial, []

    def interrupted(*args, **kwargs):
        if made:
            raise fault
        made.append(1)
        return whole(*args, **kwargs)

    monkeypatch.setattr(making, "run_trial", interrupted)
    assert main([*LINE, "--policy", "greedy"]) == code
    logged = _runs(small_world / "x")["greedy"]
    assert logged.exit_code == logged_code and logged.summary["trials"] == 1
