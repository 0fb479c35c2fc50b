"""Titans' ablation (Titans, table 5) on a small language model of nucleotides: what each part of a memory is worth."""

from collections.abc import Sequence
from functools import partial
from math import log
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from titans_seq.bench.genome import TRAINED, VALIDATED, next_base, read_genome
from titans_seq.bench.models import CHUNK, MODELS, SIZE, WINDOW, Choices, models
from titans_seq.bench.results import Results, markdown, opened
from titans_seq.bench.trial import SEEDS, Draws, Task, measure, settings, values
from titans_seq.files import write_text
from titans_seq.signals import watching
from titans_seq.training.config import Training

TASK = "next base"
SAMPLE = "sample:ecoli_region/region.fa.gz"
LENGTH, LONG = 256, 16_384  # bases of a sequence in training, and of the longer ones of the test
TESTS = {LENGTH: 512, LONG: 8}  # 131,072 bases each


class Row(NamedTuple):
    """A model of the ablation, beside the paper's perplexity (Titans, table 5, language modelling)."""

    choices: Choices
    perplexity: float


def _lmm(**memory: Any) -> Choices:
    return {"block": {"kind": "lmm"}, "memory": memory}


FULL = "LMM"
ROWS: dict[str, Row] = {
    FULL: Row(MODELS["lmm"], 27.01),
    "+ attention (MAC)": Row(MODELS["mac"], 26.67),
    "+ attention (MAG)": Row(MODELS["mag"], 25.70),
    "+ attention (MAL)": Row(MODELS["mal"], 25.91),
    "linear memory": Row(MODELS["lmm_linear"], 28.49),
    "without convolution": Row(_lmm(conv=1), 28.73),
    "without momentum": Row(_lmm(learning={"kind": "gradient_descent"}), 28.98),
    "without weight decay": Row(_lmm(retention={"kind": "none"}), 29.04),
    "without persistent memory": Row({"block": {"kind": "lmm", "persistent": 0}}, 27.63),
}


class Plan(NamedTuple):
    """How much is measured."""

    models: tuple[str, ...] | None = None  # names of `ROWS`; all if not given
    seeds: tuple[int, ...] = SEEDS
    steps: int = 300
    threads: int = 1


def task(plan: Plan, fasta: str) -> Task:
    """The next base of random stretches of a genome's parts."""
    genome = read_genome(fasta, least=2 * LENGTH)
    tests = {length: count for length, count in TESTS.items() if length < len(genome.test)}
    draws = Draws(*(partial(next_base, codes=codes) for codes in genome))
    training = Training(steps=plan.steps, batch_size=8)
    return Task(draws, 5, 4, length=LENGTH, training=training, tests=tests, source=Path(fasta).name)


def bits(found: dict[str, Any]) -> float:
    """Bits a nucleotide of a cell's `Score`."""
    return found["nats"] / found["asked"] / log(2)


def _spread(found: Sequence[float]) -> str:
    """Mean, least and most."""
    return f"{mean(found):.4f} ({min(found):.4f} to {max(found):.4f})" if found else ""


def report(results: Results) -> str:
    """The table as Markdown, in the order of the bits at the length of training."""
    cells = list(results.cells.values())
    found = {name: values(cells, TASK, name, bits) for name in ROWS}
    found = {name: mine for name, mine in found.items() if mine}
    base = mean(found[FULL][LENGTH]) if FULL in found else float("nan")
    order = sorted(found, key=lambda name: mean(found[name][LENGTH]))
    lengths = sorted({n for mine in found.values() for n in mine})
    lines = [
        [
            name,
            *(_spread(found[name][n]) for n in lengths),
            f"{mean(found[name][LENGTH]) - base:+.4f}",
            f"{ROWS[name].perplexity - ROWS[FULL].perplexity:+.2f}",
            f"{sorted(found, key=lambda other: ROWS[other].perplexity).index(name) + 1}",
        ]
        for name in order
    ]
    header = ["", *(f"bits a nucleotide, {n:,} nt" for n in lengths)]
    header += [f"minus {FULL}", f"paper: perplexity minus {FULL}", "paper's place"]
    parts = ["# Titans' ablation on nucleotides", results.headline(), about(results), markdown(header, lines)]
    return "\n\n".join(parts) + "\n"


def about(results: Results) -> str:
    """What was measured, in words."""
    facts = results.about["settings"]["tasks"][TASK]
    sources = sorted({cell["source"] for cell in results.cells.values()})
    return (
        f"{SIZE['depth']} blocks of width {SIZE['width']}, {SIZE['heads']} heads, chunks of {CHUNK}, two-layer memory; "
        f"segments and windows of {WINDOW}; {facts['steps']} steps of {facts['batch_size']} x {LENGTH} bases of "
        f"{', '.join(sources)}: trained on the first {TRAINED:.2%}, rate chosen by the part up to {VALIDATED:.2%}, "
        f"tested on random stretches of the rest. Mean (least to most) over the seeds, best first. The paper's "
        "numbers are perplexities of a 400M model on text."
    )


def bench_ablation(out: Path, plan: Plan, *, fasta: str = SAMPLE, again: bool = False) -> tuple[str, dict[str, Any]]:
    """Train and test what ``out`` does not have yet; returns the table and the facts.

    Args:
        out: folder of ``ablation.json`` and ``.md``.
        plan: how much is measured.
        fasta: genome; its longest record is read.
        again: measure all of it anew.

    Raises:
        UsageError: if ``out`` holds what was measured otherwise, or a model is not known.
        InputError: if the genome is too short.
    """
    asked = {TASK: task(plan, fasta)}
    chosen = models(plan.models or tuple(ROWS), choices={name: row.choices for name, row in ROWS.items()})
    with opened(out, "ablation", settings(asked, plan.threads), {}, again) as results, watching() as watch:
        measure(results, asked, lambda _: chosen, plan.seeds, watch)
        facts = results.write()
        text = report(results)
        write_text(results.beside(".md"), text)
    return text, facts
