"""Horizons other than the trained one: cut, or rolled by reading what was forecast, in windows and in streams."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from forecasters import H, L, hourly

from titans_seq.checkpoint import SequenceModel
from titans_seq.forecast import Forecaster
from titans_seq.memory_state import state_tensors
from titans_seq.stream.series import rolled
from titans_seq.tasks.forecasting import Covariates

COVARIATES = Covariates(known_future=("k",), past_only=("p",), location=(0.5, 0.0), scale=(2.0, 1.0))


def drawn_rows(count: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(count, 2)).cumsum(0)
    values[np.random.default_rng(1).random(values.shape) < 0.1] = np.nan
    return values


def parts(covariates: Covariates, ahead: int) -> dict[str, np.ndarray]:
    """Rows of two channels and, where there are any, two covariates; and what is known of the rows ahead."""
    rng = np.random.default_rng(0)
    K = len(covariates.known_future)
    return {
        "rows": np.concatenate([drawn_rows(L), rng.normal(size=(L, 2 * K))], 1),
        "known": rng.normal(size=(ahead, K)),
    }


def forecast(model: SequenceModel, rows: np.ndarray, known: np.ndarray, horizon: int) -> np.ndarray:
    """Of either kind of model, (H', C, Q) in training standard deviations."""
    if model.task.reads == "stream":
        reader = Forecaster(model)
        reader.update(rows)
        return reader.output(known, horizon)[0].numpy()
    K = known.shape[1]
    batch = {
        "past": np.nan_to_num(rows[-L:, :2]),
        "observed": np.isfinite(rows[-L:, :2]),
        **({"known": np.concatenate([rows[-L:, 2:3], known]), "past_only": rows[-L:, 3:]} if K else {}),
    }
    with torch.inference_mode():
        return rolled(model, {name: torch.from_numpy(part)[None] for name, part in batch.items()}, horizon)[0].numpy()


every_model = pytest.mark.parametrize(
    ("reads", "covariates", "mixing"),
    [
        *((r, c, "independent") for r in ("window", "stream") for c in (Covariates(), COVARIATES)),
        *((r, COVARIATES, "attention") for r in ("window", "stream")),
    ],
    ids=["window", "window-covariates", "stream", "stream-covariates", "window-attention", "stream-attention"],
)


@every_model
def test_a_shorter_horizon_is_the_beginning_of_the_trained_one(reads: str, covariates: Covariates, mixing: str) -> None:
    model, given = hourly(reads, covariates=covariates, mixing=mixing), parts(covariates, H)
    whole = forecast(model, **given, horizon=H)
    for horizon in range(1, H):
        found = forecast(model, given["rows"], given["known"][:horizon], horizon)
        assert np.array_equal(found, whole[:horizon])


@every_model
def test_a_longer_one_reads_the_points_of_what_was_forecast(reads: str, covariates: Covariates, mixing: str) -> None:
    """By hand: the medians stand below the table, without what is known up to now alone, and the rest is forecast."""
    model, given = hourly(reads, covariates=covariates, mixing=mixing), parts(covariates, 2 * H + 2)
    found = forecast(model, **given, horizon=2 * H + 2)
    rows, known = given["rows"], given["known"]
    for start in (0, H, 2 * H):
        n = min(H, 2 * H + 2 - start)
        part = forecast(model, rows, known[start : start + n], n)
        np.testing.assert_allclose(part, found[start : start + n], rtol=1e-9, atol=1e-9)
        points = part[..., 4] * np.array([2.0, 0.5]) + np.array([5.0, -1.0])
        beside = [known[start : start + n], np.full((n, 1), np.nan)] if known.shape[1] else []
        rows = np.concatenate([rows, np.concatenate([points, *beside], 1)])


def test_rolling_leaves_the_stream_where_it_is() -> None:
    model, values = hourly("stream", covariates=Covariates()), drawn_rows(30)
    asked, silent = Forecaster(model), Forecaster(model)
    for reader in (asked, silent):
        reader.update(values)
    asked.forecast(horizon=20)
    for name, part in state_tensors(silent.state).items():
        assert torch.equal(part, state_tensors(asked.state)[name]), name


@pytest.mark.parametrize("reads", ["window", "stream"])
def test_any_horizon_through_the_command_line(titans: Any, tiny: Any, tmp_path: Path, reads: str) -> None:
    run, given = tmp_path / "run", ["--horizon", 4, "--lookback", 12, "--set", "task.patch=4", "--set", "task.stride=4"]
    given += ["--set", f"task.reads={reads}", "--set", "training.steps=2", "--quiet", *tiny.size]
    titans("forecast", "train", tiny.wide, "--out", run, *given)
    found = {}
    for horizon in (None, 2, 10):
        out, asked = tmp_path / f"{horizon}.csv", ["--horizon", horizon] if horizon else []
        told = titans("forecast", "predict", run, tiny.wide, "--out", out, *asked).stderr
        assert ("too narrow" in told) == (horizon == 10)
        found[horizon] = pl.read_csv(out).filter(pl.col("unique_id") == "b")
    assert found[10]["ds"].to_list()[-1] == "2024-01-04 17:00:00"
    for horizon, rows in ((2, 2), (10, 4)):
        assert found[horizon][:rows].equals(found[None][:rows])
