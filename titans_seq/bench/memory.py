"""One memory layer beside titans-pytorch and causal attention: time and peak memory of the same configuration.

All rows of a cell (a length, a mode, a number of threads) are measured side by side: each in a process of its own,
whose first call gives the memory, and then call by call in turn, so that a busy minute of the machine is shared.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from titans_seq.bench.process import HOW_TO, PEER, Worker, memory_limit, peer_versions
from titans_seq.bench.results import MiB, Results, markdown, opened, told_share
from titans_seq.errors import UsageError, warn
from titans_seq.files import write_text
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic
from titans_seq.progress import Progress
from titans_seq.signals import Watch, watching

SHAPE = {"width": 256, "heads": 4, "chunk_size": 64}
MODES = {"forward": False, "forward+backward": True}
PATIENCE = 10  # a call that takes so many times the budget is ended


class Row(NamedTuple):
    """One thing that is measured."""

    name: str
    subject: str  # a builder of `worker` or `layers`
    settings: dict[str, Any]

    @property
    def job(self) -> dict[str, Any]:
        """What the worker is told."""
        return {"subject": self.subject, **({"memory": self.settings} if self.subject == "memory" else self.settings)}


CONV = Row("titans-seq", "memory", {})
PLAIN = Row("titans-seq, no convolutions", "memory", {"conv": 1})
MATRIX = Row("titans-seq, no convolutions, matrix", "memory", {"conv": 1, "structure": {"kind": "matrix"}})
KEPT = Row("titans-seq, no convolutions, all kept", "memory", {"conv": 1, "recompute": False})
POOLED = Row("titans-seq, no convolutions, gates a chunk", "memory", {"conv": 1, "gates": "chunk", "read": "start"})
ATTENTION = Row("attention (SDPA, causal)", "attention", {})
DEFAULT = Row(f"{PEER}, default", "peer", {"batch_size": None})
LIKE = Row(f"{PEER}, batch_size=chunk", "peer", {"batch_size": SHAPE["chunk_size"]})
ROWS = (CONV, PLAIN, MATRIX, KEPT, POOLED, ATTENTION, DEFAULT, LIKE)


class Aim(NamedTuple):
    """What a row is to reach beside another one, at one thread."""

    row: Row
    against: Row
    mode: str
    tokens: int
    speed: float | None = None  # at least so many times as fast
    memory: float | None = None  # with at most this share of its memory


AIMS = (
    Aim(PLAIN, LIKE, "forward", 4096, speed=3),
    Aim(PLAIN, LIKE, "forward", 16_384, speed=3),
    Aim(PLAIN, LIKE, "forward+backward", 4096, speed=2),
    Aim(PLAIN, LIKE, "forward+backward", 16_384, speed=2, memory=1 / 5),
    Aim(PLAIN, KEPT, "forward+backward", 16_384, speed=0.7),
    Aim(POOLED, DEFAULT, "forward", 16_384, speed=2, memory=1 / 3),
    Aim(POOLED, DEFAULT, "forward+backward", 16_384, speed=1.5, memory=1 / 3),
)


class Cell(NamedTuple):
    """Where rows stand side by side."""

    mode: str
    tokens: int
    threads: int

    def __str__(self) -> str:
        return f"{self.mode}, {self.tokens:,} tokens, {self.threads} thread{'s' if self.threads > 1 else ''}"


class Plan(NamedTuple):
    """How much is measured."""

    tokens: tuple[int, ...] = (4096, 16_384, 65_536)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7  # calls that a median is taken of
    budget: float = 60.0  # seconds that a row of a cell may take


QUICK = Plan((1024, 4096), (1,), 3, 5.0)


def side_by_side(
    rows: Sequence[Row], cell: Cell, plan: Plan, *, python: str | None, limit: int, watch: Watch
) -> dict[str, dict[str, Any]]:
    """Measure every row of a cell, in turns; each by its name.

    Args:
        rows: what to measure.
        cell: length, mode and threads.
        plan: rounds and budget.
        python: interpreter of the peer.
        limit: bytes a process may have.
        watch: notes signals.
    """
    place: dict[str, Any] = {
        "tokens": cell.tokens,
        "backward": MODES[cell.mode],
        "threads": cell.threads,
        "memory_limit": limit,
        "matmul": torch.get_float32_matmul_precision(),  # the same library for all, peers too
    }
    workers: dict[str, Worker] = {}
    calls: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        for row in rows:
            worker = Worker({**SHAPE, **place, **row.job}, python if row.subject == "peer" else None)
            workers[row.name] = stack.enter_context(worker)
            calls[row.name] = [worker.ask(watch, PATIENCE * plan.budget)]
        for _ in range(plan.rounds):
            for name, answers in calls.items():
                if _goes_on(answers, plan.budget):
                    answers.append(workers[name].ask(watch, PATIENCE * plan.budget))
    return {name: _summary(answers, cell.tokens) for name, answers in calls.items()}


def _goes_on(answers: list[dict[str, Any]], budget: float) -> bool:
    """Whether there is time for one more call like the first."""
    if "failed" in answers[-1]:
        return False
    return sum(answer["seconds"] for answer in answers) + answers[0]["seconds"] <= budget


def _summary(answers: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """Memory of the first call and median time of the others; of the first, where there was time for one alone."""
    if "failed" in answers[-1]:
        return {"failed": answers[-1]["failed"]}
    timed = answers[1:] or answers
    seconds = median(answer["seconds"] for answer in timed)
    return {
        "growth": answers[0]["growth"],
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "times": [answer["seconds"] for answer in timed],
        "processor_share": median(answer["cpu_seconds"] / answer["seconds"] for answer in timed),
    }


def compared(rows: dict[str, Any], row: str, against: str) -> tuple[float, float] | None:
    """How many times as fast a row is as another, and its share of the other's memory."""
    if not all(name in rows and "failed" not in rows[name] for name in (row, against)):
        return None
    mine, other = rows[row], rows[against]
    return other["seconds"] / mine["seconds"], mine["growth"] / max(other["growth"], 1)


