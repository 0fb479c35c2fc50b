"""FASTA as a stream: strict about what a base is, indifferent to how lines are cut, flat in memory."""

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from titans_seq.data.compressed import GZIP, SIZE, SNIFFED, UTF8_BOM, chunks, decoded, looks_like, shown
from titans_seq.data.record import LOWER, STRICT, Judge, Record, Tally, encode, quoted
from titans_seq.errors import EnvironmentFault, InputError
from titans_seq.files import whole_file

_MARKED_LINE = re.compile(rb"\n([>;])([^\n]*)")
_BLANKS = b" \t\n"
_LINE_END_BLANKS = re.compile(rb"[ \t]+(?=\n|\Z)")


@dataclass(frozen=True, eq=False)
class Block:
    """A piece of one record, in order.

    ``record`` is the 0-based number of the record in the file, ``start`` the 0-based position of the first base
    of ``codes`` (n,) uint8 in the record. ``last`` marks the record's final block; an empty record is one empty block.
    ``chrom`` is the chromosome that a record was cut out of; of a FASTA's each record is one, called ``id``.
    """

    record: int
    id: str
    start: int
    codes: np.ndarray
    last: bool
    chrom: str | None = None


@dataclass
class _Open:
    """The record that is being read."""

    number: int
    id: str
    where: str  # for messages
    rest: np.ndarray  # bases not yet handed out
    start: int = 0  # bases handed out
    known: bool = False  # one base at least is not N
    first: int = -1  # where in the file the first and the last base stand, and
    last: int = -1
    line: int = 0  # how many bases the first line has: what an index must agree with
    in_first_line: bool = True

    def __len__(self) -> int:
        return self.start + len(self.rest)

    def note_place(self, at: int, run: bytes) -> None:
        """Remember where the bases of ``run`` stand, which begins at byte ``at`` of the file."""
        bases = run.strip(_BLANKS)
        if not bases:
            return
        self.last = at + len(run.rstrip(_BLANKS)) - 1
        if self.first < 0:
            self.first = at + len(run) - len(run.lstrip(_BLANKS))
        elif run.startswith(b"\n"):
            self.in_first_line = False
        if self.in_first_line:
            self.line += len(bases.partition(b"\n")[0])
            self.in_first_line = b"\n" not in run.lstrip(_BLANKS)

    def blocks(self, size: int, *, last: bool) -> Iterator[Block]:
        """Hand out what is certainly no final block, and at the record's end the rest."""
        cut = 0
        while len(self.rest) - cut > size:
            yield Block(self.number, self.id, self.start + cut, self.rest[cut : cut + size].copy(), last=False)
            cut += size
        self.start, self.rest = self.start + cut, self.rest[cut:]
        if last:
            yield Block(self.number, self.id, self.start, self.rest.copy(), last=True)


class _Index:
    """The ``.fai`` beside a file, held against what was read; nothing is ever read through it."""

    def __init__(self, path: Path | str):
        self.file, self.path = Path(path), Path(f"{path}.fai")
        self.rows: dict[str, tuple[int, int, int, int]] = {}
        self.fault = ""
        self.there = str(path) != "-" and self.path.is_file()
        if self.there:
            try:
                for line in self.path.read_bytes().splitlines():
                    name, *numbers = line.split(b"\t")
                    length, offset, bases, width = map(int, numbers)
                    self.rows[decoded(name)] = (length, offset, bases, width)
            except (ValueError, OSError):
                self.fault = "it is malformed"

    def compare(self, record: _Open) -> None:
        if not self.there or self.fault:
            return
        name, row = quoted(record.id), self.rows.pop(record.id, None)
        if row is None:
            self.fault = f"it lacks record {name}"
            return
        length, offset, bases, width = row
        if length != len(record):
            self.fault = f"it gives record {name} {length:,} bases, the file has {len(record):,}"
        elif length and (
            bases < 1
            or offset != record.first
            or min(bases, length) != record.line
            or offset + (length - 1) // bases * width + (length - 1) % bases != record.last
        ):
            self.fault = f"the lines of record {name} stand elsewhere"

    def tell(self, judge: Judge) -> None:
        if self.there and not self.fault and self.rows:
            self.fault = f"it lists record {quoted(next(iter(self.rows)))}, which is not there"
        if self.fault:
            judge.doubt(f"The index {self.path} does not fit its file and is not used: {self.fault}. {self.remedy()}")

    def remedy(self) -> str:
        """Make the index again, whole or not at all, and tell what came of it."""
        try:
            rows = _index_rows(self.file)
            with whole_file(self.path) as draft:
                draft.write_bytes(rows)
        except ValueError as error:
            return f"None can be made, since {error}; remove it."
        except EnvironmentFault as error:
            return f"It could not be made again: {error}"
        return "It was made again."


