"""Timestamps: read strictly from a column, and counted in steps of a frequency."""

import re
from itertools import product

import numpy as np
import polars as pl

from titans_seq.data.record import Judge
from titans_seq.errors import InputError

HOUR = 3_600_000_000  # in microseconds, as all steps here
_UNITS = {"w": 168 * HOUR, "d": 24 * HOUR, "h": HOUR, "m": HOUR // 60, "s": HOUR // 3600, "ms": 1000, "us": 1}
_MONTHS = {"y": 12, "q": 3, "mo": 1}

_CLOCKS = (  # pattern of a time of day, and its format
    ("", ""),
    *(
        (gap + clock, gap + form)
        for gap in " T"
        for clock, form in ((r"\d{1,2}:\d\d", "%H:%M"), (r"\d{1,2}:\d\d:\d\d(\.\d+)?", "%H:%M:%S%.f"))
    ),
    (r" \d{1,2}:\d\d ?[AaPp][Mm]", " %I:%M %p"),
    (r" \d{1,2}:\d\d:\d\d ?[AaPp][Mm]", " %I:%M:%S %p"),
)
_DAYS = (  # pattern of a day, and the formats it may be in
    *((rf"\d{{4}}[{s}]\d{{1,2}}[{s}]\d{{1,2}}", (f"%Y{s}%m{s}%d",)) for s in "-/."),
    *((rf"\d{{1,2}}[{s}]\d{{1,2}}[{s}]\d{{4}}", (f"%d{s}%m{s}%Y", f"%m{s}%d{s}%Y")) for s in "-/."),
    *((rf"\d{{1,2}}[{s}]\d{{1,2}}[{s}]\d\d", (f"%d{s}%m{s}%y", f"%m{s}%d{s}%y")) for s in "/."),
    (r"\d{1,2}-\d{1,2}-\d\d", ("%d-%m-%y", "%m-%d-%y", "%y-%m-%d")),  # the last as in ISO dates, without a century
)
_FORMATS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((day + clock, tuple(form + time for form in forms)) for (day, forms), (clock, time) in product(_DAYS, _CLOCKS)),
    (r"\d{4}-\d\d", ("%Y-%m",)),
    (r"\d{4}/\d\d", ("%Y/%m",)),
    (r"\d{8}", ("%Y%m%d",)),
    (r"\d{4}", ("%Y",)),
)
_SECONDS = 9  # digits from which a whole number is a time in seconds since 1970, or parts of them
_ZONE = r"(:\d\d(?:\.\d+)?)\s*(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)$"


# Reading


def first_of(mask: pl.Series) -> int:
    """0-based place of the first value that is true or missing."""
    return int(mask.fill_null(True).arg_max() or 0)


def _no_date(name: str, row: int, value: str, why: str) -> InputError:
    return InputError(f"{name}: row {row}: {value!r} {why}. Mend the row, or say how dates are written: --time-format.")


def _unknown_form(name: str, value: str) -> InputError:
    """What to do about a first row in none of the known formats."""
    if not value.isdecimal():
        return _no_date(name, 1, value, "does not read as a date")
    if len(value) < _SECONDS:
        remedy = "If the column counts steps, say how long one is: --freq h, D, MS ...; else write dates into it."
    elif len(value) < 12:
        remedy = "If these are seconds since 1970, say so: --time-format %s."
    else:
        remedy = "If these are milliseconds or less since 1970, divide them to whole seconds, then --time-format %s."
    return InputError(f"{name}: row 1: {value!r} does not read as a date. {remedy}")


def counts_steps(column: pl.Series, frequency: str) -> bool:
    """Whether a column holds whole numbers that are neither dates nor seconds since 1970.

    Four digits are years only where steps are.
    """
    if not str(column[0]).strip().isdecimal():
        return False
    text = column.cast(pl.String).str.strip_chars()
    whole = text.str.contains(rf"^\d{{1,{_SECONDS - 1}}}$").fill_null(False).all()
    dates = [pattern for pattern, forms in _FORMATS if forms != ("%Y",) or frequency.endswith("y")]
    alike = any(text.str.contains(f"^(?:{pattern})$").all() for pattern in dates)
    return bool(whole) and not alike


def _zones(text: pl.Series) -> pl.Series:
    """The zone that each time is written with; empty where there is none."""
    return text.str.extract(_ZONE, 2).fill_null("").str.replace(r"^(Z|GMT|[+-]00(:?00)?)$", "UTC")


