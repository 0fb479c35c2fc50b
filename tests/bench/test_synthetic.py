"""Generated tasks: each right answer by a computation of its own, nothing asked that was not read, seeds, chance."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from titans_seq.bench.genome import next_base
from titans_seq.bench.synthetic import (
    MARKER,
    NOTHING,
    PERMUTATIONS,
    Drawn,
    associative_recall,
    copying,
    needle,
    parity,
    s5,
)

RECALL = partial(associative_recall, pairs=8, keys=16, values=12)
NEEDLE = partial(needle, key=3, value=2)
GENOME = np.random.default_rng(9).integers(0, 5, 5000).astype(np.uint8)
BASES = "ACGTN"
WORD = "".join(BASES[base] for base in MARKER)

# by name: the task, a length, tokens and classes, chance
EVERY: dict[str, tuple[Callable[..., Drawn], int, int, int, float]] = {
    "mqar": (RECALL, 64, 28, 28, 1 / 12),
    "mqar, even gaps": (partial(RECALL, power=None), 64, 28, 28, 1 / 12),
    "needle": (NEEDLE, 256, 4, 4, 1 / 4),
    "needle, many questions": (partial(NEEDLE, questions=8), 256, 4, 4, 1 / 4),
    "copying": (partial(copying, symbols=16), 64, 17, 16, 1 / 16),
    "parity": (parity, 33, 2, 2, 1 / 2),
    "s5": (s5, 16, 120, 120, 1 / 120),
    "next base": (partial(next_base, codes=GENOME), 32, 5, 4, 1 / 4),
}
every = pytest.mark.parametrize("name", EVERY)


def drawn(name: str, batch: int = 64, seed: int = 0) -> Drawn:
    draw, length, *_ = EVERY[name]
    return draw(np.random.default_rng(seed), length, batch)


def rows(found: Drawn) -> list[tuple[list[int], list[int]]]:
    return list(zip(found.tokens.tolist(), found.targets.tolist(), strict=True))


@every
def test_tokens_and_targets_are_in_their_ranges(name: str) -> None:
    _, length, vocabulary, classes, _ = EVERY[name]
    tokens, targets = drawn(name)
    assert tokens.shape == targets.shape == (64, length) and tokens.dtype == targets.dtype == np.int64
    assert 0 <= tokens.min() and tokens.max() < vocabulary
    asked = targets != NOTHING
    assert asked.any(1).all() and 0 <= targets[asked].min() and targets[asked].max() < classes


@every
def test_a_seed_is_a_batch(name: str) -> None:
    first, again, other = drawn(name), drawn(name), drawn(name, seed=1)
    assert np.array_equal(first.tokens, again.tokens) and np.array_equal(first.targets, again.targets)
    assert not np.array_equal(first.tokens, other.tokens)


@every
def test_no_answer_is_likelier_than_chance(name: str) -> None:
    targets, chance = drawn(name, 400).targets, EVERY[name][-1]
    last = [row[row != NOTHING][-1] for row in targets]  # one a sequence: they are independent
    most = Counter(last).most_common(1)[0][1] / 400
    assert most < chance + 4.5 * np.sqrt(chance * (1 - chance) / 400)


@pytest.mark.parametrize("name", ["mqar", "mqar, even gaps"])
def test_associative_recall_asks_for_each_key_what_stood_behind_it(name: str) -> None:
    for tokens, targets in rows(drawn(name)):
        pairs = dict(zip(tokens[:16:2], tokens[1:16:2], strict=True))
        assert len(pairs) == 8 and max(pairs) < 16 <= min(pairs.values())
        asked = [t for t, target in enumerate(targets) if target != NOTHING]
        assert min(asked) >= 16 and sorted(tokens[t] for t in asked) == sorted(pairs)
        assert all(pairs[tokens[t]] == targets[t] == tokens[t + 1] for t in asked)
        assert all(tokens[t] >= 16 for t in range(16, 64) if t not in asked), "a key that is not asked for"


def test_gaps_follow_their_density() -> None:
    def first(power: float | None) -> np.ndarray:
        targets = associative_recall(np.random.default_rng(0), 66, 4000, pairs=1, keys=4, values=4, power=power).targets
        return (targets != NOTHING).argmax(1) // 2  # 1 to 32

    even, near = (np.bincount(first(power), minlength=33)[1:33] / 4000 for power in (None, 0.01))
    weight = np.arange(1, 33) ** -0.99
    # four deviations of the largest share, 0.24: sqrt(0.24 * 0.76 / 4000) = 0.007
    assert np.abs(even - 1 / 32).max() < 0.028 and np.abs(near - weight / weight.sum()).max() < 0.028


@pytest.mark.parametrize("questions", [1, 8])
@pytest.mark.parametrize(
    "genome", [None, GENOME, np.tile(MARKER, 100).astype(np.uint8)], ids=["random", "real", "marked"]
)
def test_needle_asks_for_what_stands_behind_the_only_marker(questions: int, genome: np.ndarray | None) -> None:
    def background(rng: np.random.Generator, length: int, batch: int) -> np.ndarray:
        assert genome is not None
        return genome[rng.integers(0, len(genome) - length, (batch, 1)) + np.arange(length)]

    ground = None if genome is None else background
    places = set()
    for tokens, targets in rows(NEEDLE(np.random.default_rng(3), 256, 200, questions=questions, background=ground)):
        text = "".join(BASES[base] for base in tokens)
        assert "N" not in text
        first, *others = [place for place in range(256) if text.startswith(WORD, place)]
        assert len(others) == questions and others[-1] == 256 - 12, "the last question is at the end"
        key, value = text[first + 8 : first + 11], text[first + 11 : first + 13]
        asked = {t: BASES[target] for t, target in enumerate(targets) if target != NOTHING}
        expected = {}
        for place in others:
            assert text[place + 8 : place + 11] == key and place >= first + 13
            expected |= {place + 10: value[0], place + 11: value[1]}
        assert asked == expected
        places.add(first)
    assert min(places) < 20, "the needle may stand anywhere before the question"
    assert questions > 1 or max(places) > 210


def test_the_marker_cannot_overlap_itself() -> None:
    assert not any(WORD.startswith(WORD[-n:]) for n in range(1, len(WORD)))


def test_copying_asks_for_the_first_half() -> None:
    for tokens, targets in rows(drawn("copying")):
        assert targets == [NOTHING] * 32 + tokens[:32] and tokens[32] == 16
        assert tokens[33:] == tokens[:31]


def test_parity_is_that_of_the_bits_so_far() -> None:
    for tokens, targets in rows(drawn("parity")):
        state = 0
        for bit, target in zip(tokens, targets, strict=True):
            state ^= bit
            assert target == state


@pytest.mark.parametrize("swaps", [False, True])
def test_s5_is_the_product_of_permutation_matrices(swaps: bool) -> None:
    matrices = np.eye(5, dtype=int)[PERMUTATIONS]  # row i of P has its one at p(i): (P x)_i = x_p(i)
    found = s5(np.random.default_rng(0), 20, 30, swaps=swaps)
    for tokens, targets in rows(found):
        product = np.eye(5, dtype=int)
        for token, target in zip(tokens, targets, strict=True):
            product = product @ matrices[token]  # i ↦ p_t(s(i)) in that order of reading
            assert np.array_equal(product, matrices[target])
    moved = (PERMUTATIONS[found.tokens] != np.arange(5)).sum(-1)
    assert len(np.unique(PERMUTATIONS, axis=0)) == 120 and (not swaps or (moved == 2).all())


def test_next_base_is_the_next_base() -> None:
    tokens, targets = drawn("next base")
    following = tokens[:, 1:]
    assert np.array_equal(targets[:, :-1], np.where(following < 4, following, NOTHING)) and (tokens == 4).any()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (partial(RECALL, length=31, batch=1), "8 pairs need 32 tokens and 8 keys, got 31 and 16"),
        (partial(associative_recall, length=64, batch=1, pairs=8, keys=7, values=4), "got 64 and 7"),
        (partial(copying, length=7, batch=1, symbols=2), "even length, got 7"),
        (partial(NEEDLE, length=24, batch=1), "1 questions do not fit into 24"),
        (partial(needle, length=99, batch=1, key=4, value=4), "less than 8 together"),
    ],
)
def test_what_cannot_be_drawn_is_told(call: Callable[..., Drawn], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call(np.random.default_rng(0))
