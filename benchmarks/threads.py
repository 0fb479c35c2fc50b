"""Threads: a backbone's step on one thread and on two, by how long a waiting thread spins, alone and beside another."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from titans_seq.backbone import Backbone, BackboneConfig
from titans_seq.bench.results import machine, markdown, versions
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic

SIZES = {  # width, heads, chunk, sequences, tokens each
    "width 64, 16 x 256 tokens": (64, 4, 32, 16, 256),
    "width 128, 1 x 2,048 tokens": (128, 4, 32, 1, 2048),
    "width 128, 32 x 256 tokens": (128, 4, 32, 32, 256),
    "width 256, 4 x 1,024 tokens": (256, 4, 64, 4, 1024),
}
SPINS = {"sleeps at once": {"OMP_WAIT_POLICY": "PASSIVE"}, "as the commands set": {"GOMP_SPINCOUNT": "1000"}}
ROUNDS = 5


def measure() -> None:
    """Print tokens a second, forward with backward, of one block of each size on one thread and on two, in turns."""
    use_fastest_exact_arithmetic()
    for name, (width, heads, chunk, batch, tokens) in SIZES.items():
        torch.manual_seed(0)
        config = {"width": width, "heads": heads, "depth": 1, "block": {"kind": "lmm"}, "memory": {"chunk_size": chunk}}
        backbone, x = Backbone(BackboneConfig.model_validate(config)), torch.randint(0, 4, (batch, tokens))
        found: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(ROUNDS + 1):
            for threads, times in found.items():
                torch.set_num_threads(threads)
                begun = time.perf_counter()
                backbone(x)[0].square().mean().backward()
                if turn:  # the first warms up
                    times.append(time.perf_counter() - begun)
        print(json.dumps([name, *(x.numel() / median(times) for times in found.values())]), flush=True)


def main() -> None:
    """Measure under every way to wait, alone and with a second process that does the same; keep the table."""
    lines = []
    for how, variables in SPINS.items():
        clean = {
            k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
        }
        for processes in (1, 2):
            command = [sys.executable, __file__, "--measure"]
            running = [
                subprocess.Popen(command, env=clean | variables, stdout=subprocess.PIPE, text=True)
                for _ in range(processes)
            ]
            answers = [process.communicate()[0].splitlines() for process in running]
            for line in answers[0]:
                name, one, two = json.loads(line)
                beside = "beside another" if processes == 2 else "alone"
                lines.append([how, beside, name, f"{one:,.0f}", f"{two:,.0f}", f"{two / one:.2f}"])
                print(*lines[-1], sep="  ", flush=True)
    head = ["a waiting thread", "the process is", "one block of", "tokens/s, one thread", "two threads", "ratio"]
    made = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = (
        f"# One thread and two\n\n{time.strftime('%Y-%m-%d')}; {machine()}; {made}. Forward with backward, medians of "
        f"{ROUNDS} in turns. `python benchmarks/threads.py`.\n\n{markdown(head, lines)}\n"
    )
    (Path(__file__).parent / "results" / "threads.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    measure() if "--measure" in sys.argv else main()
