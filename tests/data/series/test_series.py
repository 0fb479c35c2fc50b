import gzip
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import thinned
from titans_seq.data.record import Series
from titans_seq.data.series import SeriesTable, read_series, regular
from titans_seq.data.times import add_steps, find_frequency, future_times, step_of, time_delta
from titans_seq.errors import InputError, UsageError

File = Callable[..., Path]
with_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def hourly(rows: int, start: str = "2020-01-01 00:00:00") -> list[str]:
    first = datetime.fromisoformat(start)
    return [str(first + timedelta(hours=hour)) for hour in range(rows)]


def wide(values: list[str], times: list[str] | None = None) -> str:
    times = hourly(len(values)) if times is None else times
    return "date,a\n" + "".join(f"{time},{value}\n" for time, value in zip(times, values, strict=True))


def same(left: SeriesTable, right: SeriesTable) -> bool:
    return (left.layout, left.frequency, left.share) == (right.layout, right.frequency, right.share) and all(
        (one.id, one.columns) == (other.id, other.columns)
        and np.array_equal(one.times, other.times)
        and np.array_equal(one.target, other.target, equal_nan=True)
        for one, other in zip(left.series, right.series, strict=True)
    )


# Layouts


def test_wide(file: File, warned: list[str]) -> None:
    table = read_series(file("date,a,b\n2020-01-01,1,2.5\n2020-01-02,1e-3,-4\n2020-01-03,3,NA\n", "x.csv"))
    (one,) = table.series
    assert (table.layout, table.frequency, table.share) == ("wide", "1d", 1.0)
    assert (one.id, one.columns, len(one)) == ("", ("a", "b"), 3)
    assert one.times.dtype == np.dtype("M8[us]") and one.target.dtype == np.float64
    assert one.times.astype("M8[D]").astype(str).tolist() == ["2020-01-01", "2020-01-02", "2020-01-03"]
    np.testing.assert_array_equal(one.target, [[1, 2.5], [1e-3, -4], [3, np.nan]])
    assert len(warned) == 1 and "column 'b' has missing values in 33.33% of its rows (1)" in warned[0]


@pytest.mark.parametrize("names", ["unique_id,ds,y", "item_id,timestamp,target", "id,datetime,value", "series,Date,Y"])
def test_long_with_rows_interleaved(file: File, names: str) -> None:
    rows = "".join(f"{id},{time},{id}{hour}\n" for hour, time in enumerate(hourly(4)) for id in ("2", "001", "1"))
    table = read_series(file(f"{names}\n{rows}", "x.csv"))
    assert table.layout == "long" and table.frequency == "1h"
    assert [one.id for one in table.series] == ["2", "001", "1"]
    assert [one.target[:, 0].tolist() for one in table.series] == [[20, 21, 22, 23], [10, 11, 12, 13], [10, 11, 12, 13]]


def test_ids_001_and_1_are_two(file: File) -> None:
    rows = "".join(f"{id},{time},{value}\n" for value, id in enumerate(("001", "1")) for time in hourly(3))
    table = read_series(file("unique_id,ds,y\n" + rows, "x.csv"))
    assert [(one.id, one.target[0, 0]) for one in table.series] == [("001", 0), ("1", 1)]


def test_columns_that_a_long_table_does_not_read_are_told(file: File, warned: list[str]) -> None:
    path = file("unique_id,ds,y,x\na,2020-01-01,1,4\na,2020-01-02,2,5\n", "x.csv")
    assert read_series(path).series[0].columns == ("y",)
    assert len(warned) == 1 and "not read: x" in warned[0] and "--target" in warned[0]
    assert read_series(path, target=["x", "y"]).series[0].target.tolist() == [[4, 1], [5, 2]]
    assert len(warned) == 1


def test_a_layout_may_be_insisted_on(file: File) -> None:
    path = file("date,id,a\n2020-01-01,1,4\n2020-01-02,2,5\n", "x.csv")
    assert read_series(path, format="wide").series[0].columns == ("id", "a")
    with pytest.raises(InputError, match="too short: rows found: 1, rows needed: 2"):
        read_series(path)
    with pytest.raises(InputError, match="no column of ids"):
        read_series(file("date,a\n2020-01-01,4\n2020-01-02,5\n", "y.csv"), format="long")


