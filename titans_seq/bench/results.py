"""What a benchmark found: a JSON file that grows cell by cell, with the machine, versions and dates, and tables."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from titans_seq import __version__
from titans_seq.bench.process import machine_memory
from titans_seq.errors import UsageError
from titans_seq.files import locked, to_json, write_text
from titans_seq.resources import PACKAGE

MiB = 2**20


def processor() -> str:
    """Name of the CPU, where the system tells."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine() -> str:
    """The machine in words."""
    return f"{processor()}, {os.cpu_count()} cores, {machine_memory() / 2**30:.0f} GiB"


def commit() -> str:
    """Commit of the checkout that this package lies in; nothing for an installed one."""
    command = ["git", "-C", str(PACKAGE.parent), "log", "-1", "--format=%h", "--", PACKAGE.name]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Versions of what is measured."""
    return {"titans-seq": __version__, "torch": version("torch"), "python": platform.python_version()}


class Results:
    """Cells by name, in the file ``NAME.json`` of a folder; it is whole after each cell."""

    def __init__(self, folder: Path, name: str, about: dict[str, Any], cells: dict[str, Any]):
        self.folder, self.name, self.about, self.cells = folder, name, about, cells

    def __contains__(self, key: str) -> bool:
        return key in self.cells

    def keep(self, key: str, cell: dict[str, Any]) -> None:
        """Add a cell with its date, and write the file."""
        self.cells[key] = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), **cell}
        self.write()

    def write(self, **found: Any) -> dict[str, Any]:
        """Write the file, with what was ``found`` over all cells, and return what it holds."""
        facts = {**self.about, **found, "cells": self.cells}
        write_text(self.beside(".json"), to_json(facts))
        return facts

    def beside(self, suffix: str) -> Path:
        """Path of a table or picture of the same name."""
        return self.folder / f"{self.name}{suffix}"

    def headline(self) -> str:
        """Where and when the cells were measured, as Markdown."""
        days = sorted({cell["date"] for cell in self.cells.values()})
        when = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "not yet measured"
        made = ", ".join(f"{name} {number}" for name, number in self.about["versions"].items())
        return f"{when}; {self.about['machine']}; {made}."


@contextmanager
def opened(folder: Path, name: str, settings: dict[str, Any], extra: dict[str, str], again: bool) -> Iterator[Results]:
    """Take up the results of a folder, or begin anew, and hold them for this process.

    Args:
        folder: where ``NAME.json`` lies or will.
        name: of the benchmark.
        settings: what all its cells have in common.
        extra: versions of peers.
        again: leave out what is there.

    Raises:
        UsageError: if what is there was measured otherwise: its cells cannot stand beside new ones.
    """
    about = {"benchmark": name, "machine": machine(), "versions": {**versions(), **extra}, "settings": settings}
    file = folder / f"{name}.json"
    with locked(folder / f".{name}.lock", file):
        yield Results(folder, name, about, {} if again or not file.exists() else _cells(file, about))


def _flat(facts: Any, name: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    if not isinstance(facts, dict):
        return {name: facts}
    return {k: v for key, part in facts.items() for k, v in _flat(part, f"{name}.{key}" if name else key).items()}


def _cells(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Cells of a file that was measured as ``about`` says."""
    remedy = "Choose another --out, or add --again to measure all of it anew."
    try:
        then = json.loads(file.read_text(encoding="utf-8"))
        cells = dict(then["cells"])
        was, now = _flat({key: then[key] for key in about}), _flat(json.loads(json.dumps(about)))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} holds no results of this benchmark. {remedy}") from error
    if changed := sorted(key for key in was | now if was.get(key) != now.get(key)):
        raise UsageError(f"{file} was measured with another {' and '.join(changed)}. {remedy}")
    return cells


def told_share(shares: Iterable[float]) -> str:
    """A sentence on how much of the clock's time one-thread processes had a processor: 1 on a quiet machine."""
    found = sorted(shares)
    if not found:
        return ""
    return f" Of the clock's time a one-thread process had a processor for {found[0]:.0%} to {found[-1]:.0%}."


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned for reading as text; all but the first to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "| "
        + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        + " |"
        for r in table
    ]
    rule = "|" + "|".join("-" * (w + 1) + ":" if i else "-" * (w + 2) for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
