"""What every quality benchmark shares: where the data are, and how a result is kept."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from titans_seq.bench.results import processor
from titans_seq.errors import TitansError, UsageError
from titans_seq.files import locked, to_json, write_text
from titans_seq.recipe import differences

HERE = Path(__file__).parent
LIBRARIES = ("torch", "lightning", "numpy", "scikit-learn")


def arguments(about: str, *more: tuple[str, str]) -> argparse.Namespace:
    """Parse ``--work`` (runs and cut files), ``--threads`` and ``more``, and find the real data in ``TITANS_SEQ_DATA``.

    Args:
        about: said by ``--help``.
        more: options of text that a benchmark has of its own, each with its help.
    """
    parser = parser_of(about)
    for name, what in more:
        parser.add_argument(name, help=what)
    return parsed(parser)


def parser_of(about: str) -> argparse.ArgumentParser:
    """A parser of what all benchmarks are told: ``--work`` and ``--threads``."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder for runs and cut files")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with ``data``, the folder of the real data, and ``work``, which is there."""
    options = parser.parse_args()
    data = os.environ.get("TITANS_SEQ_DATA")
    if not data:
        sys.exit("Set TITANS_SEQ_DATA to the folder of the real data; this benchmark reads nothing else.")
    options.data = Path(data)
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def keep(name: str, found: dict[str, Any], threads: int) -> None:
    """Write ``results/NAME.json`` with date, machine, versions and command, and print it."""
    text = json.dumps({**circumstances(f"--threads {threads}", threads), **found}, indent=2)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.json").write_text(text + "\n")
    print(text)


def circumstances(told: str, threads: int) -> dict[str, Any]:
    """When, by which command (with the options that were ``told``), where and with what something was measured."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {told}".rstrip(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {threads} threads used{gpu}",
        "versions": {lib: version(lib) for lib in LIBRARIES} | {"python": platform.python_version()},
        "commit": commit.strip(),
    }


def train(recipe: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train by the same verb as the command line, or take up the finished run that is there."""
    from titans_seq.recipe import build
    from titans_seq.run import train as run_train

    return run_train(build(recipe, name=out.name), out, resume=True)


# --- benchmarks of many rows

OWN = ("--work", "--out")  # options whose folders mean nothing elsewhere
Row = dict[str, Any]
Report = Callable[[dict[str, Row]], str]  # the rows so far as Markdown


class _Spent(Exception):
    """The time that was given is over."""


class Rows:
    """Rows by key in ``NAME.json``, each with its settings and circumstances, and ``NAME.md`` beside it.

    Both files are whole after every row, so that a run that was stopped goes on with the first row that is not there.
    """

    def __init__(self, name: str, options: argparse.Namespace, report: Report):
        self.json, self.md = (options.out / f"{name}{suffix}" for suffix in (".json", ".md"))
        self.options, self.report = options, report
        self.kept: dict[str, Row] = json.loads(self.json.read_text("utf-8"))["rows"] if self.json.exists() else {}
        self.until = time.monotonic() + options.budget if options.budget else float("inf")

    def row(self, key: str, settings: Row, measure: Callable[[], Row]) -> Row:
        """The row of a key, measured if it is not there, or if all are wanted ``--again``.

        Raises:
            UsageError: if it is there and was measured with other settings.
        """
        there = self.kept.get(key)
        if there and not self.options.again:
            if other := differences(there["settings"], json.loads(to_json(settings))):
                raise UsageError(f"{self.json}: row {key!r} has other settings, {'; '.join(other)}. Add --again.")
            return there
        if time.monotonic() > self.until:
            raise _Spent
        print(f"{key} ...", file=sys.stderr, flush=True)
        return self.keep(key, settings, measure())

    def keep(self, key: str, settings: Row, found: Row) -> Row:
        """Add or replace a row and write the files."""
        self.kept[key] = {**circumstances(_told(), self.options.threads), "settings": settings, **found}
        write_text(self.json, to_json({"rows": self.kept}))
        write_text(self.md, self.report(self.kept))
        return self.kept[key]


def _told() -> str:
    """The options of the command line as they mean something elsewhere: of a folder the name alone."""
    given = iter(sys.argv[1:])
    kept = []
    for option in given:
        if option in OWN:
            next(given, None)
        elif not option.startswith(tuple(f"{name}=" for name in OWN)):
            kept.append(Path(option).name if Path(option).exists() else option)
    return shlex.join(kept)


def rows_options(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark of many rows the options ``--out``, ``--budget`` and ``--again``."""
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of NAME.json and NAME.md")
    parser.add_argument("--budget", type=float, help="seconds after which no row is begun; the same command goes on")
    parser.add_argument("--again", action="store_true", help="measure rows that are there anew")


def rows_arguments(about: str) -> argparse.Namespace:
    """The options of a benchmark of many rows that has none of its own; torch is given its threads."""
    parser = parser_of(about)
    rows_options(parser)
    options = parsed(parser)
    torch.set_num_threads(options.threads)
    return options


@contextmanager
def results(name: str, options: argparse.Namespace, report: Report) -> Iterator[Rows]:
    """Take up the rows of a benchmark and hold its files for this process; an error that can be mended is one line."""
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(options.out / f".{name}.lock", options.out / f"{name}.json"):
            rows = Rows(name, options, report)
            try:
                yield rows
            except _Spent:
                print(f"The {options.budget:g} s are spent; the same command goes on.", file=sys.stderr)
            print(report(rows.kept))
    except TitansError as error:
        sys.exit(f"error: {error}")


def explained(doc: str | None) -> str:
    """What a script's docstring says below its first line, as one paragraph that ends the page."""
    return " ".join((doc or "").split("\n\n", 1)[1].split()) + "\n"


def measured_when(kept: dict[str, Row]) -> str:
    """A line of Markdown: when and where the rows were measured."""
    days = sorted({row["date"] for row in kept.values()})
    where = sorted({row["machine"] for row in kept.values()})
    torches = sorted({row["versions"]["torch"] for row in kept.values()})
    when = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "not yet measured"
    return (
        f"{when}; {' and '.join(where)}; torch {', '.join(torches)}. Commands, settings and commits by row: the JSON."
    )


def page(title: str, kept: dict[str, Row], doc: str | None, *parts: str) -> str:
    """A page of Markdown: its title, when it was measured, what its script says it is, and parts of its own."""
    return "\n\n".join([f"# {title}", measured_when(kept), explained(doc).strip(), *parts, ""])
