"""What the page shows of a run's trials: rows of videos of one prompt and seed, with the searches behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.data import REWARD, Run, shown_name
from experiments.report.html import media, tree
from experiments.report.html.media import MAX_HEIGHT, Clips, Video
from experiments.report.html.tree import Tree
from experiments.report.plots import styles
from experiments.report.policies import ordered
from experiments.report.words import number
from searchkit.memory import MemoryConfig

SMALLER = "smaller"  # folder of a report, with videos that were scaled for its page
CLIPS_BYTES = 96 * 2**20  # of all clips together; those of later trials are left out


class Shown(NamedTuple):
    """A measure of a trial as the page shows it."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial as the page shows it.

    Attributes:
        index: names it in the page, whatever its hash is.
        digest: of its video's bytes; None if the video cannot be read.
        tree: its search, if there was one to show.
        note: why its candidates have no pictures; empty if they have.
    """

    index: int
    hash: str
    policy: str
    prompt: str
    seed: int
    colour: str
    measures: Sequence[Shown]
    video: Video | None
    tree: Tree | None
    clips: Clips | None
    note: str

    @property
    def digest(self) -> str | None:
        return hashlib.sha256(self.video.content).hexdigest()[:16] if self.video else None


class Row(NamedTuple):
    """The videos of one prompt and seed."""

    prompt: str
    seed: int
    trials: Sequence[Trial]

    @property
    def searched(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.tree]


def rows_of(run: Run, *, clips_bytes: int = CLIPS_BYTES) -> list[Row]:
    """Returns every trial of a run in rows, with clips of candidates as long as there is room.

    Args:
        clips_bytes: room for the clips of all trials together.
    """
    rows: dict[tuple[str, int], list[Trial]] = {}
    for trial in _trials(run, clips_bytes):
        rows.setdefault((trial.prompt, trial.seed), []).append(trial)
    return [Row(prompt, seed, trials) for (prompt, seed), trials in rows.items()]


def notes_on(trials: Sequence[Trial]) -> list[str]:
    """Returns what the page does not hold as it is stored."""
    smaller = sum(trial.video is not None and trial.video.is_smaller for trial in trials)
    missing = sum(trial.video is None for trial in trials)
    notes = []
    if smaller:
        notes.append(
            f"{smaller:,} of {len(trials):,} videos are higher than {MAX_HEIGHT} pixels and were made smaller "
            "for this page; the run's folder holds them as they are."
        )
    if missing:
        notes.append(f"{missing:,} of {len(trials):,} videos cannot be read and are missing here.")
    return [*notes, *dict.fromkeys(trial.note for trial in trials if trial.note and not trial.tree)]


def _trials(run: Run, room: int) -> Iterator[Trial]:
    """Yields the trials in their order, with clips as long as there is room."""
    colours = {label: style.colour for label, style in styles(ordered(run.trials)).items()}
    stored = run.trials.to_dict("records")
    searches, missing = _searches(run)
    with ThreadPoolExecutor() as pool:  # decoding and encoding let go of the interpreter
        videos = pool.map(lambda row: _video(run, row), stored)
        for index, (row, video) in enumerate(zip(stored, videos, strict=True)):
            grown = searches.get(row["trial"])
            clips, note = _clips((run.folder / row["video"]).parent, grown, room) if grown else (None, missing)
            room -= clips.num_bytes if clips else 0
            yield Trial(
                index=index,
                hash=row["trial"],
                policy=row["policy"],
                prompt=row["prompt"],
                seed=row["seed"],
                colour=colours[row["policy"]],
                measures=_measures(run, row),
                video=video,
                tree=grown,
                clips=clips,
                note=note,
            )


def _searches(run: Run) -> tuple[Mapping[str, Tree], str]:
    """Returns the trees of trials that had a choice, or why there are none."""
    sizes = {name.removeprefix("memory.").replace("-", "_"): v for name, v in run.settings.items() if "memory." in name}
    try:
        rows, config = tree.read(run.folder / "candidates.parquet"), MemoryConfig(**sizes)
    except (ValueError, TypeError) as error:
        return {}, f"Search trees are left out: {error}."
    grown = {trial: tree.grow(tried, config) for trial, tried in rows.items()}
    return {trial: one for trial, one in grown.items() if one.is_searched}, ""


def _clips(folder: Path, grown: Tree, room: int) -> tuple[Clips | None, str]:
    try:
        clips = media.read_clips(folder, grown.num_finished)
    except ValueError as error:
        return None, str(error)
    if clips.num_bytes > room:
        return None, "The clips are left out: those of the trials before fill what the page keeps for them."
    return clips, ""


def _video(run: Run, row: Mapping[Any, Any]) -> Video | None:
    kept = run.folder / "report" / SMALLER / f"{row['trial']}-{MAX_HEIGHT}.mp4"
    try:
        return media.read_video(run.folder / row["video"], kept=kept)
    except OSError:
        return None


def _measures(run: Run, row: Mapping[Any, Any]) -> list[Shown]:
    scored = [Shown(shown_name(name), number(row[name])) for name in (*run.judges, REWARD)]
    return [*scored, Shown("passes", number(row["passes"], 0)), Shown("seconds", number(row["seconds"], 1))]
