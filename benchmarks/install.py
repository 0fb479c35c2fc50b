"""The wheel and the sdist in fresh environments: every interpreter that is at hand, today's versions and the lowest.

An environment gets the package and its dependencies by pip, either held to `constraints.txt` or each at the lowest
version that `pyproject.toml` allows. In it `pip check` must find nothing, `titans-seq --help` and `doctor` must end
well, and a tiny model is trained on the E. coli sample and scores it. pip's own settings say where packages come from;
what it finds no version of is told as that.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import HERE, Row, explained, measured_when, parser_of, results, rows_options

from titans_seq.bench.results import markdown

ROOT = HERE.parent
PYTHONS = ("python3.11", "python3.12", "python3.13")
SHOWN = ("torch", "lightning", "numpy", "polars", "pydantic", "typer", "scikit-learn")
TINY = ("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "training.steps=2", "data.length=256")


def built(folder: Path) -> dict[str, Path]:
    """The wheel and the sdist, by what they are called."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {done.stdout}{done.stderr}")
    return {"wheel": next(folder.glob("titans_seq-*.whl")), "sdist": next(folder.glob("titans_seq-*.tar.gz"))}


def lowest() -> list[str]:
    """Each dependency at the lowest version that it may have."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = (re.match(r"([\w.-]+)>=([\d.]+)[^;]*(;.*)?", text) for text in project["dependencies"])
    return [f"{found[1]}=={found[2]}{found[3] or ''}" for found in bounds if found]


class Fault(Exception):
    """A step failed; says which and how."""


def step(name: str, command: list[Any], folder: Path) -> str:
    """Output of one step.

    Raises:
        Fault: with the end of what it said.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).strip().splitlines() if line.strip()]
        raise Fault(f"{name}: {' '.join(said[-2:])[-400:]}".replace(str(folder), "."))
    return done.stdout


def tried(python: str, package: Path, versions: str, folder: Path) -> Row:
    """One environment, from nothing to scores; what was installed, and where it failed if it did."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun, found = time.monotonic(), {"failed": "", "versions_found": {}}
    binaries = folder / "venv" / "bin"
    held = ["-c", ROOT / "constraints.txt"] if versions == "constraints.txt" else lowest()
    try:
        step("venv", [python, "-m", "venv", folder / "venv"], folder)
        step("pip install", [binaries / "python", "-m", "pip", "install", "-q", package, *held], folder)
        found["install_seconds"] = round(time.monotonic() - begun)
        listed = step("pip list", [binaries / "python", "-m", "pip", "list", "--format=freeze"], folder)
        there = dict(line.split("==") for line in listed.split() if "==" in line)
        found["versions_found"] = {name: there.get(name, "") for name in SHOWN}
        step("pip check", [binaries / "python", "-m", "pip", "check"], folder)
        command = binaries / "titans-seq"
        step("--help", [command, "--help"], folder)
        step("doctor", [command, "doctor"], folder)
        sample, settings = "sample:ecoli_region/region.fa.gz", [p for s in TINY for p in ("--set", s)]
        step("pretrain", [command, "genomics", "pretrain", sample, "--out", "run", "--threads", "1", *settings], folder)
        (folder / "x.fa").write_text(">a\nACGTTGCA\n")
        step("score", [command, "genomics", "score", "run", "x.fa", "--out", "x.bedgraph", "--threads", "1"], folder)
        if len((folder / "x.bedgraph").read_text().splitlines()) < 2:
            raise Fault("score: no rows")
    except Fault as fault:
        found["failed"] = str(fault)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def report(kept: dict[str, Row]) -> str:
    """A line an environment."""
    lines = [
        [name, *(row["versions_found"].get(lib, "") for lib in SHOWN), row["failed"] or "all steps end well"]
        for name, row in kept.items()
    ]
    table = markdown(("environment", *SHOWN, "outcome"), lines)
    return f"# Installation\n\n{measured_when(kept)}\n\n{table}\n\n{explained(__doc__)}"


def main() -> None:
    """Try each environment, and end with code 1 if one failed."""
    parser = parser_of(__doc__.splitlines()[0])
    parser.set_defaults(threads=1)
    parser.add_argument("--python", action="append", help="an interpreter; may be repeated; python3.11 to 3.13 if not")
    rows_options(parser)
    options = parser.parse_args()
    folder = (options.work / "install").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    packages = built(folder)
    there = [python for python in options.python or PYTHONS if shutil.which(python)]
    with results("install", options, report) as rows:
        for python in there:
            version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
            for kind, versions in (("wheel", "constraints.txt"), ("sdist", "constraints.txt"), ("wheel", "lowest")):
                rows.row(
                    f"{version}, {kind}, {versions}",
                    {"kind": kind, "versions": versions},
                    lambda python=python, kind=kind, versions=versions: tried(  # type: ignore[misc]
                        python, packages[kind], versions, folder / "environment"
                    ),
                )
    if any(row["failed"] for row in rows.kept.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
