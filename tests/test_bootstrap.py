"""Bootstrap: intervals hold what they say, and do not depend on anything but the seed."""

import numpy as np
import pytest

from titans_seq.bootstrap import LEVEL, MODEL, Compared, compare, compare_parts, draws, interval


def mean(rows: dict[str, np.ndarray], weight: np.ndarray) -> dict[str, float]:
    return {"mean": float((weight * rows["x"]).sum() / weight.sum())}


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Of 200 samples from a known distribution the interval of the mean holds the true mean in about 95 %.

    The percentile interval of 60 rows is a little short (Efron and Tibshirani: by about a hundredth); the standard
    error of a share of 200 is 0.0154, and a right one is 4 of these away once in some ten thousand runs.
    """
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        x = rng.exponential(size=60)
        found = compare(Compared({MODEL: {"x": x}}, mean, 60), seed=trial, resamples=200)
        low, high = found["intervals"][MODEL]["mean"]
        covered += low <= 1.0 <= high
    assert LEVEL - 0.01 - 4 * 0.0154 < covered / 200


def test_a_draw_is_as_large_as_the_set() -> None:
    found = list(draws(50, 20, 0))
    assert all(weight.sum() == 50 for weight in found)
    assert not np.array_equal(found[0], found[1])


def test_the_same_seed_gives_the_same_interval() -> None:
    compared = Compared({MODEL: {"x": np.arange(30.0)}}, mean, 30)
    one, again, other = (compare(compared, seed=seed, resamples=50) for seed in (1, 1, 2))
    assert one == again and one["intervals"] != other["intervals"]


def test_models_are_compared_on_the_same_resamples() -> None:
    """A model that is better by the same on each row is better by that in every resample."""
    x = np.random.default_rng(0).normal(size=40)
    found = compare(Compared({MODEL: {"x": x + 0.5}, "other": {"x": x}}, mean, 40), seed=0, resamples=100)
    assert found["lead"]["other"]["mean"] == pytest.approx([0.5, 0.5])
    assert found["intervals"][MODEL]["mean"][0] < found[MODEL]["mean"] - 0.1


def test_resamples_that_do_not_define_a_score_do_not_count() -> None:
    assert interval([{"a": 1.0}, {"a": float("nan")}, {"a": 3.0, "b": float("nan")}]) == {
        "a": pytest.approx([1.05, 2.95])
    }


def test_one_unit_has_no_interval() -> None:
    assert set(compare(Compared({MODEL: {"x": np.ones(1)}}, mean, 1), seed=0)) == {"items", MODEL}


def test_parts_are_measured_alone() -> None:
    compared = Compared({MODEL: {"x": np.array([1.0, 2.0, 9.0])}}, mean, 3)
    found = compare_parts(compared, {"chr1": np.array([True, True, False]), "chr2": np.array([False, False, True])})
    assert found == {"chr1": {MODEL: {"mean": 1.5}}, "chr2": {MODEL: {"mean": 9.0}}}
