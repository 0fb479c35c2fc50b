"""Intervals and a genome to sequences: which windows are cut, and which are left out."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from titans_seq.data.aliases import Aliases
from titans_seq.data.compressed import shown
from titans_seq.data.intervals import CIRCULAR, LINE, PART, features_of, intervals_of, read_bed, refuse_rows
from titans_seq.data.record import STRICT, Judge, Record, quoted
from titans_seq.data.reference import Reference, open_reference
from titans_seq.data.windows import N, reverse_complement
from titans_seq.errors import ConfigError, InputError
from titans_seq.miras.choice import Choice
from titans_seq.resources import data_file


class _Piece(NamedTuple):
    """A stretch of the genome, that is a sequence alone or with others of its ``part``."""

    part: int
    line: int
    chrom: str
    start: int
    end: int
    strand: str
    id: str | None
    label: str | None


class Regions(Choice):
    """How sequences are cut out of a genome where a file holds places instead of sequences."""

    places: ClassVar[tuple[str, ...]] = ("reference", "aliases", "blacklist")  # fields that name files
    reference: str | None = Field(default=None, description="FASTA of the genome.")
    aliases: str | None = Field(default=None, description="Lines of chromosome names that mean the same.")
    feature: tuple[str, ...] = Field(default=(), description="Kinds of feature to read of a GFF or GTF.")
    window: int | None = Field(
        default=None, ge=1, description="Bases a window, around the summit or centre; else the interval as it is."
    )
    stride: int | None = Field(
        default=None, ge=1, description="Bases from one window to the next, which then tile the interval."
    )
    jitter: int = Field(default=0, ge=0, description="Bases that training moves a window by at most, at random.")
    max_n: float = Field(default=1.0, ge=0, le=1, description="Windows with a larger share of N are left out.")
    blacklist: str | None = Field(default=None, description="BED; windows that overlap it are left out.")

    def files(self) -> list[Path]:
        """The files that are read beside that of the intervals."""
        return [data_file(path) for path in (self.reference, self.aliases, self.blacklist) if path]

    def check(self, path: Path | str) -> None:
        """Refuse what cannot cut sequences for the intervals of ``path``.

        Raises:
            InputError: if no genome is given.
            ConfigError: if windows should tile and have no length.
        """
        if self.reference is None:
            raise InputError(
                f"{shown(path)} has intervals and no sequences. Give the genome that they are places of with "
                "--reference FASTA; to a command without that option, give their sequences (bedtools getfasta)."
            )
        if self.stride and not self.window:
            raise ConfigError(f"{shown(path)}: stride {self.stride} tiles intervals with windows. Give window too.")

    def _named(self, frame: pl.DataFrame, path: Path | str, genome: Reference, judge: Judge) -> pl.DataFrame:
        """Intervals by the genome's names of chromosomes, null where it has none."""
        counts = dict(frame["chrom"].value_counts().iter_rows())
        wanted = {name: counts[name] for name in frame["chrom"].unique(maintain_order=True)}
        aliases = Aliases.of_file(data_file(self.aliases) if self.aliases else None)
        names = aliases.translate(wanted, genome.lengths, shown(path), genome.name, judge)
        given = pl.DataFrame({"chrom": list(names), "as": list(names.values())}, {"chrom": pl.String, "as": pl.String})
        named = frame.join(given, on="chrom", how="left", maintain_order="left")
        return named.with_columns(pl.col("as").alias("chrom"), pl.col("chrom").alias("called")).drop("as")

    def _beyond(self, row: dict[str, Any], genome: Reference) -> str:
        """What is wrong with an interval that ends behind its chromosome, and what to do."""
        length = row["length"]
        told = f"ends at {row['end']:,}, beyond the end of {quoted(row['called'])}, which has {length:,} bases in "
        if row.get(CIRCULAR) and row["start"] < length and row["end"] <= 2 * length:
            return (
                f"{told}{genome.name}: it crosses the origin of a circular chromosome, and sequences are not joined "
                f"there: remove the row, or let it end at {length:,}"
            )
        return f"{told}{genome.name}: take the genome that the file was made for, or mend the row"

    def place(
        self, frame: pl.DataFrame, path: Path | str, unit: str, genome: Reference, judge: Judge = STRICT
    ) -> pl.DataFrame:
        """Intervals as they are in ``genome``: by its names, and inside its chromosomes.

        Raises:
            InputError: if it has not the chromosome, or that ends before the interval does.
        """
        where = f"{shown(path)}: {unit}"
        named = self._named(frame, path, genome, judge)
        named = refuse_rows(
            named, pl.col("chrom").is_null(), lambda row: f"is on {genome.lacks(row['called'])}", where, judge
        )
        lengths = pl.DataFrame(
            {"chrom": list(genome.lengths), "length": list(genome.lengths.values())},
            {"chrom": pl.String, "length": pl.Int64},
        )
        placed = named.join(lengths, on="chrom", how="left", maintain_order="left")
        return refuse_rows(
            placed,
            pl.col("end") > pl.col("length"),
            lambda row: self._beyond(row, genome),
            where,
            judge,
        )

    def windows(self, placed: pl.DataFrame) -> pl.DataFrame:
        """Windows of placed intervals, in their order; they may reach beyond the chromosome.

        Without ``window`` they are the intervals. With it there is one around each summit, or centre where there is
        none; with ``stride`` they begin at each interval's start and go on, while they begin in it, until its last base
        is in one. A window is one piece of the genome: it is cut around each line of a feature that has several.
        """
        if self.window is None:
            return placed
        W = self.window
        if self.stride is None:
            centre = pl.coalesce(pl.col("start") + pl.col("summit"), (pl.col("start") + pl.col("end")) // 2)
            around = placed.with_columns(start=centre - W // 2).with_columns(end=pl.col("start") + W)
            return around.with_columns(pl.row_index().cast(pl.Int64).alias(PART))
        length = pl.col("end") - pl.col("start")
        last = pl.min_horizontal((length - W + self.stride - 1) // self.stride, (length - 1) // self.stride)
        last = pl.max_horizontal(pl.lit(0), last)  # a window that is longer than its interval begins with it
        tiles = placed.with_columns(tile=pl.int_ranges(0, last + 1)).explode("tile")
        tiles = tiles.with_columns(start=pl.col("start") + pl.col("tile") * self.stride)
        return tiles.with_columns(pl.row_index().cast(pl.Int64).alias(PART), end=pl.col("start") + W).drop("tile")

    def _clear(self, windows: pl.DataFrame, genome: Reference, judge: Judge) -> pl.DataFrame:
        """Windows that the blacklist does not touch, nor another part of them; the others are counted."""
        if self.blacklist is None or windows.is_empty():
            return windows
        path = data_file(self.blacklist)
        black = intervals_of(read_bed(path, judge), path, judge=judge)
        black = self._named(black, path, genome, judge).drop_nulls("chrom")
        if black.is_empty():
            judge.doubt(f"{path}: none of its chromosomes is in {genome.name}, so it leaves nothing out.")
            return windows
        hit = np.zeros(len(windows), bool)
        chroms = windows["chrom"].to_numpy()
        for (chrom,), rows in black.sort("start").group_by("chrom"):
            here = np.flatnonzero(chroms == chrom)
            starts, ends = (windows[name].to_numpy()[here] for name in ("start", "end"))
            before = np.searchsorted(rows["start"].to_numpy(), ends)  # those that begin before the window ends
            farthest = np.maximum.accumulate(rows["end"].to_numpy())  # that any of them reaches
            hit[here] = (before > 0) & (farthest[before - 1] > starts)
        touched = windows.filter(pl.Series(hit))[PART].unique()
        if len(touched):
            every = windows[PART].n_unique()
            judge.doubt(f"{path}: {len(touched):,} of {every:,} windows overlap it and are left out.")
        return windows.filter(~pl.col(PART).is_in(touched.to_list()))

    def _around(self, genome: Reference, parts: list[_Piece]) -> np.ndarray:
        """Codes of pieces of the genome behind each other and of the jitter on both sides, read on their strand."""
        spans = [[piece.start, piece.end] for piece in parts]
        spans[0][0] -= self.jitter
        spans[-1][1] += self.jitter
        codes = np.concatenate([genome.codes(parts[0].chrom, *span) for span in spans])
        return reverse_complement(codes) if parts[0].strand == "-" else codes

    def records(
        self, frame: pl.DataFrame, path: Path | str, unit: str, *, names: bool = False, judge: Judge = STRICT
    ) -> Iterator[Record]:
        """A record of each window of the intervals in ``frame``, on its strand, in their order.

        A record's id is ``id::chrom:start-end(strand)``, as bedtools has it, without what there is not. An id that is
        no mere name stands alone where it has one window. A feature of several lines, such as the coding sequence of
        several exons, is one record of all of them in the direction of the strand; it has no one place, but a span.

        Args:
            frame: as `intervals.intervals_of` gives it, with ``id`` and ``label`` (or null).
            path: where it is from, for messages.
            unit: what its `LINE` counts.
            names: the ids are names of BED, which may stand often.
            judge: what to do about intervals that are not on the genome, and about windows that are left out.

        Raises:
            InputError: if an interval is not on the genome, or no window is left.
        """
        self.check(path)
        genome = open_reference(data_file(str(self.reference)))
        placed = self.place(frame, path, unit, genome, judge)
        if self.window is None:
            placed = features_of(placed, path, judge)
        windows = self.windows(placed)
        often = set(windows.filter(pl.col(PART).n_unique().over("id") > 1)["id"])  # ids of several windows
        windows = self._clear(windows, genome, judge)
        columns = windows.select(PART, LINE, "chrom", "start", "end", "strand", "id", "label").sort(PART, "start")
        count = too_many = 0
        for _, group in groupby(map(_Piece._make, columns.iter_rows()), lambda piece: piece.part):
            count += 1
            parts = list(group)
            first, whole = parts[0], len(parts) == 1
            around = self._around(genome, parts)
            codes = around[self.jitter : len(around) - self.jitter]
            if self.max_n < 1 and np.count_nonzero(codes == N) > self.max_n * len(codes):
                too_many += 1
                continue
            id = first.id
            span = first.start, max(piece.end for piece in parts)
            if not id or names or self.stride or id in often:
                strand = "" if first.strand == "." else f"({first.strand})"
                place = f"{first.chrom}:{span[0]}-{span[1]}{strand}"
                id = f"{id}::{place}" if id else place
            yield Record(
                id,
                codes,
                first.label,
                around if self.jitter else None,
                chrom=first.chrom,
                start=first.start if whole else None,
                strand=first.strand,
                row=min(piece.line for piece in parts),
                span=span,
            )
        if too_many:
            judge.doubt(f"{shown(path)}: {too_many:,} windows are left out, with more than {self.max_n:.3g} of them N.")
        if too_many == count:
            judge.refuse(f"{shown(path)}: no window is left. Allow more N, or a smaller blacklist.")
