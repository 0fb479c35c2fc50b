"""The columns of a table of series: what each is taken for, and its times, numbers and categories, strictly read."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from titans_seq.data.compressed import shown
from titans_seq.data.record import STRICT, Judge, quoted
from titans_seq.data.series.layouts import EPOCH, Unrolled, as_numbers, unrolled, untimed
from titans_seq.data.series.reading import IDS, LARGEST, MISSING, TIMES, VALUES, Layout, SeriesReading
from titans_seq.data.table import column_called, column_given, listed
from titans_seq.data.times import (
    add_steps,
    counts_steps,
    first_of,
    holds_dates,
    holds_days_as_numbers,
    months_of,
    parse_times,
    step_of,
    zone_of,
)
from titans_seq.errors import InputError

KINDS = ("known_future", "past_only", "static")  # of covariates: fields of `SeriesReading` and of `Rows`
PARTS = ("year", "month", "day", "hour", "minute", "second")  # of a timestamp, in columns of their own
ROW_NUMBERS = ("", "no", "no.", "#", "index", "row", "row_number", "unnamed: 0")
CALLED = {"wide": "wide table", "long": "long table", "tsf": ".tsf", "ragged": "table of a series a row"}
MOST_CATEGORIES = 256  # each is a number that a model reads in every row

Vocabularies = dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Rows:
    """A table in the order of its file, with times and values read.

    ``frame`` has the columns row (counted from 1 below the header), series (a place in ``ids``), time, and a column
    for each of ``columns``, ``known_future``, ``past_only`` and ``static``, called as `called_in` says: numbers, or
    where there is a vocabulary places in it.
    """

    name: str
    layout: Layout
    ids: tuple[str, ...]
    columns: tuple[str, ...]
    frame: pl.DataFrame
    known_future: tuple[str, ...] = ()
    past_only: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    vocabularies: Vocabularies = field(default_factory=dict)
    frequency: str | None = None  # that was said, or that the file names
    zone: str = ""  # of its times, where they say one
    taken: dict[str, str] = field(default_factory=dict)  # which columns for what
    texts: dict[str, pl.Series] = field(default_factory=dict)  # columns that hold no number, read or not

    @property
    def values(self) -> list[str]:
        """The names that ``columns`` have in ``frame``."""
        return [called_in(column) for column in self.columns]

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns of covariates of all three kinds."""
        return (*self.known_future, *self.past_only, *self.static)

    def called(self, series: int) -> str:
        """The file, and in a table of several series which, for messages."""
        return self.name if self.layout == "wide" else f"{self.name}: series {quoted(self.ids[series])}"


def called_in(column: str) -> str:
    """What a column of the file is called in `Rows.frame`, beside row, series and time."""
    return "v " + column


# What a column is taken for


def _parts_of_time(table: pl.DataFrame, reading: SeriesReading, path: Path | str) -> list[str]:
    """The columns of years, months, days ... when a timestamp stands in several."""
    if reading.time is not None:
        if reading.time in table.columns or "," not in reading.time:
            return []
        return [column_given(table, part.strip(), path, "--time") for part in reading.time.split(",")]
    there = [column_called(table, (part,)) for part in PARTS]
    found = [column for column in there if column]
    return found if there[0] and there[1] and found == [c for c in there[: len(found)] if c] else []


def _joined(table: pl.DataFrame, parts: list[str], name: str) -> pl.Series:
    """Timestamps as text from columns of years, months, days and so on."""
    if not 2 <= len(parts) <= len(PARTS):
        raise InputError(f"{name}: --time {','.join(parts)}: name 2 to {len(PARTS)} columns: {', '.join(PARTS)}.")
    widths = (4, 2, 2, 2, 2, 2)
    texts = [table[part].cast(pl.String).str.strip_chars() for part in parts]
    texts = [text.str.zfill(width) for text, width in zip(texts, widths, strict=False)]
    texts += [pl.repeat(empty, len(table), eager=True) for empty in ("01", "01", "01", "00", "00", "00")[len(parts) :]]
    return pl.select(pl.format("{}-{}-{} {}:{}:{}", *texts)).to_series().alias("-".join(parts))


def _time_column(table: pl.DataFrame) -> str | None:
    """The column that is called as timestamps are, or looks like dates, or like days as 20240131."""
    if called := column_called(table, TIMES):
        return called
    looks = (holds_dates, holds_days_as_numbers)
    return next((column.name for holds in looks for column in table.get_columns() if holds(column)), None)