def test_columns_are_named(file: File) -> None:
    path = file("when,who,what\n2020-01-01,x,4\n2020-01-02,x,5\n", "x.csv")
    (one,) = read_series(path, time="when", id="who", target=["what"]).series
    assert (one.id, one.target.tolist()) == ("x", [[4], [5]])
    for option in ({"time": "no"}, {"id": "no"}, {"target": ["no"]}):
        with pytest.raises(InputError, match=r"no column 'no' \(--.*Its columns: when, who, what"):
            read_series(path, **option)  # type: ignore[arg-type]


def test_columns_are_named_one_at_a_time(file: File) -> None:
    table = file("ds,y,a,b\n2020-01-01,1,2,3\n2020-01-02,1,2,3\n", "x.csv")
    says = r"no column 'a,b' \(--known-future\).* --known-future names one column at a time"
    with pytest.raises(InputError, match=says):
        read_series(table, known_future=("a,b",))


def test_a_column_of_dates_is_found_by_its_look(file: File, warned: list[str]) -> None:
    assert read_series(file("Month,Sunspots\n1749-01,58.0\n1749-02,62.6\n", "x.csv")).frequency == "1mo"
    (one,) = read_series(file(",a\n2020-01-01,1\n2020-01-02,2\n", "y.csv")).series
    assert one.columns == ("a",) and warned == []
    read_series(file(",date,a\n0,2020-01-01,1\n1,2020-01-02,2\n", "z.csv"))
    assert len(warned) == 1 and "not read: (unnamed)" in warned[0]
    with pytest.raises(InputError, match=r"no column of timestamps .*Its columns: No, year, week"):
        read_series(file("No,year,week\n1,2010,1\n2,2010,2\n", "w.csv"))


# What is read alike


@pytest.mark.parametrize(
    "content",
    [
        "date,a,b\n2020-01-01,1.5,2\n2020-01-02,-3,0.001\n",
        "date;a;b\n2020-01-01;1,5;2\n2020-01-02;-3;0,001\n",
        "date\ta\tb\n2020-01-01\t1.5\t2\n2020-01-02\t-3\t0.001\n",
        "date\ta\tb\n2020-01-01\t1,5\t2\n2020-01-02\t-3\t0,0010\n",
        "\ufeffdate,a,b\r\n2020-01-01,1.5,2\r\n2020-01-02,-3,0.001\r\n",
        "date, a, b\n2020-01-01, 1.5, 2\n2020-01-02, -3, 1e-3\n",
        '"date","a","b"\n"2020-01-01","1.5","2"\n"2020-01-02","-3","1E-3"',
        "date,a,b\n2020-01-02,-3,0.001\n2020-01-01,1.5,2\n",
    ],
)
@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())])
def test_separators_commas_and_line_ends_do_not_matter(file: File, content: str, pack: Callable[[str], bytes]) -> None:
    (one,) = read_series(file(pack(content), "x.csv")).series
    assert one.columns == ("a", "b")
    assert one.target.tolist() == [[1.5, 2], [-3, 0.001]]


def test_latin_1(file: File) -> None:
    content = "date,PAR (\xb5mol)\n2020-01-01,1\n2020-01-02,2\n".encode("latin-1")
    assert read_series(file(content, "x.csv")).series[0].columns == ("PAR (\xb5mol)",)


def test_parquet_is_read_like_text(tmp_path: Path, file: File) -> None:
    times = pl.Series("ds", [datetime(2020, 1, day) for day in (1, 2, 3)])
    table = pl.DataFrame({"ds": times, "y": [1.0, None, float("nan")], "n": [1, 2, 3], "flag": [True, False, True]})
    text = file("ds,y,n,flag\n2020-01-01,1,1,1\n2020-01-02,,2,0\n2020-01-03,NaN,3,1\n", "x.csv")
    for column in (times, times.cast(pl.Datetime("ns")), times.cast(pl.Date), times.dt.replace_time_zone("UTC")):
        table.with_columns(column).write_parquet(tmp_path / "x.parquet")
        assert same(read_series(tmp_path / "x.parquet"), read_series(text))


