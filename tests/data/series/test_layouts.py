"""Files that hold a series in a row, timestamps in several columns, and rows without timestamps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_seq.data.series import SeriesTable, read_series
from titans_seq.errors import InputError

File = Callable[..., Path]

TSF = """# Some words
@relation Two
@attribute series_name string
@attribute start_timestamp date
@attribute state string
@frequency monthly
@missing true
@equallength false
@data
T1:2020-01-31 00-00-00:NSW:1,2,?,4
001:2019-12-31 00-00-00:VIC:0.5,-3e2
"""
RAGGED = '"V1","V2","V3","V4"\n"H1","1","2","3"\n"001","4","5",""\n'


def values(table: SeriesTable) -> dict[str, list[float]]:
    return {one.id: np.nan_to_num(one.target[:, 0], nan=-1.0).tolist() for one in table.series}


def test_tsf(file: File, warned: list[str]) -> None:
    table = read_series(file(TSF, "x.tsf"), static=["state"])
    assert (table.layout, table.frequency, table.share) == ("tsf", "1mo", 1.0)
    assert values(table) == {"T1": [1, 2, -1, 4], "001": [0.5, -300]}
    assert table.series[0].times.astype("M8[D]").astype(str).tolist()[:2] == ["2020-01-31", "2020-02-29"]
    assert table.covariates.static == ("state=NSW", "state=VIC", "state=(other)")
    assert [one.static.tolist() for one in table.series] == [[1, 0, 0], [0, 1, 0]]
    assert len(warned) == 1 and "missing values in 16.67%" in warned[0]


def test_a_tsf_without_times_is_told(file: File, warned: list[str]) -> None:
    read_series(file("@attribute n string\n@frequency daily\n@data\nT1:1,2\n", "x.tsf"))
    assert len(warned) == 1 and "no timestamps: its rows are taken for steps of 1d from 1970" in warned[0]


def test_the_name_of_a_tsf_does_not_matter(file: File) -> None:
    assert values(read_series(file(TSF.replace("\n", "\r\n"), "x.txt"))) == values(read_series(file(TSF, "x.tsf")))


@pytest.mark.parametrize(
    ("word", "frequency"),
    [("yearly", "1y"), ("quarterly", "3mo"), ("half_hourly", "30m"), ("10_minutes", "10m"), ("4_seconds", "4s")],
)
def test_words_for_frequencies(file: File, word: str, frequency: str) -> None:
    assert read_series(file(TSF.replace("monthly", word), "x.tsf")).frequency == frequency


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("T1:2020-01-31 00-00-00:NSW:", "T1:NSW:", "line 10 has 2 attributes before its values, the header names 3"),
        ("2020-01-31", "2020-01-32", "line 10: '2020-01-32 00-00-00' is no start_timestamp"),
        ("?", "many", "line 10, series 'T1': value 3: 'many' is no number"),
        ("?", "inf", "line 10, series 'T1': value 3: 'inf' is no number, or infinite"),
        ("T1", "001", "two series are called '001'"),
        ("@frequency monthly", "@frequency often", "@frequency 'often' is none that is known"),
        ("@frequency monthly\n", "", "names no @frequency"),
        ("@relation", "relation", "line 2: 'relation Two' is no line of a .tsf header"),
        ("@attribute state string", "@attribute state", "line 5: '@attribute state' is no line"),
        (TSF[TSF.index("T1") :], "", "no series below @data: rows found: 0"),
    ],
)
def test_a_bad_tsf_is_refused(file: File, old: str, new: str, why: str) -> None:
    with pytest.raises(InputError, match=f"x[.]tsf.*{why}"):
        read_series(file(TSF.replace(old, new), "x.tsf"), format="tsf")


def test_a_series_a_row(file: File, warned: list[str]) -> None:
    table = read_series(file(RAGGED, "x.csv"), freq="h")
    assert (table.layout, table.frequency) == ("ragged", "1h") and values(table) == {"H1": [1, 2, 3], "001": [4, 5]}
    assert len(warned) == 1 and "x.csv has no timestamps: its rows are taken for steps of 1h from 1970" in warned[0]
    with pytest.raises(InputError, match=r"a series in each row, without timestamps.*--freq"):
        read_series(file(RAGGED, "x.csv"))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"5"', '"five"', "row 2, column 'V3': 'five' is no number"),
        ('"5"', '"inf"', "row 2, column 'V3': 'inf' is no number, or too large"),
        ('"001"', '"H1"', "row 1: its id 'H1' is empty or stands twice"),
        ('"001"', '""', "row 2: its id '' is empty"),
    ],
)
def test_a_bad_row_is_refused(file: File, old: str, new: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_series(file(RAGGED.replace(old, new), "x.csv"), freq="h", format="ragged")


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(2, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_all_layouts_tell_the_same(lengths: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("layouts")
    series = [rng.integers(-9, 9, n).tolist() for n in lengths]
    days = [f"1970-01-{day:02}" for day in range(1, 7)]
    long = [f"s{i},{days[t]},{y}" for i, one in enumerate(series) for t, y in enumerate(one)]
    wide = max(lengths) + 1  # columns of values, one of them empty
    rows = [",".join([f"s{i}", *map(str, one), *[""] * (wide - len(one))]) for i, one in enumerate(series)]
    lines = [f"s{i}:1970-01-01 00-00-00:{','.join(map(str, one))}" for i, one in enumerate(series)]
    head = "@attribute series_name string\n@attribute start_timestamp date\n@frequency daily\n@data\n"
    texts = {
        "long.csv": "unique_id,ds,y\n" + "\n".join(long) + "\n",
        "ragged.csv": ",".join(["id", *(f"V{i}" for i in range(wide))]) + "\n" + "\n".join(rows) + "\n",
        "x.tsf": head + "\n".join(lines) + "\n",
    }
    tables = []
    for name, text in texts.items():
        (folder / name).write_text(text)
        tables.append(read_series(folder / name, freq="D"))
    for table in tables:
        assert values(table) == {f"s{i}": one for i, one in enumerate(series)}
        assert all(np.array_equal(a.times, b.times) for a, b in zip(table.series, tables[0].series, strict=True))


# Timestamps


@pytest.mark.parametrize(
    ("header", "row", "options", "start", "frequency"),
    [
        ("year,month,day,hour,a", "2010,1,{0},0,{0}", {}, "2010-01-01T00", "1d"),
        ("No,year,month,day,hour,a", "{0},2010,1,2,{0},{0}", {}, "2010-01-02T01", "1h"),
        ("Year,Month,a", "2010,{0},{0}", {}, "2010-01-01T00", "1mo"),
        ("j,m,a", "2010,{0},{0}", {"time": "j,m"}, "2010-01-01T00", "1mo"),
        ("day8,a", "2010010{0},{0}", {}, "2010-01-01T00", "1d"),
    ],
)
def test_where_timestamps_stand(
    file: File, header: str, row: str, options: dict[str, Any], start: str, frequency: str
) -> None:
    table = read_series(file("\n".join([header, *(row.format(i) for i in (1, 2, 3)), ""]), "x.csv"), **options)
    (one,) = table.series
    assert (one.columns, table.frequency, str(one.times[0].astype("M8[h]"))) == (("a",), frequency, start)


def test_a_date_in_parts_that_is_none(file: File) -> None:
    with pytest.raises(InputError, match="row 2: '2010-13-01 00:00:00' is no date"):
        read_series(file("year,month,a\n2010,1,1\n2010,13,2\n", "x.csv"))
    with pytest.raises(InputError, match="no column 'day'"):
        read_series(file("year,month,a\n2010,1,1\n2010,2,2\n", "x.csv"), time="year,day")


def test_rows_without_timestamps_are_counted(file: File, warned: list[str]) -> None:
    table = read_series(file("item_id,y\nx,1\nz,5\nx,2\nz,6\n", "x.csv"), freq="15min")
    assert values(table) == {"x": [1, 2], "z": [5, 6]} and table.frequency == "15m"
    assert str(table.series[1].times[1]) == "1970-01-01T00:15:00.000000" and "has no timestamps" in warned[0]
    (one,) = read_series(file("-30\n-463\n5e1\n", "y.csv"), freq="s").series
    assert one.target[:, 0].tolist() == [-30, -463, 50]


def test_whole_numbers_for_times_count_steps_where_these_are_said(file: File, warned: list[str]) -> None:
    (one,) = read_series(file("date,a\n0,1\n1,2\n3,3\n", "x.csv"), freq="h").series
    assert one.times.astype("M8[h]").astype(str).tolist() == [f"1970-01-01T0{hour}" for hour in (0, 1, 3)]
    assert "column 'date' holds whole numbers: they are taken for steps of 1h" in warned[0]
    warned.clear()
    years = read_series(file("date,a\n1999,1\n2000,2\n", "y.csv"), freq="Y").series[0]
    assert str(years.times[0])[:4] == "1999" and warned == []


@pytest.mark.parametrize(
    ("number", "freq", "why"),
    [
        ("7", "auto", "'7' does not read as a date. If the column counts steps, say how long one is: --freq"),
        ("1467331200", "h", "seconds since 1970, say so: --time-format %s"),
        ("1467331200000", "auto", "milliseconds or less since 1970, divide them"),
        ("9999999", "W", "holds 9999999: so many steps of 1w from 1970-01-01 on end behind the year 9999"),
    ],
)
def test_whole_numbers_that_are_no_times(file: File, number: str, freq: str, why: str) -> None:
    with pytest.raises(InputError, match=f"x[.]csv.*{why}"):
        read_series(file(f"date,a\n{number},1\n", "x.csv"), freq=freq)


def test_seconds_since_1970(file: File) -> None:
    table = read_series(file("date,a\n1467331200,1\n1467334800,2\n", "x.csv"), time_format="%s")
    assert table.frequency == "1h" and str(table.series[0].times[0])[:13] == "2016-07-01T00"


@pytest.mark.parametrize(
    ("first", "example"),
    [
        ("2016-07-01 00:00:00,30.531,5", "date, value1, value2"),
        ("2016-07-01;30,531;-5,8", "date, value1, value2"),
        ("2016-07-01,30.531,NA", "date, value1, value2"),
        ("7.5,1e-3,2016-07-01", "value0, value1, date2"),
    ],
)
def test_a_table_without_header(file: File, first: str, example: str) -> None:
    with pytest.raises(InputError, match=f"x[.]csv has no header line: its first line .*such as {example}[.]"):
        read_series(file(f"{first}\n{first}\n", "x.csv"))


@pytest.mark.parametrize("header", ["0,1,2", "1,2,3", "date,0,1", ",0,1"])
def test_numbered_columns_are_a_header(file: File, header: str) -> None:
    rows = "".join(f"2020-01-0{i},{i},5.{i}\n" for i in (1, 2, 3))
    assert len(read_series(file(f"{header}\n{rows}", "x.csv"), format="wide").series[0]) == 3


def test_row_numbers_are_told_and_not_read(file: File, warned: list[str]) -> None:
    (one,) = read_series(file("index,date,a\n0,2020-01-01,5\n1,2020-01-02,6\n", "x.csv")).series
    assert one.columns == ("a",) and len(warned) == 1 and "not read: index" in warned[0]
    (one,) = read_series(file("index,date,a\n7,2020-01-01,5\n5,2020-01-02,6\n", "y.csv")).series
    assert one.columns == ("index", "a")


# Steps


@pytest.mark.parametrize(
    ("said", "own"),
    [("15min", "15m"), ("h", "1h"), ("H", "1h"), ("D", "1d"), ("W-SUN", "1w"), ("MS", "1mo"), ("ME", "1mo"),
     ("M", "1mo"), ("QS", "3mo"), ("YE", "1y"), ("12MS", "1y"), ("60min", "1h"), ("7D", "1w"), ("10ms", "10ms"),
     ("1mo", "1mo"), ("90s", "90s")],
)  # fmt: skip
def test_names_of_frequencies(file: File, said: str, own: str) -> None:
    assert read_series(file("y\n1\n2\n3\n", "x.csv"), freq=said).frequency == own


@pytest.mark.parametrize("said", ["", "often", "0h", "-1h", "1.5h", "B"])
def test_what_is_no_frequency(file: File, said: str) -> None:
    with pytest.raises(ValueError, match="no frequency"):
        read_series(file("y\n1\n2\n3\n", "x.csv"), freq=said)


def test_a_step_that_was_said_is_not_found_out(file: File, warned: list[str]) -> None:
    path = file("date,a\n2020-01-01 00:00,1\n2020-01-01 02:00,2\n2020-01-01 04:00,3\n", "x.csv")
    assert read_series(path).frequency == "2h" and warned == []
    table = read_series(path, freq="h")
    assert (table.frequency, table.share) == ("1h", 0.0) and "the step is said to be 1h, 0 % of all" in warned[0]


def test_the_attribute_of_names_is_the_id(file: File) -> None:
    head = "@attribute state string\n@attribute series_name string\n@frequency daily\n@data\n"
    table = read_series(file(head + "NSW:T1:1,2\nNSW:T2:3,4\n", "x.tsf"))
    assert [one.id for one in table.series] == ["T1", "T2"]
