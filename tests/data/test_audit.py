import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from titans_seq.data.audit import audit_sequences, audit_series
from titans_seq.data.audit.found import Audit
from titans_seq.data.sequences import read_sequences
from titans_seq.data.series import read_series
from titans_seq.errors import InputError, TitansError

File = Callable[..., Path]


def sound(audit: Audit) -> Audit:
    """An audit in both of its forms."""
    again = json.loads(json.dumps(audit.as_json(), allow_nan=False))
    assert again == audit.as_json()
    assert all(line.isprintable() for line in audit.text().split("\n"))
    return audit


def test_fasta(file: File, warned: list[str]) -> None:
    text = ">a x\nACGTacgt\n>b\nNNNN\n>c\n>d\nGGRCUN\n"
    audit = sound(audit_sequences(file(text, "x.fa")))
    facts = dict(audit.facts)
    assert [row["id"] for row in facts.pop("first_records")] == ["a", "b", "c", "d"]
    assert [(row["record"], row["n_share"]) for row in facts.pop("records_with_most_n")] == [(2, 1.0), (4, 0.333333)]
    assert facts == {
        "records": 4,
        "bases": 18,
        "length": {"min": 0, "median": 5.0, "max": 8, "n50": 6},
        "n_share": 0.333333,
        "gc_share": 0.583333,
        "gc_spread": 0.117851,  # 4 of 8 and 3 of 4 known bases
        "lowercase_share": 0.222222,
        "iupac_read_as_n": {"R": 1},
        "u_read_as_t": 1,
        "duplicate_ids": 0,
        "duplicate_sequences": 0,
        "empty_records": 1,
        "all_n_records": 1,
    }
    assert audit.kind == "FASTA" and audit.problems == () and len(audit.notes) == 4
    assert warned == []  # an audit reports, it does not warn
    assert "no problem found" in audit.text() and "lowercase (soft-masked)" in audit.text()


def test_a_record_longer_than_a_block_is_one_record(file: File) -> None:
    facts = audit_sequences(file(">a\n" + "ACGGN" * 40_000 + "\n>b\nA\n", "x.fa")).facts
    assert facts["records"] == 2 and facts["length"]["max"] == 200_000 and facts["n_share"] == 0.199999
    assert [row["length"] for row in facts["first_records"]] == [200_000, 1]


