"""Random SIGKILLs of training, writing checkpoints, scoring and predicting, each resumed until it is finished.

A command is begun and killed, begun again with `--resume` and killed, and so on until one reaches its end; then a new
one is begun, until there were as many kills as are wanted. Kills come at random moments of what a whole command takes;
those of checkpoints while an unfinished one is on the disk. After each kill all that stands under a final name must be
whole; after every second one of scoring and predicting half a row is put behind those that were written, as a crash of
the machine leaves it. At the end every file must have the bytes of a command that nobody killed. A command is a process
of its own, forked from one that has its libraries loaded; that one starts no threads, which a fork would lose.
"""

import csv
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning  # noqa: F401 (what training imports, before it is forked)
import torch
from common import Row, explained, measured_when, parser_of, results, rows_options

from titans_seq import run, stream  # noqa: F401 (the same)
from titans_seq.bench.results import markdown
from titans_seq.checkpoint import REQUIRED
from titans_seq.cli import app
from titans_seq.files import DRAFT, sha256
from titans_seq.training.points import BEST, LAST, load_point

SEED = 0
RECORDS, BASES = 60, 300  # what is scored and predicted
EVERY = 1200  # tokens between points of a stream, so that a command of seconds has many
LATE = 0.004  # seconds that an unfinished checkpoint is on the disk, at most, before the kill
PATIENCE = 900  # seconds that one command may take
SIZE = ("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "backbone.dropout=0.2")
STEPS = ("training.steps=60", "training.batch_size=4", "training.log_every=1", "training.validate_every=10")


def sets(*settings: str) -> list[str]:
    """Options of the command line for keys of a recipe."""
    return [part for setting in settings for part in ("--set", setting)]


def begun(command: list[str]) -> int:
    """Start a command in a process of its own; returns its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        stream.SAVE_EVERY = EVERY
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        app(command)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def never() -> bool:
    """When a command is killed that is not killed."""
    return False


def ended(pid: int, due: Callable[[], bool]) -> int:
    """Exit code of a command that is killed as soon as it is ``due``; -9 if it was."""
    until = time.monotonic() + PATIENCE
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if due():
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            sys.exit(f"error: process {pid} hangs")
        time.sleep(0.0005)
    return os.waitstatus_to_exitcode(found[1])


class Job:
    """A command that is killed, and what must hold of its output, in each folder that it is given."""

    def __init__(self, folder: Path, output: str, command: list[str]):
        self.folder, self.output, self.command = folder, output, command

    def out(self, name: str) -> Path:
        """Its output in a folder of that name."""
        (self.folder / name).mkdir(parents=True)
        return self.folder / name / self.output

    def begin(self, out: Path, *options: str) -> int:
        """Start it; returns the id of its process."""
        return begun([*self.command, "--out", str(out), "--threads", "1", "--quiet", *options])

    def due(self, out: Path, seconds: float, chance: random.Random) -> Callable[[], bool]:
        """When it is to be killed, of ``seconds`` that the whole takes."""
        at = time.monotonic() + chance.uniform(0, seconds)
        return lambda: time.monotonic() >= at

    def saved(self, out: Path) -> bool:
        """Whether there is a point to go on from."""
        raise NotImplementedError

    def faults(self, out: Path, whole: Path) -> Iterator[str]:
        """What is not whole after a kill."""
        raise NotImplementedError

    def tear(self, out: Path) -> bool:
        """Leave half a row behind those that were written, where there are any."""
        return False

    def files(self, out: Path) -> list[Path]:
        """What must have the bytes of a command that nobody killed."""
        raise NotImplementedError

    def rows(self, out: Path) -> tuple[int, int]:
        """Rows of a finished output, and different ones among them."""
        raise NotImplementedError


class Training(Job):
    """A run folder, killed at any moment."""

    def saved(self, out: Path) -> bool:
        """A checkpoint."""
        return (out / "checkpoints" / LAST).exists()

    def faults(self, out: Path, whole: Path) -> Iterator[str]:
        """Checkpoints that do not load or are not finite, and models whose sums are wrong."""
        for file in (out / "checkpoints" / LAST, out / "checkpoints" / BEST):
            if file.exists() and not all(torch.isfinite(t).all() for t in load_point(file)["model"].values()):
                yield f"{file.name} is not finite"
        for file in self.files(out)[1:] if (out / "model").exists() else ():
            if not file.exists() or sha256(file) != sha256(whole / "model" / file.name):
                yield f"model/{file.name} is not whole"

    def files(self, out: Path) -> list[Path]:
        """The losses of all steps, and the model."""
        return [out / "metrics.csv", *(out / "model" / name for name in REQUIRED)]

    def rows(self, out: Path) -> tuple[int, int]:
        """Steps."""
        with (out / "metrics.csv").open(newline="") as file:
            steps = [row["step"] for row in csv.DictReader(file)]
        return len(steps), len(set(steps))


class Checkpoints(Training):
    """The same, killed while a checkpoint is being written."""

    def due(self, out: Path, seconds: float, chance: random.Random) -> Callable[[], bool]:
        """A moment after one of the next unfinished files appears."""
        wanted, late, seen, there = chance.randint(1, 8), chance.uniform(0, LATE), 0, False
        folder, at = out / "checkpoints", float("inf")

        def due() -> bool:
            nonlocal seen, there, at
            now = folder.is_dir() and any(name.startswith(DRAFT) for name in os.listdir(folder))
            seen, there = seen + (now and not there), now
            if seen >= wanted:
                at = min(at, time.monotonic() + late)
            return time.monotonic() >= at

        return due


class Stream(Job):
    """A file of rows, killed at any moment."""

    def saved(self, out: Path) -> bool:
        """A point beside the output."""
        return out.with_name(f"{out.name}.point").exists()

    def faults(self, out: Path, whole: Path) -> Iterator[str]:
        """An output that is there and not finished."""
        if out.exists() and sha256(out) != sha256(whole):
            yield f"{out.name} is not whole"

    def tear(self, out: Path) -> bool:
        """Half a row."""
        part = out.with_name(f"{out.name}.part")
        if part.exists():
            with part.open("ab") as file:
                file.write(b'{"id": "r9", "la')
        return part.exists()

    def files(self, out: Path) -> list[Path]:
        """The output alone."""
        return [out]

    def rows(self, out: Path) -> tuple[int, int]:
        """Rows by what names them: an id, or a record and its places."""
        separator, names = (",", 1) if out.suffix == ".csv" else ("\t", 3)
        rows = [tuple(line.split(separator)[:names]) for line in out.read_text().splitlines()][out.suffix == ".csv" :]
        return len(rows), len(set(rows))


def killed(job: Job, kills: int) -> Row:
    """Kill a job so often and finish it each time; what was counted, and what was ``wrong``."""
    chance, found, wrong = random.Random(SEED), Counter(dict.fromkeys(COUNTED, 0)), []
    whole, clock = job.out("unbroken"), time.monotonic()
    if code := ended(job.begin(whole), never):
        sys.exit(f"error: {' '.join(job.command)} ended with code {code}")
    seconds = time.monotonic() - clock
    while found["kills"] < kills:
        out, code = job.out(f"run-{found['runs']}"), -signal.SIGKILL
        while code == -signal.SIGKILL:
            due = job.due(out, seconds, chance) if found["kills"] < kills else never
            code = ended(job.begin(out, "--resume"), due)
            if code == -signal.SIGKILL:
                found["kills"] += 1
                found["with a file half-written"] += bool(list(out.parent.rglob(f"{DRAFT}*")))
                found["before there was a point"] += not job.saved(out)
                found["rows torn"] += found["kills"] % 2 and job.tear(out)
                wrong += [f"kill {found['kills']}: {fault}" for fault in job.faults(out, whole)]
        found["runs"] += 1
        wrong += [f"run {found['runs']}: {fault}" for fault in _differences(job, out, whole, code, found)]
    return {**found, "seconds of an unbroken run": round(seconds, 1), "wrong": wrong}


def _differences(job: Job, out: Path, whole: Path, code: int, found: Counter[str]) -> Iterator[str]:
    """What a finished run has that an unbroken one has not, or lacks; counts what was compared."""
    if code:
        yield f"code {code}"
        return
    (rows, different), (wanted, _) = job.rows(out), job.rows(whole)
    found["rows"] += rows
    found["rows lost"] += wanted - different
    found["rows twice"] += rows - different
    for ours, theirs in zip(job.files(out), job.files(whole), strict=True):
        found["files compared"] += 1
        if ours.read_bytes() != theirs.read_bytes():
            found["files that differ"] += 1
            yield f"{ours.name} has other bytes"
    if left := [e.name for e in out.parent.rglob("*") if e.name.startswith(".") or e.suffix in (".part", ".point")]:
        yield f"left {', '.join(left)}"


COUNTED = (
    *("kills", "with a file half-written", "before there was a point", "rows torn", "runs", "rows", "rows lost"),
    *("rows twice", "files compared", "files that differ"),
)


def jobs(folder: Path) -> dict[str, Job]:
    """What is killed, on data and models that are made here."""
    folder.mkdir(parents=True)
    chance = random.Random(SEED)
    records = ["".join(chance.choices("ACGT", k=BASES + number)) for number in range(RECORDS)]
    (folder / "x.fa").write_text("".join(f">r{number}\n{bases}\n" for number, bases in enumerate(records)))
    rows = [f"{bases[:30]},{'ab'[number % 2]}" for number, bases in enumerate(records)]
    (folder / "x.csv").write_text("\n".join(["sequence,label", *rows, ""]))
    fasta, table = str(folder / "x.fa"), str(folder / "x.csv")
    finetune = ["genomics", "finetune", table, *sets(*SIZE, *STEPS, "data.reverse_complement=true")]
    once = ["--out", str(folder / "language"), "--threads", "1", "--quiet"]
    models = [
        ["genomics", "pretrain", fasta, *once, *sets(*SIZE, "training.steps=1", "data.length=64")],
        ["genomics", "finetune", table, *sets(*SIZE, "training.steps=1"), *once],
    ]
    models[1][models[1].index(str(folder / "language"))] = str(folder / "classifier")
    for command in models:
        if code := ended(begun(command), never):
            sys.exit(f"error: {' '.join(command)} ended with code {code}")
    score = ["genomics", "score", str(folder / "language"), fasta, "--batch-size", "2"]
    predict = ["genomics", "predict", str(folder / "classifier"), fasta, "--batch-size", "2"]
    return {
        "training": Training(folder / "training", "run", [*finetune, *sets("training.checkpoint_every=2")]),
        "writing checkpoints": Checkpoints(
            folder / "checkpoints", "run", [*finetune, *sets("training.checkpoint_every=1", "backbone.width=64")]
        ),
        "scoring": Stream(folder / "scoring", "scores.bedgraph", score),
        "predicting": Stream(folder / "predicting", "predictions.csv", predict),
    }


def report(kept: dict[str, Row]) -> str:
    """A line a count, a column a job."""
    lines = [[what, *(f"{row[what]:,}" for row in kept.values())] for what in COUNTED]
    faults = [f"- {name}: {fault}" for name, row in kept.items() for fault in row["wrong"]]
    told = "\n".join(faults) if faults else "Nothing was wrong after any kill or at any end."
    return (
        f"# Kills\n\n{measured_when(kept)}\n\n{markdown(('counted', *kept), lines)}\n\n{told}\n\n{explained(__doc__)}"
    )


def main() -> None:
    """Kill each job, and end with code 1 if anything was wrong."""
    parser = parser_of(__doc__.splitlines()[0])
    parser.set_defaults(threads=1)
    parser.add_argument("--kills", type=int, default=25, help="of each job")
    rows_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.work / f"kills-{os.getpid()}"
    made: dict[str, Job] = {}

    def measure(name: str) -> Row:
        made.update(made or jobs(folder))
        return killed(made[name], options.kills)

    with results("kills", options, report) as rows:
        for name in ("training", "writing checkpoints", "scoring", "predicting"):
            rows.row(name, {"kills": options.kills, "seed": SEED}, lambda name=name: measure(name))  # type: ignore[misc]
    if any(row["wrong"] for row in rows.kept.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
