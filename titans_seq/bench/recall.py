"""Recall and state tracking by small models: associative recall, a needle in bases, copying, parity, S5.

All are trained alike: the same data in the same order, the same optimiser, the better of two rates.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from titans_seq.bench.genome import read_genome, stretches
from titans_seq.bench.models import CHUNK, KNOWN, MODELS, SIZE, WINDOW, models
from titans_seq.bench.results import Results, markdown, opened
from titans_seq.bench.synthetic import MARKER, associative_recall, copying, needle, parity, s5
from titans_seq.bench.trial import QUADRATIC, SEEDS, Draw, Draws, Score, Task, interval, measure, settings, values
from titans_seq.errors import UsageError
from titans_seq.files import write_text
from titans_seq.signals import watching
from titans_seq.training.config import Training

PAIRS, KEYS, VALUES = 8, 16, 16  # of associative recall
SYMBOLS = 16  # of copying
KEY, VALUE = 3, 2  # bases of the needle's
QUESTIONS = 8  # in a training sequence of the needle; with one, memories learned nothing in 400 steps
# of the memories beside the needle: marker and key are 11 bases; with 4 nothing was learned in 300 steps
NEEDLE_CONV = 16
FAR = {256: 256, 1024: 128, 4096: 32, 16_384: 16, 65_536: 8}  # sequences by length of the needle
NEEDLES = ("needle", "needle_genome")
TASKS = ("mqar", "needle", "copying", "parity", "s5")
CHANCE = {
    "mqar": 1 / VALUES,
    "needle": 4.0**-VALUE,
    "needle_genome": 4.0**-VALUE,
    "copying": 1 / SYMBOLS,
    "parity": 1 / 2,
    "s5": 1 / 60,  # as many even as odd permutations; which of them is no secret
}


class Plan(NamedTuple):
    """How much is measured."""

    tasks: tuple[str, ...] = TASKS
    models: tuple[str, ...] = tuple(MODELS)
    seeds: tuple[int, ...] = SEEDS
    steps: int | None = None  # of every task; its own if not given
    threads: int = 1
    longest: int = max(FAR)  # tokens of the needle's longest test


def _alike(
    draw: Draw, vocabulary: int, classes: int, length: int, training: Training, tests: Mapping[int, int]
) -> Task:
    """A task whose sequences are drawn alike in training and test."""
    return Task(Draws(draw, draw, draw), vocabulary, classes, length, training, tests)


def _needle(fasta: str | None, training: Training, longest: int) -> Task:
    """The needle in random bases, or in those of a genome, whose test part is another than that of training."""
    grounds: list[Any] = [None, None, None]
    tests = {length: count for length, count in FAR.items() if length <= longest}
    if fasta is not None:
        genome = read_genome(fasta, least=1024)
        grounds = [partial(stretches, codes=codes) for codes in genome]
        tests = {length: count for length, count in tests.items() if length < len(genome.test)}
    train, *others = (partial(needle, key=KEY, value=VALUE, background=ground) for ground in grounds)
    draws = Draws(partial(train, questions=QUESTIONS), *others)
    source = "" if fasta is None else Path(fasta).name
    return Task(draws, 4, 4, length=256, training=training, tests=tests, conv=NEEDLE_CONV, source=source)


def tasks(plan: Plan, fasta: str | None) -> dict[str, Task]:
    """The tasks of a plan by name; the needle in a genome needs a FASTA.

    Raises:
        UsageError: if one is not known.
    """

    def training(steps: int, batch_size: int = 32) -> Training:
        return Training(steps=plan.steps or steps, batch_size=batch_size)

    recall = partial(associative_recall, pairs=PAIRS, keys=KEYS, values=VALUES)
    symbols = KEYS + VALUES
    known = {
        "mqar": _alike(recall, symbols, symbols, 64, training(400), {64: 512}),
        "needle": _needle(None, training(300, 16), plan.longest),
        "copying": _alike(partial(copying, symbols=SYMBOLS), SYMBOLS + 1, SYMBOLS, 64, training(200), {64: 512}),
        "parity": _alike(parity, 2, 2, 32, training(200), {32: 512, 256: 64}),
        "s5": _alike(partial(s5, swaps=True), 120, 120, 16, training(200), {16: 1024, 128: 128}),
    }
    if fasta is not None:
        known["needle_genome"] = _needle(fasta, training(300, 16), plan.longest)
    if strange := [name for name in plan.tasks if name not in known]:
        hint = " Give --fasta." if strange[0] in NEEDLES else ""
        raise UsageError(f"--tasks {strange[0]} is not one of {', '.join(known)}.{hint}")
    return {name: known[name] for name in plan.tasks}


def accuracy(task: str, found: dict[str, Any]) -> tuple[int, int]:
    """Right answers and questions of a cell's `Score`: all bases of a value make one."""
    score = Score(**found)
    return (score.whole, score.sequences) if task in NEEDLES else (score.hits, score.asked)


def _spread(values: Sequence[float]) -> str:
    """Mean, least and most, in percent."""
    return f"{mean(values):.0%} ({min(values):.0%} to {max(values):.0%})" if values else ""


def by_length(cells: Sequence[dict[str, Any]], task: str, model: str) -> dict[int, list[tuple[int, int]]]:
    """Right answers and questions of every seed, by the length of the test."""
    return values(cells, task, model, partial(accuracy, task))


