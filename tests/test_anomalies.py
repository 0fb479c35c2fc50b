"""Anomalies: thresholds flag what they say, planted faults are found, and no score knows what comes after its row."""

import json
import math
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from scipy import stats

from tests.conftest import thinned
from titans_seq.anomalies import TAIL, tail_threshold
from titans_seq.stream import Steps
from titans_seq.stream import anomalies as walks
from titans_seq.stream.anomalies import Walk, step_of
from titans_seq.tasks.forecasting import Forecasting


@pytest.mark.parametrize(
    "law", [stats.norm(), stats.expon(), stats.t(4), stats.uniform()], ids=lambda law: law.dist.name
)
@pytest.mark.parametrize("rate", [0.1, TAIL, 0.005, 0.001])
def test_a_threshold_is_passed_as_often_as_it_says(law: Any, rate: float) -> None:
    """Over samples of 4,000, the mean rate of new values beyond the threshold; of 0.001 there are 4 in a sample."""
    rng = np.random.default_rng(0)
    found = [law.sf(tail_threshold(law.rvs(4000, random_state=rng), rate)) for _ in range(100)]
    assert rate / 1.3 < np.mean(found) < 1.3 * rate


def test_a_threshold_reaches_beyond_what_was_seen() -> None:
    sample = stats.expon.rvs(size=4000, random_state=np.random.default_rng(1))
    far = tail_threshold(sample, 1e-6)
    assert far > sample.max()
    assert far == pytest.approx(-math.log(1e-6), rel=0.5)
    assert tail_threshold(np.ones(500), 0.001) == 1


@pytest.mark.parametrize(("stride", "horizon", "step"), [(8, 24, 8), (16, 6, 4), (7, 3, 1), (16, 16, 16)])
def test_forecasts_reach_every_row_and_stop_at_the_ends_of_tokens(stride: int, horizon: int, step: int) -> None:
    task = Forecasting(horizon=horizon, patch=stride, stride=stride, lookback=4 * stride)
    assert step_of(task) == step


FAULTS = (300, 303)  # a spike of three rows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two waves with noise, of which the first has a spike, and a missing value."""
    file = tmp_path_factory.mktemp("anomalies") / "table.csv"
    t = np.arange(363)
    rng = np.random.default_rng(0)
    values = np.stack([np.sin(t * np.pi / 12), np.cos(t * np.pi / 6)], 1) + 0.1 * rng.normal(size=(len(t), 2))
    values[slice(*FAULTS), 0] += 8
    times = np.datetime64("2024-01-01T00", "m") + t * np.timedelta64(60, "m")
    lines = [f"{time},{a:.6f},{b:.6f}" for time, (a, b) in zip(times.astype(str), values, strict=True)]
    lines[270] = lines[270].rpartition(",")[0] + ","
    file.write_text("\n".join(["date,a,b", *(line.replace("T", " ") for line in lines), ""]))
    return file


WAYS = {
    "window": ("--set", "task.stride=8"),
    "stream": ("--set", "task.reads=stream"),
    "mixing": ("--set", "task.reads=stream", "--set", "task.mixing=true"),
    "attention": ("--set", "task.reads=stream", "--set", "task.mixing=attention"),
}


