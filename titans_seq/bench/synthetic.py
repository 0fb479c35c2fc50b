"""Generated tasks of recall and of state: seeded, and small enough to know what the right answer is.

Each draws tokens (B, T) and targets (B, T), int64, from numpy's random numbers. ``targets[:, t]`` is what a model
should say that has read the tokens up to t, the t-th included, and `NOTHING` where nothing is asked; the answer
follows from what was read. Where the answer is a token, it stands at t + 1: one loop of training serves all.
"""

from collections.abc import Callable
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

NOTHING = -100  # no target; what torch's cross-entropy leaves out
BASES, N = 4, 4  # codes below N are A C G T
# A stands at its begin alone, so that it cannot overlap itself
MARKER = np.array([0, 1, 2, 3, 3, 2, 1, 1])
PERMUTATIONS = np.array(list(permutations(range(5))))  # the elements of S5, the identity first

Background = Callable[[Generator, int, int], np.ndarray]  # (random numbers, length, batch) to bases (B, T)


class Drawn(NamedTuple):
    """A batch of a task."""

    tokens: np.ndarray  # (B, T)
    targets: np.ndarray  # (B, T)


def _unasked(tokens: np.ndarray) -> Drawn:
    return Drawn(tokens, np.full_like(tokens, NOTHING))


def associative_recall(
    rng: Generator, length: int, batch: int, *, pairs: int, keys: int, values: int, power: float | None = 0.01
) -> Drawn:
    """Pairs of key and value, then every key once more, asking for its value (MQAR; Arora et al. 2023, section 3).

    Args:
        rng: random numbers.
        length: T; the pairs take the first 2 ``pairs`` tokens, random values fill the places between the questions.
        batch: B.
        pairs: of different keys, in a sequence.
        keys: tokens 0 to keys - 1.
        values: the tokens behind them.
        power: a of the density $a g^{a-1}$ of the gap g between the pairs and a question; None for even gaps.

    Raises:
        ValueError: if the sequence is too short for pairs and questions, or the keys are too few.
    """
    slots = length // 2 - pairs
    if slots < pairs or keys < pairs:
        raise ValueError(f"{pairs} pairs need {4 * pairs} tokens and {pairs} keys, got {length} and {keys}.")
    tokens = rng.integers(keys, keys + values, (batch, length))
    drawn = _unasked(tokens)
    chosen = rng.permuted(np.tile(np.arange(keys), (batch, 1)), axis=1)[:, :pairs]
    tokens[:, 0 : 2 * pairs : 2] = chosen
    weight = np.ones(slots) if power is None else np.arange(1, slots + 1) ** (power - 1)
    # the smallest of exponential waiting times are a draw by weight without replacement
    slot = np.argsort(rng.exponential(size=(batch, slots)) / weight, axis=1)[:, :pairs]
    asked, row = 2 * (pairs + slot), np.arange(batch)[:, None]
    value = tokens[:, 1 : 2 * pairs : 2]
    tokens[row, asked], tokens[row, asked + 1], drawn.targets[row, asked] = chosen, value, value
    return drawn


def marked(tokens: np.ndarray) -> np.ndarray:
    """Where the marker begins, (B, T) to (B, T - 7) bool."""
    last = tokens.shape[1] - len(MARKER) + 1
    found = np.ones((len(tokens), last), bool)
    for place, base in enumerate(MARKER):
        found &= tokens[:, place : place + last] == base
    return found


def _unmark(rng: Generator, tokens: np.ndarray, starts: np.ndarray, planted: np.ndarray) -> None:
    """Change a base that is not ``planted`` (B, T) of every marker of ``tokens`` (B, T) but those at ``starts``."""
    while True:
        found = marked(tokens)
        np.put_along_axis(found, starts, False, axis=1)
        row, start = np.nonzero(found)
        if not len(row):
            return
        place = start + np.argmin(planted[row[:, None], start[:, None] + np.arange(len(MARKER))], axis=1)
        tokens[row, place] = (tokens[row, place] + rng.integers(1, BASES, len(row))) % BASES


