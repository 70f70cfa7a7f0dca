"""What W&B is given as tables, charts and artifacts."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from experiments.arguments import parse
from experiments.config import Execution, Experiment
from experiments.report.__main__ import main as report
from experiments.results import Finished
from experiments.run import run
from experiments.summary import means
from experiments.tracking import Tracking
from experiments.tracking.tables import candidates, has_curves
from policies import BestOfN, Greedy, PreviewPruning
from searchkit.types import Policy
from tests.experiments.wandb_runs import runs

PROMPT = "a fast red circle moving left on a sand background"
SIZE = 16  # pixels of a cell
SHADES = [(index * 28, 255 - index * 28, 128) for index in range(9)]  # of a sheet's rows


def _experiment(*policies: Policy, seeds: Sequence[int] = (0,)) -> Experiment:
    experiment = parse(["--prompts", PROMPT, "--num-chunks", "2"]).experiment
    return replace(experiment, policies=policies, seeds=tuple(seeds))


def _write_clips(folder: Path) -> None:
    """Writes sheets of candidates: a row for each that was finished, black but for a shade of its own at the end."""
    shutil.rmtree(folder / "clips", ignore_errors=True)
    (folder / "clips").mkdir()
    (folder / "clips/clips.json").write_text(json.dumps({"height": SIZE, "width": SIZE, "fps": 4}))
    tried = pq.ParquetFile(folder / "candidates.parquet").read().to_pylist()
    for chunk in {row["chunk"] for row in tried}:
        finished = [row for row in tried if row["chunk"] == chunk and row["pruned_after"] is None]
        sheet = Image.new("RGB", (3 * SIZE, SIZE * len(finished)))
        for row in range(len(finished)):
            sheet.paste(SHADES[row], (2 * SIZE, row * SIZE, 3 * SIZE, (row + 1) * SIZE))
        sheet.save(folder / f"clips/{chunk:02}.jpg", quality=95)


def test_candidates_are_shown_with_the_last_frame_of_their_chunk(small_world):
    (one,) = run(_experiment(PreviewPruning()), out=Path("x"), execution=Execution(wandb="disabled"))
    _write_clips(one.folder)
    table = candidates([one])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
    tried = pq.ParquetFile(one.folder / "candidates.parquet").read().to_pylist()
    assert [row["candidate_seed"] for row in rows] == [row["candidate_seed"] for row in tried]
    assert any(row["pruned_after"] is not None for row in rows)
    for chunk in (0, 1):
        level = [row for row in rows if row["chunk"] == chunk]
        assert [row["candidate"] for row in level] == list(range(len(level)))
        assert all(row["thumbnail"] is None for row in level if row["pruned_after"] is not None)
        shown = [row["thumbnail"].image for row in level if row["pruned_after"] is None]
        assert shown and all(picture.size == (SIZE, SIZE) for picture in shown)
        for picture, shade in zip(shown, SHADES, strict=False):
            assert math.dist(picture.convert("RGB").getpixel((SIZE // 2, SIZE // 2)), shade) < 12


def test_candidates_without_clips_have_no_pictures(small_world):
    (one,) = run(_experiment(Greedy()), out=Path("x"), execution=Execution(wandb="disabled"))
    shutil.rmtree(one.folder / "clips", ignore_errors=True)
    table = candidates([one])
    assert [row[-1] for row in table.data] == [None, None]
    assert [row[table.columns.index("chosen")] for row in table.data] == [True, True]


def test_tables_of_candidates_are_logged_with_their_pictures(small_world, monkeypatch):
    experiment = _experiment(PreviewPruning(), seeds=(0, 1))
    run(replace(experiment, seeds=(0, 1)), out=Path("x"), execution=Execution(wandb="disabled"))
    trials = sorted(Path("x/trials").iterdir())
    for folder in trials:
        _write_clips(folder)
    shutil.rmtree(trials[1])
    run(experiment, out=Path("x"), execution=Execution(wandb="offline"))
    (logged,) = runs(Path("x")).values()
    num_tried = len(pq.ParquetFile("x/candidates.parquet").read())
    assert logged.rows("candidates/nrows") == [num_tried]
    (name,) = [name for name in logged.artifacts if name.endswith("-candidates")]
    assert any(path.startswith("media/images/") for path in logged.artifacts[name])


def test_measure_that_a_trial_lacks_is_in_no_mean(small_world):
    """Nor anywhere else: W&B would take nan for a value."""
    experiment = _experiment(Greedy(), BestOfN(num_candidates=2), BestOfN(num_candidates=3), seeds=(0, 1))
    finished = run(experiment, out=Path("made"), execution=Execution(wandb="disabled"))
    Path("x").mkdir()
    with Tracking(experiment, folder=Path("x"), group="x", mode="offline") as tracking:
        for one in finished:
            is_seen = one.result.seed == 1 and one.result.label != "greedy"
            measures = {"truth": 0.4, "subject": 0.3 if is_seen else math.nan, "motion": math.nan}
            tracking.add(replace(one, result=replace(one.result, measures=measures)))
    logged = runs(Path("x"))
    assert logged["greedy"].summary["truth"] == 0.4 and "subject" not in logged["greedy"].summary
    assert logged["best-of-n (num-candidates=2)"].rows("trial/subject") == [0.3]
    assert logged["best-of-n (num-candidates=2)"].summary["subject"] == 0.3
    for label, one in logged.items():
        numbers = [value for row in (*one.history, one.summary) for value in row.values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers)), label
    stored = {path.name: path.read_text() for path in Path("x").glob("wandb/*/files/media/table/**/*.json")}
    assert len(stored) >= 7 and not [name for name, text in stored.items() if "NaN" in text]
    tables = [json.loads(text) for name, text in stored.items() if name.startswith("videos")]
    columns = [[row[table["columns"].index("subject")] for row in table["data"]] for table in tables]
    assert sorted(columns, key=str) == [[None, 0.3], [None, 0.3], [None, None]]
    (scaling,) = [json.loads(text) for name, text in stored.items() if name.startswith("policies")]
    assert scaling["columns"][4:] == ["search reward", "truth", "subject"]  # nobody has motion


@pytest.fixture
def scaled(small_world: Path) -> list[Finished]:
    policies = (Greedy(), BestOfN(num_candidates=2), BestOfN(num_candidates=3))
    return run(_experiment(*policies, seeds=(0, 1)), out=Path("x"), execution=Execution(wandb="offline"))


def test_policies_at_several_budgets_give_scaling_curves(scaled):
    logged = runs(Path("x"))
    assert len(logged) == 4
    (row,) = logged["comparison"].history
    assert row["scaling/policies/nrows"] == 3
    assert row["scaling/truth_table/nrows"] == row["scaling/search_reward_table/nrows"] == 3
    visualised = [key for key in logged["comparison"].config if key.endswith("scaling/truth")]
    assert len(visualised) == 1
    table = next(Path("x").glob("wandb/offline-run-*/files/media/table/scaling/policies*.json"))
    stored = json.loads(table.read_text())
    found = {row[0]: dict(zip(stored["columns"], row, strict=True)) for row in stored["data"]}
    assert (
        found["best-of-n (num-candidates=3)"]["curve"] == found["best-of-n (num-candidates=2)"]["curve"] == "best-of-n"
    )
    expected = means([one.result for one in scaled if one.result.label == "greedy"])
    assert found["greedy"]["truth"] == pytest.approx(expected["truth"])
    assert [row[2] for row in stored["data"]] == sorted(row[2] for row in stored["data"])


def test_curves_take_a_policy_at_two_budgets():
    assert has_curves(["greedy", "best-of-n", "best-of-n (num-candidates=8)"])
    assert not has_curves(["greedy", "best-of-n", "stream-t1 (noise-correlation=0.2)", "stream-t1"])


def test_report_is_logged_as_an_artifact_of_the_run_that_compares(scaled, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert report(Path("x"), wandb=True) == 0
    assert "wandb sync" in capsys.readouterr().out
    assert report(Path("x"), wandb=True) == 0
    logged = runs(Path("x"))["comparison"]
    assert "report" in logged.artifact_types and logged.resumes == [True, True, True]
    files = logged.artifacts["report-x"]
    assert {"report.md", "tables/scaling.csv", "plots/scaling.png"} <= set(files)


def test_report_is_not_logged_where_wandb_is_disabled(scaled, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert report(Path("x"), wandb=True) == 2
    assert "WANDB_MODE disabled" in capsys.readouterr().err
