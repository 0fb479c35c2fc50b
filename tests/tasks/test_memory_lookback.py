"""A history before the look-back reaches the forecast through what the backbone carries, and through that alone."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from forecasters import forecaster
from pydantic import ValidationError

from titans_seq.checkpoint import SequenceModel, load_pretrained
from titans_seq.miras.presets import PRESETS
from titans_seq.tasks.forecasting import Forecasting

H, L, M, P = 4, 16, 48, 4


def make(history: int = M, **backbone: Any) -> SequenceModel:
    task = Forecasting(
        horizon=H,
        lookback=L,
        memory_lookback=history,
        patch=P,
        stride=P,
        channels=("a",),
        location=(0.0,),
        scale=(1.0,),
    )
    return forecaster(task, depth=2, **backbone)


def windows(rows: int) -> dict[str, torch.Tensor]:
    past = torch.randn(2, M + L, 1, generator=torch.Generator().manual_seed(0)).cumsum(1)[:, -rows:]
    future = torch.zeros(2, H, 1)
    seen = {"observed": torch.ones_like(past, dtype=torch.bool), "future_observed": torch.ones(2, H, 1).bool()}
    return {"past": past, "future": future, **seen}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_reads_a_history(preset: str) -> None:
    model, batch = make(preset=preset), windows(M + L)
    before = model(batch)
    assert before.shape == (2, H, 1, 9) and before.isfinite().all()
    model.task.loss(before, batch).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_history_is_scaled_by_the_look_back_and_read_first() -> None:
    """Reading it by hand, then the look-back, gives the same; and without it the forecast is another."""
    model, batch = make(block={"kind": "lmm"}), windows(M + L)
    found = model(batch)
    features = model.head.inputs(batch)
    _, state = model.backbone(features[:, : M // P])
    hidden, _ = model.backbone(features[:, M // P :], state)
    by_hand = model.head.result(model.head.fold(None, hidden, batch))
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)  # single precision, other cuts
    alone = make(0, block={"kind": "lmm"})
    short = windows(L)
    torch.testing.assert_close(alone.head.inputs(short), features[:, M // P :])
    assert not torch.allclose(alone(short), found, atol=1e-4)
    changed = {**batch, "past": batch["past"].clone()}
    changed["past"][:, 0] += 5
    assert not torch.equal(model(changed), found)


def test_slopes_stop_where_training_truncates() -> None:
    model, batch = make(block={"kind": "lmm"}, memory={"chunk_size": 4}), windows(M + L)
    whole = model(batch)
    slopes = {}
    for truncate in (None, L // P):
        model.backbone.truncate = truncate
        features = model.head.inputs(batch).requires_grad_()
        hidden, _ = model.backbone(features)
        model.head.result(model.head.fold(None, hidden, batch)).sum().backward()
        slopes[truncate] = features.grad[:, : M // P].abs().max()
    assert slopes[None] > 0 and slopes[L // P] == 0
    torch.testing.assert_close(model(batch), whole)


@pytest.mark.parametrize("given", [{"stride": 4, "memory_lookback": 6}, {"reads": "stream", "memory_lookback": 8}])
def test_what_no_history_can_be(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="memory_lookback"):
        Forecasting(**{"horizon": 1, "lookback": 16, "patch": 4, **given})


def test_through_the_command_line(titans: Any, tiny: Any, tmp_path: Path) -> None:
    run, given = tmp_path / "run", ["--memory-lookback", 20, "--set", "training.truncate=4"]
    titans("forecast", "train", tiny.wide, "--out", run, *tiny.forecast, *given, "--set", "training.steps=2", "--quiet")
    assert load_pretrained(str(run)).task.before == 32
    titans("forecast", "predict", run, tiny.wide, "--horizon", 6, "--out", tmp_path / "f.csv")
    assert len(pl.read_csv(tmp_path / "f.csv")) == 12
    titans("forecast", "backtest", run, tiny.wide, "--windows", 3, "--out", tmp_path / "b.csv")


@pytest.mark.soak
@pytest.mark.parametrize("reads", ["window", "stream"])
def test_a_series_of_a_million_rows_trains_and_is_forecast_in_bounded_memory(
    titans: Any, tiny: Any, tmp_path: Path, reads: str
) -> None:
    """Minutes with a covariate that is known beforehand; the process grows by some copies of the table's numbers."""
    count, ahead = 1_000_000, 4
    times = np.datetime64("2020-01-01", "us") + np.arange(count + ahead) * np.timedelta64(1, "m")
    day = np.arange(count + ahead) * 2 * np.pi / 1440
    y = np.where(np.arange(count + ahead) < count, np.sin(day), np.nan)
    table = pl.DataFrame({"ds": times, "y": y, "hour": np.cos(day)}).with_columns(pl.col("y").fill_nan(None))
    table.write_parquet(tmp_path / "minutes.parquet")
    given = ["--horizon", ahead, "--lookback", 64, "--set", "task.patch=16", "--set", "task.stride=16"]
    given += ["--target", "y", "--known-future", "hour", "--set", "data.validation=100", "--set", "training.steps=3"]
    given += ["--set", f"task.reads={reads}", *(["--memory-lookback", 8192] if reads == "window" else []), *tiny.size]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = tmp_path / "run"
    titans("forecast", "train", tmp_path / "minutes.parquet", "--out", run, *given, "--set", "training.batch_size=4")
    titans("forecast", "predict", run, tmp_path / "minutes.parquet", "--out", tmp_path / "f.csv")
    assert len(pl.read_csv(tmp_path / "f.csv")) == ahead
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1_500_000  # kilobytes
