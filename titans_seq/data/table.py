"""Tables as text: CSV, TSV and Parquet, also packed. No type is ever guessed here: "001" is not "1"."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl

from titans_seq.data.compressed import SNIFFED, UTF8_BOM, chunks, looks_like, shown
from titans_seq.data.record import STRICT, Judge
from titans_seq.errors import InputError

_SEPARATORS = (";", "\t", ",")  # on a tie the first: a comma also stands in numbers and names
_PARQUET = b"PAR1"
_PARQUET_READER = """
import sys
import polars as pl
try:
    pl.read_parquet(sys.stdin.buffer.read()).write_ipc_stream(sys.stdout.buffer)
except BaseException as error:
    sys.exit((str(error).splitlines() or ["no reason is given"])[0])
"""


def column_called(table: pl.DataFrame, names: tuple[str, ...]) -> str | None:
    """Return the column with the first of ``names`` that is there, whatever its case."""
    there = {column.lower(): column for column in reversed(table.columns)}
    return next((there[name] for name in names if name in there), None)


def column_given(table: pl.DataFrame, name: str, path: Path | str, option: str) -> str:
    """Return ``name``, which the user gave with ``option``, if it is a column."""
    if name not in table.columns:
        several = all(part.strip() in table.columns for part in name.split(","))
        hint = f" {option} names one column at a time." if several else ""
        columns = f"Its columns: {listed(table.columns)}.{hint}"
        raise InputError(f"{shown(path)} has no column {name!r} ({option}). {columns}")
    return name


def listed(names: list[str]) -> str:
    """Return column names as messages give them."""
    text = ", ".join(names[:20])
    return f"{text} and {len(names) - 20} more" if len(names) > 20 else text


def read_lines(path: Path | str, judge: Judge = STRICT, fine: tuple[str, ...] = ()) -> list[str]:
    """Lines of a text file, plain or packed, without their ends; UTF-8, also with a byte-order mark, or latin-1.

    Raises:
        InputError: if it looks like something else than text, and not like one of ``fine``.
    """
    data = read_bytes(path, judge)
    if (what := looks_like(data[:SNIFFED])) and what not in fine:
        raise InputError(f"{shown(path)} is not what it should be: it looks like {what}.")
    return plain_text(data).decode("utf-8").split("\n")


def plain_text(data: bytes) -> bytes:
    """UTF-8 with bare line feeds, from UTF-8 or latin-1 with any line ends."""
    data = data.removeprefix(UTF8_BOM)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode("utf-8")
    return data


def _separator(head: str) -> str:
    """The separator that cuts the first lines into equally many fields, and into the most."""

    def fit(separator: str) -> tuple[bool, int]:
        widths = [len(row) for row in csv.reader(io.StringIO(head, newline=""), delimiter=separator) if row]
        return len(set(widths)) == 1 and widths[0] > 1, widths[0]

    return max(_SEPARATORS, key=fit)


def _head(text: bytes) -> str:
    """At most twenty whole lines from the start."""
    start = text[:SNIFFED]
    if len(text) > SNIFFED and b"\n" in start:
        start = start[: start.rindex(b"\n")]
    return "\n".join(start.decode("utf-8", "replace").split("\n")[:20])


def _checked_lines(text: bytes, separator: str, quoting: bool, name: str) -> tuple[bytes, int, int]:
    """Return ``text`` without blank lines, its lines and fields, if each line has as many fields as the first."""
    cut_off = not text.endswith(b"\n")
    symbols = np.frombuffer(text + b"\n" if cut_off else text, np.uint8)
    bare = ~np.logical_xor.accumulate(symbols == ord('"')) if quoting else np.ones(len(symbols), bool)
    if not bare[-1]:
        raise InputError(f'{name}: a quote (") is opened and not closed. Is the file cut off?')
    ends = np.flatnonzero(bare & (symbols == ord("\n")))
    blank = np.diff(ends, prepend=-1) == 1
    if blank.any():
        symbols, bare = np.delete(symbols, ends[blank]), np.delete(bare, ends[blank])
        ends = np.flatnonzero(bare & (symbols == ord("\n")))
    separators = np.flatnonzero(bare & (symbols == ord(separator)))
    fields = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    ragged = np.flatnonzero(fields != fields[0])
    if len(ragged):
        row = int(ragged[0])
        found = f"row {row} (counted from 1 below the header) has {fields[row]} fields, the header has {fields[0]}"
        if cut_off and row == len(fields) - 1 and fields[row] < fields[0]:
            raise InputError(f"{name}: the last line is cut off: {found}. Fetch the file again, or remove the line.")
        more = f"; {len(ragged):,} rows differ" if len(ragged) > 1 else ""
        raise InputError(f"{name}: {found}{more}. Mend the row; quote a field that holds {separator!r}.")
    return symbols.tobytes(), len(ends), int(fields[0])


def _from_text(data: bytes, name: str) -> tuple[pl.DataFrame, str]:
    text = plain_text(data)
    head = _head(text.lstrip(b"\n "))
    if not head.strip():
        raise InputError(f"{name} is empty: rows found: 0. A table needs a header line and rows.")
    separator = _separator(head)
    quoting = b'"' in text and re.search(rb"(?:\A|[\n" + separator.encode() + rb'])"', text) is not None
    text, *shape = _checked_lines(text, separator, quoting, name)
    quote = '"' if quoting else None
    columns = next(csv.reader(io.StringIO(head, newline=""), delimiter=separator))
    columns = [column.strip() for column in columns]
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:  # nothing between two separators is a name too
        raise InputError(f"{name}: duplicate column name {twice!r}. Give every column its own name.")
    no_table = InputError(f'{name} is no valid table. Is a quote (") misplaced, in the middle of a field?')
    try:
        table = pl.read_csv(text, separator=separator, quote_char=quote, has_header=False, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise no_table from error
    if [*table.shape] != shape or len(columns) != table.width:
        raise no_table
    table = table.slice(1)
    table.columns = columns
    return (table.with_columns(pl.all().replace("", None)) if quoting else table), separator


def _from_parquet(data: bytes, name: str) -> pl.DataFrame:
    """Read in a process of its own, since polars ends the one it is in where a corrupt file asks for endless memory."""
    reader = [sys.executable, "-P", "-c", _PARQUET_READER]
    # a session of its own: Ctrl-C is for us alone, and would be told as a corrupt file
    read = subprocess.run(reader, input=data, capture_output=True, start_new_session=True)
    if read.returncode:
        told = [line for line in read.stderr.decode(errors="replace").splitlines() if line.strip()]
        why = told[-1] if read.returncode == 1 else (told or [f"its reader ended with {read.returncode}"])[0]
        raise InputError(f"{name} is Parquet, but truncated or corrupt: {why}. Fetch or write it again.")
    return pl.read_ipc_stream(read.stdout)


def read_bytes(path: Path | str, judge: Judge = STRICT) -> bytes:
    """All bytes of a file, plain or packed."""
    return b"".join(chunks(path, judge.doubt))


def from_bytes(data: bytes, path: Path | str) -> tuple[pl.DataFrame, str]:
    """Return the table, and the separator of its file ("" for Parquet), which tells what a comma in a number is.

    Raises:
        InputError: as for `read_table`.
    """
    name = shown(path)
    named_parquet = Path(path).name.lower().removesuffix(".gz").endswith(".parquet")
    if data.startswith(_PARQUET):
        if not named_parquet and Path(path).suffix:
            raise InputError(f"{name} looks like Parquet, not the text its name promises. Name it .parquet.")
        table, separator = _from_parquet(data, name), ""
    else:
        what = looks_like(data[:SNIFFED])
        if what is None and data.removeprefix(UTF8_BOM).lstrip().startswith(b">"):
            what = "FASTA"
        if what is not None:
            raise InputError(f"{name} is not a table: it looks like {what}.")
        if named_parquet and data:
            raise InputError(f"{name} is named .parquet, but looks like CSV or other text. Name it .csv.")
        table, separator = _from_text(data, name)
    if table.is_empty():
        raise InputError(f"{name} has a header and no rows: rows found: 0, rows needed: 1 at least.")
    return table, separator


def read_table(path: Path | str, judge: Judge = STRICT) -> pl.DataFrame:
    """Read a CSV, TSV or Parquet file, plain or packed.

    Text columns come as ``pl.String`` whatever they hold, with empty fields as null; Parquet keeps its types.
    Separator (comma, tab, semicolon), line ends, byte-order mark and latin-1 are found out; blank lines do not count.

    Raises:
        InputError: if the file is something else, empty, ragged, cut off, or has a column name twice.
    """
    return from_bytes(read_bytes(path, judge), path)[0]
