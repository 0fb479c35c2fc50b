"""A worker that measures nothing and answers at once, so that what is done with answers can be tested."""

from collections.abc import Callable
from typing import Any

import pytest

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