def cell_table(rows: dict[str, Any]) -> str:
    """Speed and memory of the rows of a cell, and of each beside the yardsticks."""
    yardsticks = [row.name for row in (LIKE, DEFAULT, ATTENTION) if row.name in rows]
    lines = []
    for name, found in rows.items():
        beside = [compared(rows, name, other) for other in yardsticks]
        ratios = [f"{b[0]:.2f}x, {b[1]:.0%}" if b else "" for b in beside]
        if "failed" in found:
            lines.append([name, found["failed"], "", *ratios])
        else:
            lines.append([name, f"{found['tokens_per_second']:,.0f}", f"{found['growth'] / MiB:,.0f}", *ratios])
    return markdown(["", "tokens/s", "MiB", *(f"beside {name}" for name in yardsticks)], lines)


def aims(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at and found, where both rows were measured."""
    told = []
    for aim in AIMS:
        rows = cells.get(str(Cell(aim.mode, aim.tokens, 1)), {}).get("rows", {})
        beside = compared(rows, aim.row.name, aim.against.name)
        if beside:
            speed, memory = beside
            holds = speed >= (aim.speed or 0) and (aim.memory is None or memory <= aim.memory)
            place = {"row": aim.row.name, "beside": aim.against.name, "mode": aim.mode, "tokens": aim.tokens}
            told.append(
                {**place, "speed": speed, "least": aim.speed, "memory": memory, "most": aim.memory, "holds": holds}
            )
    return told


def report(results: Results) -> str:
    """All tables as Markdown."""
    alone = [cell["rows"].values() for cell in results.cells.values() if cell["cell"]["threads"] == 1]
    quiet = told_share(found["processor_share"] for rows in alone for found in rows if "failed" not in found)
    parts = ["# Speed and memory of one layer", results.headline() + quiet, ABOUT]
    for key, cell in results.cells.items():
        parts += [f"## {key}", cell_table(cell["rows"])]
    if found := aims(results.cells):
        lines = [
            [
                f"{a['row']} beside {a['beside']}: {a['mode']}, {a['tokens']:,}",
                f"{a['speed']:.2f}x" + (f" (aim {a['least']:g}x)" if a["least"] else ""),
                f"{a['memory']:.0%}" + (f" (aim {a['most']:.0%})" if a["most"] else ""),
                "yes" if a["holds"] else "no",
            ]
            for a in found
        ]
        parts += ["## Aims, one thread", markdown(["", "speed", "memory", "holds"], lines)]
    return "\n\n".join(parts) + "\n"


ABOUT = (
    f"Width {SHAPE['width']}, {SHAPE['heads']} heads of {SHAPE['width'] // SHAPE['heads']}, chunks of "
    f"{SHAPE['chunk_size']}, a memory of two layers with twice the width between them (or a matrix), batch 1, float32; "
    "the whole layer with norm, projections and gates. Tokens a second are of the median call, MiB the growth of the "
    "resident size at its highest in the first call; beside a yardstick: how many times as fast, and what share of "
    f"its memory. By default {PEER} takes all gradients at the memory of the call's start and pools its gates a chunk; "
    "with batch_size=chunk its gradients are taken where ours are."
)


def draw(results: Results) -> None:
    """Draw speed and memory over the length, at the fewest threads measured."""
    from titans_seq.report.plots.benchmarks import Panel, scaling_plot

    cells = [(Cell(**cell["cell"]), cell["rows"]) for cell in results.cells.values()]
    fewest = min(cell.threads for cell, _ in cells)

    def lines(mode: str, value: str, unit: float) -> dict[str, list[tuple[float, float]]]:
        points: dict[str, list[tuple[float, float]]] = {row.name: [] for row in ROWS}
        for cell, rows in sorted(cells):
            for name, found in rows.items():
                if (cell.mode, cell.threads) == (mode, fewest) and "failed" not in found:
                    points[name].append((cell.tokens, found[value] / unit))
        return {name: found for name, found in points.items() if found}

    panels = [Panel(mode, "tokens", "tokens a second", lines(mode, "tokens_per_second", 1)) for mode in MODES]
    panels.append(Panel("forward+backward", "tokens", "peak memory, MiB", lines("forward+backward", "growth", MiB)))
    threads = f"{fewest} thread{'s' if fewest > 1 else ''}"
    scaling_plot(panels, results.beside(".png"), title=f"One layer, {threads}")


def bench_memory(
    out: Path, plan: Plan, *, peer: str | None = None, memory: float | None = None, again: bool = False
) -> tuple[str, dict[str, Any]]:
    """Measure the cells that ``out`` does not have yet; returns the tables and the facts.

    Args:
        out: folder of ``memory.json``, ``.md`` and ``.png``.
        plan: how much is measured.
        peer: interpreter of an environment that has titans-pytorch.
        memory: GiB that a process may have; three quarters of the machine's if not given.
        again: measure all of it anew.

    Raises:
        UsageError: if a length is less than a chunk, or ``out`` holds what was measured otherwise.
        EnvironmentFault: if the peer is not where it is said to be.
    """
    if short := [length for length in plan.tokens if length < SHAPE["chunk_size"]]:
        raise UsageError(f"--tokens {short[0]} is less than one chunk of {SHAPE['chunk_size']}.")
    limit = memory_limit(memory)
    rows = [row for row in ROWS if peer or row.subject != "peer"]
    settings = {"shape": SHAPE, "rounds": plan.rounds, "budget": plan.budget, "memory_limit": limit}
    settings |= {"rows": [row.name for row in rows], "float32_products": use_fastest_exact_arithmetic()}
    extra = peer_versions(peer) if peer else {}
    if not peer:
        warn(f"{PEER} is not measured beside ours. {HOW_TO}")
    wanted = [Cell(mode, length, count) for count in plan.threads for length in plan.tokens for mode in MODES]
    with opened(out, "memory", settings, extra, again) as results, watching() as watch:
        missing = [cell for cell in wanted if str(cell) not in results]
        with Progress("measuring", "cells", len(wanted), len(wanted) - len(missing)) as progress:
            for cell in missing:
                found = side_by_side(rows, cell, plan, python=peer, limit=limit, watch=watch)
                results.keep(str(cell), {"cell": cell._asdict(), "rows": found})
                progress.add(1, str(cell))
        facts = results.write(aims=aims(results.cells))
        text = report(results)
        write_text(results.beside(".md"), text)
        draw(results)
    return text, facts
