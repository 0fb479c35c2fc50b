"""Labels of a table as text: of one column, of several, or of columns that hold lists."""

from pathlib import Path

import polars as pl

from titans_seq.data.table import column_called, column_given

LABELS = ("label", "class", "target", "y")
BETWEEN, LISTS = ";", "|"  # what is put between values, and between lists

Columns = str | tuple[str, ...] | None


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


def _text(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if isinstance(column.dtype, pl.List):
        return column.list.eval(pl.element().cast(pl.String).fill_null("nan")).list.join(BETWEEN)
    return column.cast(pl.String).str.strip_chars()
