"""The table at the end."""

import io
import math
from collections.abc import Mapping

from rich.console import Console

from experiments.registry import POLICIES
from experiments.summary import print_summary, rows
from experiments.trials import Result
from experiments.worlds import TRUTH
from experiments.worlds.shapes import MEASURES
from searchkit.cost import Cost

ORACLES = dict.fromkeys((*MEASURES, TRUTH), 0.5)


def _make_result(label: str, seed: int, measures: Mapping[str, float] = ORACLES) -> Result:
    cost = Cost(denoise_passes=28.0, clean_passes=6.0)
    return Result(label=label, prompt="a prompt", seed=seed, reward=-1.25, measures=measures, cost=cost, curve=())


def _printed(labels: list[str], width: int, measures: Mapping[str, float] = ORACLES) -> str:
    page = io.StringIO()
    results = [_make_result(label, seed, measures) for label in labels for seed in (0, 1)]
    print_summary(Console(file=page, width=width), results)
    return page.getvalue()


def test_five_policies_share_one_table():
    printed = _printed([*POLICIES][:5], 110)
    assert printed.count("│ search reward ") == 1 and printed.count("-1.25 ±0.00") == 5


def test_many_policies_have_tables_that_break_no_word():
    labels = [*POLICIES, "beam-search (beam-width=3)"]
    printed = _printed(labels, 110)
    assert printed.count("│ search reward ") == 3
    for row in rows(_make_result("greedy", 0)):
        assert printed.count(f"│ {row.name} ") == 3
    assert printed.count("-1.25 ±0.00") == len(labels)
    assert all(word in printed for word in ("propagation ┃", "without- ┃", "width=3) ┃"))


def test_truth_heads_the_measures_where_it_was_measured():
    lines = [line.split("│")[1].strip() for line in _printed(["greedy"], 110).splitlines() if line.startswith("│")]
    assert lines[:3] == ["search reward", "truth", "subject"]
    printed = _printed(["greedy", "stream-t1"], 110)
    assert "no policy sees the measures, whose mean is truth." in printed
    assert "Highest truth: " in printed and "Highest subject: " not in printed


def test_policies_are_compared_by_every_judge_where_nobody_knows_the_truth():
    printed = _printed(["greedy", "stream-t1"], 110, {"consistency": 0.9843, "aesthetic": 5.25})
    assert "0.984 ±0.000" in printed and "no policy sees the measures." in printed
    assert all(f"Highest {name}: " in printed for name in ("search reward", "consistency", "aesthetic"))
    assert "truth" not in printed


def test_search_reward_is_enough_for_a_table():
    printed = _printed(["greedy", "stream-t1"], 110, {})
    assert "of each policy.\n" in printed and "Highest search reward: " in printed
    assert "measures" not in printed and "truth" not in printed


def test_missing_measures_are_shown_as_missing_and_take_no_part_in_means():
    page = io.StringIO()
    values = {"greedy": (0.5, 0.25), "stream-t1": (0.75, math.nan), "beam-search": (math.nan, math.nan)}
    results = [
        _make_result(label, seed, {"beauty": value})
        for label, each in values.items()
        for seed, value in enumerate(each)
    ]
    print_summary(Console(file=page, width=110), results)
    printed = page.getvalue()
    assert "nan" not in printed
    line = next(line for line in printed.splitlines() if line.startswith("│ beauty"))
    assert [cell.strip() for cell in line.split("│")[2:-1]] == ["0.375 ±0.177", "0.750", "–"]
    assert printed.count("1 of 2") == 1
    verdict = " ".join(printed[printed.index("Highest beauty: ") :].split())
    assert verdict.startswith(
        "Highest beauty: stream-t1 with 0.750 (3 of all 6 trials have none) (greedy: 0.375), "
        "better than greedy in 1 of 1 trials"
    )


def test_measure_that_no_trial_has_has_no_winner():
    printed = _printed(["greedy", "stream-t1"], 110, {"beauty": math.nan})
    assert "No trial has a beauty." in printed and "nan" not in printed
