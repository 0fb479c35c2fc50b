"""Some rows of a test table, named by another table, such as the list without leaks that `genomics audit` writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from titans_seq.data.aliases import Aliases
from titans_seq.data.intervals import CHROMS, ENDS, STARTS
from titans_seq.data.labels import LABELS
from titans_seq.data.record import Record, decode, quoted
from titans_seq.data.sequences import IDS, SEQUENCES
from titans_seq.data.table import column_called, listed, read_table
from titans_seq.errors import InputError

Keys = list[tuple[str, ...]]


def rows_in(path: Path, records: Sequence[Record]) -> np.ndarray:
    """Which of the records a table names, (n,) bool.

    It has a column of ids, or of row numbers counted from 1; where it has labels and sequences too, these must also be
    the record's, since ids of real tables stand more than once. Intervals may also be named by their places.

    Raises:
        InputError: if it has no such column, or names a row that is not there.
    """
    table = read_table(path)
    pairs = [_by_id(table, records), _by_place(table, records)]
    for wanted, ours in (pair for pair in pairs if pair):
        if set(wanted) <= set(ours):
            named = set(wanted)
            return np.array([key in named for key in ours])
    if pairs[0] is None:
        raise InputError(f"{path} has no column of ids ({', '.join(IDS)}). Its columns: {listed(table.columns)}.")
    wanted, ours = pairs[0]
    there = set(ours)
    unknown = [number for number, key in enumerate(wanted) if key not in there]
    raise InputError(
        f"{path}: row {unknown[0] + 1} (id {quoted(wanted[unknown[0]][0])}) is none of the rows that are evaluated "
        f"({len(unknown):,} of {len(wanted):,}). Is it a list of another table?"
    )


def _texts(table: pl.DataFrame, columns: list[str]) -> Keys:
    return table.select(pl.col(columns).cast(pl.String).str.strip_chars().fill_null("")).rows()


def _by_id(table: pl.DataFrame, records: Sequence[Record]) -> tuple[Keys, Keys] | None:
    """What names the rows of the table and the records: id, and label and sequence where the table has them."""
    ids_at = column_called(table, (*IDS, "row"))
    if ids_at is None:
        return None
    labels_at, sequences_at = column_called(table, LABELS), column_called(table, SEQUENCES)
    parts = [[record.id for record in records]]
    if labels_at:
        parts.append([record.label or "" for record in records])
    if sequences_at:
        parts.append([decode(record.codes) for record in records])
        table = table.with_columns(pl.col(sequences_at).cast(pl.String).str.to_uppercase().str.replace_all("U", "T"))
    wanted = _texts(table, [column for column in (ids_at, labels_at, sequences_at) if column])
    return wanted, list(zip(*parts, strict=True))


def _by_place(table: pl.DataFrame, records: Sequence[Record]) -> tuple[Keys, Keys] | None:
    """What names them as intervals: chromosome, by any usual name, start and end."""
    columns = [column_called(table, names) for names in (CHROMS, STARTS, ENDS)]
    if None in columns or any(record.start is None for record in records):
        return None
    rows = _texts(table, [column for column in columns if column])
    places = [(r.chrom or "", str(r.start), str((r.start or 0) + len(r))) for r in records]
    called = Aliases().alike(chrom for chrom, *_ in [*places, *rows])
    ours, wanted = ([(called[chrom], *place) for chrom, *place in part] for part in (places, rows))
    return wanted, ours
