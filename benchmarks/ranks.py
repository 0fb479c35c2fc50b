"""Ranks: steps a second of a training on one process and on two, which share its batches, on one thread each.

Whole runs of the command line, in turns. Steps are timed from the tenth to the last but one, so that neither start nor
validation counts. Two ranks need two free cores: the load of the machine before it began stands in the table, and
above 0.5 the ratio says nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import HERE, explained

from titans_seq.bench.results import machine, markdown, versions
from titans_seq.resources import find

SIZES = {  # config, items a step, bases a window
    "dna_tiny, 32 x 256 bases": ("dna_tiny", 32, 256),
    "dna_small, 16 x 1,024 bases": ("dna_small", 16, 1024),
}
STEPS, WARM, ROUNDS = 40, 10, 3
PROGRAM = """
import sys, time
from titans_seq.training.module import SequenceModule
end, times = SequenceModule.on_train_batch_end, []
def timed(self, *given):
    end(self, *given)
    times.append(time.perf_counter())
SequenceModule.on_train_batch_end = timed
from titans_seq.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print((len(times) - 2 - WARM) / (times[-2] - times[WARM]), file=sys.stderr)
""".replace("WARM", str(WARM))


def steps_a_second(config: str, batch: int, length: int, ranks: int, out: Path) -> float:
    """One run of so many ranks."""
    settings: dict[str, Any] = {
        "data.length": length,
        "training.batch_size": batch,
        "training.steps": STEPS,
        "training.validate_every": STEPS,
        "training.checkpoint_every": 10 * STEPS,
    }
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    genome = find("datasets", "ecoli_region") / "region.fa.gz"
    words = ["genomics", "pretrain", str(genome), "--out", str(out), "--config", config, "--threads", "1", "--quiet"]
    command = [sys.executable, "-c", PROGRAM, *words, "--devices", str(ranks), *sets]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stderr.split()[-1])


def main() -> None:
    """Measure every size on one rank and on two, in turns; keep the table and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    load, found, lines = os.getloadavg()[0], {}, []
    for name, size in SIZES.items():
        speeds: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(options.rounds):
            for ranks, rates in speeds.items():
                with tempfile.TemporaryDirectory() as folder:
                    rates.append(steps_a_second(*size, ranks, Path(folder) / "run"))
                print(f"{name}, {ranks} ranks, round {turn + 1}: {rates[-1]:.3g} steps/s", file=sys.stderr, flush=True)
        one, two = median(speeds[1]), median(speeds[2])
        found[name] = {"one": speeds[1], "two": speeds[2], "ratio": two / one}
        lines.append([name, f"{one:.3g}", f"{two:.3g}", f"{two / one:.2f}"])
    made = ", ".join(f"{library} {number}" for library, number in versions().items())
    text = (
        f"# One rank and two\n\n{time.strftime('%Y-%m-%d')}; {machine()}; {made}; load before {load:.1f}. Medians of "
        f"{options.rounds} runs. `python benchmarks/ranks.py --rounds {options.rounds}`.\n\n"
        f"{markdown(['training', 'steps/s, one rank', 'two ranks', 'ratio'], lines)}\n\n{explained(__doc__)}"
    )
    (HERE / "results" / "ranks.json").write_text(json.dumps({"load_before": load, **found}, indent=2) + "\n", "utf-8")
    (HERE / "results" / "ranks.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
