"""Values along records: tracks of a language model, outputs a bin of a task, and hidden rows a token."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_seq.checkpoint import SequenceModel
from titans_seq.data.fasta import Block
from titans_seq.data.record import quoted
from titans_seq.data.windows import N
from titans_seq.errors import NumericFault
from titans_seq.memory import recorded_surprise, taken_surprise
from titans_seq.stream import Point, Steps, must_be_finite, not_finite
from titans_seq.stream.strands import with_other_strand
from titans_seq.stream.walk import (
    Course,
    Found,
    Walk,
    advance,
    block_size,
    groups,
    learned_start,
    past,
    read_together,
)
from titans_seq.tasks.positions import TokenRows

TRACKS = ("loglik", "entropy", "surprise")


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
            steps = with_other_strand(read, blocks, batch_size, point, size, _turned, _mean_values)
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
    walk = Walk(model, head, course, point.carried)

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

    for group in groups(blocks, point, batch_size, not course.alone, pad=True):
        if len(group) > 1:
            # a token is read one behind its own, so the last one needs one more
            hidden, batch = read_together(model, head, group, course.start, more=word)
            surprise = None
            if seen is not None:
                surprise = torch.nn.functional.pad(_met(seen, word)[:, word:], (0, word))
                surprise = surprise[:, : batch["tokens"].shape[1]]
            found = values(hidden, batch, surprise)
            point = past(point, group)
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


def _met(seen: list[list[Tensor]], word: int) -> Tensor:
    """Surprise (B, T) of what was read since the last call: the mean over heads and blocks, a base that of its word."""
    return taken_surprise(seen).repeat_interleave(word, 1)


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
        steps = with_other_strand(read, blocks, batch_size, point, size, _turned, _mean_values)
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
    walk = Walk(model, head, course, point.carried)

    def outputs(group: list[Block], hidden: Tensor, tokens: Tensor) -> list[np.ndarray]:
        batch = {"tokens": tokens}
        output = head.result(head.fold(head.start(batch), hidden, batch))
        must_be_finite(output, (f"record {quoted(block.id)}" for block in group))
        wide = output.float().movedim(-1, 1).repeat_interleave(head.bin, -1).cpu().numpy()
        return [own[:, : len(block.codes)] for block, own in zip(group, wide, strict=True)]

    for group in groups(blocks, point, batch_size, not course.alone, model.backbone.config.padded):
        if len(group) > 1:
            hidden, batch = read_together(model, head, group, course.start)
            point = past(point, group)
            yield group, outputs(group, hidden, batch["tokens"]), point
            continue
        read = [(hidden, batch["tokens"]) for hidden, batch in walk.read(group[0])]
        point = walk.point(point, group[0], None)
        found = outputs(group, *(torch.cat(parts, 1) for parts in zip(*read, strict=True))) if read else None
        yield group, found or [np.zeros((head.outputs, 0), np.float32)], point


def _turned(parts: list[np.ndarray]) -> np.ndarray:
    """Values (K, T) along the strand of those of blocks along the other one."""
    return np.concatenate(parts, 1)[:, ::-1]


def _mean_values(group: list[Block], values: list[np.ndarray], other: dict[int, np.ndarray]) -> list[np.ndarray]:
    """Values (K, n) of blocks averaged with those of their records along the other strand."""
    there = (other[block.record][:, block.start : block.start + len(block.codes)] for block in group)
    return [(own + turned) / 2 for own, turned in zip(values, there, strict=True)]


@torch.inference_mode()
def token_loglik(model: SequenceModel, codes: np.ndarray, block: int | None = None) -> np.ndarray:
    """ln p of every base of one record (T,) under a language model that reads it in blocks; 0 where it is N."""
    found, stream = [], learned_start(model)
    block = block or block_size(model.backbone.config)
    for start in range(0, len(codes), block):
        hidden, batch, stream = advance(model, model.head, codes[start : start + block], stream)
        found.append(model.head.token_loglik(hidden, batch)[0].cpu().numpy())
    return np.concatenate(found)
