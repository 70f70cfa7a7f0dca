"""The table at the end."""

import io

from rich.console import Console

from experiments.registry import POLICIES
from experiments.summary import ROWS, print_summary
from experiments.trials import MEASURES, TRUTH, Result
from searchkit.cost import Cost


def _make_result(label: str, seed: int) -> Result:
    measures = dict.fromkeys((*MEASURES, TRUTH), 0.5)
    cost = Cost(denoise_passes=28.0, clean_passes=6.0)
    return Result(label=label, prompt="a prompt", seed=seed, reward=-1.25, measures=measures, cost=cost, curve=())


def _printed(labels: list[str], width: int) -> str:
    page = io.StringIO()
    print_summary(Console(file=page, width=width), [_make_result(label, seed) for label in labels for seed in (0, 1)])
    return page.getvalue()


def test_five_policies_share_one_table():
    printed = _printed([*POLICIES][:5], 110)
    assert printed.count("│ search reward ") == 1 and printed.count("-1.25 ±0.00") == 5


def test_many_policies_have_tables_that_break_no_word():
    labels = [*POLICIES, "beam-search (beam-width=3)"]
    printed = _printed(labels, 110)
    assert printed.count("│ search reward ") == 3
    for row in ROWS:
        assert printed.count(f"│ {row.name} ") == 3
    assert printed.count("-1.25 ±0.00") == len(labels)
    assert all(word in printed for word in ("propagation ┃", "without- ┃", "width=3) ┃"))