def _times(
    table: pl.DataFrame, reading: SeriesReading, path: Path | str, judge: Judge
) -> tuple[pl.Series | None, list[str]]:
    """Timestamps, and the columns that they were made of; none if the rows have none and a frequency was said."""
    name = shown(path)
    called = None if reading.time else column_called(table, TIMES)
    if not called and (parts := _parts_of_time(table, reading, path)):
        return parse_times(_joined(table, parts, name), name, reading.time_format, judge), parts
    time_at = column_given(table, reading.time, path, "--time") if reading.time else _time_column(table)
    if time_at is not None:
        column = table[time_at]
        if reading.frequency is not None and reading.time_format is None and counts_steps(column, reading.frequency):
            return _numbered(column, reading.frequency, name, judge), [time_at]
        return parse_times(column, name, reading.time_format, judge), [time_at]
    if reading.frequency is not None:
        return None, []
    raise InputError(
        f"{name} has no column of timestamps ({', '.join(TIMES)}). Its columns: {listed(table.columns)}. "
        "Name it with --time, several that make up a date as --time year,month,day; or say how far apart rows without "
        "timestamps are, with --freq."
    )


def _is_row_number(column: pl.Series) -> bool:
    """Whether a column does nothing but number the rows from 0 or 1 on."""
    if column.name.strip().lower() not in ROW_NUMBERS:
        return False
    numbers = column.cast(pl.Int64, strict=False)
    return bool((numbers == pl.int_range(len(numbers), eager=True) + numbers[0]).fill_null(False).all())


def _value_columns(table: pl.DataFrame, name: str, keys: set[str], layout: Layout, judge: Judge) -> list[str]:
    """Columns to read when none is named: the values of a long table if they are called so, else all but the keys."""
    left = [column for column in table.columns if column not in keys]
    numbering = [column for column in left if not column or _is_row_number(table[column])]
    others = [column for column in left if column not in numbering]
    chosen = column_called(table.select(others), VALUES) if layout != "wide" else None
    columns = [chosen] if chosen else others
    if not columns:
        raise InputError(f"{name} has no column of values. Its columns: {listed(table.columns)}.")
    if unread := [column or "(unnamed)" for column in left if column not in columns]:
        judge.doubt(
            f"{name}: columns that are not read: {listed(unread)}. Name those to forecast with --target, covariates "
            "with --known-future, --past-only or --static."
        )
    return columns


# What it holds


def _number_column(
    column: pl.Series, name: str, separator: str, missing: tuple[str, ...], judge: Judge
) -> pl.Series | None:
    """Read a column of numbers, where what is missing is null; a column of nothing but text is None."""
    text = column
    if column.dtype == pl.String:
        numbers, text = as_numbers(column, missing)
        if separator in (";", "\t") and (numbers.is_null() & text.is_not_null()).any():
            numbers = _with_decimal_comma(text, separator)
    elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        numbers = column.cast(pl.Float64)
    else:
        numbers = pl.repeat(None, len(column), dtype=pl.Float64, eager=True)

    def where(row: int) -> str:
        return f"{name}: row {row + 1}, column {column.name!r}: {str(text[row])!r}"

    unread = numbers.is_null() & text.is_not_null()
    if unread.any():
        row = first_of(unread)
        remedy = (
            "Mend it, say what stands for a missing value with --missing, or name the columns to read with --target."
            if numbers.count()
            else "If it is the series' id, say so with --id; in training a category is read with --past-only, "
            "--known-future or --static; or name the columns to forecast with --target."
        )
        judge.refuse(f"{where(row)} is not a number (such rows: {unread.sum():,}). {remedy}")
        if not numbers.count():
            return None
    numbers = numbers.fill_nan(None)
    endless = (numbers.abs() > LARGEST).fill_null(False)
    if endless.any():
        row = first_of(endless)
        judge.refuse(
            f"{where(row)} is infinite or too large (such rows: {endless.sum():,}). "
            "Mend it, or leave the field empty if the value is missing."
        )
        numbers = numbers.set(endless, None)
    marks = [float(mark) for mark in missing if re.fullmatch(r"[+-]?\d+(\.\d+)?", mark)]
    return numbers.set(numbers.is_in(marks).fill_null(False), None) if marks else numbers


def _with_decimal_comma(text: pl.Series, separator: str) -> pl.Series:
    """Read 1,5 as one and a half; in a tab-separated file only where 1,500 cannot be meant as a thousand and a half."""
    commas = text.filter(text.str.contains(",", literal=True))
    thousands = separator == "\t" and commas.str.contains(r"^[+-]?\d{1,3},\d{3}$").all()
    if thousands or text.str.contains(".", literal=True).any():
        return text.cast(pl.Float64, strict=False)
    return text.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)


def _is_category(column: pl.Series, missing: tuple[str, ...]) -> bool:
    """Whether a column of covariates holds text rather than numbers: most of what is in it is no number."""
    if column.dtype in (pl.Categorical, pl.Enum):
        return True
    if column.dtype != pl.String:
        return False
    _, text = as_numbers(column, missing)
    numbers = text.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
    return numbers.count() * 2 < text.count()


