"""Progress, where the length of a video is known and where it is not."""

import io

import pytest
from rich.console import Console

from experiments import progress
from experiments.progress import Bars, Lines, Place, make_reporter


def _told(num_chunks: int | None, *, is_terminal: bool) -> str:
    """Returns what is printed of one of two trials."""
    page = io.StringIO()
    console = Console(file=page, force_terminal=is_terminal, width=100)
    with make_reporter(console, num_trials=2, num_chunks=num_chunks) as reporter:
        assert isinstance(reporter, Bars if is_terminal else Lines)
        reporter.start("greedy")
        for place in (Place(1), Place(2), Place(2, 1.5, 4)):
            reporter.at(place)
        reporter.end()
        reporter.finish("done")
    return page.getvalue()


@pytest.mark.parametrize(
    ("num_chunks", "of_all", "left"), [(4, " of 4", "; 0:00 left"), (None, "", "")], ids=["a length", "no length"]
)
def test_lines_say_how_far_a_trial_is(num_chunks, of_all, left, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    told = _told(num_chunks, is_terminal=False)
    assert f"[0/2] greedy: chunk 2{of_all}{left}\n" in told
    assert f"[0/2] greedy: chunk 3{of_all}, 1.5 of 4 candidates{left}\n" in told
    assert "[1/2] done; 0:00 left" in told


def test_lines_are_of_all_workers(monkeypatch):
    page = io.StringIO()
    with make_reporter(Console(file=page, width=100), num_trials=2, num_chunks=4) as reporter:
        reporter.start("greedy", worker=0)
        reporter.start("stream-t1", worker=1)
        monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
        reporter.at(Place(3), worker=1)
        reporter.end(worker=0)
        reporter.at(Place(4), worker=1)
    first, second = page.getvalue().splitlines()
    assert "greedy: chunk 0 of 4; stream-t1: chunk 3 of 4; " in first
    assert "greedy" not in second


def _drawn(bars: Bars) -> str:
    """Returns what the bars look like now."""
    page = io.StringIO()
    Console(file=page, width=100).print(bars._bars.get_renderable())
    return page.getvalue()


@pytest.mark.parametrize("num_chunks", [4, None])
def test_bars_count_trials_chunks_and_candidates_of_every_worker(num_chunks):
    bars = Bars(Console(file=io.StringIO(), force_terminal=True, width=100), num_trials=3, num_chunks=num_chunks)
    bars.start("greedy", worker=0)
    bars.start("stream-t1", worker=1)
    bars.at(Place(2, 3.0, 4), worker=1)
    rows = [row.split() for row in _drawn(bars).splitlines()]
    of_all = str(num_chunks or "?")
    assert [(row[0], *(word for word in row if "/" in word)) for row in rows] == [
        ("all", "0/3"),
        ("greedy", f"0/{of_all}"),
        ("chunk", "0/?"),
        ("stream-t1", f"2/{of_all}"),
        ("chunk", "3/4"),
    ]
    assert all("left" in row for row in rows)
    bars.end(worker=1)
    bars.finish("stream-t1")
    assert "1/3" in _drawn(bars) and "stream-t1" not in _drawn(bars)


def test_bars_count_no_chunk_past_the_last_one():
    bars = Bars(Console(file=io.StringIO(), force_terminal=True, width=100), num_trials=1, num_chunks=4)
    bars.start("greedy")
    bars.at(Place(4))
    assert "storing" in _drawn(bars) and "chunk 5" not in _drawn(bars)


def test_lines_of_many_trials_are_told_now_and_then():
    page = io.StringIO()
    with make_reporter(Console(file=page, width=100), num_trials=1000, num_chunks=7) as reporter:
        for number in range(1000):
            reporter.finish(f"trial {number}")
    assert page.getvalue() == "[1000/1000] trial 999; 0:00 left\n"
