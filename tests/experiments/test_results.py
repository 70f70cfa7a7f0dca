"""What an experiment leaves behind: whole trials only, tables of all of them, and no mixing of experiments."""

import dataclasses
import errno
import importlib
import json
import math
import os
from pathlib import Path

import duckdb
import numpy as np
import pytest

from experiments import results
from experiments.ablations import ABLATIONS
from experiments.claim import claimed
from experiments.config import Experiment, Trial
from experiments.pictures import NUM_TIMES, contact_sheet, side_by_side, to_compare
from experiments.results import Finished, Folder, default_path
from experiments.run import main
from experiments.trials import Outcome, Point, Result, Segment, Sight
from experiments.worlds import TRUTH
from experiments.worlds.shapes import MEASURES
from policies import BeamSearch, BestOfNPerChunk, Greedy, PreviewPruning, StreamT1
from searchkit.cost import Cost
from searchkit.fusion import Fusion, RewardRouting
from searchkit.types import Action, Record, Route, Scores
from searchkit.video import read_video

PROMPT = "a fast red circle moving left on a sand background"
EXPERIMENT = Experiment(prompts=(PROMPT,), num_chunks=2, seeds=(0, 1), policies=(Greedy(), BeamSearch()))


def _make_folder(path: Path, experiment: Experiment = EXPERIMENT, checksum: str = "weights") -> Folder:
    with claimed(path, experiment):
        return Folder(path, experiment, model_checksum=checksum)


def _make_action(seed: int) -> Action:
    return Action(seed, Route.APPEND_SINK, 0.5)


def _make_outcome(trial: Trial, *, sees: bool) -> Outcome:
    """Two chunks of two candidates each; the second candidate of each was chosen, PreviewPruning's first given up.

    Args:
        sees: whether the oracles saw what was finished.
    """
    records = tuple(
        Record(
            chunk=chunk,
            lineage=(*(_make_action(2),) * chunk, _make_action(seed)),
            action=_make_action(seed),
            scores=Scores(0.1 * seed, 0.2 * seed),
            fused=0.15 * seed,
            kept=seed == 2,
            cost=Cost(denoise_passes=4.0, seconds_generate=0.5, peak_bytes=10),
            pruned_after=2 if seed == 1 and isinstance(trial.policy, PreviewPruning) else None,
        )
        for chunk in range(2)
        for seed in (1, 2)
    )
    result = Result(
        label="greedy",
        prompt=trial.prompt,
        seed=trial.seed,
        reward=1.5,
        measures={"subject": 0.5, "truth": 0.4},
        cost=Cost(denoise_passes=16.0, peak_bytes=10),
        curve=(Point(0, 0.2, 0.4, 0.3, 8.0, 1.0), Point(1, 0.2, 0.4, 0.3, 8.0, 1.0)),
        segments=(Segment(0.0, _make_measures(0.6)), Segment(5.0625, _make_measures(0.2))),
    )
    finished = [record.lineage for record in records if record.pruned_after is None]
    sights = {lineage: Sight(0.1 * lineage[-1].seed, 0.25) for lineage in finished} if sees else {}
    pixels = np.full((21, 64, 64, 3), 200, np.uint8)
    return Outcome(result, records, sights, (_make_action(2), _make_action(2)), pixels, made_with={})


def _make_measures(value: float) -> dict[str, float]:
    return dict.fromkeys((TRUTH, *MEASURES), value)


def _store(folder: Folder, trial: Trial, *, sees: bool = False) -> Finished:
    return folder.store(trial, _make_outcome(trial, sees=sees), fps=16)


def test_stored_trial_is_found_as_it_was(tmp_path):
    folder = _make_folder(tmp_path / "x")
    trial = EXPERIMENT.trials[0]
    assert folder.find(trial) is None
    stored = _store(folder, trial)
    assert folder.find(trial) == stored
    assert read_video(stored.video).shape == (21, 64, 64, 3)


