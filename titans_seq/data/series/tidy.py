"""From rows to series: sorted, each timestamp once, and what is wrong with them told."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from titans_seq.data.record import STRICT, Covariates, Judge, Series
from titans_seq.data.series.reading import Layout, OnDuplicate, OnGap
from titans_seq.data.series.rows import Rows, called_in
from titans_seq.data.times import HOUR, find_frequency, some, step_of, steps_in
from titans_seq.errors import InputError

SENTINELS = (-99.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0)  # what loggers write for "no value"

# Sundays on which clocks go back or forward somewhere: month, and first day of the week they fall in
_BACK = ((4, 1), (9, 24), (10, 25), (11, 1))
_FORWARD = ((3, 8), (3, 25), (4, 1), (9, 24), (10, 1))


@dataclass(frozen=True, eq=False)
class SeriesTable:
    """What `read_series` returns.

    ``series`` is one for a wide table; else it is one per id, in order of first appearance. ``frequency`` is the
    step that was said, or the commonest ("15m", "1h", "1d", "1w", "1mo", "1y"), and ``share`` its share of all steps.
    `grid.spaced` puts the series on an even grid.
    """

    series: tuple[Series, ...]
    layout: Layout
    frequency: str
    share: float
    covariates: Covariates
    zone: str = ""  # of its times, where they say one
    irregular: bool = False  # rows stand as they came, any time apart, and not on an even grid


# What is wrong


def _on_change(times: np.ndarray, weeks: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Whether each time lies in the small hours of a Sunday on which clocks change somewhere."""
    days = times.astype("M8[D]")
    month = days.astype("M8[M]")
    number, day = month.astype(np.int64) % 12 + 1, (days - month).astype(np.int64) + 1
    in_week = np.logical_or.reduce([(number == m) & (day >= first) & (day < first + 8) for m, first in weeks])
    sunday = days.astype(np.int64) % 7 == 3  # day 0 was a Thursday
    small_hours = times - days < np.timedelta64(4 * HOUR, "us")
    return np.asarray(in_week & sunday & small_hours)


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
    keys = ("row", "series", "time")
    differs = pl.any_horizontal([pl.col(c).n_unique() > 1 for c in frame.columns if c not in keys]).alias("differs")
    groups = frame.filter(doubled).group_by("series", "time", maintain_order=True)
    twice = groups.agg(pl.len(), pl.first("row"), differs)
    told = f"{rows.name}: rows with a duplicate timestamp: {int(twice['len'].sum()) - len(twice):,}"
    unlike = twice.filter("differs")
    how: OnDuplicate = "first" if on_duplicate == "error" else on_duplicate
    if not len(unlike):
        judge.doubt(f"{told}, all with equal values; one of each is kept: {some(_at(twice))}.")
    elif on_duplicate != "error":
        judge.doubt(f"{told}, of which the {on_duplicate} is kept: {some(_at(twice))}.")
    elif _is_fold(unlike, frame["time"].to_numpy()):
        how = "mean"
        judge.doubt(
            f"{told}; where they differ, clocks went back (DST fold), and the mean is kept: {some(_at(unlike))}. "
            "Write times in UTC to keep both."
        )
    else:
        first = unlike.row(0, named=True)
        judge.refuse(
            f"{rows.called(first['series'])}: duplicate timestamp {first['time']} (row {first['row']}): it stands "
            f"{first['len']} times with different values; such timestamps in all: {len(unlike):,}. "
            "Mend them, or decide with --on-duplicate mean, first or last."
        )
    whole = ["row", *(called_in(column) for column in rows.vocabularies)]  # of these there is no mean
    kept = [pl.col(whole).first(), getattr(pl.exclude(whole), how)()] if how == "mean" else [getattr(pl.all(), how)()]
    return frame.group_by("series", "time", maintain_order=True).agg(kept).select(frame.columns)


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
    step_is = "the step is said to be" if rows.frequency else "the commonest step is"
    message = (
        f"{rows.called(int(series[at]))}: not evenly spaced: {step_is} {frequency}, {100 * share:.6g} % "
        f"of all; longer steps (gaps): {int((ratios > 1).sum()):,}, shorter ones: {int((ratios < 1).sum()):,}, "
        f"the first after {some(times[at : at + 1])}."
    )
    if on_gap == "error":
        judge.refuse(f"{message} Fill in the rows, or allow gaps with --on-gap nan.")
        return
    judge.doubt(message)
    gaps = inside[ratios > 1]
    if frequency == "1d" and _are_weekends(times[gaps], times[gaps + 1]):
        judge.doubt(
            f"{rows.name}: its gaps are weekends. A step is a day of the week, so that forecasts will have rows of "
            "weekends too: count them in the horizon, and leave them out of what you use."
        )
    step = step_of(frequency)
    if step is not None and step <= np.timedelta64(HOUR, "us"):
        missing = times[inside[ratios == 1 + np.timedelta64(HOUR, "us") / step]] + step
        if len(forward := np.unique(missing[_on_change(missing, _FORWARD)])):
            judge.doubt(f"{rows.name}: an hour is missing where clocks may go forward (DST gap): {some(forward)}.")


