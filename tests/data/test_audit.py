import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    facts = audit.facts
    assert facts["read_as"] == {"times": "date", "target": "a, b"}
    assert (facts["layout"], facts["number_of_series"], facts["rows"], facts["irregular_series"]) == ("wide", 1, 14, 0)
    assert (facts["frequency"], facts["frequency_share"]) == ("1d", 0.833333)
    a, b = facts["columns"]
    assert a == {
        "column": "a",
        "missing_share": 0.071429,
        "min": 1.0,
        "median": 1.0,
        "max": 900.0,
        "longest_constant_run": 9,
        "outliers": 2,  # 3 and 900: the quartiles are 1 and 1.25
        "sentinels": {},
    }
    assert b["sentinels"] == {"-9999": 1} and b["longest_constant_run"] == 9
    assert facts["series"] == [
        {
            "id": "",
            "rows": 13,
            "start": "2020-01-01",
            "end": "2020-01-15",
            "frequency": "1d",
            "its_share": 0.833333,
            "gaps": 2,
            "missing_rows": 2,
            "longest_gap": "2 d",
            "duplicates": 1,
            "steps_back": 1,
            "missing_share": 0.038462,
            "sentinels": 1,
            "outliers": 4,  # two of b also; its sentinel is none
        }
    ]
    assert facts["longest_gaps"] == [{"id": "", "longest_gap": "2 d", "after": "2020-01-09", "steps": 2.0}]
    assert facts["duplicate_timestamps"] == [
        {"id": "", "time": "2020-01-11", "times": 2, "first_row": 11, "differ": "no"}
    ]
    assert facts["steps_backwards"] == [{"id": "", "row": 11, "from": "2020-01-12", "to": "2020-01-11"}]
    assert facts["outliers"] == [
        {"id": "", "column": "a", "outliers": 2, "farthest": 900.0, "at": "2020-01-13"},
        {"id": "", "column": "b", "outliers": 2, "farthest": 8.0, "at": "2020-01-15"},
    ]
    assert facts["longest_constant_runs"][0]["rows"] == 9 and "series_in_short" not in facts
    assert audit.problems == () and len(audit.notes) == 5 and warned == []
    assert audit.sound and not audit.spotless


def hours(count: int, start: str = "2024-01-10") -> list[list[str]]:
    """Rows of an hourly table without a fault: time, and a wave."""
    times = np.datetime64(start, "h") + np.arange(count)
    return [[str(time).replace("T", " ") + ":00:00", f"{np.sin(i / 4):.6f}"] for i, time in enumerate(times)]


def in_two_zones(rows: list[list[str]]) -> None:
    for i, row in enumerate(rows):
        row[0] += "Z" if i < 20 else "+01:00"


def on_an_autumn_night(rows: list[list[str]]) -> None:
    rows[:] = hours(48, "2024-10-26")
    rows[26][0] = rows[25][0]  # the clock shows one o'clock twice


def on_a_spring_night(rows: list[list[str]]) -> None:
    rows[:] = hours(48, "2024-03-30")
    del rows[26]


def among_zeros(rows: list[list[str]]) -> None:
    for at, row in enumerate(rows):
        row[1] = {7: "9831.3", 20: "0.3", 21: "0.9", 22: "1.4", 40: "0.5"}.get(at, "0")


