"""Series tables, wide or long: times and numbers read strictly, and what is wrong with them told by row."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from titans_seq.data.compressed import shown
from titans_seq.data.record import STRICT, Judge, Series, quoted
from titans_seq.data.table import column_called, column_given, listed, read_with_separator
from titans_seq.data.times import (
    HOUR,
    add_steps,
    find_frequency,
    first_of,
    holds_dates,
    months_of,
    parse_times,
    step_of,
    steps_in,
)
from titans_seq.errors import InputError

Layout = Literal["wide", "long"]
OnDuplicate = Literal["error", "mean", "first", "last"]
OnGap = Literal["nan", "error"]

TIMES = ("ds", "timestamp", "datetime", "date_time", "ts", "date", "time")
IDS = ("unique_id", "item_id", "series_id", "id", "series")
VALUES = ("y", "value", "target")
MISSING = ("", "NA", "NaN", "nan", "null", "None", "-", "?")
SENTINELS = (-99.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0)  # what loggers write for "no value"
LARGEST = float(np.finfo(np.float32).max)  # models compute in single precision

# Sundays on which clocks go back or forward somewhere: month, and first day of the week they fall in
_BACK = ((4, 1), (9, 24), (10, 25), (11, 1))
_FORWARD = ((3, 8), (3, 25), (4, 1), (9, 24), (10, 1))


@dataclass(frozen=True, eq=False)
class SeriesTable:
    """What `read_series` returns.

    ``series`` is one for a wide table; for a long one it is one per id, in order of first appearance. ``frequency``
    is the commonest step ("15m", "1h", "1d", "1w", "1mo", "1y"), ``share`` its share of all steps, and ``step`` its
    length, which is None for months and years (see `add_steps`).
    """

    series: tuple[Series, ...]
    layout: Layout
    frequency: str
    share: float
    step: np.timedelta64 | None


@dataclass(frozen=True, eq=False)
class Rows:
    """A table in the order of its file, with times and numbers read.

    ``frame`` has the columns row (counted from 1 below the header), series (a place in ``ids``), time, and the
    values v0, v1 ... of ``columns``.
    """

    name: str
    layout: Layout
    ids: tuple[str, ...]
    columns: tuple[str, ...]
    frame: pl.DataFrame

    @property
    def values(self) -> list[str]:
        """The names that ``columns`` have in ``frame``."""
        return [f"v{place}" for place in range(len(self.columns))]

    def called(self, series: int) -> str:
        """The file, and in a long table the series, for messages."""
        return self.name if self.layout == "wide" else f"{self.name}: series {quoted(self.ids[series])}"


# Columns of a table


def _time_column(table: pl.DataFrame, name: str) -> str:
    called = column_called(table, TIMES) or next((c.name for c in table.get_columns() if holds_dates(c)), None)
    if called is None:
        raise InputError(
            f"{name} has no column of timestamps ({', '.join(TIMES)}). Its columns: {listed(table.columns)}. "
            "Name it with --time; a date in several columns must be joined into one first."
        )
    return called


def _value_columns(table: pl.DataFrame, name: str, keys: set[str], layout: Layout, judge: Judge) -> list[str]:
    """Columns to read when none is named: the values of a long table if they are called so, else all but the keys."""
    others = [column for column in table.columns if column not in keys and column]
    chosen = column_called(table.select(others), VALUES) if layout == "long" else None
    columns = [chosen] if chosen else others
    if not columns:
        raise InputError(f"{name} has no column of values. Its columns: {listed(table.columns)}.")
    if unread := [column or "(unnamed)" for column in table.columns if column not in keys and column not in columns]:
        judge.doubt(f"{name}: columns that are not read: {listed(unread)}. Name those to forecast with --target.")
    return columns


def _number_column(
    column: pl.Series, name: str, separator: str, missing: Sequence[str], judge: Judge
) -> pl.Series | None:
    """Read a column of numbers, where what is missing is null; a column of nothing but text is None."""
    where = f"{name}: row {{}}, column {column.name!r}: {{!r}}"
    text = column
    if column.dtype == pl.String:
        text = column.str.strip_chars()
        text = text.set(text.is_in(list(missing)), None)
        numbers = text.cast(pl.Float64, strict=False)
        if separator in (";", "\t") and (numbers.is_null() & text.is_not_null()).any():
            numbers = _with_decimal_comma(text, separator)
    elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        numbers = column.cast(pl.Float64)
    else:
        numbers = pl.repeat(None, len(column), dtype=pl.Float64, eager=True)
    unread = numbers.is_null() & text.is_not_null()
    if unread.any():
        row = first_of(unread)
        judge.refuse(
            f"{where.format(row + 1, str(text[row]))} is not a number (such rows: {unread.sum():,}). "
            "Mend it, or name the columns to read with --target."
        )
        if not numbers.count():
            return None
    numbers = numbers.fill_nan(None)
    endless = numbers.abs() > LARGEST
    if endless.any():
        row = first_of(endless.fill_null(False))
        judge.refuse(
            f"{where.format(row + 1, str(text[row]))} is infinite or too large (such rows: {endless.sum():,}). "
            "Mend it, or leave the field empty if the value is missing."
        )
        numbers = numbers.set(endless.fill_null(False), None)
    marks = [float(mark) for mark in missing if re.fullmatch(r"[+-]?\d+(\.\d+)?", mark)]
    return numbers.set(numbers.is_in(marks), None) if marks else numbers


def _with_decimal_comma(text: pl.Series, separator: str) -> pl.Series:
    """Read 1,5 as one and a half; in a tab-separated file only where 1,500 cannot be meant as a thousand and a half."""
    commas = text.filter(text.str.contains(",", literal=True))
    thousands = separator == "\t" and commas.str.contains(r"^[+-]?\d{1,3},\d{3}$").all()
    if thousands or text.str.contains(".", literal=True).any():
        return text.cast(pl.Float64, strict=False)
    return text.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)


def read_rows(
    path: Path | str,
    *,
    format: Literal["auto", "wide", "long"] = "auto",
    time: str | None = None,
    id: str | None = None,
    target: Sequence[str] = (),
    time_format: str | None = None,
    missing: Sequence[str] = MISSING,
    judge: Judge = STRICT,
) -> Rows:
    """Read times and numbers of a series table; arguments and errors as for `read_series`."""
    name = shown(path)
    table, separator = read_with_separator(path, judge)
    time_at = column_given(table, time, path, "--time") if time else _time_column(table, name)
    id_at = column_given(table, id, path, "--id") if id else None
    if id_at is None and format != "wide":
        id_at = column_called(table.drop(time_at), IDS)
    if id_at is None and format == "long":
        raise InputError(f"{name} has no column of ids ({', '.join(IDS)}). Its columns: {listed(table.columns)}.")
    layout: Layout = "wide" if id_at is None else "long"
    keys = {time_at} if id_at is None else {time_at, id_at}
    columns = [column_given(table, column, path, "--target") for column in target]
    columns = columns or _value_columns(table, name, keys, layout, judge)

    ids = pl.repeat("", len(table), eager=True) if id_at is None else table[id_at].cast(pl.String).fill_null("")
    nameless = ids.str.strip_chars() == ""
    if id_at is not None and nameless.any():
        judge.refuse(
            f"{name}: row {first_of(nameless) + 1} has an empty id in column {id_at!r} "
            f"(such rows: {nameless.sum():,}). Fill in or remove the rows."
        )
    unique = ids.unique(maintain_order=True)
    times = parse_times(table[time_at], name, time_format, judge)
    read = {column: _number_column(table[column], name, separator, missing, judge) for column in columns}
    numbers = {column: values for column, values in read.items() if values is not None}  # an audit reads on without
    if not numbers:
        raise InputError(f"{name} has no column of numbers. Its columns: {listed(table.columns)}.")
    frame = pl.DataFrame(
        {
            "row": pl.int_range(1, len(table) + 1, eager=True),
            "series": ids.cast(pl.Enum(unique)).to_physical(),
            "time": times,
            **{f"v{place}": values for place, values in enumerate(numbers.values())},
        }
    )
    return Rows(name, layout, tuple(unique), tuple(numbers), frame)


def regular(series: Series, frequency: str) -> Series:
    """Return the series evenly spaced: where a row is missing there is one of NaN.

    Raises:
        InputError: if the timestamps do not stand a whole number of steps apart, or almost all rows would be missing.
    """
    called = f"Series {quoted(series.id)}" if series.id else "The series"
    times, step = series.times, step_of(frequency)
    if step is not None:
        places = (times - times[0]) // step
    else:
        places = (times.astype("M8[M]") - times[:1].astype("M8[M]")).astype(np.int64) // (months_of(frequency) or 1)
    fits = add_steps(times[0], frequency, places) == times
    if not fits.all():
        raise InputError(
            f"{called} is irregular: {fits.mean():.1%} of its timestamps stand whole steps of {frequency} after the "
            f"first, {_some(times[:1])}; {_some(times[[fits.argmin()]])} does not. Resample it to even steps first."
        )
    rows = int(places[-1]) + 1
    if rows == len(times):
        return series
    if rows > 100 * len(times) + 10_000:
        raise InputError(
            f"{called} has {len(times):,} rows where even steps of {frequency} from {_some(times[:1])} to "
            f"{_some(times[-1:])} would have {rows:,}. Is a timestamp wrong?"
        )
    values = np.full((rows, series.values.shape[1]), np.nan)
    values[places] = series.values
    return Series(series.id, add_steps(times[0], frequency, np.arange(rows)), values, series.columns)


# What is wrong with a table


def _on_change(times: np.ndarray, weeks: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Whether each time lies in the small hours of a Sunday on which clocks change somewhere."""
    days = times.astype("M8[D]")
    month = days.astype("M8[M]")
    number, day = month.astype(np.int64) % 12 + 1, (days - month).astype(np.int64) + 1
    in_week = np.logical_or.reduce([(number == m) & (day >= first) & (day < first + 8) for m, first in weeks])
    sunday = days.astype(np.int64) % 7 == 3  # day 0 was a Thursday
    small_hours = times - days < np.timedelta64(4 * HOUR, "us")
    return np.asarray(in_week & sunday & small_hours)


