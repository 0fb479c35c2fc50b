"""A run that is killed or stopped, and resumed, is the run that was not: losses and weights, bit for bit."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from titans_seq.files import LOCK, locked
from titans_seq.training.module import SequenceModule

PROGRAM = "from titans_seq.cli import main; main()"
STEPS = 36  # of four items; 22 are trained on, so that there are six epochs


@pytest.fixture(scope="module")
def given(tiny: Any) -> list[Any]:
    """A fine-tuning with everything that draws random numbers, and points between validations."""
    settings = {
        "backbone.dropout": 0.2,
        "task.dropout": 0.2,
        "data.reverse_complement": "true",
        "training.batch_size": 4,
        "training.steps": STEPS,
        "training.checkpoint_every": 3,
        "training.validate_every": 10,
        "training.log_every": 1,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["genomics", "finetune", tiny.table, *tiny.size, *sets]


@pytest.fixture(scope="module")
def unbroken(titans: Any, given: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    titans(*given, "--out", run)
    return run


def results(run: Path) -> tuple[bytes, bytes]:
    return (run / "metrics.csv").read_bytes(), (run / "model" / "model.safetensors").read_bytes()


def rows(run: Path) -> list[dict[str, str]]:
    file = run / "metrics.csv"
    if not file.exists():
        return []
    with file.open(newline="") as table:
        return list(csv.DictReader(table))


def stop(arguments: list[Any], run: Path, when: Callable[[list[dict[str, str]]], bool], number: int) -> Any:
    """Start a run in a process of its own, and send it a signal once its metrics say so."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments), "--out", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not when(rows(run)):
            time.sleep(0.01)
        process.send_signal(number)
        told = process.communicate()[1]
    assert "Traceback" not in told, told
    return process.returncode, told