def test_times_in_a_zone_of_parquet_are_told(tmp_path: Path, warned: list[str]) -> None:
    times = pl.Series("ds", [datetime(2020, 1, 1, hour) for hour in (2, 3)]).dt.replace_time_zone("Europe/Berlin")
    pl.DataFrame({"ds": times, "y": [1.0, 2.0]}).write_parquet(tmp_path / "x.parquet")
    assert str(read_series(tmp_path / "x.parquet").series[0].times[0])[:13] == "2020-01-01T01"
    assert len(warned) == 1 and "'ds' are in the zone Europe/Berlin; they are read as UTC" in warned[0]


@with_fixtures
@given(order=st.permutations(range(12)), separator=st.sampled_from([",", ";", "\t"]))
def test_the_order_of_rows_does_not_matter(order: list[int], separator: str, file: File) -> None:
    lines = [f"{id},{time},{value}" for id in ("b", "a") for value, time in enumerate(hourly(6))]
    straight = read_series(file("\n".join(["unique_id,ds,y", *lines]), "x.csv"))
    shuffled = "\n".join(["unique_id,ds,y", *(lines[place] for place in order)]).replace(",", separator)
    table = read_series(file(shuffled, "y.csv"))
    by_id = sorted(table.series, key=lambda one: one.id, reverse=True)
    assert same(replace(table, series=tuple(by_id)), straight)


@pytest.mark.parametrize(
    ("first", "second", "frequency"),
    [
        ("2020-01-01", "2020-01-02", "1d"),
        ("2020-1-1", "2020-1-2", "1d"),
        ("2020/01/01 00:00", "2020/01/01 00:15", "15m"),
        ("2020.01.01", "2020.01.08", "1w"),
        ("20200101", "20200102", "1d"),
        ("2020-01-01T00:00:00", "2020-01-01T01:00:00", "1h"),
        ("2020-01-01T00:00:00Z", "2020-01-01T01:00:00Z", "1h"),
        ("2020-01-01 00:00:00+00:00", "2020-01-01 01:00:00+00:00", "1h"),
        ("2020-01-01 00:00:00", "2020-01-01 00:00:00.5", "500ms"),
        ("13/01/2020", "14/01/2020", "1d"),
        ("1/13/2020", "1/14/2020", "1d"),
        ("13.01.20 00:00", "13.01.20 00:30", "30m"),
        ("01/13/2020 11:00 AM", "01/13/2020 12:00 PM", "1h"),
        ("2020-01", "2020-04", "3mo"),
        ("1950", "1951", "1y"),
    ],
)
def test_forms_of_dates(file: File, warned: list[str], first: str, second: str, frequency: str) -> None:
    table = read_series(file(f"date,a\n{first},1\n{second},2\n", "x.csv"))
    assert table.frequency == frequency
    assert str(table.series[0].times[0])[:10] in ("2020-01-01", "2020-01-13", "1950-01-01")
    assert warned == []


def test_a_given_form_of_dates(file: File) -> None:
    path = file("date,a\n03/04/2020,1\n04/04/2020,2\n", "x.csv")
    assert read_series(path, time_format="%d/%m/%Y").frequency == "1d"
    assert read_series(path, time_format="%m/%d/%Y").frequency == "1mo"
    with pytest.raises(InputError, match=r"row 1: '03/04/2020' does not read as '%Y-%m-%d'.*--time-format"):
        read_series(path, time_format="%Y-%m-%d")
    zones = file("date,a\n2020-03-29 01:00+0100,1\n2020-03-29 03:00+0200,2\n", "y.csv")
    assert read_series(zones, time_format="%Y-%m-%d %H:%M%z").frequency == "1h"


# What is refused

LONG = "unique_id,ds,y\n"
TWO = "2020-01-01,1\n2020-01-02,2\n"