def needle(
    rng: Generator,
    length: int,
    batch: int,
    *,
    key: int,
    value: int,
    questions: int = 1,
    background: Background | None = None,
) -> Drawn:
    """Marker, key and value somewhere in a background of bases, and later marker and key, asking for the value.

    The marker is nowhere else, whatever the background. The last question stands at the end, the places of the needle
    and of the other questions are random; the value that was asked for follows each.

    Args:
        rng: random numbers.
        length: T.
        batch: B.
        key: bases of the key.
        value: bases of the value, each asked for when those before it have been read.
        questions: how often it is asked for; more than once gives training more to learn from.
        background: draws bases (B, T), in which random ones then stand for N; random bases if not given.

    Raises:
        ValueError: if the parts do not fit, or key and value are as long as the marker, which could then be in them.
    """
    size = len(MARKER) + key + value
    room = length - (questions + 1) * size + 1  # of the last question the last base is asked for, not read
    if room < 0 or key + value >= len(MARKER) or min(key, value, questions) < 1:
        raise ValueError(
            f"a needle of {size} bases and {questions} questions do not fit into {length}, "
            f"or key and value have not 1 base each and less than {len(MARKER)} together."
        )
    bases = rng.integers(0, BASES, (batch, length + 1))
    if background is not None:
        real = background(rng, length + 1, batch)
        bases = np.where(real < N, real, bases)
    drawn = _unasked(bases)
    tokens, targets = drawn
    secret = rng.integers(0, BASES, (batch, 1, size))
    secret[..., : len(MARKER)] = MARKER
    gaps = np.sort(rng.integers(0, room + 1, (batch, questions)), axis=1)
    start = np.concatenate([gaps, np.full((batch, 1), room)], axis=1) + size * np.arange(questions + 1)
    place = start[..., None] + np.arange(size)  # (B, 1 + questions, size)
    row = np.arange(batch)[:, None, None]
    planted = np.zeros(tokens.shape, bool)
    tokens[row, place], planted[row, place] = secret, True
    targets[row, place[:, 1:, -value:] - 1] = secret[..., -value:]
    _unmark(rng, tokens, start, planted)
    return Drawn(tokens[:, :-1], targets[:, :-1])


def copying(rng: Generator, length: int, batch: int, *, symbols: int) -> Drawn:
    """T / 2 symbols, a sign (the token ``symbols``), and the same once more.

    Raises:
        ValueError: if the length is odd.
    """
    if length % 2:
        raise ValueError(f"a sequence and its copy have an even length, got {length}.")
    first = rng.integers(0, symbols, (batch, length // 2))
    sign = np.full((batch, 1), symbols)
    drawn = _unasked(np.concatenate([first, sign, first[:, :-1]], axis=1))
    drawn.targets[:, length // 2 :] = first
    return drawn


def parity(rng: Generator, length: int, batch: int) -> Drawn:
    """Bits; at each, whether the ones so far are odd."""
    bits = rng.integers(0, 2, (batch, length))
    return Drawn(bits, bits.cumsum(1) % 2)


def s5(rng: Generator, length: int, batch: int, *, swaps: bool = False) -> Drawn:
    r"""Permutations of five things; at each, the product so far, $s_t = p_t \circ s_{t-1}$ (the word problem of S5).

    Tokens and targets are rows of `PERMUTATIONS`. ``swaps``: only the ten that exchange two things.
    """
    number = {tuple(p): i for i, p in enumerate(PERMUTATIONS.tolist())}
    moved = (PERMUTATIONS != PERMUTATIONS[0]).sum(1)
    tokens = rng.choice(np.flatnonzero(moved == 2) if swaps else len(PERMUTATIONS), (batch, length))
    targets = np.empty_like(tokens)
    state = np.tile(PERMUTATIONS[0], (batch, 1))
    for t in range(length):
        state = np.take_along_axis(PERMUTATIONS[tokens[:, t]], state, axis=1)
        targets[:, t] = [number[tuple(p)] for p in state.tolist()]
    return Drawn(tokens, targets)