def _some(times: np.ndarray) -> str:
    text = ", ".join(str(time.astype("M8[s]")).replace("T", " ") for time in times[:5])
    return f"{text} and {len(times) - 5:,} more" if len(times) > 5 else text


def _is_fold(twice: pl.DataFrame, times: np.ndarray) -> bool:
    """Whether all timestamps that stand twice are the hours that clocks showed twice, in steps of an hour at most."""
    stamps = twice["time"].to_numpy()
    steps = np.diff(np.unique(times))
    if not len(steps) or np.median(steps) > np.timedelta64(HOUR, "us"):
        return False
    span = pl.col("time").max() - pl.col("time").min()
    nights = twice.group_by("series", pl.col("time").dt.date().alias("day")).agg(span.alias("span"))
    within_hour = nights.select((pl.col("span") < pl.duration(hours=1)).all()).item()
    return bool((twice["len"] == 2).all() and within_hour and _on_change(stamps, _BACK).all())


def _without_duplicates(rows: Rows, frame: pl.DataFrame, on_duplicate: OnDuplicate, judge: Judge) -> pl.DataFrame:
    """Leave one row for each timestamp of a series; ``frame`` is sorted."""
    doubled = frame.select(pl.struct("series", "time").is_duplicated()).to_series()
    if not doubled.any():
        return frame
    differs = pl.any_horizontal([pl.col(value).n_unique() > 1 for value in rows.values]).alias("differs")
    groups = frame.filter(doubled).group_by("series", "time", maintain_order=True)
    twice = groups.agg(pl.len(), pl.first("row"), differs)
    told = f"{rows.name}: rows with a duplicate timestamp: {int(twice['len'].sum()) - len(twice):,}"
    unlike = twice.filter("differs")
    how: OnDuplicate = "first" if on_duplicate == "error" else on_duplicate
    if not len(unlike):
        judge.doubt(f"{told}, all with equal values; one of each is kept: {_some(_at(twice))}.")
    elif on_duplicate != "error":
        judge.doubt(f"{told}, of which the {on_duplicate} is kept: {_some(_at(twice))}.")
    elif _is_fold(unlike, frame["time"].to_numpy()):
        how = "mean"
        judge.doubt(
            f"{told}, where clocks went back (DST fold); the mean is kept: {_some(_at(unlike))}. "
            "Write times in UTC to keep both."
        )
    else:
        first = unlike.row(0, named=True)
        judge.refuse(
            f"{rows.called(first['series'])}: duplicate timestamp {first['time']} (row {first['row']}): it stands "
            f"{first['len']} times with different values; such timestamps in all: {len(unlike):,}. "
            "Mend them, or decide with --on-duplicate mean, first or last."
        )
    return frame.group_by("series", "time", maintain_order=True).agg(getattr(pl.all(), how)())


