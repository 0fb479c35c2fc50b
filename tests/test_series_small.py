"""The shipped forecaster: it forecasts tables that it never saw, as soon as the package is there."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from titans_seq.baselines import SeasonalNaive
from titans_seq.data.record import Series
from titans_seq.resources import data_file

WEATHER = "sample:new_york_weather/weather.csv.gz"


def forecast(titans: Any, table: Path | str, out: Path, *given: Any) -> pl.DataFrame:
    titans("forecast", "predict", "series_small", table, "--out", out, "--quiet", "--threads", 1, *given)
    return pl.read_csv(out)


def test_a_table_is_forecast_by_its_name_at_any_horizon(titans: Any, tmp_path: Path) -> None:
    found = {h: forecast(titans, WEATHER, tmp_path / f"{h}.csv", "--horizon", h) for h in (6, 120)}
    columns = pl.read_csv(data_file(WEATHER)).columns[1:]
    for horizon, rows in found.items():
        assert rows["unique_id"].unique(maintain_order=True).to_list() == columns
        assert len(rows) == horizon * len(columns)
        levels = rows.select(pl.col("^q.*$")).to_numpy()
        assert np.isfinite(levels).all() and (np.diff(levels) >= 0).all()
    both = found[6].join(found[120], on=["unique_id", "ds"])
    np.testing.assert_allclose(both["q0.5"], both["q0.5_right"], rtol=1e-5)


@pytest.mark.parametrize("season", [12, 24, 48])
def test_a_season_under_noise_is_found_better_than_by_repeating_the_last(
    titans: Any, tmp_path: Path, season: int
) -> None:
    rng = np.random.default_rng(season)
    rows = np.arange(20 * season)
    truth = 100 + 10 * np.sin(2 * np.pi * rows / season) + 5 * (rows % season < season / 4)
    times = np.datetime64("2024-01-01", "h") + rows
    seen = slice(0, 19 * season)
    noisy = truth + 3 * rng.normal(size=len(truth))
    table = tmp_path / "noisy.csv"
    pl.DataFrame({"ds": times[seen].astype("M8[us]"), "y": noisy[seen]}).write_csv(table)
    ours = forecast(titans, table, tmp_path / "f.csv", "--horizon", season)["q0.5"].to_numpy()
    series = Series("", times[seen], noisy[seen, None], ("y",))
    naive = SeasonalNaive(series, season).forecast(19 * season, season)[:, 0]
    errors = [float(np.abs(guess - truth[19 * season :]).mean()) for guess in (ours, naive)]
    assert errors[0] < errors[1], errors


def written(values: np.ndarray, file: Path, **others: np.ndarray) -> Path:
    """A long table of the series y, and of others of as many rows."""
    times = (np.datetime64("2024-01-01", "h") + np.arange(len(values))).astype("M8[us]")
    parts = [pl.DataFrame({"unique_id": name, "ds": times, "y": y}) for name, y in {"y": values, **others}.items()]
    pl.concat(parts).write_csv(file)
    return file


def wave(rows: int = 400) -> np.ndarray:
    return 3 * np.sin(np.arange(rows) * 2 * np.pi / 24) + np.random.default_rng(0).normal(size=rows)


def test_a_level_is_forecast_with_its_steps_also_beyond_the_horizon(titans: Any, tmp_path: Path) -> None:
    """A meter that stands at 123,456,789: float32 has no step below 8 there."""
    found = []
    for level in (0, 123_456_789):
        table = written(wave() + level, tmp_path / f"{level}.csv")
        found.append(forecast(titans, table, tmp_path / f"f{level}.csv", "--horizon", 200)["q0.5"].to_numpy() - level)
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)  # digits that the table has left: 1e-8 of the level


def test_a_series_is_forecast_as_if_it_were_alone(titans: Any, tmp_path: Path) -> None:
    alone = forecast(titans, written(wave(), tmp_path / "a.csv"), tmp_path / "fa.csv", "--horizon", 12)
    for scale in (1e-6, 1e6):
        table = written(wave(), tmp_path / "b.csv", other=10 * scale + scale * wave())
        beside = forecast(titans, table, tmp_path / "fb.csv", "--horizon", 12, "--overwrite").head(len(alone))
        assert beside["unique_id"].to_list() == alone["unique_id"].to_list()
        np.testing.assert_allclose(beside["q0.5"], alone["q0.5"], rtol=1e-4, atol=1e-4)
