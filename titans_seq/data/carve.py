"""A validation part out of training records, which shares no base of a genome and no sequence with what is left."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from titans_seq.data.record import Record
from titans_seq.data.windows import reverse_complement


def _span(record: Record) -> tuple[int, int] | None:
    """Where a record lies, with what jitter may move it to."""
    if record.start is None:
        return record.span
    jitter = 0 if record.around is None else (len(record.around) - len(record)) // 2
    return record.start - jitter, record.start + len(record) + jitter


def _one_sequence(records: Sequence[Record], stretch: np.ndarray) -> np.ndarray:
    """Stretches (n,) of which those that have the same sequence, on either strand, are one."""
    from scipy.sparse import coo_array  # on use: few commands carve
    from scipy.sparse.csgraph import connected_components

    known: dict[bytes, int] = {}
    strands = ((r.codes.tobytes(), reverse_complement(r.codes).tobytes()) for r in records)
    text = np.array([known.setdefault(min(pair), len(known)) for pair in strands], np.int64)
    size = len(records) + int(stretch.max(initial=0)) + 1
    pairs = coo_array((np.ones(len(records)), (text, len(records) + stretch)), (size, size))
    found: np.ndarray = connected_components(pairs, directed=False)[1][len(records) + stretch]
    return found


def stretches(records: Sequence[Record]) -> np.ndarray:
    """The stretch of the genome that each record is of, (n,) int64, numbered in the order of the records.

    Windows of one interval are of one stretch, and so are intervals that overlap; a feature of several pieces counts
    from its first base to its last. A record of no known place is one of its own; all that have one sequence, on either
    strand, are of one.
    """
    where = [
        (number, r.chrom, -1 - number if r.row is None else r.row, *span)
        for number, r in enumerate(records)
        if (span := _span(r))
    ]
    windows = pl.DataFrame(where, ["number", "chrom", "row", "start", "end"], orient="row")
    found = np.arange(len(records)) + len(where)  # behind the numbers of the stretches below
    if where:
        spans = windows.group_by("chrom", "row").agg(pl.min("start"), pl.max("end")).sort("chrom", "start", "row")
        reach = pl.col("end").cum_max().shift().over("chrom")  # of all that begin before
        begins = (pl.col("start") >= reach).fill_null(True)
        spans = spans.with_columns(begins.cum_sum().cast(pl.Int64).alias("stretch"))
        joined = windows.join(spans, on=["chrom", "row"], how="left", nulls_equal=True)
        found[joined["number"].to_numpy()] = joined["stretch"].to_numpy() - 1
    _, first, number = np.unique(_one_sequence(records, found), return_index=True, return_inverse=True)
    order: np.ndarray = np.argsort(np.argsort(first))[number]
    return order


def carved(records: Sequence[Record], share: float, rng: np.random.Generator) -> np.ndarray:
    """Which of the records make up about ``share`` of them, (n,) bool, drawn at random; no stretch is torn apart.

    There is one at least. A stretch that would make them more than the share is passed over, unless each would: then
    it is the smallest.
    """
    stretch = stretches(records)
    sizes = np.bincount(stretch)
    room, taken = max(1, round(share * len(records))), list[int]()
    for number in rng.permutation(len(sizes)).tolist():
        if sizes[number] <= room:
            taken.append(number)
            room -= int(sizes[number])
    held: np.ndarray = np.isin(stretch, taken or [int(sizes.argmin())])
    return held
