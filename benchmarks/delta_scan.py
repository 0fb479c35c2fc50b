"""The delta scan in parallel form beside its token loop: time of 4,096 tokens by threads, and of every tile."""

import argparse
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from titans_seq.bench.results import commit, machine, markdown, versions
from titans_seq.files import to_json, write_text
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic
from titans_seq.ops.delta_scan import Backend, chunked, delta_scan

LENGTH, SIZE = 4096, 64  # T, D = Dv
HEADS = (1, 2, 4)  # the loop's time is that of its calls, whatever they compute; the parallel form's grows with heads
THREADS = (1, 2)
CASES = list(product(THREADS, HEADS, ("none", "head", "channel"), (False, True)))
TILES = (16, 32, 64, 128)


def inputs(heads: int, decay: str, erases: bool) -> dict[str, Any]:
    """Arguments of `delta_scan` that all want a gradient."""
    torch.manual_seed(0)
    shape = (1, heads, LENGTH, SIZE)
    q, k, v = F.normalize(torch.randn(shape), dim=-1), F.normalize(torch.randn(shape), dim=-1), torch.randn(shape)
    gate = {"none": None, "head": torch.randn(shape[:3]), "channel": torch.randn(shape)}[decay]
    log_decay = None if gate is None else F.logsigmoid(gate + 3).requires_grad_()
    pair = (k.clone().requires_grad_(), (torch.rand(*shape[:3], 1) * k).requires_grad_()) if erases else None
    leaves = {"q": q.requires_grad_(), "k": k.requires_grad_(), "v": v.requires_grad_()}
    return {**leaves, "log_decay": log_decay, "erase": pair}


def call(given: dict[str, Any], backend: Backend, backward: bool) -> Callable[[], None]:
    """One call, with its backward or without a graph."""

    def run() -> None:
        with torch.set_grad_enabled(backward):
            y, state = delta_scan(**given, backend=backend)
        if backward:
            (y.sum() + state.memory.sum()).backward()

    return run


def least(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Milliseconds, the least of so many rounds in which all take their turn, after one unmeasured."""
    found = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for name, run in calls.items():
            begun = time.perf_counter()
            run()
            if turn:
                found[name] = min(found[name], 1000 * (time.perf_counter() - begun))
    return found


def at_tile(tile: int, run: Callable[[], None]) -> Callable[[], None]:
    """The same call at another tile."""

    def tiled() -> None:
        before, chunked.TILE = chunked.TILE, tile
        run()
        chunked.TILE = before

    return tiled


def main() -> None:
    """Measure every kind of decay with and without erasing; keep ``delta_scan.json`` in --out and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rounds = options.rounds
    library = use_fastest_exact_arithmetic()
    cells, lines = [], []
    for threads, heads, decay, erases in CASES:
        torch.set_num_threads(threads)
        given = inputs(heads, decay, erases)
        for backward in (False, True):
            parallel = call(given, "chunked", backward)
            calls = {f"tile {tile}": at_tile(tile, parallel) for tile in TILES}
            found = least({"token loop": call(given, "reference", backward), **calls}, rounds)
            ratio = found["token loop"] / found[f"tile {chunked.TILE}"]
            mode = "forward+backward" if backward else "forward"
            case = {"threads": threads, "heads": heads, "decay": decay, "erases": erases, "mode": mode}
            cells.append({**case, "ms": found, "ratio": ratio})
            name = f"{threads} threads, {heads} heads, {decay}, {'erases' if erases else 'adds'}, {mode}"
            lines.append([name, *(f"{ms:,.1f}" for ms in found.values()), f"{ratio:.1f}"])
    facts = {
        "benchmark": "delta_scan",
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python benchmarks/delta_scan.py --rounds {rounds}",
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "settings": {
            "tokens": LENGTH,
            "head": SIZE,
            "dtype": "float32",
            "matmul": library,
            "tile": chunked.TILE,
        },
        "cells": cells,
    }
    write_text(options.out / "delta_scan.json", to_json(facts))
    head = ["ms", "token loop", *(f"tile {tile}" for tile in TILES), f"loop / tile {chunked.TILE}"]
    print(markdown(head, lines))


if __name__ == "__main__":
    main()
