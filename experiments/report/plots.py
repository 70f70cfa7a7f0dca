"""How all plots look: one colour, marker and line a policy everywhere, and the few kinds of axes that sections share.

The first eight colours are those of Okabe and Ito, the others of Paul Tol's muted scheme: both are told apart by
colour-blind readers, and markers and lines differ, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from experiments.registry import POLICIES
from experiments.report.policies import curve_of
from experiments.report.statistics import Estimate

LOOK: Mapping[str, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#8A8A8A",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "lines.linewidth": 1.8,
    "lines.markersize": 6.0,
    "errorbar.capsize": 0.0,
    "text.parse_math": False,
    "figure.constrained_layout.w_pad": 0.08,  # inches
    "figure.constrained_layout.h_pad": 0.08,
}
GREY = "#8A8A8A"
MAX_BANDS = 6  # curves beyond which bands only hide each other

_COLOURS = (
    *("#4D4D4D", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#B8A037"),
    *("#882255", "#44AA99", "#332288", "#AA4499", "#117733", "#661100", "#6699CC", "#999933"),
)
_MARKERS = "osD^vPX<>ph*dH8"
_LINES = ("-", "--", ":", "-.")


class Style(NamedTuple):
    """How a policy is drawn."""

    colour: str
    marker: str
    line: Any


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """Returns each label's style: that of its curve, which for built-in policies is the same in every report."""
    known = list(POLICIES)
    curves = dict.fromkeys(curve_of(label) for label in labels)
    places = {curve: place for place, curve in enumerate([*known, *(one for one in curves if one not in known)])}
    made = {}
    for label in labels:
        place = places[curve_of(label)]
        line = _LINES[0] if place < 6 else _LINES[1 + (place - 6) % 3]
        made[label] = Style(_COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)], line)
    return made


def save(draw: Callable[[], Figure], path: Path, *, dpi: int) -> None:
    """Draws and writes a PNG, the same bytes each time."""
    look: Any = {**matplotlib.rcParamsDefault, **LOOK}  # whatever the user's own settings are
    with matplotlib.rc_context(look):
        figure = draw()
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=dpi, metadata={"Software": None})


def grid(
    num_panels: int, *, columns: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Returns a figure of panels, each `width` by `height` inches, without those that would stay empty."""
    columns = min(columns, num_panels)
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = [axis for row in figure.subplots(rows, columns, squeeze=False, sharey=sharey) for axis in row]
    for axis in axes[num_panels:]:
        axis.remove()
    return figure, axes[:num_panels]


def forest(axis: Axes, estimates: Mapping[str, Estimate], *, title: str, unit: str, zero: bool = False) -> None:
    """Draws a row a label: its mean, the interval as a bar; estimates without a prompt leave their row empty.

    zero: marks no difference with a line.
    """
    styled = styles(list(estimates))
    for row, (label, one) in enumerate(estimates.items()):
        colour = styled[label].colour
        if one.has_interval:
            axis.plot([one.low, one.high], [row, row], color=colour, linewidth=4.5, alpha=0.4, solid_capstyle="round")
        if one.num_prompts:
            axis.plot(one.mean, row, marker=styled[label].marker, color=colour, markersize=7)
    if zero:
        axis.axvline(0, color="#333333", linewidth=1.0, zorder=1)
    axis.set_yticks(range(len(estimates)), list(estimates))
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(estimates) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_title(title)
    axis.set_xlabel(unit)
    axis.locator_params(axis="x", nbins=5)


def error_bars(axis: Axes, x: Sequence[float], estimates: Sequence[Estimate], style: Style, label: str) -> None:
    """Draws a curve with an interval at each of its points."""
    axis.plot(x, [one.mean for one in estimates], color=style.colour, marker=style.marker, ls=style.line, label=label)
    for place, one in zip(x, estimates, strict=True):
        if one.has_interval:
            axis.plot([place, place], [one.low, one.high], color=style.colour, linewidth=3.5, alpha=0.3, zorder=1.5)


def band(axis: Axes, x: Sequence[float], estimates: Sequence[Estimate], style: Style, label: str, *, of: int) -> None:
    """Draws a curve with its interval as a band, which is left out where there are too many curves.

    of: curves on these axes.
    """
    line, means = style.line, [one.mean for one in estimates]
    axis.plot(x, means, color=style.colour, marker=style.marker, markersize=4, ls=line, label=label)
    if of <= MAX_BANDS and any(one.has_interval for one in estimates):
        lows, highs = [one.low for one in estimates], [one.high for one in estimates]
        axis.fill_between(x, lows, highs, color=style.colour, alpha=0.13, linewidth=0)


def log_passes(axis: Axes, passes: Sequence[float]) -> None:
    """Makes x a log axis of network passes, with ticks that read as numbers."""
    axis.set_xscale("log")
    low, high = min(passes), max(passes)
    ticks = [m * 10**e for e in range(0, 8) for m in (1, 2, 5) if low / 1.6 <= m * 10**e <= high * 1.6]
    axis.set_xticks(ticks)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(low / 1.25, high * 1.25)
    axis.set_xlabel("network passes a video (log)")


def chunks(axis: Axes) -> None:
    """Makes x an axis of chunks."""
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axis.set_xlabel("chunk, from 0")


def mean_and(num_curves: int) -> str:
    """Returns what the y axis of as many bands shows."""
    return "mean and 95 % interval" if num_curves <= MAX_BANDS else "mean"


def legend_below(figure: Figure, axis: Axes) -> None:
    """Draws one legend for all panels under them, in as many columns as have room."""
    handles, labels = axis.get_legend_handles_labels()
    width = 0.7 + 0.085 * max(map(len, labels))  # inches
    columns = max(1, min(len(labels), 4, int(figure.get_figwidth() / width)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def broken(label: str) -> str:
    """Returns a label with its options on a line of their own."""
    return label.replace(" (", "\n(", 1)
