"""Series as GluonTS entries and long frames: nothing is lost on the way, and what cannot be carried is refused."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from gluonts.dataset.pandas import PandasDataset
from gluonts.model.forecast import QuantileForecast
from gluonts.time_feature import get_seasonality

from titans_seq.baselines import season_of
from titans_seq.data.record import Series
from titans_seq.data.times import add_steps, frequency_named
from titans_seq.errors import InputError
from titans_seq.gluonts import from_frame, pandas_frequency, to_entries, to_entry, to_frame, to_series

STARTS = {  # of a period of each step
    "1us": "2024-01-01T00:00:00.000007",
    "250ms": "2024-01-01T00:00:00.25",
    "10s": "2024-01-01T00:00:10",
    "15m": "2024-01-01T00:45",
    "1h": "2024-02-29T23:00",
    "1d": "2023-12-31",
    "1w": "2024-01-03",  # a Wednesday
    "2w": "2024-01-07",  # a Sunday
    "1mo": "2024-02-01",
    "3mo": "2024-02-01",
    "1y": "2024-04-01",
}
BESIDE = {  # that begin between the units of their steps
    "1h": "2024-02-29T23:30",
    "2h": "2024-02-29T23:30:05",
    "1d": "2023-12-31T09:00",
    "1w": "2024-01-03T12:15",
    "15m": "2024-01-01T00:45:00.000007",
}


def a_series(
    frequency: str = "1h", start: str = "2024-01-01", rows: int = 10, future: int = 3, columns: int = 2
) -> Series:
    rng = np.random.default_rng(0)
    times = add_steps(np.datetime64(start, "us"), frequency, np.arange(rows + future))
    target = rng.normal(size=(rows, columns))
    target[2, 0] = np.nan
    return Series(
        "s",
        times,
        target,
        tuple("abcdef"[:columns]),
        frequency,
        known_future=rng.normal(size=(rows + future, 2)).astype(np.float32),
        past_only=rng.normal(size=(rows, 1)).astype(np.float32),
        static=np.array([1.0, np.nan], np.float32),
    )


@pytest.mark.parametrize(("frequency", "start"), [*STARTS.items(), *BESIDE.items()])
def test_a_period_begins_where_the_series_does(frequency: str, start: str) -> None:
    name = pandas_frequency(frequency, np.datetime64(start))
    period = pd.Period(pd.Timestamp(start), freq=name)
    assert period.start_time == pd.Timestamp(start)
    assert (period + 1).start_time == add_steps(np.datetime64(start, "us"), frequency, 1)
    assert frequency_named(period.freqstr) == frequency


@pytest.mark.parametrize(("frequency", "start"), [*STARTS.items(), *BESIDE.items()])
def test_a_series_comes_back_as_it_was(frequency: str, start: str) -> None:
    series = a_series(frequency, start)
    back = to_series(to_entry(series), series.columns)
    for name in ("times", "target", "observed", "known_future", "past_only", "static"):
        np.testing.assert_array_equal(getattr(back, name), getattr(series, name), err_msg=name)
        assert getattr(back, name).dtype == getattr(series, name).dtype
    assert (back.id, back.columns, back.frequency) == (series.id, series.columns, frequency)


@pytest.mark.parametrize("frequency", ["15m", "1h", "1d", "1w", "1mo", "1y"])
def test_gluonts_knows_our_steps_by_their_names(frequency: str) -> None:
    theirs = get_seasonality(pandas_frequency(frequency, np.datetime64("2024-01-01")))
    assert theirs in (season_of(frequency), 1)  # it gives days and weeks no season


def test_what_was_not_measured_is_not_scored() -> None:
    series = a_series(columns=1)
    filled = replace(series, target=np.nan_to_num(series.target, nan=5.0), observed=np.isfinite(series.target))
    assert np.isnan(to_entry(filled)["target"][2])


def test_columns_apart_are_called_as_in_our_predictions() -> None:
    entries = to_entries(a_series())
    assert [entry["item_id"] for entry in entries] == ["s:a", "s:b"]
    assert all(entry["target"].shape == (10,) and entry["feat_dynamic_real"].shape == (2, 13) for entry in entries)
    assert to_entries(replace(a_series(columns=1), id="only"))[0]["item_id"] == "only"


def test_uneven_rows_are_refused() -> None:
    series = a_series(future=0)
    times = series.times.copy()
    times[5:] += np.timedelta64(1, "h")
    with pytest.raises(InputError, match="Series 's' has rows that do not stand 1h apart"):
        to_entry(replace(series, times=times))


def test_what_a_series_cannot_hold_is_told(caplog: pytest.LogCaptureFixture) -> None:
    entry = {**to_entry(a_series(columns=1)), "feat_static_cat": np.array([3])}
    with caplog.at_level(logging.WARNING, "titans_seq"):
        to_series(entry)
    assert "feat_static_cat is left out" in caplog.text
    with pytest.raises(InputError, match="has 1 columns in its target; 2 are named"):
        to_series(entry, ("a", "b"))
    with pytest.warns(FutureWarning):  # pandas is about to drop periods of business days
        business_day = pd.Period("2024-01-01", freq="B")
    with pytest.raises(InputError, match="rows every B, which are no even steps"):
        to_series({"start": business_day, "target": [1.0]})


def frame() -> dict[str, list[object]]:
    """Two series, one with its rows out of order and one row missing."""
    days = [4, 1, 2, 1, 2]
    return {
        "unique_id": ["001", "001", "001", "1", "1"],
        "ds": [np.datetime64(f"2024-01-0{day}T00:00:00", "us").item() for day in days],
        "y": [4.0, 1.0, 2.0, 10.0, 20.0],
    }


@pytest.mark.parametrize("library", [pl.DataFrame, pd.DataFrame], ids=["polars", "pandas"])
def test_a_long_frame_becomes_entries(library: type) -> None:
    entries = from_frame(library(frame()), "D")
    assert [entry["item_id"] for entry in entries] == ["001", "1"]
    np.testing.assert_array_equal(entries[0]["target"], [1, 2, np.nan, 4])
    np.testing.assert_array_equal(entries[1]["target"], [10, 20])
    assert entries[0]["start"] == pd.Period("2024-01-01", freq="D")


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_times_of_a_zone_are_kept_as_they_are_written(library: str, caplog: pytest.LogCaptureFixture) -> None:
    times = pd.date_range("2024-01-01 00:30", periods=3, freq="h", tz="Europe/Berlin")
    table = {"unique_id": ["a"] * 3, "ds": times, "y": [1.0, 2.0, 3.0]}
    if library == "polars":
        bare = pl.Series(times.tz_localize(None).to_numpy().astype("M8[us]"))
        table["ds"] = bare.dt.replace_time_zone("Europe/Berlin")
    (entry,) = from_frame(pl.DataFrame(table) if library == "polars" else pd.DataFrame(table), "1h")
    assert entry["start"].start_time == pd.Timestamp("2024-01-01 00:30")
    assert "in the zone Europe/Berlin; they are kept as written" in caplog.text


def test_rows_of_many_series_in_any_order_are_put_together() -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat([f"s{n}" for n in rng.permutation(30)], 5))
    days = np.zeros(len(ids), int)
    for id in set(ids):
        days[ids == id] = rng.permutation(5)
    times = np.datetime64("2024-01-01", "us") + days * np.timedelta64(1, "D")
    entries = from_frame(
        pd.DataFrame({"unique_id": ids, "ds": times, "y": days * 100.0 + [int(id[1:]) for id in ids]}), "D"
    )
    assert [entry["item_id"] for entry in entries] == list(dict.fromkeys(ids.tolist()))
    for entry in entries:
        np.testing.assert_array_equal(entry["target"], np.arange(5) * 100 + int(entry["item_id"][1:]))


def test_entries_of_a_frame_without_gaps_are_those_of_gluonts() -> None:
    whole = pd.DataFrame(frame()).sort_values(["unique_id", "ds"]).iloc[[0, 1, 3, 4]]
    theirs = PandasDataset.from_long_dataframe(whole, item_id="unique_id", timestamp="ds", target="y", freq="D")
    for ours, other in zip(from_frame(whole, "1d"), theirs, strict=True):
        assert (ours["item_id"], ours["start"]) == (other["item_id"], other["start"])
        np.testing.assert_array_equal(ours["target"], other["target"])


def test_rows_that_stand_twice_or_off_the_grid_are_refused() -> None:
    table = frame()
    with pytest.raises(InputError, match=r"'001'.*2024-01-02.* twice"):
        from_frame(pl.DataFrame({**table, "ds": [table["ds"][i] for i in (2, 1, 2, 3, 4)]}), "D")
    with pytest.raises(InputError, match=r"2024-01-02.* is no whole number of 2d after 2024-01-01"):
        from_frame(pl.DataFrame(table), "2D")


def test_forecasts_become_a_frame_with_the_usual_names() -> None:
    arrays = np.arange(9.0).reshape(3, 3)
    forecast = QuantileForecast(arrays, pd.Period("2024-01-01 05:00", freq="h"), ["mean", "0.1", "0.9"], item_id="a")
    index = pd.period_range("2024-01-01 04:00", periods=3, freq="h")
    found = to_frame([forecast], [pd.DataFrame({0: [1.0, 2.0, 3.0]}, index=index)])
    assert list(found) == ["unique_id", "ds", "cutoff", "y", "mean", "q0.1", "q0.9"]
    assert set(found["unique_id"]) == {"a"} and set(found["cutoff"]) == {pd.Timestamp("2024-01-01 04:00")}
    assert list(found["ds"]) == list(pd.date_range("2024-01-01 05:00", periods=3, freq="h"))
    np.testing.assert_array_equal(found["y"], [2, 3, np.nan])
    np.testing.assert_array_equal(found["q0.9"], arrays[2])
    assert "y" not in to_frame([forecast])


@pytest.mark.parametrize("day", [28, 29, 30])
@pytest.mark.parametrize("first", ["2021-02", "2021-04"])
def test_months_that_begin_at_a_month_s_end_keep_their_day(day: int, first: str) -> None:
    months = pd.period_range(first, periods=20, freq="M")
    times = [pd.Timestamp(m.year, m.month, min(day, m.days_in_month)) for m in months]
    frame = pd.DataFrame({"unique_id": "a", "ds": times, "y": np.arange(20.0)})
    (entry,) = from_frame(frame, "MS")
    assert entry["target"].tolist() == list(range(20))
