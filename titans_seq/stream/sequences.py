"""Records under a model: predictions, embeddings, and tracks a base, in memory that does not grow with length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby, pairwise
from math import lcm
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import expand
from titans_seq.checkpoint import SequenceModel, mean_of, to_tensors
from titans_seq.data.fasta import Block
from titans_seq.data.record import quoted
from titans_seq.data.reset import Reset
from titans_seq.data.windows import BEGIN, N, padded, reverse_complement
from titans_seq.errors import NumericFault
from titans_seq.memory import recorded_surprise, taken_surprise
from titans_seq.memory_state import MemoryState
from titans_seq.stream import Point, Steps, must_be_finite, not_finite
from titans_seq.tasks.pooling import Embedder
from titans_seq.tasks.positions import TokenRows

TRACKS = ("loglik", "entropy", "surprise")
BLOCK = 4096  # tokens of a long record that are read at once, or the whole segments in so many
TOGETHER = 2**18  # tokens that are read at once at most, of one record or of several side by side


def _batch(
    codes: list[np.ndarray], previous: list[int], device: torch.device, length: int | None = None
) -> dict[str, Tensor]:
    return to_tensors({"tokens": padded(codes, length), "previous": np.array(previous, np.int64)}, device)


def block_size(config: BackboneConfig, bin: int = 1) -> int:
    """Bases of a long record that are read at once: whole words, segments, where a backbone has them, and bins.

    Of a backbone that reads records as a whole, all of one.
    """
    if config.whole:
        return TOGETHER
    segment = lcm(getattr(config.block, "segment", 1) * config.embedding.stride, bin)
    return segment * max(1, BLOCK // segment)


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


@torch.inference_mode()
def learned_start(model: SequenceModel) -> Stream:
    """The stream of a model that has read nothing."""
    return Stream(model.backbone.initial_state(1))


def carried_template(model: SequenceModel, head: Head | None = None) -> Carried:
    """What `sequence_steps` carries."""
    return Carried(_nothing(model.head if head is None else head, model), learned_start(model))


def _device(model: SequenceModel) -> torch.device:
    return next(model.parameters()).device


def _nothing(head: Head, model: SequenceModel) -> Any:
    """What a head keeps of one record of which nothing is read."""
    return head.start(_batch([np.zeros(1, np.uint8)], [BEGIN], _device(model)))


def _groups(
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


def units_of(
    blocks: Iterable[Block], batch_size: int, pad: bool, both_strands: bool = False
) -> Iterator[tuple[int, int]]:
    """Records that are read together, each from the learned memory: how many are done after them, and their bases."""
    bases = 0
    together = _whole_records(blocks, batch_size) if both_strands else _groups(blocks, Point(), batch_size, True, pad)
    for group in together:
        bases += sum(len(block.codes) for block in group)
        if group[-1].last:
            yield group[-1].record + 1, bases
            bases = 0


def advance(
    model: SequenceModel, head: Head, codes: np.ndarray, stream: Stream
) -> tuple[Tensor, dict[str, Tensor], Stream]:
    """Read codes (n,), one at least, behind a stream: their hidden rows (1, n, D), batch, and the stream after them.

    Of words side by side n is whole words, unless the record ends with them.
    """
    batch = _batch([codes], [stream.previous], _device(model))
    hidden, memory = model.hidden(batch, stream.memory, head)
    return hidden, batch, Stream(memory, int(head.unread(batch)))


class _Walk:
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


def _read_together(
    model: SequenceModel, head: Head, group: list[Block], start: Stream, more: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden rows (B, T, D) of whole records side by side, each from ``start``; T is ``more`` than the longest has."""
    longest = max(1, *(len(block.codes) for block in group)) + more
    batch = _batch([block.codes for block in group], [start.previous] * len(group), _device(model), longest)
    hidden, _ = model.hidden(batch, expand(start.memory, len(group)), head)
    return hidden, batch


def _past(point: Point, group: list[Block]) -> Point:
    """Where the job stands after whole records that were read together."""
    return Point(point.done + len(group), 0, point.tokens + sum(len(block.codes) for block in group))


