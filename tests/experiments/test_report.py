"""The report: known answers on made-up runs, honest words, clear refusals, the same bytes each time."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.report import page
from experiments.report.__main__ import main, sections
from experiments.report.comparisons import differences, means
from experiments.report.data import load
from experiments.report.page import Section, Table
from experiments.report.policies import ablation_references, at_one_budget, curves, nearest_references
from experiments.report.sections.regret import captured, judge
from experiments.report.statistics import NUM_RESAMPLES, SEED, Estimate, estimate
from experiments.report.words import interval
from experiments.worlds import TRUTH
from experiments.worlds.shapes import MEASURES
from searchkit.video import write_video


@pytest.fixture(autouse=True)
def _coarse_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "RESOLUTION", 40)


PASSES = {"greedy": 34.0, "best-of-n": 136.0, "beam-search": 124.0}

# Truth and reward of a trial, by its policy's label and the numbers of its prompt and seed.
Measured = Callable[[str, int, int], tuple[float, float]]


def _make_trials(
    measured: Measured, *, labels: Sequence[str] = ("greedy", "beam-search"), prompts: int = 6, seeds: int = 2
) -> pd.DataFrame:
    rows = []
    for prompt in range(prompts):
        for seed in range(seeds):
            for label in labels:
                truth, reward = measured(label, prompt, seed)
                measures = {name: truth for name in MEASURES} | {"motion": truth - 0.01}
                rows.append(
                    {
                        "trial": f"{label}/{prompt}/{seed}",
                        "policy": label,
                        "prompt": f"prompt {prompt}",
                        "seed": seed,
                        "truth": truth,
                        "reward": reward,
                        **measures,
                        "passes": PASSES.get(label, 248.0),
                        "seconds": 1.5,
                        "video": f"trials/{label}-{prompt}-{seed}.mp4",
                    }
                )
    return pd.DataFrame(rows)


def _make_candidates(trials: pd.DataFrame, levels: Sequence[Sequence[tuple[float, float]]]) -> pd.DataFrame:
    """Every trial tried the same: for each chunk, candidates by their fused reward and their truth."""
    return pd.DataFrame(
        [
            {
                **{name: row[name] for name in ("trial", "policy", "prompt", "seed")},
                "chunk": chunk,
                "fused": fused,
                "pruned_after": None,
                "truth": truth,
                "diversity": 0.25 * (chunk + 1) if len(level) > 1 else None,
            }
            for row in trials.to_dict("records")
            for chunk, level in enumerate(levels)
            for fused, truth in level
        ]
    )


def _make_segments(trials: pd.DataFrame, starts: Sequence[float], fall: float) -> pd.DataFrame:
    """Truth and every measure falls by the same from segment to segment."""
    return pd.DataFrame(
        [
            {
                **{name: row[name] for name in ("trial", "policy", "prompt", "seed")},
                "segment": segment,
                "start_second": start,
                **{name: row[name] - fall * segment for name in (TRUTH, *MEASURES)},
            }
            for row in trials.to_dict("records")
            for segment, start in enumerate(starts)
        ]
    )


def _store(folder: Path, **tables: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps({"format": 2, "experiment": {"num-chunks": 7}}))
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    return folder


def _make_run(folder: Path, measured: Measured, **options: Any) -> Path:
    trials = _make_trials(measured, **options)
    return _store(
        folder,
        results=trials,
        candidates=_make_candidates(trials, [[(0.1, 0.2), (0.3, 0.6)], [(0.1, 0.4), (0.0, 0.5)]]),
        segments=_make_segments(trials, (0.0, 1.0, 2.0), fall=0.05),
    )


def _better_by(truth: float, reward: float) -> Measured:
    """Beam search is better than the others by exactly this on every prompt and seed; prompts differ, seeds too."""

    def measured(label: str, prompt: int, seed: int) -> tuple[float, float]:
        base = 0.3 + 0.07 * prompt + 0.02 * seed
        return (base + truth, base + reward) if label == "beam-search" else (base, base)

    return measured


def _section(folder: Path, title: str) -> Section:
    (found,) = [one for one in sections(load(folder), failures=3) if one.title == title]
    return found


def _row(table: Table, label: str) -> dict[str, str]:
    (row,) = [texts for texts in table.texts if texts[0] == label]
    return dict(zip(table.header, row, strict=True))


def _read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_constant_advantage_is_found_exactly_with_no_width(tmp_path):
    section = _section(_make_run(tmp_path, _better_by(0.1, 0.2)), "Truth")
    row = _row(section.tables[0], "beam-search")
    assert (row["to greedy"], row["wins"], row["pairs"]) == ("+0.100 [+0.100, +0.100]", "100 %", "12")
    assert "beam-search is 0.100 [0.100, 0.100] above greedy in truth at 3.6 times its passes." in section.readings[1]


def test_constant_disadvantage_reads_as_below(tmp_path):
    section = _section(_make_run(tmp_path, _better_by(-0.1, 0.2)), "Truth")
    assert _row(section.tables[0], "beam-search")["wins"] == "0 %"
    assert "0 of 1 other policies are shown to be above greedy, and 1 below: beam-search" in section.readings[0]


def test_interval_that_includes_zero_claims_nothing(tmp_path):
    def measured(label: str, prompt: int, seed: int) -> tuple[float, float]:
        return (0.5 + (0.1 * (-1) ** prompt + 0.01) * (label == "beam-search"), 0.5)

    section = _section(_make_run(tmp_path, measured, prompts=6), "Truth")
    assert "0 of 1 other policies are shown to be above greedy, and none below" in section.readings[0]
    assert "No difference in truth is shown between beam-search and greedy (+0.010 [" in section.readings[1]


def test_equal_policies_win_half():
    trials = _make_trials(lambda label, prompt, seed: (0.5 + 0.1 * prompt, 0.5))
    (one,) = differences(trials, TRUTH, {"beam-search": "greedy"}).values()
    assert (one.win_rate, one.estimate[:3]) == (0.5, (0.0, 0.0, 0.0))


def test_rounding_is_no_difference():
    trials = _make_trials(lambda label, prompt, seed: (0.5 + 1e-12 * (label == "greedy"), 0.5))
    (one,) = differences(trials, TRUTH, {"beam-search": "greedy"}).values()
    assert (one.win_rate, one.estimate[:3]) == (0.5, (0.0, 0.0, 0.0))


def test_interval_is_the_percentile_bootstrap_over_prompts():
    values = np.array([0.1, 0.4, 0.2, 0.9, 0.3, 0.6, 0.55])
    places = np.random.default_rng(SEED).integers(0, len(values), (NUM_RESAMPLES, len(values)))
    low, high = np.percentile(values[places].mean(axis=1), [2.5, 97.5])
    (one,) = estimate(values[None])
    assert one == (pytest.approx(values.mean()), pytest.approx(low), pytest.approx(high), 7)


def test_rows_are_estimated_as_if_alone_whatever_prompts_they_miss():
    values = np.random.default_rng(1).normal(size=(5, 8))
    values[1, 3] = values[2, :6] = values[4] = math.nan
    together = estimate(values)
    alone = [estimate(row[None])[0] for row in values]
    np.testing.assert_array_equal(together, alone)
    assert [one.num_prompts for one in together] == [8, 7, 2, 8, 0]


def test_end_just_below_zero_does_not_read_as_zero():
    assert interval(Estimate(-0.004, -0.008, -0.0001, 9), signed=True) == "-0.004 [-0.008, -0.000]"
    assert interval(Estimate(1e-17, -1e-17, 0.0, 9), signed=True) == "+0.000 [+0.000, +0.000]"


def test_seeds_of_a_prompt_count_as_one_prompt():
    uneven = _make_trials(lambda label, prompt, seed: (0.2 + 0.6 * (prompt == 0), 0.5), prompts=4, seeds=3)
    uneven = uneven[(uneven["prompt"] != "prompt 1") | (uneven["seed"] == 0)]
    assert means(uneven, TRUTH)["greedy"].mean == pytest.approx((0.8 + 3 * 0.2) / 4)
    assert means(uneven, TRUTH)["greedy"].num_prompts == 4


def test_only_prompts_and_seeds_of_both_are_paired():
    trials = _make_trials(lambda label, prompt, seed: (0.5 + 0.1 * (label == "greedy"), 0.5))
    left = trials[(trials["policy"] == "greedy") | (trials["prompt"] == "prompt 2")]
    (one,) = differences(left, TRUTH, {"beam-search": "greedy"}).values()
    assert (one.num_pairs, one.estimate.num_prompts, one.estimate.has_interval) == (2, 1, False)
    none = trials[(trials["policy"] == "greedy") == (trials["prompt"] == "prompt 2")]
    (one,) = differences(none, TRUTH, {"beam-search": "greedy"}).values()
    assert one.num_pairs == 0 and math.isnan(one.win_rate)


@pytest.mark.parametrize(
    ("truth", "reward", "is_hacked"), [(0.1, 0.2, False), (0.0, 0.2, True), (-0.1, 0.2, True), (0.0, 0.0, False)]
)
def test_hacking_is_said_exactly_when_reward_rises_and_truth_does_not(tmp_path, truth, reward, is_hacked):
    section = _section(_make_run(tmp_path, _better_by(truth, reward)), "Hacking gap")
    text = "Reward rises and truth does not: from greedy to beam-search"
    assert [reading.startswith(text) for reading in section.readings] == [is_hacked]
    assert ("truth falls" in section.readings[0]) == (truth < 0)


def test_hacking_is_seen_between_budgets_of_one_policy(tmp_path):
    def measured(label: str, prompt: int, seed: int) -> tuple[float, float]:
        budget = {"greedy": 0, "best-of-n": 1}.get(label, 2)
        return 0.4 + 0.1 * min(budget, 1) + 0.01 * prompt, 0.4 + 0.1 * budget

    labels = ("greedy", "best-of-n", "best-of-n (num-candidates=8)")
    section = _section(_make_run(tmp_path, measured, labels=labels), "Hacking gap")
    (reading,) = section.readings
    assert "from best-of-n to best-of-n (num-candidates=8), search reward rises (+0.100" in reading


def test_plots_without_room_show_policies_at_one_budget():
    labels = ("greedy", "best-of-n", "beam-search", "beam-search (children=4)", "beam-search (children=8)")
    trials = _make_trials(lambda *_: (0.5, 0.5), labels=labels)
    trials.loc[trials["policy"] == "beam-search (children=8)", "passes"] = 496.0
    assert at_one_budget(trials) == ["greedy", "best-of-n", "beam-search"]
    dearer = trials[trials["policy"] != "best-of-n"]
    assert at_one_budget(dearer) == ["greedy", "beam-search (children=8)"]


def test_budgets_of_a_policy_are_one_curve_and_other_options_another():
    labels = ("stream-t1", "beam-search (beam-width=2, children=4)", "beam-search")
    labels += ("beam-search (children=3, fusion.short-cap=0.1)", "stream-t1 (noise-correlation=0.2)", "m:P (limit=1)")
    trials = _make_trials(lambda *_: (0.5, 0.5), labels=labels)
    assert curves(trials) == {
        "stream-t1": ["stream-t1"],
        "beam-search": ["beam-search", "beam-search (beam-width=2, children=4)"],
        "beam-search (fusion.short-cap=0.1)": ["beam-search (children=3, fusion.short-cap=0.1)"],
        "stream-t1 (noise-correlation=0.2)": ["stream-t1 (noise-correlation=0.2)"],
        "m:P (limit=1)": ["m:P (limit=1)"],
    }


def test_best_of_n_is_the_one_of_most_similar_compute():
    labels = ("greedy", "best-of-n", "best-of-n (num-candidates=8)", "beam-search", "beam-search (children=4)")
    references = nearest_references(_make_trials(lambda *_: (0.5, 0.5), labels=labels), "best-of-n")
    assert references == {
        "beam-search": "best-of-n",
        "beam-search (children=4)": "best-of-n (num-candidates=8)",
    }


def test_truth_is_compared_with_stream_t1_at_the_most_similar_passes(tmp_path):
    def measured(label: str, prompt: int, seed: int) -> tuple[float, float]:
        return 0.5 + 0.05 * prompt + 0.02 * (label == "front-loading"), 0.5

    labels = ("greedy", "stream-t1", "front-loading")
    stored = _section(_make_run(tmp_path, measured, labels=labels), "Truth").tables[0].stored.set_index("policy")
    assert stored["to_stream_t1"]["front-loading"] == pytest.approx(0.02)
    assert stored["to_stream_t1_reference"]["front-loading"] == "stream-t1"
    assert stored["to_stream_t1_pairs"].tolist() == [0, 0, stored["to_greedy_pairs"]["front-loading"]]


def test_ablations_are_compared_with_stream_t1_of_the_same_options():
    labels = ("stream-t1", "stream-t1-ema-only", "stream-t1 (children=4)", "stream-t1-ema-only (children=4)")
    labels += ("stream-t1-without-memory (children=3)",)
    references = ablation_references(_make_trials(lambda *_: (0.5, 0.5), labels=labels))
    assert references == {
        "stream-t1-ema-only": "stream-t1",
        "stream-t1-ema-only (children=4)": "stream-t1 (children=4)",
    }


def test_ablation_table_has_the_difference_to_the_full_method(tmp_path):
    def measured(label: str, prompt: int, seed: int) -> tuple[float, float]:
        return 0.5 + 0.05 * prompt - 0.03 * (label == "stream-t1-without-memory"), 0.5

    labels = ("stream-t1", "stream-t1-without-memory", "stream-t1-ema-only")
    section = _section(_make_run(tmp_path, measured, labels=labels), "Ablations of Stream-T1")
    stored = section.tables[0].stored.set_index("policy")["truth_to_stream_t1"]
    assert stored["stream-t1-without-memory"] == pytest.approx(-0.03)
    assert "below stream-t1: stream-t1-without-memory (-0.030 [-0.030, -0.030])" in section.readings[0]
    assert "no difference is shown for stream-t1-ema-only" in section.readings[0]


def test_regret_of_levels_worked_out_by_hand():
    level = {"trial": "t", "policy": "p", "prompt": "q", "seed": 0}
    rows = [  # chunk, fused, truth, pruned_after
        *((0, 0.9, 0.2, None), (0, 0.5, 0.8, None), (0, 0.1, 0.5, None)),  # the worst is picked
        *((1, 0.3, 0.6, None), (1, 0.7, 0.7, None)),  # the best is picked
        *((2, 0.4, 0.1, None), (2, 0.4, 0.3, None)),  # the first of equals is picked
        *((3, 0.9, None, 2.0), (3, 0.1, 0.4, None)),  # one was given up: no choice
        *((4, 0.9, 0.6, None), (4, 0.1, 0.6, None), (4, 0.2, 0.0, None), (4, 0.0, 0.3, None)),  # two are best
    ]
    names = ("chunk", "fused", "truth", "pruned_after")
    levels = judge(pd.DataFrame([{**level, **dict(zip(names, row, strict=True))} for row in rows]))
    assert list(levels["chunk"]) == [0, 1, 2, 4]
    assert list(levels["num_candidates"]) == [3, 2, 2, 4]
    assert list(levels["picked"]) == [0.2, 0.7, 0.1, 0.6]
    assert list(levels["best"]) == [0.8, 0.7, 0.3, 0.6]
    assert list(levels["mean"]) == pytest.approx([0.5, 0.65, 0.2, 0.375])
    assert list(levels["agreement"]) == [0, 1, 0, 1]
    assert list(levels["chance"]) == pytest.approx([1 / 3, 1 / 2, 1 / 2, 2 / 4])
    assert captured(levels) == pytest.approx((-0.3 + 0.05 - 0.1 + 0.225) / (0.3 + 0.05 + 0.1 + 0.225))


def test_regret_table_adds_up(tmp_path):
    table = _section(_make_run(tmp_path, _better_by(0.1, 0.2)), "Selector regret").tables[0]
    row = table.stored.set_index("policy").loc["greedy"]
    assert (row["levels"], row["agreement"], row["chance"]) == (24, 0.5, 0.5)
    assert row["picked_truth"] - row["mean_truth"] == pytest.approx(row["gain"])
    assert row["best_truth"] - row["picked_truth"] == pytest.approx(row["regret"])


def test_drift_is_the_change_within_each_video(tmp_path):
    section = _section(_make_run(tmp_path, _better_by(0.1, 0.2)), "Drift along the video")
    assert _row(section.tables[0], "greedy")["motion"] == "-0.100 [-0.100, -0.100]"
    assert "falls for greedy (-0.100 [-0.100, -0.100]) and beam-search" in section.readings[0]
    assert len(section.tables[1].stored) == 2 * 3


def test_failures_are_those_of_least_truth_with_their_lowest_measure(tmp_path):
    folder = _make_run(tmp_path, _better_by(0.1, 0.2))
    video = folder / "trials/greedy-0-0.mp4"
    write_video(video, np.full((9, 64, 64, 3), 200, np.uint8), 16)
    section = _section(folder, "Worst failures")
    assert [(row[0], row[1], row[2]) for row in section.tables[0].texts] == [
        ("greedy", "prompt 0", "0"),
        ("greedy", "prompt 0", "1"),
        ("greedy", "prompt 1", "0"),
    ]
    assert set(section.tables[0].stored["failed_by"]) == {"motion"}
    assert "2 videos" in section.readings[1] and len(section.pictures) == 1


def test_every_caption_says_how_much_it_rests_on(tmp_path):
    made = sections(load(_make_run(tmp_path, _better_by(0.1, 0.2))), failures=2)
    captions = [table.caption for section in made for table in section.tables]
    for text in captions:
        assert "prompt" in text and "seed" in text and "trials" in text
    assert "2 comparisons, not corrected" in _section(tmp_path, "Hacking gap").tables[0].caption


def test_report_is_the_same_to_the_byte_when_made_again(tmp_path, capsys):
    folder = _make_run(tmp_path, _better_by(0.1, 0.2))
    write_video(folder / "trials/greedy-0-0.mp4", np.full((9, 64, 64, 3), 200, np.uint8), 16)
    assert main(folder) == 0
    first = _read_all(folder / "report")
    assert main(folder) == 0
    assert _read_all(folder / "report") == first
    assert {"report.md", "plots/truth.png", "plots/failures.png", "tables/truth.csv", "tables/hacking.parquet"} <= set(
        first
    )


def test_links_of_the_page_lead_to_files(tmp_path, capsys):
    folder = _make_run(tmp_path, _better_by(0.1, 0.2))
    main(folder)
    page = (folder / "report/report.md").read_text()
    linked = [part.split(")")[0] for part in page.split("](")[1:]]
    assert linked and all((folder / "report" / one).exists() for one in linked if not one.endswith(".mp4"))
    assert page.count("](plots/") == len(list((folder / "report/plots").iterdir()))


def test_plots_and_tables_of_an_older_report_do_not_stay(tmp_path, capsys):
    folder = _make_run(tmp_path, _better_by(0.1, 0.2))
    main(folder)
    (folder / "segments.parquet").unlink()
    main(folder)
    assert not list((folder / "report").rglob("drift*"))


def test_older_runs_lose_sections_and_say_why(tmp_path, capsys):
    trials = _make_trials(_better_by(0.1, 0.2))
    candidates = _make_candidates(trials, [[(0.1, 0.2), (0.2, 0.3)]]).drop(columns=["truth", "diversity"])
    folder = _store(tmp_path, results=trials, candidates=candidates)
    assert main(folder) == 0
    for title in ("Drift along the video", "Selector regret", "Diversity of the candidates", "Ablations of Stream-T1"):
        section = _section(folder, title)
        assert section.readings[0].startswith("Left out: ") and not section.tables and not section.pictures
    (folder / "candidates.parquet").unlink()
    assert main(folder) == 0


def test_nulls_in_place_of_measurements_leave_sections_out(tmp_path):
    trials = _make_trials(_better_by(0.1, 0.2))
    candidates = _make_candidates(trials, [[(0.1, 0.2)]]).assign(truth=None, diversity=None)
    folder = _store(tmp_path, results=trials, candidates=candidates)
    for title in ("Selector regret", "Diversity of the candidates"):
        assert _section(folder, title).readings[0].startswith("Left out: ")


def test_few_prompts_have_intervals_and_still_claim_nothing(tmp_path):
    folder = _make_run(tmp_path, _better_by(0.1, 0.2), prompts=5)
    section = _section(folder, "Truth")
    assert _row(section.tables[0], "beam-search")["to greedy"] == "+0.100 [+0.100, +0.100]"
    assert "0 of 1 other policies are shown" in section.readings[0]
    assert "nothing is shown: there are too few prompts to show a difference, 5 of at least 6" in section.readings[1]
    assert "too few prompts to show a difference" in _section(folder, "Hacking gap").readings[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prompts", [1, 2])
def test_one_or_two_prompts_have_no_interval(tmp_path, capsys, prompts):
    folder = _make_run(tmp_path, _better_by(0.1, 0.2), prompts=prompts)
    assert main(folder) == 0
    section = _section(folder, "Truth")
    assert _row(section.tables[0], "beam-search")["to greedy"] == "+0.100"
    assert "too few prompts for an interval" in section.tables[0].caption
    assert "too few prompts for an interval" in section.readings[1] and "nothing is shown" in section.readings[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [("greedy",), ("beam-search",), ("best-of-n", "beam-search")])
def test_runs_without_references_still_have_a_report(tmp_path, capsys, labels):
    assert main(_make_run(tmp_path, lambda label, prompt, seed: (0.5, 0.5), labels=labels)) == 0


def test_wrong_folders_are_refused_in_one_sentence(tmp_path, capsys):
    def _refused(folder: Path) -> str:
        assert main(folder) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(folder) in line
        return line

    assert "there is no run folder" in _refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "is no run" in _refused(tmp_path / "empty")
    folder = _store(tmp_path / "unfinished")
    assert "no finished trials" in _refused(folder)
    trials = _make_trials(_better_by(0.1, 0.2))
    assert "no finished trials" in _refused(_store(folder, results=trials.head(0)))
    assert "no column reward" in _refused(_store(folder, results=trials.drop(columns="reward")))
    (_store(folder, results=trials) / "report").write_text("in the way")
    assert f"a report of {folder} cannot be written: " in _refused(folder)
    (_store(folder, results=trials) / "segments.parquet").write_bytes(b"PAR1 cut off")
    assert f"table {folder / 'segments.parquet'} is damaged" in _refused(folder)
    (folder / "experiment.json").write_text("{")
    assert "experiment.json is damaged" in _refused(folder)


def test_help_does_not_wait_for_heavy_imports():
    code = (
        "import sys, experiments.report.__main__; print([n for n in ('pandas', 'scipy', 'torch') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def _make_judged_run(folder: Path, judges: Sequence[str]) -> Path:
    """A run of a model whose videos nobody knows the truth of: judges say the opposite of one another."""
    trials = _make_trials(_better_by(0.1, 0.2)).drop(columns=[*MEASURES, TRUTH])
    trials = trials.assign(num_chunks=7, denoise_passes=28.0, options="{}")
    for place, name in enumerate(judges):
        trials[name] = (-1) ** place * trials["reward"]
    candidates = _make_candidates(trials.assign(truth=None), [[(0.1, 0.2), (0.2, 0.3)]]).assign(truth=None)
    segments = trials[["trial", "policy", "prompt", "seed", *judges]]
    segments = pd.concat([segments.assign(segment=place, start_second=5.0625 * place) for place in (0, 1)])
    return _store(folder, results=trials, candidates=candidates, segments=segments)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("judges", [(), ("clip",), ("own:judge/a", "B", "c", "d")])
def test_runs_without_truth_are_reported_by_reward_and_judges(tmp_path, capsys, judges):
    folder = _make_judged_run(tmp_path / "x", judges)
    assert load(folder).measures == judges
    assert main(folder) == 0
    written = (folder / "report/report.md").read_text()
    assert "Search reward is what policies search with" in written and "## Search reward" in written
    assert "truth" not in written.lower().replace("nobody knows the truth of this run's videos", "")
    measured = _section(folder, "What judges say")
    assert [table.header[1] for table in measured.tables] == list(judges)
    for name, sign in zip(judges, "+-+-", strict=False):
        assert f"| {name} |" in written
        (table,) = [table for table in measured.tables if table.header[1] == name]
        assert _row(table, "beam-search")["to greedy"].startswith(f"{sign}0.200")
    tables = {path.stem for path in (folder / "report/tables").glob("*.csv")}
    assert {"reward", "scaling", "diversity", "failures"} <= tables
    assert ("drift" in tables, "hacking_clip" in tables) == (bool(judges), "clip" in judges)


def test_judge_that_falls_while_reward_rises_is_hacked(tmp_path):
    section = _section(_make_judged_run(tmp_path, ("good", "bad")), "Hacking gap")
    good, bad = section.readings
    assert good == "Search reward is shown to rise in 1 of 1 comparisons, and good in each of them, too."
    assert bad.startswith("Reward rises and bad does not: from greedy to beam-search") and "bad falls" in bad
    assert [table.name for table in section.tables] == ["hacking_good", "hacking_bad"]


@pytest.mark.slow
def test_large_run_takes_seconds(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    labels = ["greedy", *(f"{name}{n}" for name in ("best-of-n", "beam-search") for n in ("", " (children=3)"))]
    labels += ["stream-t1", *(f"stream-t1-{n}" for n in ("without-memory", "ema-only")), "m:A", "m:B", "m:C", "m:D"]
    trials = _make_trials(lambda *_: tuple(rng.uniform(size=2)), labels=labels, prompts=64)
    candidates = _make_candidates(trials, [[(0.1, 0.2), (0.3, 0.6), (0.5, 0.2), (0.3, 0.3)]] * 7)
    candidates["truth"] = rng.uniform(size=len(candidates))
    assert len(trials) == 1536 and len(candidates) == 43008
    folder = _store(
        tmp_path, results=trials, candidates=candidates, segments=_make_segments(trials, range(30), fall=0.01)
    )
    monkeypatch.undo()  # plots at full resolution
    start = time.perf_counter()
    assert main(folder) == 0
    assert time.perf_counter() - start < 20
    assert {TRUTH, "reward", *MEASURES} <= {path.stem for path in (folder / "report/tables").glob("*.csv")}
