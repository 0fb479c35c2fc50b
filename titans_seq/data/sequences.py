"""Sequences with labels: tables, intervals on a genome, FASTA with a table of labels, and folders of classes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from titans_seq.data.compressed import UTF8_BOM, chunks, shown
from titans_seq.data.fasta import read_fasta
from titans_seq.data.intervals import (
    CHROMS,
    CIRCULAR,
    LINE,
    PART,
    SUFFIXES,
    has_intervals,
    interval_kind,
    intervals_of,
    read_bed,
    read_gff,
    spans_of,
)
from titans_seq.data.labels import LABELS, Columns, Form, decimal_points, label_columns, label_texts
from titans_seq.data.record import STRICT, Judge, Record, Tally, encode, quoted
from titans_seq.data.regions import Regions
from titans_seq.data.table import column_called, column_given, from_bytes, listed, read_bytes, read_lines
from titans_seq.errors import InputError, UsageError, warn

SEQUENCES = ("sequence", "seq")
IDS = ("id", "name", "record")
MISSING = ("", "NA", "NaN", "nan", "null")
WHOLE = Regions()  # nothing is cut out
UCI = ".data"
TABLES = (".csv", ".tsv", ".parquet", UCI)
FASTAS = (".fa", ".fasta", ".fna", ".ffn")
INTERVALS = tuple(SUFFIXES)


SPLITS = {  # what splits are called, and when each is used
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("dev", "val", "valid", "validation"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}


def split_marks(table: pl.DataFrame) -> tuple[str, ...]:
    """What a table's column ``split`` says of each row; nothing where there is none, or none of `SPLITS` in it."""
    column = column_called(table, ("split",))
    marks = tuple(table[column].cast(pl.String).str.strip_chars().fill_null("")) if column else ()
    return marks if any(mark.lower() in SPLITS for mark in marks) else ()


