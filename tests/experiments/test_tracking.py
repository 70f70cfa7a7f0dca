"""Weights & Biases: offline runs are read back from the files that `wandb sync` uploads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.run import main
from tests.experiments.wandb_runs import Logged, runs

PROMPT = "a fast red circle moving left on a sand background"
LINE = ["--prompts", PROMPT, "--num-chunks", "2", "--seeds", "0", "1", "--out", "x", "--wandb", "offline"]


@pytest.fixture(scope="module", autouse=True)
def _no_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / "netrc"))
        patch.delenv("WANDB_API_KEY", raising=False)
        yield


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
    return runs(folder / "x")


def test_every_policy_has_a_run_in_the_experiments_group(logged):
    assert logged.keys() == {"greedy", "beam-search"}
    assert {run.group for run in logged.values()} == {"x"}
    assert {code for run in logged.values() for code in run.exit_codes} == {0}


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
    assert list(runs(small_world / "x")) == ["greedy"]


@pytest.mark.parametrize(("fault", "code", "logged_code"), [(KeyboardInterrupt, 130, 1), (RuntimeError, 1, 0)])
def test_interrupted_run_is_finished_with_what_it_has(fault, code, logged_code, small_world, stop_after_one):
    stop_after_one(fault)
    assert main([*LINE, "--policy", "greedy"]) == code
    logged = runs(small_world / "x")["greedy"]
    assert logged.exit_codes == [logged_code] and logged.summary["trials"] == 1
