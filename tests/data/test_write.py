"""Prediction files: every suffix, hostile values, nothing that is not finite, no row lost or torn."""

import csv
import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_seq.data.write import SUFFIXES, RowFile, check_suffix
from titans_seq.errors import ModelError, UsageError

ROWS: list[dict[str, Any]] = [
    {"id": "001", "label": "a", "p_a": 0.1, "scored": 7},
    {"id": "1", "label": "b", "p_a": 1e-300, "scored": 0},
    {"id": "x y", "label": "b", "p_a": math.nan, "scored": 3},
]


def write(out: Path, rows: list[dict[str, Any]]) -> int:
    file = RowFile(out)
    file.write(rows)
    return file.finish()


def read(out: Path) -> list[dict[str, Any]]:
    """What is in a file, as text but for JSON lines and Parquet."""
    if out.suffix == ".parquet":
        return pl.read_parquet(out).to_dicts()
    with out.open(encoding="utf-8", newline="") as file:
        if out.suffix == ".jsonl":
            return [json.loads(line, parse_constant=pytest.fail) for line in file]
        return list(csv.DictReader(file, delimiter="\t" if out.suffix == ".tsv" else ",", strict=True))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_come_back(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    assert write(out, ROWS) == 3
    found = read(out)
    assert [row["id"] for row in found] == ["001", "1", "x y"]
    assert [str(row["scored"]) for row in found] == ["7", "0", "3"]
    assert [float(row["p_a"]) if row["p_a"] not in (None, "") else None for row in found] == [0.1, 1e-300, None]
    assert [entry.name for entry in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows_are_a_file_that_can_be_read(tmp_path: Path, suffix: str) -> None:
    assert write(tmp_path / f"out{suffix}", []) == 0
    assert read(tmp_path / f"out{suffix}") == []


@pytest.mark.parametrize("name", ["out.txt", "out", "out.csv.gz", "out.CSV"])
def test_a_suffix_that_says_nothing(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} should end in one of \.csv, \.tsv, \.jsonl, \.parquet"):
        check_suffix(Path(name))


def test_parquet_types_follow_from_the_columns_not_from_the_rows(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "unique_id": "2024-01-01", "ds": "2024-01-01 00:00:00", "y": None, "mean": 1.0, "scored": 3},
        {"id": "2", "unique_id": "7", "ds": "2024-01-01 00:00:01.500000", "y": None, "mean": math.inf, "scored": 4},
    ]
    write(tmp_path / "out.parquet", rows)
    table = pl.read_parquet(tmp_path / "out.parquet")
    assert dict(table.schema) == {
        "id": pl.String(),
        "unique_id": pl.String(),
        "ds": pl.Datetime("us"),
        "y": pl.Float64(),
        "mean": pl.Float64(),
        "scored": pl.Int64(),
    }
    assert table["ds"].to_list() == [datetime(2024, 1, 1), datetime(2024, 1, 1, 0, 0, 1, 500_000)]
    assert table["mean"].to_list() == [1.0, None]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_what_a_spreadsheet_or_a_terminal_would_obey_is_escaped(tmp_path: Path, suffix: str) -> None:
    hostile = {
        "=1+1": "'=1+1",
        "+1+1": "'+1+1",
        "+1": "+1",  # a label
        "-1.5e-3": "-1.5e-3",
        "-1.": "-1.",
        "-.5": "-.5",
        "+": "+",
        "-1\n": "'-1\\n",
        "-x": "'-x",
        "@SUM(A1)": "'@SUM(A1)",
        "\t=1": "\\t=1",
        "\r\n=1": "\\r\\n=1",
        "a\rb": "a\\rb",
        "a\nb": "a\\nb",
        "\x1b]0;x\x07": "\\x1b]0;x\\x07",
        "\x00\x7f\x9b": "\\x00\\x7f\\x9b",
        "a\u2028b": "a\\u2028b",
        "1-1": "1-1",
        "é\u00a0漢字🧬": "é\u00a0漢字🧬",
        "a\"b,c'd;e": "a\"b,c'd;e",
        "": "",
        "x" * 10_000: "x" * 10_000,
    }
    out = tmp_path / f"out{suffix}"
    write(out, [{"id": id, "p_=\n1": -1.5} for id in hostile])
    found = read(out)
    assert [row["id"] for row in found] == list(hostile.values())
    assert list(found[0]) == ["id", "p_=\\n1"]
    assert found[0]["p_=\\n1"] == "-1.5", "numbers are left as they are"
    assert len(out.read_bytes().splitlines()) == len(hostile) + 1


@settings(max_examples=25, deadline=None)
@given(ids=st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_any_id_stays_in_its_row(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    for suffix in SUFFIXES:
        out = folder / f"out{suffix}"
        write(out, [{"id": id, "n": n} for n, id in enumerate(ids)])
        found = read(out)
        assert [int(row["n"]) for row in found] == list(range(len(ids)))
        if suffix in (".jsonl", ".parquet"):
            assert [row["id"] for row in found] == ids


def test_a_resume_cuts_back_to_what_was_settled(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "out.jsonl")
    file.write(ROWS[:1])
    size = file.settle()
    file.write(ROWS[1:2])
    file.close()
    with file.part.open("ab") as torn:
        torn.write(b'{"id": "to')
    file = RowFile(tmp_path / "out.jsonl", size)
    file.write(ROWS[2:])
    assert file.finish() == 2
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == ["001", "x y"]


def test_less_than_was_settled_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.csv.part").write_bytes(b"12345")
    with pytest.raises(ModelError, match=r"out\.csv\.part has 5 bytes of 6: it was cut"):
        RowFile(tmp_path / "out.csv", 6)
    assert (tmp_path / "out.csv.part").read_bytes() == b"12345"
