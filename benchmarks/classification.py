"""What benchmarks of classification share: tasks by starts by seeds, each a row, beside k-mer logistic regression."""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import Report, Row, Rows, measured_when, parsed, parser_of, results, rows_options, train

from titans_seq.backbone import BackboneConfig
from titans_seq.bench.results import markdown
from titans_seq.checkpoint import find, load_config, shipped
from titans_seq.evaluation import evaluate
from titans_seq.files import sha256
from titans_seq.recipe import build, load_backbone_config
from titans_seq.resources import names

KMERS = "kmer_logistic_regression"
SCRATCH, PRETRAINED = STARTS = ("scratch", "pretrained")
METRICS = ("mcc", "accuracy", "auroc")


class Task(NamedTuple):
    """One question: its files, and how it is trained."""

    name: str
    train: str
    test: str
    steps: int
    validation: str | None = None  # a tenth of the training rows, by seed, where there is none
    leak_free: str | None = None  # the test rows without a leak, which are measured alone too
    batch_size: int = 64
    learning_rate: float = 3e-3

    def recipe(self, start: "Start", seed: int, threads: int) -> dict[str, Any]:
        """The job: both strands are learned, as both are read at prediction."""
        return {
            "data": {
                "kind": "sequences",
                "train": self.train,
                "validation": self.validation,
                "reverse_complement": True,
                "on_conflict": "warn",
            },
            "task": {"kind": "classification"},
            "backbone": start.backbone,
            "start_from": start.source,
            "training": {
                "steps": self.steps,
                "batch_size": self.batch_size,
                "learning_rate": self.learning_rate,
                "precision": "bf16",
                "validate_every": max(1, self.steps // 4),  # a dev table of promoters takes as long as 90 steps
            },
            "seed": seed,
            "threads": threads,
        }


class Start(NamedTuple):
    """Where training starts from: the backbone's sizes, and its weights if it is trained."""

    name: str  # of `STARTS`
    backbone: dict[str, Any]
    source: str | None = None

    @property
    def weights(self) -> dict[str, str]:
        """What says which weights these are."""
        if self.source is None:
            return {}
        return {"start_from": Path(self.source).name, "weights": sha256(find(self.source) / "model.safetensors")[:16]}


def starts_of(backbone: str) -> list[Start]:
    """From scratch, and from a trained backbone of the same sizes; a config gives the first alone."""
    if Path(backbone).suffix == ".yaml" or (backbone in names("configs") and backbone not in shipped()):
        return [Start(SCRATCH, load_backbone_config(backbone))]
    _, config, _ = load_config(backbone)
    sizes = _dumped(config)
    source = str(Path(backbone).resolve()) if Path(backbone).exists() else backbone
    return [Start(SCRATCH, sizes), Start(PRETRAINED, sizes, source)]


def _dumped(config: BackboneConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"embedding"})


def options_of(about: str, tasks: Sequence[str]) -> argparse.Namespace:
    """The options of a benchmark of classification."""
    parser = parser_of(about)
    parser.add_argument("--tasks", default=",".join(tasks), help="some of them, between commas")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--starts", default=",".join(STARTS), help="one of them, or both")
    parser.add_argument(
        "--backbone", default="dna_small", help="shipped name, run or folder; a config: from scratch alone"
    )
    parser.add_argument("--steps", type=int, help="of every task, in place of its own")
    parser.add_argument("--rates", help="learning rates between commas: only try these on the validation tables")
    rows_options(parser)
    options = parsed(parser)
    options.tasks, options.seeds = options.tasks.split(","), [int(seed) for seed in options.seeds.split(",")]
    options.starts = options.starts.split(",")
    options.rates = [float(rate) for rate in options.rates.split(",")] if options.rates else []
    if unknown := set(options.tasks) - set(tasks):
        parser.error(f"--tasks: {', '.join(sorted(unknown))}: there are {', '.join(tasks)}")
    return options


