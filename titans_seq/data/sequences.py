"""Sequences with labels: tables, FASTA with a table of labels, and folders with one class each."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl

from titans_seq.data.compressed import UTF8_BOM, chunks, shown
from titans_seq.data.fasta import read_fasta
from titans_seq.data.record import STRICT, Judge, Record, Tally, encode, quoted
from titans_seq.data.table import column_called, column_given, listed, read_table
from titans_seq.errors import InputError, UsageError

SEQUENCES = ("sequence", "seq")
LABELS = ("label", "class", "target", "y")
IDS = ("id", "name", "record")
MISSING = ("", "NA", "NaN", "nan", "null")
_TABLES = (".csv", ".tsv", ".parquet")
_FASTAS = (".fa", ".fasta", ".fna", ".ffn")


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def is_fasta(path: Path | str) -> bool:
    """Return whether a file is FASTA: by its first symbol, and where that is something else, by its name.

    A pipe can be read only once, so it is taken for FASTA.
    """
    path = Path(path)
    if not path.is_file():
        return True
    if _suffix(path) in _TABLES:
        return False
    head = next(iter(chunks(path, lambda _: None)), b"").removeprefix(UTF8_BOM).lstrip()
    return head[:1] in (b">", b";") or _suffix(path) in _FASTAS


def _texts(column: pl.Series) -> list[str | None]:
    return column.cast(pl.String).str.strip_chars().to_list()


def _from_table(
    path: Path | str,
    sequence: str | None,
    label: str | None,
    id: str | None,
    need_labels: bool,
    judge: Judge,
    tally: Tally,
) -> Iterator[Record]:
    table, name = read_table(path, judge), shown(path)
    columns = listed(table.columns)
    at = column_given(table, sequence, path, "sequence") if sequence else column_called(table, SEQUENCES)
    if at is None and column_called(table, ("start",)) and column_called(table, ("end",)):
        raise InputError(
            f"{name} has intervals (start, end) and no column 'sequence': interval tables with --reference are not "
            "read yet. Cut the sequences out first, for instance with bedtools getfasta."
        )
    if at is None:
        raise InputError(f"{name} has no column 'sequence' or 'seq'. Its columns: {columns}. Name one of them so.")
    labels_at = column_given(table, label, path, "label") if label else column_called(table, LABELS)
    if labels_at is None and need_labels:
        raise InputError(f"{name} has no label column ({', '.join(LABELS)}). Its columns: {columns}.")
    ids_at = column_given(table, id, path, "id") if id else column_called(table, IDS)
    nothing = [None] * len(table)
    labels = _texts(table[labels_at]) if labels_at else nothing
    ids = table[ids_at].cast(pl.String).to_list() if ids_at else nothing
    for row, (text, mark, key) in enumerate(zip(_texts(table[at]), labels, ids, strict=True), start=1):
        where = f"{name}: row {row}"
        if not text:
            judge.refuse(f"{where} has no sequence. Fill in or remove the row.")
        if need_labels and (mark is None or mark in MISSING):
            judge.refuse(f"{where} has no label in column {labels_at!r}. Fill in or remove the row.")
        yield Record(key or str(row), encode(text or "", where=where, tally=tally), mark)


def _labels_of(path: Path, label: str | None, judge: Judge) -> dict[str, str]:
    """Read a table of ``id, label``; every id has one label."""
    table = read_table(path, judge)
    ids_at = column_called(table, IDS) or table.columns[0]
    labels_at = column_given(table, label, path, "label") if label else column_called(table, LABELS)
    if labels_at is None:
        raise InputError(f"{path} has no label column ({', '.join(LABELS)}). Its columns: {listed(table.columns)}.")
    labels: dict[str, str] = {}
    rows = zip(table[ids_at].cast(pl.String).to_list(), _texts(table[labels_at]), strict=True)
    for row, (id, mark) in enumerate(rows, start=1):
        if not id:
            judge.refuse(f"{path}: row {row} has no id. Fill in or remove the row.")
        elif mark is None or mark in MISSING:
            judge.refuse(f"{path}: row {row} (id {quoted(id)}) has no label. Fill in or remove the row.")
        elif labels.setdefault(id, mark) != mark:
            judge.refuse(f"{path}: row {row} gives id {quoted(id)} the label {mark!r}, an earlier row {labels[id]!r}.")
    return labels


def _labelled(
    records: Iterable[Record], path: Path | str, labels: dict[str, str], table: Path, judge: Judge
) -> Iterator[Record]:
    waiting = dict(labels)
    for record in records:
        if record.id not in labels:
            judge.refuse(f"{shown(path)}: record {quoted(record.id)} has no label in {table}. Add a row for it.")
        waiting.pop(record.id, None)
        yield replace(record, label=labels.get(record.id))
    if waiting:
        judge.refuse(
            f"{table}: id {quoted(next(iter(waiting)))} is unknown: no record of {shown(path)} has it "
            f"({len(waiting):,} of {len(labels):,} ids). Ids end at the first blank of a header."
        )


def _bare(path: Path, label: str, tally: Tally) -> Record:
    """Read a file that holds one sequence and no header, as GenomicBenchmarks has them."""
    text = b"".join(chunks(path)).removeprefix(UTF8_BOM).strip()
    if not text:
        raise InputError(f"{path} is empty: it has no sequence.")
    return Record(f"{label}/{path.stem}", encode(text, where=str(path), tally=tally), label)


def _from_folder(folder: Path, judge: Judge, tally: Tally) -> Iterator[Record]:
    """Read a folder of one FASTA per class, or one folder of files per class; the class is its name."""
    here = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if {"train", "test"} & {entry.name for entry in here if entry.is_dir()}:
        raise InputError(f"{folder} holds the splits of a data set. Name one of them, such as {folder / 'train'}.")
    classes = [entry for entry in here if entry.is_dir()] or [entry for entry in here if _suffix(entry) in _FASTAS]
    if not classes:
        raise InputError(
            f"{folder} is a directory without a class: it has no folder and no FASTA file ({', '.join(_FASTAS)}). "
            "Name a file, or a folder with one FASTA file per class."
        )
    for entry in classes:
        label = entry.name if entry.is_dir() else Path(entry.name.removesuffix(".gz")).stem
        files = sorted(file for file in entry.iterdir() if file.is_file()) if entry.is_dir() else [entry]
        for file in files:
            if is_fasta(file):
                yield from (replace(record, label=label) for record in read_fasta(file, judge=judge, tally=tally))
            else:
                yield _bare(file, label, tally)


def _check_ids(records: list[Record], name: str, unit: str, judge: Judge) -> None:
    """Warn of ids that stand twice: real tables have them, and order tells their rows apart."""
    seen: dict[str, int] = {}
    pairs = [(first, at) for at, r in enumerate(records, start=1) if (first := seen.setdefault(r.id, at)) != at]
    if pairs:
        first, at = pairs[0]
        judge.doubt(
            f"{name}: duplicate id {quoted(records[at - 1].id)} in {unit}s {first} and {at}; "
            f"{len(pairs):,} ids stand more than once."
        )


def _check_labels(records: list[Record], name: str, unit: str, conflict: Callable[[str], None], judge: Judge) -> None:
    classes = {record.label for record in records}
    if len(classes) == 1:
        judge.refuse(f"{name} has only one class, {classes.pop()!r}. Training needs at least two.")
    if pairs := conflicts(records):
        first, at = pairs[0]
        conflict(
            f"{name}: {unit}s {first + 1} and {at + 1} have the same sequence with different labels, "
            f"{records[first].label!r} and {records[at].label!r}; {len(pairs):,} such conflicting duplicates. "
            "Remove them, or decide for one label."
        )


def conflicts(records: list[Record]) -> list[tuple[int, int]]:
    """Return the 0-based places of records with one sequence and two labels, each after its first."""
    seen: dict[bytes, int] = {}
    pairs = ((seen.setdefault(record.codes.tobytes(), at), at) for at, record in enumerate(records))
    return [(first, at) for first, at in pairs if records[first].label != records[at].label]


def read_sequences(
    path: Path | str,
    *,
    sequence: str | None = None,
    label: str | None = None,
    id: str | None = None,
    labels: Path | None = None,
    need_labels: bool = True,
    on_conflict: Literal["error", "warn"] = "error",
    judge: Judge = STRICT,
    tally: Tally | None = None,
) -> list[Record]:
    """Read sequences, labelled unless ``need_labels`` is false, in the order of the file.

    Args:
        path: a table with a column ``sequence`` or ``seq``; a FASTA file; or a folder of one FASTA file per class
            or one folder per class, where the label is the file's or folder's name.
        sequence: the column of sequences; found by its name when absent.
        label: the column of labels (label, class, target or y).
        id: the column of ids (id, name or record); a row without one gets its number, counted from 1.
        labels: for a FASTA file, a table with columns ``id`` and ``label``.
        need_labels: refuse what has no label.
        on_conflict: what to do when one sequence has two labels.
        judge: what to do about what training would refuse, and about doubts such as ids that stand twice in a table.
        tally: counts replaced symbols and lower case, for an audit.

    Raises:
        InputError: on a missing column, sequence or label, an unknown id, one class only, the same
            sequence with two labels, or a symbol that is no nucleotide.
    """
    name = shown(path)
    told, unit = Tally() if tally is None else tally, "record"
    if str(path) != "-" and not Path(path).exists():
        raise UsageError(f"{path} does not exist. Is the path right?")
    if Path(path).is_dir():
        records = list(_from_folder(Path(path), judge, told))
    elif is_fasta(path):
        if need_labels and labels is None:
            raise InputError(f"{name} is FASTA and has no labels. Give a table of id and label with --labels.")
        found = read_fasta(path, judge=judge, tally=told)
        records = list(_labelled(found, path, _labels_of(labels, label, judge), labels, judge) if labels else found)
    else:
        unit = "row"
        records = list(_from_table(path, sequence, label, id, need_labels, judge, told))
        told.tell(name, judge.doubt)
    if not records:
        raise InputError(f"{name} is empty: no sequence found.")
    _check_ids(records, name, unit, judge)
    if need_labels:
        _check_labels(records, name, unit, judge.doubt if on_conflict == "warn" else judge.refuse, judge)
    return records
