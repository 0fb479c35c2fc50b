"""The splits of a data set: rows with labels, and their sequences, their places on a genome, or both."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from titans_seq.data.coordinates import Coordinates, Place, coordinates_of, has_coordinates
from titans_seq.data.labels import LABELS
from titans_seq.data.record import Judge, Record, Tally, decode, quoted
from titans_seq.data.sequences import (
    FASTAS,
    IDS,
    MISSING,
    SEQUENCES,
    TABLES,
    is_fasta,
    read_rows,
    read_sequences,
    suffix_of,
)
from titans_seq.data.table import column_called, column_given, read_table
from titans_seq.data.write import Row
from titans_seq.errors import InputError, UsageError

_NAMES = {  # what splits are called, and when each is used
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("dev", "val", "valid", "validation"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}


@dataclass(frozen=True, eq=False)
class Split:
    """Rows in the order of their file. ``sequences`` are codes, absent from a table of intervals alone.

    ``tally`` has what was read as something else, where it is known.
    """

    name: str
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    sequences: tuple[np.ndarray, ...] | None = None
    coordinates: Coordinates | None = None
    tally: Tally | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def for_test(self) -> bool:
        """Whether models are measured on it in the end."""
        return _NAMES.get(self.name.lower()) == 2

    @property
    def lengths(self) -> np.ndarray:
        """Bases of each row, (n,) int64."""
        if self.sequences is not None:
            return np.array([len(codes) for codes in self.sequences], np.int64)
        assert self.coordinates is not None
        lengths: np.ndarray = self.coordinates.end - self.coordinates.start
        return lengths

    def take(self, rows: np.ndarray, name: str = "") -> "Split":
        """Return some of the rows as a split."""
        picked = rows.tolist()
        found = self.coordinates
        return Split(
            name or self.name,
            tuple(self.ids[i] for i in picked),
            tuple(self.labels[i] for i in picked),
            None if self.sequences is None else tuple(self.sequences[i] for i in picked),
            None
            if found is None
            else Coordinates(
                tuple(found.chrom[i] for i in picked),
                found.start[rows],
                found.end[rows],
                tuple(found.strand[i] for i in picked),
            ),
        )

    def rows(self) -> list[Row]:
        """Rows as a table that training and evaluation read: id, place and sequence where known, label."""
        columns: dict[str, Iterable[object]] = {"id": self.ids}
        if self.coordinates is not None:
            columns |= {"chrom": self.coordinates.chrom, "start": self.coordinates.start.tolist()}
            columns |= {"end": self.coordinates.end.tolist(), "strand": self.coordinates.strand}
        if self.sequences is not None:
            columns["sequence"] = map(decode, self.sequences)
        columns["label"] = self.labels
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class Reading:
    """How a split's file is read: its columns, and whom faults are told to."""

    judge: Judge
    sequence: str | None = None
    label: str | None = None

    def split(self, name: str, path: Path) -> Split:
        """Read one file or folder.

        Raises:
            InputError: if it cannot be read at all.
        """
        if path.is_dir():
            tables = _tables(path)
            return self._classes(name, path, tables) if tables else self._records(name, path)
        if is_fasta(path):
            return self._records(name, path)
        return self.table(name, path, read_rows(path, self.judge))

    def _records(self, name: str, path: Path) -> Split:
        """Sequences; those that training would refuse for want of labels are something to predict on still."""
        tally = Tally()
        try:
            if path.is_file() and is_fasta(path):
                records = read_sequences(path, need_labels=False, judge=self.judge, tally=tally)
            else:
                records = read_sequences(path, sequence=self.sequence, label=self.label, judge=self.judge, tally=tally)
        except InputError as error:  # what else is wrong raises again
            tally = Tally()
            records = read_sequences(path, sequence=self.sequence, need_labels=False, judge=self.judge, tally=tally)
            self.judge.refuse(str(error))
        return _of_records(name, records, tally)

    def table(self, name: str, path: Path, table: pl.DataFrame) -> Split:
        """Read a table: sequences, intervals, or both."""
        placed = coordinates_of(table, path, self.judge) if has_coordinates(table) else None
        if placed is None or self.sequence or column_called(table, SEQUENCES):
            found = self._records(name, path)
            return Split(name, found.ids, found.labels, found.sequences, placed, found.tally)
        labels_at = column_given(table, self.label, path, "label") if self.label else column_called(table, LABELS)
        if labels_at is None:
            self.judge.refuse(f"{path} has no label column ({', '.join(LABELS)}).")
        found = Split(name, _ids(table), self._labels(table, labels_at, path), None, placed)
        self._check_intervals(found, path)
        return found

    def _labels(self, table: pl.DataFrame, column: str | None, path: Path) -> tuple[str, ...]:
        labels = _column(table, column) if column else ("",) * len(table)
        missing = [row for row, label in enumerate(labels, start=1) if label in MISSING]
        if column and missing:
            more = f" ({len(missing):,} rows)" if len(missing) > 1 else ""
            self.judge.refuse(
                f"{path}: row {missing[0]} has no label in column {column!r}{more}. Fill in or remove it."
            )
        return labels

    def _classes(self, name: str, folder: Path, tables: dict[str, Path]) -> Split:
        """Read a folder of one table a class, as GenomicBenchmarks has them; the class is the table's name."""
        parts = []
        for label, path in tables.items():
            table = read_table(path, self.judge)
            if not has_coordinates(table):
                raise InputError(
                    f"{path} has no columns of chromosome, start and end. A folder of one table a class holds "
                    "intervals; sequences stand in one table with a label column, or in a FASTA file a class."
                )
            ids = tuple(f"{label}/{id}" for id in _ids(table))  # each file counts anew
            placed = coordinates_of(table, path, self.judge)
            parts.append(Split(name, ids, (label,) * len(ids), None, placed))
        found = _joined(name, parts)
        self._check_intervals(found, folder)
        return found

    def _check_intervals(self, split: Split, path: Path) -> None:
        """Tell of intervals what reading tells of sequences: one class alone, and one place with two labels."""
        if len(set(split.labels)) == 1 and split.labels[0]:
            self.judge.refuse(f"{path} has only one class, {split.labels[0]!r}. Training needs at least two.")
        seen: dict[Place | None, int] = {}
        pairs = [
            (first, row)
            for row, place in enumerate(split.coordinates.places() if split.coordinates else ())
            if place and split.labels[first := seen.setdefault(place, row)] != split.labels[row]
        ]
        if pairs:
            first, row = pairs[0]
            self.judge.refuse(
                f"{path}: rows {quoted(split.ids[first])} and {quoted(split.ids[row])} are the same interval with "
                f"different labels, {split.labels[first]!r} and {split.labels[row]!r}; {len(pairs):,} such conflicting "
                "duplicates. Remove them, or decide for one label."
            )


