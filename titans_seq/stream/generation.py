"""DNA that a language model writes base by base, in memory that does not grow with its length."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from titans_seq.blocks import expand
from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import decode
from titans_seq.data.windows import N
from titans_seq.errors import NumericFault
from titans_seq.memory_state import MemoryState
from titans_seq.stream import Point, Steps
from titans_seq.stream.walk import Stream
from titans_seq.tasks.language import base_logits

PIECE = 64  # bases a sample between two points: less than a second's work


class Sampling(NamedTuple):
    """What is written, and how it is drawn."""

    length: int  # bases a sample
    samples: int = 1
    temperature: float = 1.0  # logits are divided by it; 0 takes the likeliest base each time
    top_k: int = 4  # draw from so many of the likeliest bases
    seed: int = 0
    batch_size: int = 64  # samples written side by side

    def numbers(self, done: int) -> range:
        """Numbers of the samples that are written together when ``done`` are."""
        return range(done, min(done + self.batch_size, self.samples))


class Writing(NamedTuple):
    """What a job goes on with in the midst of samples."""

    memory: MemoryState
    previous: Tensor  # (B,) tokens that are not read yet


def begun(model: SequenceModel, start: Stream, rows: int) -> Writing:
    """Samples of which nothing is written, behind a stream."""
    device = model.head.logits.weight.device
    return Writing(expand(start.memory, rows), torch.full((rows,), start.previous, device=device))


@torch.inference_mode()
def generation_steps(
    model: SequenceModel, start: Stream, opened: np.ndarray, sampling: Sampling, point: Point
) -> Steps:
    """Pieces of samples that are written side by side: rows with the number of the ``first``, and their ``bases``.

    Args:
        model: the language model.
        start: what was read before.
        opened: codes (m,) of a word that was begun there, of fewer bases than a word has.
        sampling: what is written.
        point: where to go on: ``done`` samples are whole, of the next ones ``inside`` bases are written.
    """
    while point.done < sampling.samples:
        numbers = sampling.numbers(point.done)
        writing = point.carried if point.inside else begun(model, start, len(numbers))
        prefix = np.zeros(0, np.uint8) if point.inside else opened
        words = -(-(PIECE + len(prefix)) // model.head.word)
        count = min(sampling.length - point.inside, words * model.head.word - len(prefix))
        codes, writing = _piece(model, writing, prefix, count, numbers, sampling, point.inside)
        row = {"first": numbers[0], "bases": [decode(sample) for sample in codes]}
        tokens = point.tokens + codes.size
        if point.inside + count == sampling.length:
            point = Point(point.done + len(numbers), 0, tokens)
        else:
            point = Point(point.done, point.inside + count, tokens, writing)
        yield [row], point


def _piece(
    model: SequenceModel,
    writing: Writing,
    prefix: np.ndarray,
    count: int,
    numbers: range,
    sampling: Sampling,
    written: int,
) -> tuple[np.ndarray, Writing]:
    """Codes (B, count) of samples behind ``written`` bases, and what is gone on with, if they end with a whole word."""
    draws = [np.random.default_rng([sampling.seed, number]) for number in numbers]
    for draw in draws:
        draw.bit_generator.advance(written)  # type: ignore[attr-defined]  # a number a base was drawn
    head, (memory, previous) = model.head, writing
    found = np.empty((len(draws), count), np.uint8)
    place, word = len(prefix), torch.full((len(draws), head.word), N, device=previous.device)
    word[:, :place] = torch.from_numpy(prefix)
    words = None
    for at in range(count):
        if words is None:
            hidden, memory = model.backbone(head.unpacked(previous), memory)
            words = head.logits(hidden[:, 0])
        logits = base_logits(words, word)[:, place].double().cpu().numpy()
        if not np.isfinite(logits).all():
            raise NumericFault(
                f"The model's output is not finite at base {written + at + 1:,}. Choose another model or prompt."
            )
        found[:, at] = drawn(logits, sampling, np.array([draw.random() for draw in draws]))
        word[:, place] = torch.from_numpy(found[:, at]).to(word)
        place += 1
        if place == head.word:
            previous = head.unread({"tokens": word})
            place, words, word = 0, None, torch.full_like(word, N)
    return found, Writing(memory, previous)


def drawn(logits: np.ndarray, sampling: Sampling, chance: np.ndarray) -> np.ndarray:
    """Classes (B,) drawn from logits (B, C) where numbers ``chance`` (B,) in [0, 1) fall."""
    order = np.argsort(-logits, 1, kind="stable")[:, : 1 if sampling.temperature == 0 else sampling.top_k]
    best = np.take_along_axis(logits, order, 1)
    p = np.exp((best - best[:, :1]) / (sampling.temperature or 1.0))
    place = (chance[:, None] * p.sum(1, keepdims=True) >= p.cumsum(1)).sum(1).clip(max=p.shape[1] - 1)
    found: np.ndarray = np.take_along_axis(order, place[:, None], 1)[:, 0]
    return found
