"""Series with the rows that were flagged, and the scores that flagged them."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from titans_seq.data.write import scan_rows
from titans_seq.report.plots.drawing import BLUE, GREEN, INK, ORANGE, blank, dated, legend, named, save, stamp, titled

SERIES_DRAWN, BINS = 4, 1500


def anomaly_plot(scores: Path, out: Path) -> None:
    """Draw the series with most flags: what was observed, the rows flagged, and each score over its threshold.

    Args:
        scores: what `titans_seq.anomalies.anomalies` wrote.
        out: PNG to write; long series are drawn in stretches, each by its extremes.
    """
    import polars as pl

    frame = scan_rows(scores)
    flags = frame.group_by("unique_id", maintain_order=True).agg(pl.col("flag").cast(pl.Boolean).sum()).collect()
    ids = flags.sort("flag", descending=True, maintain_order=True)["unique_id"].head(SERIES_DRAWN).to_list()
    figure = blank(8.4, 0.6 + 3.0 * len(ids))
    panels = figure.subplots(2 * len(ids), 1, squeeze=False, height_ratios=[3, 2] * len(ids))[:, 0]
    for number, id in enumerate(ids):
        rows = frame.filter(pl.col("unique_id") == id).collect()
        above, below = panels[2 * number : 2 * number + 2]
        below.sharex(above)
        _draw_flags(above, below, rows)
        titled(above, str(id))
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend(figure, handles, columns=5)
    save(figure, out)


def _draw_flags(above: Axes, below: Axes, rows: Any) -> None:
    """One series: values with flagged rows above, scores below, a stretch of rows a point where there are many."""
    times = [stamp(value) for value in rows["ds"]]
    size = -(-len(times) // BINS)
    first = times[::size]
    y = _binned(rows["y"].cast(float).to_numpy(), size)
    above.fill_between(first, _extreme(y, np.fmin), _extreme(y, np.fmax), color=INK, linewidth=0.9, label="observed")
    flagged = [i for i, flag in enumerate(rows["flag"].cast(str).str.to_lowercase() == "true") if flag]
    marks = rows["y"].cast(float).to_numpy()[flagged]
    above.plot([times[i] for i in flagged], marks, "o", markersize=3.5, color=ORANGE, label="flagged", zorder=3)
    for name, color in (("residual", BLUE), ("surprise", GREEN)):
        if name in rows.columns:
            ratio = rows[name].cast(float).to_numpy() / rows[f"{name}_threshold"].cast(float).to_numpy()
            top = _extreme(_binned(ratio, size), np.fmax)
            below.plot(first, np.maximum(top, 1e-2), color=color, linewidth=0.9, label=name)
    below.axhline(1, color=ORANGE, linewidth=1, label="threshold")
    below.set_yscale("log")
    named(above, "", "")
    named(below, "", "score / threshold")
    dated(below)
    above.tick_params(labelbottom=False)
    above.margins(x=0.01)


def _binned(values: np.ndarray, size: int) -> np.ndarray:
    """Values (n,) in stretches of ``size``, (m, size), the last one filled with NaN."""
    whole = np.full(-(-len(values) // size) * size, np.nan)
    whole[: len(values)] = values
    return whole.reshape(-1, size)


def _extreme(stretches: np.ndarray, of: Any) -> np.ndarray:
    """Smallest or largest known value of each stretch; NaN where none is known."""
    found: np.ndarray = of.reduce(stretches, axis=1)
    return found
