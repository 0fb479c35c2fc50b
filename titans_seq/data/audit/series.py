"""What is in a table of series: steps and gaps, order and duplicates, values that are missing or odd."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from titans_seq.data.audit.found import Audit, Findings, share_of
from titans_seq.data.record import Series
from titans_seq.data.series import SeriesReading, SeriesTable, read_rows, sentinels, spaced, tidy
from titans_seq.data.series.grid import irregularity
from titans_seq.data.series.rows import Rows, called_in
from titans_seq.data.times import find_frequency, steps_in
from titans_seq.errors import InputError

FAR = 5  # distances between the quartiles from the median, beyond which a value is called an outlier
MOST = 100  # places of one kind that are listed

Facts = dict[str, Any]


def _time(time: Any) -> str:
    """A timestamp to read; one at midnight is a date."""
    text = str(np.datetime64(time, "us").astype("M8[ms]")).replace("T", " ").removesuffix(".000")
    return text.removesuffix(" 00:00:00")


def _length(step: np.timedelta64) -> str:
    """A span of time in its largest whole unit."""
    micros = int(step.astype("m8[us]").astype(np.int64))
    units = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1000, "us": 1}
    unit = next(unit for unit, size in units.items() if micros % size == 0)
    return f"{micros // units[unit]:,} {unit}"


# --- values


def _runs(values: np.ndarray) -> tuple[int, int]:
    """First row and length of the longest stretch of one and the same value; missing values are no value."""
    if not len(values):
        return 0, 0
    starts = np.concatenate([[0], 1 + np.flatnonzero(values[1:] != values[:-1])])
    lengths = np.diff(starts, append=len(values))
    longest = int(lengths.argmax())
    return int(starts[longest]), int(lengths[longest])


def _far(values: np.ndarray) -> np.ndarray:
    """How many distances between the quartiles each value (T,) is away from the median, 0 where it is missing.

    Where most values are one, such as no rain, the quartiles are those of the others.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(len(values))
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
    if low == high and len(others := known[known != middle]):
        low, high = np.quantile(others, [0.25, 0.75])
    return np.nan_to_num(np.abs(values - middle) / (high - low)) if high > low else np.zeros(len(values))


def _column(name: str, values: np.ndarray, facts: list[Facts]) -> Facts:
    """A column (T,) of all series, and what was found in it in each of them."""
    known = values[~np.isnan(values)]
    return {
        "column": name,
        "missing_share": share_of(len(values) - len(known), len(values)),
        "min": float(known.min()) if len(known) else None,
        "median": float(np.median(known)) if len(known) else None,
        "max": float(known.max()) if len(known) else None,
        "longest_constant_run": max((one["run"] for one in facts), default=0),
        "outliers": sum(one["outliers"] for one in facts),
        "sentinels": {f"{mark:g}": count for mark, count in sentinels(values).items()},
    }


def _in_series(series: Series, name: str, values: np.ndarray, marks: Iterable[float]) -> Facts:
    """A column (T,) of one series: its longest run, its outliers and the farthest of them."""
    marked = np.isin(values, list(marks))
    far = _far(np.where(marked, np.nan, values))
    worst = int(far.argmax()) if len(far) else 0
    start, run = _runs(values)
    return {
        "id": series.id,
        "column": name,
        "sentinels": int(marked.sum()),
        "outliers": int((far > FAR).sum()),
        "farthest": float(values[worst]),
        "at": _time(series.times[worst]),
        "far": float(far[worst]),
        "run": run,
        "run_from": _time(series.times[start]),
        "run_value": float(values[start]),
        "run_share": share_of(run, len(values)),
    }


def _text_column(name: str, column: pl.Series) -> Facts:
    """A column of text: how many values it has, and which is the commonest."""
    counts = column.cast(pl.String).drop_nulls().value_counts(sort=True)
    return {
        "column": name,
        "values": len(counts),
        "commonest": counts[name][0] if len(counts) else None,
        "its_share": share_of(counts["count"][0] if len(counts) else 0, len(column)),
        "empty_share": share_of(column.null_count(), len(column)),
    }


