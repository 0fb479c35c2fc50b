"""Both strands of records: each is read a second time, from its other end."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
from torch import Tensor

from titans_seq.data.fasta import Block
from titans_seq.data.windows import reverse_complement
from titans_seq.stream import Point
from titans_seq.stream.walk import TOGETHER, Found


def with_other_strand(
    read: Callable[[Iterable[Block], Point], Iterator[Found]],
    blocks: Iterable[Block],
    batch_size: int,
    point: Point,
    size: int,
    joined: Callable[[list[Any]], Any],
    mean: Callable[[list[Block], Any, dict[int, Any]], Any],
) -> Iterator[Found]:
    """What ``read`` finds of records, each after its other strand.

    ``joined`` makes one of what was found of a record's blocks on its other strand, and ``mean`` one of both strands.
    Points are those of the records themselves: a job that goes on inside one reads its other strand again.
    """
    for records in whole_records(blocks, batch_size):
        if records[-1].record < point.done:
            continue
        parts: dict[int, list[Any]] = {}
        for group, found, _ in read(_other_strands(records, size), Point()):
            for row, block in enumerate(group):
                parts.setdefault(block.record, []).append(_row(found, row))
            yield [], None, point
        other = {record: joined(found) for record, found in parts.items()}
        for group, found, after in read(records, point):
            point = after
            yield group, mean(group, found, other) if group else None, point


def whole_records(blocks: Iterable[Block], most: int) -> Iterator[list[Block]]:
    """Blocks of up to ``most`` whole records, or of fewer that have `TOGETHER` bases."""
    held: list[Block] = []
    bases = 0
    for block in blocks:
        held.append(block)
        bases += len(block.codes)
        if block.last and (bases >= TOGETHER or block.record - held[0].record + 1 == most):
            yield held
            held, bases = [], 0
    if held:
        yield held


def _other_strands(blocks: list[Block], size: int) -> Iterator[Block]:
    """The other strands of whole records, each read in its own direction, in blocks of ``size`` bases."""
    for number, group in groupby(blocks, lambda block: block.record):
        parts = list(group)
        codes = reverse_complement(np.concatenate([part.codes for part in parts]))
        for start in range(0, max(1, len(codes)), size):
            piece = codes[start : start + size]
            yield Block(number, parts[0].id, start, piece, start + size >= len(codes))


def _row(found: Any, row: int) -> Any:
    """One row of what was found: tensors, named tuples of them, or a list."""
    if isinstance(found, Tensor):
        return found[row : row + 1]
    return found[row] if isinstance(found, list) else type(found)(*(_row(part, row) for part in found))
