import csv
import gzip
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from titans_seq.data.table import read_table
from titans_seq.errors import InputError, UsageError

File = Callable[..., Path]
PLAIN = {"id": ["001", "1"], "a": ["1.5", None], "b": ["x y", "NA"]}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=5)] * 3),
        min_size=1,
        max_size=6,
    ),
    separator=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_csv_writer_wrote_is_read(rows: list[tuple[str, ...]], separator: str, end: str, file: File) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    table = read_table(file(text.getvalue(), "x.csv"))
    assert table.rows() == [tuple(field or None for field in row) for row in rows]
    assert set(table.dtypes) == {pl.String}


@pytest.mark.parametrize(
    "content",
    [
        "id,a,b\n001,1.5,x y\n1,,NA\n",
        "id;a;b\n001;1.5;x y\n1;;NA\n",
        "id\ta\tb\n001\t1.5\tx y\n1\t\tNA\n",
        "id,a,b\r\n001,1.5,x y\r\n1,,NA\r\n",
        "id,a,b\r001,1.5,x y\r1,,NA\r",
        "\ufeffid,a,b\n001,1.5,x y\n1,,NA",
        "\n\nid,a,b\n\n001,1.5,x y\n\n1,,NA\n\n\n",
        '"id","a","b"\n"001","1.5","x y"\n"1","","NA"\n',
        "id, a ,b\n001,1.5,x y\n1,,NA\n",
    ],
)
@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())])
def test_harmless_forms_are_read_alike(file: File, content: str, pack: Callable[[str], bytes]) -> None:
    assert read_table(file(pack(content), "x.csv")).to_dict(as_series=False) == PLAIN


def test_the_separator_that_fits_all_lines_wins(file: File) -> None:
    assert read_table(file("date;temp, C\n2020-01-01;1,5\n2020-01-02;2,5\n", "x.csv")).columns == ["date", "temp, C"]
    assert read_table(file("sequence\nACGT\nAC\n", "x.csv")).to_dict(as_series=False) == {"sequence": ["ACGT", "AC"]}


def test_quotes_inside_a_field_are_text(file: File) -> None:
    assert read_table(file('a,b\n5" pipe,1\n6" pipe,2\n', "x.csv"))["a"].to_list() == ['5" pipe', '6" pipe']


def test_latin_1(file: File) -> None:
    assert read_table(file("PAR (\xb5mol),b\n1,caf\xe9\n".encode("latin-1"), "x.csv")).rows(named=True) == [
        {"PAR (\xb5mol)": "1", "b": "caf\xe9"}
    ]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pl.DataFrame({"id": ["001", "1"], "y": [1.5, None]})
    table.write_parquet(tmp_path / "x.parquet")
    assert read_table(tmp_path / "x.parquet").equals(table)
    (tmp_path / "x.parquet.gz").write_bytes(gzip.compress((tmp_path / "x.parquet").read_bytes()))
    assert read_table(tmp_path / "x.parquet.gz").equals(table)


def test_an_interrupt_while_parquet_is_read_is_no_corrupt_file(tmp_path: Path) -> None:
    """A terminal sends it to the whole group; commands note it, and what reads the file must not end by it."""
    pl.DataFrame({"a": ["1"]}).write_parquet(tmp_path / "x.parquet")
    program = """
import os, signal, subprocess, sys
from titans_seq.data.table import read_table
noted, begin = [], subprocess.Popen._execute_child
signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
def begun(*given, **named):
    begin(*given, **named)
    os.killpg(0, signal.SIGINT)
subprocess.Popen._execute_child = begun
assert len(read_table(sys.argv[1])) == 1 and noted
"""
    command = [sys.executable, "-c", program, str(tmp_path / "x.parquet")]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.csv", b"", "is empty: rows found: 0"),
        ("x.csv", b"\n \n", "is empty: rows found: 0"),
        ("x.csv", b"date,a\n", "a header and no rows: rows found: 0"),
        ("x.csv", b"a,b\n1,2\n3\n4,5\n", "row 2 .* has 1 fields, the header has 2"),
        ("x.csv", b"a,b\n1,2\n3,4,5\n4,5\n", "row 2 .* has 3 fields, the header has 2"),
        ("x.csv", b'a,b\n"x,\ny",2\n3\n4\n', "row 2 .* has 1 fields.*2 rows differ"),
        ("x.csv", b"a,b,c\n1,2,3\n4,5", "the last line is cut off: row 2 "),
        ("x.csv", b'a,b\n1,"open\n2,3\n', "quote .* not closed"),
        ("x.csv", b'a,b\n"1"x,2\n', "no valid table"),
        ("x.csv", b"a,b,a\n1,2,3\n", "duplicate column name 'a'"),
        ("x.csv", b"PK\x03\x04\x14\0\6\0", "looks like an Excel workbook"),
        ("x.csv", b'{"a": [1, 2]}', "looks like JSON"),
        ("x.csv", b"PAR1\x15\x04", "looks like Parquet"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        ("x.csv", b"<html></html>", "looks like HTML"),
        ("x.csv", b">a\nACGT\n", "looks like FASTA"),
        ("x.csv", b"a,b\n1,\0\n", "looks like a binary file"),
        ("x.parquet", b"a,b\n1,2\n", "named .parquet, but looks like CSV"),
        ("x.parquet", b"PAR1 and then nothing", "Parquet, but truncated or corrupt"),
        ("x.parquet", b"", "is empty"),
    ],
)
def test_bad_tables_are_refused_by_name(file: File, name: str, content: bytes, why: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*{why}"):
        read_table(file(content, name))


def test_a_short_last_line_that_ends_is_not_cut_off(file: File) -> None:
    with pytest.raises(InputError, match=r"row 2 .* has 1 fields") as told:
        read_table(file("a,b\n1,2\n3\n", "x.csv"))
    assert "cut off" not in str(told.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_table(tmp_path / "x.csv")