def test_trial_that_was_cut_off_is_not_there(tmp_path, monkeypatch):
    folder = _make_folder(tmp_path / "x")
    trial = EXPERIMENT.trials[0]
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        _store(folder, trial)
    monkeypatch.undo()
    assert folder.find(trial) is None
    assert _store(folder, trial) == folder.find(trial)
    assert [path.name for path in (tmp_path / "x/trials").iterdir()] == [folder.place(trial).name]


def test_place_depends_on_all_that_determines_a_result(tmp_path):
    trial = Trial(BestOfNPerChunk(), PROMPT, 0)
    others = [
        Trial(BestOfNPerChunk(num_candidates=5), PROMPT, 0),
        Trial(BestOfNPerChunk(fusion=Fusion(short_cap=0.1)), PROMPT, 0),
        Trial(Greedy(), PROMPT, 0),
        Trial(BestOfNPerChunk(), "a slow red circle moving left on a sand background", 0),
        Trial(BestOfNPerChunk(), PROMPT, 1),
    ]
    folder = Folder(tmp_path, EXPERIMENT, model_checksum="weights")
    places = [folder.place(trial), *map(folder.place, others)]
    places.append(Folder(tmp_path, EXPERIMENT, model_checksum="others").place(trial))
    for change in (
        {"num_chunks": 3},
        {"long_window": 2},
        {"max_passes": 9.0},
        {"deterministic": True},
        {"decoding": "cold"},
        {"measure_candidates": True},
    ):
        changed = dataclasses.replace(EXPERIMENT, **change)
        places.append(Folder(tmp_path, changed, model_checksum="weights").place(trial))
    assert len(set(places)) == len(places)


