"""The splits of a data set: rows with labels, and their sequences, their places on a genome, or both."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from titans_seq.data.aliases import Aliases, several
from titans_seq.data.audit.coordinates import Coordinates, Place
from titans_seq.data.intervals import LINE, has_intervals, interval_kind, intervals_of
from titans_seq.data.record import Judge, Record, Tally, decode, quoted
from titans_seq.data.regions import Regions
from titans_seq.data.sequences import (
    FASTAS,
    INTERVALS,
    SEQUENCES,
    SPLITS,
    TABLES,
    WHOLE,
    is_fasta,
    read_places,
    read_rows,
    read_sequences,
    split_marks,
    suffix_of,
)
from titans_seq.data.table import column_called
from titans_seq.data.write import Row
from titans_seq.errors import InputError, UsageError
from titans_seq.resources import data_file

_Found = TypeVar("_Found")


@dataclass(frozen=True, eq=False)
class Split:
    """Rows in the order of their file. ``sequences`` are codes, absent where there are intervals alone.

    ``rows`` has where each stands in its file, counted from 1; ``tally`` what was read as something else, where it is
    known.
    """

    name: str
    rows: np.ndarray
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
        return SPLITS.get(self.name.lower()) == 2

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
        return Split(
            name or self.name,
            self.rows[rows],
            tuple(self.ids[i] for i in picked),
            tuple(self.labels[i] for i in picked),
            None if self.sequences is None else tuple(self.sequences[i] for i in picked),
            None if self.coordinates is None else self.coordinates.take(rows),
        )

    def as_table(self) -> list[Row]:
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
    """How a split's file is read: its columns, how intervals are cut out of a genome, and whom faults are told to."""

    judge: Judge
    sequence: str | None = None
    label: str | None = None
    regions: Regions = WHOLE

    def split(self, name: str, path: Path) -> Split:
        """Read one file or folder.

        Raises:
            InputError: if it cannot be read at all.
        """
        has_genome = self.regions.reference is not None
        if path.is_dir():
            files = {} if has_genome else _files(path, TABLES + INTERVALS)
            return self._classes(name, path, files) if files else self._records(name, path)
        if is_fasta(path):
            return self._records(name, path)
        if interval_kind(path):
            return self._records(name, path) if has_genome else self._places(name, path)
        table = read_rows(path, self.judge)
        has_sequences = self.sequence or column_called(table, SEQUENCES)
        if not has_sequences and not has_genome and has_intervals(table):
            return self._places(name, path)
        found = self._records(name, path)
        if has_sequences and has_intervals(table):
            places = intervals_of(table, path, judge=self.judge)
            found = replace(found, coordinates=Coordinates.of_rows(places, found.rows.tolist()))
        return found

    def _labelled(self, path: Path, read: Callable[..., _Found]) -> _Found:
        """What ``read`` gives with labels; without, where training would refuse these, which is told.

        A FASTA has none, and intervals may have: both are something to predict on still.
        """
        unlabelled = path.is_file() and (is_fasta(path) or (interval_kind(path) and not self.label))
        try:
            return read(label=self.label, need_labels=not unlabelled)
        except InputError as error:  # what else is wrong raises again
            found = read(label=None, need_labels=False)
            self.judge.refuse(str(error))
            return found

    def _records(self, name: str, path: Path) -> Split:
        """Sequences, and where they lie if they are cut out of a genome."""

        def read(**labels: Any) -> tuple[list[Record], Tally]:
            tally = Tally()
            given: dict[str, Any] = {"sequence": self.sequence, "regions": self.regions, **labels}
            return read_sequences(path, judge=self.judge, tally=tally, **given), tally

        records, tally = self._labelled(path, read)
        placed = any(record.start is not None for record in records)
        if joined := placed and sum(record.start is None for record in records):
            self.judge.doubt(
                f"{path}: {joined:,} joined features have no one place; their overlaps are not looked for."
            )
        return Split(
            name,
            np.array([record.row or number for number, record in enumerate(records, start=1)]),
            tuple(r.id for r in records),
            tuple(r.label or "" for r in records),
            tuple(r.codes for r in records),
            Coordinates.of_records(records) if placed else None,
            None if placed else tally,
        )

    def _places(self, name: str, path: Path) -> Split:
        """Intervals without sequences."""
        read = partial(read_places, path, regions=self.regions, judge=self.judge)
        found = _of_places(name, self._labelled(path, read))
        self._check_intervals(found, path)
        return found

    def _classes(self, name: str, folder: Path, files: dict[str, Path]) -> Split:
        """Read a folder of one file a class, as GenomicBenchmarks has them; the class is the file's name."""
        read = partial(read_places, need_labels=False, regions=self.regions, judge=self.judge)
        found = _joined(name, [_of_places(name, read(path), label) for label, path in files.items()])
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