def _are_weekends(last: np.ndarray, following: np.ndarray) -> bool:
    """Whether most gaps, each from its last row to the following one, hold no day but a Saturday and a Sunday."""
    last, following = last.astype("M8[D]"), following.astype("M8[D]")
    whole = (following - last == np.timedelta64(3, "D")) & (last.astype(np.int64) % 7 == 1)  # day 0 was a Thursday
    return bool(whole.mean() > 0.5) if len(whole) else False


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
    numbers = [column for column in (*rows.columns, *rows.covariates) if column not in rows.vocabularies]
    known = frame.group_by("series", maintain_order=True).agg(pl.col(map(called_in, numbers)).count())
    nothing = known.select("series", none=pl.sum_horizontal(rows.values) == 0).filter("none")["series"]
    for column in numbers:
        value = called_in(column)
        none = known.filter(pl.col(value) == 0)["series"]
        more = f" (series of that kind: {len(none):,})" if len(none) > 1 else ""
        if len(none) and (len(none) == len(known) or (column in rows.columns and none.is_in(nothing.to_list()).any())):
            first = none[0] if len(none) == len(known) else nothing[0]
            judge.refuse(
                f"{rows.called(first)}: column {column!r} holds no value: all rows are missing{more}. "
                "Remove it, or name the columns to read with --target."
            )
        elif lacking := frame[value].null_count():
            share = f"{lacking / len(frame):.2%} of its rows ({lacking:,})"
            wholly = f"; series that have none: {len(none):,}" if len(none) else ""
            judge.doubt(f"{rows.name}: column {column!r} has missing values in {share}{wholly}.")
        if column in rows.columns:
            _tell_constant(rows, frame, column, judge)
        for mark, count in sentinels(frame[value].to_numpy()).items():
            judge.doubt(
                f"{rows.name}: column {column!r} holds {mark:g} (times: {count:,}), far from its other values. "
                f"It is kept as a number; if it marks a missing value, say so with --missing {mark:g}."
            )


def _tell_constant(rows: Rows, frame: pl.DataFrame, column: str, judge: Judge) -> None:
    value = pl.col(called_in(column))
    series = frame.group_by("series", maintain_order=True).agg(value.min().alias("least"), value.max().alias("most"))
    if len(same := series.filter(pl.col("least") == pl.col("most"))):
        more = f" (series of that kind: {len(same):,})" if len(same) > 1 else ""
        judge.doubt(f"{rows.called(same['series'][0])}: column {column!r} is constant, {same['least'][0]:g}{more}.")


# The whole


def tidy(
    rows: Rows,
    *,
    on_duplicate: OnDuplicate = "error",
    on_gap: OnGap = "nan",
    min_rows: int = 2,
    leave_short: bool = False,
    frequency: str | None = None,
    judge: Judge = STRICT,
) -> SeriesTable:
    """Sort rows into series, and tell what is wrong with them; arguments and errors as for `read_series`."""
    back = rows.frame.select(pl.col("row").filter(pl.col("time").diff().over("series") < pl.duration())).to_series()
    if len(back):
        judge.doubt(f"{rows.name}: rows out of order in time: {len(back):,}, the first is row {back[0]}; sorted.")
    frame = rows.frame.sort("series", "time", "row")
    frame = _without_duplicates(rows, frame, on_duplicate, judge)
    ahead = _ahead(rows, frame)

    number = frame["series"].to_numpy()
    found = np.bincount(number[~ahead], minlength=len(rows.ids))
    said = frequency or rows.frequency
    needed = max(min_rows, 1 if said else 2)
    if found.min() < needed and not (leave_short and found.max() >= needed):
        short = int(found.argmin())
        more = f"; series too short in all: {int((found < needed).sum()):,}" if len(found) > 1 else ""
        message = f"{rows.called(short)} is too short: rows found: {found[short]:,}, rows needed: {needed:,}{more}."
        judge.refuse(message)
        if found.max() < (1 if said else 2):
            raise InputError(message)
    step, ratios = (said, steps_in(_at(frame), number, said)) if said else find_frequency(_at(frame), number)
    _tell_gaps(rows, frame, step, ratios, on_gap, judge)
    if frequency is None:  # a table that goes on with an earlier one may well hold one value, or none
        _tell_values(rows, frame.filter(~pl.Series(ahead)), judge)
    series, covariates = _series(rows, frame, ahead, step, judge)
    share = float((ratios == 1).mean()) if len(ratios) else 1.0
    return SeriesTable(series, rows.layout, step, share, covariates, rows.zone)


