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
ASCII = 128
PERMUTATIONS = np.array(list(permutations(range(5))))  # the elements of S5, the identity first

Background = Callable[[Generator, int, int], np.ndarray]  # (random numbers, length, batch) to bases (B, T)


class Script(NamedTuple):
    """What needles are written in."""

    marker: np.ndarray  # (M,) before each key; no begin of it is an end of it, so that it cannot overlap itself
    letters: np.ndarray  # of keys and values, rising
    vocabulary: int  # codes below are tokens


NUCLEOTIDES = Script(np.array([0, 1, 2, 3, 3, 2, 1, 1]), np.arange(BASES), N)
TEXT = Script(np.frombuffer(b"recall ", np.uint8), np.arange(ord("a"), ord("z") + 1), ASCII)
MARKER = NUCLEOTIDES.marker


def _vocabulary(count: int) -> tuple[str, ...]:
    """Different words of two to eight letters, always the same ones."""
    rng = np.random.default_rng(0)
    drawn = (bytes(rng.choice(TEXT.letters, rng.integers(2, 9)).tolist()).decode("ascii") for _ in range(2 * count))
    return tuple(dict.fromkeys(drawn))[:count]


VOCABULARY = _vocabulary(512)


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


def marked(tokens: np.ndarray, script: Script = NUCLEOTIDES) -> np.ndarray:
    """Where the marker M begins, (B, T) to (B, T - M + 1) bool."""
    last = tokens.shape[1] - len(script.marker) + 1
    found = np.ones((len(tokens), last), bool)
    for place, symbol in enumerate(script.marker):
        found &= tokens[:, place : place + last] == symbol
    return found


def _unmark(rng: Generator, tokens: np.ndarray, starts: np.ndarray, planted: np.ndarray, script: Script) -> None:
    """Change a token that is not ``planted`` (B, T) of every marker of ``tokens`` (B, T) but those at ``starts``."""
    letters = script.letters
    while True:
        found = marked(tokens, script)
        np.put_along_axis(found, starts, False, axis=1)
        row, start = np.nonzero(found)
        if not len(row):
            return
        place = start + np.argmin(planted[row[:, None], start[:, None] + np.arange(len(script.marker))], axis=1)
        now = np.searchsorted(letters, tokens[row, place])
        tokens[row, place] = letters[(now + rng.integers(1, len(letters), len(row))) % len(letters)]


def _facts(rng: Generator, batch: int, chains: int, hops: int, key: int, value: int, script: Script) -> np.ndarray:
    """Facts (B, chains, hops, marker + key + value), no key twice; each value but a chain's last is the next key."""
    begin = len(script.marker)

    def draw(rows: int) -> np.ndarray:
        size = (rows, chains, hops, begin + key + value)
        return script.letters[rng.integers(0, len(script.letters), size)]

    facts = draw(batch)
    while True:
        keys = facts[..., begin : begin + key].reshape(batch, chains * hops, key)
        same = (keys[:, :, None] == keys[:, None]).all(-1).sum((1, 2)) > chains * hops
        if not same.any():
            break
        facts[same] = draw(int(same.sum()))
    facts[..., :begin] = script.marker
    for hop in range(1, hops):
        facts[:, :, hop - 1, -value:] = facts[:, :, hop, begin : begin + key]
    return facts