@pytest.mark.parametrize(
    ("content", "options", "why"),
    [
        ("", {}, "empty: rows found: 0"),
        ("date,a\n", {}, "rows found: 0, rows needed: 1"),
        ("date,a\n2020-01-01,1\n", {}, "rows found: 1, rows needed: 2"),
        ("date,a\n" + TWO, {"min_rows": 120}, "rows found: 2, rows needed: 120"),
        (LONG + "x,2020-01-01,1\nx,2020-01-02,2\nz,2020-01-01,1\n", {}, "series 'z' is too short: rows found: 1"),
        ("date,a\n" + TWO + "someday,3\n", {}, "row 3: 'someday' is no date.*--time-format"),
        ("date,a\nyesterday,1\ntoday,2\n", {}, "row 1: 'yesterday' does not read as a date.*--time-format"),
        ("date,a\n" + TWO + "2020-02-30,3\n", {}, "row 3: '2020-02-30' is no date.*--time-format"),
        ("date,a\n" + TWO + "03/01/2020,3\n", {}, "row 3: '03/01/2020' .*format.*--time-format"),
        ("date,a\n" + TWO + "2020-01-03 00:00:00,3\n", {}, "row 3: '2020-01-03 00:00:00' .*format.*--time-format"),
        ("date,a\n13/01/2020,1\n01/14/2020,2\n", {}, "row 1: '13/01/2020' .*mixes|row 2: '01/14/2020' .*mixes"),
        ("date,a\n" + TWO + ",3\n", {}, "row 3 has no timestamp"),
        ("date,a\n03/04/2020,1\n04/04/2020,2\n", {}, "row 1: '03/04/2020' is ambiguous.*--time-format '%d/%m/%Y'"),
        (
            "date,a\n24-01-30,1\n24-01-31,2\n",
            {},
            "row 1: '24-01-30' is ambiguous.*--time-format '%d-%m-%y' or '%y-%m-%d'",
        ),
        (
            "date,a\n2020-01-01 00:00Z,1\n2020-01-01 02:00+01:00,2\n",
            {},
            r"more than one time zone.*row 2 .*--time-format",
        ),
        (
            "date,a\n2020-01-01 00:00Z,1\n2020-01-01 02:00,2\n",
            {},
            "more than one time zone: UTC in row 1, none in row 2",
        ),
        ("date,a\n" + TWO + "2020-01-02,3\n", {}, "duplicate timestamp 2020-01-02 .*row 2.*2 times.*--on-duplicate"),
        (LONG + "x,2020-01-01,1\nx,2020-01-01,2\n", {}, "series 'x': duplicate timestamp 2020-01-01"),
        ("date,a\n" + TWO + "2020-01-05,3\n", {"on_gap": "error"}, "commonest step is 1d, 50 % of all.*--on-gap"),
        ("date,a,b\n2020-01-01,1,\n2020-01-02,2,NA\n", {}, "column 'b' holds no value: all rows are missing"),
        (
            LONG + "x,2020-01-01,1\nx,2020-01-02,2\nz,2020-01-01,\nz,2020-01-02,\n",
            {},
            "series 'z': column 'y' holds no",
        ),
        ("date,a\n" + TWO + "2020-01-03,inf\n", {}, "row 3, column 'a': 'inf' is infinite or too large"),
        ("date,a\n" + TWO + "2020-01-03,-Infinity\n", {}, "row 3, column 'a': '-Infinity' is infinite"),
        ("date,a\n" + TWO + "2020-01-03,1e308\n", {}, "row 3, column 'a': '1e308' is infinite or too large"),
        ("date,a\n" + TWO + "2020-01-03,1e400\n", {}, "row 3, column 'a': '1e400' is infinite or too large"),
        ("date,a\n" + TWO + "2020-01-03,high\n", {}, "row 3, column 'a': 'high' is not a number"),
        ("date,a,wind\n2020-01-01,1,NW\n2020-01-02,2,SE\n", {}, "row 1, column 'wind': 'NW' is not a number.*--target"),
        ('date,a\n2020-01-01,"1,500"\n2020-01-02,2\n', {}, "row 1, column 'a': '1,500' is not a number"),
        ("date\ta\n2020-01-01\t1,500\n2020-01-02\t2\n", {}, "row 1, column 'a': '1,500' is not a number"),
        ("date;a\n2020-01-01;1.234,5\n2020-01-02;2\n", {}, "row 1, column 'a': '1.234,5' is not a number"),
        ("date,a\n2020-01-01,1\n2020-01-02\n2020-01-03,3\n", {}, "row 2 .*has 1 fields, the header has 2"),
        ("date,a,b\n2020-01-01,1,2\n2020-01-02,1", {}, "last line is cut off: row 2"),
        ("date,a,a\n2020-01-01,1,2\n", {}, "duplicate column name 'a'"),
        (LONG + "x,2020-01-01,1\n,2020-01-02,2\nx,2020-01-02,2\n", {}, "row 2 has an empty id in column 'unique_id'"),
        (LONG + "x,2020-01-01,1\n ,2020-01-02,2\nx,2020-01-02,2\n", {}, "row 2 has an empty id"),
        ("date\n2020-01-01\n2020-01-02\n", {}, "no column of values"),
        ("PK\x03\x04", {}, "Excel"),
        ('[{"date": "2020-01-01"}]', {}, "JSON"),
    ],
)
def test_bad_input_is_refused_with_row_column_and_value(
    file: File, content: str, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(InputError, match=f"x[.]csv.*(?:{why})") as told:
        read_series(file(content, "x.csv"), **options)
    assert told.value.code == 3


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_series(tmp_path / "x.csv")


# What is warned about


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("date,a\n" + TWO + "2020-01-02,2\n", "rows with a duplicate timestamp: 1, all with equal values.*2020-01-02"),
        (
            "date,a\n2020-01-02,2\n2020-01-01,1\n2020-01-03,3\n",
            "rows out of order in time: 1, the first is row 2; sorted",
        ),
        ("date,a\n" + TWO + "2020-01-03,3\n2020-01-07,3\n", "commonest step is 1d, 66.6667 % of all; longer .*: 1"),
        (wide(["1"] * 3), "column 'a' is constant, 1"),
        (wide(["1", "", "3", "nan"]), r"column 'a' has missing values in 50.00% of its rows \(2\)"),
        (wide(["1", "-9999", "3", "-9999"]), r"column 'a' holds -9999 \(times: 2\).*kept as a number"),
        (wide(["1", "2"], ["2020-01-01 00:00+02:00", "2020-01-01 01:00+02:00"]), r"in the zone \+02:00"),
        (
            wide(list("12345"), hourly(3, "2020-10-25 01:00:00") + hourly(2, "2020-10-25 03:00:00")).replace(
                "2020-10-25 03:00:00,4", "2020-10-25 02:00:00,4"
            ),
            r"(DST fold).*2020-10-25 02:00:00",
        ),
    ],
)
def test_doubts_are_told(file: File, warned: list[str], content: str, why: str) -> None:
    read_series(file(content, "x.csv"))
    with pytest.raises(AssertionError, match=why):
        raise AssertionError("\n".join(warned))