# --- time


def _steps(series: Series, said: str | None) -> Facts:
    """The step of a series, and where it is longer."""
    found: Facts = {"frequency": None, "its_share": None, "gaps": 0, "missing_rows": 0, "longest_gap": None}
    if len(series.times) < 2:
        return {**found, "at": None, "ratio": 0.0}
    none = np.zeros(len(series.times), np.int64)
    frequency, ratios = (said, steps_in(series.times, none, said)) if said else find_frequency(series.times, none)
    longest = int(ratios.argmax())
    gap = ratios[longest] > 1
    return {
        "frequency": frequency,
        "its_share": share_of(int((ratios == 1).sum()), len(ratios)),
        "gaps": int((ratios > 1).sum()),
        "missing_rows": int(np.rint(ratios[ratios > 1] - 1).sum()),
        "longest_gap": _length(series.times[longest + 1] - series.times[longest]) if gap else None,
        "at": _time(series.times[longest]) if gap else None,
        "ratio": float(ratios[longest]) if gap else 0.0,
    }


def _order(rows: Rows) -> list[Facts]:
    """Count, for each series, timestamps that stand more than once and steps backwards, as the file has them."""
    time = pl.col("time")
    found = rows.frame.group_by("series").agg(
        (time.len() - time.n_unique()).alias("duplicates"), (time.diff() < pl.duration()).sum().alias("steps_back")
    )
    return found.sort("series").drop("series").to_dicts()


def _duplicates(rows: Rows) -> list[Facts]:
    """Timestamps that stand more than once, and whether their rows differ."""
    values = [column for column in rows.frame.columns if column not in ("row", "series", "time")]
    differs = pl.any_horizontal([pl.col(value).n_unique() > 1 for value in values]).alias("differ")
    doubled = rows.frame.filter(pl.struct("series", "time").is_duplicated())
    found = doubled.group_by("series", "time", maintain_order=True).agg(pl.len(), pl.first("row"), differs).head(MOST)
    return [
        {"id": rows.ids[one["series"]], "time": _time(one["time"]), "times": one["len"], "first_row": one["row"],
         "differ": "yes" if one["differ"] else "no"}
        for one in found.to_dicts()
    ]  # fmt: skip


def _steps_back(rows: Rows) -> list[Facts]:
    before = pl.col("time").shift().over("series").alias("before")
    found = rows.frame.with_columns(before).filter(pl.col("time") < pl.col("before")).head(MOST)
    return [
        {"id": rows.ids[one["series"]], "row": one["row"], "from": _time(one["before"]), "to": _time(one["time"])}
        for one in found.to_dicts()
    ]


# --- the whole


def _one_series(series: Series, steps: Facts, order: Facts, columns: list[Facts]) -> Facts:
    cells = series.target.size
    missing = int(np.isnan(series.target).sum())
    return {
        "id": series.id,
        "rows": len(series),
        "start": _time(series.times[0]),
        "end": _time(series.times[-1]),
        **{name: steps[name] for name in ("frequency", "its_share", "gaps", "missing_rows", "longest_gap")},
        **order,
        "missing_share": share_of(missing, cells),
        "sentinels": sum(column["sentinels"] for column in columns),
        "outliers": sum(column["outliers"] for column in columns),
    }


def _badness(one: Facts) -> float:
    """Share of the rows that something is wrong with, of the values likewise, and both added up."""
    rows = one["duplicates"] + one["steps_back"] + one["missing_rows"]
    odd = one["missing_share"] + (one["sentinels"] + one["outliers"]) / max(1, one["rows"])
    return float(rows / max(1, one["rows"] + one["missing_rows"]) + odd)


def _badness_of_column(one: Facts) -> tuple[float, int]:
    return one["missing_share"], sum(one["sentinels"].values()) + one["outliers"]


