import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from titans_seq.data.audit.confounding import auroc, cramers_v, effects
from titans_seq.data.audit.coordinates import Coordinates
from titans_seq.data.audit.splits import Split


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2))
def test_auroc_is_that_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    values, positive = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    if 0 < positive.sum() < len(rows):
        assert auroc(values, positive) == pytest.approx(roc_auc_score(positive, values))


def test_cramers_v_is_0_of_independent_and_1_of_bound_counts() -> None:
    assert cramers_v(np.outer([100, 300, 50], [2, 3])) == 0
    assert cramers_v(np.diag([1000, 2000])) == pytest.approx(1, abs=1e-3)  # the correction is of order 1 / n
    assert cramers_v(np.array([[5, 7]])) == cramers_v(np.array([[5, 0], [7, 0]])) == 0
    table = np.array([[700, 300], [300, 700]])  # phi^2 = 0.16, less 1 / 1999 by the correction
    assert cramers_v(table) == pytest.approx(np.sqrt((0.16 - 1 / 1999) / (1 - 1 / 1999)))


def split(labels: str, lengths: list[int], chromosomes: list[str] | None = None) -> Split:
    start = np.zeros(len(labels), np.int64)
    place = Coordinates(tuple(chromosomes or ["chr1"] * len(labels)), start, np.array(lengths), (".",) * len(labels))
    return Split("train", np.arange(len(labels)), tuple(map(str, range(len(labels)))), tuple(labels), None, place)


def test_what_tells_classes_apart_is_said() -> None:
    rng = np.random.default_rng(0)
    labels = "pn" * 200
    gc = np.array([0.6 if label == "p" else 0.4 for label in labels]) + rng.normal(0, 0.1, len(labels))
    chromosomes = ["chrX" if label == "n" or i % 4 == 0 else "chr1" for i, label in enumerate(labels)]
    length, content, chromosome = effects(split(labels, [100] * len(labels), chromosomes), gc)
    assert length.size == 0.5 and length.says == ""
    assert content.size > 0.85 and "GC content alone strongly tells class 'p'" in content.says
    assert "richer in G and C" in content.says
    assert chromosome.size > 0.5 and "chr1 has 100 rows of 'p' where 50 would be its share" in chromosome.says


def test_of_many_classes_the_one_told_best_is_named() -> None:
    found = effects(split("abc" * 50, [10, 20, 15] * 50), None)[0]
    assert (found.label, found.size) == ("b", 1.0) and "are longer" in found.says
    found = effects(split("abc" * 50, [5, 20, 20] * 50), None)[0]
    assert (found.label, found.size) == ("a", 1.0) and "are shorter" in found.says


@pytest.mark.parametrize("labels", ["aaaa", "".join(map(chr, range(65, 91)))], ids=["one class", "26 classes"])
def test_one_class_or_numbers_are_not_measured(labels: str) -> None:
    assert effects(split(labels, [100] * len(labels)), None) == []
