"""Labels of a table as text: of one column, of several, or of columns that hold lists."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import polars as pl

from titans_seq.data.record import Judge
from titans_seq.data.table import column_called, column_given

LABELS = ("label", "class", "target", "y")
BETWEEN, LISTS = ";", "|"  # what is put between values, and between lists

Columns = str | tuple[str, ...] | None
Form = Literal["class", "names", "text", "numbers"]  # what the text of a label is; names are any number of classes

_COMMA = re.compile(r"(?<=\d),(?=\d)")
_BLANKS = re.compile(r"[;|\s]+")  # what may stand between numbers beside a comma
_DECIMAL = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3},\d{3}")


def label_columns(table: pl.DataFrame, label: Columns, path: Path | str) -> list[str]:
    """The columns of the labels, those given or else the one that is called so; none if there is none."""
    if label:
        names = (label,) if isinstance(label, str) else label
        return [column_given(table, name, path, "label") for name in names]
    found = column_called(table, LABELS)
    return [found] if found else []


def label_texts(table: pl.DataFrame, columns: list[str]) -> list[str | None]:
    """A text a row: the label as it stands; values of several columns or of a list with ; between, lists with |."""
    if len(columns) == 1:
        return _text(table[columns[0]]).to_list()
    lists = any(isinstance(table[name].dtype, pl.List | pl.Array) for name in columns)
    texts = pl.DataFrame([_text(table[name]).fill_null("").alias(str(i)) for i, name in enumerate(columns)])
    joined = texts.select(pl.concat_str(pl.all(), separator=LISTS if lists else BETWEEN)).to_series()
    nothing = texts.select(pl.all_horizontal(pl.all() == "")).to_series()
    return [None if empty else text for text, empty in zip(joined, nothing, strict=True)]


def decimal_points(
    labels: list[str | None], separator: str, where: Callable[[int], str], name: str, judge: Judge
) -> list[str | None]:
    """Labels that are numbers, with a point for each decimal comma.

    In a table between commas, a comma in a label stands between numbers. Between semicolons or tabs it is a decimal
    one, which is told. Where it may be either it is refused: in other files, such as Parquet, or with two in a number,
    beside points, or where all of a table between tabs may be thousands.

    Args:
        labels: of the rows.
        separator: of the table, "" where there is none.
        where: "FILE: row ROW" of a place in ``labels``, for messages.
        name: of the file, for messages.
        judge: what to do about a comma that may be either.
    """
    if separator == ",":
        return labels
    parts = {row: parts for row, label in enumerate(labels) if (parts := _with_comma(label))}
    if not parts:
        return labels
    thousands = separator == "\t" and all(_THOUSANDS.fullmatch(part) for row in parts.values() for part in row)
    unknown = separator not in (";", "\t") or thousands or any("." in label for label in labels if label)
    first = next((row for row, own in parts.items() if unknown or not all(map(_DECIMAL.fullmatch, own))), None)
    if first is not None:
        judge.refuse(
            f"{where(first)} has the label {(labels[first] or '')[:40]!r}, whose comma may be a decimal one or stand "
            "between two numbers. Write decimals with a point, and put blanks between the numbers of a list."
        )
        return labels
    one = next(iter(parts.values()))[0]
    judge.tell(
        f"{name}: a comma in labels is read as a decimal one, {one!r} as {_COMMA.sub('.', one)} (rows: {len(parts):,})."
    )
    return [_COMMA.sub(".", label) if label else label for label in labels]


def _with_comma(label: str | None) -> list[str]:
    """The numbers of a label that have a comma inside."""
    return [part for part in _BLANKS.split(label) if _COMMA.search(part)] if label and "," in label else []


def _text(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if isinstance(column.dtype, pl.List):
        return column.list.eval(pl.element().cast(pl.String).fill_null("nan")).list.join(BETWEEN)
    return column.cast(pl.String).str.strip_chars()