def needle(
    rng: Generator,
    length: int,
    batch: int,
    *,
    key: int,
    value: int,
    questions: int = 1,
    chains: int = 1,
    hops: int = 1,
    script: Script = NUCLEOTIDES,
    background: Background | None = None,
) -> Drawn:
    """Facts of marker, key and value somewhere in a background, and later marker and key, asking for the value.

    With more hops than one, the value of a fact is the key of the next, and what is asked for is the value at the end
    of the chain that begins with the key. The marker is nowhere else, whatever the background, and no key has two
    facts. All facts come before the questions, in random order and at random places; the last question stands at the
    end, and the value that was asked for follows each. Each chain is asked for before any is once more.

    Args:
        rng: random numbers.
        length: T.
        batch: B.
        key: letters of a key.
        value: letters of a value, each asked for when those before it have been read.
        questions: how often is asked; more than once gives training more to learn from.
        chains: of facts, with different keys.
        hops: facts of a chain; several give one who has read the last facts alone no answer only with several chains.
        script: what all is written in.
        background: draws tokens (B, T), in which random letters then stand for those that are not in the script;
            random letters if not given.

    Raises:
        ValueError: if the parts do not fit; if key and value are as long as the marker, which could then be in them;
            if keys are so short that chance would give most sequences one twice; if a value cannot be a key; or if
            a chain of several hops is asked for twice, since the first answer would make a short cut.
    """
    begin, facts = len(script.marker), chains * hops
    size = begin + key + value
    room = length - (facts + questions) * size + 1  # of the last question the last letter is asked for, not read
    if room < 0 or key + value >= begin or min(key, value, questions, chains, hops) < 1:
        raise ValueError(
            f"{facts} needles of {size} tokens and {questions} questions do not fit into {length}, "
            f"or key and value have not 1 letter each and less than {begin} together."
        )
    if facts > 1 and facts**2 > len(script.letters) ** key:
        raise ValueError(f"{facts} different keys should be longer than {key} letters.")
    if hops > 1 and (key != value or questions > chains):
        raise ValueError(
            f"a chain of {hops} facts needs values as long as keys, and can be asked for once: "
            f"got {value} and {key} letters, and {questions} questions for {chains} chains."
        )
    tokens = script.letters[rng.integers(0, len(script.letters), (batch, length + 1))]
    if background is not None:
        real = background(rng, length + 1, batch)
        tokens = np.where(real < script.vocabulary, real, tokens)
    drawn = _unasked(tokens)
    told = _facts(rng, batch, chains, hops, key, value, script)
    row = np.arange(batch)[:, None]
    first = rng.permuted(np.tile(np.arange(chains), (batch, 1)), axis=1)
    chosen = np.tile(first, -(-questions // chains))[:, :questions]
    asked = told[row, chosen, 0]
    asked[..., -value:] = told[row, chosen, -1, -value:]
    order = rng.permuted(np.tile(np.arange(facts), (batch, 1)), axis=1)
    told = told.reshape(batch, facts, size)[row, order]
    gaps = np.sort(rng.integers(0, room + 1, (batch, facts + questions - 1)), axis=1)
    start = np.concatenate([gaps, np.full((batch, 1), room)], axis=1) + size * np.arange(facts + questions)
    place = start[..., None] + np.arange(size)  # (B, facts + questions, size)
    planted = np.zeros(tokens.shape, bool)
    row = row[..., None]
    tokens[row, place], planted[row, place] = np.concatenate([told, asked], axis=1), True
    drawn.targets[row, place[:, facts:, -value:] - 1] = asked[..., -value:]
    _unmark(rng, tokens, start, planted, script)
    return Drawn(tokens[:, :-1], drawn.targets[:, :-1])


def words(rng: Generator, length: int, batch: int) -> np.ndarray:
    """Codes (B, T) of ASCII text: words of `VOCABULARY`, frequent ones more often (Zipf), a space behind each."""
    weight = 1 / np.arange(1, len(VOCABULARY) + 1)
    sizes = np.array([len(word) + 1 for word in VOCABULARY])
    text = np.frombuffer((" ".join(VOCABULARY) + " ").encode("ascii"), np.uint8).astype(np.int64)
    chosen = rng.choice(len(VOCABULARY), batch * length // int(sizes.min()) + 1, p=weight / weight.sum())
    ends = sizes[chosen].cumsum()
    chosen = chosen[: np.searchsorted(ends, batch * length) + 1]
    ends = ends[: len(chosen)]
    shift = (sizes.cumsum() - sizes)[chosen] - (ends - sizes[chosen])  # from a place in the text to that in `text`
    return text[np.arange(ends[-1]) + np.repeat(shift, sizes[chosen])][: batch * length].reshape(batch, length)


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
