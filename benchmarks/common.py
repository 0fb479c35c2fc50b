"""What every quality benchmark shares: where the data are, and how a result is kept."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from titans_seq.bench.results import processor

HERE = Path(__file__).parent
LIBRARIES = ("torch", "lightning", "numpy", "scikit-learn")


def arguments(about: str, *more: tuple[str, str]) -> argparse.Namespace:
    """Parse ``--work`` (runs and cut files), ``--threads`` and ``more``, and find the real data in ``TITANS_SEQ_DATA``.

    Args:
        about: said by ``--help``.
        more: options of text that a benchmark has of its own, each with its help.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder for runs and cut files")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    for name, what in more:
        parser.add_argument(name, help=what)
    options = parser.parse_args()
    data = os.environ.get("TITANS_SEQ_DATA")
    if not data:
        sys.exit("Set TITANS_SEQ_DATA to the folder of the real data; this benchmark reads nothing else.")
    options.data = Path(data)
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def keep(name: str, found: dict[str, Any], threads: int) -> None:
    """Write ``results/NAME.json`` with date, machine, versions and command, and print it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python benchmarks/{Path(sys.argv[0]).name} --threads {threads}",
        "machine": f"{processor()}, {os.cpu_count()} cores, {threads} threads used",
        "versions": {lib: version(lib) for lib in LIBRARIES} | {"python": platform.python_version()},
        "commit": commit.strip(),
        **found,
    }
    text = json.dumps(facts, indent=2)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.json").write_text(text + "\n")
    print(text)


def train(recipe: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train by the same verb as the command line, or take up the finished run that is there."""
    from titans_seq.recipe import build
    from titans_seq.run import train as run_train

    return run_train(build(recipe, name=out.name), out, resume=True)