FAULTS: dict[str, tuple[Callable[[list[list[str]]], Any], dict[str, Any], str]] = {
    "none": (lambda rows: None, {}, ""),
    "gap": (lambda rows: rows.__delitem__(slice(10, 15)), {"gaps": 1, "missing_rows": 5, "longest_gap": "6 h"}, "gaps"),
    "equal duplicate": (lambda rows: rows.insert(9, rows[9]), {"duplicates": 1}, "1, all with equal values"),
    "duplicate": (lambda rows: rows.insert(9, [rows[9][0], "7"]), {"duplicates": 1}, "duplicate timestamp"),
    "order": (lambda rows: rows.insert(3, rows.pop(9)), {"steps_back": 1}, "rows out of order in time: 1"),
    "missing": (lambda rows: rows[7].__setitem__(1, "NA"), {"missing_share": 0.02}, "missing values in 2.00%"),
    "sentinel": (lambda rows: rows[7].__setitem__(1, "-9999"), {"sentinels": 1, "outliers": 0}, "holds -9999"),
    "outlier": (lambda rows: rows[7].__setitem__(1, "50"), {"outliers": 1}, ""),
    "outlier among zeros": (among_zeros, {"outliers": 1}, ""),
    "irregular": (lambda rows: rows[7].__setitem__(0, rows[7][0].replace(":00:", ":09:")), {}, "is irregular: 98.0%"),
    "zones": (in_two_zones, {"duplicates": 1}, "more than one time zone: UTC in row 1, +01:00 in row 21"),
    "fold": (on_an_autumn_night, {"duplicates": 1}, "(DST fold)"),
    "clock put forward": (on_a_spring_night, {"gaps": 1}, "(DST gap): 2024-03-31 02:00:00"),
    "constant": (lambda rows: [row.__setitem__(1, "3") for row in rows], {}, "column 'a' is constant, 3"),
    "inf": (lambda rows: rows[7].__setitem__(1, "-inf"), {}, "row 8, column 'a': '-inf' is infinite"),
    "text": (lambda rows: rows[7].__setitem__(1, "off"), {}, "row 8, column 'a': 'off' is not a number"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(file: File, fault: str) -> None:
    plant, facts, said = FAULTS[fault]
    rows = hours(50)
    plant(rows)
    audit = sound(audit_series(file("\n".join(["date,a", *map(",".join, rows), ""]), "x.csv")))
    (series,) = audit.facts["series"]
    assert {key: series[key] for key in facts} == facts
    told = "\n".join((*audit.problems, *audit.notes))
    assert said in told and audit.spotless == (not said)
    none = ("gaps", "duplicates", "steps_back", "missing_share", "sentinels", "outliers")
    if fault == "none":
        assert not any(series[key] for key in none)


def test_a_flat_line_is_found(file: File) -> None:
    rows = hours(50)
    for row in rows[20:32]:
        row[1] = "0.25"
    audit = sound(audit_series(file("\n".join(["date,a", *map(",".join, rows), ""]), "x.csv")))
    assert audit.facts["longest_constant_runs"] == [
        {"id": "", "column": "a", "rows": 12, "share": 0.24, "from": "2024-01-10 20:00:00", "value": 0.25}
    ]


def test_of_many_series_the_worst_stand_first(file: File) -> None:
    rows = [f"s{i:03},{time},{value}" for i in range(300) for time, value in hours(10)]
    del rows[2503:2508]  # a gap in s250
    rows[1234] = rows[1234].rpartition(",")[0] + ","  # nothing in s123
    audit = sound(audit_series(file("\n".join(["unique_id,ds,y", *rows, ""]), "x.csv")))
    assert [one["id"] for one in audit.facts["series"][:2]] == ["s250", "s123"]
    short = audit.facts["series_in_short"]
    assert (short["with gaps"], short["with missing"], short["with outliers"]) == (1, 1, 0)
    assert (short["rows, least"], short["rows, median"], short["rows, most"]) == (5, 10, 10)
    text = audit.text()
    assert "and 290 more" in text and "with gaps: 1" in text and "s020" not in text


def test_text_columns(file: File) -> None:
    lines = "date,a,sky,b\n2020-01-01,1,fog,4\n2020-01-02,2,,5\n2020-01-03,3,fog,6\n"
    audit = sound(audit_series(file(lines, "x.csv"), target=["a"], past_only=["sky"]))
    assert audit.facts["read_as"] == {"times": "date", "target": "a", "past only": "sky (1 categories)"}
    (sky,) = audit.facts["text_columns"]
    assert sky == {"column": "sky", "values": 1, "commonest": "fog", "its_share": 0.666667, "empty_share": 0.333333}
    assert audit.spotless
    bare = sound(audit_series(file(lines, "x.csv")))
    assert bare.facts["text_columns"] == [sky] and "--past-only" in bare.problems[0]


@pytest.mark.parametrize(
    ("content", "options", "problems"),
    [
        ("date,a\n2020-01-01,1\n2020-01-01,2\n2020-01-02,2\n", {}, ["duplicate timestamp"]),
        ("date,a\n2020-01-01,1\n2020-01-02,inf\n2020-01-03,2\n", {}, ["'inf' is infinite"]),
        ("date,a,b\n2020-01-01,1,x\n2020-01-02,2,y\n", {}, ["column 'b': 'x' is not a number"]),
        ("date,a,b\n2020-01-01,1,\n2020-01-02,2,\n", {}, ["column 'b' holds no value"]),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n", {"min_rows": 9}, ["rows found: 2, rows needed: 9"]),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-04,4\n", {"on_gap": "error"}, ["commonest step is 1d"]),
        (
            "date,a\n" + "".join(f"2020-01-01 {h:02}:{7 * (h == 5):02},1{h}\n" for h in range(9)),
            {"on_gap": "ffill"},
            ["is irregular"],
        ),
        (
            "date,a\n" + "".join(f"2020-01-01 {h:02}:00,1{h}\n" for h in range(9)) + "2400-01-01 00:00,1\n",
            {},
            ["Is a timestamp wrong?"],
        ),
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


@pytest.mark.parametrize(
    ("name", "options", "facts"),
    [
        ("ltsf/weather.csv.gz", {}, {"sentinels": 81, "duplicates": 1, "gaps": 1, "longest_gap": "100 min"}),
        ("transport/metro_traffic_volume_hourly.csv.gz", {}, {"duplicates": 7_629, "gaps": 2_588}),
        ("irregular/machine_temperature_system_failure.csv.gz", {}, {"duplicates": 12, "steps_back": 1}),
        ("irregular/speed_7578.csv.gz", {}, {"its_share": 0.652753, "gaps": 382}),
        ("irregular/ambient_temperature_system_failure.csv.gz", {}, {"gaps": 10}),
        ("science/beijing_pm25.csv.gz", {"target": ["pm2.5"]}, {"missing_share": 0.047166, "frequency": "1h"}),
    ],
)
def test_what_is_known_of_real_tables_is_found(
    real: Path, name: str, options: dict[str, Any], facts: dict[str, Any]
) -> None:
    audit = sound(audit_series(real / "timeseries" / name, **options))
    (series,) = audit.facts["series"]
    assert {key: series[key] for key in facts} == facts and not audit.spotless


def test_categories_and_irregular_rows_of_real_tables(real: Path) -> None:
    beijing = sound(audit_series(real / "timeseries" / "science" / "beijing_pm25.csv.gz"))
    (cbwd,) = beijing.facts["text_columns"]
    assert (cbwd["column"], cbwd["values"], cbwd["commonest"]) == ("cbwd", 4, "SE")
    speed = sound(audit_series(real / "timeseries" / "irregular" / "speed_7578.csv.gz"))
    assert speed.facts["irregular_series"] == 1 and "is irregular: 22.9%" in speed.notes[-1]