def suffix_of(path: Path) -> str:
    """Return what tells a file's format, such as .csv of x.CSV.gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def is_fasta(path: Path | str) -> bool:
    """Return whether a file is FASTA: by its first symbol, and where that is something else, by its name.

    A pipe can be read only once, so it is taken for FASTA.
    """
    path = Path(path)
    if not path.is_file():
        return True
    if suffix_of(path) in TABLES:
        return False
    head = next(iter(chunks(path, lambda _: None)), b"").removeprefix(UTF8_BOM).lstrip()
    return head[:1] in (b">", b";") or suffix_of(path) in FASTAS


def _texts(column: pl.Series) -> list[str | None]:
    return column.cast(pl.String).str.strip_chars().to_list()


class _Asked(NamedTuple):
    """How sequences are to be read: the arguments of `read_sequences`."""

    sequence: str | None
    label: Columns
    id: str | None
    labels: Path | None
    need_labels: bool
    regions: Regions
    judge: Judge
    tally: Tally
    form: Form = "class"

    def refuse_missing(self, where: str, unit: str, columns: list[str]) -> None:
        """Refuse a row without a label; where that may mean that it has none of several, say how to write it."""
        may_be_none = self.form == "names" and len(columns) == 1
        none = " If it has none of the labels, write a lone ; there." if may_be_none else ""
        self.judge.refuse(f"{where}. Fill in or remove the {unit}.{none}")


class _Row(NamedTuple):
    """What a row of a table of sequences says."""

    text: str | None
    id: str | None
    label: str | None
    chrom: str | None
    span: tuple[int, int] | None


class _Found(NamedTuple):
    """What a file holds."""

    unit: str  # of the records' places: row, line or record
    records: Iterator[Record]


class _Placed(NamedTuple):
    """Intervals as `intervals.intervals_of` gives them, with id and label; ids that are ``names`` may stand often."""

    frame: pl.DataFrame
    names: bool = False

    def cut(self, path: Path | str, unit: str, asked: _Asked) -> _Found:
        """Sequences of the windows of these intervals."""
        found = asked.regions.records(self.frame, path, unit, names=self.names, judge=asked.judge)
        return _Found(unit, found)


def _labels_in(
    table: pl.DataFrame, ids: pl.Series, path: Path | str, asked: _Asked, separator: str = ""
) -> list[str | None]:
    """The labels of a table's rows: of a column that was named, else those that a table of ids beside it has for
    ``ids``, else its own.
    """
    name, unit = shown(path), "line" if LINE in table.columns else "row"
    places = table[LINE].to_list() if LINE in table.columns else range(1, len(table) + 1)
    table = table.drop(LINE, PART, CIRCULAR, strict=False)
    given = (asked.label,) if isinstance(asked.label, str) else asked.label or ()
    named = list(given) if set(given) <= set(table.columns) else []
    if not named and asked.labels is not None:
        return list(_Labels(asked.labels, asked).of(ids.to_list(), path))
    here = named or label_columns(table, None, path)
    at = label_columns(table, asked.label, path) if asked.label else here
    if not at and asked.need_labels:
        columns = listed(table.columns)
        raise InputError(
            f"{name} has no label column ({', '.join(LABELS)}). Its columns: {columns}. "
            "Name another with --label-column, or give a table of id and label with --labels."
        )
    labels: list[str | None] = label_texts(table, at) if at else [None] * len(table)
    for place, mark in zip(places, labels, strict=True):
        if asked.need_labels and (mark is None or mark in MISSING):
            where = f"{name}: {unit} {place} has no label in column {listed(at)!r}"
            asked.refuse_missing(where, unit, at)
    if asked.need_labels and asked.form == "numbers":
        labels = decimal_points(labels, separator, lambda row: f"{name}: {unit} {places[row]}", name, asked.judge)
    return labels


def read_rows(path: Path | str, judge: Judge = STRICT) -> pl.DataFrame:
    """Read a table of sequences: `read_table`, or by the suffix .data the form of the UCI repository's sets of splice
    junctions and of promoters, a line of class, name and sequence without a header, as columns label, id, sequence.

    Raises:
        InputError: as `read_table` does, or with the line that has another number of fields.
    """
    return _rows(path, judge)[0]


def _rows(path: Path | str, judge: Judge) -> tuple[pl.DataFrame, str]:
    """What `read_rows` gives, and the separator of the file."""
    if suffix_of(Path(path)) != UCI:
        return from_bytes(read_bytes(path, judge), path)
    rows = []
    for number, line in enumerate(read_lines(path, judge), start=1):
        fields = ["".join(field.split()) for field in line.split(",")]
        if len(fields) == 3:
            rows.append(fields)
        elif line.strip():
            raise InputError(f"{shown(path)}: line {number} has {len(fields)} fields, not class, name, sequence.")
    if not rows:
        raise InputError(f"{shown(path)} is empty: rows found: 0.")
    return pl.DataFrame(rows, ("label", "id", "sequence"), orient="row"), ","


def _ids_in(table: pl.DataFrame, path: Path | str, asked: _Asked) -> pl.Series:
    """The ids of a table's rows, null where there is none."""
    at = column_given(table, asked.id, path, "id") if asked.id else column_called(table, IDS)
    return (table[at] if at else pl.repeat(None, len(table), eager=True)).cast(pl.String).alias("id")


def _from_table(path: Path | str, asked: _Asked) -> _Found:
    table, separator = _rows(path, asked.judge)
    at = column_given(table, asked.sequence, path, "sequence") if asked.sequence else column_called(table, SEQUENCES)
    ids = _ids_in(table, path, asked)
    if at is None and has_intervals(table):
        asked.regions.check(path)
        return _placed(table, ids, path, asked, separator).cut(path, "row", asked)
    if at is None:
        columns = listed(table.columns)
        raise InputError(
            f"{shown(path)} has no column 'sequence' or 'seq', nor chrom, start and end. Its columns: {columns}. "
            "Name one of them so."
        )
    apart = Counter(split_marks(table)) if asked.need_labels and asked.judge is STRICT else {}  # an audit cuts them
    if len(apart) > 1:
        counts = ", ".join(f"{mark or 'none'} {count:,}" for mark, count in apart.items())
        warn(f"{shown(path)}: rows of column 'split' ({counts}) are all read alike. Give a file of each split instead.")
    if asked.regions != WHOLE:
        asked.judge.doubt(f"{shown(path)}: the sequences of column {at!r} are read whole, none is cut out of a genome.")
    labels = _labels_in(table, ids, path, asked, separator)
    chromosomes_at = column_called(table, CHROMS)
    chromosomes = _texts(table[chromosomes_at]) if chromosomes_at else [None] * len(table)
    rows = map(_Row, _texts(table[at]), ids.to_list(), labels, chromosomes, spans_of(table))
    return _Found("row", _encoded(shown(path), rows, asked))


