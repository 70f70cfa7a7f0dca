"""Progress, where the length of a video is known and where it is not."""

import io

import pytest
from rich.console import Console

from experiments import progress
from experiments.progress import Bars, Lines, make_reporter


def _told(num_chunks: int | None, *, is_terminal: bool) -> str:
    """Returns what is printed of one of two trials."""
    page = io.StringIO()
    console = Console(file=page, force_terminal=is_terminal, width=100)
    with make_reporter(console, num_trials=2, num_chunks=num_chunks) as reporter:
        assert isinstance(reporter, Bars if is_terminal else Lines)
        reporter.start("greedy")
        for number in (1, 2, 3):
            reporter.chunk(number)
        reporter.finish("done")
    return page.getvalue()


@pytest.mark.parametrize(
    ("num_chunks", "chunk"), [(4, "[0/2] greedy: chunk 2 of 4; "), (None, "[0/2] greedy: chunk 2\n")]
)
def test_lines_say_how_far_a_trial_is(num_chunks, chunk, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    told = _told(num_chunks, is_terminal=False)
    assert chunk in told and "[1/2] done; 0:00 left" in told


@pytest.mark.parametrize(("num_chunks", "everything", "trial"), [(4, "4/8", "3/4"), (None, "1/2", "3/?")])
def test_bars_count_chunks_or_trials(num_chunks, everything, trial):
    told = _told(num_chunks, is_terminal=True)
    assert everything in told and trial in told


def test_lines_of_many_trials_are_told_now_and_then():
    page = io.StringIO()
    with make_reporter(Console(file=page, width=100), num_trials=1000, num_chunks=7) as reporter:
        for number in range(1000):
            reporter.finish(f"trial {number}")
    assert page.getvalue() == "[1000/1000] trial 999; 0:00 left\n"