def test_place_depends_on_the_code_that_a_policy_of_ones_own_derives_from(tmp_path, monkeypatch):
    (tmp_path / "inherited.py").write_text("from policies import Greedy\nclass Base(Greedy): pass\n")
    (tmp_path / "deriving.py").write_text("from inherited import Base\nclass Own(Base): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    trial = Trial(importlib.import_module("deriving").Own(), PROMPT, 0)
    folder = Folder(tmp_path, EXPERIMENT, model_checksum="weights")
    before = folder.place(trial)
    with (tmp_path / "inherited.py").open("a") as file:
        file.write("# edited\n")
    results._code_hash.cache_clear()  # the next command
    assert folder.place(trial) != before


def test_variants_have_places_of_their_own_and_equal_policies_the_same(tmp_path):
    folder = Folder(tmp_path, EXPERIMENT, model_checksum="weights")
    policies = [StreamT1(), *(start() for start in ABLATIONS.values()), StreamT1(noise_correlation=0.0, beam_width=3)]
    places = [folder.place(Trial(policy, PROMPT, 0)) for policy in policies]
    assert len(set(places)) == len(places)
    same = StreamT1(routing=RewardRouting(short_threshold=math.inf))
    assert folder.place(Trial(same, PROMPT, 0)) == places[policies.index(same)]


def test_place_does_not_depend_on_the_experiment_around_a_trial(tmp_path):
    larger = dataclasses.replace(EXPERIMENT, seeds=(0, 1, 2), policies=(Greedy(),))
    trial = Trial(Greedy(), PROMPT, 0)
    first, second = (Folder(tmp_path, one, model_checksum="w").place(trial) for one in (EXPERIMENT, larger))
    assert first == second


def test_tables_have_a_row_a_trial_and_a_row_a_candidate(tmp_path):
    folder = _make_folder(tmp_path / "x")
    results, candidates, _ = folder.write_tables([_store(folder, trial) for trial in EXPERIMENT.trials])
    count = f"select count(*), count(distinct trial), sum(passes) from '{candidates}'"
    assert duckdb.sql(count).fetchall() == [(16, 4, 64.0)]
    chosen = duckdb.sql(f"select chunk, candidate_seed, route, lineage from '{candidates}' where chosen limit 2")
    assert chosen.fetchall() == [(0, 2, "append_sink", [2]), (1, 2, "append_sink", [2, 2])]
    row = duckdb.sql(f"select * from '{results}' where seed = 1 limit 1").fetchall()
    columns = [column[0] for column in duckdb.sql(f"describe '{results}'").fetchall()]
    first = dict(zip(columns, row[0], strict=True))
    assert (first["reward"], first["truth"], first["passes"], first["num_chunks"]) == (1.5, 0.4, 16.0, 2)
    assert (tmp_path / "x" / first["video"]).exists()


def test_candidates_given_up_are_told_apart_in_one_table(tmp_path):
    experiment = dataclasses.replace(EXPERIMENT, seeds=(0,), policies=(Greedy(), PreviewPruning(), BeamSearch()))
    folder = _make_folder(tmp_path / "x", experiment)
    _, candidates, _ = folder.write_tables([_store(folder, trial) for trial in experiment.trials])
    query = f"select candidate_seed, pruned_after from '{candidates}' where pruned_after is not null"
    assert duckdb.sql(query).fetchall() == [(1, 2), (1, 2)]
    types = {row[0]: row[1] for row in duckdb.sql(f"describe '{candidates}'").fetchall()}
    assert types["pruned_after"] == "BIGINT"
    assert {"denoise_calls", "clean_calls", "peak_block_bytes", "peak_prefix_bytes"} <= types.keys()


def test_candidates_have_what_oracles_saw_of_them(tmp_path):
    experiment = dataclasses.replace(EXPERIMENT, seeds=(0,), policies=(PreviewPruning(),))
    folder = _make_folder(tmp_path / "x", experiment)
    _, candidates, _ = folder.write_tables([_store(folder, experiment.trials[0], sees=True)])
    query = f"select candidate_seed, truth, diversity from '{candidates}' order by candidate_seed, chunk"
    assert duckdb.sql(query).fetchall() == [(1, None, None)] * 2 + [(2, 0.2, 0.25)] * 2


def test_candidates_that_no_oracle_saw_have_the_same_columns(tmp_path):
    folder = _make_folder(tmp_path / "x")
    _, candidates, _ = folder.write_tables(
        [_store(folder, trial, sees=sees) for trial, sees in zip(EXPERIMENT.trials[:2], (False, True), strict=True)]
    )
    types = {row[0]: row[1] for row in duckdb.sql(f"describe '{candidates}'").fetchall()}
    assert (types["truth"], types["diversity"], types["pruned_after"]) == ("DOUBLE", "DOUBLE", "BIGINT")
    assert duckdb.sql(f"select count(*), count(truth) from '{candidates}'").fetchall() == [(8, 4)]


def test_segments_have_a_row_each(tmp_path):
    folder = _make_folder(tmp_path / "x")
    _, _, segments = folder.write_tables([_store(folder, trial) for trial in EXPERIMENT.trials])
    columns = ["trial", "policy", "prompt", "seed", "segment", "start_second", TRUTH, *MEASURES]
    assert [column[0] for column in duckdb.sql(f"describe '{segments}'").fetchall()] == columns
    query = f"select segment, start_second, truth, motion, count(*) from '{segments}' group by all order by segment"
    assert duckdb.sql(query).fetchall() == [(0, 0.0, 0.6, 0.6, 4), (1, 5.0625, 0.2, 0.2, 4)]


def test_trial_is_strict_json_even_with_infinite_options(tmp_path):
    def _refuse(constant: str) -> None:
        raise AssertionError(constant)

    policy = ABLATIONS["stream-t1-append-only"]()
    experiment = dataclasses.replace(EXPERIMENT, policies=(policy,))
    folder = _make_folder(tmp_path / "x", experiment)
    one = _store(folder, experiment.trials[0])
    stored = json.loads((one.folder / "trial.json").read_text(), parse_constant=_refuse)
    assert stored["identity"]["policy"] == "stream-t1-append-only"
    assert stored["identity"]["options"]["routing.long-threshold"] == "-inf"
    assert folder.find(experiment.trials[0]) == one


def test_missing_measure_is_stored_as_missing(tmp_path):
    def _refuse(constant: str) -> None:
        raise AssertionError(constant)

    folder = _make_folder(tmp_path / "x")
    trial = EXPERIMENT.trials[0]
    outcome = _make_outcome(trial, sees=False)
    measures = {"subject": math.nan, "truth": 0.4}
    segments = tuple(Segment(start, measures) for start in (0.0, 5.0625))
    result = dataclasses.replace(outcome.result, measures=measures, facts={"seen": math.nan}, segments=segments)
    stored = folder.store(trial, outcome._replace(result=result), fps=16)
    read = json.loads((stored.folder / "trial.json").read_text(), parse_constant=_refuse)["result"]
    assert read["measures"] == {"subject": None, "truth": 0.4} and read["facts"] == {"seen": None}
    found = folder.find(trial)
    assert found is not None and math.isnan(found.result.measures["subject"])
    assert math.isnan(found.result.facts["seen"]) and math.isnan(found.result.segments[1].measures["subject"])

    results, _, segments_path = folder.write_tables([found, _store(folder, EXPERIMENT.trials[1])])
    counted = "select count(*), count(subject), avg(subject), count(truth), typeof(max(subject)) from"
    assert duckdb.sql(f"{counted} '{results}'").fetchall() == [(2, 1, 0.5, 2, "DOUBLE")]
    assert duckdb.sql(f"select count(*), count(subject) from '{segments_path}'").fetchall() == [(4, 2)]
    alone, _, _ = folder.write_tables([found])
    assert duckdb.sql(f"select subject, typeof(subject) from '{alone}'").fetchall() == [(None, "DOUBLE")]


def test_default_folder_is_the_experiments_own():
    same = default_path("quick", dataclasses.replace(EXPERIMENT))
    assert default_path("quick", EXPERIMENT) == same
    assert default_path("quick", dataclasses.replace(EXPERIMENT, num_chunks=3)) != same


def test_side_by_side_holds_the_last_frame_of_a_shorter_video():
    long = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), np.uint8)
    video = side_by_side({"long": long, "short": long[:4]}, title="a title")
    assert len(video) == 9 and not video.shape[1] % 2 and not video.shape[2] % 2
    half = video.shape[2] // 2
    assert (video[3:, :, half:] == video[3, :, half:]).all() and (video[3, :, :half] != video[8, :, :half]).any()