def _at(frame: pl.DataFrame) -> np.ndarray:
    return frame["time"].to_numpy()


def _tell_gaps(
    rows: Rows, frame: pl.DataFrame, frequency: str, ratios: np.ndarray, on_gap: OnGap, judge: Judge
) -> None:
    """Say which share of the steps is not the commonest, and which gaps look like clocks put forward."""
    if (ratios == 1).all():
        return
    times, series = _at(frame), frame["series"].to_numpy()
    inside = np.flatnonzero(series[1:] == series[:-1])
    at = inside[int((ratios != 1).argmax())]
    share = float((ratios == 1).mean())
    message = (
        f"{rows.called(int(series[at]))}: not evenly spaced: the commonest step is {frequency}, {100 * share:.6g} % "
        f"of all; longer steps (gaps): {int((ratios > 1).sum()):,}, shorter ones: {int((ratios < 1).sum()):,}, "
        f"the first after {_some(times[at : at + 1])}."
    )
    if on_gap == "error":
        judge.refuse(f"{message} Fill in the rows, or allow gaps with --on-gap nan.")
        return
    judge.doubt(message)
    step = step_of(frequency)
    if step is not None and step <= np.timedelta64(HOUR, "us"):
        missing = times[inside[ratios == 1 + np.timedelta64(HOUR, "us") / step]] + step
        if len(forward := np.unique(missing[_on_change(missing, _FORWARD)])):
            judge.doubt(f"{rows.name}: an hour is missing where clocks may go forward (DST gap): {_some(forward)}.")