@pytest.mark.parametrize(("days", "told"), [((0, 1, 2, 3, 4), True), ((0, 1, 2, 4, 6), False), (range(7), False)])
def test_gaps_that_are_weekends_are_told(file: File, warned: list[str], days: Sequence[int], told: bool) -> None:
    monday = datetime(2024, 1, 1)
    dates = [str(monday + timedelta(days=7 * week + day))[:10] for week in range(4) for day in days]
    read_series(file(wide([str(n) for n in range(len(dates))], dates), "x.csv"))
    assert any("its gaps are weekends" in one and "forecasts will have rows" in one for one in warned) == told


def test_business_days_are_no_frequency(file: File) -> None:
    with pytest.raises(ValueError, match=r"business days.*Take D"):
        read_series(file("date,a\n" + TWO, "x.csv"), freq="B")


def test_sentinels_are_kept_and_may_be_named_missing(file: File, warned: list[str]) -> None:
    path = file(wide(["1", "-9999.0", "3"]), "x.csv")
    assert read_series(path).series[0].target[:, 0].tolist() == [1, -9999, 3]
    warned.clear()
    assert np.isnan(read_series(path, missing=["", "-9999"]).series[0].target[1, 0])
    assert "missing values" in warned[0]


def test_large_values_that_are_no_sentinel_are_passed_over(file: File, warned: list[str]) -> None:
    read_series(file(wide([str(value) for value in range(9000, 10_500)]), "x.csv"))
    read_series(file(wide([str(value) for value in range(900, 1000)]), "x.csv"))
    read_series(file(wide(["-1200", "-999", "-800", "-700"]), "x.csv"))
    assert warned == []


@pytest.mark.parametrize(("how", "kept"), [("mean", 3.0), ("first", 2.0), ("last", 4.0)])
def test_duplicates_as_the_user_decides(file: File, warned: list[str], how: Any, kept: float) -> None:
    path = file("date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-03,3\n2020-01-02,4\n", "x.csv")
    assert read_series(path, on_duplicate=how).series[0].target[:, 0].tolist() == [1, kept, 3]
    assert "rows with a duplicate timestamp: 1, of which the " + how in "\n".join(warned)


