"""Workers: what they measure, and every way in which there is nothing to measure."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from titans_seq.bench import layers, worker
from titans_seq.bench.process import Worker, peer_versions
from titans_seq.errors import EnvironmentFault, Interrupted
from titans_seq.signals import watching

JOB = {"subject": "attention", "width": 16, "heads": 2, "chunk_size": 8, "tokens": 64, "backward": True}
JOB |= {"threads": 1, "memory_limit": 2**33}


def test_a_worker_answers_each_call() -> None:
    with watching() as watch, Worker(JOB) as process:
        answers = [process.ask(watch, 600) for _ in range(2)]
    for answer in answers:
        assert answer["seconds"] > 0 and 0 <= answer["growth"] < answer["peak"] < 2**33
    assert process.process.returncode == -signal.SIGKILL, "it lives no longer than its context"


@pytest.mark.soak
def test_a_subject_that_fails_says_why() -> None:
    with watching() as watch, Worker({**JOB, "heads": 3}) as process:
        assert process.ask(watch, 600)["failed"].startswith("RuntimeError: ")


def test_too_little_memory_is_told_as_that() -> None:
    with watching() as watch, Worker({**JOB, "memory_limit": 2**29, "tokens": 10**8}) as process:
        assert process.ask(watch, 600)["failed"] == "out of memory, 0.5 GiB"


def test_a_call_that_takes_too_long_is_ended() -> None:
    with watching() as watch, Worker({**JOB, "tokens": 10**6}) as process:
        assert process.ask(watch, 0.3)["failed"] == "more than 0 s"
        assert process.process.wait(5) == -signal.SIGKILL


def test_a_worker_that_was_killed_is_told_as_that() -> None:
    with watching() as watch, Worker(JOB) as process:
        process.process.kill()
        assert process.ask(watch, 600)["failed"] == "killed, likely for want of memory"


def test_a_signal_ends_the_worker() -> None:
    stopped = pytest.raises(Interrupted, match=r"Stopped by SIGTERM.*the same command goes on")
    with stopped, watching() as watch, Worker({**JOB, "tokens": 10**6}) as process:
        os.kill(os.getpid(), signal.SIGTERM)
        process.ask(watch, 600)
    assert process.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("python", ["/no/such/python", sys.executable])
def test_an_environment_without_the_peer(python: str) -> None:
    with pytest.raises(EnvironmentFault, match=r"no interpreter that has titans-pytorch.*pip install titans-pytorch"):
        peer_versions(python)


# --- inside a worker


PEAK = """
import json, torch
from titans_seq.bench import worker
worker.forget_peak()
start = worker.status("VmRSS")
print(json.dumps(worker.measured(lambda: {"sum": float(torch.ones(25_000_000).sum())}, start)))
"""


def test_the_peak_is_of_the_call() -> None:
    # in a process of its own: in this one, memory that earlier tests have freed would serve again
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["sum"] == 25_000_000
    assert 90_000_000 < answer["growth"] < 150_000_000, "100 MB, and the few pages of code that it needs"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_sizes_are_in_bytes() -> None:
    assert 10**8 < worker.status("VmRSS") <= worker.status("VmHWM") < 10**11


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("subject", ["memory", "attention"])
def test_a_call_is_one_pass(subject: str, backward: bool) -> None:
    job: dict[str, Any] = {**JOB, "backward": backward, "memory": {"conv": 1}}
    layer = getattr(layers, subject)(job)
    seen = []
    layer.register_forward_hook(lambda _, inputs, y: seen.append((inputs[0], y)))
    call = worker.layer_call(layer, job, 24)
    for _ in range(2):
        call()
    assert [y.shape for _, y in seen] == [(1, 24, 16)] * 2
    slopes = [seen[-1][0].grad, *(p.grad for p in layer.parameters())]
    assert all((slope is not None) == backward for slope in slopes)