def _codes(
    column: pl.Series, known: tuple[str, ...] | None, name: str, missing: tuple[str, ...], judge: Judge
) -> tuple[pl.Series, tuple[str, ...]]:
    """Places of a column's values in the vocabulary, the place behind it for one that is not ``known``; and that."""
    _, text = as_numbers(column.cast(pl.String), missing)
    words = known if known is not None else tuple(text.drop_nulls().unique().sort())
    if len(words) > MOST_CATEGORIES:
        judge.refuse(
            f"{name}: column {column.name!r} is text with {len(words):,} different values, too many for a category "
            f"(at most {MOST_CATEGORIES}). Group them, or leave the column out."
        )
    places = text.replace_strict(list(words), range(len(words)), default=len(words), return_dtype=pl.UInt32)
    places = places.set(text.is_null(), None)
    if (strange := text.filter(places == len(words))).len():
        unknown = strange.unique(maintain_order=True).to_list()
        judge.doubt(
            f"{name}: column {column.name!r} has values that the model's training did not know: "
            f"{listed([quoted(value) for value in unknown])} (rows: {len(strange):,}); they are read as (other)."
        )
    return places, words


# The whole


def read_rows(
    path: Path | str,
    reading: SeriesReading,
    *,
    vocabularies: Vocabularies | None = None,
    ahead: bool = False,
    judge: Judge = STRICT,
) -> Rows:
    """Read times and values of a series table; arguments and errors as for `read_series`.

    With ``ahead`` only what is known beforehand is read.
    """
    if ahead:
        reading = reading.model_copy(update={"target": (), "past_only": (), "static": ()})
    name = shown(path)
    source = unrolled(path, reading, judge)
    table, missing = source.table, (*MISSING, *reading.missing)
    own = SeriesReading(time="ds", id="unique_id") if source.layout else reading
    times, time_at = _times(table, own, path, judge)
    id_at = _id_column(table, time_at, own, path)
    layout: Layout = source.layout or ("wide" if id_at is None else "long")
    keys = {*time_at, *([id_at] if id_at else [])}
    for option in ("target", *KINDS):
        for column in getattr(reading, option):
            column_given(table, column, path, "--" + option.replace("_", "-"))
    _check_once(name, [*keys, *reading.covariates, *reading.target])
    columns = list(reading.target)
    if not columns and not ahead:
        columns = _value_columns(table, name, {*keys, *reading.covariates}, layout, judge)

    ids = _ids(table, id_at, name, judge)
    unique = ids.unique(maintain_order=True)
    if times is None:
        times = _counted(ids, reading.frequency or "", name, judge)
    words: Vocabularies = {}
    for column in reading.covariates:
        if column in vocabularies if vocabularies is not None else _is_category(table[column], missing):
            words[column] = (vocabularies or {}).get(column, ())
    read = {
        column: _number_column(table[column], name, source.separator, missing, judge)
        for column in [*columns, *reading.covariates]
        if column not in words
    }
    for column, known in words.items():
        read[column], words[column] = _codes(table[column], known or None, name, missing, judge)
    there = [column for column, values in read.items() if values is not None]  # an audit reads on without the others
    columns = [column for column in columns if column in there]
    if not columns and not ahead:
        raise InputError(f"{name} has no column of numbers. Its columns: {listed(table.columns)}.")
    frame = pl.DataFrame(
        {
            "row": pl.int_range(1, len(table) + 1, eager=True),
            "series": ids.cast(pl.Enum(unique)).to_physical(),
            "time": times,
            **{called_in(column): read[column] for column in there},
        }
    )
    kinds = {kind: tuple(c for c in getattr(reading, kind) if c in there) for kind in KINDS}
    taken = _taken(source, time_at, id_at, columns, kinds, words)
    judge.tell("; ".join([f"{name}: read as {CALLED[layout]}", *(f"{part}: {of}" for part, of in taken.items())]) + ".")
    return Rows(
        name,
        layout,
        tuple(unique),
        tuple(columns),
        frame,
        **kinds,
        vocabularies=words,
        frequency=reading.frequency or source.frequency,
        zone=zone_of(table[time_at[0]], own.time_format) if len(time_at) == 1 else "",
        taken=taken,
        texts={column: table[column] for column in read if column in words or column not in there},
    )


