"""``titans-seq bench memory``: rows in turns, cells that are kept, and what is said about them."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from titans_seq.bench import layers
from titans_seq.bench.memory import ATTENTION, DEFAULT, LIKE, PLAIN, ROWS, Cell, Plan, aims, bench_memory, compared
from titans_seq.errors import Interrupted, UsageError

PLAN = Plan((64, 128), (1,), 2, 60.0)
OURS = [row.name for row in ROWS if row.subject != "peer"]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("titans_seq.bench.memory.peer_versions", lambda python: {"titans-pytorch": "1"})
    return "peer/bin/python"


def test_rows_are_what_this_release_can_be_configured_to() -> None:
    for row in ROWS:
        if row.subject == "memory":
            layers.memory({"width": 16, "heads": 2, "chunk_size": 8, **row.job})
    assert PLAIN.name in OURS and ATTENTION.name in OURS


def test_rows_take_turns(bench: Any, peer: str, tmp_path: Path) -> None:
    bench_memory(tmp_path, Plan((64,), (1,), 2, 60.0), peer=peer)
    names = [(job["subject"], str(job.get("memory")), job.get("batch_size")) for job in bench.asked]
    count = len(names) // 6  # two modes, a first call and two more of each row
    assert count == len(OURS) + 2 and len(set(names[:count])) == count
    assert names == names[:count] * 6
    assert [job["backward"] for job in bench.asked] == [False] * 3 * count + [True] * 3 * count
    assert {job["python"] for job in bench.asked if job["subject"] == "peer"} == {peer}
    assert {job["python"] for job in bench.asked if job["subject"] != "peer"} == {None}


def test_the_median_and_the_first_calls_memory_are_kept(bench: Any, tmp_path: Path) -> None:
    bench.answer = lambda job, number: bench.answered([9.0, 1.0, 2.0, 6.0][number - 1], number * 2**20)
    text, facts = bench_memory(tmp_path, Plan((64,), (1,), 3, 60.0))
    for cell in facts["cells"].values():
        for row in cell["rows"].values():
            assert row["seconds"] == 2 and row["tokens_per_second"] == 32 and row["growth"] == 2**20
            assert row["times"] == [1, 2, 6]
    assert "| attention (SDPA, causal) " in text and " 1.00x, 100% |" in text
    assert "a one-thread process had a processor for 50% to 50%" in text


def test_a_slow_row_is_asked_fewer_times(bench: Any, tmp_path: Path) -> None:
    bench.answer = lambda job, number: bench.answered(4.0 if job["subject"] == "attention" else 1.0)
    _, facts = bench_memory(tmp_path, Plan((64,), (1,), 9, 10.0))
    rows = facts["cells"][str(Cell("forward", 64, 1))]["rows"]
    assert len(rows[ATTENTION.name]["times"]) == 1 and len(rows[PLAIN.name]["times"]) == 9
    assert rows[ATTENTION.name]["seconds"] == 4


def test_a_row_that_fails_is_told_and_the_others_stand(bench: Any, tmp_path: Path) -> None:
    told = {"failed": "out of memory, 1 GiB"}

    def answer(job: dict[str, Any], number: int) -> dict[str, Any]:
        return told if job["subject"] == "attention" and job["backward"] and number == 2 else bench.answered()

    bench.answer = answer
    text, facts = bench_memory(tmp_path, PLAN)
    rows = facts["cells"][str(Cell("forward+backward", 64, 1))]["rows"]
    assert rows[ATTENTION.name] == told and rows[PLAIN.name]["seconds"] == 1
    assert compared(rows, PLAIN.name, ATTENTION.name) is None
    assert "| out of memory, 1 GiB |" in text


def test_a_finished_cell_is_not_repeated(bench: Any, tmp_path: Path) -> None:
    bench_memory(tmp_path, PLAN)
    bench.asked.clear()
    before = (tmp_path / "memory.json").read_bytes()
    bench_memory(tmp_path, PLAN)
    assert not bench.asked and (tmp_path / "memory.json").read_bytes() == before
    bench_memory(tmp_path, PLAN._replace(tokens=(128, 256)))
    assert {job["tokens"] for job in bench.asked} == {256}
    bench.asked.clear()
    bench_memory(tmp_path, PLAN, again=True)
    assert {job["tokens"] for job in bench.asked} == {64, 128}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["memory.json", "memory.md", "memory.png"]


def test_a_stopped_run_goes_on(bench: Any, tmp_path: Path) -> None:
    def signalled(job: dict[str, Any], number: int) -> dict[str, Any]:
        if job["backward"]:
            os.kill(os.getpid(), signal.SIGINT)
        return bench.answered()

    answer, bench.answer = bench.answer, signalled
    with pytest.raises(Interrupted):
        bench_memory(tmp_path, PLAN)
    kept = json.loads((tmp_path / "memory.json").read_text())["cells"]
    assert list(kept) == [str(Cell("forward", 64, 1))] and not (tmp_path / "memory.md").exists()
    bench.answer = answer
    bench.asked.clear()
    _, facts = bench_memory(tmp_path, PLAN)
    assert bench.asked[0]["backward"] and len(facts["cells"]) == 4


def test_cells_that_were_measured_otherwise_cannot_stand_beside(bench: Any, peer: str, tmp_path: Path) -> None:
    bench_memory(tmp_path, PLAN)
    with pytest.raises(UsageError, match=r"memory.json was measured with another settings.rounds\. .*--again"):
        bench_memory(tmp_path, PLAN._replace(rounds=3))
    with pytest.raises(UsageError, match=r"another settings.rows and versions.titans-pytorch"):
        bench_memory(tmp_path, PLAN, peer=peer)
    for text in ("", "[]", "{}", '{"cells": {}}'):
        (tmp_path / "memory.json").write_text(text)
        with pytest.raises(UsageError, match="holds no results of this benchmark"):
            bench_memory(tmp_path, PLAN)
        assert (tmp_path / "memory.json").read_text() == text


def test_aims_are_judged_by_speed_and_memory() -> None:
    def cells(seconds: float, growth: int) -> dict[str, Any]:
        rows = {PLAIN.name: {"seconds": seconds, "growth": growth}, LIKE.name: {"seconds": 4.0, "growth": 100}}
        cell = Cell("forward+backward", 16_384, 1)
        return {str(cell): {"cell": cell._asdict(), "rows": rows}}

    (good,) = aims(cells(2.0, 20))
    assert (good["speed"], good["memory"], good["holds"]) == (2, 0.2, True)
    assert not aims(cells(2.1, 20))[0]["holds"] and not aims(cells(2.0, 21))[0]["holds"]


def test_the_peers_are_its_default_and_the_like_of_ours() -> None:
    assert DEFAULT.job == {"subject": "peer", "batch_size": None} and LIKE.job["batch_size"] == 64


def test_the_command(bench: Any, titans: Any, tmp_path: Path) -> None:
    given = ["bench", "memory", "--out", tmp_path / "out", "--tokens", "64", "--threads", "1", "--rounds", "1"]
    result = titans(*given, "--json")
    facts = json.loads(result.stdout, parse_constant=pytest.fail)
    assert facts == json.loads((tmp_path / "out" / "memory.json").read_text())
    assert "pip install titans-pytorch; then --peer" in result.stderr
    assert titans(*given).stdout == (tmp_path / "out" / "memory.md").read_text() + "\n"
    assert "as 1024,4096" in titans("bench", "memory", "--tokens", "1k", code=2).stderr
    assert "less than one chunk of 64" in titans("bench", "memory", "--tokens", "8", code=2).stderr
    assert "has titans-pytorch" in titans(*given, "--peer", tmp_path / "python", code=6).stderr
