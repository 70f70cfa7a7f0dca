"""Measures the report's page: `python -m experiments.benchmark.report_page runs/NAME --trials 200`.

The trials of a run are copied under new names until there are so many; the report of these is written by the command
that users call, and opened in Chromium.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from experiments.benchmark.timing import Figure

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
READ_PAINT = """() => new Promise((done) => new PerformanceObserver((list) => {
    const [paint] = list.getEntriesByName("first-contentful-paint");
    if (paint) done(paint.startTime);
}).observe({ type: "paint", buffered: true }))"""


class Opened(NamedTuple):
    """Seconds from asking for a page until something of it shows, until all is read, and until a row's videos show."""

    first_paint: float
    whole: float
    videos: float


def browser_path() -> str | None:
    """Returns the path of a Chromium, or None if there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def copy_trials(source: Path, target: Path, num: int) -> None:
    """Writes a run of `num` trials, copies of another run's under new names and prompts."""
    import pandas as pd

    tables = {name: pd.read_parquet(source / f"{name}.parquet") for name in ("results", "candidates", "segments")}
    names = list(tables["results"]["trial"])
    kept = [(copy, name) for copy in range(-(-num // len(names))) for name in names][:num]
    target.mkdir(parents=True)
    shutil.copyfile(source / "experiment.json", target / "experiment.json")
    for copy, name in kept:
        shutil.copytree(source / "trials" / name, target / "trials" / f"{name}-{copy}")
    for table, rows in tables.items():
        copies = []
        for copy in range(kept[-1][0] + 1):
            taken = rows[rows["trial"].isin([name for one, name in kept if one == copy])]
            copies.append(taken.assign(trial=taken["trial"] + f"-{copy}", prompt=taken["prompt"] + f", copy {copy}"))
            if "video" in taken:
                copies[-1]["video"] = "trials/" + copies[-1]["trial"] + "/video.mp4"
        pd.concat(copies, ignore_index=True).to_parquet(target / f"{table}.parquet")


def open_page(page: Path, browser: str) -> Opened:
    """Opens a page in a browser that has not seen it before."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=[*ARGUMENTS])
        try:
            tab = chromium.new_page(viewport={"width": 1440, "height": 900})
            started = time.perf_counter()
            tab.goto(page.resolve().as_uri(), wait_until="load")
            whole = time.perf_counter() - started
            first_paint = tab.evaluate(READ_PAINT) / 1000
            started = time.perf_counter()
            tab.click("nav >> text=Videos")
            tab.wait_for_function("() => document.querySelector('.row video').readyState >= 2")
            return Opened(first_paint, whole, time.perf_counter() - started)
        finally:
            chromium.close()


def measure(source: Path, num: int, repeats: int) -> list[Figure]:
    """Returns what the page of `num` trials takes to write and to open."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        copy_trials(source, folder, num)
        first, again = _write(folder), _write(folder)
        page = folder / "report" / "report.html"
        figures = [
            Figure(f"report of {num} trials with its page, written", first, "s", 30.0),
            Figure("the same again, large videos being small already", again, "s", 30.0),
            Figure("size of the page", page.stat().st_size / 1e6, "MB"),
        ]
        browser = browser_path()
        if browser is None:
            print(f"not opened: there is none of {', '.join(BROWSERS)}", file=sys.stderr)
            return figures
        opened = [open_page(page, browser) for _ in range(repeats)]
    return [
        *figures,
        Figure("page, until the first paint, worst", max(one.first_paint for one in opened), "s", 2.0),
        Figure("page, until all is read, worst", max(one.whole for one in opened), "s"),
        Figure("from a click on Videos until the first ones show, worst", max(one.videos for one in opened), "s"),
    ]


def _write(folder: Path) -> float:
    """Returns the seconds that the command takes, its start and its tables and plots included."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "experiments.report", str(folder), "--html"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(
    folder: Annotated[Path, tyro.conf.Positional], *, trials: int = 200, repeats: int = 3, out: Path | None = None
) -> None:
    """Prints how long a report with its page takes to write and to open in Chromium.

    Args:
        folder: a finished run, whose trials are copied.
        trials: of the report.
        repeats: how often the page is opened, by a fresh browser each time.
        out: a JSON file to write the figures to as well.
    """
    figures = measure(folder, trials, repeats)
    for name, value, unit, limit in figures:
        print(f"{name}: {value:.3g} {unit}" + ("" if limit is None else f" (at most {limit:g})"))
    if out is not None:
        out.write_text(json.dumps([figure._asdict() for figure in figures], indent=1))


if __name__ == "__main__":
    tyro.cli(main)
