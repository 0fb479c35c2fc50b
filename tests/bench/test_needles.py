"""``titans-seq bench needles``: a run from end to end, and what a stopped, longer or damaged one measures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from titans_seq.bench import needles, trial
from titans_seq.bench.needles import Plan, bench_needles, chance, key_of_test
from titans_seq.bench.synthetic import marked
from titans_seq.bench.trial import key_of
from titans_seq.errors import UsageError

PLAN = Plan(("single_dna", "two_hop_text"), ("mac", "attention"), seeds=(0, 1), steps=2, longest=65_536)
TRIALS = 8


@pytest.fixture(autouse=True)
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process sets its library once; what it would be told the second time is "as set"."""
    monkeypatch.setattr(trial, "use_fastest_exact_arithmetic", lambda: "MKL")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch, bench: Any) -> list[tuple[str, int, tuple[float, ...]]]:
    """The trainings that are asked for, done at once: kind of block, seed, rates; a test finds half of the needles."""
    asked: list[tuple[str, int, tuple[float, ...]]] = []

    def answer(config: Any, task: Any, seed: int, rates: Any, watch: Any) -> tuple[nn.Module, dict[str, Any]]:
        asked.append((config.block.kind, seed, tuple(rates)))
        return nn.Linear(1, 1), {"parameters": 2, "validation": {}, "rate": rates[-1]}

    def told(job: dict[str, Any], number: int) -> dict[str, Any]:
        count = job["sequences"]
        return {**bench.answered(2.0 * count), "nats": 1.0, "sequences": count, "whole": count // 2}

    monkeypatch.setattr(needles, "trained", answer)
    bench.answer = told
    return asked


def lengths(bench: Any) -> list[int]:
    return [job["tokens"] for job in bench.asked]


def test_a_run_from_end_to_end(monkeypatch: pytest.MonkeyPatch, titans: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(needles, "TESTS", {1024: 5})
    monkeypatch.setattr(trial, "VALIDATED", 1024)
    given = ["bench", "needles", "--out", tmp_path, "--steps", "2", "--seeds", "0"]
    given += ["--tasks", "two_hop_text", "--models", "sliding"]
    text = titans(*given).stdout
    assert "## two_hop_text, right answers; by chance 25.00%" in text
    facts = json.loads(titans(*given, "--json").stdout, parse_constant=pytest.fail)
    key = key_of("two_hop_text", "sliding", 0)
    assert list(facts["cells"]) == [key, key_of_test(key, 1024)]
    cell = facts["cells"][key_of_test(key, 1024)]
    assert (cell["sequences"], cell["asked"]) == (5, 15) and cell["seconds"] > 0 and cell["peak"] > cell["growth"] >= 0
    files = {entry.name for entry in tmp_path.iterdir()}
    assert files == {"needles", "needles.json", "needles.md", "needles.png", "needles_costs.png"}


def test_what_is_there_is_not_repeated(fits: list[Any], bench: Any, tmp_path: Path) -> None:
    text, facts = bench_needles(tmp_path, PLAN._replace(longest=1024))
    assert len(fits) == len(bench.asked) == TRIALS and len(facts["cells"]) == 2 * TRIALS
    assert {rates for _, seed, rates in fits if seed == 1} == {(trial.RATES[-1],)}, "the first seed chose"
    assert "| mac       | 50% (41% to 59%) |" in text, "128 sequences of two seeds"
    bench_needles(tmp_path, PLAN._replace(longest=4096))
    assert len(fits) == TRIALS, "longer tests are of the models that are there"
    assert lengths(bench) == [1024] * TRIALS + [4096] * TRIALS
    again, _ = bench_needles(tmp_path, PLAN._replace(longest=4096))
    assert len(bench.asked) == 2 * TRIALS and "4,096" in again
    with pytest.raises(UsageError, match=r"tasks.single_dna.steps"):
        bench_needles(tmp_path, PLAN._replace(steps=3))


def test_a_model_of_one_fact_is_tested_on_several_as_it_is(fits: list[Any], bench: Any, tmp_path: Path) -> None:
    """Their training is the same, draw by draw; that of two hops and of text is not."""
    draws = needles.tasks(["single_dna", "several_dna"], 2)
    pairs = [task.draws.train(np.random.default_rng(3), 1024, 4) for task in draws.values()]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*pairs, strict=True))
    plan = PLAN._replace(tasks=("single_dna",), models=("mac",), seeds=(0,), longest=1024)
    bench_needles(tmp_path, plan)
    _, facts = bench_needles(tmp_path, plan._replace(tasks=("several_dna",)))
    single, several = (facts["cells"][key_of(task, "mac", 0)] for task in ("single_dna", "several_dna"))
    assert several == single | {"task": "several_dna"}
    assert len(fits) == 1 and [job["task"] for job in bench.asked] == ["single_dna", "several_dna"]
    bench_needles(tmp_path, plan._replace(tasks=("several_text", "two_hop_dna")))
    assert len(fits) == 3


