"""``titans-seq bench recall`` and ``bench ablation``: trials, what a stopped run leaves, and the tables."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from titans_seq.bench import ablation, recall, trial
from titans_seq.bench.genome import read_genome
from titans_seq.bench.models import MODELS, models
from titans_seq.bench.synthetic import NOTHING, copying
from titans_seq.bench.trial import Draws, Model, Task, interval, key_of, score, scored
from titans_seq.errors import InputError, Interrupted, UsageError
from titans_seq.signals import Watch
from titans_seq.training.config import Training

PLAN = recall.Plan(tasks=("copying", "needle"), models=("lmm_linear", "attention"), seeds=(0, 1), steps=2, longest=1024)
COPY = partial(copying, symbols=4)
TINY = Task(Draws(COPY, COPY, COPY), 5, 4, length=16, training=Training(steps=20, batch_size=4), tests={16: 4, 32: 3})


@pytest.fixture(autouse=True)
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process sets its library once; what it would be told the second time is "as set"."""
    monkeypatch.setattr(trial, "use_fastest_exact_arithmetic", lambda: "MKL")


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, tuple[float, ...]]]:
    """The trials that are asked for, answered at once: kind of block, seed, rates."""
    asked: list[tuple[str, int, tuple[float, ...]]] = []

    def answer(config: Any, task: Task, seed: int, rates: Any, watch: Any) -> dict[str, Any]:
        asked.append((config.block.kind, seed, tuple(rates)))
        found = {"nats": 10.0 + seed, "asked": 20, "hits": 10 + seed, "sequences": 10, "whole": 5 + seed}
        return {"parameters": 1, "validation": {}, "rate": rates[-1], "test": {str(n): found for n in task.tests}}

    monkeypatch.setattr(trial, "trial", answer)
    return asked


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "VALIDATED", 256)
    monkeypatch.setattr(recall, "FAR", {256: 2, 1024: 2})
    monkeypatch.setattr(ablation, "TESTS", {256: 2, 512: 1})


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    file = tmp_path / "genome.fa"
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 60_000))
    file.write_text(f">short\nACGT\n>long\n{bases}\n")
    return file


# --- one trial


def test_a_stream_in_blocks_scores_as_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Model(models(["lmm_linear"])["lmm_linear"], 5, 4).eval()
    drawn = COPY(np.random.default_rng(0), 64, 6)
    whole = score(model, drawn)
    tokens, targets = map(torch.from_numpy, drawn)
    logits = model.head(model.backbone(tokens)[0])
    asked = targets != NOTHING
    hit = (logits.argmax(-1) == targets) & asked
    assert whole.asked == 6 * 32 and whole.sequences == 6 and whole.hits == int(hit.sum())
    assert whole.whole == int((hit | ~asked).all(1).sum())
    nats = torch.nn.functional.cross_entropy(logits[asked], targets[asked], reduction="sum")
    assert whole.nats == pytest.approx(nats.item(), rel=1e-5)
    monkeypatch.setattr("titans_seq.stream.walk.BLOCK", 10)
    parts = score(model, drawn)
    assert parts[1:] == whole[1:] and parts.nats == pytest.approx(whole.nats, rel=1e-5)


def test_a_test_asks_for_all_its_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SIDE_BY_SIDE", 32)
    model = Model(models(["sliding"])["sliding"], 5, 4).eval()
    found = scored(model, COPY, [0, 1], 16, 5)
    assert found.sequences == 5 and found.asked == 40 and isinstance(found.hits, int)


def test_the_better_rate_is_kept_and_a_trial_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "VALIDATED", 256)
    config = models(["lmm_linear"])["lmm_linear"]
    found = trial.trial(config, TINY, 0, (1e-2, 1e-9), Watch())
    assert found["rate"] == 1e-2 and found["validation"]["0.01"] < found["validation"]["1e-09"]
    assert set(found["test"]) == {"16", "32"} and found["test"]["32"]["sequences"] == 3
    assert trial.trial(config, TINY, 0, (1e-2,), Watch())["test"] == found["test"]


def test_a_rate_that_ends_in_no_number_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "VALIDATED", 256)
    found = trial.trial(models(["sliding"])["sliding"], TINY, 0, (1e30, 1e-3), Watch())
    assert found["rate"] == 1e-3 and found["validation"]["1e+30"] == math.inf


def test_attention_to_all_is_not_asked_for_what_takes_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "VALIDATED", 256)
    monkeypatch.setattr(trial, "QUADRATIC", 16)
    both = models(["attention", "sliding"])
    lengths = {name: set(trial.trial(both[name], TINY, 0, (1e-3,), Watch())["test"]) for name in both}
    assert lengths == {"attention": {"16"}, "sliding": {"16", "32"}}


def test_a_signal_ends_a_trial() -> None:
    watch = Watch()
    watch.caught = 15
    with pytest.raises(Interrupted):
        trial.trial(models(["sliding"])["sliding"], TINY, 0, (1e-3,), watch)


def test_an_interval_is_wilsons() -> None:
    assert interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-3) and interval(10, 10)[1] == pytest.approx(1)
    low, high = interval(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-3)