def _encoded(name: str, rows: Iterable[_Row], asked: _Asked) -> Iterator[Record]:
    for row, (text, key, mark, chromosome, span) in enumerate(rows, start=1):
        where = f"{name}: row {row}"
        if not text:
            asked.judge.refuse(f"{where} has no sequence. Fill in or remove the row.")
        codes = encode(text or "", where=where, tally=asked.tally)
        yield Record(key or str(row), codes, mark, chrom=chromosome, row=row, span=span)
    asked.tally.tell(name, asked.judge.doubt)


def _from_intervals(path: Path | str, asked: _Asked) -> _Placed:
    """Read BED or GFF; columns of BED are called chrom, start, end, name, score, strand."""
    if interval_kind(path) == "bed":
        table = read_bed(path, asked.judge)
        name = table["name"] if "name" in table.columns else pl.repeat(".", len(table), eager=True)
        return _placed(table, name.replace({"": None, ".": None}).alias("id"), path, asked, "\t", names=True)
    attribute = asked.label if isinstance(asked.label, str) else None
    table, ids = read_gff(path, asked.regions.feature, attribute, asked.judge)
    return _placed(table, ids, path, asked, one_based=True)


def _placed(
    table: pl.DataFrame,
    ids: pl.Series,
    path: Path | str,
    asked: _Asked,
    separator: str = "",
    *,
    one_based: bool = False,
    names: bool = False,
) -> _Placed:
    labels = pl.Series("label", _labels_in(table, ids, path, asked, separator), pl.String)
    return _Placed(intervals_of(table.with_columns(labels, ids), path, one_based=one_based, judge=asked.judge), names)


class _Labels:
    """A table of ``id, label``, where every id has one label."""

    def __init__(self, path: Path, asked: _Asked):
        self.path, self.judge = path, asked.judge
        self.labels = _labels_of(path, asked)
        self.waiting = dict(self.labels)

    def of(self, ids: Iterable[str | None], path: Path | str) -> Iterator[str | None]:
        """The label of each id of a file, and in the end those that it has not."""
        for id in ids:
            if id not in self.labels:
                named = "a record without a name" if id is None else f"record {quoted(id)}"
                self.judge.refuse(f"{shown(path)}: {named} has no label in {self.path}. Add a row for it.")
            self.waiting.pop(id or "", None)
            yield self.labels.get(id or "")
        if self.waiting:
            self.judge.refuse(
                f"{self.path}: id {quoted(next(iter(self.waiting)))} is unknown: no record of {shown(path)} has it "
                f"({len(self.waiting):,} of {len(self.labels):,} ids). Ids end at the first blank of a header."
            )


def _labels_of(path: Path, asked: _Asked) -> dict[str, str]:
    """Read a table of ``id, label``; every id has one label."""
    judge = asked.judge
    table, separator = from_bytes(read_bytes(path, judge), path)
    ids_at = column_called(table, IDS) or table.columns[0]
    labels_at = label_columns(table, asked.label, path)
    if not labels_at:
        raise InputError(f"{path} has no label column ({', '.join(LABELS)}). Its columns: {listed(table.columns)}.")
    labels: dict[str, str] = {}
    texts = label_texts(table, labels_at)
    if asked.form == "numbers":
        texts = decimal_points(texts, separator, lambda row: f"{path}: row {row + 1}", str(path), judge)
    for row, (id, mark) in enumerate(zip(table[ids_at].cast(pl.String).to_list(), texts, strict=True), start=1):
        if not id:
            judge.refuse(f"{path}: row {row} has no id. Fill in or remove the row.")
        elif mark is None or mark in MISSING:
            asked.refuse_missing(f"{path}: row {row} (id {quoted(id)}) has no label", "row", labels_at)
        elif labels.setdefault(id, mark) != mark:
            judge.refuse(f"{path}: row {row} gives id {quoted(id)} the label {mark!r}, an earlier row {labels[id]!r}.")
    return labels


