"""Layouts that hold a series in a row: Monash's .tsf and tables like M4's, unrolled to one row a timestamp."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from titans_seq.data.compressed import SNIFFED, UTF8_BOM, shown
from titans_seq.data.record import Judge, quoted
from titans_seq.data.series.reading import IDS, LARGEST, MISSING, Layout, SeriesReading
from titans_seq.data.table import column_called, column_given, from_bytes, listed, plain_text, read_bytes
from titans_seq.data.times import add_steps, first_of, frequency_named, holds_dates
from titans_seq.errors import InputError

EPOCH = np.datetime64("1970-01-01", "us")  # where series without timestamps begin

_TSF = re.compile(  # each line in one way alone, or many blank ones take for ever
    rb"(?:[^\S\n]*(?:#[^\n]*)?\n)*[^\S\n]*@(?:relation|attribute|frequency|missing|equallength|horizon|data)\b", re.I
)
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.I)
_WORDS = {"yearly": "1y", "quarterly": "3mo", "monthly": "1mo", "weekly": "1w", "daily": "1d", "hourly": "1h"}
_WORDS |= {"half_hourly": "30m", "minutely": "1m", "secondly": "1s"}


class Unrolled(NamedTuple):
    """A table of one row a timestamp, and what its file was."""

    table: pl.DataFrame
    separator: str
    layout: Layout | None  # None: wide or long, its columns will tell
    frequency: str | None = None  # that the file itself names


def unrolled(path: Path | str, reading: SeriesReading, judge: Judge) -> Unrolled:
    """Read a file of any layout; a series that stands in one row becomes rows of ``unique_id, ds, y``.

    Raises:
        InputError: if it is no table, or a row does not hold a series.
    """
    data = read_bytes(path, judge)
    head = data[:SNIFFED].removeprefix(UTF8_BOM).replace(b"\r", b"\n")
    if reading.format == "tsf" or (reading.format == "auto" and _TSF.match(head)):
        return _from_tsf(data, shown(path), reading, judge)
    table, separator = from_bytes(data, path)
    table = _with_header(table, shown(path)) if separator else table
    if reading.format == "ragged" or (reading.format == "auto" and not reading.time and _is_ragged(table)):
        return _from_ragged(table, path, reading, judge)
    return Unrolled(table, separator, None)


def untimed(name: str, frequency: str) -> str:
    """What is told of a file without timestamps."""
    return f"{name} has no timestamps: its rows are taken for steps of {frequency} from 1970-01-01 on."


def _with_header(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Take a number for a header back as the first row: a file of one column of numbers has none.

    Raises:
        InputError: if a file of several columns has none.
    """
    if table.width > 1:
        _must_have_header(table.columns, name)
        return table
    if not _NUMBER.fullmatch(table.columns[0]):
        return table
    first = pl.Series("value", [table.columns[0]], table.dtypes[0])
    return pl.DataFrame(pl.concat([first, table.to_series().alias("value")]))


def _must_have_header(columns: list[str], name: str) -> None:
    """Names of columns are not all dates and numbers, unless they number the columns."""
    names = [column for column in columns if column.strip() not in MISSING]
    dates = [name for name in names if holds_dates(pl.Series([name]))]
    if not names or not all(name in dates or _NUMBER.fullmatch(name.strip()) for name in names):
        return
    if names[0].isdecimal() and names == [str(int(names[0]) + place) for place in range(len(names))]:
        return
    example = [f"date{place or ''}" if column in dates else f"value{place}" for place, column in enumerate(columns)]
    raise InputError(
        f"{name} has no header line: its first line holds dates and numbers, {listed(columns)}. "
        f"Put a line with the columns' names before it, such as {listed(example)}."
    )


def as_numbers(text: pl.Series, missing: tuple[str, ...]) -> tuple[pl.Series, pl.Series]:
    """Numbers of a column of text, null where missing or no number, and the text without what means missing."""
    text = text.str.strip_chars()
    text = text.set(text.is_in(list(missing)), None)
    return text.cast(pl.Float64, strict=False), text


# --- a row a series


