"""What all pictures share. matplotlib's objects alone: no window system, no global state."""

import datetime
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.dates as dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from titans_seq.files import whole_file

DPI = 150
INK, BLUE, ORANGE, GREEN, GREY = "#1f2933", "#2563a8", "#d9730d", "#2f855a", "#8a94a0"
STYLES = [(colour, style) for style in ("-", "--") for colour in (BLUE, ORANGE, GREEN, INK, GREY)]
TITLE, LABEL = 80, 20  # characters of a name that a picture has room for


def blank(width: float, height: float) -> Figure:
    """A figure of so many inches whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def named(axes: Axes, x: str, y: str) -> None:
    """Label the axes, and draw them plainly."""
    axes.set_xlabel(x, fontsize=9.5, parse_math=False)
    axes.set_ylabel(y, fontsize=9.5, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)


def shown(text: str, most: int = LABEL) -> str:
    """Text of the data as a picture can show it: printable, and short."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def titled(axes: Axes, text: str) -> None:
    """Write a title over axes."""
    # a $ in an id is no formula
    axes.set_title(shown(text, TITLE), fontsize=10.5, loc="left", color=INK, fontweight="bold", parse_math=False)


def headed(figure: Figure, title: str) -> None:
    """Write a title over all panels, if there is one."""
    if title:
        figure.suptitle(shown(title, TITLE), fontsize=12, color=INK, x=0.01, ha="left", parse_math=False)


def legend(figure: Figure, handles: Mapping[str, Any], columns: int = 4) -> None:
    """Say below the panels what each name looks like."""
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False)


def stamp(value: Any) -> Any:
    """A timestamp of a prediction file: text in CSV, a datetime in Parquet."""
    return value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))


def dated(axes: Axes) -> None:
    """Give axes over time ticks that say no more than tells them apart."""
    locator = dates.AutoDateLocator(maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def save(figure: Figure, out: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # an id in a script the font lacks: boxes will do
        with whole_file(out) as draft:
            figure.savefig(draft, dpi=DPI, format="png")