def _lengths_table(cells: Sequence[dict[str, Any]], task: str) -> str:
    """Accuracy of a task by model and length."""
    found = {model: by_length(cells, task, model) for model in _models(cells)}
    lengths = sorted({n for mine in found.values() for n in mine})
    lines = [
        [model, *(_spread([hits / asked for hits, asked in mine.get(n, [])]) for n in lengths)]
        for model, mine in found.items()
        if mine
    ]
    return markdown(["tokens", *(f"{n:,}" for n in lengths)], lines)


def _models(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Models that were measured, in the order of the table."""
    return [model for model in KNOWN if any(cell["model"] == model for cell in cells)]


def report(results: Results) -> str:
    """All tables as Markdown."""
    cells, facts = list(results.cells.values()), results.about["settings"]["tasks"]
    asked = [task for task in CHANCE if any(cell["task"] == task for cell in cells)]
    lines = [
        [
            model,
            *(
                _spread([h / n for h, n in by_length(cells, task, model).get(facts[task]["length"], [])])
                for task in asked
            ),
        ]
        for model in _models(cells)
    ]
    lines += [["chance", *(f"{CHANCE[task]:.1%}" for task in asked)]]
    rates = [
        [
            model,
            *(", ".join(f"{c['rate']:g}" for c in cells if (c["task"], c["model"]) == (task, model)) for task in asked),
        ]
        for model in _models(cells)
    ]
    parts = ["# Recall and state tracking", results.headline(), about(facts, asked)]
    parts += [
        "## Accuracy at the length of training",
        f"Mean (least to most) over the seeds {', '.join(map(str, sorted({c['seed'] for c in cells})))}.",
        markdown(["", *asked], lines),
    ]
    for task in asked:
        if len(facts[task]["tests"]) > 1:
            parts += [f"## {task} by length, trained at {facts[task]['length']:,}", _lengths_table(cells, task)]
    parts += ["## Learning rates, as the first seed's validation chose them", markdown(["", *asked], rates)]
    return "\n\n".join(parts) + "\n"


def about(facts: dict[str, Any], asked: Sequence[str]) -> str:
    """What was measured, in words."""
    steps = ", ".join(f"{task} {facts[task]['steps']} of {facts[task]['batch_size']} sequences" for task in asked)
    return (
        f"{SIZE['depth']} blocks of width {SIZE['width']}, {SIZE['heads']} heads, chunks of {CHUNK}; segments and "
        f"windows of {WINDOW} tokens; AdamW, cosine, warm-up, clipped; steps: {steps}.\n\n"
        f"- mqar: {PAIRS} pairs of {KEYS} keys and {VALUES} values, each key asked for once.\n"
        f"- needle: a marker of {len(MARKER)} bases, a key of {KEY} and a value of {VALUE}, right if all bases of the "
        f"value are; trained with {QUESTIONS} questions a sequence and tested with one. Memories have convolutions "
        f"over {NEEDLE_CONV} bases here, else over 4. Attention to everything is tested up to {QUADRATIC:,} tokens.\n"
        "- copying: half of the tokens, once more.\n"
        "- parity: of random bits, at each. s5: the product of exchanges of two of five things, at each."
    )


def draw(results: Results) -> None:
    """Draw the needle's accuracy by length, the sequences of all seeds together."""
    from titans_seq.report.plots.benchmarks import Chart, Share, accuracy_plot

    cells, facts = list(results.cells.values()), results.about["settings"]["tasks"]
    charts = []
    for task, title in (("needle", "needle in random bases"), ("needle_genome", "needle in a genome")):
        lines = {}
        for model in _models(cells):
            found = by_length(cells, task, model)
            totals = {n: (sum(h for h, _ in seeds), sum(a for _, a in seeds)) for n, seeds in found.items()}
            lines[model] = [Share(n, h / asked, *interval(h, asked)) for n, (h, asked) in totals.items()]
        if lines := {model: points for model, points in lines.items() if points}:
            charts.append(Chart(title, lines, CHANCE[task], facts[task]["length"]))
    if charts:
        accuracy_plot(charts, results.beside(".png"))


def bench_recall(out: Path, plan: Plan, *, fasta: str | None = None, again: bool = False) -> tuple[str, dict[str, Any]]:
    """Train and test what ``out`` does not have yet; returns the tables and the facts.

    Args:
        out: folder of ``recall.json``, ``.md`` and ``.png``.
        plan: how much is measured.
        fasta: genome for the needle's background; then ``needle_genome`` is a task.
        again: measure all of it anew.

    Raises:
        UsageError: if ``out`` holds what was measured otherwise, or a task or model is not known.
        InputError: if the genome is too short.
    """
    asked = tasks(plan, fasta)
    models(plan.models)
    every = tasks(plan._replace(tasks=TASKS), None)
    common = settings({**every, "needle_genome": every["needle"]}, plan.threads)
    with opened(out, "recall", common, {}, again) as results, watching() as watch:
        measure(results, asked, lambda task: models(plan.models, task.conv), plan.seeds, watch)
        facts = results.write()
        text = report(results)
        write_text(results.beside(".md"), text)
        draw(results)
    return text, facts
