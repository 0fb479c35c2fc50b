"""The start of human chr20 scored by the command line: speed, memory, kills, and streaming against one pass.

`titans-seq genomics score` runs in a process of its own, three times: to its end, its memory looked at all the while;
killed (SIGKILL) at several moments and resumed with ``--resume``, after which its file must be the same bytes; and over
the last 100,000 bases alone, whose scores are compared with those of one call of the model over all of them at once.
Memory is read from /proc, so that this needs Linux.
"""

import argparse
import gzip
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from common import HERE, Row, explained, measured_when, parsed, parser_of, results, rows_options

from titans_seq import pieces
from titans_seq.bench.results import MiB, markdown
from titans_seq.checkpoint import find
from titans_seq.data.record import decode
from titans_seq.data.reference import Reference
from titans_seq.data.windows import BEGIN
from titans_seq.files import sha256, whole_file
from titans_seq.job import load
from titans_seq.resources import data_file

CHR20, NAME = "card:human_b37/human_b37_chr20.fa.gz", "20"
ONE_PASS = 100_000  # bases that are also read at once
KILLS = (0.2, 0.5, 0.35)  # shares of the time of a whole run after which a process is killed, one after another
PARTS = 10  # of a run, of each of which the largest resident size is kept


class Watched(NamedTuple):
    """What was seen of a process from outside: how long it ran, and its resident bytes at moments (seconds, bytes)."""

    seconds: float
    resident: list[tuple[float, int]]
    code: int


def watched(command: Sequence[str], until: float = float("inf")) -> Watched:
    """Run a command to its end, or kill it after so many seconds."""
    begun, resident = time.monotonic(), []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            now = time.monotonic() - begun
            if now > until:
                process.kill()
            elif size := _resident(process.pid):
                resident.append((now, size))
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    return Watched(time.monotonic() - begun, resident, process.returncode)


def _resident(pid: int) -> int:
    """Resident bytes of a process; 0 once it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Scoring:
    """The command, on a FASTA of ``bases``."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.genome = Reference(data_file(CHR20))

    def cut(self, start: int, end: int) -> Path:
        """A FASTA of a stretch of the chromosome."""
        file = self.options.work / f"chr20-{start}-{end}.fa.gz"
        with whole_file(file) as draft, gzip.open(draft, "wt", compresslevel=1) as out:
            out.write(f">{NAME}\n{decode(self.genome.codes(NAME, start, end))}\n")
        return file

    def command(self, fasta: Path, out: Path, *more: str) -> list[str]:
        """The command line, with one track; reading one record, it takes about 10 bytes a base of disk."""
        program = [sys.executable, str(HERE.parent / "cli.py"), "genomics", "score", self.options.model]
        told = ["--out", str(out), "--track", "loglik", "--threads", str(self.options.threads), "--quiet"]
        return [*program, str(fasta), *told, *more]

    def whole(self, fasta: Path) -> tuple[Watched, Path]:
        """A run to its end."""
        out = self.options.work / "chr20.parquet"
        found = watched(self.command(fasta, out, "--overwrite"))
        if found.code:
            sys.exit(f"error: genomics score ended with code {found.code}")
        return found, out

    def killed(self, fasta: Path, seconds: float) -> tuple[list[float], Path]:
        """A run that is killed and resumed; the moments at which it was, in seconds of each process."""
        out = self.options.work / "chr20-killed.parquet"
        for left in out.parent.glob(f".*{out.name}*"):  # of an earlier run that was stopped
            left.unlink()
        out.unlink(missing_ok=True)
        ends = [watched(self.command(fasta, out, "--resume"), share * seconds) for share in KILLS]
        last = watched(self.command(fasta, out, "--resume"))
        if last.code:
            sys.exit(f"error: the resumed genomics score ended with code {last.code}")
        return [end.seconds for end in ends if end.code == -9], out

    def one_pass(self, start: int, end: int) -> dict[str, float]:
        """Largest difference between streamed log-likelihoods, in nats a base, and those of one call of the model."""
        out = self.options.work / "chr20-streamed.parquet"
        subprocess.run(self.command(self.cut(start, end), out, "--overwrite"), check=True, stdout=subprocess.DEVNULL)
        streamed = pl.read_parquet(out)["loglik"].fill_null(np.nan).to_numpy()
        model = load(self.options.model, "genomics", "cpu", self.options.threads).eval()
        tokens = torch.from_numpy(self.genome.codes(NAME, start, end).astype(np.int64))[None]
        batch = {"tokens": tokens, "previous": torch.tensor([BEGIN])}
        cut_at, pieces.PIECE = pieces.PIECE, end - start  # so that nothing is cut
        with torch.inference_mode():
            hidden, _ = model.backbone(model.head.inputs(batch))
            whole = model.head.token_loglik(hidden, batch)[0].numpy()
        pieces.PIECE = cut_at
        known = np.isfinite(streamed)
        return {
            "bases": int(known.sum()),
            "largest_difference_nats": float(np.abs(streamed - whole)[known].max()),
            "mean_loglik_nats": float(whole[known].mean()),
        }


