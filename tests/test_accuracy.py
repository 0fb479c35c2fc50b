"""Errors of forecasts against their definitions, and against gluonts.ev where it is installed."""

import numpy as np
import pytest

from titans_seq.accuracy import Accuracy, Guess, SeasonalError, skill
from titans_seq.data.record import Series

LEVELS = (0.1, 0.5, 0.9)
W, S, H, C = 7, 2, 5, 3  # windows, series, steps, channels
SCALE = (2.0, 0.5, 10.0)


def window(number: int) -> tuple[int, np.ndarray, Guess, np.ndarray]:
    """Series, truth (a fifth is missing), forecast and seasonal error of one window."""
    rng = np.random.default_rng(number)
    y = rng.normal(size=(H, C)) * SCALE + 3
    quantiles = np.sort(rng.normal(size=(H, C, len(LEVELS))), -1) * np.array(SCALE)[:, None] + 3
    y[rng.random((H, C)) < 0.2] = np.nan
    ends = [quantiles[..., 0], quantiles[..., 2]]
    guess = Guess.of(quantiles[..., 1], [quantiles[..., i] for i in range(len(LEVELS))], ends)
    return number % S, y, guess, rng.random(C) + 0.5


def measured(numbers: range | list[int]) -> Accuracy:
    found = Accuracy(S, H, SCALE, LEVELS, ("80",))
    for number in numbers:
        found.add(*window(number))
    return found


def flat() -> dict[str, np.ndarray]:
    """Every observed step of all windows, as columns."""
    parts = []
    for number in range(W):
        _, y, guess, error = window(number)
        seen = np.isfinite(y)
        full = [np.broadcast_to(part, y.shape) for part in (error, np.array(SCALE))]
        parts.append([y[seen], *(q[seen] for q in np.moveaxis(guess.quantiles, -1, 0)), *(part[seen] for part in full)])
    columns = map(np.concatenate, zip(*parts, strict=True))
    return dict(zip(("y", "0.1", "0.5", "0.9", "seasonal_error", "scale"), columns, strict=True))


def test_scores_are_those_of_the_definitions() -> None:
    f = flat()
    error = np.abs(f["y"] - f["0.5"])
    pinball = [
        np.where(f["y"] > f[str(q)], q * (f["y"] - f[str(q)]), (1 - q) * (f[str(q)] - f["y"])).sum() for q in LEVELS
    ]
    expected = {
        "mse": ((error / f["scale"]) ** 2).mean(),
        "mae": (error / f["scale"]).mean(),
        "mse_original": (error**2).mean(),
        "mae_original": error.mean(),
        "rmse": np.sqrt((error**2).mean()),
        "mase": (error / f["seasonal_error"]).mean(),
        "smape": (2 * error / (np.abs(f["y"]) + np.abs(f["0.5"]))).mean(),
        "wape": error.sum() / np.abs(f["y"]).sum(),
        "wql": 2 * np.mean(pinball) / np.abs(f["y"]).sum(),
        "coverage_80": ((f["0.1"] <= f["y"]) & (f["y"] <= f["0.9"])).mean(),
        "width_80": ((f["0.9"] - f["0.1"]) / f["scale"]).mean(),
    }
    assert measured(range(W)).overall() == pytest.approx(expected)
    shares = [[q, (f["y"] <= f[str(q)]).mean()] for q in LEVELS]
    np.testing.assert_allclose(measured(range(W)).calibration(), shares)


def test_scores_are_those_of_gluonts() -> None:
    ev = pytest.importorskip("gluonts.ev.metrics", reason="gluonts is not installed")
    found, data = measured(range(W)), flat()
    data["label"] = data.pop("y")
    data = {name: values[None] for name, values in data.items()}
    theirs = {
        "mse_original": ev.MSE(forecast_type="0.5"),
        "mae_original": ev.MAE(),
        "rmse": ev.RMSE(forecast_type="0.5"),
        "mase": ev.MASE(),
        "smape": ev.SMAPE(),
        "wape": ev.ND(),
        "wql": ev.MeanWeightedSumQuantileLoss(list(LEVELS)),
    }
    for name, metric in theirs.items():
        evaluator = metric(axis=None)
        evaluator.update(data)
        assert found.overall()[name] == pytest.approx(float(evaluator.get())), name
    for level, share in found.calibration():
        evaluator = ev.Coverage(level)(axis=None)
        evaluator.update(data)
        assert share == pytest.approx(float(evaluator.get()))


def test_the_order_of_windows_does_not_matter() -> None:
    assert measured(range(W)).overall() == pytest.approx(measured(list(range(W))[::-1]).overall())


def test_steps_and_series_are_parts_of_the_whole() -> None:
    found = measured(range(W))
    count = found.sums["count"]
    for name, axes in (("by_step", (0, 2)), ("by_series", (1,))):
        parts = getattr(found, name)()
        values = np.array(parts["mae"] if name == "by_step" else [part["mae"] for part in parts])
        weights = count.sum(axes).ravel()
        assert (values * weights).sum() / weights.sum() == pytest.approx(found.overall()["mae"])
    assert len(found.by_series()) == S * C


def test_what_nothing_defines_is_none() -> None:
    found = Accuracy(1, 2, (1.0,), LEVELS, ("80",))
    y = np.full((2, 1), np.nan)
    guess = Guess.of(np.zeros((2, 1)), [np.zeros((2, 1))] * 3, [np.zeros((2, 1))] * 2)
    found.add(0, y, guess, np.array([1.0]))
    assert set(found.overall().values()) == {None}
    assert found.calibration() == [[level, None] for level in LEVELS]
    y[0] = 0.0  # exact: no error of any kind, also where both are 0
    found.add(0, y, guess, np.array([0.0]))
    scores = found.overall()
    assert scores["mae"] == scores["smape"] == 0 and scores["mase"] is None and scores["wape"] is None


def test_the_seasonal_error_is_of_the_rows_before() -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    values[7, 1] = np.nan
    times = np.datetime64("2020-01-01", "us") + np.arange(50) * np.timedelta64(1, "h")
    errors = SeasonalError(Series("", times, values, ("a", "b")), 4)
    for origin in (5, 20, 50):
        expected = np.nanmean(np.abs(values[4:origin] - values[: origin - 4]), 0)
        np.testing.assert_allclose(errors.before(origin), expected)
    assert np.isnan(errors.before(4)).all()


def test_skill_is_of_what_both_have() -> None:
    found = skill({"mse": 1.0, "mae": 2.0, "wql": None}, {"mse": 2.0, "mae": 0.0, "mase": 1.0})
    assert found == {"mse": 0.5, "mae": None, "mase": None, "smape": None, "wape": None, "wql": None}
