"""Where rows of a table lie on a genome, without the genome."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from titans_seq.data.compressed import shown
from titans_seq.data.record import STRICT, Judge
from titans_seq.data.table import column_called

CHROMOSOMES = ("chrom", "chromosome", "chr", "region", "seqname", "seqnames")
STARTS = ("start", "chromstart")
ENDS = ("end", "chromend")
STRANDS = ("strand",)

Place = tuple[str, int, int, str]
_OTHER_STRAND = {"+": "-", "-": "+"}


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Intervals, 0-based and half-open; ``start`` and ``end`` are (n,) int64, ``strand`` is "+", "-" or "" (unknown).

    An interval that is none, whose judge did not refuse it, is empty: it lies nowhere.
    """

    chrom: tuple[str, ...]
    start: np.ndarray
    end: np.ndarray
    strand: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.chrom)

    def places(self, *, turned: bool = False) -> Iterator[Place | None]:
        """Yield what two rows on the same place have in common, or would have on the other strand; None is nowhere.

        A row without a strand is on +.
        """
        for chrom, start, end, mark in zip(
            self.chrom, self.start.tolist(), self.end.tolist(), self.strand, strict=True
        ):
            strand = mark or "+"
            place = (plain_chromosome(chrom), start, end, _OTHER_STRAND[strand] if turned else strand)
            yield place if start < end else None


def has_coordinates(table: pl.DataFrame) -> bool:
    """Return whether a table has columns of chromosome, start and end."""
    return all(column_called(table, names) for names in (CHROMOSOMES, STARTS, ENDS))


def coordinates_of(table: pl.DataFrame, path: Path | str, judge: Judge = STRICT) -> Coordinates:
    """Read the intervals of a table that `has_coordinates`; faults are told once, with the first row that has them.

    Raises:
        InputError: unless ``judge`` goes on, where start or end is no whole number, or start is negative or not before
            the end, or there is no chromosome.
    """
    columns = [column_called(table, names) for names in (CHROMOSOMES, STARTS, ENDS, STRANDS)]
    text = [
        table[name].cast(pl.String).str.strip_chars().fill_null("")
        if name
        else pl.Series([""]).new_from_index(0, len(table))
        for name in columns
    ]
    chrom, strand = text[0], text[3].replace(".", "")
    start, end = (column.cast(pl.Int64, strict=False).fill_null(-1).to_numpy() for column in text[1:3])
    bad = (start < 0) | (end <= start) | (chrom == "").to_numpy()
    if bad.any():
        row = int(bad.argmax())
        found = ", ".join(f"{name} {column[row]!r}" for name, column in zip(columns[:3], text[:3], strict=True))
        more = f"; {int(bad.sum()):,} rows are so" if bad.sum() > 1 else ""
        judge.refuse(
            f"{shown(path)}: row {row + 1} is no interval: {found}{more}. "
            "Start is counted from 0 and lies before the end; both are whole numbers."
        )
    odd = ~strand.is_in(["", "+", "-"]).to_numpy()
    if odd.any():
        row = int(odd.argmax())
        judge.refuse(
            f"{shown(path)}: row {row + 1} has strand {strand[row]!r}, which is none. Write + or -, or nothing."
        )
    known = tuple(np.where(odd, "", strand.to_numpy()).tolist())
    return Coordinates(tuple(chrom), np.where(bad, 0, start), np.where(bad, 0, end), known)


def plain_chromosome(name: str) -> str:
    """Return a chromosome's name without what assemblies write before it: chr1 and 1 are the same, chrM is MT."""
    bare = name[3:] if name[:3].lower() == "chr" else name
    return "MT" if bare == "M" else bare
