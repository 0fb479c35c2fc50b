"""A process that measures one subject: each line on stdin is answered with the cost of one call.

It runs by its path, under a peer's interpreter too, where neither titans_seq nor a library of ours is installed:
torch and the standard library must do, and what is measured is imported on use.
"""

from __future__ import annotations  # a peer's Python may be older than ours

import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Job = dict[str, Any]
STREAMS = {"stream": "titans_seq.bench.long", "needle": "titans_seq.bench.needles"}  # modules with a `stream_call`
Call = Callable[[], Any]  # what is measured; a mapping it returns is added to the answer


def status(name: str) -> int:
    """Bytes of a line of ``/proc/self/status``; the largest resident size so far where there is no such file."""
    try:
        with open("/proc/self/status") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith(name))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Let the largest resident size begin again at the present one, where the system can."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def limit_memory(size: int) -> None:
    """Make an allocation beyond ``size`` bytes fail here, before the system ends somebody else's process."""
    with suppress(OSError, ValueError):  # a lower limit is there already
        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def peer_layer(job: Job) -> Any:
    """Build the layer of titans-pytorch, its defaults but for the shape: (1, T, D) to (1, T, D) and its state."""
    package = importlib.import_module("titans_pytorch")  # of the peer's environment: no dependency of ours
    head_width = job["width"] // job["heads"]
    return package.NeuralMemory(
        dim=job["width"],
        heads=job["heads"],
        dim_head=head_width,
        chunk_size=job["chunk_size"],
        batch_size=job["batch_size"],
        model=package.MemoryMLP(head_width, depth=2, expansion_factor=2.0),
    )


def layer_call(layer: Any, job: Job, tokens: int) -> Call:
    """One pass of a layer over (1, tokens, width), with its backward pass if asked."""
    import torch

    x = torch.randn(1, tokens, job["width"], requires_grad=job["backward"])

    def call() -> None:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(job["backward"]):
            y = layer(x)
        if job["backward"]:
            y = y[0] if isinstance(y, tuple) else y
            y.square().mean().backward()

    return call


def prepare(job: Job) -> Call:
    """Build the subject, warm it up on something short, and return the call to measure."""
    if job["subject"] in STREAMS:
        return importlib.import_module(STREAMS[job["subject"]]).stream_call(job)
    build = peer_layer
    if job["subject"] != "peer":
        build = getattr(importlib.import_module("titans_seq.bench.layers"), job["subject"])
    layer = build(job)
    layer_call(layer, job, 2 * job["chunk_size"])()
    return layer_call(layer, job, job["tokens"])


def measured(call: Call, start: int) -> dict[str, Any]:
    """Cost of one call: seconds of the clock and of processors; bytes at the peak so far, and above ``start``."""
    gc.collect()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    found = call()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    peak = status("VmHWM")
    return {"seconds": seconds, "cpu_seconds": cpu, "peak": peak, "growth": peak - start, **(found or {})}


def reason(error: Exception, job: Job) -> str:
    """Why there is no measurement, in a line."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return f"out of memory, {job['memory_limit'] / 2**30:.3g} GiB"
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"


def main() -> None:
    """Serve until stdin ends."""
    job = json.loads(sys.argv[1])
    sys.path[:1] = []  # this file's folder, whose modules are parts of a package
    sys.path += job["path"]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        import torch

        torch.set_num_threads(job["threads"])
        torch.set_flush_denormal(True)
        torch.set_float32_matmul_precision(job.get("matmul", "highest"))
        torch.manual_seed(0)
        limit_memory(job["memory_limit"])
        call = prepare(job)
        gc.collect()
        forget_peak()
        start = status("VmRSS")
        for _ in sys.stdin:
            print(json.dumps(measured(call, start)), file=answers)
    except Exception as error:  # whatever it is, it is told as the cell's result
        print(json.dumps({"failed": reason(error, job)}), file=answers)


if __name__ == "__main__":
    main()