@pytest.fixture(scope="module")
def runs(titans: Any, tiny: Any, table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    given = ["--horizon", 8, "--lookback", 32, "--set", "task.patch=8", *tiny.size, "--set", "training.steps=4"]
    for name, way in WAYS.items():
        titans("forecast", "train", table, "--out", folder / name, *given, *way, "--set", "data.test=100", "--quiet")
    return {name: folder / name for name in WAYS}


def scored(titans: Any, run: Path, table: Path, out: Path, *more: Any) -> tuple[dict[str, Any], pl.DataFrame]:
    given = ["--calibration", 240, "--rate", 0.01, *more]
    found = json.loads(titans("forecast", "anomalies", run, table, "--out", out, *given, "--json").stdout)
    return found, pl.read_csv(out)


@pytest.mark.parametrize("way", thinned(WAYS))
def test_a_spike_is_flagged_and_ordinary_rows_are_not(
    titans: Any, table: Path, runs: dict[str, Path], tmp_path: Path, way: str
) -> None:
    found, rows = scored(titans, runs[way], table, tmp_path / "flags.csv")
    assert rows.columns[:5] == ["unique_id", "ds", "y", "mean", "residual"]
    assert rows.columns[5:] == ["residual_threshold", "surprise", "surprise_threshold", "flag"]
    assert len(rows) == found["rows"] == 2 * 363
    assert rows["ds"].is_sorted() and rows["unique_id"][:4].to_list() == ["a", "b", "a", "b"]
    own = rows.filter(pl.col("unique_id") == "a")
    assert own["flag"][slice(*FAULTS)].all()
    assert own["residual"].null_count() == (8 if way != "window" else 32)  # rows before the first forecast
    other = rows.filter(pl.col("unique_id") == "b")
    assert other["y"].null_count() == 1 and other["residual"][270] is None
    assert other["flag"].sum() < 0.05 * len(other)  # five times the rate: four steps of training, 120 rows
    assert found["flags"]["calibration"] + found["flags"]["behind"] == rows["flag"].sum()
    assert set(found["series"]) == {"a", "b"}
    assert float((imread(tmp_path / "flags.png")[..., :3].min(-1) < 0.95).mean()) > 0.01


@pytest.mark.parametrize("way", thinned(["stream", "window"]))
def test_scores_do_not_know_what_comes(
    titans: Any, table: Path, runs: dict[str, Path], tmp_path: Path, way: str
) -> None:
    """Scores of rows before a cut are those of the table that ends there; surprise, up to its last whole token."""
    _, whole = scored(titans, runs[way], table, tmp_path / "whole.csv", "--calibration", 240)
    head, *body = table.read_text().splitlines()
    cut = tmp_path / "cut.csv"
    cut.write_text("\n".join([head, *body[:282], ""]))
    _, part = scored(titans, runs[way], cut, tmp_path / "part.csv", "--calibration", 240)
    last = part.with_columns(whole["surprise"].head(2 * 282).alias("then"))
    assert part["surprise"].tail(4).null_count() == 4  # two rows of a token that is not full, of two series
    np.testing.assert_allclose(last["surprise"][: 2 * 280], last["then"][: 2 * 280], rtol=1e-4)
    for name in ("mean", "residual", "residual_threshold", "surprise_threshold"):
        np.testing.assert_allclose(part[name], whole[name].head(2 * 282), rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("way", thinned(["stream", "window"]))
def test_a_stopped_search_goes_on(
    titans: Any, table: Path, runs: dict[str, Path], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = scored(titans, runs[way], table, tmp_path / "a.csv", "--batch-size", 8)
    name = "window_steps" if way == "window" else "series_steps"
    steps = getattr(walks, name)
    calls = []

    def signalled(*arguments: Any) -> Steps:
        calls.append(1)
        for number, step in enumerate(steps(*arguments)):
            if len(calls) == 2 and number == 3:  # the first call is of the calibration rows
                os.kill(os.getpid(), signal.SIGTERM)
            yield step

    given = [runs[way], table, "--calibration", 240, "--rate", 0.01, "--batch-size", 8, "--out", tmp_path / "b.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(walks, name, signalled)
        titans("forecast", "anomalies", *given, code=143)
    assert not (tmp_path / "b.csv").exists()
    again = json.loads(titans("forecast", "anomalies", *given, "--resume", "--json").stdout)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    assert again["flags"] == whole["flags"]


def test_a_model_without_a_memory_that_learns_has_no_surprise(
    titans: Any, tiny: Any, table: Path, tmp_path: Path
) -> None:
    given = ["--horizon", 6, "--lookback", 16, "--set", "task.patch=4", "--set", "task.stride=4", *tiny.size]
    block = ["--set", "backbone.block={kind: attention, window: 4}", "--set", "task.output={kind: point}"]
    titans(
        "forecast", "train", table, "--out", tmp_path / "run", *given, *block, "--set", "training.steps=1", "--quiet"
    )
    _, rows = scored(titans, tmp_path / "run", table, tmp_path / "flags.csv")
    assert rows.columns == ["unique_id", "ds", "y", "mean", "residual", "residual_threshold", "flag"]


def test_series_are_scored_each_in_its_own_units(titans: Any, tmp_path: Path) -> None:
    """By a model for any table the same spike is one in a series of tens beside others of hundreds of thousands."""
    draw, t = np.random.default_rng(6), np.arange(180)
    lines = ["unique_id,ds,y"]
    for name, size in ((letter, 10.0 if letter > "f" else 1e5) for letter in "abcdefghijkl"):
        y = size * (1 + 0.3 * np.sin(t * 2 * np.pi / 7) + 0.05 * draw.standard_normal(180) + 3 * (t == 150))
        lines += [f"{name},{day},{value}" for day, value in zip(np.datetime64("2024-01-01") + t, y, strict=True)]
    (tmp_path / "x.csv").write_text("\n".join([*lines, ""]))
    given = ["series_small", tmp_path / "x.csv", "--out", tmp_path / "y.csv", "--calibration", 120, "--rate", 0.01]
    titans("forecast", "anomalies", *given)
    rows = pl.read_csv(tmp_path / "y.csv").filter(pl.col("ds").str.starts_with("2024-05-30"))
    assert len(rows) == 12 and rows["flag"].all() and (rows["residual"] > 10).all()


def test_the_band_of_residuals_is_that_of_the_quantiles() -> None:
    """Conformal margins below 0 may leave next to nothing of an interval, which residuals would be measured in."""
    forecast = {name: np.full((2, 1), value) for value, name in enumerate(("lo-80", "hi-80", "q0.1", "q0.9", "mean"))}
    for names, ends in ((list(forecast), (2, 3)), (["mean", "lo-80", "hi-80"], (0, 1)), (["mean"], (-1, 9))):
        walk: Any = SimpleNamespace(model=SimpleNamespace(task=SimpleNamespace(names=names)), scales=[np.array([5.0])])
        low, high = Walk._interval(walk, 0, forecast)
        assert (low[0, 0], high[0, 0]) == ends


def test_too_few_calibration_rows_are_told(titans: Any, table: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    given = ["forecast", "anomalies", runs["stream"], table, "--out", tmp_path / "a.csv"]
    told = titans(*given, "--calibration", 20, code=3).stderr
    assert "and thresholds need 30" in told
    (enough,) = re.findall(r"Give --calibration (\d+) \(rows a series\), or more rows", told)
    assert not (tmp_path / "a.csv").exists()
    for rows, code in ((int(enough) - 8, 3), (enough, 0)):  # to a token's rows
        titans(*given, "--calibration", rows, code=code)
    short = tmp_path / "short.csv"
    short.write_text("".join(table.read_text().splitlines(keepends=True)[:80]))
    given = ["forecast", "anomalies", runs["stream"], short, "--out", tmp_path / "b.csv"]
    assert "The whole table has too few: give more rows" in titans(*given, code=3).stderr
