"""Series as entries of GluonTS datasets and back, and both as long frames with neuralforecast's column names.

An entry is a dictionary: ``start`` (a pandas Period), ``target`` (T,) or (C, T), ``item_id``, and covariates with the
time axis last. A list of entries is a dataset.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from titans_seq.data.record import Series, quoted
from titans_seq.data.times import add_steps, frequency_named, months_of, step_of, steps_from
from titans_seq.errors import InputError, warn
from titans_seq.forecast import unique_id

Entry = dict[str, Any]

_PANDAS = {"us": "us", "ms": "ms", "s": "s", "m": "min", "h": "h", "d": "D", "w": "W", "mo": "M", "q": "Q", "y": "Y"}
_FINER = {"h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1000, "us": 1}  # microseconds
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def pandas_frequency(frequency: str, start: np.datetime64) -> str:
    """What pandas' periods call a step of ours: 15m is 15min, 1h h, 1d D, 1mo M, and 1w W-SUN if it starts on a Monday.

    A period is known by its end: weeks, quarters and years are anchored so that one begins at ``start``. Steps that do
    not begin where their unit does are so many of a smaller one: hours from half past on are 60min.

    Raises:
        ValueError: if ``frequency`` is none.
    """
    step_of(frequency)
    count, unit = re.fullmatch(r"(\d*)([a-z]+)", frequency).groups()  # type: ignore[union-attr]
    day = pd.Timestamp(start)
    anchor = {"w": f"-{_WEEKDAYS[day.weekday() - 1]}"} | dict.fromkeys("qy", f"-{_MONTHS[day.month - 2]}")
    usual = f"{'' if count == '1' else count}{_PANDAS[unit]}{anchor.get(unit, '')}"
    names, length = [usual], step_of(frequency)
    if length is not None:
        step = int(length.astype("m8[us]").astype(np.int64))
        names += [f"{step // size}{name}" for name, size in _FINER.items() if step % size == 0]
    return next((name for name in names if pd.Period(day, freq=name).start_time == day), usual)


def frequency_of(entry: Entry) -> str:
    """Our name of an entry's step; "" where it is none of ours, such as business days."""
    try:
        return frequency_named(entry["start"].freqstr)
    except ValueError:
        return ""


def to_entry(series: Series) -> Entry:
    """The entry of a series: ``target`` (T,), or (C, T) of several columns.

    A value that was not measured is NaN, also where a gap was filled: GluonTS scores all that is not NaN. Months are
    told by their name, so that a series of month ends comes back at the months' first days.

    Raises:
        InputError: if its rows do not stand one step apart.
    """
    T = len(series)
    if (series.times != steps_from(series.times, 0, series.frequency, np.arange(len(series.times)))).any():
        raise InputError(
            f"Series {quoted(series.id)} has rows that do not stand {series.frequency} apart, and GluonTS knows even "
            "steps only. Read it with --on-gap nan, which fills its grid."
        )
    frequency = pandas_frequency(series.frequency, series.times[0])
    target = np.where(series.observed, series.target, np.nan)
    entry = {
        "item_id": series.id,
        "start": pd.Period(pd.Timestamp(series.times[0]), freq=frequency),
        "target": target[:, 0] if len(series.columns) == 1 else target.T,
    }
    covariates = {
        "feat_dynamic_real": series.known_future.T,
        "past_feat_dynamic_real": series.past_only[:T].T,
        "feat_static_real": series.static,
    }
    return entry | {name: values for name, values in covariates.items() if len(values)}


def to_entries(series: Series) -> list[Entry]:
    """An entry of one column each, for models that read one: ``item_id`` is that of our prediction files."""
    entry = to_entry(series)
    rows = np.atleast_2d(entry["target"])
    return [{**entry, "item_id": unique_id(series, c), "target": row} for c, row in enumerate(rows)]


def to_series(entry: Entry, columns: tuple[str, ...] = ("y",)) -> Series:
    """The series of an entry; ``columns`` are the C names of its target.

    Categories (``feat_static_cat``) are left out, with a warning: ours are text, which an entry no longer has.

    Raises:
        InputError: if the target has another number of columns, or its step is none of ours (business days).
    """
    target = np.atleast_2d(np.asarray(entry["target"], np.float64)).T
    name = quoted(str(entry.get("item_id", "")))
    if target.shape[1] != len(columns):
        raise InputError(f"Entry {name} has {target.shape[1]} columns in its target; {len(columns)} are named.")
    if lost := [field for field in entry if field.endswith("_cat")]:
        warn(f"Entry {name}: {', '.join(lost)} is left out: numbers of categories do not say which they are.")
    if not (frequency := frequency_of(entry)):
        raise InputError(f"Entry {name} has rows every {entry['start'].freqstr}, which are no even steps.")
    given = {
        ours: np.asarray(entry[theirs], np.float32).T
        for ours, theirs in (
            ("known_future", "feat_dynamic_real"),
            ("past_only", "past_feat_dynamic_real"),
            ("static", "feat_static_real"),
        )
        if theirs in entry
    }
    rows = len(given.get("known_future", target))
    start = entry["start"].start_time.to_datetime64()
    return Series(str(entry.get("item_id", "")), _times(start, frequency, rows), target, columns, frequency, **given)