def _summary(series: list[Facts]) -> Facts:
    """How many of several series have which fault."""
    lengths = np.array([one["rows"] for one in series])
    kinds = ("gaps", "duplicates", "steps_back", "missing_share", "sentinels", "outliers")
    return {
        "rows, least": int(lengths.min()),
        "rows, median": float(np.median(lengths)),
        "rows, most": int(lengths.max()),
        **{
            f"with {kind.removesuffix('_share').replace('_', ' ')}": sum(bool(o[kind]) for o in series)
            for kind in kinds
        },
    }


def _longest_gaps(table: SeriesTable, steps: list[Facts]) -> list[Facts]:
    """The longest gap of each series that has one, the longest first."""
    found = [
        {"id": series.id, "longest_gap": one["longest_gap"], "after": one["at"], "steps": one["ratio"]}
        for series, one in zip(table.series, steps, strict=True)
        if one["longest_gap"]
    ]
    return sorted(found, key=lambda one: -one["steps"])[:MOST]


def _listed(found: list[Facts], names: dict[str, str]) -> list[Facts]:
    """Rows with the facts of these names, under other ones."""
    return [{title: one[name] for title, name in names.items()} for one in found[:MOST]]


def _facts(rows: Rows, table: SeriesTable) -> Facts:
    stacked = [rows.frame[called_in(name)].to_numpy() for name in rows.columns]
    marks = [sentinels(values) for values in stacked]
    places = range(len(rows.columns))
    inside = [[_in_series(one, rows.columns[c], one.target[:, c], marks[c]) for c in places] for one in table.series]
    steps = [_steps(one, rows.frequency) for one in table.series]
    each = zip(table.series, steps, _order(rows), inside, strict=True)
    series = sorted((_one_series(*parts) for parts in each), key=_badness, reverse=True)
    columns = [_column(rows.columns[c], stacked[c], [found[c] for found in inside]) for c in places]
    flat = [one for found in inside for one in found]
    far = sorted((one for one in flat if one["outliers"]), key=lambda one: -one["far"])
    runs = sorted((one for one in flat if one["run"] > 1), key=lambda one: -one["run_share"])
    return {
        "read_as": rows.taken,
        "layout": table.layout,
        "number_of_series": len(table.series),
        "rows": len(rows.frame),
        "frequency": table.frequency,
        "frequency_share": round(table.share, 6),
        "irregular_series": sum(irregularity(one) is not None for one in table.series),
        **({"series_in_short": _summary(series)} if len(series) > 1 else {}),
        "series": series,
        "columns": sorted(columns, key=_badness_of_column, reverse=True),
        "text_columns": [_text_column(name, column) for name, column in rows.texts.items()],
        "longest_gaps": _longest_gaps(table, steps),
        "duplicate_timestamps": _duplicates(rows),
        "steps_backwards": _steps_back(rows),
        "outliers": _listed(far, {"id": "id", "column": "column", "outliers": "outliers", "farthest": "farthest",
                                  "at": "at"}),
        "longest_constant_runs": _listed(runs, {"id": "id", "column": "column", "rows": "run", "share": "run_share",
                                                "from": "run_from", "value": "run_value"}),
    }  # fmt: skip


def audit_series(path: Path | str, *, min_rows: int = 2, **reading: Any) -> Audit:
    """Read a series table and say what is in it; arguments as for `series.read_series`.

    Columns and series stand the worst first; series by the share of their rows that are missing, doubled or out of
    order, and of their values that are missing, sentinels or outliers. Outliers lie farther from the median of their
    series than five times the distance between its quartiles (those of the other values, where most are one).

    Raises:
        InputError: if the file cannot be read at all: another format, no timestamps, or one that is none.
    """
    findings = Findings()
    how, judge = SeriesReading(**reading), findings.judge()
    rows = read_rows(path, how, judge=judge)
    table = tidy(rows, on_duplicate=how.on_duplicate, on_gap=how.on_gap, min_rows=min_rows, judge=judge)
    try:
        spaced(table, how.on_gap, rows.name, judge)
    except InputError as error:  # what training would refuse
        judge.refuse(str(error))
    return findings.audit(path, "series table", _facts(rows, table))
