"""What a section is made of, and how sections become Markdown, terminal output and files."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as TerminalTable

from experiments.report.cells import Cell
from experiments.report.data import extent
from experiments.report.words import capitalised, counted, too_few

if TYPE_CHECKING:  # slow to import, and only drawing needs it
    from matplotlib.figure import Figure

TABLES, PLOTS = "tables", "plots"  # folders of a report, written anew each time
NAME_WIDTH = 22  # characters of a policy's name in a terminal's line
RESOLUTION = 150  # pixels an inch


class Table(NamedTuple):
    """A table as it is shown, and as it is stored for reuse.

    name: of its files.
    text: what it shows.
    over: the stored rows that it sums up.
    rows: cells, each under the header of its column; the first one names the row. At least one row.
    detail: what is stored in place of the rows, where these are a selection.
    num_comparisons: intervals of differences in it.
    is_brief: whether the terminal shows it, too.
    """

    name: str
    text: str
    over: pd.DataFrame
    rows: Sequence[Sequence[Cell]]
    num_comparisons: int = 0
    detail: pd.DataFrame | None = None
    is_brief: bool = True

    @property
    def caption(self) -> str:
        sentences = [f"{self.text} ({extent(self.over)})."]
        if self.num_comparisons:
            sentences.append(f"{counted(self.num_comparisons, 'comparison')}, not corrected for their number.")
            few = too_few(self.over["prompt"].nunique())
            sentences += [f"{capitalised(few)}."] if few else []
        return " ".join(sentences)

    @property
    def header(self) -> list[str]:
        return [cell.header for cell in self.rows[0]]

    @property
    def texts(self) -> list[list[str]]:
        return [[cell.text for cell in row] for row in self.rows]

    @property
    def markdown(self) -> list[list[str]]:
        return [[cell.markdown for cell in row] for row in self.rows]

    @property
    def brief(self) -> Table:
        """The table with the columns that the terminal shows."""
        return self._replace(rows=[[cell for cell in row if cell.is_brief] for row in self.rows])

    @property
    def stored(self) -> pd.DataFrame:
        if self.detail is not None:
            return self.detail
        return pd.DataFrame([{name: part for cell in row for name, part in cell.stored.items()} for row in self.rows])


class Picture(NamedTuple):
    """A plot: its file's name, what it shows, and what draws it."""

    name: str
    caption: str
    draw: Callable[[], Figure]


class Section(NamedTuple):
    """A part of the report.

    readings: sentences on what the numbers show, or why there are none.
    """

    title: str
    readings: Sequence[str]
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def write(folder: Path, title: str, preface: Sequence[str], sections: Sequence[Section]) -> Path:
    """Writes `report.md`, its plots and its tables as CSV and Parquet, and returns the path of `report.md`."""
    from experiments.report.plots import save

    for name in (TABLES, PLOTS):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    for section in sections:
        for table in section.tables:
            stored = table.stored
            stored.to_csv(folder / TABLES / f"{table.name}.csv", index=False)
            stored.to_parquet(folder / TABLES / f"{table.name}.parquet", index=False)
        for picture in section.pictures:
            save(picture.draw, folder / PLOTS / f"{picture.name}.png", dpi=RESOLUTION)
    path = folder / "report.md"
    path.write_text("\n\n".join([f"# {title}", *preface, *map(_markdown, sections)]) + "\n", encoding="utf-8")
    return path


def show(console: Console, title: str, preface: Sequence[str], sections: Sequence[Section]) -> None:
    """Prints the sections, with the tables of the brief ones."""
    console.print(f"\n[bold]{escape(title)}[/]", highlight=False)
    for sentence in preface:
        console.print(escape(sentence), highlight=False)
    for section in sections:
        console.print()
        console.rule(f"[bold]{escape(section.title)}[/]", align="left")
        for sentence in section.readings:
            console.print(escape(sentence), highlight=False)
        for table in section.tables:
            if table.is_brief:
                console.print(_terminal(table.brief, width=console.width))


def _markdown(section: Section) -> str:
    bullet = "- " if len(section.readings) > 1 else ""
    parts = [f"## {section.title}", "\n".join(bullet + reading for reading in section.readings)]
    parts += [f"![{one.caption}]({PLOTS}/{one.name}.png)" for one in section.pictures]
    for table in section.tables:
        rows = [table.header, ["---", *["---:"] * (len(table.header) - 1)], *table.markdown]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        stored = f"[CSV]({TABLES}/{table.name}.csv), [Parquet]({TABLES}/{table.name}.parquet)"
        parts += [f"*{table.caption}* {stored}", "\n".join(lines)]
    return "\n\n".join(parts)


def _terminal(table: Table, *, width: int) -> TerminalTable:
    """Returns the table for a terminal; where it is too wide, names and intervals are broken into lines."""
    rows = table.texts
    if sum(max(map(len, column)) + 3 for column in zip(table.header, *rows, strict=True)) >= width:
        rows = [[_wrapped(name), *(text.replace(" [", "\n[") for text in row)] for name, *row in rows]
    shown = TerminalTable(*map(escape, table.header), caption=escape(table.caption), caption_justify="left")
    shown.columns[0].no_wrap = True
    for column in shown.columns[1:]:
        column.justify, column.overflow = "right", "fold"
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def _wrapped(name: str) -> str:
    return "\n".join(
        line for part in name.replace(" (", "\n(").splitlines() for line in textwrap.wrap(part, NAME_WIDTH)
    )
