"""The scripts in ``benchmarks/`` that measure forecasts, with tiny settings on the sample; some on real data."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scripts import Script, kept, real_data

from titans_seq.data.sources import SeriesSource
from titans_seq.recipe import build
from titans_seq.resources import data_file
from titans_seq.tasks.forecasting import Forecasting

SAMPLE = "sample:new_york_weather/weather.csv.gz"
TINY = {"width": 8, "depth": 1, "heads": 2}


# --- long horizons


@pytest.fixture
def small(script: Script, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """The benchmark on the sample, with models that learn nothing."""

    def started(*options: Any) -> ModuleType:
        benchmark = script("long_horizon", *options)
        table = benchmark.Set(SAMPLE, (1000, 1200, 1400), 1)
        monkeypatch.setattr(benchmark, "SETS", dict.fromkeys(benchmark.SETS, table))
        monkeypatch.setattr(benchmark, "BACKBONE", TINY)
        monkeypatch.setitem(benchmark.DLINEAR_TRAINING, "epochs", 1)
        return benchmark

    return started


def test_cells_are_measured_once_and_what_is_open_is_listed(small: Callable[..., ModuleType], tmp_path: Path) -> None:
    small("--sets", "ETTh1", "--horizons", 96, "--seeds", 0, "--lookbacks", 96, "--models", "lmm,seasonal_naive").main()
    first = kept(tmp_path, "long_horizon")
    assert list(first) == ["ETTh1, 96 to 96, seasonal_naive", "ETTh1, 96 to 96, lmm, seed 0"]
    for row in first.values():
        assert row["test"]["mse"] > 0 and row["commit"] and row["machine"]
    small("--sets", "ETTh1", "--horizons", 96, "--seeds", 0, "--models", "lmm,dlinear,lmm:absolute-error").main()
    rows = kept(tmp_path, "long_horizon")
    assert all(rows[key] == row for key, row in first.items())
    models = {"96": ("dlinear", "lmm:absolute-error"), "336": ("dlinear", "lmm"), "96+672": ("lmm",)}
    new = {f"ETTh1, {lookback} to 96, {model}, seed 0" for lookback in models for model in models[lookback]}
    assert set(rows) - set(first) == new
    text = (tmp_path / "out" / "long_horizon.md").read_text()
    assert "- ETTh1, 96 to 96: mac (0 1 2), mag (0 1 2), mal (0 1 2), yaad (0 1 2), dlinear (1 2), lmm (1 2)" in text
    assert str(tmp_path) not in text + json.dumps(rows)


def test_the_test_part_has_the_same_windows_whatever_is_read(small: Callable[..., ModuleType]) -> None:
    benchmark = small()
    ends = set()
    for lookback in ("96", "336", "96+336"):
        cell = benchmark.Cell("ETTh1", lookback, 96, "lmm")
        test = benchmark.test_of(cell, benchmark.source_of(cell, Path()))
        ends.add((len(test), test.place(0), test.place(len(test) - 1)))
        assert test.lookback == sum(cell.rows_read)
    assert ends == {(200 - 96 + 1, (0, 1200), (0, 1400 - 96))}


def test_every_cell_is_a_recipe(script: Script) -> None:
    benchmark = script("long_horizon")
    cells = list(benchmark.plan())
    assert len({cell.key for cell in cells}) == len(cells)
    for cell in cells:
        task = Forecasting.model_validate(cell.task)
        assert (task.lookback, task.memory_lookback, task.horizon) == (*cell.rows_read, cell.horizon)
        if "backbone" in cell.settings():
            build({"data": {"kind": "series", "path": SAMPLE}, **cell.settings()})
    for values in benchmark.PRINTED.values():
        assert {(name, horizon) for name in values for horizon in values[name]} == {
            (cell.set, cell.horizon) for cell in cells if cell.lookback == "96"
        }


def test_means_are_told_of_all_four_horizons_alone(script: Script) -> None:
    benchmark = script("long_horizon")
    when = {"date": "2026-01-01", "machine": "M", "versions": {"torch": "2"}}
    errors = {96: 0.1, 192: 0.2, 336: 0.3, 720: 0.4}
    cells = [benchmark.Cell("ETTh1", "96", horizon, "mac", seed) for horizon in errors for seed in (0, 1)]
    rows = {c.key: {**when, **c._asdict(), "test": {"mse": errors[c.horizon], "mae": 0.5}} for c in cells}
    text = benchmark.report(rows)
    assert "| 0.250 / 0.500 |" in text and "ETTh1 -0.170 in MSE by mac" in text
    del rows[cells[0].key], rows[cells[1].key]
    assert "ETTh1 not known" in benchmark.report(rows)


def test_a_cell_that_is_not_there_is_told(script: Script) -> None:
    benchmark = script("long_horizon", "--models", "lmn")
    with pytest.raises(SystemExit, match=r"--models: lmn: there are .*lmm"):
        benchmark.main()


def test_dlinear_begins_as_the_mean_and_learns_a_line(script: Script) -> None:
    dlinear = script("long_horizon").DLinear
    task = Forecasting(lookback=48, horizon=8, channels=("a", "b"), location=(1.0, 0.0), scale=(2.0, 1.0))
    model = dlinear(task)
    past = torch.randn(3, 48, 2)
    with torch.no_grad():
        for layer in (model.trend, model.rest):
            layer.bias.zero_()
        found = model({"past": past})
    assert found.shape == (3, 8, 2, 1)
    means = (past - torch.tensor([1.0, 0.0])) / torch.tensor([2.0, 1.0])
    torch.testing.assert_close(found[..., 0], means.mean(1, keepdim=True).expand(3, 8, 2))


@real_data
@pytest.mark.parametrize(("name", "windows"), [("ETTh1", 2785), ("ETTm1", 11425), ("Weather", 10444)])
def test_windows_are_those_of_published_tables(script: Script, tmp_path: Path, name: str, windows: int) -> None:
    benchmark = script("long_horizon")
    cell = benchmark.Cell(name, "336", 96, "dlinear")
    source = benchmark.source_of(cell, tmp_path)
    task, training, validation = source.parts(Forecasting.model_validate(cell.task), 0)
    test = benchmark.test_of(cell, source)
    train_end, validation_end, test_end = benchmark.SETS[name].borders
    assert len(training) == train_end - 336 - 96 + 1
    assert len(validation) == validation_end - train_end - 96 + 1
    assert len(test) == test_end - validation_end - 96 + 1 == windows
    rows = test.series[0].target[:train_end]
    np.testing.assert_allclose(task.scale, rows.std(0), rtol=1e-12)


@real_data
def test_repeating_the_last_row_is_as_wrong_as_it_is_printed(script: Script, tmp_path: Path) -> None:
    """1.295 / 0.713 on ETTh1 at horizon 96: borders, scale and windows are those of the papers."""
    benchmark = script("long_horizon")
    cell = benchmark.Cell("ETTh1", "96", 96, "seasonal_naive")
    source = benchmark.source_of(cell, tmp_path)
    test = benchmark.test_of(cell, source)
    task = source.parts(Forecasting.model_validate(cell.task), 0).task
    found = benchmark.errors(task, test, benchmark.seasonal_naive(test, 1))
    assert (round(found["mse"], 3), round(found["mae"], 3)) == (1.294, 0.713)  # the code of others has float32 sums


# --- M4


def test_m4_by_gluonts_own_evaluation(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m4 = script("m4_hourly")
    rng = np.random.default_rng(0)
    lengths, series = (368, 388), {}
    for number, length in enumerate(lengths):
        day = np.sin(np.arange(length) / 24 * 2 * np.pi)
        series[f"H{number}"] = day + rng.normal(0, 0.1, length)
    for part, cut, rows in (("train", slice(None, -48), max(lengths) - 48), ("test", slice(-48, None), 48)):
        lines = [[id, *(f"{v:.3f}" for v in values[cut])] for id, values in series.items()]
        lines = [line + [""] * (1 + rows - len(line)) for line in [[f"V{n + 1}" for n in range(1 + rows)], *lines]]
        (tmp_path / f"{part}.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    found = m4.entries(tmp_path / "train.csv", tmp_path / "test.csv")
    for entry, values in zip(found, series.values(), strict=True):
        np.testing.assert_allclose(entry["target"], values, atol=6e-4)
    monkeypatch.setattr(m4, "entries", lambda *files: found)
    monkeypatch.setattr(m4, "data_file", Path)
    monkeypatch.setattr(m4, "BUDGET", {"batch_size": 4, "num_batches_per_epoch": 1})
    monkeypatch.setattr(m4, "EPOCHS", 1)
    monkeypatch.setattr(m4, "RATES", (1e-3,))
    monkeypatch.setattr(m4, "SEEDS", (0,))
    m4.main()
    rows = kept(tmp_path, "m4_hourly")
    assert [row["model"] for row in rows.values()] == ["seasonal_naive", "titans_seq", "patchtst", "patchtst_std"]
    assert all(
        0 < row[part][name] for row in rows.values() for part in ("validation", "test") for name in ("mase", "wql")
    )


@real_data
def test_m4_has_414_series(script: Script) -> None:
    m4 = script("m4_hourly")
    found = m4.entries(*(data_file(f"card:m4_hourly/Hourly-{part}.csv.gz") for part in ("train", "test")))
    assert len(found) == 414 and {len(entry["target"]) for entry in found} == {748, 1008}


# --- memory look-back


def test_error_against_memory_lookback_is_drawn(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = script("memory_lookback")
    sample = SeriesSource(path=SAMPLE, target=("temperature",), validation=400, test=7000)
    for name, value in (
        ("source", lambda: sample),
        ("TEST", 1000),
        ("EVERY", 100),
        ("BEFORE", (0, 48)),
        ("SEEDS", (0,)),
        ("BACKBONE", TINY),
        ("TRAINING", {"steps": 1, "batch_size": 2}),
    ):
        monkeypatch.setattr(benchmark, name, value)
    benchmark.main()
    rows = kept(tmp_path, "memory_lookback")
    assert list(rows) == [
        benchmark.NAIVE,
        "memory, 0 before, seed 0",
        "memory, 48 before, seed 0",
        "window, 48 before, seed 0",
    ]
    assert len({row["test"].get("windows", 10.0) for row in rows.values()}) == 1
    assert (tmp_path / "out" / "memory_lookback.png").stat().st_size > 10_000
