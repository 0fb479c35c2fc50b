"""A worker that measures nothing and answers at once, and the scripts in ``benchmarks/`` as modules."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import FOLDER, Script

from titans_seq.resources import DATA

Answer = Callable[[dict[str, Any], int], dict[str, Any]]


def answered(seconds: float = 1.0, growth: int = 2**20) -> dict[str, Any]:
    return {"seconds": seconds, "cpu_seconds": seconds / 2, "peak": 2**28 + growth, "growth": growth}


class Bench:
    """The jobs that were asked, in order; ``answer`` makes what a worker says from its job and the call's number."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Answer = lambda job, number: answered()

    answered = staticmethod(answered)

    def worker(self, job: dict[str, Any], python: str | None = None) -> "FakeWorker":
        return FakeWorker(self, {**job, "python": python})


class FakeWorker:
    def __init__(self, bench: Bench, job: dict[str, Any]):
        self.bench, self.job, self.calls = bench, job, 0

    def __enter__(self) -> "FakeWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.calls = -1

    def ask(self, watch: Any, seconds: float | None = None) -> dict[str, Any]:
        watch.stop("The same command goes on.")
        assert self.calls >= 0, "asked after its end"
        self.bench.asked.append(self.job)
        self.calls += 1
        return self.bench.answer(self.job, self.calls)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    for module in ("memory", "long", "needles"):
        monkeypatch.setattr(f"titans_seq.bench.{module}.Worker", bench.worker)
    return bench


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Script]:
    """Import a script as if it were started with these options."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv(DATA, os.environ.get(DATA, str(tmp_path)))

    def started(name: str, *options: Any) -> ModuleType:
        folders = ("--work", tmp_path / "work", "--out", tmp_path / "out", "--threads", 1)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, (*folders, *options))])
        return importlib.import_module(name)

    yield started
    for file in FOLDER.glob("*.py"):
        sys.modules.pop(file.stem, None)