def _ids(table: pl.DataFrame) -> tuple[str, ...]:
    """Ids of rows; a row without one has its number, counted from 1."""
    name = column_called(table, IDS)
    ids = _column(table, name) if name else ("",) * len(table)
    return tuple(id or str(row) for row, id in enumerate(ids, start=1))


def _column(table: pl.DataFrame, name: str) -> tuple[str, ...]:
    return tuple(table[name].cast(pl.String).str.strip_chars().fill_null("").to_list())


def _of_records(name: str, records: list[Record], tally: Tally) -> Split:
    ids, labels = tuple(r.id for r in records), tuple(r.label or "" for r in records)
    return Split(name, ids, labels, tuple(r.codes for r in records), None, tally)


def _joined(name: str, parts: list[Split]) -> Split:
    places = [part.coordinates for part in parts if part.coordinates is not None]
    return Split(
        name,
        tuple(id for part in parts for id in part.ids),
        tuple(label for part in parts for label in part.labels),
        None,
        Coordinates(
            tuple(chrom for place in places for chrom in place.chrom),
            np.concatenate([place.start for place in places]),
            np.concatenate([place.end for place in places]),
            tuple(strand for place in places for strand in place.strand),
        ),
    )


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else Path(path.name.removesuffix(".gz")).stem


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _tables(folder: Path) -> dict[str, Path]:
    """The tables of a folder by their names."""
    return {_stem(entry): entry for entry in _visible(folder) if entry.is_file() and suffix_of(entry) in TABLES}


def _splits_in(folder: Path) -> dict[str, Path]:
    """The files or folders of a folder that are called as splits are, training first."""
    found: dict[str, Path] = {}
    for entry in _visible(folder):
        name = _stem(entry)
        if name.lower() not in _NAMES or not (entry.is_dir() or suffix_of(entry) in TABLES + FASTAS):
            continue
        if name in found:
            raise InputError(f"{folder} has two splits {name!r}: {found[name].name} and {entry.name}. Keep one.")
        found[name] = entry
    return dict(sorted(found.items(), key=lambda item: _NAMES[item[0].lower()]))


def _cut(whole: Split, marks: tuple[str, ...]) -> list[Split]:
    """Cut a table by its column of splits."""
    names = sorted(set(marks), key=lambda name: _NAMES[name.lower()])
    column = np.array(marks)
    return [whole.take(np.flatnonzero(column == name), name) for name in names]


def read_splits(path: Path, test: Path | None, reading: Reading) -> list[Split]:
    """Read a data set, training rows first; a single split where ``path`` is one.

    Args:
        path: a folder with a file or folder for each split; a table with a column ``split``; or one split: a table,
            a FASTA file, a folder of one file or folder a class.
        test: the test split, when ``path`` is the training split.
        reading: columns, and whom faults are told to.

    Raises:
        UsageError: if a test split is given twice.
        InputError: if a file cannot be read at all.
    """
    inside = _splits_in(path) if path.is_dir() else {}
    if test is not None:
        if inside:
            raise UsageError(
                f"{path} holds splits ({', '.join(inside)}): give --test with one of them, or leave it out."
            )
        return [reading.split("train", path), reading.split("test", test)]
    if inside:
        return [reading.split(name, entry) for name, entry in inside.items()]
    if path.is_file() and not is_fasta(path):
        table = read_rows(path, reading.judge)
        column = column_called(table, ("split",))
        marks = _column(table, column) if column else ()
        if len(set(marks)) > 1 and all(mark.lower() in _NAMES for mark in marks):
            return _cut(reading.table("", path, table), marks)
        return [reading.table("", path, table)]
    return [reading.split("", path)]
