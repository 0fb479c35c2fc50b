"""Forecasts of a series with their bands, and what was observed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from titans_seq.data.record import Series
from titans_seq.report.plots.drawing import (
    BLUE,
    GREY,
    INK,
    blank,
    dated,
    headed,
    legend,
    named,
    save,
    shown,
    stamp,
    titled,
)

BANDS = {0.8: 0.18, 0.5: 0.34}  # share of the values inside, and how dense it is drawn


def _levels(rows: Sequence[Mapping[str, Any]]) -> dict[float, str]:
    """Quantile levels of forecast rows with the names of their columns, from low to high."""
    names = [name for name in rows[0] if name.startswith("q") and name[1:].replace(".", "", 1).isdigit()]
    return dict(sorted((float(name[1:]), name) for name in names))


def _quantile(rows: Sequence[Mapping[str, Any]], levels: dict[float, str], level: float) -> np.ndarray:
    """The quantile ``level`` of each row, in a straight line between the levels there are."""
    table = np.array([[float(row[name]) for name in levels.values()] for row in rows])
    return np.array([np.interp(level, list(levels), values) for values in table])


def _draw_forecast(axes: Axes, rows: Sequence[Mapping[str, Any]], first: bool) -> None:
    """One forecast: bands, median, and where it was issued; only the first is named in the legend."""
    times, levels = [stamp(row["ds"]) for row in rows], _levels(rows)
    marker = "o" if len(rows) == 1 else None
    if levels:
        for share, alpha in BANDS.items():
            low, high = 0.5 - share / 2, 0.5 + share / 2
            if low >= min(levels) - 1e-9 and high <= max(levels) + 1e-9:
                band = (_quantile(rows, levels, low), _quantile(rows, levels, high))
                label = f"band of {share:.0%}" if first else None
                axes.fill_between(times, *band, color=BLUE, alpha=alpha, linewidth=0, label=label)
        middle, name = _quantile(rows, levels, 0.5), "forecast (median)"
    else:
        middle, name = np.array([float(row["mean"]) for row in rows]), "forecast"
    axes.plot(times, middle, color=BLUE, linewidth=1.8, marker=marker, label=name if first else None)
    if "cutoff" in rows[0]:
        label = "issued" if first else None
        axes.axvline(stamp(rows[0]["cutoff"]), color=GREY, linewidth=0.8, linestyle=":", label=label)


def forecast_plot(
    history: Series,
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    past: int,
    names: Mapping[str, str] | None = None,
    title: str = "",
) -> None:
    """Draw forecasts of one series with bands of 50 % and 80 %, and what was observed before and during them.

    Args:
        history: the series, with its rows after the forecasts' origins too where they are known.
        rows: rows of a prediction file of this series (``unique_id, ds, [cutoff,] mean, q0.1 ...``), of one origin or
            of several that do not overlap.
        out: PNG to write; it has a panel a channel.
        past: rows of the history drawn before the first forecast.
        names: label of the axis for a channel, such as its unit.
        title: of the picture.
    """
    channels = list(dict.fromkeys(str(row["unique_id"]) for row in rows))
    figure = blank(8.4, 0.9 + 1.75 * len(channels))
    panels = figure.subplots(len(channels), 1, sharex=True, squeeze=False)[:, 0]
    stamps = history.times.astype("datetime64[us]").astype(object)
    for axes, channel in zip(panels, channels, strict=True):
        mine = [row for row in rows if str(row["unique_id"]) == channel]
        begin, end = (np.datetime64(pick(stamp(row["ds"]) for row in mine)) for pick in (min, max))
        first = max(0, int(np.searchsorted(history.times, begin)) - past)
        last = int(np.searchsorted(history.times, end, side="right"))
        column = history.columns.index(channel) if channel in history.columns else 0
        axes.plot(stamps[first:last], history.target[first:last, column], color=INK, linewidth=1.3, label="observed")
        cutoffs = list(dict.fromkeys(row.get("cutoff") for row in mine))
        for number, cutoff in enumerate(cutoffs):
            _draw_forecast(axes, [row for row in mine if row.get("cutoff") == cutoff], first=number == 0)
        named(axes, "", shown((names or {}).get(channel, "")))
        titled(axes, channel)
        dated(axes)
        axes.margins(x=0.01)
    headed(figure, title)
    handles, labels = panels[0].get_legend_handles_labels()
    legend(figure, dict(zip(labels, handles, strict=True)), columns=5)
    save(figure, out)