class Job(NamedTuple):
    """One run: a task from a start with a seed."""

    task: Task
    start: Start
    seed: int
    options: argparse.Namespace

    @property
    def name(self) -> str:
        """What its row is called."""
        return f"{self.task.name}, {self.start.name}, seed {self.seed}"

    def whole(self) -> dict[str, Any]:
        """Its recipe with every default, as the run folder keeps it."""
        recipe = build(self.task.recipe(self.start, self.seed, self.options.threads))
        return recipe.model_dump(mode="json", exclude={"backbone": {"embedding"}})

    def settings(self) -> dict[str, Any]:
        """What a row of its depends on, beside the data and the seed, without names of folders."""
        shown = {key: part for key, part in self.whole().items() if key in ("task", "backbone", "training")}
        return {**shown, "reverse_complement": True, "both_strands": True, **self.start.weights}

    def run(self) -> tuple[Path, Row]:
        """Train it, or take it up where it was stopped: the run folder, and facts for its row."""
        # another recipe is another folder, so that what an earlier one left is never in the way
        digest = hashlib.sha256(repr((self.whole(), self.start.weights)).encode()).hexdigest()[:8]
        run = self.options.work / f"{self.task.name.replace('/', '-')}-{self.start.name}-{self.seed}-{digest}"
        found = train(self.task.recipe(self.start, self.seed, self.options.threads), run)
        facts = {"task": self.task.name, "start": self.start.name, "seed": self.seed}
        return run, {**facts, "seconds": found["seconds"], "validation": found["validation"]}


def measure_all(name: str, options: argparse.Namespace, task_of: Callable[[str], Task], report: Report) -> None:
    """Measure every row of a benchmark that is not there yet, a seed of all tasks before the next.

    With ``--rates`` only try these on the validation tables, as rows of ``NAME_dev``; no test table is read.
    """
    tasks = [task._replace(steps=options.steps or task.steps) for task in map(task_of, options.tasks)]
    starts = [start for start in starts_of(options.backbone) if start.name in options.starts]
    jobs = [Job(task, start, seed, options) for seed in options.seeds for task in tasks for start in starts]
    if options.rates:
        with results(f"{name}_dev", options, _tried) as rows:
            for job in jobs:
                for rate in options.rates:
                    tried = job._replace(task=job.task._replace(learning_rate=rate))
                    key = f"{job.name}, rate {rate:g}, {job.task.steps} steps"
                    rows.row(key, tried.settings(), lambda job=tried: job.run()[1])
        return
    with results(name, options, report) as rows:
        for job in jobs:
            rows.row(job.name, job.settings(), lambda job=job: _measured(rows, job))


def _measured(rows: Rows, job: Job) -> Row:
    """The row of a run; the first of a task fits the k-mers too, which are a row of their own."""
    run, facts = job.run()
    kmers = f"{job.task.name}, k-mers"
    first = kmers not in rows.kept
    found = evaluate(
        str(run),
        job.task.test,
        threads=job.options.threads,
        both_strands=True,
        leak_free=job.task.leak_free,
        baseline=first,
    )
    if first:
        majority = {"majority_class": _scores(found, "majority_class")}
        rows.keep(kmers, {}, {"task": job.task.name, "start": KMERS, **_scores(found, KMERS), **majority})
    return {**facts, **_scores(found, "model")}


def _tried(kept: dict[str, Row]) -> str:
    """Validation scores of the rates that were tried."""
    lines = [
        [key, *(f"{row['validation'][score]:.3f}" for score in ("mcc", "log_loss")), f"{row['seconds']:,.0f}"]
        for key, row in kept.items()
    ]
    head = ("tried", "MCC on validation", "log loss", "seconds")
    return "\n\n".join(["# Tried on the validation tables", measured_when(kept), markdown(head, lines), ""])


def _scores(found: dict[str, Any], who: str) -> dict[str, Any]:
    """Scores with their intervals of 95 %, on all test rows and on those without a leak."""

    def part(measured: dict[str, Any]) -> dict[str, Any]:
        own, intervals = measured[who], measured.get("intervals", {}).get(who, {})
        scores = {name: own[name] for name in METRICS if name in own}
        return {"items": measured["items"], **scores, "intervals": {n: intervals[n] for n in scores if n in intervals}}

    leak_free = {"leak_free": part(found["leak_free"])} if "leak_free" in found else {}
    return {"test": part(found), **leak_free}


# --- tables


def of_start(kept: dict[str, Row], task: str, start: str) -> list[Row]:
    """The rows of a task that began so."""
    return [row for row in kept.values() if (row["task"], row["start"]) == (task, start)]


def mean_of(rows: list[Row], metric: str, part: str = "test") -> float:
    """Mean of a test score over seeds; NaN where there is none."""
    values = [row[part][metric] for row in rows if row.get(part, {}).get(metric) is not None]
    return float(np.mean(values)) if values else float("nan")


def told(value: float, seeds: int = 1) -> str:
    """A score in thousandths, with how many seeds it is the mean of."""
    if np.isnan(value):
        return "not measured"
    return f"{value:.3f}" + (f" ({seeds} seeds)" if seeds > 1 else "")


def with_interval(row: Row, metric: str, part: str = "test") -> str:
    """A score with its interval."""
    if (value := row.get(part, {}).get(metric)) is None:
        return ""
    low, high = row[part]["intervals"].get(metric, (float("nan"), float("nan")))
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
