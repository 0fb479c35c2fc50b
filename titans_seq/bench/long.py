"""Whole backbones over millions of tokens: tokens a second, peak memory, and whether both and the state stay level.

Input comes block by block from a seeded generator and is forgotten, as a file would be read. The weights are those
of the start: speed and memory do not depend on them, and a state that grows without end would show it here.
"""

import time
from collections.abc import Sequence
from math import log
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_seq.backbone import Backbone, BackboneConfig
from titans_seq.bench.process import Worker, memory_limit
from titans_seq.bench.results import MiB, Results, markdown, opened, told_share
from titans_seq.blocks import LMM, MAC, MAG, MAL, AttentionOnly
from titans_seq.embedding import Embedding, Patches
from titans_seq.files import write_text
from titans_seq.memory_state import MemoryState, state_tensors
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic
from titans_seq.progress import Progress
from titans_seq.signals import watching
from titans_seq.stream.walk import block_size

PATCH = 16  # values a patch of a series
WARM_UP = 64  # tokens
SHORT = 65_536  # what the memory of a longer stream is compared with
TENTHS = 20  # blocks of which a tenth has a median
POINTS = 64  # of the state along a stream, kept
STEADY = 0.9  # least over most of the state's norm; 0.997 was measured at 524,288 tokens
LEVEL = 1.1  # most that peak memory, the time of a block and the state's distance may become, over what they were
SWING = 1.25  # the same for the growth alone: the allocator's own swing was 1.12 with a state that did not grow

ATTENTION = "Transformer++"
MODELS: dict[str, BackboneConfig] = {
    "LMM": BackboneConfig(block=LMM()),
    "MAC": BackboneConfig(block=MAC()),
    "MAG": BackboneConfig(block=MAG()),
    "MAL": BackboneConfig(block=MAL()),
    "LMM, series": BackboneConfig(block=LMM(), embedding=Patches(features=2 * PATCH)),
    ATTENTION: BackboneConfig(block=AttentionOnly()),
}


# --- in the worker


def random_input(embedding: Embedding, start: int, tokens: int, generator: torch.Generator) -> Tensor:
    """The next tokens of a stream: even nucleotides (1, T), or a noisy wave in patches (1, T, F)."""
    if not isinstance(embedding, Patches):
        return torch.randint(4, (1, tokens), generator=generator)
    step = torch.arange(start * PATCH, (start + tokens) * PATCH, dtype=torch.float64)
    values = torch.sin(step * (2 * torch.pi / 24)).float() + torch.randn(len(step), generator=generator)
    values = values.view(1, tokens, PATCH)
    return torch.cat([values, torch.ones_like(values)], -1)  # all observed


def memories(state: MemoryState) -> list[Tensor]:
    """The memory of every layer that has one, as a vector."""
    layers = [layer.scan.weights for layer in state.layers if layer.scan is not None]
    return [torch.cat([weight.flatten() for weight in weights]) for weights in layers]


def level(norms: list[list[float]], distances: list[list[float]]) -> dict[str, float]:
    """How level the memories' norms and distances from the start, block by block, are in the last half of a stream.

    Returns:
        The least norm over the most, of the worst layer, and the mean distance in the last quarter over that in
        the third, of the layer that moved most. Most of a norm is that of the learned start, which does not move.
    """
    half, quarter = len(norms) // 2, -(-len(norms) // 4)
    swing = [min(layer) / max(layer) for layer in zip(*norms[half:], strict=True)]
    drift = [
        mean(layer[-quarter:]) / mean(layer[-2 * quarter : -quarter] or layer) for layer in zip(*distances, strict=True)
    ]
    return {"norm_min_over_max": min(swing), "drift_over_quarter": max(drift, key=lambda ratio: abs(log(ratio)))}