def measure(options: argparse.Namespace) -> Row:
    """All of it."""
    scoring = Scoring(options)
    fasta = scoring.cut(0, options.bases)
    run, out = scoring.whole(fasta)
    moments, again = scoring.killed(fasta, run.seconds)
    parts: list[list[int]] = [[] for _ in range(PARTS)]
    for second, size in run.resident:
        parts[min(PARTS - 1, int(PARTS * second / run.seconds))].append(size)
    return {
        "seconds": round(run.seconds, 1),
        "bases_a_second": round(options.bases / run.seconds),
        "peak_MiB_by_tenth": [round(max(part) / MiB, 1) if part else None for part in parts],
        "killed_after_seconds": [round(second, 1) for second in moments],
        "resumed_file_is_the_same": sha256(out) == sha256(again),
        "one_pass": scoring.one_pass(max(0, options.bases - ONE_PASS), options.bases),
    }


def report(kept: dict[str, Row]) -> str:
    """A line a model, and the memory by tenth of the run."""
    head = (
        "model, bases",
        "seconds",
        "bases a second",
        "killed after (s)",
        "same bytes",
        "one pass: largest difference",
    )
    lines = []
    for key, row in kept.items():
        kills = ", ".join(f"{second:,.0f}" for second in row["killed_after_seconds"])
        same = "yes" if row["resumed_file_is_the_same"] else "NO"
        far = f"{row['one_pass']['largest_difference_nats']:.1e} nats over {row['one_pass']['bases']:,}"
        lines.append([key, f"{row['seconds']:,.0f}", f"{row['bases_a_second']:,}", kills, same, far])
    memory = [
        [key, *(f"{size:,.0f}" if size else "" for size in row["peak_MiB_by_tenth"])] for key, row in kept.items()
    ]
    return "\n\n".join(
        [
            "# The start of human chr20, scored as a stream",
            measured_when(kept),
            markdown(head, lines),
            "Largest resident size in MiB, by tenth of the run (the first has the start of Python and torch):",
            markdown(("model, bases", *(f"{n}/{PARTS}" for n in range(1, PARTS + 1))), memory),
            explained(__doc__),
        ]
    )


def main() -> None:
    """Measure a model, if it is not there yet."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--model", default="dna_small", help="language model: a run, folder or shipped name")
    parser.add_argument("--bases", type=int, default=5_000_000, help="from the first base on")
    rows_options(parser)
    options = parsed(parser)
    with results("chromosome", options, report) as rows:
        weights = sha256(find(options.model) / "model.safetensors")[:16]
        settings = {"weights": weights, "bases": options.bases, "threads": options.threads}
        rows.row(f"{Path(options.model).name}, {options.bases:,}", settings, lambda: measure(options))


if __name__ == "__main__":
    main()
