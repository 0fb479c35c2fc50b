"""Rows that another table names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from titans_seq.data.record import Record, encode
from titans_seq.data.subset import rows_in
from titans_seq.errors import InputError

ROWS = [("1", "ACGT", "a"), ("2", "GGTT", "b"), ("2", "GGTA", "b"), ("3", "ACGN", "a")]
RECORDS = [Record(id, encode(text), label) for id, text, label in ROWS]
PLACED = [Record(f"r{i}", encode("ACGT"), "a", chrom="2", start=10 * i, strand="-") for i in range(3)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id\n1\n3\n", [1, 0, 0, 1]),
        ("row\n2\n", [0, 1, 1, 0]),
        ("id,label\n2,b\n", [0, 1, 1, 0]),
        ("id,sequence,label\n2,ggua,b\n1,ACGT,a\n", [1, 0, 1, 0]),
        ("sequence,id\nACGN,3\n", [0, 0, 0, 1]),
    ],
)
def test_rows_are_found_by_what_the_list_has(file: Callable[..., Path], content: str, expected: list[int]) -> None:
    assert rows_in(file(content, "clean.csv"), RECORDS).tolist() == [bool(x) for x in expected]


def test_intervals_are_found_by_their_places(file: Callable[..., Path]) -> None:
    content = "id,chrom,start,end,strand,label\n7,chr2,10,14,-,a\n"  # numbered as the list's writer counts
    assert rows_in(file(content, "clean.csv"), PLACED).tolist() == [False, True, False]
    with pytest.raises(InputError, match=r"clean.csv: row 1 \(id '7'\) is none of the rows"):
        rows_in(file(content.replace("10,14", "10,15"), "clean.csv"), PLACED)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("id\n1\n9\n8\n", r"row 2 \(id '9'\) is none of the rows that are evaluated \(2 of 3\)"),
        ("id,label\n1,b\n", r"row 1 \(id '1'\) is none"),
        ("chrom,start,end\n2,0,4\n", "has no column of ids"),
    ],
)
def test_rows_that_are_not_there_are_refused(file: Callable[..., Path], content: str, why: str) -> None:
    with pytest.raises(InputError, match=f"clean.csv.*{why}"):
        rows_in(file(content, "clean.csv"), RECORDS)
