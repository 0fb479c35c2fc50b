"""Windows that grow while a run goes on."""

from pathlib import Path
from typing import Any

from titans_seq.training.config import Training


def test_rows_are_halved_evenly_down_to_one_half_way_through() -> None:
    rows = [Training(first_length=8).rows(64, step, 80) for step in range(80)]
    assert rows == [8] * 10 + [4] * 10 + [2] * 10 + [1] * 50
    assert Training(first_length=100).rows(64, 0, 80) == Training().rows(64, 0, 80) == 1


def test_a_language_model_is_trained_so(titans: Any, tiny: Any, tmp_path: Path) -> None:
    given = ["genomics", "pretrain", tiny.fasta, "--out", tmp_path / "run", *tiny.size, "--set", "data.length=64"]
    sets = [f"training.{part}" for part in ("first_length=16", "truncate=32", "steps=6")]
    titans(*given, *(part for setting in sets for part in ("--set", setting)))
    assert "first_length: 16" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_repeats_keep_their_weight_in_windows_that_grow(titans: Any, tiny: Any, tmp_path: Path) -> None:
    lines = tiny.fasta.read_text().splitlines()
    masked = [line if line.startswith(">") else line[:60].lower() + line[60:] for line in lines]
    (tmp_path / "x.fa").write_text("\n".join([*masked, ""]))
    given = ["genomics", "pretrain", tmp_path / "x.fa", "--softmask", "weight", "--out", tmp_path / "run", *tiny.size]
    sets = ["data.length=64", *(f"training.{part}" for part in ("first_length=16", "steps=6"))]
    titans(*given, *(part for setting in sets for part in ("--set", setting)))
    assert "softmask: weight" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_another_task_has_no_windows_to_cut(titans: Any, tiny: Any, tmp_path: Path) -> None:
    given = ["genomics", "finetune", tiny.table, "--out", tmp_path / "run", *tiny.size]
    told = titans(*given, "--set", "training.first_length=8", code=4).stderr
    assert "training.first_length cuts windows of a language model; the task is classification" in told
