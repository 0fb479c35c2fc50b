"""What a signal does: work stops at a step border, a second one ends it at once, and SLURM queues the job again."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from titans_seq.errors import Interrupted
from titans_seq.signals import WATCHED, watching
from titans_seq.training.module import SequenceModule

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 143}


def training(tiny: Any, run: Path, *options: str) -> list[Any]:
    sets = ("training.steps=12", "training.batch_size=4", "training.checkpoint_every=3", "training.validate_every=6")
    given = [part for setting in sets for part in ("--set", setting)]
    return ["genomics", "finetune", tiny.table, *tiny.size, *given, "--out", run, *options]


def signals_at(step: int, *numbers: int) -> Any:
    """A training step that at a step of the run sends this process signals."""
    whole = SequenceModule.training_step

    def step_with_signals(self: SequenceModule, batch: Any, batch_idx: int) -> Any:
        if self.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)
                while self.watch.caught is None:  # two that come before it is noted are one
                    time.sleep(0.001)
            time.sleep(0.05)  # a second one is raised here, and not where an exception would be ignored
        return whole(self, batch, batch_idx)

    return step_with_signals


@pytest.mark.parametrize("name", CODES)
def test_the_first_signal_is_noted_and_has_its_code(name: str) -> None:
    number = getattr(signal, name)
    before = {n: signal.getsignal(n) for n in WATCHED}
    with watching() as watch:
        watch.stop("nothing came")
        os.kill(os.getpid(), number)
        assert {n: signal.getsignal(n) for n in WATCHED} == before, "a second one does what it did before"
        with pytest.raises(Interrupted, match=f"^Stopped by {name}. saved$") as told:
            watch.stop("saved")
    assert told.value.exit_code == CODES[name]


def test_what_is_ignored_stays_ignored() -> None:
    """Under nohup a terminal that is closed ends nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watching() as watch:
            os.kill(os.getpid(), signal.SIGHUP)
            watch.stop("it went on")
            watch.arm()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_interrupts_end_a_training_at_once(
    titans: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SequenceModule, "training_step", signals_at(7, signal.SIGINT, signal.SIGINT))
        told = titans(*training(tiny, run), code=130).stderr
    assert "bug" not in told
    point = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert point["step"] == 6, "that of the last point, not of the step where it ended"
    assert not [entry for entry in run.rglob("*") if entry.name.startswith(".")]
    titans(*training(tiny, run, "--resume"))
    titans(*training(tiny, tmp_path / "unbroken"))
    for name in ("metrics.csv", "model/model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


# --- SLURM


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of SLURM's, whose ``scontrol`` notes what it is asked for here."""
    noted, tool = tmp_path / "calls", tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {noted}\ntest ! -e {tmp_path}/broken || {{ echo no such job >&2; exit 1; }}\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", ["titans-seq", "run", "r.yaml", "--resume"])
    for name, value in {"JOB_ID": "77", "NTASKS": "1", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name, value in {"NODEID": "0", "NNODES": "1", "JOB_NODELIST": "127.0.0.1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return noted


def test_slurm_is_asked_once_for_a_job_that_goes_on(
    titans: Any, tiny: Any, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(SequenceModule, "training_step", signals_at(4, signal.SIGUSR1))
    told = titans(*training(tiny, run, "--resume"), code=143).stderr
    assert "Stopped by SIGUSR1" in told and f"{run} is saved at step 5" in told and "job 77 is queued again" in told
    assert calls.read_text() == "requeue 77\n"
    assert not list(run.glob("hpc_ckpt*")), "no checkpoint of Lightning's own, from which it would start by itself"


@pytest.mark.parametrize(
    ("change", "says", "asked"),
    [
        ({"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}, "SLURM job 70_3 is queued again", "requeue 70_3\n"),
        ({"SLURM_PROCID": "1"}, "saved", None),
        ({"PATH": ""}, "saved", None),
        ({"argv": "titans-seq run r.yaml"}, "not queued again: without --resume in its script", None),
        ({"broken": "1"}, "SLURM job 77 could not be queued again: no such job", "requeue 77\n"),
    ],
    ids=["array", "another rank", "no scontrol", "no --resume", "refused"],
)
def test_which_jobs_are_queued_again(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], says: str, asked: str | None
) -> None:
    for name, value in change.items():
        if name == "argv":
            monkeypatch.setattr(sys, "argv", value.split())
        elif name == "broken":
            (tmp_path / name).touch()
        else:
            monkeypatch.setenv(name, value)
    with watching() as watch:
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted, match=says):
            watch.stop("It is saved.")
    assert (calls.read_text() if calls.exists() else None) == asked