def test_contact_sheet_has_a_row_a_policy_and_a_column_a_time():
    red = np.zeros((81, 64, 64, 3), np.uint8)
    red[..., 0] = 255
    sheet = contact_sheet({"one": red, "two": red, "three": red}, title="a title", fps=16)
    is_red = (sheet == (255, 0, 0)).all(-1)
    assert is_red.sum() == 3 * NUM_TIMES * (3 * 64) ** 2
    assert is_red.any(1).sum() == 3 * 192 and is_red.any(0).sum() == NUM_TIMES * 192


def test_large_videos_are_shown_at_the_size_of_small_ones():
    stripes = np.zeros((9, 480, 832, 3), np.uint8)
    stripes[:, ::2] = 200
    small = np.full((9, 64, 64, 3), 100, np.uint8)
    for video in (stripes, small):
        (height, width), picture = (
            (240, 416) if len(video[0]) == 480 else (192, 192),
            side_by_side({"x": video}, title=""),
        )
        is_grey = (picture[0] == 100).all(-1)
        assert (is_grey.sum(), is_grey.any(1).sum()) == (height * width, height)


def _compared(num_prompts: int, num_seeds: int, tmp_path: Path) -> list[tuple[str, int, str]]:
    """Returns the prompts, seeds and policies that pictures compare."""
    trials = [
        Trial(policy, f"prompt {number}", seed)
        for number in range(num_prompts)
        for seed in range(num_seeds)
        for policy in (Greedy(), BeamSearch())
    ]
    finished = [
        Finished(trial=trial, result=_make_outcome(trial, sees=False).result, folder=tmp_path) for trial in trials
    ]
    return [(one.trial.prompt, one.trial.seed, type(one.trial.policy).__name__) for one in to_compare(finished)]


def test_pictures_compare_everything_of_few_prompts_and_seeds(tmp_path):
    assert len(_compared(8, 3, tmp_path)) == 8 * 3 * 2


