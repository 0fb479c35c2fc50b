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
    NUCLEOTIDES,
    PERMUTATIONS,
    TEXT,
    VOCABULARY,
    Drawn,
    Script,
    associative_recall,
    copying,
    needle,
    parity,
    s5,
    words,
)

RECALL = partial(associative_recall, pairs=8, keys=16, values=12)
NEEDLE = partial(needle, key=3, value=2)
FACTS = partial(needle, key=3, value=3)
GENOME = np.random.default_rng(9).integers(0, 5, 5000).astype(np.uint8)
BASES = "ACGTN"
WORD = "".join(BASES[base] for base in MARKER)

# by name: the task, a length, tokens and classes, chance
EVERY: dict[str, tuple[Callable[..., Drawn], int, int, int, float]] = {
    "mqar": (RECALL, 64, 28, 28, 1 / 12),
    "mqar, even gaps": (partial(RECALL, power=None), 64, 28, 28, 1 / 12),
    "needle": (NEEDLE, 256, 4, 4, 1 / 4),
    "needle, many questions": (partial(NEEDLE, questions=8), 256, 4, 4, 1 / 4),
    "needles in text": (partial(FACTS, chains=4, script=TEXT, background=words), 256, 128, 128, 1 / 26),
    "two hops": (partial(FACTS, chains=4, hops=2, questions=4), 256, 4, 4, 1 / 4),
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


def full_of_markers(script: Script, rng: np.random.Generator, length: int, batch: int) -> np.ndarray:
    return np.resize(script.marker, (batch, length)).astype(np.int64)


def parsed(script: Script, tokens: list[int], chains: int, hops: int) -> tuple[list[tuple[str, str]], list[int]]:
    """Facts in the order of reading, and places of the questions' markers."""
    text, marker = "".join(map(chr, tokens)), "".join(map(chr, script.marker))
    places = [place for place in range(len(text)) if text.startswith(marker, place)]
    facts = [place + len(marker) for place in places[: chains * hops]]
    return [(text[at : at + 3], text[at + 3 : at + 6]) for at in facts], places[chains * hops :]


@pytest.mark.parametrize("script", [NUCLEOTIDES, TEXT], ids=["dna", "text"])
@pytest.mark.parametrize(("chains", "hops", "questions"), [(1, 1, 3), (4, 1, 1), (4, 1, 8), (2, 2, 1), (4, 2, 4)])
@pytest.mark.parametrize("more", [0, 1, 200], ids="{} to spare".format)
@pytest.mark.parametrize("ground", [None, full_of_markers], ids=["random", "marked"])
def test_an_answer_follows_from_the_facts(
    script: Script, chains: int, hops: int, questions: int, more: int, ground: Callable[..., np.ndarray] | None
) -> None:
    size = len(script.marker) + 6
    length = size * (chains * hops + questions) - 1 + more
    draw = partial(FACTS, chains=chains, hops=hops, questions=questions, script=script)
    background = ground and partial(ground, script)
    for tokens, targets in rows(draw(np.random.default_rng(1), length, 40, background=background)):
        facts, asked = parsed(script, tokens, chains, hops)
        known = dict(facts)
        assert len(known) == chains * hops, "no key has two facts"
        assert len(asked) == questions, "the marker is nowhere else"
        assert asked[-1] == length + 1 - size, "the last question is at the end"
        expected = {}
        for place in asked:
            begin = place + len(script.marker)
            answer = "".join(map(chr, tokens[begin : begin + 3]))
            for _ in range(hops):
                answer = known[answer]
            expected |= {begin + 2 + i: ord(letter) for i, letter in enumerate(answer)}
        assert {t: target for t, target in enumerate(targets) if target != NOTHING} == expected


def test_two_hops_need_both_facts() -> None:
    """The last facts alone do not tell which of them is asked for, nor does the first: its value is a key."""
    draw = partial(FACTS, chains=4, hops=2, script=TEXT)
    places = []
    for tokens, targets in rows(draw(np.random.default_rng(5), 200, 2000)):
        facts, (asked,) = parsed(TEXT, tokens, 4, 2)
        known = dict(facts)
        first = "".join(map(chr, tokens[asked + len(TEXT.marker) : asked + len(TEXT.marker) + 3]))
        answer = "".join(chr(target) for target in targets if target != NOTHING)
        assert known[first] != answer and known[first] in known
        last = [value for key, value in facts if key in known.values()]
        assert len(last) == 4
        places.append(last.index(answer))
    shares = np.bincount(places, minlength=4) / 2000
    assert np.abs(shares - 1 / 4).max() < 0.039  # four deviations: sqrt(0.25 * 0.75 / 2000) = 0.0097


@pytest.mark.parametrize("script", [NUCLEOTIDES, TEXT], ids=["dna", "text"])
def test_the_marker_cannot_overlap_itself(script: Script) -> None:
    marker = script.marker.tolist()
    assert not any(marker[:n] == marker[-n:] for n in range(1, len(marker)))


def test_words_are_those_of_the_vocabulary() -> None:
    assert len(set(VOCABULARY)) == 512
    assert words(np.random.default_rng(0), 1, 1).shape == (1, 1)
    found = words(np.random.default_rng(0), 5000, 3)
    text = bytes(found.ravel().tolist()).decode("ascii").split(" ")[:-1]  # the last may be cut
    counts = Counter(text)
    assert set(text) <= set(VOCABULARY) and counts.most_common(1)[0][0] == VOCABULARY[0]
    # by Zipf's law the first of 512 has 1 / (1 + 1/2 + ... + 1/512) = 0.147 of all; four deviations of 2,500 words
    assert counts[VOCABULARY[0]] / len(text) == pytest.approx(0.147, abs=0.03)


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
        (partial(FACTS, length=999, batch=1, chains=9), "9 different keys should be longer than 3 letters"),
        (partial(NEEDLE, length=999, batch=1, chains=4, hops=2), "values as long as keys"),
        (partial(FACTS, length=999, batch=1, chains=2, hops=2, questions=3), "3 questions for 2 chains"),
    ],
)
def test_what_cannot_be_drawn_is_told(call: Callable[..., Drawn], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call(np.random.default_rng(0))