def _index_rows(path: Path) -> bytes:
    """Rows of a ``.fai``: name, bases, place of the first, and of each line its bases and bytes.

    Raises:
        ValueError: if the lines of a record differ in length before its last one.
    """
    rows: list[tuple[bytes, list[int]]] = []
    ended, at = False, 0  # whether a line was short, and so the record's last
    with path.open("rb") as packed, gzip.open(packed) if packed.peek(2)[:2] == GZIP else packed as file:
        for line in file:
            at += len(line)
            count = len(line.rstrip())
            if b"\r" in line[:count]:
                raise ValueError("its lines end in CR alone")
            if line.startswith(b">"):
                rows.append(((line[1:].split() or [b""])[0], [0, at, 0, 0]))
                ended = False
            elif rows and count:
                name, row = rows[-1]
                if not row[0]:
                    row[2:] = count, len(line)
                if ended or line.startswith(b";") or count > row[2] or len(line) > row[3]:
                    raise ValueError(f"the lines of record {quoted(decoded(name))} are not of one length")
                row[0] += count
                ended = [count, len(line)] != row[2:]
            else:
                ended = bool(rows)
    return b"".join(b"\t".join([name, *(b"%d" % number for number in row)]) + b"\n" for name, row in rows)


def _parts(path: Path | str, judge: Judge) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield (kind, place in the file, bytes): kind is ``>`` for a header, ``;`` for a comment, empty for bases.

    A run of bases keeps its line ends; blanks at the end of its lines never stand alone at the end of a run.
    """
    carry, read = b"\n", 0  # as if a line ended before the file: its first line is then like any other
    for chunk in chunks(path, judge.doubt):
        if not read and chunk.startswith(UTF8_BOM):
            chunk, read = chunk[len(UTF8_BOM) :], len(UTF8_BOM)
        read += len(chunk)
        data = carry + chunk.replace(b"\r", b"\n")
        place, done = read - len(data), 0
        for line in _MARKED_LINE.finditer(data):
            if line.start() > done:
                yield b"", place + done, data[done : line.start()]
            done = line.start()
            if line.end() == len(data):  # perhaps cut off: it waits for the next chunk
                break
            yield line[1], place + line.start(), line[2]
            done = line.end()
        else:
            end = len(data.rstrip(_BLANKS))  # a line end may belong to a header, blanks to a line end
            if end > done:
                yield b"", place + done, data[done:end]
            done = max(done, end)
        carry = data[done:]
        if not carry.strip(_BLANKS) and b"\n" in carry:
            carry = b"\n" + carry.rpartition(b"\n")[2]
        if len(carry) > SIZE:
            raise InputError(
                f"{shown(path)}: a header at byte {read - len(carry) + 2:,} (1-based) is longer than {SIZE:,} bytes. "
                "Are its line ends lost?"
            )
    if last := _MARKED_LINE.match(carry):
        yield last[1], read - len(carry), last[2]


def _refuse_no_header(name: str, head: bytes) -> NoReturn:
    what = looks_like(head[:SNIFFED])
    if what is None and head.startswith(b"@"):
        what = "FASTQ"
    if what is None and re.fullmatch(rb"[ACGTUNacgtun\s]+", head):
        what = "a bare sequence; put a line '>name' before it"
    if what is None:
        what = f"text; its first line is {quoted(decoded(head.splitlines()[0]))}"
    raise InputError(f"{name} is not FASTA: no '>' line begins it. It looks like {what}.")


def _check_head(path: Path | str, judge: Judge) -> Iterator[tuple[bytes, int, bytes]]:
    """Pass the parts on, once the first that is not blank has turned out to be a header or a comment."""
    headed = False
    for kind, place, part in _parts(path, judge):
        if not headed and not kind and part.strip():
            _refuse_no_header(shown(path), part.lstrip())
        if not headed and kind == b">" and part.startswith(b"\0"):  # every second byte of UTF-16 text
            _refuse_no_header(shown(path), kind + part)
        headed = headed or kind == b">"
        yield kind, place, part


class _Names:
    """Ids in the order of their records: each there, each once."""

    def __init__(self, name: str, judge: Judge):
        self.name, self.judge = name, judge
        self.seen: dict[str, int] = {}

    def open(self, number: int, header: bytes) -> _Open:
        words = header.split(None, 1)
        id = decoded(words[0]) if words else ""
        where = f"{self.name}: record {quoted(id)}" if id else f"{self.name}: record {number + 1}"
        if not id:
            self.judge.refuse(f"{where} has no id. Write one after its '>'.")
        elif (first := self.seen.setdefault(id, number)) != number:
            self.judge.refuse(
                f"{self.name}: duplicate id {quoted(id)}, of records {first + 1} and {number + 1}. "
                "Give every record its own id."
            )
        return _Open(number, id, where, np.empty(0, np.uint8))


class _Doubts:
    """What a file is warned about once: how many records, and which is the first."""

    def __init__(self, name: str, judge: Judge):
        self.name, self.judge = name, judge
        self.comments = 0
        self.count: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def note(self, record: _Open) -> None:
        if record.known:
            return
        what = "all N" if len(record) else "empty"
        self.count[what] += 1
        self.first.setdefault(what, f"record {record.number + 1} ({quoted(record.id)})")

    def tell(self) -> None:
        if self.comments:
            self.judge.doubt(f"{self.name}: {self.comments:,} comment lines (';') are not sequence and were left out.")
        for what, count in self.count.items():
            number = "1 record is" if count == 1 else f"{count:,} records are"
            self.judge.doubt(f"{self.name}: {number} {what}; first {self.first[what]}.")


def read_blocks(
    path: Path | str,
    *,
    size: int = 65_536,
    judge: Judge = STRICT,
    tally: Tally | None = None,
    keep_case: bool = False,
) -> Iterator[Block]:
    """Yield the records of a FASTA file piece by piece; memory does not grow with record or line length.

    Every block has ``size`` bases but a record's last. What was mended is told at the end of the file.

    Args:
        path: plain, gzip or bgzip; "-" is standard input.
        size: bases per block.
        judge: what to do about duplicate or missing ids, and about doubts.
        tally: counts replaced symbols and lower case, for an audit.
        keep_case: add `LOWER` to the codes of bases in lower case (soft-masked repeats).

    Raises:
        InputError: if the file is no FASTA, or a symbol no nucleotide, or as `compressed.chunks` does.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 base, got {size}.")
    name = shown(path)
    tally = Tally() if tally is None else tally
    names, doubts, index = _Names(name, judge), _Doubts(name, judge), _Index(path)
    record: _Open | None = None

    def close(record: _Open) -> Iterator[Block]:
        index.compare(record)
        yield from record.blocks(size, last=True)
        doubts.note(record)

    for kind, place, part in _check_head(path, judge):
        if kind == b";":
            doubts.comments += 1
        elif kind == b">":
            if record is not None:
                yield from close(record)
            record = names.open(0 if record is None else record.number + 1, part)
        elif record is not None:
            if index.there:
                record.note_place(place, part)
            if b" " in part or b"\t" in part:
                part = _LINE_END_BLANKS.sub(b"", part)
            bases = part.replace(b"\n", b"")
            codes = encode(bases, where=record.where, start=len(record), tally=tally, keep_case=keep_case)
            record.known = record.known or bool((codes & (LOWER - 1) < 4).any())
            record.rest = np.concatenate([record.rest, codes]) if len(record.rest) else codes
            yield from record.blocks(size, last=False)
    if record is None:
        raise InputError(f"{name} is empty: it has no record. A FASTA record begins with a line '>name'.")
    yield from close(record)
    tally.tell(name, judge.doubt)
    doubts.tell()
    index.tell(judge)


def read_fasta(
    path: Path | str, *, judge: Judge = STRICT, tally: Tally | None = None, keep_case: bool = False
) -> Iterator[Record]:
    """Yield the records of a FASTA file whole; arguments and errors as for `read_blocks`."""
    held: list[np.ndarray] = []
    for block in read_blocks(path, size=SIZE, judge=judge, tally=tally, keep_case=keep_case):
        held.append(block.codes)
        if block.last:
            yield Record(block.id, held[0] if len(held) == 1 else np.concatenate(held))
            held.clear()