def test_a_night_on_which_clocks_go_forward(file: File, warned: list[str]) -> None:
    times = [time for time in hourly(48, "2021-03-27 12:00:00") if time != "2021-03-28 02:00:00"]
    table = read_series(file(wide([str(n) for n in range(47)], times), "x.csv"))
    assert table.frequency == "1h" and "(DST gap): 2021-03-28 02:00:00" in warned[-1]
    assert np.isnan(regular(table.series[0]).target).sum() == 1


def test_a_night_on_which_clocks_go_back(file: File, warned: list[str]) -> None:
    """Half-hourly in local time: two stamps stand twice, which also looks like rows out of order."""
    times = [str(datetime(2020, 11, 1) + timedelta(minutes=30 * step)) for step in range(8)]
    times = times[:4] + times[2:]
    table = read_series(file(wide([str(n) for n in range(10)], times), "x.csv"))
    assert table.series[0].target[:, 0].tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    assert "DST fold" in "\n".join(warned) and "2020-11-01 01:00:00, 2020-11-01 01:30:00" in "\n".join(warned)


def test_duplicates_on_another_sunday_are_no_clock_change(file: File) -> None:
    times = [*hourly(3, "2020-06-28 01:00:00"), "2020-06-28 02:00:00"]
    with pytest.raises(InputError, match="duplicate timestamp"):
        read_series(file(wide(list("1234"), times), "x.csv"))
    monday = [*hourly(3, "2020-10-26 01:00:00"), "2020-10-26 02:00:00"]
    with pytest.raises(InputError, match="duplicate timestamp"):
        read_series(file(wide(list("1234"), monday), "z.csv"))
    days = ["2020-10-25 00:00", "2020-10-26 00:00", "2020-10-25 00:00"]
    with pytest.raises(InputError, match="duplicate timestamp"):
        read_series(file(wide(list("123"), days), "y.csv"))


# Steps

FREQUENCIES = ["1us", "250ms", "1s", "10s", "5m", "15m", "1h", "6h", "1d", "1w", "2w", "1mo", "3mo", "1y"]
STARTS = ["1749-01-01", "2019-12-31T23:00", "2020-02-29", "2020-01-15T12:34:56", "2021-11-30"]


@given(frequency=st.sampled_from(FREQUENCIES), start=st.sampled_from(STARTS), rows=st.integers(3, 40), data=st.data())
def test_a_grid_is_found_again_and_its_gaps_are_filled(
    frequency: str, start: str, rows: int, data: st.DataObject
) -> None:
    time = np.datetime64(start, "us")
    times = add_steps(time, frequency, np.arange(rows))
    assert times.dtype == np.dtype("M8[us]") and times[0] == time and (np.diff(times) > np.timedelta64(0)).all()
    assert np.array_equal(future_times(times[:1], frequency, rows - 1), times[1:])
    found, ratios = find_frequency(times, np.zeros(rows))
    assert found == frequency and (ratios == 1).all()

    series = Series("", times, np.arange(rows * 2.0).reshape(rows, 2), ("a", "b"), frequency)
    assert regular(series) is series
    kept = np.array([True, *data.draw(st.lists(st.booleans(), min_size=rows - 2, max_size=rows - 2)), True])
    filled = regular(Series("", times[kept], series.target[kept], series.columns, frequency))
    assert np.array_equal(filled.times, times)
    np.testing.assert_array_equal(filled.target, np.where(kept[:, None], series.target, np.nan))


def test_months_keep_their_last_day() -> None:
    ends = future_times(np.array(["2019-12-31"], "M8[us]"), "1mo", 4).astype("M8[D]").astype(str)
    assert ends.tolist() == ["2020-01-31", "2020-02-29", "2020-03-31", "2020-04-30"]
    later = future_times(np.array(["2020-01-30T06:00"], "M8[us]"), "1mo", 2).astype("M8[h]").astype(str)
    assert later.tolist() == ["2020-02-29T06", "2020-03-30T06"]


