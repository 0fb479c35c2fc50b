"""A memory that walks through records: where a stream stands, how it goes on, and what is read side by side."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import lcm
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import expand
from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.fasta import Block
from titans_seq.data.reset import Reset
from titans_seq.data.windows import BEGIN, padded
from titans_seq.memory_state import MemoryState
from titans_seq.stream import Point

BLOCK = 4096  # tokens of a long record that are read at once, or the whole segments in so many
TOGETHER = 2**18  # tokens that are read at once at most, of one record or of several side by side


class Stream(NamedTuple):
    """A sequence as it is read on: what a state file of sequences holds."""

    memory: MemoryState
    previous: int = BEGIN  # the token that a language model has not read yet; BEGIN where there is none


class Course(NamedTuple):
    """How the memory goes through the records.

    By default each record starts from the learned memory. A record that follows another without a reset is read
    as if it stood right behind it: a language model goes on from its last base.
    """

    start: Stream  # where the stream begins, and what a reset goes back to
    reset: Reset = Reset()
    keep: bool = False  # whether the state after the last record is asked for

    @property
    def alone(self) -> bool:
        """Whether records are read one after another, not side by side."""
        return self.keep or self.reset.at != "record"


class Carried(NamedTuple):
    """What a job goes on with after a block."""

    so_far: Any  # what the head keeps of the open record
    stream: Stream
    run: int = 0  # N at the end of what was read of it


class Head(Protocol):
    """What makes a row of a record's hidden rows: the head of a task, or an `Embedder`."""

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Tokens (B, T) as the backbone reads them."""

    def unread(self, batch: dict[str, Tensor]) -> Tensor:
        """The token (B,) that a stream has not read after a batch, of a language model; else BEGIN."""

    def start(self, batch: dict[str, Tensor]) -> Any:
        """Nothing read."""

    def fold(self, so_far: Any, hidden: Tensor, batch: dict[str, Tensor]) -> Any:
        """Add one block, hidden (B, T, D)."""

    def result(self, read: Any) -> Any:
        """What a row is made of."""


Found = tuple[list[Block], Any, Point]  # blocks, what was found of each, and where the job stands after them


def block_size(config: BackboneConfig, bin: int = 1) -> int:
    """Bases of a long record that are read at once: whole words, segments, where a backbone has them, and bins.

    Of a backbone that reads records as a whole, all of one.
    """
    if config.whole:
        return TOGETHER
    segment = lcm(getattr(config.block, "segment", 1) * config.embedding.stride, bin)
    return segment * max(1, BLOCK // segment)


@torch.inference_mode()
def learned_start(model: SequenceModel) -> Stream:
    """The stream of a model that has read nothing."""
    return Stream(model.backbone.initial_state(1))


def carried_template(model: SequenceModel, head: Head | None = None) -> Carried:
    """What `sequence_steps` carries."""
    return Carried(nothing_read(model.head if head is None else head, model), learned_start(model))


def settled(model: SequenceModel, stream: Stream) -> Stream:
    """The stream after the token that a language model left unread: where one goes on that reads each at once."""
    if stream.previous == BEGIN:
        return stream
    with torch.inference_mode():
        unread = model.head.unpacked(torch.tensor([stream.previous], device=_device(model)))
        _, memory = model.backbone(unread, stream.memory)
    return Stream(memory)


def nothing_read(head: Head, model: SequenceModel) -> Any:
    """What a head keeps of one record of which nothing is read."""
    return head.start(_batch([np.zeros(1, np.uint8)], [BEGIN], _device(model)))


def _batch(
    codes: list[np.ndarray], previous: list[int], device: torch.device, length: int | None = None
) -> dict[str, Tensor]:
    return to_tensors({"tokens": padded(codes, length), "previous": np.array(previous, np.int64)}, device)


def _device(model: SequenceModel) -> torch.device:
    return next(model.parameters()).device


def groups(
    blocks: Iterable[Block], point: Point, batch_size: int, side_by_side: bool, pad: bool
) -> Iterator[list[Block]]:
    """Blocks not read yet, in order: whole records to be read side by side, or one block."""
    waiting: list[Block] = []
    for block in blocks:
        if block.record < point.done or (block.record == point.done and block.start < point.inside):
            continue
        whole = side_by_side and block.start == 0 and block.last
        alike = whole and (pad or not waiting or len(block.codes) == len(waiting[0].codes))
        most = max(len(b.codes) for b in (*waiting, block)) * (len(waiting) + 1)
        if waiting and (not alike or most > TOGETHER):
            yield waiting
            waiting = []
        waiting.append(block)
        if not whole or len(waiting) == batch_size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def advance(
    model: SequenceModel, head: Head, codes: np.ndarray, stream: Stream
) -> tuple[Tensor, dict[str, Tensor], Stream]:
    """Read codes (n,), one at least, behind a stream: their hidden rows (1, n, D), batch, and the stream after them.

    Of words side by side n is whole words, unless the record ends with them.
    """
    batch = _batch([codes], [stream.previous], _device(model))
    hidden, memory = model.hidden(batch, stream.memory, head)
    return hidden, batch, Stream(memory, int(head.unread(batch)))


class Walk:
    """One stream through the records, block by block."""

    def __init__(self, model: SequenceModel, head: Head, course: Course, carried: Carried | None):
        self.model, self.head, self.course = model, head, course
        self.stream, self.run = (course.start, 0) if carried is None else (carried.stream, carried.run)

    def read(self, block: Block) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Hidden rows (1, n, D) and batch of each stretch of a block without a reset; none if it is empty."""
        reset = self.course.reset
        if block.start == 0 and reset.at != "never":
            self.stream, self.run = self.course.start, 0
        cuts, self.run = reset.inside(block.codes, block.start, self.run)
        for first, end in pairwise(sorted({0, *cuts, len(block.codes)})):
            if first in cuts:
                self.stream = self.course.start
            hidden, batch, self.stream = advance(self.model, self.head, block.codes[first:end], self.stream)
            yield hidden, batch

    def point(self, before: Point, block: Block, so_far: Any) -> Point:
        """Where the job stands after a block."""
        inside = 0 if block.last else block.start + len(block.codes)
        carried = Carried(so_far, self.stream, self.run)
        return Point(before.done + block.last, inside, before.tokens + len(block.codes), carried)


def read_together(
    model: SequenceModel, head: Head, group: list[Block], start: Stream, more: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden rows (B, T, D) of whole records side by side, each from ``start``; T is ``more`` than the longest has."""
    longest = max(1, *(len(block.codes) for block in group)) + more
    batch = _batch([block.codes for block in group], [start.previous] * len(group), _device(model), longest)
    hidden, _ = model.hidden(batch, expand(start.memory, len(group)), head)
    return hidden, batch


def past(point: Point, group: list[Block]) -> Point:
    """Where the job stands after whole records that were read together."""
    return Point(point.done + len(group), 0, point.tokens + sum(len(block.codes) for block in group))