Found = tuple[list[Block], Any, Point]  # blocks, what was found of each, and where the job stands after them


@torch.inference_mode()
def sequence_steps(
    model: SequenceModel,
    blocks: Iterable[Block],
    batch_size: int,
    point: Point,
    course: Course | None = None,
    embed: Embedder | None = None,
    both_strands: bool = False,
) -> Steps:
    """Rows of predictions, or embeddings, for records that come in blocks of one size, one a record, in order.

    Records of one block are read side by side; a longer one is streamed alone, block by block, with its memory
    carried on, so that memory use does not grow with its length. With ``both_strands`` a row is made of the mean of
    what a record and its other strand give, and a record is held as a whole, a byte a base.
    """
    course = Course(learned_start(model)) if course is None else course
    head: Head = model.head if embed is None else embed
    task = model.task if embed is None else embed

    def read(blocks: Iterable[Block], point: Point) -> Iterator[Found]:
        return _outputs(model, head, blocks, batch_size, point, course)

    size = block_size(model.backbone.config)
    steps = read(blocks, point)
    if both_strands:  # of a record there is one output
        steps = _with_other_strand(read, blocks, batch_size, point, size, lambda outputs: outputs[0], _mean_output)
    for group, output, after in steps:
        if not group:
            yield [], after
            continue
        must_be_finite(output, (f"record {quoted(block.id)}" for block in group))
        columns = task.columns(output)
        yield [{"id": block.id, **{c: v[i] for c, v in columns.items()}} for i, block in enumerate(group)], after


def _outputs(
    model: SequenceModel, head: Head, blocks: Iterable[Block], batch_size: int, point: Point, course: Course
) -> Iterator[Found]:
    """What a head finds of records, a row of tensors a record."""
    nothing = _nothing(head, model)
    walk = _Walk(model, head, course, point.carried)
    so_far = point.carried.so_far if point.inside else nothing
    # behind a record of a backbone that looks ahead padding would show: it would reach back into it
    for group in _groups(blocks, point, batch_size, not course.alone, model.backbone.config.padded):
        if len(group) > 1:
            hidden, batch = _read_together(model, head, group, course.start)
            point = _past(point, group)
            yield group, head.result(head.fold(head.start(batch), hidden, batch)), point
            continue
        (block,) = group
        so_far = so_far if block.start else nothing
        for hidden, batch in walk.read(block):
            so_far = head.fold(so_far, hidden, batch)
        point = walk.point(point, block, so_far)
        yield (group, head.result(so_far), point) if block.last else ([], None, point)