@pytest.mark.parametrize("first", ["2023-01-28", "2023-02-28", "2024-04-30", "2024-01-30", "2024-02-29"])
@pytest.mark.parametrize("day", [28, 29, 30])
def test_months_keep_their_day(first: str, day: int) -> None:
    """A series of every 28th is that wherever it begins or ends, also on a February's last day."""
    months = np.arange(18) + np.datetime64(first, "M")
    lasts = ((months + 1).astype("M8[D]") - months.astype("M8[D]")).astype(int)
    times = (months.astype("M8[D]") + np.minimum(day, lasts) - 1).astype("M8[us]")
    for cut in range(3, 14):
        one = Series("", times[:cut], np.zeros((cut, 1)), ("a",), "1mo")
        assert regular(one) is one
        assert find_frequency(one.times, np.zeros(cut))[0] == "1mo"
        assert np.array_equal(future_times(times[:cut], "1mo", 4), times[cut : cut + 4])


def test_steps_between_series_do_not_count() -> None:
    times = np.array(["2020-01-01", "2020-01-02", "2010-01-01", "2010-01-02"], "M8[us]")
    frequency, ratios = find_frequency(times, np.array([0, 0, 1, 1]))
    assert frequency == "1d" and ratios.tolist() == [1, 1]


def test_of_steps_that_are_as_common_the_median_is_taken_where_none_divides_all() -> None:
    def found(*steps: int) -> str:
        times = np.datetime64("2020-01-01", "us") + np.cumsum([0, *steps]).astype("m8[s]")
        return find_frequency(times, np.zeros(len(times)))[0]

    assert found(600, 571, 603, 655, 598) == "10m"  # a clock that jitters
    assert found(3600, 7200, 3600, 7200, 10800) == "1h"  # hours with gaps
    assert found(60, 3600) == "1m"


@pytest.mark.parametrize("frequency", ["1us", "15m", "1h", "1w"])
def test_the_time_between_rows_in_steps(frequency: str) -> None:
    places = np.array([0, 1, 3, 3.5, 10])
    times = np.datetime64("2020-01-31", "us") + (places * 2 * step_of(frequency)).astype("m8[us]")
    delta = time_delta(times, frequency)
    assert delta.dtype == np.float32 and delta.tolist() == [1, 2, 4, 1, 13]
    assert time_delta(times[:1], frequency).tolist() == [1] and time_delta(times[:0], frequency).tolist() == []


def test_the_time_between_months() -> None:
    """Four hundred years of the Gregorian calendar have 4,800 months of the mean length that is counted with."""
    times = add_steps(np.datetime64("2000-01-01"), "1mo", np.arange(4801))
    assert time_delta(times, "1mo")[1:].astype(float).mean() == pytest.approx(1, rel=1e-6)  # of single precision
    assert time_delta(times[::3], "3mo")[1:].astype(float).mean() == pytest.approx(1, rel=1e-6)


def test_what_is_no_frequency() -> None:
    for text in ("", "h1", "0h", "1x", "-1h"):
        with pytest.raises(ValueError, match="is no frequency"):
            step_of(text)


def test_an_irregular_series_is_told_with_its_share() -> None:
    times = np.array(["2020-01-01T00:00", "2020-01-01T01:00", "2020-01-01T02:20", "2020-01-01T03:00"], "M8[us]")
    series = Series("x", times, np.zeros((4, 1)), ("y",), "1h")
    with pytest.raises(
        InputError, match=r"series 'x' is irregular: 75.0% .*2020-01-01 02:20:00 does not. Resample.*--on-gap keep"
    ):
        regular(series)


def test_a_wrong_timestamp_does_not_fill_the_memory() -> None:
    times = np.array(["1970-01-01", "2020-01-01T00:00:00", "2020-01-01T00:00:01"], "M8[us]")
    with pytest.raises(InputError, match=r"3 rows where even steps of 1s .* would have 1,577,836,802"):
        regular(Series("", times, np.zeros((3, 1)), ("y",), "1s"))


# Real tables


