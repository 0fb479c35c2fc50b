"""Regions of a genome that are held out of training."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from titans_seq.data.aliases import Aliases, several
from titans_seq.data.record import Record, quoted
from titans_seq.errors import InputError

_PLACED = re.compile(r"(.+):([\d,]+)-([\d,]+)")  # an id may have colons of its own


class Region(NamedTuple):
    """A stretch of one record, 0-based and half-open as in BED; ``end`` is None where it is the record's."""

    record: str
    start: int = 0
    end: int | None = None


def read_region(text: str) -> Region:
    """Read ``NAME`` or ``NAME:START-END``; numbers may have commas. `HeldOut` prefers a record that is called so.

    Raises:
        ValueError: if it begins where it ends, or behind.
    """
    found = _PLACED.fullmatch(text)
    if found is None:
        return Region(text)
    start, end = (int(number.replace(",", "")) for number in found.groups()[1:])
    if start >= end:
        raise ValueError(f"region {text} has no base: its start must be less than its end (0-based, half-open)")
    return Region(found[1], start, end)


class HeldOut:
    """What of each record is trained on, validated with (1), or neither (2).

    Args:
        validation: regions to validate with.
        test: regions that are left out; where both overlap too.
        names: of all records; other names of chromosomes that mean them are understood (`Aliases`).

    Raises:
        InputError: if a region is of no record.
    """

    def __init__(self, validation: Sequence[str], test: Sequence[str], names: Iterable[str]):
        known = list(dict.fromkeys(names))
        texts = [(text, kind) for kind, part in ((1, validation), (2, test)) for text in part]
        self.regions = [(Region(text) if text in known else read_region(text), kind) for text, kind in texts]
        wanted = {region.record: 0 for region, _ in self.regions}
        self.names = Aliases().translate(wanted, known, "Regions that are held out", "the FASTA")
        for (text, _), (region, _) in zip(texts, self.regions, strict=True):
            if region.record not in self.names:
                raise InputError(f"Region {text} is of no record of these files. They have {several(known)}.")

    def pieces(self, record: Record) -> Iterator[tuple[Record, int]]:
        """The record in pieces, each of one use: 0 to train on, 1 to validate with, 2 neither.

        Raises:
            InputError: if a region goes beyond the record's end.
        """
        spans = []
        for region, kind in self.regions:
            if self.names[region.record] == record.id:
                end = len(record) if region.end is None else region.end
                if end > len(record):
                    raise InputError(
                        f"Region {region.record}:{region.start}-{end} goes beyond the end of {quoted(record.id)}, "
                        f"which has {len(record):,} bases."
                    )
                spans.append((region.start, end, kind))
        cuts = sorted({0, len(record), *(at for start, end, _ in spans for at in (start, end))})
        used = [
            (a, b, max((kind for start, end, kind in spans if start <= a < end), default=0)) for a, b in pairwise(cuts)
        ]
        for kind, group in groupby(used, lambda piece: piece[2]):
            parts = list(group)
            yield Record(record.id, record.codes[parts[0][0] : parts[-1][1]]), kind