def sentinels(values: np.ndarray) -> dict[float, int]:
    """Count the marks such as -9999 that stand far outside of all other values of a column (T,)."""
    known = np.unique(values[~np.isnan(values)])
    found: dict[float, int] = {}
    for mark in sorted(SENTINELS, key=abs, reverse=True):
        rest = known[known != mark]
        if len(rest) == len(known) or not len(rest):
            continue
        away = max(rest[0] - mark, mark - rest[-1])
        if away > max(rest[-1] - rest[0], abs(mark) / 2):
            found[mark] = int((values == mark).sum())
            known = rest
    return found


def _tell_values(rows: Rows, frame: pl.DataFrame, judge: Judge) -> None:
    """Say which columns miss values, hold none, do not change, or hold marks for a missing value."""
    for column, value in zip(rows.columns, rows.values, strict=True):
        series = frame.group_by("series", maintain_order=True).agg(
            pl.col(value).count().alias("known"),
            (pl.col(value).min() == pl.col(value).max()).alias("constant"),
            pl.col(value).min().alias("least"),
        )
        if len(none := series.filter(pl.col("known") == 0)):
            more = f" (series of that kind: {len(none):,})" if len(none) > 1 else ""
            judge.refuse(
                f"{rows.called(none['series'][0])}: column {column!r} holds no value: all rows are missing{more}. "
                "Remove it, or name the columns to read with --target."
            )
        elif lacking := frame[value].null_count():
            share = f"{lacking / len(frame):.2%} of its rows ({lacking:,})"
            judge.doubt(f"{rows.name}: column {column!r} has missing values in {share}.")
        if len(same := series.filter("constant")):
            more = f" (series of that kind: {len(same):,})" if len(same) > 1 else ""
            judge.doubt(f"{rows.called(same['series'][0])}: column {column!r} is constant, {same['least'][0]:g}{more}.")
        for mark, count in sentinels(frame[value].to_numpy()).items():
            judge.doubt(
                f"{rows.name}: column {column!r} holds {mark:g} (times: {count:,}), far from its other values. "
                "It is kept as a number; leave the field empty where it marks a missing value."
            )


