"""Baselines: Markov models against their definition and published figures, k-mers on what they can tell."""

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from titans_seq import baselines
from titans_seq.baselines import ALPHA, Markov, kmer_logistic_regression, kmer_ridge
from titans_seq.data.fasta import read_fasta
from titans_seq.data.record import Record
from titans_seq.data.windows import LabelledSequences, reverse_complement

DATA = os.environ.get("TITANS_SEQ_DATA")


def bases(count: int, seed: int, unknown: float = 0.02) -> np.ndarray:
    p = [*[(1 - unknown) / 4] * 4, unknown]
    return np.random.default_rng(seed).choice(5, count, p=p).astype(np.uint8)


def by_hand(train: list[np.ndarray], codes: np.ndarray, order: int, orders: int) -> list[float]:
    """ln p by the recurrence as it is written, with words counted one by one; words of ``orders`` bases alone count."""
    words: Counter[tuple[int, ...]] = Counter()
    for strand in (x for record in train for x in (record, reverse_complement(record))):
        for end in range(orders, len(strand) + 1):
            word = tuple(strand[end - orders : end].tolist())
            if 4 not in word:
                words.update(word[first:] for first in range(orders))
                words.update(("context", *word[first:-1]) for first in range(orders))

    def p(word: tuple[int, ...]) -> float:
        lower = p(word[1:]) if len(word) > 1 else 0.25
        return (words[word] + ALPHA * lower) / (words[("context", *word[:-1])] + ALPHA)  # type: ignore[arg-type]

    found = []
    for at, base in enumerate(codes.tolist()):
        known = codes[max(0, at - order) : at + 1].tolist()
        while 4 in known:
            known.pop(0)
        found.append(0.0 if base == 4 else math.log(p(tuple(known))))
    return found


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_markov_model_is_its_definition(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    train, codes = [bases(300, 0), bases(3, 1), bases(120, 2)], bases(200, 3)
    expected = by_hand(train, codes, order, 4)
    for size in (1 << 20, 17):  # pieces of any size
        monkeypatch.setattr(baselines, "_AT_ONCE", size)
        np.testing.assert_allclose(Markov(train, 4).loglik(codes, order), expected, rtol=1e-12)


def test_what_follows_a_context_sums_to_one() -> None:
    markov = Markov([bases(500, 0)], 5)
    for logs in markov.logs:
        np.testing.assert_allclose(np.exp(logs).reshape(-1, 4).sum(1), 1.0)


def test_both_strands_are_counted_alike() -> None:
    one, other = Markov([bases(400, 0)], 4), Markov([reverse_complement(bases(400, 0))], 4)
    np.testing.assert_allclose(one.loglik(bases(100, 1), 3), other.loglik(bases(100, 1), 3))


def test_the_order_is_that_of_the_source() -> None:
    """Bases that follow from the two before them need order 2 at least; of what follows from nothing no order is long.

    Counting both strands mixes the source with its other strand, and longer contexts tell which of the two it is.
    """
    rng, codes = np.random.default_rng(0), [0, 0]
    table = rng.dirichlet([0.3] * 4, 16)
    for _ in range(20_000):
        codes.append(int(rng.choice(4, p=table[4 * codes[-2] + codes[-1]])))
    source, chance = np.array(codes, np.uint8), bases(20_000, 1, 0)
    assert Markov([source[:15_000]], 7).best_order([source[15_000:]]) >= 2
    assert Markov([chance[:15_000]], 7).best_order([chance[15_000:]]) <= 2  # 4^3 contexts would have 230 bases each


def test_nothing_to_count_is_two_bits() -> None:
    np.testing.assert_allclose(Markov([np.full(10, 4, np.uint8)], 3).loglik(bases(9, 0, 0), 2), -math.log(4))


@pytest.mark.skipif(DATA is None, reason="TITANS_SEQ_DATA is not set")
def test_e_coli_has_the_bits_that_were_measured_before() -> None:
    """Orders 3, 6, 7 and 8 on bases from 4.1 million on, trained on the first 4.0 million, to 0.005 bits."""
    codes = next(read_fasta(Path(str(DATA)) / "genomics/genomes/ecoli_k12_mg1655_U00096.3.fa.gz")).codes
    markov, test = Markov([codes[:4_000_000]]), codes[4_100_000:]
    for order, bits in ((0, 2.000), (3, 1.952), (6, 1.932), (7, 1.931), (8, 1.938)):
        assert -markov.loglik(test, order).sum() / len(test) / math.log(2) == pytest.approx(bits, abs=0.005)


def sequences(targets: list[np.ndarray], texts: list[np.ndarray]) -> LabelledSequences:
    return LabelledSequences([Record(str(i), codes) for i, codes in enumerate(texts)], targets, False)


def test_kmers_tell_what_words_tell() -> None:
    texts = [bases(60, seed, 0) for seed in range(120)]
    gc = np.array([np.isin(codes, (1, 2)).mean() for codes in texts])
    rich = [np.array(int(share > 0.5)) for share in gc]
    p = kmer_logistic_regression(sequences(rich[:80], texts[:80]), sequences(rich[80:], texts[80:]), 3)
    assert p.shape == (40, 3) and np.allclose(p.sum(1), 1) and (p[:, 2] == 0).all()  # no row has the third class
    assert (p.argmax(1) == np.array(rich[80:])).mean() > 0.8
    values = [np.array([share, 1.0]) for share in gc]
    found = kmer_ridge(sequences(values[:80], texts[:80]), sequences(values[80:], texts[80:]), 2)
    assert found.shape == (40, 2) and np.corrcoef(found[:, 0], gc[80:])[0, 1] > 0.8
    several = [np.array([share > 0.5, 0.0, 1.0]) for share in gc]
    p = kmer_logistic_regression(sequences(several[:80], texts[:80]), sequences(several[80:], texts[80:]), 3)
    assert (p[:, 1] == 0).all() and (p[:, 2] == 1).all() and ((p[:, 0] > 0.5) == (gc[80:] > 0.5)).mean() > 0.8
