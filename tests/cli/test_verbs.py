"""Verbs on tables like those a model was trained on, and models that ask something of their input."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import MAC
from titans_seq.checkpoint import SequenceModel, save_pretrained
from titans_seq.memory import MemoryConfig
from titans_seq.tasks.classification import Classification

ONCE = ("--set", "training.steps=1")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


@pytest.fixture
def odd(titans: Any, tiny: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and its table, whose columns have names of their own."""
    table = tmp_path / "odd.csv"
    table.write_text(tiny.table.read_text().replace("sequence,label", "dna,kind"))
    columns = ["--sequence-column", "dna", "--label-column", "kind"]
    titans("genomics", "finetune", table, *columns, "--out", tmp_path / "run", *tiny.size, *ONCE)
    return tmp_path / "run", table


def test_what_cuts_intervals_is_refused_for_fasta(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    for verb, source in (("predict", models.classifier), ("embed", models.language), ("evaluate", models.language)):
        out = tmp_path / ("x.json" if verb == "evaluate" else "x.parquet")
        told = titans("genomics", verb, source, tiny.fasta, "--window", 10, "--max-n", 0.5, "--out", out, code=2).stderr
        assert "is FASTA, whose records are read whole; --window, --max-n cut intervals" in told and not out.exists()
    given = ["genomics", "evaluate", models.classifier, tiny.table, "--out"]
    assert "the picture is the file of --out" in titans(*given, tmp_path / "x.png", code=2).stderr


def test_columns_that_training_was_told_of_are_found_again(titans: Any, odd: tuple[Path, Path], tmp_path: Path) -> None:
    run, table = odd
    titans("genomics", "predict", run, table, "--out", tmp_path / "out.csv")
    assert len(rows(tmp_path / "out.csv")) == 24
    found = json.loads(titans("genomics", "evaluate", run, table, "--json").stdout)
    assert found["items"] == 24 and {"items", "model", "majority_class", "kmer_logistic_regression"} <= set(found)


def test_a_training_table_that_is_gone_leaves_the_model_measured(
    titans: Any, odd: tuple[Path, Path], tmp_path: Path
) -> None:
    run, table = odd
    table.rename(tmp_path / "test.csv")
    result = titans("genomics", "evaluate", run, tmp_path / "test.csv", "--json")
    assert f"There is no baseline beside the model: {table} does not exist" in result.stderr
    assert "kmer_logistic_regression" not in json.loads(result.stdout)


def test_evaluating_on_labelled_fasta(titans: Any, models: Any, tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">one\nACGT\n>two\nGGGA\n")
    (tmp_path / "labels.csv").write_text("id,label\none,a\ntwo,b\n")
    given = ["genomics", "evaluate", models.classifier, tmp_path / "x.fa"]
    assert json.loads(titans(*given, "--labels", tmp_path / "labels.csv", "--json").stdout)["items"] == 2
    assert "Give a table of id and label with --labels" in titans(*given, code=3).stderr


@pytest.mark.parametrize("content", [">a\n>b\n", ">a\nNNNN\n"], ids=["empty", "all N"])
def test_a_genome_without_a_base_measures_nothing(titans: Any, models: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "x.fa").write_text(content)
    told = titans("genomics", "evaluate", models.language, tmp_path / "x.fa", code=3).stderr
    assert f"{tmp_path / 'x.fa'}: no base A, C, G, T to measure on" in told


def test_evaluating_labels_the_model_does_not_know(titans: Any, models: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sequence,label\nACGT,a\nACGTT,z\n")
    told = titans("genomics", "evaluate", models.classifier, tmp_path / "t.csv", code=3).stderr
    assert "row '2' has label 'z', which is not among the classes a, b" in told


def test_empty_and_unknown_records_keep_their_rows(titans: Any, models: Any, tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\nACGT\n>empty\n>n\nNNN\n")
    titans("genomics", "predict", models.language, tmp_path / "x.fa", "--out", tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert [row["id"] for row in found] == ["a", "empty", "n"]
    assert [row["bits_per_nt"] == "" for row in found] == [False, True, True]
    assert [row["scored_bases"] for row in found] == ["4", "0", "0"]


def test_records_too_short_to_be_split_are_counted(titans: Any, tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\nA\n>b\n" + "ACGT" * 50 + "\n>c\nT\n")
    told = titans("genomics", "pretrain", tmp_path / "x.fa", "--out", tmp_path / "run", *tiny.size, "--dry-run").stderr
    assert "2 records are of one base and not trained on; first 'a'" in told and told.count("warning:") == 1


@pytest.mark.parametrize("content", [">a\nA\n", ">a\n" + "N" * 100 + "\n", ">a\n"], ids=["one base", "all N", "empty"])
def test_nothing_to_train_on(titans: Any, tiny: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "x.fa").write_text(content)
    given = ["genomics", "pretrain", tmp_path / "x.fa", "--out", tmp_path / "run", *tiny.size]
    assert "too few bases A, C, G, T to train on and validate with" in titans(*given, code=3).stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("segment", [48, 8192])
def test_a_memory_as_printed_reads_whole_segments(titans: Any, tmp_path: Path, segment: int) -> None:
    """The printed form of memory as context cannot stop inside a segment, whatever the segment's length."""
    torch.manual_seed(0)
    block = MAC(segment=segment, mode="paper")
    config = BackboneConfig(width=8, depth=1, heads=2, block=block, memory=MemoryConfig(chunk_size=16))
    save_pretrained(SequenceModel(config, Classification(classes=("a", "b"))), tmp_path / "model")
    (tmp_path / "x.fa").write_text(">long\n" + "ACGTA" * 2000 + "\n")
    titans("genomics", "predict", tmp_path / "model", tmp_path / "x.fa", "--out", tmp_path / "out.csv", "--threads", 1)
    assert len(rows(tmp_path / "out.csv")) == 1


# --- forecast


def test_timestamps_keep_parts_of_a_second(titans: Any, tiny: Any, tmp_path: Path) -> None:
    lines = [f"2024-01-01 00:00:{i // 4:02}.{i % 4 * 25:02},{i % 7}.5" for i in range(80)]
    (tmp_path / "s.csv").write_text("\n".join(["date,a", *lines, ""]))
    titans("forecast", "train", tmp_path / "s.csv", "--out", tmp_path / "run", *tiny.forecast, *ONCE)
    for suffix in ("csv", "parquet"):
        titans("forecast", "predict", tmp_path / "run", tmp_path / "s.csv", "--out", tmp_path / f"out.{suffix}")
    assert [row["ds"][17:] for row in rows(tmp_path / "out.csv")] == ["20", "20.250000", "20.500000", "20.750000"]
    found = pl.read_parquet(tmp_path / "out.parquet")["ds"]
    assert found.dtype == pl.Datetime("us") and found.n_unique() == 4


@pytest.mark.parametrize(
    ("quantiles", "code", "says"),
    [
        ("0.1,0.5", 0, ""),
        ("0.10", 0, ""),
        ("0.15", 2, "The model has no quantile q0.15. It has q0.1, q0.2"),
        ("low", 2, "give numbers between commas"),
    ],
)
def test_quantiles_are_those_of_the_model(
    titans: Any, models: Any, tiny: Any, tmp_path: Path, quantiles: str, code: int, says: str
) -> None:
    out = tmp_path / "out.csv"
    given = ["forecast", "predict", models.wide, tiny.wide, "--out", out, "--quantiles", quantiles]
    assert says in titans(*given, code=code).stderr
    if not code:
        wanted = [f"q{float(level):g}" for level in quantiles.split(",")]
        assert list(rows(out)[0]) == ["unique_id", "ds", "mean", *wanted]


def test_more_windows_than_there_are_rows(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    given = ["forecast", "backtest", models.wide, tiny.wide, "--out", tmp_path / "out.csv", "--windows", 100]
    told = titans(*given, code=3).stderr
    assert "rows found: 80, rows needed: 412" in told and not (tmp_path / "out.csv").exists()


def test_a_model_that_was_moved_forecasts_alike(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    """A checkpoint folder without its run needs nothing else."""
    shutil.copytree(models.wide / "model", tmp_path / "model")
    for name, source in (("a.csv", models.wide), ("b.csv", tmp_path / "model")):
        titans("forecast", "predict", source, tiny.wide, "--out", tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