def test_beyond_a_test_that_failed_none_is_tried_until_there_is_more_time(
    fits: list[Any], bench: Any, tmp_path: Path
) -> None:
    one = PLAN._replace(tasks=("single_dna",), models=("attention",), seeds=(0,), budget=10.0)
    told = bench.answer
    bench.answer = lambda job, number: {"failed": "more than 10 s"} if job["tokens"] > 4096 else told(job, number)
    text, _ = bench_needles(tmp_path, one)
    assert lengths(bench) == [1024, 4096, 16_384] and "more than 10 s" in text
    bench_needles(tmp_path, one)
    assert len(bench.asked) == 3
    bench.answer = told
    text, _ = bench_needles(tmp_path, one._replace(budget=20.0))
    assert lengths(bench)[3:] == [16_384, 65_536] and len(fits) == 1 and "more than" not in text


@pytest.mark.parametrize("harm", ["lost", "changed"])
def test_tests_are_of_the_weights_that_are_there(harm: str, fits: list[Any], bench: Any, tmp_path: Path) -> None:
    one = PLAN._replace(tasks=("single_dna",), models=("mac",), seeds=(0,), longest=1024)
    bench_needles(tmp_path, one)
    (file,) = (tmp_path / "needles").iterdir()
    file.unlink() if harm == "lost" else file.write_bytes(b"other")
    bench_needles(tmp_path, one)
    assert len(fits) == 1, "without a test to make, nothing is asked of them"
    bench_needles(tmp_path, one._replace(longest=4096))
    assert len(fits) == 2 and lengths(bench) == [1024, 1024, 4096], "a test of other weights does not stand beside"


def test_what_is_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tasks hay is not one of single_dna, single_text, several_dna"):
        bench_needles(tmp_path, PLAN._replace(tasks=("hay",)))
    with pytest.raises(UsageError, match="--models lstm"):
        bench_needles(tmp_path, PLAN._replace(models=("lstm",)))


def test_chance() -> None:
    assert chance("single_dna") == 1 / 64 and chance("single_text") == 26.0**-3 and chance("several_dna") == 1 / 4


def test_training_hides_one_fact_in_short_rows_and_some_in_long_ones() -> None:
    train, rng = needles.tasks(["single_dna"], 2)["single_dna"].draws.train, np.random.default_rng(0)

    def markers(length: int) -> set[int]:
        drawn = [train(rng, length, 2).tokens for _ in range(20)]
        return {int(count) for tokens in drawn for count in marked(tokens).sum(1)}

    assert markers(256) == {1 + 8}, "a fact, and the questions for it"
    assert markers(1024) == {1 + 4, 2 + 4, 4 + 4}


@pytest.mark.parametrize("name", needles.TASKS)
def test_every_task_is_trained_on_whatever_is_drawn(name: str) -> None:
    train, rng = needles.tasks([name], 2)[name].draws.train, np.random.default_rng(0)
    for length in (256, 1024):
        asked = {int((drawn.targets >= 0).sum()) for drawn in (train(rng, length, 2) for _ in range(20))}
        assert len(asked) == 1 + (2 if length == 1024 and name.startswith("two_hop") else 0), "of hops a chain once"