def test_pictures_of_a_study_are_those_of_its_first_prompts_with_one_seed(tmp_path):
    compared = _compared(9, 3, tmp_path)
    assert compared == [(f"prompt {number}", 0, name) for number in range(8) for name in ("Greedy", "BeamSearch")]


def test_stored_trials_of_a_command_can_be_read_back(small_world):
    line = ["--prompts", PROMPT, "--num-chunks", "2", "--policies", "greedy", "best-of-n-per-chunk", "--out", "x"]
    assert main(line) == 0
    marker = json.loads((small_world / "x/experiment.json").read_text())
    assert marker["experiment"]["policies"] == ["greedy", "best-of-n-per-chunk"]
    query = "select policy, count(*), sum(passes) from 'x/candidates.parquet' group by policy order by policy"
    (_, many, spent), (_, one, least) = duckdb.sql(query).fetchall()
    assert (many, one) == (8, 2) and spent > least
    rewards = duckdb.sql("select policy, reward, truth, identity, passes from 'x/results.parquet'").fetchall()
    assert [row[0] for row in rewards] == ["greedy", "best-of-n-per-chunk"]
    assert all(0.0 <= row[2] <= 1.0 for row in rewards)


def test_command_stores_what_previews_gave_up(small_world):
    policies = ["--policies", "greedy", "preview-pruning", "--budget", "2x"]
    assert main(["--prompts", PROMPT, "--num-chunks", "2", *policies, "--out", "x"]) == 0
    query = "select policy, pruned_after, count(*), sum(denoise_passes) from 'x/candidates.parquet' group by all"
    rows = sorted(duckdb.sql(query).fetchall(), key=str)
    assert rows == [
        ("greedy", None, 2, 8.0),
        ("preview-pruning (children=2)", 2, 2, 4.0),
        ("preview-pruning (children=2)", None, 2, 8.0),
    ]


@pytest.mark.parametrize("damage", ["cut", "no-json", "no-video", "short-video", "older", "zeros", "no-table"])
def test_damaged_trial_is_set_aside_and_made_again(damage, tmp_path, caplog):
    folder = _make_folder(tmp_path / "x")
    trial, other = EXPERIMENT.trials[:2]
    one, whole = _store(folder, trial), _store(folder, other)
    match damage:
        case "cut":
            (one.folder / "trial.json").write_text('{"result": {')
        case "no-json":
            (one.folder / "trial.json").unlink()
        case "no-video":
            (one.folder / "video.mp4").unlink()
        case "short-video":
            (one.folder / "video.mp4").write_bytes(b"")
        case "older":
            (one.folder / "trial.json").write_text(json.dumps({"result": {"label": "greedy"}}))
        case "zeros":  # as a power cut may leave a file
            table = one.folder / "candidates.parquet"
            table.write_bytes(bytes(table.stat().st_size))
        case "no-table":
            (one.folder / "candidates.parquet").unlink()
    left = sorted(path.name for path in one.folder.iterdir())
    assert folder.find(trial) is None and folder.find(other) == whole
    [sentence] = caplog.messages
    tables = {"zeros": "candidates.parquet", "no-table": "candidates.parquet"}
    named = "video.mp4" if "video" in damage else tables.get(damage, "trial.json")
    assert sentence.startswith(
        f"trial folder {one.folder} is damaged ({named}): it is set aside as .{one.folder.name}."
    )
    [aside] = (tmp_path / "x/trials").glob(".*damaged*")
    assert sorted(path.name for path in aside.iterdir()) == left
    assert _store(folder, trial) == folder.find(trial)


def test_trial_that_cannot_be_written_leaves_nothing_but_its_journal(tmp_path, monkeypatch):
    folder = _make_folder(tmp_path / "x")
    trial = EXPERIMENT.trials[0]
    folder.journal(trial).parent.mkdir(parents=True)
    folder.journal(trial).touch()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            _store(folder, trial)
    assert [path.name for path in (tmp_path / "x/trials").iterdir()] == [folder.journal(trial).name]
    _store(folder, trial)
    assert [path.name for path in (tmp_path / "x/trials").iterdir()] == [folder.place(trial).name]