@torch.inference_mode()
def read(model: Backbone, tokens: int) -> dict[str, Any]:
    """Stream ``tokens`` through a backbone; returns the cost of its blocks and what became of the state."""
    generator, size = torch.Generator().manual_seed(0), block_size(model.config)
    times: list[float] = []
    norms: list[list[float]] = []
    distances: list[list[float]] = []
    state, finite = model.initial_state(1), True
    first = memories(state)
    for start in range(0, tokens, size):
        x = random_input(model.config.embedding, start, min(size, tokens - start), generator)
        begun = time.perf_counter()
        hidden, state = model(x, state)
        times.append(time.perf_counter() - begun)
        finite = finite and bool(torch.isfinite(hidden).all())
        now = memories(state)
        norms.append([float(memory.norm()) for memory in now])
        distances.append([float((memory - start).norm()) for memory, start in zip(now, first, strict=True)])
    finite = finite and all(bool(torch.isfinite(tensor).all()) for tensor in state_tensors(state).values())
    found: dict[str, Any] = {"tokens_per_second": tokens / sum(times), "block": size, "finite": finite}
    if tenth := len(times) // 10 if len(times) >= TENTHS else 0:
        found |= {"first_tenth": median(times[:tenth]), "last_tenth": median(times[-tenth:])}
    if first and finite:
        kept = range(0, len(distances), -(-len(distances) // POINTS))
        found |= level(norms, distances)
        found |= {"distances": [[min((i + 1) * size, tokens), *distances[i]] for i in kept]}
    return found


def stream_call(job: dict[str, Any]) -> Any:
    """What `worker` measures: one whole stream."""
    model = Backbone(BackboneConfig.model_validate(job["backbone"])).eval()
    read(model, WARM_UP)
    return lambda: read(model, job["tokens"])


# --- outside


class Plan(NamedTuple):
    """How much is measured."""

    tokens: tuple[int, ...] = (1024, 4096, 16_384, SHORT, 262_144, 1_048_576, 2_097_152)
    threads: int = 1
    budget: float = 300.0  # seconds that full attention may take for a stream; the others take what they need


QUICK = Plan((1024, 4096, 16_384), budget=20.0)


def key_of(model: str, tokens: int) -> str:
    """Name of a cell."""
    return f"{model}, {tokens:,} tokens"


def checks(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether each model's longest stream stayed level, where it is long enough to tell."""
    told = []
    for model in MODELS:
        found = {cell["tokens"]: cell for cell in cells.values() if cell["model"] == model and "failed" not in cell}
        longest = max(found, default=0)
        if longest <= SHORT or SHORT not in found:
            continue
        cell = found[longest]
        ratios = {
            "norm_min_over_max": cell.get("norm_min_over_max", 1.0),  # attention has no such state
            "drift_over_quarter": cell.get("drift_over_quarter", 1.0),
            "peak_over_short": cell["peak"] / found[SHORT]["peak"],
            "growth_over_short": cell["growth"] / found[SHORT]["growth"],
            "last_tenth_over_first": cell["last_tenth"] / cell["first_tenth"],
        }
        norm, drift, peak, growth, pace = ratios.values()
        level_state = cell["finite"] and norm >= STEADY and 1 / LEVEL <= drift <= LEVEL
        holds = level_state and peak <= LEVEL and growth <= SWING and pace <= LEVEL
        told.append({"model": model, "tokens": longest, "finite": cell["finite"], **ratios, "holds": holds})
    return told


def _table(cells: dict[str, Any], value: str, unit: float = 1) -> str:
    """A value by length and model."""
    lengths = sorted({cell["tokens"] for cell in cells.values()})
    models = [model for model in MODELS if any(cell["model"] == model for cell in cells.values())]

    def shown(cell: dict[str, Any] | None) -> str:
        return "" if cell is None else cell.get("failed") or f"{cell[value] / unit:,.0f}"

    lines = [[f"{n:,}", *(shown(cells.get(key_of(model, n))) for model in models)] for n in lengths]
    return markdown(["tokens", *models], lines)


def report(results: Results) -> str:
    """All tables as Markdown."""
    cells = results.cells
    shares = [cell["cpu_seconds"] / cell["seconds"] for cell in cells.values() if "failed" not in cell]
    quiet = told_share(shares) if results.about["settings"]["threads"] == 1 else ""
    parts = ["# Whole backbones over long streams", results.headline() + quiet, about(results)]
    parts += [
        "## Tokens a second",
        _table(cells, "tokens_per_second"),
        "## Peak memory, MiB",
        _table(cells, "growth", MiB),
    ]
    if found := checks(cells):
        ratios = [key for key in found[0] if "_over_" in key]
        lines = [
            [
                f"{check['model']}, {check['tokens']:,}",
                "yes" if check["finite"] else "no",
                *(f"{check[key]:.3f}" for key in ratios),
                "yes" if check["holds"] else "no",
            ]
            for check in found
        ]
        header = ["", "finite", "state norm", "its distance", "peak memory", "its growth", "time a block", "holds"]
        parts += [
            "## Level to the end",
            markdown(header, lines),
            "State norm: least over most in the last half of the stream, of the worst layer "
            f"(at least {STEADY:g} holds). Its distance from where it began: mean of the last quarter over that of the "
            f"third (at most {LEVEL:g} either way). Peak memory of the process, and its growth above the loaded model: "
            f"over those at {SHORT:,} tokens (at most {LEVEL:g}, {SWING:g}). Time a block: median of the last tenth "
            f"over that of the first (at most {LEVEL:g}).",
        ]
    return "\n\n".join(parts) + "\n"


def about(results: Results) -> str:
    """What was measured, in words."""
    config, settings = MODELS["LMM"], results.about["settings"]
    return (
        f"{config.depth} blocks of width {config.width}, {config.heads} heads, memory a two-layer perceptron, batch 1, "
        f"float32, {settings['threads']} thread{'s' if settings['threads'] > 1 else ''}; read in blocks of at most "
        f"{block_size(config):,} tokens, nucleotides or (LMM, series) patches of {PATCH} values. Peak memory is the "
        "growth of the resident size above the loaded model. "
        f"{ATTENTION} sees everything before; it is ended after {settings['budget']:g} seconds a stream or at "
        f"{settings['memory_limit'] / 2**30:.3g} GiB, the others are not."
    )


def draw(results: Results) -> None:
    """Draw speed and memory over the length, and how far the state goes along the longest streams."""
    from titans_seq.report.plots.benchmarks import Panel, scaling_plot

    done = sorted((cell for cell in results.cells.values() if "failed" not in cell), key=lambda cell: cell["tokens"])

    def lines(value: str, unit: float) -> dict[str, list[tuple[float, float]]]:
        found = {m: [(c["tokens"], c[value] / unit) for c in done if c["model"] == m] for m in MODELS}
        return {model: points for model, points in found.items() if points}

    longest = {cell["model"]: cell for cell in done if "distances" in cell}  # the last of each
    distances = {model: [(row[0], row[1]) for row in cell["distances"]] for model, cell in longest.items()}
    panels = [
        Panel("speed", "tokens", "tokens a second", lines("tokens_per_second", 1)),
        Panel("memory", "tokens", "peak memory, MiB", lines("growth", MiB)),
        Panel("first layer's memory, longest stream", "tokens read", "distance from its start", distances),
    ]
    scaling_plot([panel for panel in panels if panel.lines], results.beside(".png"))


def bench_long(
    out: Path, plan: Plan, *, models: Sequence[str] = tuple(MODELS), memory: float | None = None, again: bool = False
) -> tuple[str, dict[str, Any]]:
    """Measure the cells that ``out`` does not have yet, each in a process of its own; returns the tables and the facts.

    Args:
        out: folder of ``long.json``, ``.md`` and ``.png``.
        plan: how much is measured.
        models: names of `MODELS`.
        memory: GiB that a process may have; three quarters of the machine's if not given.
        again: measure all of it anew.

    Raises:
        UsageError: if ``out`` holds what was measured otherwise.
    """
    limit, backbones = memory_limit(memory), {name: config.model_dump(mode="json") for name, config in MODELS.items()}
    settings = {"threads": plan.threads, "budget": plan.budget, "memory_limit": limit, "models": backbones}
    settings |= {"float32_products": use_fastest_exact_arithmetic()}
    wanted = [(model, tokens) for tokens in sorted(plan.tokens) for model in models]
    with opened(out, "long", settings, {}, again) as results, watching() as watch:
        missing = [cell for cell in wanted if key_of(*cell) not in results]
        with Progress("measuring", "cells", len(wanted), len(wanted) - len(missing)) as progress:
            for model, tokens in missing:
                job = {"subject": "stream", "tokens": tokens, "backbone": backbones[model]}
                job |= {"threads": plan.threads, "memory_limit": limit, "matmul": torch.get_float32_matmul_precision()}
                before = [c for c in results.cells.values() if c["model"] == model and c["tokens"] < tokens]
                if any("failed" in cell for cell in before):
                    found: dict[str, Any] = {"failed": "not tried"}
                else:
                    with Worker(job) as worker:
                        found = worker.ask(watch, plan.budget if model == ATTENTION else None)
                results.keep(key_of(model, tokens), {"model": model, "tokens": tokens, **found})
                progress.add(1, key_of(model, tokens))
        facts = results.write(checks=checks(results.cells))
        text = report(results)
        write_text(results.beside(".md"), text)
        draw(results)
    return text, facts
