"""Tables of series in any layout: times and values read strictly, and what is wrong with them told by row.

`reading` says what may be asked for, `layouts` unrolls a series that stands in a row, `rows` reads columns, `tidy`
makes series of them, and `grid` spaces these evenly.
"""

from pathlib import Path
from typing import Any

from titans_seq.data.record import STRICT, Judge
from titans_seq.data.series.grid import on_grid, regular, spaced, timed
from titans_seq.data.series.reading import SeriesReading
from titans_seq.data.series.rows import Vocabularies, followed_by, read_rows
from titans_seq.data.series.tidy import SeriesTable, sentinels, tidy

__all__ = [
    "SeriesReading",
    "SeriesTable",
    "on_grid",
    "read_rows",
    "read_series",
    "regular",
    "sentinels",
    "spaced",
    "tidy",
    "timed",
]


def read_series(
    path: Path | str,
    *,
    future: Path | str | None = None,
    min_rows: int = 2,
    leave_short: bool = False,
    frequency: str | None = None,
    vocabularies: Vocabularies | None = None,
    judge: Judge = STRICT,
    **reading: Any,
) -> SeriesTable:
    """Read the series of a CSV, TSV, Parquet or .tsf file, plain or packed.

    A table with a column of ids is long, one value column and many series; any other is wide, one series with a
    column for each variable; one whose columns are numbered holds a series in a row. Ids are text. Rows behind the
    last value of a series that tell covariates known beforehand are its future.

    Args:
        path: the table.
        future: a table of later rows, with the covariates that are known beforehand.
        min_rows: rows that each series must have.
        leave_short: shorter ones are no fault where one is long enough; whoever asks leaves them out.
        frequency: known beforehand, of rows that go on with earlier ones: one row is then enough.
        vocabularies: values of each column of text that training knew; found in the table if not given.
        judge: what to do about what training would refuse, and about doubts.
        reading: layout, columns and time, the fields of `SeriesReading`.

    Raises:
        InputError: if the table cannot be read so, with row, column and value; rows count from 1 below the header.
    """
    how = SeriesReading(**reading)
    rows = read_rows(path, how, vocabularies=vocabularies, judge=judge)
    if future is not None:
        rows = followed_by(rows, read_rows(future, how, vocabularies=rows.vocabularies, ahead=True, judge=judge), judge)
    return tidy(
        rows,
        on_duplicate=how.on_duplicate,
        on_gap=how.on_gap,
        min_rows=min_rows,
        leave_short=leave_short,
        frequency=frequency,
        judge=judge,
    )
