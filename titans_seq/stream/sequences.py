"""Records under a model, a row each: predictions or embeddings, in memory that does not grow with length."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from titans_seq.checkpoint import SequenceModel, mean_of
from titans_seq.data.fasta import Block
from titans_seq.data.record import quoted
from titans_seq.stream import Point, Steps, must_be_finite
from titans_seq.stream.strands import whole_records, with_other_strand
from titans_seq.stream.walk import (
    Course,
    Found,
    Head,
    Walk,
    block_size,
    groups,
    learned_start,
    nothing_read,
    past,
    read_together,
)
from titans_seq.tasks.pooling import Embedder


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
        steps = with_other_strand(read, blocks, batch_size, point, size, lambda outputs: outputs[0], _mean_output)
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
    nothing = nothing_read(head, model)
    walk = Walk(model, head, course, point.carried)
    so_far = point.carried.so_far if point.inside else nothing
    # behind a record of a backbone that looks ahead padding would show: it would reach back into it
    for group in groups(blocks, point, batch_size, not course.alone, model.backbone.config.padded):
        if len(group) > 1:
            hidden, batch = read_together(model, head, group, course.start)
            point = past(point, group)
            yield group, head.result(head.fold(head.start(batch), hidden, batch)), point
            continue
        (block,) = group
        so_far = so_far if block.start else nothing
        for hidden, batch in walk.read(block):
            so_far = head.fold(so_far, hidden, batch)
        point = walk.point(point, block, so_far)
        yield (group, head.result(so_far), point) if block.last else ([], None, point)


def units_of(
    blocks: Iterable[Block], batch_size: int, pad: bool, both_strands: bool = False
) -> Iterator[tuple[int, int]]:
    """Records that are read together, each from the learned memory: how many are done after them, and their bases."""
    bases = 0
    together = whole_records(blocks, batch_size) if both_strands else groups(blocks, Point(), batch_size, True, pad)
    for group in together:
        bases += sum(len(block.codes) for block in group)
        if group[-1].last:
            yield group[-1].record + 1, bases
            bases = 0


def _mean_output(group: list[Block], output: Any, other: dict[int, Any]) -> Any:
    return mean_of(output, _stacked([other[block.record] for block in group]))


def _stacked(rows: list[Any]) -> Any:
    """Rows of tensors, or of named tuples of them, as one."""
    if isinstance(rows[0], Tensor):
        return torch.cat(rows)
    return type(rows[0])(*(_stacked(list(parts)) for parts in zip(*rows, strict=True)))