def _ahead(rows: Rows, frame: pl.DataFrame) -> np.ndarray:
    """Which rows stand behind the last with a target and tell what is known of the future, (T + F,) of all series."""
    none = np.zeros(len(frame), bool)
    if not rows.known_future:
        return none
    seen = frame.select(pl.any_horizontal(pl.col(rows.values).is_not_null())).to_series().to_numpy()
    place, number = np.arange(len(frame)), frame["series"].to_numpy()
    last = np.full(len(rows.ids), len(frame))
    last[np.unique(number[seen])] = 0
    np.maximum.at(last, number[seen], place[seen])
    return place > last[number]


def _series(
    rows: Rows, frame: pl.DataFrame, ahead: np.ndarray, frequency: str, judge: Judge
) -> tuple[tuple[Series, ...], Covariates]:
    """Cut a sorted frame into series."""
    number = frame["series"].to_numpy()
    cuts = np.cumsum(np.bincount(number, minlength=len(rows.ids)))[:-1]
    rest = np.split(ahead, cuts)
    target = np.split(np.ascontiguousarray(frame.select(rows.values).to_numpy(), dtype=np.float64), cuts)
    known, known_names = _matrix(rows, frame, rows.known_future)
    past, past_names = _matrix(rows, frame, rows.past_only)
    static, static_names = _matrix(rows, _static(rows, frame, judge), rows.static)
    parts = zip(
        rows.ids,
        np.split(_at(frame), cuts),
        rest,
        target,
        np.split(known, cuts),
        np.split(past, cuts),
        static,
        strict=True,
    )
    series = tuple(
        Series(id, times, y[~f], rows.columns, frequency, None, k, p[~f], s)  # type: ignore[arg-type]
        for id, times, f, y, k, p, s in parts
    )
    return series, Covariates(known_names, past_names, static_names, rows.vocabularies)


def _static(rows: Rows, frame: pl.DataFrame, judge: Judge) -> pl.DataFrame:
    """One row a series of what does not change within it."""
    for column in rows.static:
        value = called_in(column)
        changes = frame.filter(pl.col(value).drop_nulls().n_unique().over("series") > 1)
        if len(changes):
            first = changes.filter(pl.col("series") == changes["series"][0])
            row = first.filter(pl.col(value) != first[value].drop_nulls()[0])["row"][0]
            judge.refuse(
                f"{rows.called(first['series'][0])}: column {column!r} (--static) changes in row {row}. "
                "Read it with --past-only or --known-future."
            )
    values = [pl.col(called_in(column)).drop_nulls().first() for column in rows.static]
    return frame.group_by("series", maintain_order=True).agg(values)


def _matrix(rows: Rows, frame: pl.DataFrame, columns: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Covariates (T, K) in single precision and their K names; a category is one column a value, and one for others."""
    names: list[str] = []
    found = []
    for column in columns:
        values = frame[called_in(column)]
        if column not in rows.vocabularies:
            names.append(column)
            found.append(values.to_numpy().astype(np.float32)[:, None])
            continue
        words = rows.vocabularies[column]
        names += [f"{column}={word}" for word in (*words, "(other)")]
        codes = values.fill_null(0).to_numpy()
        hot = (codes[:, None] == np.arange(len(words) + 1)).astype(np.float32)
        hot[values.is_null().to_numpy()] = np.nan
        found.append(hot)
    return np.concatenate([np.zeros((len(frame), 0), np.float32), *found], axis=1), tuple(names)