def _from_fasta(path: Path | str, asked: _Asked) -> Iterator[Record]:
    records = read_fasta(path, judge=asked.judge, tally=asked.tally)
    if asked.labels is None:
        yield from records
        return
    waiting, ids = tee(records)  # one is never more than a record ahead of the other
    labels = _Labels(asked.labels, asked).of((record.id for record in ids), path)
    for record, label in zip(waiting, labels, strict=True):
        yield replace(record, label=label)


def _bare(path: Path, label: str, tally: Tally) -> Record:
    """Read a file that holds one sequence and no header, as GenomicBenchmarks has them."""
    text = b"".join(chunks(path)).removeprefix(UTF8_BOM).strip()
    if not text:
        raise InputError(f"{path} is empty: it has no sequence.")
    return Record(f"{label}/{path.stem}", encode(text, where=str(path), tally=tally), label)


def _from_folder(folder: Path, asked: _Asked) -> Iterator[Record]:
    """Read a folder of one file per class, or one folder of files per class; the class is its name.

    Files are FASTA, or with a genome intervals on it, as GenomicBenchmarks has them.
    """
    suffixes = (*FASTAS, *((*TABLES, *INTERVALS) if asked.regions.reference else ()))
    here = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if {"train", "test"} & {entry.name for entry in here if entry.is_dir()}:
        raise InputError(f"{folder} holds the splits of a data set. Name one of them, such as {folder / 'train'}.")
    classes = [entry for entry in here if entry.is_dir()] or [entry for entry in here if suffix_of(entry) in suffixes]
    if not classes:
        raise InputError(
            f"{folder} is a directory without a class: it has no folder and no FASTA file ({', '.join(FASTAS)}). "
            "Name a file, or a folder with one FASTA file per class, or with --reference one table of intervals."
        )
    for entry in classes:
        label = entry.name if entry.is_dir() else Path(entry.name.removesuffix(".gz")).stem
        apart = asked._replace(need_labels=False, label=None, labels=None)
        files = sorted(file for file in entry.iterdir() if file.is_file()) if entry.is_dir() else [entry]
        for file in files:
            if asked.regions.reference and suffix_of(file) in (*TABLES, *INTERVALS):
                yield from (replace(record, label=label, row=None) for record in _found(file, apart).records)
            elif is_fasta(file):
                yield from (replace(record, label=label) for record in _from_fasta(file, apart))
            else:
                yield _bare(file, label, asked.tally)


def _check_ids(records: list[Record], places: list[int], name: str, unit: str, judge: Judge) -> None:
    """Warn of ids that stand twice: real tables have them, and order tells their rows apart."""
    seen: dict[str, int] = {}
    pairs = [(first, at) for at, r in enumerate(records) if (first := seen.setdefault(r.id, at)) != at]
    if pairs:
        first, at = pairs[0]
        judge.doubt(
            f"{name}: duplicate id {quoted(records[at].id)} in {unit}s {places[first]} and {places[at]}; "
            f"{len(pairs):,} ids stand more than once."
        )


def _check_classes(records: list[Record], name: str, judge: Judge) -> None:
    classes = {record.label for record in records}
    if len(classes) == 1:
        judge.refuse(
            f"{name} has only one class, {classes.pop()!r}. Training needs at least two, and so does evaluation: "
            "add rows of another class."
        )


def _check_conflicts(
    records: list[Record], places: list[int], name: str, unit: str, conflict: Callable[[str], None]
) -> None:
    if pairs := conflicts(records):
        first, at = pairs[0]
        conflict(
            f"{name}: {unit}s {places[first]} and {places[at]} have the same sequence with different labels, "
            f"{records[first].label!r} and {records[at].label!r}; {len(pairs):,} such conflicting duplicates. "
            "Remove them, or decide for one label."
        )


def conflicts(records: list[Record]) -> list[tuple[int, int]]:
    """Return the 0-based places of records with one sequence and two labels, each after its first."""
    seen: dict[bytes, int] = {}
    pairs = ((seen.setdefault(record.codes.tobytes(), at), at) for at, record in enumerate(records))
    return [(first, at) for first, at in pairs if records[first].label != records[at].label]