def zone_of(column: pl.Series, time_format: str | None) -> str:
    """The zone of a column of timestamps as they are read; empty where none is said."""
    if column.dtype in (pl.Date, pl.Datetime):
        return "UTC" if getattr(column.dtype, "time_zone", None) else ""
    if time_format:
        return "UTC" if "%z" in time_format else ""
    return str(_zones(column.cast(pl.String).str.strip_chars()[:1])[0])


def _one_zone(text: pl.Series, name: str, judge: Judge) -> tuple[pl.Series, pl.Series | None]:
    """Take the zone off times that all have the same one, or none; of several also say what each is ahead of UTC."""
    zones = _zones(text)
    bare = text.str.replace(_ZONE, "${1}")
    other = zones != zones[0]
    if not other.any():
        if zones[0] not in ("", "UTC"):
            judge.doubt(f"{name}: all times are in the zone {zones[0]}; they are kept as written, without it.")
        return bare, None
    row = first_of(other)
    counts = ", ".join(f"{zone or 'none'} {count:,}" for zone, count in zones.value_counts(sort=True).rows())
    judge.refuse(
        f"{name}: more than one time zone: {zones[0] or 'none'} in row 1, {zones[row] or 'none'} in row {row + 1} "
        f"({text[row]!r}); in rows: {counts}. "
        "Write all times in UTC, or have them read as UTC with a --time-format that ends in %z."
    )
    hours = zones.str.extract(r"^[+-](\d\d)", 1).cast(pl.Int64).fill_null(0)
    minutes = zones.str.extract(r"^[+-]\d\d:?(\d\d)", 1).cast(pl.Int64).fill_null(0)
    sign = pl.select(pl.when(zones.str.starts_with("-")).then(-1).otherwise(1)).to_series()
    return bare, (sign * (hours * HOUR + minutes * (HOUR // 60))).cast(pl.Duration("us"))


def _in_one_format(text: pl.Series, name: str) -> pl.Series:
    """Read times in the one format that fits every row."""
    pattern, formats = next((form for form in _FORMATS if re.fullmatch(form[0], text[0])), ("", ()))
    if not formats:
        raise _unknown_form(name, text[0])
    other = ~text.str.contains(f"^(?:{pattern})$")
    if other.any():
        row = first_of(other)
        raise _no_date(name, row + 1, text[row], f"is no date, or its format is not that of row 1 ({text[0]!r})")
    readings = [text.str.strptime(pl.Datetime("us"), form, strict=False) for form in formats]
    fitting = [(form, reading) for form, reading in zip(formats, readings, strict=True) if not reading.null_count()]
    if not fitting:
        nearest = min(readings, key=pl.Series.null_count)
        row = first_of(nearest.is_null())
        raise _no_date(name, row + 1, text[row], "is no date, or mixes day/month with month/day")
    (_, first), *others = fitting
    for _, other in others:
        if (unlike := first != other).any():
            row = first_of(unlike)
            forms = " or ".join(f"'{form}'" for form, _ in fitting)
            raise InputError(
                f"{name}: row {row + 1}: {text[row]!r} is ambiguous: which of its numbers is the day, which the month, "
                f"no row decides. Say it with --time-format {forms}."
            )
    return first


def _in_given_format(text: pl.Series, name: str, time_format: str) -> pl.Series:
    try:
        times = text.str.strptime(pl.Datetime("us"), time_format, strict=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{name}: --time-format {time_format!r} is not valid: {reason}") from error
    if times.null_count():
        row = first_of(times.is_null())
        raise _no_date(name, row + 1, text[row], f"does not read as {time_format!r}")
    return times


def _naive(times: pl.Series) -> pl.Series:
    """UTC without the word, in microseconds."""
    times = times.cast(pl.Datetime("us", getattr(times.dtype, "time_zone", None)))
    return times.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if times.dtype.time_zone else times  # type: ignore[attr-defined]


def parse_times(column: pl.Series, name: str, time_format: str | None, judge: Judge) -> pl.Series:
    """Read a column of timestamps, or say which row cannot be read."""
    temporal = column.dtype in (pl.Date, pl.Datetime)
    text = column if temporal else column.cast(pl.String).str.strip_chars()
    missing = text.is_null() if temporal else text.is_null() | (text == "")
    if missing.any():
        row = first_of(missing) + 1
        raise InputError(f"{name}: row {row} has no timestamp in column {column.name!r}. Fill in or remove the row.")
    if temporal:
        zone = getattr(text.dtype, "time_zone", None)
        if zone not in (None, "UTC", "Etc/UTC"):
            judge.doubt(f"{name}: times of column {column.name!r} are in the zone {zone}; they are read as UTC.")
        return _naive(text)
    if time_format:
        return _naive(_in_given_format(text, name, time_format))
    bare, ahead = _one_zone(text, name, judge)
    times = _in_one_format(bare, name)
    return times if ahead is None else times - ahead


def holds_days_as_numbers(column: pl.Series) -> bool:
    """Whether every value of a column is a day as 20240131."""
    if column.dtype not in (pl.String, pl.Int32, pl.Int64):
        return False
    days = r"^(1[6-9]|2[0-2])\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"
    return bool(column.cast(pl.String).str.contains(days).fill_null(False).all())


def holds_dates(column: pl.Series) -> bool:
    """Whether the first value of a column reads as a date."""
    if column.dtype != pl.String:
        return column.dtype in (pl.Date, pl.Datetime)
    value = re.sub(_ZONE, r"\1", str(next(iter(column.drop_nulls().head(1)), "")).strip())
    return not value.isdigit() and any(re.fullmatch(pattern, value) for pattern, _ in _FORMATS)


def some(times: np.ndarray) -> str:
    """Return the first few timestamps as messages show them."""
    text = ", ".join(str(time.astype("M8[s]")).replace("T", " ") for time in times[:5])
    return f"{text} and {len(times) - 5:,} more" if len(times) > 5 else text


# Steps


def months_of(frequency: str) -> int | None:
    """Length of a calendar step in months, None for a step of fixed length."""
    count, unit = re.fullmatch(r"(\d*)([a-z]+)", frequency).groups()  # type: ignore[union-attr]
    return int(count or 1) * _MONTHS[unit] if unit in _MONTHS else None


def step_of(frequency: str) -> np.timedelta64 | None:
    """Return the length of "15m", "1h", "1w" ...; None for months, quarters and years.

    Raises:
        ValueError: if it is no frequency.
    """
    found = re.fullmatch(r"(\d*)([a-z]+)", frequency)
    if found is None or found[2] not in {*_UNITS, *_MONTHS} or found[1] == "0":
        raise ValueError(f"{frequency!r} is no frequency such as 15m, 1h, 1d, 1w, 1mo, 1q or 1y.")
    return None if found[2] in _MONTHS else np.timedelta64(int(found[1] or 1) * _UNITS[found[2]], "us")


def _frequency_name(step: int, months: bool) -> str:
    """Name a step of so many microseconds, or months."""
    if months:
        return f"{step // 12}y" if step % 12 == 0 else f"{step}mo"
    unit = next(unit for unit, length in _UNITS.items() if step % length == 0)
    return f"{step // _UNITS[unit]}{unit}"


_ALIASES = {"min": "m", "T": "m", "H": "h", "S": "s", "D": "d", "W": "w", "L": "ms", "U": "us"}
_ALIASES |= dict.fromkeys(("M", "MS", "ME"), "mo") | dict.fromkeys(("Q", "QS", "QE"), "q")
_ALIASES |= dict.fromkeys(("Y", "YS", "YE", "A", "AS"), "y")


def frequency_named(text: str) -> str:
    """Return the frequency that pandas calls 15min, h, D, W-SUN, MS ..., or that is our own 15m, 1h, 1d, 1w, 1mo.

    Raises:
        ValueError: if it is none.
    """
    found = re.fullmatch(r"(\d*) ?([A-Za-z]+)(-[A-Z]{3})?", text.strip())
    if found is not None and found[2] in ("B", "C"):
        raise ValueError(
            f"{text!r} is no frequency: steps of business days differ in length. Take D, which leaves gaps at weekends "
            "and forecasts them too."
        )
    if found is None:
        raise ValueError(f"{text!r} is no frequency such as 15min, h, D, W, MS or 1y.")
    own = found[1] + _ALIASES.get(found[2], found[2])
    step = step_of(own)
    if step is None:
        return _frequency_name(months_of(own) or 1, True)
    return _frequency_name(int(step.astype(np.int64)), False)


def time_delta(times: np.ndarray, frequency: str) -> np.ndarray:
    """Time since the row before, in steps of ``frequency``, (T,) float32; 1 for the first row.

    Months and years have their mean length here, 30.436875 days a month (Gregorian calendar).
    """
    step = step_of(frequency)
    length = 30.436875 * _UNITS["d"] * (months_of(frequency) or 1) if step is None else step.astype(np.int64)
    return np.concatenate([[1.0], np.diff(times).astype(np.int64) / length])[: len(times)].astype(np.float32)


def _ends_month(times: np.ndarray) -> np.ndarray:
    ends: np.ndarray = (times + np.timedelta64(1, "D")).astype("M8[M]") != times.astype("M8[M]")
    return ends


def add_steps(time: np.datetime64, frequency: str, n: int | np.ndarray) -> np.ndarray:
    """Return the timestamps ``n`` steps after ``time``, datetime64[us], in the shape of ``n``.

    A month's last day stays one; another day that a month lacks becomes its last.
    """
    time, n = time.astype("M8[us]"), np.asarray(n)
    step = step_of(frequency)
    if step is not None:
        return np.asarray(time + n * step)
    month = time.astype("M8[M]")
    target = month + n * np.timedelta64(months_of(frequency), "M")
    days = (target + 1).astype("M8[D]") - target.astype("M8[D]")
    day = time.astype("M8[D]") - month.astype("M8[D]")
    day = days - 1 if _ends_month(np.asarray(time)) else np.minimum(day, days - 1)
    return np.asarray(target.astype("M8[us]") + day + (time - time.astype("M8[D]")))


def steps_from(times: np.ndarray, row: int, frequency: str, n: int | np.ndarray) -> np.ndarray:
    """Return the timestamps ``n`` steps after ``times[row]``, as `add_steps`, on the day of the month that rows keep.

    A month's last day stays one where all rows are; of a series of every 28th, or 30th, it is a 28th or 30th.
    """
    anchor, months = row, months_of(frequency)
    if step_of(frequency) is None and months and _ends_month(times[row]):
        day = (times.astype("M8[D]") - times.astype("M8[M]")).astype(np.int64)
        inside = np.where(_ends_month(times), -1, day)
        anchor = int(inside.argmax()) if inside.max() >= 0 else row
        n = n + (times[row].astype("M8[M]") - times[anchor].astype("M8[M]")).astype(np.int64) // months
    return add_steps(times[anchor], frequency, n)


def future_times(times: np.ndarray, frequency: str, n: int) -> np.ndarray:
    """Return the ``n`` timestamps after the last of ``times``, (n,) datetime64[us]."""
    return steps_from(times, -1, frequency, np.arange(1, n + 1))


def _on_one_day(times: np.ndarray, series: np.ndarray) -> bool:
    """Whether each of sorted series stays on one day of the month, or its last where it lacks that day, at one hour."""
    month, day = times.astype("M8[M]"), times.astype("M8[D]")
    last = (month + 1).astype("M8[D]") - month.astype("M8[D]")  # days of the row's month
    begins = np.flatnonzero(np.concatenate([[True], series[1:] != series[:-1]]))
    rows = np.diff(np.append(begins, len(series)))
    of_month = day - month.astype("M8[D]") + 1
    wanted = np.repeat(np.maximum.reduceat(of_month, begins), rows)
    hour = times - day
    return bool((of_month == np.minimum(wanted, last)).all() and (hour == np.repeat(hour[begins], rows)).all())


def find_frequency(times: np.ndarray, series: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the commonest step of sorted series, and each step as a multiple of it (1 is regular, more a gap).

    Of steps that are as common as each other it is the shortest where all are multiples of it, as between gaps, and
    else the one next to the median.

    Args:
        times: (T,) datetime64[us] of all series, one after the other.
        series: (T,) to which each belongs; there is one step at least within a series.
    """
    inside = series[1:] == series[:-1]
    steps = np.diff(times).astype(np.int64)[inside]
    month = times.astype("M8[M]")
    months = bool(np.median(steps) >= 28 * _UNITS["d"]) and _on_one_day(times, series)
    if months:
        steps = np.diff(month).astype(np.int64)[inside]
    lengths, counts = np.unique(steps, return_counts=True)
    alike = lengths[counts == counts.max()]  # where a clock jitters, every step there is
    commonest = int(alike[0] if not (steps % alike[0]).any() else alike[np.abs(alike - np.median(steps)).argmin()])
    return _frequency_name(commonest, months), steps / commonest


def steps_in(times: np.ndarray, series: np.ndarray, frequency: str) -> np.ndarray:
    """Return each step of sorted series as a multiple of ``frequency``; arguments as for `find_frequency`."""
    inside = series[1:] == series[:-1]
    step = step_of(frequency)
    if step is not None:
        return np.asarray(np.diff(times)[inside] / step)
    return np.asarray(np.diff(times.astype("M8[M]")).astype(np.int64)[inside] / (months_of(frequency) or 1))