@pytest.mark.parametrize(
    ("name", "options", "layout", "series", "rows", "frequency"),
    thinned(
        [
            ("ltsf/ETTh1.csv.gz", {}, "wide", 1, 17_420, "1h"),
            ("ltsf/ETTh2.csv.gz", {}, "wide", 1, 17_420, "1h"),
            ("ltsf/ETTm1.csv.gz", {}, "wide", 1, 69_680, "15m"),
            ("ltsf/national_illness.csv.gz", {}, "wide", 1, 966, "1w"),
            ("ltsf/weather.csv.gz", {}, "wide", 1, 52_695, "10m"),
            ("energy/ercot_multiple_ts.csv.gz", {}, "long", 8, 8_000, "1h"),
            ("energy/pjm_in_zone.csv.gz", {}, "long", 5, 43_920, "1h"),
            ("energy/epf_electricity_exog.csv.gz", {}, "long", 4, 6_720, "1h"),
            ("energy/windpower_hourly.csv.gz", {}, "wide", 1, 8_220, "1h"),
            ("science/melbourne_min_temp.csv.gz", {}, "wide", 1, 3_650, "1d"),
            ("science/monthly-sunspots.csv.gz", {}, "wide", 1, 2_820, "1mo"),
            ("irregular/speed_7578.csv.gz", {}, "wide", 1, 1_127, "5m"),
            ("irregular/ambient_temperature_system_failure.csv.gz", {}, "wide", 1, 7_267, "1h"),
            ("long/seismic_BW_KW1_EHZ_2011_090.asc.gz", {"freq": "10ms"}, "wide", 1, 936_001, "10ms"),
            ("science/beijing_pm25.csv.gz", {"target": ["pm2.5"], "past_only": ["cbwd"]}, "wide", 1, 43_824, "1h"),
            ("monash/electricity_weekly_dataset.tsf.gz", {}, "tsf", 321, 321 * 156, "1w"),
            ("monash/hospital_dataset.tsf.gz", {}, "tsf", 767, 767 * 84, "1mo"),
            ("monash/m1_monthly_dataset.tsf.gz", {}, "tsf", 617, 55_998, "1mo"),
            ("monash/sunspot_dataset_without_missing_values.tsf.gz", {}, "tsf", 1, 73_924, "1d"),
            ("monash/tourism_monthly_dataset.tsf.gz", {}, "tsf", 366, 109_280, "1mo"),
            ("m4/Hourly-train.csv.gz", {"freq": "h"}, "ragged", 414, 353_500, "1h"),
            ("m4/Hourly-test.csv.gz", {"freq": "h"}, "ragged", 414, 414 * 48, "1h"),
            ("irregular/machine_temperature_system_failure.csv.gz", {"on_duplicate": "mean"}, "wide", 1, 22_683, "5m"),
            ("transport/nyc_taxi_30min.csv.gz", {}, "wide", 1, 10_320, "30m"),
            ("transport/bikesharing_dc_hourly.csv.gz", {"target": ["count"]}, "wide", 1, 78_421, "1h"),
            ("transport/metro_traffic_volume_hourly.csv.gz", {"target": ["traffic_volume"]}, "wide", 1, 40_575, "1h"),
            ("panel/vic_elec_30min.parquet", {}, "wide", 1, 52_608, "30m"),
            ("panel/gefcom2014_load_hourly.parquet", {"target": ["LOAD"]}, "wide", 1, 95_664, "1h"),
        ],
        3,
    ),
)
def test_real_tables(
    real: Path, name: str, options: dict[str, Any], layout: str, series: int, rows: int, frequency: str
) -> None:
    table = read_series(real / "timeseries" / name, **options)
    assert (table.layout, len(table.series), table.frequency) == (layout, series, frequency)
    assert sum(map(len, table.series)) == rows


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("science/beijing_pm25.csv.gz", "column 'cbwd': 'NW' is not a number.*--past-only"),
        ("panel/m3_all.parquet", "no column of timestamps"),
        ("irregular/machine_temperature_system_failure.csv.gz", "duplicate timestamp 2014-01-07 02:00:00"),
        ("transport/metro_traffic_volume_hourly.csv.gz", "column 'holiday': 'Columbus Day' is not a number.*--target"),
    ],
)
def test_real_tables_that_need_an_option_say_so(real: Path, name: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_series(real / "timeseries" / name)


@pytest.mark.parametrize(("freq", "first"), [("h", "1970-02-20T00"), ("MS", "2070-01-01"), ("YS", "1200-01-01")])
def test_counts_of_four_digits_are_years_only_where_steps_are(file: File, freq: str, first: str) -> None:
    (one,) = read_series(
        file("t,a\n" + "".join(f"{t},{t}\n" for t in range(1200, 1210)), "x.csv"), freq=freq, time="t"
    ).series
    assert one.times[0] == np.datetime64(first) and len(one) == 10
