"""Scores against scikit-learn, SciPy and plain formulas; a row of weight w is the row w times."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from titans_seq.tasks import scores

RNG = np.random.default_rng(0)


def drawn(rows: int, classes: int, skew: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, found classes and weights; with ``skew`` near 1 almost all rows are of class 0."""
    p = np.append(skew, np.full(classes - 1, (1 - skew) / (classes - 1)))
    label, found = (RNG.choice(classes, rows, p=p) for _ in range(2))
    return label, np.where(RNG.random(rows) < 0.5, label, found), RNG.integers(0, 4, rows).astype(float)


OF_COUNTS: dict[str, tuple[Callable[[np.ndarray], float], Callable[..., float]]] = {
    "accuracy": (scores.accuracy, metrics.accuracy_score),
    "balanced accuracy": (scores.balanced_accuracy, metrics.balanced_accuracy_score),
    "mcc": (scores.mcc, metrics.matthews_corrcoef),
    "f1": (
        lambda counts: float(scores.f1_of_classes(counts).mean()),
        lambda y, f, sample_weight: metrics.f1_score(
            y, f, average="macro", labels=range(4), sample_weight=sample_weight, zero_division=0
        ),
    ),
}


@pytest.mark.parametrize("name", OF_COUNTS)
@pytest.mark.parametrize("rows", [1, 2, 50, 400])
@pytest.mark.parametrize("skew", [0.25, 0.97, 1.0])
def test_scores_of_counts_are_those_of_scikit_learn(name: str, rows: int, skew: float) -> None:
    ours, theirs = OF_COUNTS[name]
    label, found, weight = drawn(rows, 4, skew)
    weight[0] = 1  # a row at least
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class
        expected = theirs(label, found, sample_weight=weight)
    assert ours(scores.confusion(label, found, 4, weight)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [1000, 7, 1], ids=["none", "many", "all equal"])
def test_areas_are_those_of_scikit_learn(ties: int) -> None:
    positive = RNG.random(300) < 0.2
    score = np.floor(ties * (RNG.random(300) + positive) / 2) / ties
    weight = RNG.integers(0, 3, 300).astype(float)
    assert scores.areas(scores.places(score), positive, weight) == pytest.approx(
        {
            "auroc": metrics.roc_auc_score(positive, score, sample_weight=weight),
            "auprc": metrics.average_precision_score(positive, score, sample_weight=weight),
        },
        abs=1e-12,
    )


def test_an_area_without_a_positive_row_is_nothing() -> None:
    nothing = np.zeros(5, bool)
    assert np.isnan(list(scores.areas(np.arange(5), nothing, np.ones(5)).values())).all()
    assert np.isnan(scores.areas(np.arange(5), ~nothing, np.ones(5))["auroc"])
    assert scores.roc(np.arange(5.0), nothing) == []


def test_a_curve_is_thinned_and_keeps_its_ends() -> None:
    points = scores.roc(np.arange(1000.0), np.arange(1000) % 3 == 0, 50)
    assert len(points) == 50 and points[0] == [0, 0] and points[-1] == [1, 1]


def test_precision_by_recall_is_that_of_scikit_learn() -> None:
    positive, score = RNG.random(150) < 0.3, RNG.integers(0, 40, 150).astype(float)
    precision, recall, _ = metrics.precision_recall_curve(positive, score)
    found = np.array(scores.precision_recall(score, positive))
    np.testing.assert_allclose(found[::-1], np.stack([recall, precision], 1)[:-1], atol=1e-6)  # six digits are kept
    assert scores.precision_recall(score, positive, 10)[-1] == found[-1].tolist()
    assert scores.precision_recall(score, np.zeros(150, bool)) == []


def test_calibration_is_share_by_probability() -> None:
    p = np.repeat([0.6, 0.9], 50)
    right = np.concatenate([np.arange(50) < 20, np.arange(50) < 45])
    np.testing.assert_allclose(scores.calibration(p, right, 2), [[0.6, 0.4, 50], [0.9, 0.9, 50]])


@pytest.mark.parametrize("shift", [0.0, 1e5], ids=["around zero", "far from zero"])
def test_correlations_and_errors(shift: float) -> None:
    value = np.round(RNG.normal(size=200), 1) + shift  # rounded: ties
    found = 0.5 * (value - shift) + np.round(RNG.normal(size=200), 1)
    weight = RNG.integers(0, 4, 200).astype(float)
    y, f = (np.repeat(x, weight.astype(int)) for x in (value, found))
    # Pearson's centred sums lose no digits; those of raw values 1e5 away would lose ten of sixteen
    assert scores.pearson(value, found, weight) == pytest.approx(stats.pearsonr(y, f).statistic, abs=1e-9)
    assert scores.spearman(value, found, weight) == pytest.approx(stats.spearmanr(y, f).statistic, abs=1e-12)
    np.testing.assert_allclose(
        np.sort(np.repeat(scores.ranks(value, weight), weight.astype(int))), np.sort(stats.rankdata(y))
    )
    if shift:
        return
    sums = (weight[:, None] * scores.moments(value, found)).sum(0)
    assert scores.pearson_of(sums) == pytest.approx(stats.pearsonr(y, f).statistic, abs=1e-12)
    assert scores.r2_of(sums) == pytest.approx(metrics.r2_score(y, f), abs=1e-12)
    assert scores.mse_of(sums) == pytest.approx(metrics.mean_squared_error(y, f), abs=1e-12)
    assert scores.mae_of(sums) == pytest.approx(metrics.mean_absolute_error(y, f), abs=1e-12)


def test_a_column_that_nothing_is_known_of_is_not_in_the_means() -> None:
    known = scores.moments(np.array([1.0, 3.0]), np.array([2.0, 5.0])).sum(0)
    found = scores.errors(np.stack([known, np.zeros_like(known)]), [2.0, 1.0], ["a", "b"])
    assert (found["scaled_mse"], found["mse"], found["mae"]) == (2.5, 10.0, 3.0)
    assert found["mse_a"] == 10.0 and np.isnan(found["mse_b"])
    assert np.isnan(scores.errors(np.zeros_like(known)[None], [1.0], ["a"])["scaled_mse"])


def test_what_is_constant_has_no_correlation() -> None:
    value, same = np.array([1.0, 2.0, 4.0]), np.full(3, 0.1)
    assert np.isnan(scores.pearson(value, same, np.ones(3))) and np.isnan(scores.spearman(same, value, np.ones(3)))
    assert np.isnan(scores.r2_of(scores.moments(same, value).sum(0)))
    assert np.isnan(scores.mse_of(np.zeros(7)))


def test_an_unknown_value_is_in_no_sum() -> None:
    value, found = np.array([1.0, np.nan, 3.0]), np.array([1.5, 100.0, 2.0])
    np.testing.assert_array_equal(scores.moments(value, found).sum(0), scores.moments(value[::2], found[::2]).sum(0))
