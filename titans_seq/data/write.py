"""Prediction files by suffix, written so that a kill loses and repeats nothing.

While the work runs, rows stand in a part file beside the target; only at the end do they become the target, in one
step. So a file under its final name is always complete. `titans_seq.data.arrays` has the files of many numbers.
"""

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar

from titans_seq.errors import ModelError, UsageError
from titans_seq.files import telling_disk_faults, whole_file

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LINE = 80  # bases a line of FASTA
# text that a spreadsheet would run; a signed number it would not, nor a sign alone, as of a strand
FORMULA = re.compile(r"(?![+-](\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z)[=+@-].", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # would end a row, or be obeyed by a terminal

Row = dict[str, Any]


def check_suffix(out: Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Refuse an output whose format is not known, before any work is done."""
    if not out.name.endswith(suffixes) or out.name in suffixes:
        raise UsageError(f"{out} should end in one of {', '.join(suffixes)}, which say in what form to write.")


class PartFile:
    """Rows on their way to ``out``: appended whole, cut back to a known size on resume.

    A subclass says how rows stand in the part file, and how that becomes the target.

    Raises:
        ModelError: if less is there than that size.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, out: Path, size: int = 0):
        self.out, self.part = out, out.with_name(out.name + ".part")
        with telling_disk_faults(self.part):
            self.file = self.part.open("ab")
            if (there := self.file.tell()) < size:
                self.file.close()
                raise ModelError(
                    f"{self.part} has {there:,} bytes of {size:,}: it was cut. Start anew with --overwrite."
                )
            self.file.truncate(size)

    @staticmethod
    def beside(out: Path) -> tuple[Path, ...]:
        """What else is made of the rows of ``out``."""
        return ()

    def encode(self, rows: list[Row]) -> bytes:
        """Rows as they stand in the part file."""
        raise NotImplementedError

    def convert(self, draft: Path) -> int:
        """Write the part file's rows as the target; returns their number."""
        raise NotImplementedError

    def write(self, rows: list[Row]) -> None:
        """Append rows. They reach the disk with the next `settle`."""
        with telling_disk_faults(self.part):
            self.file.write(self.encode(rows))

    def settle(self) -> int:
        """Bring what was written to the disk; returns the part file's size."""
        with telling_disk_faults(self.part):
            self.file.flush()
            os.fsync(self.file.fileno())
        return self.file.tell()

    def finish(self, convert: Callable[[Path], int] | None = None) -> int:
        """Turn the part file into the target, or what ``convert`` makes of it, and remove it; returns the rows."""
        self.settle()
        self.file.close()
        with whole_file(self.out) as draft:
            count = (convert or self.convert)(draft)
        self.part.unlink()
        return count

    def close(self) -> None:
        """Leave the part file for a later resume."""
        with telling_disk_faults(self.part):
            self.file.close()


class RowFile(PartFile):
    """A table, a row a record; a number that is not finite becomes null.

    Args:
        out: the table.
        size: of the part file to go on with.
        columns: names and polars' types, which a table that may have no rows is to have all the same.
    """

    suffixes = SUFFIXES

    def __init__(self, out: Path, size: int = 0, columns: Mapping[str, str] = MappingProxyType({})):
        super().__init__(out, size)
        self.columns = columns

    def encode(self, rows: list[Row]) -> bytes:
        """JSON lines."""
        lines = (json.dumps({name: _plain(value) for name, value in row.items()}) + "\n" for row in rows)
        return "".join(lines).encode()

    def rows(self) -> Iterator[Row]:
        """Rows of the part file in order."""
        return _rows(self.part)

    def convert(self, draft: Path) -> int:
        """A table in the form of the suffix."""
        return _convert(self.part, draft, self.out.suffix, self.columns)


class FastaFile(PartFile):
    """Records written piece by piece, some side by side: rows with the number of the ``first``, and their ``bases``.

    Args:
        out: the FASTA.
        size: of the part file to go on with.
        header: of the record of a number.
    """

    suffixes = (".fa", ".fasta", ".fna")

    def __init__(self, out: Path, size: int = 0, header: Callable[[int], str] = str):
        super().__init__(out, size)
        self.header = header

    def encode(self, rows: list[Row]) -> bytes:
        """JSON lines."""
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    def convert(self, draft: Path) -> int:
        """One record after the other, each from the pieces of all that were written beside it."""
        count = begin = 0
        with self.part.open("rb") as part, draft.open("w", encoding="ascii") as file:
            while line := part.readline():
                first, bases = json.loads(line).values()
                for place in range(len(bases)):
                    part.seek(begin)
                    file.write(f">{self.header(first + place)}\n")
                    file.writelines(_lines(self._pieces(part, first, place)))
                count += len(bases)
                begin = part.tell()
        return count

    def _pieces(self, part: BinaryIO, first: int, place: int) -> Iterator[str]:
        """Bases of the record at ``place`` among those from ``first`` on; ``part`` is left behind the last of these."""
        end = part.tell()
        while line := part.readline():
            row = json.loads(line)
            if row["first"] != first:
                break
            yield row["bases"][place]
            end = part.tell()
        part.seek(end)


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Text as lines of `LINE` symbols."""
    held = ""
    for piece in pieces:
        held += piece
        while len(held) > LINE:
            yield held[:LINE] + "\n"
            held = held[LINE:]
    if held:
        yield held + "\n"


def scan_rows(out: Path) -> Any:
    """Rows of a file of series that was written by `RowFile`, as a lazy frame: ids are text, times are times."""
    import polars as pl

    if out.suffix in (".csv", ".tsv"):
        separator, text = "\t" if out.suffix == ".tsv" else ",", {"unique_id": pl.String}  # 001 is not 1
        frame = pl.scan_csv(out, separator=separator, infer_schema_length=None, schema_overrides=text)
    else:
        frame = pl.scan_parquet(out) if out.suffix == ".parquet" else pl.scan_ndjson(out, infer_schema_length=None)
    schema = frame.collect_schema()
    stamps = [name for name in ("ds", "cutoff") if schema.get(name) == pl.String]
    return frame.with_columns(pl.col("unique_id").cast(pl.String), pl.col(stamps).str.to_datetime(time_unit="us"))


def shown_ids(id: str) -> list[str]:
    """How an id may stand in a file: as it is, or escaped."""
    return [id, _escaped(id)]


def _rows(part: Path) -> Iterator[Row]:
    with part.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _escaped(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return ("'" if FORMULA.match(value) else "") + shown_controls(value)


def shown_controls(text: str) -> str:
    """Text whose control characters are written out, so that they end no row."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _convert(part: Path, draft: Path, suffix: str, columns: Mapping[str, str]) -> int:
    if suffix == ".parquet":
        import polars as pl

        nothing = pl.LazyFrame(schema={name: getattr(pl, kind) for name, kind in columns.items()})
        frame = pl.scan_ndjson(part, infer_schema_length=None) if part.stat().st_size else nothing
        schema = frame.collect_schema()
        stamps = [name for name in schema if name in ("ds", "cutoff")]
        unknown = [name for name, kind in schema.items() if kind == pl.Null]  # a number that was never finite
        frame.with_columns(pl.col(stamps).str.to_datetime(), pl.col(unknown).cast(pl.Float64)).sink_parquet(draft)
        return int(pl.scan_parquet(draft).select(pl.len()).collect().item())
    count, names = 0, list[str]()
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
        for row in _rows(part):
            count += 1
            if suffix == ".jsonl":
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                continue
            if not names:
                names = list(row)
                writer.writerow(map(_escaped, names))
            writer.writerow([_escaped(row[name]) for name in names])
        if not count and columns and suffix != ".jsonl":
            writer.writerow(columns)
    return count
