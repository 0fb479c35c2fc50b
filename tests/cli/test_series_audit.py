"""`forecast audit` through the command line: the table, the JSON, and what ends with code 3."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

CLEAN = "\n".join(["date,a", *(f"2024-03-{4 + i // 24:02} {i % 24:02}:00:00,{i % 7}" for i in range(60)), ""])


def test_a_clean_table_passes(titans: Any, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(CLEAN)
    told = titans("forecast", "audit", tmp_path / "s.csv", "--strict")
    assert "no problem found" in told.stdout and "notes" not in told.stdout and "warning" not in told.stderr


@pytest.mark.parametrize(
    ("line", "options", "strict"),
    [
        ("2024-03-06 12:00:00,3\n", (), 0),
        ("2024-03-06 13:00:00,3\n", (), 3),  # a gap: accepted, and noted
        ("2024-03-06 13:00:00,3\n", ("--on-gap", "error"), 3),
        ("2024-03-06 11:00:00,9\n", (), 3),  # a duplicate that differs: refused
        ("2024-03-06 12:00:00,-9999\n", (), 3),
        ("2024-03-06 12:00:00,inf\n", (), 3),
    ],
)
def test_strict_ends_with_3_for_whatever_is_found(
    titans: Any, tmp_path: Path, line: str, options: tuple[str, ...], strict: int
) -> None:
    (tmp_path / "s.csv").write_text(CLEAN + line)
    titans("forecast", "audit", tmp_path / "s.csv", *options)
    titans("forecast", "audit", tmp_path / "s.csv", *options, "--strict", code=strict)


def test_the_json_is_what_out_holds(titans: Any, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(CLEAN + "2024-03-07 00:00:00,3\n")
    out = tmp_path / "audit.json"
    given = ["forecast", "audit", tmp_path / "s.csv", "--out", out]
    printed = json.loads(titans(*given, "--json").stdout)
    assert printed == json.loads(out.read_text())
    assert printed["kind"] == "series table" and printed["facts"]["series"][0]["longest_gap"] == "13 h"
    assert f"{out} exists" in titans(*given, code=2).stderr
    titans(*given, "--overwrite")


def test_what_cannot_be_read_is_refused(titans: Any, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("a,b\n1,2\n")
    told = titans("forecast", "audit", tmp_path / "s.csv", code=3)
    assert "no column of timestamps" in told.stderr and not told.stdout
    assert (
        "'often' is no frequency" in titans("forecast", "audit", tmp_path / "s.csv", "--freq", "often", code=2).stderr
    )


def test_ids_cannot_command_a_terminal(titans: Any, tmp_path: Path) -> None:
    rows = [f"\x1b[31mred{k},{line}" for k in (0, 1) for line in CLEAN.splitlines()[1:]]
    (tmp_path / "s.csv").write_text("\n".join(["unique_id,ds,y", *rows, ""]))
    told = titans("forecast", "audit", tmp_path / "s.csv").stdout
    assert "\x1b" not in told and "\\x1b[31mred0" in told


def test_the_example_of_help_runs(titans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sensors.csv").write_text(CLEAN)
    monkeypatch.chdir(tmp_path)
    example = re.search(r"Example: titans-seq (.*?)\n\n", titans("forecast", "audit", "--help").stdout, re.DOTALL)
    assert example is not None
    titans(*shlex.split(example[1]))
    assert (tmp_path / "audit.json").exists()
