"""Covariates of three kinds: numbers, categories by the training vocabulary, and what is known of the future."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from titans_seq.data.series import on_grid, read_series
from titans_seq.errors import InputError

File = Callable[..., Path]

TABLE = """unique_id,ds,y,sky,holiday,place,height
a,2024-01-01,1,clear,0,north,5
a,2024-01-02,2,rain,1,north,5
a,2024-01-03,,clear,0,north,5
b,2024-01-01,3,NA,0,south,7.5
b,2024-01-02,4,rain,1,south,7.5
b,2024-01-03,5,clear,,south,7.5
"""
KINDS: dict[str, Any] = {"past_only": ["sky"], "known_future": ["holiday"], "static": ["place", "height"]}


def test_three_kinds(file: File, warned: list[str]) -> None:
    table = read_series(file(TABLE, "x.csv"), **KINDS)
    first, second = table.series
    assert table.covariates.known_future == ("holiday",)
    assert table.covariates.past_only == ("sky=clear", "sky=rain", "sky=(other)")
    assert table.covariates.static == ("place=north", "place=south", "place=(other)", "height")
    assert table.covariates.vocabularies == {"sky": ("clear", "rain"), "place": ("north", "south")}
    assert first.static.tolist() == [1, 0, 0, 5] and second.static.tolist() == [0, 1, 0, 7.5]
    np.testing.assert_array_equal(second.past_only, [[np.nan] * 3, [0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(second.known_future, [[0], [1], [np.nan]])
    assert {a.dtype for a in (first.known_future, first.past_only, first.static)} == {np.dtype(np.float32)}
    assert any("column 'holiday' has missing values" in message for message in warned)


def test_rows_behind_the_last_target_are_the_future(file: File) -> None:
    first, second = read_series(file(TABLE, "x.csv"), **KINDS).series
    assert (len(first), len(first.times), len(first.known_future), len(first.past_only)) == (2, 3, 3, 2)
    assert (len(second), len(second.times)) == (3, 3) and first.observed.shape == (2, 1)
    assert len(read_series(file(TABLE, "x.csv")).series[0]) == 3  # without such a covariate it is a missing value


def test_a_table_of_the_future(file: File, warned: list[str]) -> None:
    later = "ds,holiday,unique_id\n2024-01-05,1,b\n2024-01-04,0,b\n2024-01-04,1,a\n2024-01-02,7,a\n"
    table = read_series(file(TABLE, "x.csv"), future=file(later, "later.csv"), **KINDS)
    first, second = table.series
    assert (len(first), len(second)) == (2, 3)
    assert first.known_future[:, 0].tolist() == [0, 1, 0, 1] and second.known_future[3:, 0].tolist() == [0, 1]
    assert any("later.csv: rows that" in message and "already: 1" in message for message in warned)
    with pytest.raises(InputError, match=r"later.csv: series 'c' is none of .*x.csv"):
        read_series(file(TABLE, "x.csv"), future=file("unique_id,ds,holiday\nc,2024-01-05,1\n", "later.csv"), **KINDS)


def test_a_value_that_training_did_not_know(file: File, warned: list[str]) -> None:
    table = read_series(file(TABLE, "x.csv"), vocabularies={"sky": ("clear", "fog")}, past_only=["sky"])
    np.testing.assert_array_equal(table.series[0].past_only, [[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    told = [message for message in warned if "did not know" in message]
    assert len(told) == 1 and "column 'sky'" in told[0] and "'rain' (rows: 2)" in told[0]


@pytest.mark.parametrize(
    ("options", "old", "new", "why"),
    [
        ({"static": ["height"]}, "rain,1,south,7.5", "rain,1,south,8", "series 'b': column 'height' .*row 5"),
        ({"known_future": ["holiday"]}, "rain,1,north", "rain,yes,north", "row 2, column 'holiday': 'yes' is not"),
        ({"known_future": ["holiday"]}, "rain,1,north", "rain,inf,north", "row 2, column 'holiday': 'inf' is infinite"),
        ({"known_future": ["no"]}, "", "", "no column 'no' .--known-future.. Its columns: unique_id, ds"),
        ({"past_only": ["no"]}, "", "", "no column 'no' .--past-only"),
        ({"static": ["no"]}, "", "", "no column 'no' .--static"),
        ({"static": ["sky"], "past_only": ["sky"]}, "", "", "column 'sky' is named for two things"),
        ({"static": ["y"], "target": ["y"]}, "", "", "column 'y' is named for two things"),
        ({"target": ["sky"]}, "", "", "row 1, column 'sky': 'clear' is not a number.*--past-only"),
    ],
)  # fmt: skip
def test_bad_covariates_are_refused(file: File, options: dict[str, Any], old: str, new: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_series(file(TABLE.replace(old, new), "x.csv"), **options)


def test_a_covariate_without_any_value_is_refused(file: File) -> None:
    with pytest.raises(InputError, match="column 'x' holds no value"):
        read_series(file("date,a,x\n2020-01-01,1,\n2020-01-02,2,\n", "x.csv"), known_future=["x"])


def test_text_with_too_many_values_is_no_category(file: File) -> None:
    rows = "".join(f"{1700 + i}-01-01,1,word{i}\n" for i in range(300))
    with pytest.raises(InputError, match="column 'x' is text with 300 different values"):
        read_series(file("date,a,x\n" + rows, "x.csv"), past_only=["x"])


def test_duplicates_with_categories(file: File) -> None:
    text = TABLE.replace("a,2024-01-02,2,rain", "a,2024-01-02,2,rain,1,north,5\na,2024-01-02,4,clear")
    (first, _) = read_series(file(text, "x.csv"), on_duplicate="mean", **KINDS).series
    assert first.target[:, 0].tolist() == [1, 3] and first.past_only[1].tolist() == [0, 1, 0]
    same_y = TABLE.replace("a,2024-01-02,2,rain", "a,2024-01-02,2,rain,1,north,5\na,2024-01-02,2,clear")
    with pytest.raises(InputError, match="duplicate timestamp 2024-01-02"):
        read_series(file(same_y, "x.csv"), past_only=["sky"])
    assert read_series(file(same_y, "x.csv")).series[0].target[1, 0] == 2  # the sky is not read: they are equal


def test_what_was_taken_for_what_is_told_once(file: File, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "titans_seq"):
        read_series(file(TABLE, "x.csv"), **KINDS)
    told = [record.getMessage() for record in caplog.records if "read as" in record.getMessage()]
    assert len(told) == 1 and told[0].endswith(
        "read as long table; times: ds; ids: unique_id; target: y; known future: holiday; past only: sky (2 categories)"
        "; static: place (2 categories), height."
    )


# Gaps

GAPPY = "date,a,x,sky\n2024-01-01,,1,rain\n2024-01-02,2,2,fog\n2024-01-04,4,,\n2024-01-07,7,7,fog\n2024-01-08,,8,rain\n"


@pytest.mark.parametrize(
    ("how", "target", "known"),
    [
        ("nan", [None, 2, None, 4, None, None, 7, None], [1, 2, None, None, None, None, 7, 8]),
        ("ffill", [None, 2, 2, 4, 4, 4, 7, 7], [1, 2, 2, 2, 2, 2, 7, 8]),
        ("interpolate", [None, 2, 3, 4, 5, 6, 7, None], [1, 2, 2, 2, 2, 2, 7, 8]),
    ],
)
def test_what_gaps_become(file: File, how: Any, target: list[Any], known: list[Any]) -> None:
    table = read_series(file(GAPPY, "x.csv"), target=["a"], past_only=["x", "sky"], on_gap=how)
    one = on_grid(table.series[0], how)
    assert len(one.times) == 8 and one.times.astype("M8[D]").astype(str).tolist()[-1] == "2024-01-08"
    np.testing.assert_array_equal(one.target[:, 0], np.array(target, float))
    np.testing.assert_array_equal(one.past_only[:, 0], np.array(known, float))
    assert one.observed[:, 0].tolist() == [False, True, False, True, False, False, True, False]  # never what is filled


def test_gaps_that_are_kept(file: File) -> None:
    table = read_series(file(GAPPY, "x.csv"), target=["a"], on_gap="keep")
    assert on_grid(table.series[0], "keep") is table.series[0] and len(table.series[0]) == 5


def test_the_future_is_put_on_the_grid_too(file: File) -> None:
    text = "date,a,x\n2024-01-01,1,1\n2024-01-03,3,3\n2024-01-05,,5\n2024-01-06,,6\n"
    one = on_grid(read_series(file(text, "x.csv"), target=["a"], known_future=["x"], freq="D").series[0], "nan")
    assert (len(one), len(one.times)) == (3, 6)
    np.testing.assert_array_equal(one.known_future[:, 0], [1, np.nan, 3, np.nan, 5, 6])