def test_stopped_then_killed_then_resumed(titans: Any, given: list[Any], unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, told = stop(given, run, lambda found: len(found) >= 2, signal.SIGTERM)
    assert code == 143, told
    assert "Stopped by SIGTERM" in told and "the same command with --resume goes on" in told
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["step"]
    assert step == len(rows(run)), "it is saved at the step where it stopped"

    code, told = stop(
        [*given, "--resume"], run, lambda found: len(found) > step and found[-1]["epoch"] == "1", signal.SIGKILL
    )
    assert code == -signal.SIGKILL, told
    assert not (run / "model").exists() and json.loads((run / "manifest.json").read_text())["status"] == "running"
    (run / "checkpoints" / ".draft-1-last.ckpt").write_bytes(b"what a kill leaves")

    assert "warning" not in titans(*given, "--out", run, "--resume").stderr
    assert results(run) == results(unbroken)
    assert len(rows(run)) == STEPS
    assert not [entry for entry in run.rglob("*") if entry.name.startswith(".")], "no draft and no lock is left"


def test_a_runs_recipe_repeats_it(titans: Any, unbroken: Path, tmp_path: Path) -> None:
    titans("run", unbroken / "recipe.yaml", "--out", tmp_path / "again")
    assert results(tmp_path / "again") == results(unbroken)
    assert (tmp_path / "again" / "recipe.yaml").read_bytes() == (unbroken / "recipe.yaml").read_bytes()


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM"])
def test_a_signal_stops_at_the_step_border(
    titans: Any, given: list[Any], unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number, whole = getattr(signal, name), SequenceModule.training_step
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}

    def step(self: SequenceModule, batch: Any, batch_idx: int) -> Any:
        if self.step == 7:
            os.kill(os.getpid(), number)
        return whole(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SequenceModule, "training_step", step)
        told = titans(*given, "--out", tmp_path / "run", code=128 + number).stderr
    assert f"Stopped by {name}. {tmp_path / 'run'} is saved at step 8; the same command with --resume goes on" in told
    assert {n: signal.getsignal(n) for n in before} == before
    if name == "SIGINT":
        last = tmp_path / "run" / "checkpoints" / "last.ckpt"
        point = torch.load(last, weights_only=True)
        torch.save(point | {"seconds": point["seconds"] + 1000}, last)
        titans(*given, "--out", tmp_path / "run", "--resume")
        assert results(tmp_path / "run") == results(unbroken)
        seconds = json.loads((tmp_path / "run" / "manifest.json").read_text())["result"]["seconds"]
        assert 1000 < seconds < 1900, "those of the processes before are counted too, once"


def test_a_finished_run_says_so_and_is_left_alone(titans: Any, given: list[Any], unbroken: Path) -> None:
    def stamps() -> dict[Path, int]:
        return {entry: entry.stat().st_mtime_ns for entry in unbroken.rglob("*") if entry.is_file()}

    before = stamps()
    assert "already finished  yes" in titans(*given, "--out", unbroken, "--resume").stdout
    assert stamps() == before


def test_what_exists_is_not_overwritten_unasked(titans: Any, given: list[Any], unbroken: Path, tmp_path: Path) -> None:
    before = results(unbroken)
    assert f"{unbroken} exists" in titans(*given, "--out", unbroken, code=2).stderr
    assert results(unbroken) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all I have")
    told = titans(*given, "--out", tmp_path / "mine", "--overwrite", code=2).stderr
    assert "is not a run folder, so it is neither resumed nor overwritten" in told
    (tmp_path / "mine" / "recipe.yaml").write_bytes((unbroken / "recipe.yaml").read_bytes())
    for how in ("--overwrite", "--resume"):  # a recipe alone, beside other things, makes no run
        titans("run", tmp_path / "mine" / "recipe.yaml", "--out", tmp_path / "mine", how, code=2)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all I have"


def test_an_overwrite_that_is_killed_leaves_nothing_that_looks_finished(
    titans: Any, given: list[Any], unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("titans_seq.run.shutil.rmtree", killed)
        titans(*given, "--out", run, "--overwrite", code=130)
    assert (run / "model").exists() and not (run / "manifest.json").exists()
    assert "Begin anew with --overwrite" in titans(*given, "--out", run, "--resume", code=2).stderr
    titans(*given, "--out", run, "--overwrite")
    assert results(run) == results(unbroken)


def test_overwrite_begins_anew(titans: Any, tiny: Any, tmp_path: Path) -> None:
    given = ["genomics", "finetune", tiny.table, "--out", tmp_path / "run", *tiny.size, "--set", "training.steps=1"]
    titans(*given)
    (tmp_path / "run" / "notes.txt").touch()
    told = titans(*given, "--overwrite", "--backbone", tmp_path / "run", code=2).stderr
    assert "is part of" in told and "which --overwrite would empty" in told
    (tmp_path / "run" / "checkpoints" / "old.ckpt").touch()
    titans(*given, "--overwrite", "--seed", 5)
    assert (tmp_path / "run" / "notes.txt").exists() and not (tmp_path / "run" / "checkpoints" / "old.ckpt").exists()
    assert "seed: 5" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_an_old_run_is_kept_when_the_new_one_cannot_begin(
    titans: Any, tiny: Any, unbroken: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text("sequence,label\nACGT,x\n")
    before = results(unbroken)
    titans("genomics", "finetune", tmp_path / "bad.csv", "--out", unbroken, *tiny.size, "--overwrite", code=3)
    assert results(unbroken) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seed", "8"], "seed: 0 there, 8 now"),
        (["--set", "training.learning_rate=0.5"], "training.learning_rate: 0.003 there, 0.5 now"),
        (["--set", "backbone.width=32"], "backbone.width: 16 there, 32 now"),
        (["--threads", "2"], "threads: 1 there, 2 now"),
    ],
)
def test_resume_with_another_recipe(
    titans: Any, given: list[Any], unbroken: Path, options: list[str], says: str
) -> None:
    told = titans(*given, *options, "--out", unbroken, "--resume", code=4).stderr
    assert says in told and f"{unbroken} was begun with another recipe" in told


def test_resume_under_other_circumstances_is_doubted(
    titans: Any, given: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    save = SequenceModule.save

    def stops(self: SequenceModule, finished: bool) -> None:
        save(self, finished)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(SequenceModule, "save", stops)
        titans(*given, "--out", run, code=130)
    monkeypatch.setattr("titans_seq.run.__version__", "99.0")
    told = titans(*given, "--out", run, "--resume").stderr
    assert told.count("warning:") == 1 and "will not repeat bit for bit: titans_seq: " in told and "'99.0' now" in told


def test_resume_with_other_data(titans: Any, tiny: Any, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(tiny.table.read_text())
    given = ["genomics", "finetune", table, "--out", tmp_path / "run", *tiny.size, "--set", "training.steps=1"]
    titans(*given)
    table.write_text(tiny.table.read_text() + "ACGTACGTT,a\n")
    told = titans(*given, "--resume", code=3).stderr
    assert "was begun with other data" in told and str(table) in told


def test_resume_with_another_folder_of_classes(titans: Any, tiny: Any, tmp_path: Path) -> None:
    for label, sequence in (("a", "ACGT"), ("b", "TTGA")):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{label}.fa").write_text("".join(f">{i}\n{sequence * (i + 1)}\n" for i in range(6)))
    given = ["genomics", "finetune", tmp_path / "data", "--out", tmp_path / "run", *tiny.size]
    given += ["--set", "training.steps=1"]
    titans(*given)
    (tmp_path / "data" / "b.fa").write_text(">0\nCCCC\n>1\nCCCCC\n")
    assert "was begun with other data" in titans(*given, "--resume", code=3).stderr


def test_a_damaged_point_is_told(titans: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["genomics", "finetune", tiny.table, "--out", tmp_path / "run", *tiny.size, "--set", "training.steps=2"]
    monkeypatch.setattr(SequenceModule, "save", lambda self, finished: os.kill(os.getpid(), signal.SIGINT))
    titans(*given, "--set", "training.validate_every=1", code=130)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 no more")
    told = titans(*given, "--set", "training.validate_every=1", "--resume", code=5).stderr
    assert "last.ckpt cannot be read" in told and "--overwrite" in told


def test_a_second_run_in_the_folder_is_told_who_holds_it(titans: Any, given: list[Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run / LOCK, run):
        for option in ((), ("--resume",), ("--overwrite",)):
            told = titans(*given, "--out", run, *option, code=6).stderr
            assert f"{run} is in use by process {os.getpid()} on " in told
    assert not run.exists()


def test_a_folder_that_cannot_be_written(titans: Any, given: list[Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    told = titans(*given, "--out", tmp_path / "file" / "run", code=6).stderr
    assert f"{tmp_path / 'file' / 'run'} cannot be written" in told
    assert "is a file, and a run is a folder" in titans(*given, "--out", tmp_path / "file", code=2).stderr
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(titans: Any, given: list[Any], tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    told = titans(*given, "--out", tmp_path / "run", code=6).stderr
    assert "cannot be written: Permission denied" in told


def test_training_needs_files(titans: Any, tmp_path: Path) -> None:
    for command in ("genomics pretrain -", "genomics finetune -", "forecast train - --horizon 2"):
        told = titans(*command.split(), "--out", tmp_path / "run", code=2, stdin=">a\nACGT\n").stderr
        assert "not stdin" in told
    assert not list(tmp_path.iterdir())


def test_a_dry_run_starts_nothing(titans: Any, given: list[Any], tmp_path: Path) -> None:
    told = titans(*given, "--out", tmp_path / "run", "--dry-run").stdout
    assert "training items               22" in told and "parameters" in told
    assert not list(tmp_path.iterdir())