def _found(path: Path | str, asked: _Asked) -> _Found:
    """What a file or folder holds, whatever it is."""
    if str(path) != "-" and not Path(path).exists():
        raise UsageError(f"{path} does not exist. Is the path right?")
    if Path(path).is_dir():
        return _Found("record", _from_folder(Path(path), asked))
    if is_fasta(path):
        if asked.need_labels and asked.labels is None:
            raise InputError(f"{shown(path)} is FASTA and has no labels. Give a table of id and label with --labels.")
        return _Found("record", _from_fasta(path, asked))
    if interval_kind(path):
        asked.regions.check(path)
        return _from_intervals(path, asked).cut(path, "line", asked)
    return _from_table(path, asked)


def each_sequence(
    path: Path | str, *, sequence: str | None = None, regions: Regions = WHOLE, judge: Judge = STRICT
) -> Iterator[Record]:
    """Yield sequences without labels, one at a time where they are cut out of a genome; see `read_sequences`."""
    asked = _Asked(sequence, None, None, None, False, regions, judge, Tally())
    return _found(path, asked).records


def read_places(
    path: Path | str,
    *,
    label: Columns = None,
    need_labels: bool = True,
    regions: Regions = WHOLE,
    judge: Judge = STRICT,
) -> pl.DataFrame:
    """Read the intervals of a file without their sequences; arguments and errors as for `read_sequences`.

    Returns:
        What `intervals.intervals_of` does, with ``id`` and ``label``, which may be null.
    """
    asked = _Asked(None, label, None, None, need_labels, regions, judge, Tally())
    if interval_kind(path):
        found = _from_intervals(path, asked)
    else:
        table = read_rows(path, judge)
        found = _placed(table, _ids_in(table, path, asked), path, asked)
    if found.frame.is_empty():
        raise InputError(f"{shown(path)} has no row that is an interval.")
    return found.frame.unique(LINE, keep="first", maintain_order=True)  # a CDS of several transcripts is one place


def read_sequences(
    path: Path | str,
    *,
    sequence: str | None = None,
    label: Columns = None,
    id: str | None = None,
    labels: Path | None = None,
    need_labels: bool = True,
    form: Form = "class",
    regions: Regions = WHOLE,
    on_conflict: Literal["error", "warn"] = "error",
    judge: Judge = STRICT,
    tally: Tally | None = None,
) -> list[Record]:
    """Read sequences, labelled unless ``need_labels`` is false, in the order of the file.

    Args:
        path: a table with a column ``sequence`` or ``seq``; a table with chrom, start and end, BED, narrowPeak, GFF
            or GTF, whose sequences are cut out of ``regions.reference``; a FASTA file; or a folder of one file per
            class or one folder per class, where the label is the file's or folder's name.
        sequence: the column of sequences; found by its name when absent.
        label: the column of labels (label, class, target or y), or several: `titans_seq.data.labels`.
        id: the column of ids (id, name or record); a row without one gets its number, counted from 1.
        labels: a table with columns ``id`` and ``label``, for what has none itself; ids of BED are its names.
        need_labels: refuse what has no label.
        form: what labels are. Of classes there must be two at least; numbers of one sequence may differ, which is told,
            and so is what a comma in them is: `titans_seq.data.labels.decimal_points`.
        regions: how sequences are cut out of a genome.
        on_conflict: what to do when one sequence has two labels.
        judge: what to do about what training would refuse, and about doubts such as ids that stand twice in a table.
        tally: counts replaced symbols and lower case, for an audit.

    Raises:
        InputError: on a missing column, sequence or label, an unknown id, one class only, the same
            sequence with two labels, a symbol that is no nucleotide, or an interval that is not on the genome.
    """
    name, told = shown(path), Tally() if tally is None else tally
    unit, found = _found(path, _Asked(sequence, label, id, labels, need_labels, regions, judge, told, form))
    records = list(found)
    if not records:
        raise InputError(f"{name} is empty: no sequence found.")
    places = [record.row or number for number, record in enumerate(records, start=1)]
    _check_ids(records, places, name, unit, judge)
    if need_labels:
        conflict = judge.doubt if on_conflict == "warn" or form == "numbers" else judge.refuse
        if form == "class":
            _check_classes(records, name, judge)
        _check_conflicts(records, places, name, unit, conflict)
    return records