def _is_ragged(table: pl.DataFrame) -> bool:
    """Whether columns but the first are numbered one after the other, and the first holds the names of the rows."""
    numbers = [re.fullmatch(r"([A-Za-z_]*)(\d+)", column) for column in table.columns[1:]]
    if len(numbers) < 2 or not all(numbers) or table.dtypes[0] != pl.String:
        return False
    stems, places = zip(*((n[1], int(n[2])) for n in numbers if n), strict=True)
    names = table.to_series()
    in_order = len(set(stems)) == 1 and list(places) == list(range(places[0], places[0] + len(places)))
    return in_order and names.is_unique().all() and names.cast(pl.Float64, strict=False).null_count() > 0


def _from_ragged(table: pl.DataFrame, path: Path | str, reading: SeriesReading, judge: Judge) -> Unrolled:
    name = shown(path)
    id_at = column_given(table, reading.id, path, "--id") if reading.id else column_called(table, IDS)
    ids = table[id_at or table.columns[0]].cast(pl.String).fill_null("").str.strip_chars()
    if (doubled := ids.is_duplicated()).any() or (ids == "").any():
        row = first_of(doubled | (ids == ""))
        raise InputError(f"{name}: row {row + 1}: its id {ids[row]!r} is empty or stands twice. Give each its own.")
    columns = [column for column in table.columns if column not in (ids.name, *reading.static)]
    values = np.empty((len(table), len(columns)))
    for place, column in enumerate(columns):
        numbers, text = as_numbers(table[column].cast(pl.String), (*MISSING, *reading.missing))
        wrong = (numbers.is_null() & text.is_not_null()) | (numbers.abs() > LARGEST).fill_null(False)
        if wrong.any():
            row = first_of(wrong)
            raise InputError(
                f"{name}: row {row + 1}, column {column!r}: {text[row]!r} is no number, or too large. Mend it."
            )
        values[:, place] = numbers.to_numpy()
    series = [row[: 1 + np.flatnonzero(np.isfinite(row))[-1]] if np.isfinite(row).any() else row for row in values]
    if reading.frequency is None:
        raise InputError(
            f"{name} holds a series in each row, without timestamps. Say how far apart values are: --freq h, D, MS ..."
        )
    judge.doubt(untimed(name, reading.frequency))
    starts = [EPOCH] * len(series)
    statics = {s: table[column_given(table, s, path, "--static")] for s in reading.static}
    rows = _rows(ids.to_list(), starts, series, reading.frequency, {n: c.to_list() for n, c in statics.items()})
    return Unrolled(rows, "", "ragged", reading.frequency)


def _rows(
    ids: list[str],
    starts: Sequence[np.datetime64],
    series: list[np.ndarray],
    frequency: str,
    other: dict[str, list[str]],
) -> pl.DataFrame:
    """One row a value, with the id, the timestamp and the attributes of its series."""
    lengths = [len(values) for values in series]
    times = [add_steps(start, frequency, np.arange(n)) for start, n in zip(starts, lengths, strict=True)]
    of = pl.Series(np.repeat(np.arange(len(ids)), lengths))
    return pl.DataFrame(
        {
            "unique_id": pl.Series(ids, dtype=pl.String).gather(of),
            "ds": np.concatenate(times),
            "y": np.concatenate(series),
            **{name: pl.Series(values, dtype=pl.String).gather(of) for name, values in other.items()},
        }
    )


# --- Monash


def _frequency(word: str, name: str) -> str:
    """The frequency that ``@frequency`` names, such as weekly, half_hourly or 10_minutes."""
    found = re.fullmatch(r"(\d+)_(second|minute|hour|day|week|month|year)s?", word)
    units = {"month": "mo"}
    try:
        if found is None:
            return _WORDS[word]
        return frequency_named(found[1] + units.get(found[2], found[2][0]))
    except (KeyError, ValueError):
        raise InputError(f"{name}: @frequency {word!r} is none that is known. Say it with --freq, as 15min.") from None


def _start(text: str, where: str) -> np.datetime64:
    for form in ("%Y-%m-%d %H-%M-%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"):
        try:
            return np.datetime64(datetime.strptime(text.strip(), form), "us")
        except ValueError:
            continue
    raise InputError(f"{where}: {text!r} is no start_timestamp such as 2012-01-31 00-00-00.")


