"""Needles at length: one, one of several, and facts of two hops, in nucleotides and in text, by small models.

Each model is trained on short sequences and reads longer ones as a stream, every test in a process of its own, so that
its time and memory are known. Trials and tests are cells: a run that was stopped goes on, length by length.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.bench.models import KNOWN, SIZE, choices_of, models
from titans_seq.bench.process import Worker, memory_limit
from titans_seq.bench.results import MiB, Results, markdown, opened
from titans_seq.bench.synthetic import NUCLEOTIDES, TEXT, VOCABULARY, Background, Drawn, Script, needle, words
from titans_seq.bench.trial import (
    SEEDS,
    TEST,
    Draws,
    Model,
    Task,
    interval,
    is_there,
    key_of,
    rates_of,
    score,
    settings,
    total,
    trained,
    trials,
)
from titans_seq.errors import UsageError
from titans_seq.files import sha256, whole_file, write_text
from titans_seq.progress import Progress
from titans_seq.signals import Watch, watching
from titans_seq.training.config import Training

KEY = VALUE = 3  # letters; alike, since the value of a first hop is the key of the second
WINDOW = 64  # tokens of a segment, and rows that sliding attention sees: far fewer than stand before a question
CHUNK = 64  # of the memories
CONV = 16  # kernel of the memories' convolutions: marker and key are 11 nucleotides, or 10 characters
FIRST, LENGTH = 256, 1024  # tokens of a sequence in training, in the beginning and in its second half
STEPS, BATCH = 1000, 8
TESTS = {1024: 64, 4096: 64, 16_384: 32, 65_536: 16, 262_144: 4, 1_048_576: 2, 2_097_152: 2}  # sequences by length
ROWS = 2  # sequences that a test reads side by side, of any length, so that memory can be compared
WARM_UP = 256  # tokens


class Kind(NamedTuple):
    """What a test hides, and asks for once at its end."""

    chains: int
    hops: int
    begin: tuple[int, int]  # chains, and questions for them, of a training sequence that is shorter than `LENGTH`

    @property
    def trained(self) -> tuple[int, tuple[int, int]]:
        """All that training depends on: how many chains a longer sequence has is drawn."""
        return self.hops, self.begin


class Ground(NamedTuple):
    """What it is hidden in."""

    script: Script
    background: Background | None


KINDS = {"single": Kind(1, 1, (1, 8)), "several": Kind(4, 1, (1, 8)), "two_hop": Kind(4, 2, (4, 4))}
# Of one that is not: it asks so often for some facts, or chains, their number drawn a batch. To ask again and again
# for one teaches to keep nothing for long; four alone, after short rows of one, make a model forget how to read one
QUESTIONS, MIXED = 4, (1, 2, 4)
GROUNDS = {"dna": Ground(NUCLEOTIDES, None), "text": Ground(TEXT, words)}
TASKS = {f"{kind}_{ground}": (kind, ground) for kind in KINDS for ground in GROUNDS}


class Plan(NamedTuple):
    """How much is measured."""

    tasks: tuple[str, ...] = tuple(TASKS)
    models: tuple[str, ...] = (
        *("lmm", "lmm_linear", "mac", "mag", "mal", "mal_linear"),
        *("yaad", "gated_deltanet", "attention", "sliding"),
    )
    seeds: tuple[int, ...] = SEEDS
    steps: int = STEPS
    threads: int = 1
    longest: int = max(TESTS)  # tokens
    budget: float = 3600.0  # seconds that a test may take; after one that takes more no longer one is tried


def chance(task: str) -> float:
    """Share of right answers without reading; where several values stand in a sequence, of one who names any."""
    kind, ground = TASKS[task]
    letters = len(GROUNDS[ground].script.letters)
    return max(1 / letters**VALUE, 1 / KINDS[kind].chains if KINDS[kind].chains > 1 else 0)


def tasks(names: Sequence[str], steps: int) -> dict[str, Task]:
    """Tasks by name.

    Raises:
        UsageError: if one is not known.
    """
    if strange := [name for name in names if name not in TASKS]:
        raise UsageError(f"--tasks {strange[0]} is not one of {', '.join(TASKS)}.")
    return {name: _task(KINDS[TASKS[name][0]], GROUNDS[TASKS[name][1]], steps) for name in names}


def _task(kind: Kind, ground: Ground, steps: int) -> Task:
    test = partial(needle, key=KEY, value=VALUE, chains=kind.chains, hops=kind.hops, **ground._asdict())

    def train(rng: np.random.Generator, length: int, batch: int) -> Drawn:
        chains, questions = kind.begin
        if length >= LENGTH:
            chains = int(rng.choice(MIXED))
            questions = QUESTIONS if kind.hops == 1 else min(QUESTIONS, chains)  # of hops a chain is asked for once
        return partial(test, chains=chains, questions=questions)(rng, length, batch)

    vocabulary = ground.script.vocabulary
    training = Training(steps=steps, batch_size=BATCH, first_length=FIRST)
    return Task(Draws(train, train, test), vocabulary, vocabulary, LENGTH, training, TESTS, CONV)


# --- in the worker


def stream_call(job: dict[str, Any]) -> Any:
    """What `worker` measures: a trained model that reads all sequences of a test, which are drawn before."""
    from safetensors.torch import load_file

    task = tasks([job["task"]], STEPS)[job["task"]]
    model = Model(BackboneConfig.model_validate(job["backbone"]), task.vocabulary, task.classes).eval()
    model.load_state_dict(load_file(job["weights"]))
    draw, count = task.draws.test, job["sequences"]
    score(model, draw(np.random.default_rng(0), WARM_UP, 1))
    rng = np.random.default_rng([job["seed"], TEST])
    drawn = [draw(rng, job["tokens"], min(ROWS, count - first)) for first in range(0, count, ROWS)]
    return lambda: total([score(model, part) for part in drawn])._asdict()


# --- outside


def key_of_test(key: str, tokens: int) -> str:
    """Name of the cell of a test of a trial."""
    return f"{key}, {tokens:,} tokens"


def weights_of(results: Results, cell: Mapping[str, Any]) -> Path:
    """Where the weights of a trial lie."""
    return results.beside("") / f"{cell['task']}-{cell['model']}-{cell['seed']}.safetensors"


def missing_tests(results: Results, key: str, cell: Mapping[str, Any], plan: Plan) -> list[int]:
    """Lengths that a trial is still to be tested at: all of another model; none beyond one that took too long."""
    lengths = [n for n in TESTS if n <= plan.longest]
    if not is_there(cell, results.cells.get(key)):
        return lengths
    missing = []
    for n in lengths:
        found = results.cells.get(key_of_test(key, n))
        if found is None or found["weights"] != results.cells[key]["weights"]:
            missing.append(n)
        elif "failed" in found:
            return missing if found["budget"] >= plan.budget else lengths[lengths.index(n) :]
    return missing


def trained_alike(results: Results, cell: Mapping[str, Any]) -> dict[str, Any] | None:
    """The cell of a trial that is trained as ``cell`` is, and whose weights are there: of one fact and of several."""
    kind, ground = TASKS[cell["task"]]
    for name, (other, place) in TASKS.items():
        found = results.cells.get(key_of(name, cell["model"], cell["seed"]))
        if found and place == ground and KINDS[other].trained == KINDS[kind].trained and is_there(cell, found):
            file = weights_of(results, found)
            if file.exists() and sha256(file) == found["weights"]:
                return found
    return None


def fit(results: Results, key: str, cell: Mapping[str, Any], task: Task, first: int, watch: Watch) -> None:
    """Train the model of a trial, or take it where it was, and keep its weights and what is known of them."""
    from safetensors.torch import save

    if known := trained_alike(results, cell):
        with whole_file(weights_of(results, cell)) as draft:
            shutil.copyfile(weights_of(results, known), draft)
        results.keep(key, {**known, **cell})
        return
    begun = time.monotonic()
    config = BackboneConfig.model_validate(cell["backbone"])
    model, facts = trained(config, task, cell["seed"], rates_of(results, cell, first), watch)
    file = weights_of(results, cell)
    file.parent.mkdir(exist_ok=True)
    with whole_file(file) as draft:
        draft.write_bytes(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
    seconds = time.monotonic() - begun
    results.keep(key, {**cell, **facts, "training_seconds": seconds, "weights": sha256(file)})


def measure_test(results: Results, key: str, tokens: int, plan: Plan, watch: Watch) -> bool:
    """Test the trained model of a trial at a length, in a process of its own; returns whether it came to an end."""
    cell = results.cells[key]
    about = {"task": cell["task"], "model": cell["model"], "seed": cell["seed"], "tokens": tokens}
    job = {**about, "subject": "needle", "backbone": cell["backbone"], "weights": str(weights_of(results, cell))}
    job |= {"sequences": TESTS[tokens], "threads": plan.threads, "memory_limit": memory_limit(None)}
    with Worker({**job, "matmul": torch.get_float32_matmul_precision()}) as worker:
        found = worker.ask(watch, plan.budget)
    results.keep(key_of_test(key, tokens), {**about, "weights": cell["weights"], "budget": plan.budget, **found})
    return "failed" not in found


def measure(results: Results, asked: Mapping[str, Task], plan: Plan, watch: Watch) -> None:
    """Carry out the trials and tests that ``results`` do not have yet, trial by trial, the short tests first."""
    wanted = trials(asked, lambda task: models(plan.models, task.conv, choices_of(WINDOW), CHUNK), plan.seeds)
    missing = {key: missing_tests(results, key, cell, plan) for key, cell in wanted.items()}
    with Progress("measuring", "tests", sum(map(len, missing.values()))) as progress:
        for key, cell in wanted.items():
            if not missing[key]:
                continue
            file = weights_of(results, cell)
            known = is_there(cell, results.cells.get(key)) and file.exists()
            if not known or sha256(file) != results.cells[key]["weights"]:
                fit(results, key, cell, asked[cell["task"]], plan.seeds[0], watch)
            for tokens in missing_tests(results, key, cell, plan):
                if not measure_test(results, key, tokens, plan, watch):
                    break
                progress.add(1, key_of_test(key, tokens))


# --- tables


class Row(NamedTuple):
    """What the tests of a model at a length gave, the seeds together."""

    hits: int
    asked: int
    seconds: float  # of a sequence, when `ROWS` are read side by side; the median
    growth: float  # bytes of memory; the median
    failed: str  # why there is nothing


def of_length(cells: Sequence[dict[str, Any]]) -> Row:
    """What some tests gave together."""
    done = [cell for cell in cells if "failed" not in cell]
    if not done:
        return Row(0, 0, 0.0, 0.0, cells[0]["failed"])
    hits, asked = (sum(cell[name] for cell in done) for name in ("whole", "sequences"))
    return Row(
        hits,
        asked,
        median(cell["seconds"] / cell["sequences"] for cell in done),
        median(cell["growth"] for cell in done),
        "",
    )


Found = dict[str, dict[int, Row]]  # by model and length


def found_of(results: Results, names: Sequence[str]) -> Found:
    """What the tests of some tasks gave together; those of weights that have been replaced are left out."""
    cells = results.cells
    tests = [cell for cell in cells.values() if "tokens" in cell and cell["task"] in names]
    valid = [c for c in tests if cells[key_of(c["task"], c["model"], c["seed"])]["weights"] == c["weights"]]
    found: Found = {}
    for model in KNOWN:
        mine = [cell for cell in valid if cell["model"] == model]
        lengths = sorted({cell["tokens"] for cell in mine})
        rows = {n: of_length([cell for cell in mine if cell["tokens"] == n]) for n in lengths}
        found |= {model: rows} if rows else {}
    return found


def share(row: Row) -> str:
    """Right answers in percent with the interval of 95 %."""
    low, high = interval(row.hits, row.asked)
    return f"{row.hits / row.asked:.0%} ({low:.0%} to {high:.0%})"


def _table(found: Found, told: Any) -> str:
    """What is ``told`` of each model and length."""
    lengths = sorted({n for rows in found.values() for n in rows})
    lines = [
        [model, *(("" if n not in rows else rows[n].failed or told(rows[n])) for n in lengths)]
        for model, rows in found.items()
    ]
    return markdown(["tokens", *(f"{n:,}" for n in lengths)], lines)


def report(results: Results) -> str:
    """All tables as Markdown."""
    parts = ["# Needles at length", results.headline(), about(results)]
    for task in TASKS:
        if found := found_of(results, [task]):
            parts += [f"## {task}, right answers; by chance {chance(task):.2%}", _table(found, share)]
    every = found_of(results, list(TASKS))
    parts += ["## Seconds a sequence", _table(every, lambda row: f"{row.seconds:,.2f}")]
    parts += ["## Peak memory, MiB", _table(every, lambda row: f"{row.growth / MiB:,.0f}")]
    chosen = [cell for cell in results.cells.values() if "rate" in cell]
    lines = [
        [model, *(", ".join(f"{c['rate']:g}" for c in chosen if (c["task"], c["model"]) == (t, model)) for t in TASKS)]
        for model in every
    ]
    parts += ["## Learning rates, as the first seed's validation chose them", markdown(["", *TASKS], lines)]
    return "\n\n".join(parts) + "\n"


def about(results: Results) -> str:
    """What was measured, in words."""
    facts = next(iter(results.about["settings"]["tasks"].values()))
    several, hop = KINDS["several"], KINDS["two_hop"]
    seeds = ", ".join(map(str, sorted({cell["seed"] for cell in results.cells.values()})))
    tests = ", ".join(f"{count} of {n:,}" for n, count in TESTS.items())
    return (
        f"{SIZE['depth']} blocks of width {SIZE['width']}, {SIZE['heads']} heads, chunks of {CHUNK}, memories' "
        f"convolutions over {CONV} tokens; segments and windows of {WINDOW} tokens. {facts['steps']} steps of "
        f"{BATCH} x {LENGTH:,} tokens, cut into rows of {FIRST} in the beginning; AdamW, cosine, warm-up, clipped. "
        f"Seeds {seeds} together, with Wilson's interval of 95 %; sequences of a seed: {tests}.\n\n"
        f"- single: a fact of marker, key and value; then the marker and the key ask for the value, {VALUE} letters "
        "that must all be right.\n"
        f"- several: {several.chains} facts, one asked for. two_hop: {hop.chains} chains of two facts, key to key and "
        "key to value; the first key asks for the value. Chance there is to name any value that was read.\n"
        f"- dna: random nucleotides. text: characters, random words of {len(VOCABULARY)} by Zipf's law.\n"
        f"- Training asks {QUESTIONS} times, of two hops for each chain once, for {', '.join(map(str, MIXED))} facts, "
        "or chains, a number that is drawn for each batch, so that values have to be kept for some hundred tokens; in "
        f"its shorter first rows for one fact, {KINDS['single'].begin[1]} times. A test asks once, at its end. Tests "
        f"are read as streams, {ROWS} sequences side by side; peak memory is the growth above the loaded model and the "
        "sequences."
    )


def draw(results: Results) -> None:
    """Draw right answers by length, a chart a task, and in another picture time and memory."""
    from titans_seq.report.plots.benchmarks import Chart, Panel, Share, accuracy_plot, scaling_plot

    charts = []
    for task in TASKS:
        rows = {model: mine.items() for model, mine in found_of(results, [task]).items()}
        lines = {
            model: [Share(n, r.hits / r.asked, *interval(r.hits, r.asked)) for n, r in mine if r.asked]
            for model, mine in rows.items()
        }
        if lines := {model: points for model, points in lines.items() if points}:
            charts.append(Chart(task, lines, chance(task), LENGTH))
    if not charts:
        return
    accuracy_plot(charts, results.beside(".png"))
    every = {
        model: [(n, r) for n, r in rows.items() if r.asked] for model, rows in found_of(results, list(TASKS)).items()
    }
    every = {model: rows for model, rows in every.items() if rows}
    panels = [
        Panel(
            "time", "tokens", "seconds a sequence", {m: [(n, r.seconds) for n, r in rows] for m, rows in every.items()}
        ),
        Panel(
            "memory",
            "tokens",
            "peak memory, MiB",
            {m: [(n, r.growth / MiB) for n, r in rows] for m, rows in every.items()},
        ),
    ]
    scaling_plot(panels, results.beside("_costs.png"))


def bench_needles(out: Path, plan: Plan, *, again: bool = False) -> tuple[str, dict[str, Any]]:
    """Train and test what ``out`` does not have yet; returns the tables and the facts.

    Args:
        out: folder of ``needles.json``, ``.md``, two pictures, and the trained weights in ``needles/``.
        plan: how much is measured.
        again: measure all of it anew.

    Raises:
        UsageError: if ``out`` holds what was measured otherwise, or a task or model is not known.
    """
    asked = tasks(plan.tasks, plan.steps)
    models(plan.models)
    common = settings(tasks(tuple(TASKS), plan.steps), plan.threads)
    common |= {"key": KEY, "value": VALUE, "side_by_side": ROWS, "memory_limit": memory_limit(None)}
    common |= {"kinds": {name: kind._asdict() for name, kind in KINDS.items()}}
    with opened(out, "needles", common, {}, again) as results, watching() as watch:
        measure(results, asked, plan, watch)
        facts = results.write()
        text = report(results)
        write_text(results.beside(".md"), text)
        draw(results)
    return text, facts
