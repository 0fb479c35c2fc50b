"""Series on an even grid: a row of missing values where a row is missing, and what may be put there."""

from dataclasses import replace

import numpy as np

from titans_seq.data.record import STRICT, Judge, Series, quoted
from titans_seq.data.series.reading import OnGap
from titans_seq.data.series.tidy import SeriesTable
from titans_seq.data.times import months_of, some, step_of, steps_from, time_delta
from titans_seq.errors import InputError


def on_grid(series: Series, on_gap: OnGap) -> Series:
    """Return the series as models read it: evenly spaced and filled as is asked, or with ``keep`` as it is.

    Filled values stand in ``target`` and are not ``observed``; nothing is put before the first value. Interpolation
    looks ahead to the end of a gap, and puts nothing behind the last value. Covariates hold their last value in both.

    Raises:
        InputError: as for `regular`.
    """
    if on_gap == "keep":
        return series
    series = regular(series)
    if on_gap not in ("ffill", "interpolate"):
        return series
    fill = held if on_gap == "ffill" else interpolated
    T = len(series)
    known = np.concatenate([held(series.known_future[:T]), series.known_future[T:]])  # what comes must be told
    return replace(series, target=fill(series.target), known_future=known, past_only=held(series.past_only))


def _called(series: Series) -> str:
    return f"series {quoted(series.id)}" if series.id else "the series"


def _places(series: Series) -> np.ndarray:
    """Steps from the first row to each, rounded down."""
    times, step = series.times, step_of(series.frequency)
    if step is not None:
        return np.asarray((times - times[0]) // step)
    months = (times.astype("M8[M]") - times[:1].astype("M8[M]")).astype(np.int64)
    return np.asarray(months // (months_of(series.frequency) or 1))


def irregularity(series: Series) -> str | None:
    """Say of a series whose rows do not stand whole steps apart where it begins; None if they all do."""
    times = series.times
    fits = steps_from(times, 0, series.frequency, _places(series)) == times
    if fits.all():
        return None
    return (
        f"{_called(series)} is irregular: {fits.mean():.1%} of its timestamps stand whole steps of {series.frequency} "
        f"after the first, {some(times[:1])}; {some(times[[fits.argmin()]])} does not"
    )


def regular(series: Series) -> Series:
    """Return the series evenly spaced: where a row is missing there is one of NaN.

    Raises:
        InputError: if the timestamps do not stand a whole number of steps apart, or almost all rows would be missing.
    """
    if why := irregularity(series):
        raise InputError(f"{why}. Resample it to even steps, or read its rows as they come: --on-gap keep.")
    times, frequency, places = series.times, series.frequency, _places(series)
    rows = int(places[-1]) + 1
    if rows == len(times):
        return series
    if rows > 100 * len(times) + 10_000:
        raise InputError(
            f"{_called(series)} has {len(times):,} rows where even steps of {frequency} from {some(times[:1])} to "
            f"{some(times[-1:])} would have {rows:,}. Is a timestamp wrong?"
        )
    T = int(places[len(series) - 1]) + 1
    past = places[: len(series)]
    return replace(
        series,
        times=steps_from(times, 0, frequency, np.arange(rows)),
        target=_spread(series.target, past, T),
        observed=_spread(series.observed, past, T),
        known_future=_spread(series.known_future, places, rows),
        past_only=_spread(series.past_only, past, T),
    )


def _spread(values: np.ndarray, places: np.ndarray, rows: int) -> np.ndarray:
    """Put rows (T, C) at their places of so many; the others are missing, or False."""
    found = np.full((rows, values.shape[1]), False if values.dtype == bool else np.nan, values.dtype)
    found[places] = values
    return found


def held(values: np.ndarray) -> np.ndarray:
    """Put the last known value of each column (T, C) in the place of a missing one."""
    known = np.isfinite(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], 0), axis=0)
    return np.take_along_axis(values, last, axis=0)


def interpolated(values: np.ndarray) -> np.ndarray:
    """Put the straight line between the known neighbours of each column (T, C) in the place of what is missing."""
    found, rows = values.copy(), np.arange(len(values))
    for column in found.T:  # a view: written through
        known = np.flatnonzero(np.isfinite(column))
        if len(known):
            inside = slice(known[0], known[-1] + 1)
            column[inside] = np.interp(rows[inside], known, column[known])
    return found


def spaced(table: SeriesTable, on_gap: OnGap, name: str, judge: Judge = STRICT) -> SeriesTable:
    """Return a table whose series are as models read them; irregular ones stay as they are, unless a gap is filled.

    Raises:
        InputError: as for `regular`.
    """
    odd = [why for why in map(irregularity, table.series) if why] if on_gap == "nan" else []
    if odd:
        more = f" (such series: {len(odd):,})" if len(odd) > 1 else ""
        judge.doubt(f"{name}: {odd[0]}{more}. Rows are read as they come, as with --on-gap keep.")
    irregular = on_gap == "keep" or bool(odd)
    try:
        series = tuple(on_grid(one, "keep" if irregular else on_gap) for one in table.series)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return replace(table, series=series, irregular=irregular)


def timed(series: Series, frequency: str, before: np.datetime64 | None = None) -> Series:
    """Return the series with one more covariate that is known beforehand: ln of the steps since the row before.

    ``before`` is the time of the row before the first, where there was one; the first is else a step after it.
    """
    first = [] if before is None else [before]
    delta = time_delta(np.concatenate([np.array(first, "M8[us]"), series.times]), frequency)[len(first) :]
    steps = np.log(delta)[:, None].astype(np.float32)
    return replace(series, known_future=np.concatenate([series.known_future, steps], 1))