def test_memory_does_not_grow_with_a_record(file: File) -> None:
    def peak(bases: int) -> int:
        path = file(">a\n" + ("ACGTN" * 12 + "\n") * (bases // 60), "x.fa")
        tracemalloc.start()
        audit_sequences(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(12_000_000) < 1.1 * peak(3_000_000)  # both above the megabyte that is read at a time


def test_what_training_refuses_is_a_problem_of_the_audit(file: File) -> None:
    audit = sound(audit_sequences(file(">a\nAC\n>\nGT\n>a\nGG\n>b\nT\n", "x.fa")))
    assert audit.facts["records"] == 4 and audit.facts["duplicate_ids"] == 1
    unnamed, twice = audit.problems
    assert "record 2 has no id" in unnamed and "duplicate id 'a'" in twice
    assert "training refuses" in audit.text() and "no problem found" not in audit.text()


@pytest.mark.parametrize("content", [">a\nACJ\n", "ACGT\n", "", "@r\nA\n+\nI\n"])
def test_a_file_that_cannot_be_read_is_refused(file: File, content: str) -> None:
    with pytest.raises(InputError):
        audit_sequences(file(content, "x.fa"))


def test_hostile_ids_are_escaped(file: File) -> None:
    audit = sound(audit_sequences(file(">\x1b[31mred\x07\nACGT\n>" + "x" * 10_000 + "\nN\n", "x.fa")))
    assert audit.facts["first_records"][0]["id"] == "\x1b[31mred\x07"
    assert "\\x1b[31mred\\x07" in audit.text() and max(map(len, audit.text().split("\n"))) < 300


def test_sequence_table(file: File) -> None:
    rows = ["a,ACGT,pos", "b,GGCC,pos", "c,AATN,neg", "d,ACGT,neg", "e,GGCC,pos"]
    audit = sound(audit_sequences(file("\n".join(["id,sequence,label", *rows]), "x.csv")))
    assert audit.kind == "sequence table"
    assert audit.facts["rows"] == 5 and audit.facts["length"] == {"min": 4, "median": 4.0, "max": 4, "n50": 4}
    assert audit.facts["duplicate_sequences"] == 2 and audit.facts["conflicting_labels"] == 1
    assert audit.facts["rows_with_n"] == 1
    assert [(row["class"], row["rows"], row["gc_share"]) for row in audit.facts["largest_classes"]] == [
        ("pos", 3, 0.833333),
        ("neg", 2, 0.285714),
    ]
    assert len(audit.problems) == 1 and "rows 1 and 4 have the same sequence" in audit.problems[0]


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("sequence\nACGT\nGG\n", ["no label column"]),
        ("sequence,label\nACGT,1\nGG,\n,1\n", ["row 2 has no label", "row 3 has no sequence"]),
        ("sequence,label\nACGT,1\nGG,1\n", ["only one class"]),
    ],
)
def test_problems_of_a_table(file: File, content: str, problems: list[str]) -> None:
    audit = sound(audit_sequences(file(content, "x.csv")))
    assert len(audit.problems) == len(problems)
    assert all(part in problem for part, problem in zip(problems, audit.problems, strict=True))
    assert audit.facts["rows"] == content.count("\n") - 1


def test_labelled_folder(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">1\nACGT\n")
    (tmp_path / "b.fa").write_text(">2\nGG\n>3\nTT\n")
    audit = sound(audit_sequences(tmp_path))
    assert audit.kind == "labelled folder" and audit.facts["classes"] == 2


def test_series(file: File, warned: list[str]) -> None:
    lines = [f"2020-01-{day:02d},{value},{other}" for day, (value, other) in enumerate([(1, 5)] * 9, start=1)]
    lines += ["2020-01-12,2,6", "2020-01-11,3,7", "2020-01-11,3,7", "2020-01-13,900,-9999", "2020-01-15,,8"]
    audit = sound(audit_series(file("\n".join(["date,a,b", *lines]), "x.csv")))
    assert {key: value for key, value in audit.facts.items() if key not in ("columns", "series")} == {
        "layout": "wide",
        "number_of_series": 1,
        "rows": 14,
        "frequency": "1d",
        "frequency_share": 0.833333,
    }
    a, b = audit.facts["columns"]
    assert a == {
        "column": "a",
        "missing_share": 0.076923,
        "min": 1.0,
        "median": 1.0,
        "max": 900.0,
        "longest_constant_run": 9,
        "outliers": 2,  # 3 and 900: the quartiles are 1 and 1.25
        "sentinels": {},
    }
    assert b["sentinels"] == {"-9999": 1} and b["longest_constant_run"] == 9
    assert audit.facts["series"] == [
        {
            "id": "",
            "rows": 13,
            "start": "2020-01-01T00:00:00",
            "end": "2020-01-15T00:00:00",
            "frequency": "1d",
            "its_share": 0.833333,
            "gaps": 2,
            "duplicates": 1,
            "unsorted": 1,
            "missing_share": 0.038462,
        }
    ]
    assert audit.problems == () and len(audit.notes) == 5 and warned == []


@pytest.mark.parametrize(
    ("content", "options", "problems"),
    [
        ("date,a\n2020-01-01,1\n2020-01-01,2\n2020-01-02,2\n", {}, ["duplicate timestamp"]),
        ("date,a\n2020-01-01,1\n2020-01-02,inf\n2020-01-03,2\n", {}, ["'inf' is infinite"]),
        ("date,a,b\n2020-01-01,1,x\n2020-01-02,2,y\n", {}, ["column 'b': 'x' is not a number"]),
        ("date,a,b\n2020-01-01,1,\n2020-01-02,2,\n", {}, ["column 'b' holds no value"]),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n", {"min_rows": 9}, ["rows found: 2, rows needed: 9"]),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-04,4\n", {"on_gap": "error"}, ["commonest step is 1d"]),
        ("unique_id,ds,y\n,2020-01-01,1\n,2020-01-02,2\nb,2020-01-03,3\n", {}, ["empty id", "series 'b' is too short"]),
    ],
)
def test_problems_of_series_are_collected(
    file: File, content: str, options: dict[str, Any], problems: list[str]
) -> None:
    audit = sound(audit_series(file(content, "x.csv"), **options))
    assert len(audit.problems) == len(problems)
    assert all(part in problem for part, problem in zip(problems, audit.problems, strict=True))