def _of_places(name: str, places: pl.DataFrame, label: str | None = None) -> Split:
    """A split of intervals, with their own labels or all of one ``label``."""
    prefix = "" if label is None else f"{label}/"  # each file counts anew
    ids = places["id"].fill_null(places[LINE].cast(pl.String))
    rows = places[LINE].to_numpy()
    return Split(
        name,
        rows,
        tuple(f"{prefix}{id}" for id in ids),
        tuple(places["label"].fill_null("")) if label is None else (label,) * len(places),
        None,
        Coordinates.of_rows(places, rows.tolist()),
    )


def _joined(name: str, parts: list[Split]) -> Split:
    places = [part.coordinates for part in parts if part.coordinates is not None]
    rows = sum(len(part) for part in parts)
    return Split(
        name,
        np.arange(1, rows + 1),
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


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder with one of the suffixes, by their names."""
    return {_stem(entry): entry for entry in _visible(folder) if entry.is_file() and suffix_of(entry) in suffixes}


def _splits_in(folder: Path) -> dict[str, Path]:
    """The files or folders of a folder that are called as splits are, training first."""
    found: dict[str, Path] = {}
    for entry in _visible(folder):
        name = _stem(entry)
        if name.lower() not in SPLITS or not (entry.is_dir() or suffix_of(entry) in TABLES + FASTAS + INTERVALS):
            continue
        if name in found:
            raise InputError(f"{folder} has two splits {name!r}: {found[name].name} and {entry.name}. Keep one.")
        found[name] = entry
    return dict(sorted(found.items(), key=lambda item: SPLITS[item[0].lower()]))


def _cut(whole: Split, marks: tuple[str, ...]) -> list[Split]:
    """Cut a table by its column of splits."""
    names = sorted(set(marks), key=lambda name: SPLITS[name.lower()])
    column = np.array(marks)[whole.rows - 1]
    return [whole.take(np.flatnonzero(column == name), name) for name in names]


def _called_alike(splits: list[Split], aliases: Aliases, judge: Judge) -> list[Split]:
    """Splits that name a chromosome differently, with one name for it, which is told."""
    names = [name for split in splits if split.coordinates for name in dict.fromkeys(split.coordinates.chrom)]
    alike = {name: other for name, other in aliases.alike(names).items() if name != other}
    if not alike:
        return splits
    pairs = several(f"{name} = {other}" for name, other in alike.items())
    judge.doubt(f"Names of chromosomes that differ and were taken for one: {pairs}.")
    return [
        split if split.coordinates is None else replace(split, coordinates=replace(split.coordinates, alike=alike))
        for split in splits
    ]


def read_splits(path: Path, test: Path | None, reading: Reading) -> list[Split]:
    """Read a data set, training rows first; a single split where ``path`` is one.

    Args:
        path: a folder with a file or folder for each split; a table with a column ``split``; or one split: a table,
            a FASTA file, intervals, a folder of one file or folder a class.
        test: the test split, when ``path`` is the training split.
        reading: columns, the genome, and whom faults are told to.

    Raises:
        UsageError: if a test split is given twice.
        InputError: if a file cannot be read at all.
    """
    aliases = Aliases.of_file(data_file(reading.regions.aliases) if reading.regions.aliases else None)
    return _called_alike(_read_splits(path, test, reading), aliases, reading.judge)


def _read_splits(path: Path, test: Path | None, reading: Reading) -> list[Split]:
    inside = _splits_in(path) if path.is_dir() else {}
    if test is not None:
        if inside:
            raise UsageError(
                f"{path} holds splits ({', '.join(inside)}): give --test with one of them, or leave it out."
            )
        return [reading.split("train", path), reading.split("test", test)]
    if inside:
        return [reading.split(name, entry) for name, entry in inside.items()]
    whole = reading.split("", path)
    if not path.is_file() or is_fasta(path) or interval_kind(path):
        return [whole]
    marks = split_marks(read_rows(path, reading.judge))
    strange = [(row, mark) for row, mark in enumerate(marks, start=1) if mark.lower() not in SPLITS]
    if strange:
        row, mark = strange[0]
        reading.judge.refuse(
            f"{path}: row {row} is of split {mark!r} ({len(strange):,} such rows), none of {', '.join(SPLITS)}; splits "
            "are not compared. Mend the column, or give a file of each."
        )
    return _cut(whole, marks) if len(set(marks)) > 1 and not strange else [whole]
