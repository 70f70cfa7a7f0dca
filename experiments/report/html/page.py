"""Puts a report, the videos and the search trees of a run into one page that opens from disk.

The page holds everything it needs and its security policy forbids it to fetch anything. Media lie behind the text as
base64 in inert script blocks, so that the text shows at once and the browser decodes only what comes into view.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from experiments.report.data import Run
from experiments.report.html.tree import Node
from experiments.report.html.trials import Trial, notes_on, rows_of
from experiments.report.page import PLOTS, Section

SOURCES = Path(__file__).parent
SCRIPTS = ("page.js", "rows.js", "tree.js", "blind.js")
PHOTOGRAPHS = ("failures",)  # pictures with frames of videos, whose colours a dark page leaves alone


def write(
    folder: Path,
    run: Run,
    title: str,
    preface: Sequence[str],
    sections: Sequence[Section],
) -> Path:
    """Writes `report.html` into a report's folder, which holds its plots already, and returns its path."""
    rows = rows_of(run)
    trials = [trial for row in rows for trial in row.trials]
    path = folder / "report.html"
    draft = path.with_name(f".{path.name}")
    with draft.open("w", encoding="utf-8") as file:
        for part in _template().generate(
            title=title,
            preface=preface,
            sections=sections,
            pictures={one.name: _picture(folder / PLOTS, one.name) for section in sections for one in section.pictures},
            anchors={
                f"../{row['video']}": f"#trial-{index}" for index, row in enumerate(run.trials.to_dict("records"))
            },
            rows=rows,
            notes=notes_on(trials),
            data=_data(run, trials, title),
            trees=((trial.index, _tree_data(trial)) for trial in trials if trial.tree),
            blocks=_blocks(trials),
        ):
            file.write(part)
    os.replace(draft, path)
    return path


def _template() -> Any:
    script = "\n".join((SOURCES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(SOURCES), autoescape=True, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    environment.globals |= {
        "style": Markup((SOURCES / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": Markup(allowed),
        "photographs": PHOTOGRAPHS,
    }
    return environment.get_template("page.html")


def _picture(folder: Path, name: str) -> dict[str, Any]:
    from PIL import Image

    path = folder / f"{name}.png"
    with Image.open(path) as picture:
        return {"width": picture.width, "height": picture.height, "content": _base64(path.read_bytes())}


def _data(run: Run, trials: Sequence[Trial], title: str) -> dict[str, Any]:
    """Returns what the page's scripts know of the trials; trees are in blocks of their own."""
    return {
        "title": title,
        "run": run.folder.resolve().name,
        "trials": {
            trial.index: {
                "trial": trial.hash,
                "policy": trial.policy,
                "prompt": trial.prompt,
                "seed": trial.seed,
                "colour": trial.colour,
                "digest": trial.digest,
            }
            for trial in trials
        },
    }


def _tree_data(trial: Trial) -> dict[str, Any]:
    assert trial.tree is not None
    clips = trial.clips
    return {
        "fields": Node._fields,
        "nodes": [[_rounded(value) for value in node] for node in trial.tree.nodes],
        "levels": [level._asdict() for level in trial.tree.levels],
        "unclear": trial.tree.num_unclear,
        "cell": {"height": clips.height, "width": clips.width, "fps": clips.fps} if clips else None,
        "note": trial.note,
    }


def _rounded(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _blocks(trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    """Yields every block of media by its name in the page."""
    for trial in trials:
        if trial.video:
            yield f"video-{trial.index}", _base64(trial.video.content)
        for chunk, sheet in (trial.clips.sheets if trial.clips else {}).items():
            yield f"clip-{trial.index}-{chunk}", _base64(sheet)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def size_text(path: Path) -> str:
    """Returns a file's size as "12.3 MB"."""
    return f"{path.stat().st_size / 1e6:.1f} MB"
