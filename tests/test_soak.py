"""The long programs of trust, whose results stand in ``benchmarks/results``: kills, broken files, installation."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def rows(folder: Path, name: str, *options: Any) -> dict[str, Any]:
    """Rows of a program of ``benchmarks/`` that ends well."""
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--work", folder / "work", "--out", folder, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())["rows"]
    return found


@pytest.mark.soak
def test_random_kills_change_nothing(tmp_path: Path) -> None:
    found = rows(tmp_path, "kills", "--kills", 25)
    assert len(found) == 4
    for row in found.values():
        assert row["kills"] == 25 and not row["wrong"]
        assert row["rows lost"] == row["rows twice"] == row["files that differ"] == 0


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    found = rows(tmp_path, "fuzz", "--seconds", 120)
    assert len(found) == 17
    assert all(row["executions"] > 100 and not row["found"] for row in found.values())


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_it_installs_where_it_says(tmp_path: Path) -> None:
    found = rows(tmp_path, "install", "--python", sys.executable)
    assert len(found) == 3 and not any(row["failed"] for row in found.values())