def _from_tsf(data: bytes, name: str, reading: SeriesReading, judge: Judge) -> Unrolled:
    """Read the format of Godahewa et al., "Monash Time Series Forecasting Archive", arXiv 2105.06643, section 3.

    A header names attributes; then each line is a series: its attributes, a colon behind each, and its values between
    commas, where ``?`` is a missing one.
    """
    lines = plain_text(data).decode("utf-8").split("\n")
    attributes: list[tuple[str, str]] = []
    frequency, body = reading.frequency, len(lines)
    for number, line in enumerate(lines):
        tag, *words = line.split() or [""]
        if tag.lower() == "@attribute" and len(words) == 2:
            if words[0] in dict(attributes):
                raise InputError(f"{name}: line {number + 1}: @attribute {words[0]!r} is there twice. Mend the header.")
            attributes.append((words[0], words[1].lower()))
        elif tag.lower() == "@frequency" and words and frequency is None:
            frequency = _frequency(words[0].lower(), name)
        elif tag.lower() == "@data":
            body = number + 1
            break
        elif (tag and not tag.startswith(("@", "#"))) or tag.lower() == "@attribute":
            raise InputError(f"{name}: line {number + 1}: {line[:40]!r} is no line of a .tsf header. Mend it.")
    held = [(n + 1, line.strip()) for n, line in enumerate(lines[body:], body) if line.strip(" #")]
    held = [(number, line) for number, line in held if not line.startswith("#")]
    if not held:
        raise InputError(f"{name} has no series below @data: rows found: 0. Is the file cut off?")
    if frequency is None:
        raise InputError(f"{name} names no @frequency. Say how far apart values are: --freq h, D, MS ...")
    if "date" not in (kind for _, kind in attributes):
        judge.doubt(untimed(name, frequency))
    return _tsf_rows(held, attributes, frequency, name, (*MISSING, *reading.missing))


def _tsf_rows(
    held: list[tuple[int, str]], attributes: list[tuple[str, str]], frequency: str, name: str, missing: tuple[str, ...]
) -> Unrolled:
    found: dict[str, list[str]] = {column: [] for column, _ in attributes}
    starts, series = [], []
    texts = [c for c, kind in attributes if c == "series_name" or kind == "string"]
    id_at = "series_name" if "series_name" in texts else next(iter(texts), None)
    for place, (number, line) in enumerate(held):
        where = f"{name}: line {number}"
        *fields, values = line.split(":")
        if len(fields) != len(attributes):
            raise InputError(
                f"{where} has {len(fields)} attributes before its values, the header names {len(attributes)}. "
                "Mend the line, or the header."
            )
        for (column, _), field in zip(attributes, fields, strict=True):
            found[column].append(field)
        start = next((f for (_, kind), f in zip(attributes, fields, strict=True) if kind == "date"), None)
        starts.append(EPOCH if start is None else _start(start, where))
        called = f"{where}, series {quoted(found[id_at][place] if id_at else str(place + 1))}"
        series.append(_values(values, called, missing))
    ids = found.pop(id_at) if id_at else [str(place + 1) for place in range(len(held))]
    if twice := next((one for one in ids if ids.count(one) > 1), None) if len(set(ids)) < len(ids) else None:
        raise InputError(f"{name}: two series are called {quoted(twice)}. Give each its own name.")
    dates = [column for column, kind in attributes if kind == "date"]
    other = {column: values for column, values in found.items() if column not in dates}
    if taken := next((column for column in other if column in ("unique_id", "ds", "y")), None):
        raise InputError(f"{name}: @attribute {taken!r} has the name of a column that values go to. Rename it.")
    return Unrolled(_rows(ids, starts, series, frequency, other), "", "tsf", frequency)


def _values(text: str, where: str, missing: tuple[str, ...]) -> np.ndarray:
    numbers, fields = as_numbers(pl.Series(text.split(",")), missing)
    wrong = (numbers.is_null() & fields.is_not_null()) | (numbers.abs() > LARGEST).fill_null(False)
    if wrong.any():
        place = first_of(wrong)
        raise InputError(f"{where}: value {place + 1}: {fields[place]!r} is no number, or infinite or too large.")
    return numbers.to_numpy().astype(np.float64)
