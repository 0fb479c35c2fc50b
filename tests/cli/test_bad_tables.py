"""Bad tables of labels and of series through the command line: each row of the contract's table."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result

Check = Callable[..., Result]
LABELLED = "sequence,label\n" + "".join(f"{'ACGT' * 3}{'CA' * i},{'xy'[i % 2]}\n" for i in range(8))


def series(rows: int = 40, start: int = 0) -> list[str]:
    return [f"2024-03-{4 + i // 24:02} {i % 24:02}:00:00,{i % 7}.5,{i % 5}" for i in range(start, start + rows)]


def text(lines: list[str], header: str = "date,a,b") -> str:
    return "\n".join([header, *lines, ""])


@pytest.fixture
def labels(titans: Any, tiny: Any, tmp_path: Path) -> Check:
    """What `genomics finetune` says of a table before it starts."""

    def run(content: str | bytes, *options: Any, code: int = 0, name: str = "t.csv") -> Result:
        path, out = tmp_path / name, tmp_path / "run"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        result: Result = titans(
            "genomics", "finetune", path, "--out", out, "--dry-run", *tiny.size, *options, code=code
        )
        assert not out.exists()
        return result

    return run


@pytest.fixture
def forecast(titans: Any, tiny: Any, tmp_path: Path) -> Check:
    """What `forecast train` says of a table before it starts."""

    def run(content: str | bytes, *options: Any, code: int = 0, name: str = "s.csv") -> Result:
        path, out = tmp_path / name, tmp_path / "run"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        result: Result = titans(
            "forecast", "train", path, "--out", out, "--dry-run", *tiny.forecast, *options, code=code
        )
        assert not out.exists()
        assert str(path) in result.stderr or not code, "the message names the file"
        return result

    return run


def excel() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    return packed.getvalue()


def parquet() -> bytes:
    packed = io.BytesIO()
    pl.DataFrame({"date": ["2024-01-01"], "a": [1.0]}).write_parquet(packed)
    return packed.getvalue()


# --- labels


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("sequence,label\nACGT,x\nACGTT,\n", "row 2 has no label in column 'label'", id="missing label"),
        pytest.param("sequence,label\nACGT,x\nACGTT,x\n", "has only one class, 'x'", id="one class"),
        pytest.param(
            "sequence,label\nACGT,x\nTT,y\nACGT,y\n", "rows 1 and 3 have the same sequence", id="conflicting duplicates"
        ),
        pytest.param("sequence,lable\nACGT,x\n", "no label column", id="no label column"),
        pytest.param("seqence,label\nACGT,x\n", "no column 'sequence'", id="no sequence column"),
        pytest.param("sequence,label\nACGT,x\n,y\n", "row 2 has no sequence", id="missing sequence"),
        pytest.param("sequence,label\nACGT,x\nACGL,y\n", "row 2 has 'L' at position 4", id="protein"),
        pytest.param("", "empty", id="empty"),
        pytest.param("sequence,label\n", "no rows", id="header only"),
        pytest.param(excel(), "an Excel workbook", id="Excel"),
        pytest.param(parquet(), "looks like Parquet", id="Parquet named .csv"),
        pytest.param('[{"sequence": "ACGT", "label": "x"}]', "looks like JSON", id="JSON"),
        pytest.param(">a\nACGT\n", "looks like FASTA", id="FASTA named .csv"),
    ],
)
def test_bad_labels_are_refused(labels: Check, tmp_path: Path, content: str | bytes, says: str) -> None:
    told = labels(content, code=3).stderr
    assert says in told and str(tmp_path / "t.csv") in told


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("id,label\na,x\nb,y\nc,x\n", "id 'c' is unknown"),
        ("id,label\na,x\n", "record 'b' has no label"),
        ("id,label\na,x\nb,\n", "row 2 (id 'b') has no label"),
        ("id,label\na,x\nb,y\na,y\n", "row 3 gives id 'a' the label 'y', an earlier row 'x'"),
        ("id,kind\na,x\nb,y\n", "no label column"),
    ],
    ids=["unknown id", "unlabelled record", "missing label", "two labels", "no label column"],
)
def test_labels_beside_a_fasta(labels: Check, tmp_path: Path, table: str, says: str) -> None:
    (tmp_path / "labels.csv").write_text(table)
    fasta = ">a\nACGT\n>b\nTTAC\n"
    told = labels(fasta, "--labels", tmp_path / "labels.csv", code=3, name="t.fa").stderr
    assert says in told and str(tmp_path / "labels.csv") in told


def test_labels_beside_a_fasta_of_one_class(labels: Check, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\na,x\nb,x\n")
    told = labels(">a\nACGT\n>b\nTT\n", "--labels", tmp_path / "labels.csv", code=3, name="t.fa").stderr
    assert f"{tmp_path / 't.fa'} has only one class, 'x'" in told


def test_a_label_that_only_the_validation_table_has(labels: Check, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("sequence,label\nACGT,x\nACGTT,z\n")
    told = labels(LABELLED, "--validation", tmp_path / "v.csv", code=3).stderr
    assert "row '2' has label 'z'" in told and "x, y" in told and str(tmp_path / "v.csv") in told


def test_good_labels_are_accepted_without_a_word(labels: Check) -> None:
    assert "warning" not in labels(LABELLED).stderr
    assert "warning" not in labels(gzip.compress(LABELLED.encode()), name="t.csv.gz").stderr
    assert "warning" not in labels("\ufeff" + LABELLED.replace(",", ";").replace("\n", "\r\n")).stderr


def test_rows_with_one_id_are_told_once(labels: Check) -> None:
    rows = [f"i{i % 7},{line}" for i, line in enumerate(LABELLED.splitlines()[1:])]
    told = labels(text(rows, "id,sequence,label")).stderr
    assert "duplicate id 'i0' in rows 1 and 8" in told and told.count("warning:") == 1


# --- series


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("", "rows found: 0", id="empty"),
        pytest.param("date,a\n", "rows found: 0, rows needed: 1", id="header only"),
        pytest.param(text(series(1)), "rows found: 1, rows needed: 16", id="one row"),
        pytest.param(text(series(15)), "rows found: 15, rows needed: 16", id="short"),
        pytest.param(text(["soon,1,2", *series()]), "row 1: 'soon' does not read as a date", id="no date"),
        pytest.param(text([*series(20), "04.03.2024,1,2", *series(20)]), "row 21: '04.03.2024' is no date, or its "
                     "format is not that of row 1", id="mixed formats"),
        pytest.param(text([f"{i // 9 + 1:02}/{i % 9 + 1:02}/2024,{i},1" for i in range(40)]), "is ambiguous: which of "
                     "its numbers is the day", id="ambiguous day and month"),
        pytest.param(text([f"{line[:19]}{'+01:00' if i > 20 else 'Z'}{line[19:]}" for i, line in enumerate(series())]),
                     "more than one time zone: UTC in row 1, +01:00 in row 22", id="zones"),
        pytest.param(text([*series(), "2024-03-04 03:00:00,99,99"]), "duplicate timestamp 2024-03-04 03:00:00",
                     id="duplicates that differ"),
        pytest.param(text([f"{line.rpartition(',')[0]}," for line in series()]), "column 'b' holds no value",
                     id="a column all missing"),
        pytest.param(text([*series(30), "2024-03-05 06:00:00,inf,1", *series(9, 31)]), "row 31, column 'a': 'inf'",
                     id="inf"),
        pytest.param(text([*series(30), "2024-03-05 06:00:00,1,-Infinity", *series(9, 31)]),
                     "row 31, column 'b': '-Infinity'", id="-Infinity"),
        pytest.param(text([*series(30), "2024-03-05 06:00:00,1e308,1", *series(9, 31)]), "row 31, column 'a': '1e308'",
                     id="1e308"),
        pytest.param(text([*series(30), "2024-03-05 06:00:00,many,1", *series(9, 31)]),
                     "row 31, column 'a': 'many' is not a number", id="text"),
        pytest.param(text([*series(30), "2024-03-05 06:00:00,many,1", *series(9, 31)], "date,{a,b}"),
                     "row 31, column '{a': 'many' is not a number", id="braces in a column's name"),
        pytest.param(text([*series(30), "2024-03-05 06:00:00,1,2,3", *series(9, 31)]), "row 31 (counted from 1 below "
                     "the header) has 4 fields, the header has 3", id="ragged"),
        pytest.param(text(series(), "date,a,a"), "duplicate column name 'a'", id="duplicate column"),
        pytest.param(text(series()).rstrip()[:-2], "the last line is cut off: row 40", id="cut off"),
        pytest.param(text([*series(30), ",1,2", *series(9, 31)]), "row 31 has no timestamp", id="no timestamp"),
        pytest.param(excel(), "an Excel workbook", id="Excel"),
        pytest.param('{"date": ["2024-01-01"]}', "looks like JSON", id="JSON"),
        pytest.param(parquet(), "looks like Parquet", id="Parquet named .csv"),
        pytest.param("<html></html>", "looks like HTML", id="HTML"),
        pytest.param(text([f"{i},2" for i in range(40)], "a,b"), "no column of timestamps", id="no time column"),
    ],
)  # fmt: skip
def test_bad_series_are_refused(forecast: Check, content: str | bytes, says: str) -> None:
    assert says in forecast(content, code=3).stderr


def test_a_csv_named_parquet(forecast: Check) -> None:
    assert "looks like CSV" in forecast(text(series()), code=3, name="s.parquet").stderr


def test_how_dates_are_written_can_be_told(forecast: Check) -> None:
    days = text([f"{i % 9 + 1:02}/{i // 9 + 1:02}/2024,{i},1" for i in range(40)])
    assert "--time-format '%d/%m/%Y' or '%m/%d/%Y'" in forecast(days, code=3).stderr
    forecast(days, "--time-format", "%d/%m/%Y")
    assert "does not read as '%Y'" in forecast(text(series()), "--time-format", "%Y", code=3).stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(text([*series(20), series()[19], *series(20, 20)]), "rows with a duplicate timestamp: 1, all",
                     id="equal duplicates"),
        pytest.param(text([*series(20, 20), *series(20)]), "rows out of order in time: 1", id="unsorted"),
        pytest.param(text([*series(20), *series(20, 23)]), "not evenly spaced: the commonest step is 1h, 97.4359 %",
                     id="gap"),
        pytest.param(text([*series(30), "2024-03-05 06:00:00,,1", *series(9, 31)]),
                     "column 'a' has missing values in 2.50% of its rows (1)", id="missing"),
        pytest.param(text([f"{line.rpartition(',')[0]},7" for line in series()]), "column 'b' is constant, 7",
                     id="constant"),
        pytest.param(text([*series(30), "2024-03-05 06:00:00,-9999,1", *series(9, 31)]),
                     "column 'a' holds -9999 (times: 1)", id="sentinel"),
    ],
)  # fmt: skip
def test_series_with_one_warning(forecast: Check, tmp_path: Path, content: str, says: str) -> None:
    told = forecast(content).stderr
    assert says in told and told.count("warning:") == 1
    assert str(tmp_path / "s.csv") in told


def test_what_was_doubted_can_be_decided(forecast: Check) -> None:
    twice = text([*series(20), "2024-03-04 19:00:00,99,99", *series(20, 20)])
    for how in ("mean", "first", "last"):
        assert f"of which the {how} is kept" in forecast(twice, "--on-duplicate", how).stderr
    gap = text([*series(20), *series(20, 23)])
    assert "gaps): 1" in forecast(gap, "--on-gap", "error", code=3).stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--on-duplicate", "newest"),
        ("--on-gap", "fill"),
        ("--format", "tall"),
        ("--freq", "often"),
        ("--device", "tpu"),
    ],
)
def test_a_choice_that_is_none(titans: Any, models: Any, tiny: Any, tmp_path: Path, option: str, value: str) -> None:
    train = ["train", tiny.wide, *tiny.forecast, "--out", tmp_path / "run"]
    predict = ["predict", models.wide, tiny.wide, "--out", tmp_path / "out.csv"]
    for command in (train, predict):
        told = titans("forecast", *command, option, value, code=2).stderr
        assert value in told and option in told and not list(tmp_path.iterdir())


def irregular(rows: int = 40) -> str:
    """Rows whose minutes are off now and then."""
    return text([line.replace(":00:00", f":{7 if i % 5 == 4 else 0:02}:00") for i, line in enumerate(series(rows))])


def test_irregular_steps_are_accepted_and_told(forecast: Check) -> None:
    told = forecast(irregular()).stderr
    assert "not evenly spaced: the commonest step is 1h" in told
    assert "s.csv: the series is irregular: 80.0% of its timestamps" in told and "read as they come" in told
    assert "is irregular" not in forecast(irregular(), "--on-gap", "keep").stderr
    assert "is irregular" in forecast(irregular(), "--on-gap", "ffill", code=3).stderr
    assert "--on-gap nan" in forecast(irregular(), "--on-gap", "error", code=3).stderr


def test_a_mark_of_missing_values_is_named(forecast: Check) -> None:
    marked = text([*series(30), "2024-03-05 06:00:00,-9999,1", *series(9, 31)])
    assert "--missing -9999" in forecast(marked).stderr
    told = forecast(marked, "--missing", "-9999").stderr
    assert "-9999" not in told and "missing values in 2.50% of its rows (1)" in told


@pytest.mark.parametrize(("month", "nights"), [("2024-10-27", "fold"), ("2024-03-31", "gap")])
def test_hours_of_clock_changes_are_told(forecast: Check, month: str, nights: str) -> None:
    day = int(month[-2:])
    times = [f"{month[:8]}{day - 1:02} {h:02}:00:00" for h in range(24)] + [f"{month} {h:02}:00:00" for h in range(24)]
    times = times[:26] + times[26:27] * 2 + times[27:] if nights == "fold" else times[:26] + times[27:]
    told = forecast(text([f"{t},{i},{i % 3}" for i, t in enumerate(times)])).stderr
    assert f"(DST {nights})" in told and f"{month} 02:00:00" in told


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.replace(",", ";").replace(".5", ",5"), id="decimal comma"),
        pytest.param(lambda t: t.replace(",", ";"), id="semicolon"),
        pytest.param(lambda t: t.replace(",", "\t"), id="tab"),
        pytest.param(lambda t: "\ufeff" + t, id="BOM"),
        pytest.param(lambda t: t.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda t: t.replace("date,a,b", "date,température,b").encode("latin-1"), id="latin-1"),
        pytest.param(lambda t: gzip.compress(t.encode()), id="gzip"),
    ],
)
def test_tables_are_read_however_they_are_written(forecast: Check, change: Callable[[str], Any]) -> None:
    assert "warning" not in forecast(change(text(series()))).stderr


# --- ids of a long table


def long(ids: list[str], rows: int = 40) -> str:
    return text([f"{id},{line.rpartition(',')[0]}" for id in ids for line in series(rows)], "unique_id,ds,y")


def test_ids_are_text(titans: Any, models: Any, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(long(["001", "1", "1.0"]))
    titans("forecast", "predict", models.long, tmp_path / "s.csv", "--out", tmp_path / "out.parquet")
    found = pl.read_parquet(tmp_path / "out.parquet")["unique_id"]
    assert found.dtype == pl.String and found.unique(maintain_order=True).to_list() == ["001", "1", "1.0"]


def test_an_empty_id_is_refused(forecast: Check) -> None:
    assert "row 41 has an empty id in column 'unique_id'" in forecast(long(["a", ""]), code=3).stderr


def test_a_formula_as_id_is_escaped(titans: Any, models: Any, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(long(["=1+1", "@x"]))
    titans("forecast", "predict", models.long, tmp_path / "s.csv", "--out", tmp_path / "out.csv")
    found = pl.read_csv(tmp_path / "out.csv")["unique_id"].unique(maintain_order=True).to_list()
    assert found == ["'=1+1", "'@x"]


# --- other layouts

TSF = "@attribute series_name string\n@attribute start_timestamp date\n@frequency hourly\n@data\n"


def test_other_layouts(forecast: Check) -> None:
    lines = [",".join(str(i % 7 + k) for i in range(40)) for k in (0, 1)]
    starts = "".join(f"T{k}:2024-03-04 00-00-00:{line}\n" for k, line in enumerate(lines))
    assert "read as .tsf" in forecast(TSF + starts, name="s.tsf").stderr
    told = forecast(TSF + starts.replace("6", "six", 1), name="s.tsf", code=3).stderr
    assert "line 5, series 'T0': value 7: 'six' is no number" in told
    ragged = text([f"H{k},{line}" for k, line in enumerate(lines)], ",".join(["id", *(f"V{i}" for i in range(40))]))
    assert "Say how far apart values are: --freq" in forecast(ragged, code=3).stderr
    assert "read as table of a series a row" in forecast(ragged, "--freq", "h").stderr
    parts = text([f"2024,{i // 28 + 1},{i % 28 + 1},{i % 5}" for i in range(40)], "year,month,day,a")
    assert "times: year,month,day; target: a" in forecast(parts).stderr


# --- covariates


def weather(rows: int = 40, future: int = 0) -> str:
    """A target, and two covariates that go on for some rows."""
    lines = [
        f"{line.rpartition(',')[0]},{'sun' if i % 3 else 'rain'},{i % 5}"
        for i, line in enumerate(series(rows + future))
    ]
    for i in range(rows, rows + future):
        lines[i] = ",".join([lines[i].split(",")[0], "", *lines[i].split(",")[2:]])
    return text(lines, "date,a,sky,holiday")


COVARIATES = ("--target", "a", "--past-only", "sky", "--known-future", "holiday")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param("holiday", "day", "no column 'holiday' (--known-future)", id="no such column"),
        pytest.param(",sun,1\n", ",sun,yes\n", "column 'holiday': 'yes' is not a number", id="text"),
        pytest.param(",sun,1\n", ",sun,inf\n", "column 'holiday': 'inf' is infinite", id="inf"),
    ],
)
def test_bad_covariates_are_refused(forecast: Check, old: str, new: str, says: str) -> None:
    assert says in forecast(weather().replace(old, new), *COVARIATES, code=3).stderr


def test_what_was_taken_for_what_is_told(forecast: Check) -> None:
    told = forecast(weather(), *COVARIATES).stderr
    assert (
        "s.csv: read as wide table; times: date; target: a; known future: holiday; past only: sky (2 categories)."
        in told
    )
    assert "'sun' is not a number" in forecast(weather().replace("rain", "sun"), code=3).stderr


@pytest.fixture(scope="module")
def covariates_model(titans: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("covariates")
    (folder / "s.csv").write_text(weather())
    titans("forecast", "train", folder / "s.csv", "--out", folder / "run", *tiny.forecast, *COVARIATES,
           "--set", "training.steps=1", "--quiet")  # fmt: skip
    return folder / "run"


def test_covariates_must_reach_the_end_of_the_horizon(titans: Any, covariates_model: Path, tmp_path: Path) -> None:
    def predict(content: str, *options: Any, code: int = 0) -> Result:
        (tmp_path / "s.csv").write_text(content)
        out = ("--out", tmp_path / "out.csv", "--overwrite")
        result: Result = titans("forecast", "predict", covariates_model, tmp_path / "s.csv", *out, *options, code=code)
        return result

    told = predict(weather(40, 2), code=3).stderr
    assert (
        "s.csv: covariate 'holiday' stops before the horizon's end: its first missing value is of 2024-03-05 18" in told
    )
    assert "a forecast reaches 2024-03-05 19:00:00" in told and "--future" in told
    gap = weather(40, 4).replace("2024-03-05 17:00:00,,sun,1", "2024-03-05 17:00:00,,sun,")
    assert "first missing value is of 2024-03-05 17:00:00" in predict(gap, code=3).stderr
    predict(weather(40, 4))
    assert len(pl.read_csv(tmp_path / "out.csv")) == 4
    later = tmp_path / "later.csv"
    later.write_text("date,holiday\n2024-03-05 16:00:00,1\n2024-03-05 17:00:00,1\n2024-03-05 18:00:00,1\n")
    assert "2024-03-05 19:00:00" in predict(weather(), "--future", later, code=3).stderr
    later.write_text(later.read_text() + "2024-03-05 19:00:00,1\n")
    predict(weather(), "--future", later)


def test_a_category_that_training_did_not_know_is_told(titans: Any, covariates_model: Path, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(weather(40, 4).replace("rain", "fog"))
    told = titans("forecast", "predict", covariates_model, tmp_path / "s.csv", "--out", tmp_path / "out.csv").stderr
    assert "s.csv: column 'sky' has values that the model's training did not know: 'fog'" in told


# --- a table that does not suit the model


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(text(series(11)), "rows found: 11, rows needed: 12", id="shorter than the look-back"),
        pytest.param(text(series(), "date,a,c"), "lacks the column b", id="another column"),
        pytest.param(text([f"2024-03-04 {i // 60:02}:{i % 60:02}:00,{i},1" for i in range(40)]),
                     "has one row every 1m; the model was trained on one every 1h", id="another frequency"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_suit_the_model(
    titans: Any, models: Any, tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "s.csv").write_text(content)
    told = titans("forecast", "predict", models.wide, tmp_path / "s.csv", "--out", tmp_path / "out.csv", code=3)
    assert says in told.stderr and str(tmp_path / "s.csv") in told.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["s.csv"]


def test_one_column_of_several_that_are_forecast_together(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    given = ["forecast", "predict", models.wide, tiny.wide, "--out", tmp_path / "out.csv", "--target", "a"]
    assert f"leaves out b, and {models.wide} forecasts all its columns together" in titans(*given, code=2).stderr