def followed_by(rows: Rows, later: Rows, judge: Judge) -> Rows:
    """Put the rows of a table of what is known beforehand behind those of the table of series.

    Raises:
        InputError: if the tables are of different series, or in different time zones.
    """
    must_be_of_one_zone(later.name, later.zone, rows.name, rows.zone)
    if strange := [id for id in later.ids if id not in rows.ids]:
        raise InputError(
            f"{later.name}: series {quoted(strange[0])} is none of {rows.name} (such series: {len(strange):,}). "
            "Give rows of the same series, with the same ids."
        )
    places = pl.Series([rows.ids.index(id) for id in later.ids], dtype=rows.frame["series"].dtype)
    added = later.frame.with_columns(row=pl.col("row") + len(rows.frame), series=places.gather(later.frame["series"]))
    last = rows.frame.group_by("series").agg(last=pl.max("time"))
    added = added.join(last, on="series", maintain_order="left").filter(pl.col("time") > pl.col("last")).drop("last")
    if known := len(later.frame) - len(added):
        judge.doubt(f"{later.name}: rows that {rows.name} has already: {known:,}; they are skipped.")
    return replace(rows, frame=pl.concat([rows.frame, added], how="diagonal"))


def must_be_of_one_zone(name: str, zone: str, other: str, others: str) -> None:
    """Refuse times that would stand beside others of another zone, which are all kept as written."""
    if zone != others:
        raise InputError(
            f"{name}: its times are in the zone {zone or 'none'}, those of {other} in {others or 'none'}. "
            "Write all of them in one."
        )


def _id_column(table: pl.DataFrame, time_at: list[str], reading: SeriesReading, path: Path | str) -> str | None:
    if reading.id:
        return column_given(table, reading.id, path, "--id")
    if reading.format == "wide":
        return None
    named = [*reading.target, *reading.covariates]
    id_at = column_called(table.drop(*time_at, *[c for c in named if c in table.columns and c not in time_at]), IDS)
    if id_at is None and reading.format == "long":
        raise InputError(
            f"{shown(path)} has no column of ids ({', '.join(IDS)}). Its columns: {listed(table.columns)}. "
            "Name it with --id."
        )
    return id_at


def _check_once(name: str, columns: list[str]) -> None:
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        raise InputError(
            f"{name}: column {twice!r} is named for two things. Name it once, with --time, --id, --target, "
            "--known-future, --past-only or --static."
        )


def _ids(table: pl.DataFrame, id_at: str | None, name: str, judge: Judge) -> pl.Series:
    ids = pl.repeat("", len(table), eager=True) if id_at is None else table[id_at].cast(pl.String).fill_null("")
    ids = ids.str.strip_chars()
    nameless = ids == ""
    if id_at is not None and nameless.any():
        judge.refuse(
            f"{name}: row {first_of(nameless) + 1} has an empty id in column {id_at!r} "
            f"(such rows: {nameless.sum():,}). Fill in or remove the rows."
        )
    return ids


def _counted(ids: pl.Series, frequency: str, name: str, judge: Judge) -> pl.Series:
    """Timestamps of rows that have none: one step after the other."""
    judge.doubt(untimed(name, frequency))
    places = pl.DataFrame({"id": ids}).select(pl.int_range(pl.len()).over("id")).to_series()
    return pl.Series(add_steps(EPOCH, frequency, places.to_numpy()))


def _numbered(column: pl.Series, frequency: str, name: str, judge: Judge) -> pl.Series:
    """Timestamps of rows that a column of whole numbers counts."""
    steps = column.cast(pl.String).str.strip_chars().cast(pl.Int64).to_numpy()
    step = step_of(frequency)
    days = 31 * (months_of(frequency) or 1) if step is None else step / np.timedelta64(1, "D")
    if steps.max() * days > 2_900_000:  # a date has four digits of the year
        raise InputError(
            f"{name}: column {column.name!r} holds {steps.max()}: so many steps of {frequency} from 1970-01-01 on end "
            "behind the year 9999. Write dates into it, or say how they are written: --time-format."
        )
    judge.doubt(
        f"{name}: column {column.name!r} holds whole numbers: they are taken for steps of {frequency} from 1970-01-01 "
        "on. If they are dates, say how they are written: --time-format."
    )
    return pl.Series(add_steps(EPOCH, frequency, steps))


def _taken(
    source: Unrolled,
    time_at: list[str],
    id_at: str | None,
    columns: list[str],
    kinds: dict[str, tuple[str, ...]],
    words: Vocabularies,
) -> dict[str, str]:
    """Which columns were taken for what, in words."""
    found = {}
    if source.layout is None:
        found["times"] = ",".join(time_at) or "none"
        found |= {"ids": id_at} if id_at else {}
        found |= {"target": listed(columns)} if columns else {}
    for kind, names in kinds.items():
        if names:
            shown_names = [f"{c} ({len(words[c])} categories)" if c in words else c for c in names]
            found[kind.replace("_", " ")] = listed(shown_names)
    return found