def test_models_are_of_one_size() -> None:
    every = models(list(MODELS), conv=8)
    assert len({(c.width, c.depth, c.heads, c.memory.chunk_size, c.memory.conv) for c in every.values()}) == 1
    with pytest.raises(UsageError, match="--models lstm is not one of lmm, lmm_linear, mac"):
        models(["lmm", "lstm"])


# --- many


def test_what_is_there_is_not_repeated(trials: list[Any], tmp_path: Path) -> None:
    text, facts = recall.bench_recall(tmp_path, PLAN)
    assert len(trials) == 8 and len(facts["cells"]) == 8
    assert {len(rates) for _, seed, rates in trials if seed == 0} == {2}
    assert {rates for _, seed, rates in trials if seed == 1} == {(trial.RATES[-1],)}, "the first seed chose"
    assert "| lmm_linear |" in text and "52% (50% to 55%)" in text
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["recall.json", "recall.md", "recall.png"]
    trials.clear()
    file = tmp_path / "recall.json"
    half = json.loads(file.read_text())
    del half["cells"][key_of("needle", "attention", 1)]
    half["cells"][key_of("copying", "lmm_linear", 0)]["backbone"]["width"] = 8  # of a release with another model
    half["cells"][key_of("needle", "attention", 0)]["backbone"]["colour"] = "blue"
    del half["cells"][key_of("copying", "attention", 0)]["backbone"]["ffn"]  # of one before there was a choice
    file.write_text(json.dumps(half))
    again, _ = recall.bench_recall(tmp_path, PLAN)
    assert [(kind, seed) for kind, seed, _ in trials] == [("lmm", 0), ("attention", 0), ("attention", 1)]
    assert again == text


def test_trials_of_other_settings_are_not_put_beside(trials: list[Any], tmp_path: Path) -> None:
    recall.bench_recall(tmp_path, PLAN)
    with pytest.raises(UsageError, match=r"tasks.copying.steps"):
        recall.bench_recall(tmp_path, PLAN._replace(steps=3))
    with pytest.raises(UsageError, match=r"--tasks needle_genome is not one of .* Give --fasta"):
        recall.bench_recall(tmp_path, PLAN._replace(tasks=("needle_genome",)))
    with pytest.raises(UsageError, match="--models lstm"):
        recall.bench_recall(tmp_path, PLAN._replace(models=("lstm",)))


def test_the_parts_of_a_genome_do_not_overlap(genome: Path, tmp_path: Path) -> None:
    parts = read_genome(genome, 1000)
    assert list(map(len, parts)) == [51_690, 1320, 6990]
    with pytest.raises(InputError, match=r"60,000 bases, of which 1,320 are held out .* 2,000 are needed"):
        read_genome(genome, 2000)


def test_recall_by_the_command_line(small: None, genome: Path, titans: Any, tmp_path: Path) -> None:
    given = ["bench", "recall", "--out", tmp_path, "--steps", "2", "--seeds", "0", "--models", "lmm_linear"]
    text = titans(*given, "--fasta", genome).stdout
    assert "## needle_genome by length, trained at 256" in text
    facts = json.loads(titans(*given, "--json").stdout, parse_constant=pytest.fail)
    assert len(facts["cells"]) == 6 and facts["cells"][key_of("mqar", "lmm_linear", 0)]["test"]["64"]["asked"] == 4096
    assert "whole numbers" in titans("bench", "recall", "--seeds", "a", code=2).stderr


def test_ablation_by_the_command_line(small: None, genome: Path, titans: Any, tmp_path: Path) -> None:
    given = ["bench", "ablation", "--out", tmp_path, "--steps", "2", "--seeds", "0,1"]
    text = titans(*given, "--fasta", genome, "--models", "LMM,without convolution").stdout
    assert "without convolution" in text and "| LMM" in text and "2 steps of 8 x 256 bases of genome.fa" in text
    assert sorted(entry.name for entry in tmp_path.glob("a*")) == ["ablation.json", "ablation.md"]
    assert "--models all is not one of LMM, + attention (MAC), " in titans(*given, "--models", "all", code=2).stderr


def test_the_ablation_repeats_the_paper(trials: list[Any], genome: Path, tmp_path: Path) -> None:
    plan = ablation.Plan(seeds=(0,))
    text, facts = ablation.bench_ablation(tmp_path, plan, fasta=str(genome))
    backbones = {cell["model"]: cell["backbone"] for cell in facts["cells"].values()}
    full = backbones.pop(ablation.FULL)
    assert set(backbones) == set(ablation.ROWS) - {ablation.FULL}
    assert backbones["without convolution"]["memory"] == {**full["memory"], "conv": 1}
    assert backbones["without momentum"]["memory"]["learning"]["kind"] == "gradient_descent"
    assert backbones["without weight decay"]["memory"]["retention"] == {"kind": "none"}
    assert backbones["linear memory"]["memory"]["structure"]["kind"] == "matrix"
    assert backbones["without persistent memory"]["block"] == {**full["block"], "persistent": 0}
    kinds = {name: backbone["block"]["kind"] for name, backbone in backbones.items() if name.startswith("+")}
    assert kinds == {f"+ attention ({name.upper()})": name for name in ("mac", "mag", "mal")}
    assert f"{10 / 20 / math.log(2):.4f}" in text and "+1.48" in text


def test_the_sample_is_long_enough() -> None:
    assert set(ablation.task(ablation.Plan(), ablation.SAMPLE).tests) == set(ablation.TESTS)
