"""Where the rows of a split lie on a genome."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from titans_seq.data.intervals import LINE
from titans_seq.data.record import Record

Place = tuple[str, int, int, str]
_OTHER_STRAND = {"+": "-", "-": "+"}


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Intervals, 0-based and half-open; ``start`` and ``end`` are (n,) int64, ``strand`` is "+", "-" or "." (unknown).

    A row of no known place is an empty interval: it lies nowhere. ``alike`` has the name that all splits share for
    chromosomes that they call differently.
    """

    chrom: tuple[str, ...]
    start: np.ndarray
    end: np.ndarray
    strand: tuple[str, ...]
    alike: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.chrom)

    @classmethod
    def of_rows(cls, places: pl.DataFrame, rows: Sequence[int]) -> "Coordinates":
        """Where rows of a file lie, of the intervals that `intervals.intervals_of` found in it."""
        numbers = pl.DataFrame({LINE: rows}, {LINE: pl.Int64})
        frame = numbers.join(places, on=LINE, how="left", maintain_order="left")
        return cls(
            tuple(frame["chrom"].fill_null("")),
            frame["start"].fill_null(0).to_numpy(),
            frame["end"].fill_null(0).to_numpy(),
            tuple(frame["strand"].fill_null(".")),
        )

    @classmethod
    def of_records(cls, records: Sequence[Record]) -> "Coordinates":
        """Where sequences were cut out of a genome; those of several pieces lie nowhere."""
        start = np.array([r.start or 0 for r in records], np.int64)
        length = np.array([0 if r.start is None else len(r) for r in records], np.int64)
        chrom = tuple(r.chrom or "" for r in records)
        return cls(chrom, start.clip(0), start + length, tuple(r.strand for r in records))

    def take(self, rows: np.ndarray) -> "Coordinates":
        """Return some of the rows."""
        chrom, strand = (tuple(column[i] for i in rows.tolist()) for column in (self.chrom, self.strand))
        return Coordinates(chrom, self.start[rows], self.end[rows], strand, self.alike)

    @property
    def shared_chrom(self) -> list[str]:
        """The chromosomes under the names that all splits share."""
        return [self.alike.get(chrom, chrom) for chrom in self.chrom]

    def places(self, *, turned: bool = False) -> Iterator[Place | None]:
        """Yield what two rows on the same place have in common, or would have on the other strand; None is nowhere.

        A row without a strand is on +.
        """
        for chrom, start, end, mark in zip(
            self.shared_chrom, self.start.tolist(), self.end.tolist(), self.strand, strict=True
        ):
            strand = "+" if mark == "." else mark
            place = (chrom, start, end, _OTHER_STRAND[strand] if turned else strand)
            yield place if start < end else None