@pytest.mark.parametrize("content", ["", "date,a\n", "date,a\n2020-01-01,1\n", "date,a\nx,1\ny,2\n", "a,b\n1,2\n"])
def test_a_table_that_is_no_series_is_refused(file: File, content: str) -> None:
    with pytest.raises(InputError):
        audit_series(file(content, "x.csv"))


def test_many_problems_are_counted_in_the_text(file: File) -> None:
    audit = sound(audit_sequences(file("".join(f">a\n{'ACGT' * n}\n" for n in range(1, 31)), "x.fa")))
    assert len(audit.problems) == 29 and "and 19 more" in audit.text()


# Nothing that a file may hold ends in an error that is not told as one

SEEDS = [
    b"date,a,b\n2020-01-01,1.5,2\n2020-01-02,-3,0.001\n2020-01-03,4,\n",
    b"unique_id,ds,y\na,2020-01-01,1\nb,2020-01-01,4\na,2020-01-02,3\nb,2020-01-03,inf\nb,2020-01-03,3\n",
    b">a x\nACGT\nRYN\n>b\nGG\n;x\n>c\n",
    b"id,sequence,label\na,ACGT,1\nb,GG,0\nc,ACGT,0\n",
]
PIECES = [
    *(
        b"\n",
        b"\r",
        b",",
        b";",
        b"\t",
        b'"',
        b">",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"-9999",
        b"1e309",
        b"NaN",
        b"9" * 30,
    ),
    *(b"2020-01-01", b"0001-01-01", b"9999-12-31", b"2020-10-25 02:00", b"+01:00", b"Z", b"x"),
]
edits = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 6), st.sampled_from(PIECES) | st.binary(max_size=3)), max_size=6
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.sampled_from(SEEDS), edits=edits, name=st.sampled_from(["x.csv", "x.fa"]))
@example(seed=b'",c\n"\x81","\n', edits=[], name="x.csv")
@example(seed=b'a,"b"\tb",c\n9999-12-b1"1","2""', edits=[], name="x.csv")
def test_damaged_files_are_read_or_refused(
    seed: bytes, edits: list[tuple[int, int, bytes]], name: str, file: File
) -> None:
    for at, removed, put in edits:
        seed = seed[:at] + put + seed[at + removed :]
    path = file(seed, name)
    readers: list[Callable[[Path], Any]] = [
        read_series,
        read_sequences,
        lambda path: sound(audit_series(path)),
        lambda path: sound(audit_sequences(path)),
    ]
    for reader in readers:
        try:
            reader(path)
        except TitansError as error:
            assert str(path) in str(error)


def test_real_files(real: Path) -> None:
    audit = sound(audit_sequences(real / "genomics" / "genomes" / "yeast_S288C.fa.gz"))
    assert audit.facts["records"] == 16 and audit.facts["bases"] == 12_157_149 and not audit.problems
    audit = sound(audit_series(real / "timeseries" / "ltsf" / "weather.csv.gz"))
    marks = [column["sentinels"].get("-9999", 0) for column in audit.facts["columns"]]
    assert sum(marks) == 81 and audit.facts["series"][0]["duplicates"] == 1
