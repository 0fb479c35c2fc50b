"""Quantities and shares of right answers by size, for models side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from titans_seq.report.plots.drawing import GREY, STYLES, blank, headed, legend, named, save, titled


class Panel(NamedTuple):
    """One pair of axes, both logarithmic."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]  # points by name; a name has one colour in all panels


def scaling_plot(panels: Sequence[Panel], out: Path, *, title: str = "") -> None:
    """Draw how quantities grow with a size, as lines in panels side by side.

    Args:
        panels: what to draw.
        out: PNG to write.
        title: of the picture.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}
    figure = blank(4.4 * len(panels), 4.6)
    handles = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in panel.lines.items():
            colour, style = styles[name]
            sizes, values = zip(*points, strict=True)
            line = axes.plot(sizes, values, style, color=colour, marker="o", markersize=4, linewidth=1.6)
            handles[name] = line[0]
        axes.set(xscale="log", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.12g}"))
        named(axes, panel.x, panel.y)
        titled(axes, panel.title)
        _sizes(axes)
    headed(figure, title)
    legend(figure, handles)
    save(figure, out)


def _sizes(axes: Axes) -> None:
    """Ticks of an axis of sizes, a factor of four apart."""
    axes.xaxis.set_major_locator(LogLocator(base=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x < 2**20 else f"{x / 2**20:g} Mi"))
    axes.tick_params(axis="x", labelrotation=30)
    axes.minorticks_off()


class Share(NamedTuple):
    """A share of right answers and an interval around it, at a size."""

    size: int
    share: float
    low: float
    high: float


class Chart(NamedTuple):
    """One pair of axes for shares by size."""

    title: str
    lines: Mapping[str, Sequence[Share]]  # by name; a name has one colour in all charts
    chance: float
    trained: int  # the size of training


def accuracy_plot(charts: Sequence[Chart], out: Path) -> None:
    """Draw shares of right answers by length with their intervals, the length of training and chance marked.

    Args:
        charts: three side by side.
        out: PNG to write.
    """
    names = list(dict.fromkeys(name for chart in charts for name in chart.lines))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}
    rows, columns = -(-len(charts) // 3), min(3, len(charts))
    figure = blank(max(6.4, 4.8 * columns), 4.6 * rows)
    handles: dict[str, Any] = {}
    every = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes in every[len(charts) :]:
        axes.set_visible(False)
    for axes, chart in zip(every[: len(charts)], charts, strict=True):
        axes.set(xscale="log", ylim=(-0.03, 1.03))
        for place, name in enumerate(chart.lines):
            sizes, share, low, high = np.array(chart.lines[name], float).T
            beside = sizes * 1.03 ** (place - len(chart.lines) / 2)  # so that intervals do not hide each other
            errors = np.stack([share - low, high - share])
            colour, style = styles[name]
            handles[name] = axes.errorbar(
                beside, share, errors, fmt=style, color=colour, marker="o", markersize=4, linewidth=1.6, elinewidth=1
            )
        handles["length of training"] = axes.axvline(chart.trained, color=GREY, linewidth=1.2, linestyle="--")
        handles["chance"] = axes.axhline(chart.chance, color=GREY, linewidth=1.2, linestyle=":")
        named(axes, "tokens", "right answers")
        titled(axes, chart.title)
        _sizes(axes)
    legend(figure, handles)
    save(figure, out)