def _times(start: np.datetime64, frequency: str, rows: int) -> np.ndarray:
    """Timestamps (rows,) from ``start``, a step apart."""
    return add_steps(start, frequency, np.arange(rows))


def from_frame(frame: Any, frequency: str) -> list[Entry]:
    """Entries of a long frame (polars or pandas) with the columns ``unique_id``, ``ds`` and ``y``, in its order of ids.

    Rows may come in any order; a row that is missing is NaN. ``frequency`` is ours or pandas', 15m or 15min.

    Raises:
        InputError: if a series has a timestamp twice, or one that is off the grid of its first.
    """
    times = np.asarray(_without_zone(frame["ds"])).astype("M8[us]")
    y, frequency = np.asarray(frame["y"], np.float64), frequency_named(frequency)
    ids, first, series = np.unique(np.asarray(frame["unique_id"]).astype(str), return_index=True, return_inverse=True)
    order = np.lexsort((times, series))
    rows = np.split(order, np.searchsorted(series[order], np.arange(1, len(ids))))
    found = []
    for number in np.argsort(first):
        id, own = str(ids[number]), rows[number]
        place, target = _on_grid(id, times[own], y[own], frequency)
        found.append(to_entry(Series(id, place, target[:, None], ("y",), frequency)))
    return found


def _without_zone(times: Any) -> Any:
    """A column of times as they are written, which is told of those that have a zone."""
    zone = getattr(times.dtype, "tz", None) or getattr(times.dtype, "time_zone", None)
    if zone is None:
        return times
    warn(f"All times of ds are in the zone {zone}; they are kept as written, without it.")
    return times.dt.tz_localize(None) if hasattr(times.dt, "tz_localize") else times.dt.replace_time_zone(None)


def _on_grid(id: str, times: np.ndarray, values: np.ndarray, frequency: str) -> tuple[np.ndarray, np.ndarray]:
    """Sorted rows on the whole grid from the first to the last, NaN between."""
    months = months_of(frequency)
    if months is None:
        rows = int((times[-1] - times[0]) // step_of(frequency)) + 1
    else:
        rows = int((times[-1].astype("M8[M]") - times[0].astype("M8[M]")).astype(int)) // months + 1
    grid = steps_from(times, 0, frequency, np.arange(rows))
    place = np.searchsorted(grid, times).clip(max=rows - 1)
    if (off := grid[place] != times).any():
        raise InputError(f"Series {quoted(id)}: {times[off][0]} is no whole number of {frequency} after {times[0]}.")
    if (twice := np.diff(place) == 0).any():
        raise InputError(f"Series {quoted(id)} has {times[1:][twice][0]} twice. Keep one row of each timestamp.")
    target = np.full(rows, np.nan)
    target[place] = values
    return grid, target


def to_frame(forecasts: Iterable[Any], truths: Iterable[Any] | None = None) -> pd.DataFrame:
    """Forecasts as a long frame: ``unique_id, ds, cutoff, [y,] mean, q0.1 ...``, in their order.

    Args:
        forecasts: `QuantileForecast`s of one column each.
        truths: for each what came, with a PeriodIndex, as `make_evaluation_predictions` gives them.
    """
    parts = []
    for number, forecast in enumerate(forecasts):
        if forecast.forecast_array.ndim != 2:
            raise ValueError("A forecast has several columns: give forecast.copy_dim(c) of each.")
        names = [key if key == "mean" else f"q{key}" for key in forecast.forecast_keys]
        index = forecast.index
        rows = {
            "unique_id": str(number) if forecast.item_id is None else str(forecast.item_id),
            "ds": index.to_timestamp(),
            "cutoff": (forecast.start_date - 1).to_timestamp(),
            **dict(zip(names, forecast.forecast_array, strict=True)),
        }
        parts.append(pd.DataFrame(rows))
    found = pd.concat(parts, ignore_index=True)
    if truths is not None:
        indexes = [part["ds"] for part in parts]
        values = [_truth(truth, index) for truth, index in zip(truths, indexes, strict=True)]
        found.insert(3, "y", np.concatenate(values))
    return found


def _truth(truth: Any, times: pd.Series) -> np.ndarray:
    """Values (H,) of a pandas Series, or frame of one column, at ``times``; NaN where it has none."""
    column = truth if truth.ndim == 1 else truth.iloc[:, 0]
    stamped = pd.Series(column.to_numpy(), column.index.to_timestamp())
    return stamped.reindex(times).to_numpy()