def _with_other_strand(
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
    for records in _whole_records(blocks, batch_size):
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


def _whole_records(blocks: Iterable[Block], most: int) -> Iterator[list[Block]]:
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


def _stacked(rows: list[Any]) -> Any:
    """Rows of tensors, or of named tuples of them, as one."""
    if isinstance(rows[0], Tensor):
        return torch.cat(rows)
    return type(rows[0])(*(_stacked(list(parts)) for parts in zip(*rows, strict=True)))


def _mean_output(group: list[Block], output: Any, other: dict[int, Any]) -> Any:
    return mean_of(output, _stacked([other[block.record] for block in group]))


def settled(model: SequenceModel, stream: Stream) -> Stream:
    """The stream after the token that a language model left unread: where one goes on that reads each at once."""
    if stream.previous == BEGIN:
        return stream
    with torch.inference_mode():
        unread = model.head.unpacked(torch.tensor([stream.previous], device=_device(model)))
        _, memory = model.backbone(unread, stream.memory)
    return Stream(memory)


@torch.inference_mode()
def track_steps(
    model: SequenceModel,
    blocks: Iterable[Block],
    batch_size: int,
    point: Point,
    course: Course,
    tracks: Sequence[str] = TRACKS,
    both_strands: bool = False,
) -> Steps:
    """Rows of `TrackFile` under a language model, one a block: for every base A, C, G or T

    ``loglik``: ln p of the base that stands there, from those before it, in nats;
    ``entropy``: of what was predicted there, in nats;
    ``surprise``: ‖∂ℓ/∂W‖ of its token at the memory that it met, the norm over layers, the mean over heads and blocks.

    With ``both_strands`` each is the mean of its value along the strand and along the other one, where ln p is of the
    base opposite, from those behind it; a record is held as a whole, with its values along the other strand.
    """
    with recorded_surprise(model) if "surprise" in tracks else nullcontext() as seen:

        def read(blocks: Iterable[Block], point: Point) -> Iterator[Found]:
            return _values(model, blocks, batch_size, point, course, tracks, seen)

        size = block_size(model.backbone.config)
        steps = read(blocks, point)
        if both_strands:
            steps = _with_other_strand(read, blocks, batch_size, point, size, _turned, _mean_values)
        for group, values, after in steps:
            rows = [
                {"chrom": block.id, "start": block.start, "tracks": list(tracks), "values": part}
                for block, part in zip(group, values or (), strict=True)
                if len(block.codes)
            ]
            yield rows, after


def _values(
    model: SequenceModel,
    blocks: Iterable[Block],
    batch_size: int,
    point: Point,
    course: Course,
    tracks: Sequence[str],
    seen: list[list[Tensor]] | None,
) -> Iterator[Found]:
    """Values (K, n) of each block; NaN where there is no base."""
    head, word = model.head, model.head.word
    walk = _Walk(model, head, course, point.carried)

    def values(hidden: Tensor, batch: dict[str, Tensor], surprise: Tensor | None) -> np.ndarray:
        """Tracks (B, K, T) of hidden rows (B, T, D)."""
        found: dict[str, Callable[[], Any]] = {
            "loglik": lambda: head.token_loglik(hidden, batch),
            "entropy": lambda: head.token_entropy(hidden, batch),
            "surprise": lambda: surprise,
        }
        stacked = torch.stack([found[name]() for name in tracks], 1)
        return stacked.where(batch["tokens"][:, None] < N, torch.nan).cpu().numpy()

    def finite(block: Block, found: np.ndarray) -> np.ndarray:
        if np.isinf(found).any() or np.isnan(found[:, block.codes < N]).any():
            raise NumericFault(not_finite(f"record {quoted(block.id)}"))
        return found

    for group in _groups(blocks, point, batch_size, not course.alone, pad=True):
        if len(group) > 1:
            # a token is read one behind its own, so the last one needs one more
            hidden, batch = _read_together(model, head, group, course.start, more=word)
            surprise = None
            if seen is not None:
                surprise = torch.nn.functional.pad(_met(seen, word)[:, word:], (0, word))
                surprise = surprise[:, : batch["tokens"].shape[1]]
            found = values(hidden, batch, surprise)
            point = _past(point, group)
            yield group, [finite(b, found[i, :, : len(b.codes)]) for i, b in enumerate(group)], point
            continue
        (block,) = group
        parts = [np.empty((len(tracks), 0), np.float32)]
        for hidden, batch in walk.read(block):
            surprise = None
            if seen is not None:
                first, places = _met(seen, word)[:, word:], batch["tokens"].shape[1]
                model.backbone(head.unpacked(head.unread(batch)), walk.stream.memory)  # behind which the walk stands
                surprise = torch.cat([first, _met(seen, word)], 1)[:, :places]
            parts.append(values(hidden, batch, surprise)[0])
        point = walk.point(point, block, None)
        yield group, [finite(block, np.concatenate(parts, 1))], point


def _turned(parts: list[np.ndarray]) -> np.ndarray:
    """Values (K, T) along the strand of those of blocks along the other one."""
    return np.concatenate(parts, 1)[:, ::-1]


def _mean_values(group: list[Block], values: list[np.ndarray], other: dict[int, np.ndarray]) -> list[np.ndarray]:
    """Values (K, n) of blocks averaged with those of their records along the other strand."""
    there = (other[block.record][:, block.start : block.start + len(block.codes)] for block in group)
    return [(own + turned) / 2 for own, turned in zip(values, there, strict=True)]


@torch.inference_mode()
def position_steps(
    model: SequenceModel,
    blocks: Iterable[Block],
    batch_size: int,
    point: Point,
    course: Course,
    track: str | None = None,
    both_strands: bool = False,
) -> Steps:
    """Rows of `TrackFile`, one a block, under a task that answers along the sequence: its tracks, or one of them.

    With ``both_strands`` they are made of the mean of the outputs along both strands.
    """
    names, bin = model.task.track_names, model.head.bin
    kept = [i for i, name in enumerate(names) if track in (None, name)]

    def read(blocks: Iterable[Block], point: Point) -> Iterator[Found]:
        return _positions(model, model.head, blocks, batch_size, point, course)

    size = block_size(model.backbone.config, bin)
    steps = read(blocks, point)
    if both_strands:
        steps = _with_other_strand(read, blocks, batch_size, point, size, _turned, _mean_values)
    for group, outputs, after in steps:
        rows = []
        for block, output in zip(group, outputs or (), strict=True):
            if len(block.codes):
                values = model.task.tracks(torch.from_numpy(output.T.copy())[None])[0, kept].numpy()
                shown = [names[i] for i in kept]
                rows.append({"chrom": block.id, "start": block.start, "tracks": shown, "values": values})
        yield rows, after


@torch.inference_mode()
def token_steps(model: SequenceModel, blocks: Iterable[Block], batch_size: int, point: Point, course: Course) -> Steps:
    """Rows of `TokenFile`, one a block: the hidden row of every token."""
    stride = model.backbone.config.embedding.stride
    head = TokenRows(model.backbone.config.width)
    for group, outputs, after in _positions(model, head, blocks, batch_size, point, course):
        rows = [
            {"id": block.id, "start": block.start, "stride": stride, "embedding": output[:, ::stride].T}
            for block, output in zip(group, outputs or (), strict=True)
        ]
        yield rows, after


def _positions(
    model: SequenceModel,
    head: Any,
    blocks: Iterable[Block],
    batch_size: int,
    point: Point,
    course: Course,
) -> Iterator[Found]:
    """Outputs (C, n) of each block, for each base that of its bin, under a `PositionHead` or `TokenRows`."""
    walk = _Walk(model, head, course, point.carried)

    def outputs(group: list[Block], hidden: Tensor, tokens: Tensor) -> list[np.ndarray]:
        batch = {"tokens": tokens}
        output = head.result(head.fold(head.start(batch), hidden, batch))
        must_be_finite(output, (f"record {quoted(block.id)}" for block in group))
        wide = output.float().movedim(-1, 1).repeat_interleave(head.bin, -1).cpu().numpy()
        return [own[:, : len(block.codes)] for block, own in zip(group, wide, strict=True)]

    for group in _groups(blocks, point, batch_size, not course.alone, model.backbone.config.padded):
        if len(group) > 1:
            hidden, batch = _read_together(model, head, group, course.start)
            point = _past(point, group)
            yield group, outputs(group, hidden, batch["tokens"]), point
            continue
        read = [(hidden, batch["tokens"]) for hidden, batch in walk.read(group[0])]
        point = walk.point(point, group[0], None)
        found = outputs(group, *(torch.cat(parts, 1) for parts in zip(*read, strict=True))) if read else None
        yield group, found or [np.zeros((head.outputs, 0), np.float32)], point


def _met(seen: list[list[Tensor]], word: int) -> Tensor:
    """Surprise (B, T) of what was read since the last call: the mean over heads and blocks, a base that of its word."""
    return taken_surprise(seen).repeat_interleave(word, 1)


@torch.inference_mode()
def token_loglik(model: SequenceModel, codes: np.ndarray, block: int | None = None) -> np.ndarray:
    """ln p of every base of one record (T,) under a language model that reads it in blocks; 0 where it is N."""
    found, stream = [], learned_start(model)
    block = block or block_size(model.backbone.config)
    for start in range(0, len(codes), block):
        hidden, batch, stream = advance(model, model.head, codes[start : start + block], stream)
        found.append(model.head.token_loglik(hidden, batch)[0].cpu().numpy())
    return np.concatenate(found)
