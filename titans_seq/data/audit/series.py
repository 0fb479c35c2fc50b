"""What is in a table of series."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from titans_seq.data.audit.found import Audit, Findings, share_of
from titans_seq.data.record import Series
from titans_seq.data.series import SeriesReading, read_rows, sentinels, tidy
from titans_seq.data.series.rows import Rows
from titans_seq.data.times import find_frequency


def _longest_run(values: np.ndarray) -> int:
    """Length of the longest stretch of one and the same value; missing values are no value."""
    changes = np.flatnonzero(values[1:] != values[:-1])
    runs = np.diff(changes, prepend=-1, append=len(values) - 1)
    return int(runs.max(initial=0))


def _column(name: str, place: int, series: tuple[Series, ...]) -> dict[str, Any]:
    parts = [one.target[:, place] for one in series]
    values = np.concatenate(parts)
    known = values[~np.isnan(values)]
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else (0.0, 0.0, 0.0)
    return {
        "column": name,
        "missing_share": share_of(len(values) - len(known), len(values)),
        "min": float(known.min()) if len(known) else None,
        "median": float(middle) if len(known) else None,
        "max": float(known.max()) if len(known) else None,
        "longest_constant_run": max(map(_longest_run, parts)),
        "outliers": int((np.abs(known - middle) > 5 * (high - low)).sum()) if high > low else 0,
        "sentinels": {f"{mark:g}": count for mark, count in sentinels(values).items()},
    }


def _order(rows: Rows) -> list[dict[str, Any]]:
    """Count, for each series, rows out of order and timestamps that stand more than once, as the file has them."""
    time = pl.col("time")
    found = rows.frame.group_by("series").agg(
        (time.len() - time.n_unique()).alias("duplicates"), (time.diff() < pl.duration()).sum().alias("unsorted")
    )
    return found.sort("series").drop("series").to_dicts()


def _one_series(series: Series, order: dict[str, Any]) -> dict[str, Any]:
    frequency, share, gaps = None, None, 0
    if len(series) > 1:
        frequency, ratios = find_frequency(series.times, np.zeros(len(series), np.int64))
        share, gaps = share_of(int((ratios == 1).sum()), len(ratios)), int((ratios > 1).sum())
    return {
        "id": series.id,
        "rows": len(series),
        "start": str(series.times[0].astype("M8[s]")),
        "end": str(series.times[-1].astype("M8[s]")),
        "frequency": frequency,
        "its_share": share,
        "gaps": gaps,
        **order,
        "missing_share": share_of(int(np.isnan(series.target).sum()), series.target.size),
    }


def audit_series(
    path: Path | str,
    *,
    min_rows: int = 2,
    **reading: Any,
) -> Audit:
    """Read a series table and say what is in it; arguments as for `series.read_series`.

    Outliers lie farther from the median than five times the distance between the quartiles.

    Raises:
        InputError: if the file cannot be read at all: another format, no timestamps, or one that is none.
    """
    findings = Findings()
    how = SeriesReading(**reading)
    rows = read_rows(path, how, judge=findings.judge())
    table = tidy(rows, on_duplicate=how.on_duplicate, on_gap=how.on_gap, min_rows=min_rows, judge=findings.judge())
    facts = {
        "layout": table.layout,
        "number_of_series": len(table.series),
        "rows": len(rows.frame),
        "frequency": table.frequency,
        "frequency_share": round(table.share, 6),
        "columns": [_column(name, place, table.series) for place, name in enumerate(rows.columns)],
        "series": [_one_series(*pair) for pair in zip(table.series, _order(rows), strict=True)],
    }
    return findings.audit(path, "series table", facts)