def tidy(
    rows: Rows,
    *,
    on_duplicate: OnDuplicate = "error",
    on_gap: OnGap = "nan",
    min_rows: int = 2,
    frequency: str | None = None,
    judge: Judge = STRICT,
) -> SeriesTable:
    """Sort rows into series, and tell what is wrong with them; arguments and errors as for `read_series`."""
    back = rows.frame.select(pl.col("row").filter(pl.col("time").diff().over("series") < pl.duration())).to_series()
    if len(back):
        judge.doubt(f"{rows.name}: rows out of order in time: {len(back):,}, the first is row {back[0]}; sorted.")
    frame = rows.frame.sort("series", "time", "row")
    frame = _without_duplicates(rows, frame, on_duplicate, judge)

    series, found = np.unique(frame["series"].to_numpy(), return_counts=True)
    needed = max(min_rows, 1 if frequency else 2)
    if found.min() < needed:
        short = int(found.argmin())
        more = f"; series too short in all: {int((found < needed).sum()):,}" if len(series) > 1 else ""
        message = f"{rows.called(short)} is too short: rows found: {found[short]:,}, rows needed: {needed:,}{more}."
        judge.refuse(message)
        if found.max() < 2:
            raise InputError(message)
    times, number = _at(frame), frame["series"].to_numpy()
    goes_on = frequency is not None  # then a column may well hold one value, or none
    if frequency is None:
        frequency, ratios = find_frequency(times, number)
    else:
        ratios = steps_in(times, number, frequency)
    _tell_gaps(rows, frame, frequency, ratios, on_gap, judge)
    if not goes_on:
        _tell_values(rows, frame, judge)

    values = np.ascontiguousarray(frame.select(rows.values).to_numpy(), dtype=np.float64)
    cuts = np.cumsum(found)[:-1]
    return SeriesTable(
        tuple(
            Series(id, times, part, rows.columns)
            for id, times, part in zip(rows.ids, np.split(_at(frame), cuts), np.split(values, cuts), strict=True)
        ),
        rows.layout,
        frequency,
        float((ratios == 1).mean()) if len(ratios) else 1.0,
        step_of(frequency),
    )


def read_series(
    path: Path | str,
    *,
    format: Literal["auto", "wide", "long"] = "auto",
    time: str | None = None,
    id: str | None = None,
    target: Sequence[str] = (),
    time_format: str | None = None,
    on_duplicate: OnDuplicate = "error",
    on_gap: OnGap = "nan",
    min_rows: int = 2,
    frequency: str | None = None,
    missing: Sequence[str] = MISSING,
    judge: Judge = STRICT,
) -> SeriesTable:
    """Read the series of a CSV, TSV or Parquet table, plain or packed.

    A table with a column of ids is long, one value column and many series; any other is wide, one series with a
    column for each variable. Ids are text.

    Args:
        path: the table.
        format: insist on a layout.
        time: the column of timestamps; found by its name or its look when absent.
        id: the column of ids of a long table.
        target: the columns to read. When absent a wide table's columns are all read, of a long one ``y``, ``value``
            or ``target``, or else all.
        time_format: how timestamps are written, such as ``%d/%m/%Y %H:%M``; with ``%z`` in it they are read as UTC.
        on_duplicate: what a series gets that has two values at one time.
        on_gap: whether steps of different length are refused.
        min_rows: rows that each series must have.
        frequency: known beforehand, of rows that go on with earlier ones: one row is then enough.
        missing: what stands for a missing value; a number is compared as a number.
        judge: what to do about what training would refuse, and about doubts.

    Raises:
        InputError: if the table cannot be read so, with row, column and value; rows count from 1 below the header.
    """
    rows = read_rows(
        path, format=format, time=time, id=id, target=target, time_format=time_format, missing=missing, judge=judge
    )
    return tidy(rows, on_duplicate=on_duplicate, on_gap=on_gap, min_rows=min_rows, frequency=frequency, judge=judge)
