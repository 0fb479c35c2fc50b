"""The processes in which things are measured, seen from outside."""

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from titans_seq.errors import EnvironmentFault
from titans_seq.resources import PACKAGE
from titans_seq.signals import Watch

WORKER = Path(__file__).with_name("worker.py")
PEER = "titans-pytorch"


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit(gigabytes: float | None) -> int:
    """Bytes a process may have: so many GiB, or three quarters of the machine's."""
    return int(gigabytes * 2**30) if gigabytes else machine_memory() * 3 // 4


class Worker:
    """One process with one subject; used as a context, which ends it.

    Args:
        job: what `worker` is to build: ``subject``, ``threads``, ``memory_limit`` and what the subject asks for.
        python: interpreter of a peer's environment; ours if not given.
    """

    def __init__(self, job: dict[str, Any], python: str | None = None):
        job = {**job, "path": [] if python else [str(PACKAGE.parent)]}
        # threads that spin for long while they wait would take the time of the process whose turn it is
        environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "GOMP_SPINCOUNT": "1000"}
        environment.pop("OMP_WAIT_POLICY", None)
        if python:
            environment.pop("PYTHONPATH", None)  # what it names belongs to our interpreter
        self.process = subprocess.Popen(
            [python or sys.executable, str(WORKER), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C on a terminal is for us; we end the worker
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, watch: Watch, seconds: float | None = None) -> dict[str, Any]:
        """Have one call done: its ``seconds``, ``peak`` and ``growth`` in bytes, or under ``failed`` why not.

        Raises:
            Interrupted: if a signal comes meanwhile.
        """
        asked, answers = self.process.stdin, self.process.stdout
        assert asked is not None and answers is not None
        begun = time.monotonic()
        with suppress(BrokenPipeError):  # it has ended; its last answer may still be there
            asked.write(b"\n")
            asked.flush()
        while not select.select([answers], [], [], 0.2)[0]:
            watch.stop("Cells that are finished are kept; the same command goes on.")
            if seconds is not None and time.monotonic() - begun > seconds:
                self.process.kill()
                return {"failed": f"more than {seconds:,.0f} s"}
        if line := answers.readline():
            return json.loads(line)
        code = self.process.wait()
        return {"failed": "killed, likely for want of memory" if code == -9 else f"ended with code {code}"}


def peer_versions(python: str) -> dict[str, str]:
    """Versions in the environment of a peer's interpreter.

    Raises:
        EnvironmentFault: if the peer is not installed there.
    """
    program = (
        "import json; from importlib.metadata import version; "
        f"print(json.dumps({{name: version(name) for name in ('{PEER}', 'torch')}}))"
    )
    try:
        done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True)
        return {f"peer's {name}" if name != PEER else name: v for name, v in json.loads(done.stdout).items()}
    except (OSError, json.JSONDecodeError) as error:
        raise EnvironmentFault(f"{python} is no interpreter that has {PEER}. {HOW_TO}") from error


HOW_TO = f"To make one: python -m venv peer; peer/bin/pip install {PEER}; then --peer peer/bin/python."
