"""Signals end the work at the next step border; a second one ends it at once."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from titans_seq.errors import Interrupted

WARNING = signal.SIGUSR1  # what SLURM sends before the time is over, where it is asked to: sbatch --signal=USR1@90
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, WARNING)


class Watch:
    """Notes the first signal that comes."""

    def __init__(self) -> None:
        self.before = {number: signal.getsignal(number) for number in WATCHED}
        self.caught: int | None = None

    def arm(self) -> None:
        """Take the signals; to be repeated where a library has put handlers of its own.

        What is ignored stays so: ``nohup`` is to outlive its terminal, a shell's background job another one's Ctrl-C.
        """
        for number, handler in self.before.items():
            signal.signal(number, handler if handler is signal.SIG_IGN else self._note)

    def disarm(self) -> None:
        """Put back the handlers from before."""
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self.disarm()

    def stop(self, message: str) -> None:
        """Raise `Interrupted` with ``message`` if a signal came."""
        if self.caught is not None:
            name, code = signal.Signals(self.caught).name, self.caught
            if self.caught == WARNING:
                message, code = f"{message}{_requeued()}", signal.SIGTERM
            raise Interrupted(code, f"Stopped by {name}. {message}")


def _requeued() -> str:
    """Put the SLURM job that this process is the first of into the queue again, and say so; else say nothing.

    Only a command with ``--resume`` goes on when it begins again.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_PROCID", "0") != "0" or not shutil.which("scontrol"):
        return ""
    if "--resume" not in sys.argv:
        return f" SLURM job {job} is not queued again: without --resume in its script it would not go on."
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    return f" SLURM job {job} " + (
        f"could not be queued again: {done.stderr.strip()}" if done.returncode else "is queued again."
    )


@contextmanager
def watching() -> Iterator[Watch]:
    """Note SIGINT, SIGTERM, SIGHUP and SIGUSR1 instead of dying of them."""
    watch = Watch()
    watch.arm()
    try:
        yield watch
    finally:
        watch.disarm()
