"""Forecasts of a backtest to look at: some series, from the best to the worst predicted, and what came."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from titans_seq.data.record import Series
from titans_seq.data.write import scan_rows, shown_ids

BANDS = (0.5, 0.8)  # shares of the values that should lie inside
EXAMPLES, DRAWN = 6, 200  # series, and rows of each


def forecast_examples(
    out: Path, channels: Sequence[tuple[str, Series, int]], errors: Sequence[float | None], horizon: int
) -> list[dict[str, Any]]:
    """The last forecasts, that do not overlap, of some of the channels.

    Args:
        out: what `titans_seq.backtest.backtest` wrote.
        channels: id, series and number of the column, of each channel.
        errors: of each, by which they are ranked.
        horizon: rows of a forecast.
    """
    ranked = np.argsort([np.inf if error is None else error for error in errors], kind="stable")
    chosen = np.unique(np.linspace(0, len(channels) - 1, EXAMPLES).round().astype(int))
    return [{**_example(out, channels[i], horizon), "mae": errors[i]} for i in ranked[chosen].tolist()]


def _example(out: Path, of: tuple[str, Series, int], horizon: int) -> dict[str, Any]:
    import polars as pl

    id, series, channel = of
    own = scan_rows(out).filter(pl.col("unique_id").is_in(shown_ids(id)))
    cutoffs = own.select(pl.col("cutoff").unique().sort()).collect()["cutoff"]
    origins = np.searchsorted(series.times, cutoffs.to_numpy().astype("datetime64[us]")) + 1
    apart = np.flatnonzero((origins[-1] - origins) % horizon == 0)[-max(1, DRAWN // (2 * horizon)) :]
    rows = own.filter(pl.col("cutoff").is_in(cutoffs[apart.tolist()].implode())).collect()
    first = max(0, int(origins[apart[0]]) - max(2 * horizon, DRAWN - len(apart) * horizon))
    end = int(origins[-1]) + horizon
    return {
        "id": id,
        "times": [str(time).replace("T", " ").removesuffix(".000000") for time in series.times[first:end]],
        "observed": series.target[first:end, channel].tolist(),
        "forecasts": [
            {"row": int(origins[i]) - first, **_forecast(rows.filter(pl.col("cutoff") == cutoffs[int(i)]).sort("ds"))}
            for i in apart
        ],
    }


def _forecast(rows: Any) -> dict[str, Any]:
    """Middle and bands of the rows of one forecast."""
    columns = {name: rows[name].cast(float).to_numpy() for name in rows.columns if name[0] == "q" or name == "mean"}
    levels = {float(name[1:]): values for name, values in columns.items() if name != "mean"}
    return {"middle": levels.get(0.5, columns["mean"]).tolist(), "bands": _bands(levels)}


def _bands(levels: Mapping[float, np.ndarray]) -> dict[str, list[list[float]]]:
    """Lower and upper end (H,) of each of `BANDS` that the quantiles reach, in a straight line between them."""
    known = sorted(levels)
    found = {}
    for share in BANDS:
        ends = [0.5 - share / 2, 0.5 + share / 2]
        if len(known) > 1 and known[0] <= ends[0] + 1e-9 and ends[1] <= known[-1] + 1e-9:
            table = np.array([levels[level] for level in known])
            found[f"{share:g}"] = [[float(np.interp(end, known, step)) for step in table.T] for end in ends]
    return found
