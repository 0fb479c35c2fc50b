"""Disks that are full, limited, read-only or shared with another process, memory that is not there, and clocks."""

import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from titans_seq.data.reference import Reference
from titans_seq.data.write import PartFile
from titans_seq.errors import EnvironmentFault
from titans_seq.training.points import Metrics

COUNT = 60  # records, of some hundred bases


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    file = tmp_path / "in" / "x.fa"
    file.parent.mkdir()
    file.write_text("".join(f">r{i}\n{'ACGT' * (i + 5)}\n" for i in range(COUNT)))
    return file


def finetune(tiny: Any, run: Path, *options: Any) -> list[Any]:
    sets = ("steps=8", "checkpoint_every=1", "log_every=1", "batch_size=4", "validate_every=4")
    return ["genomics", "finetune", tiny.table, *tiny.size, *(p for s in sets for p in ("--set", f"training.{s}")),
            "--out", run, *options]  # fmt: skip


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Refuse this process larger files, as `ulimit -f` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- no room


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_limit_on_the_size_of_files_ends_a_prediction(
    titans: Any, models: Any, fasta: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / "out" / f"o.{suffix}"
    with files_of_at_most(1000):
        told = titans("genomics", "predict", models.classifier, fasta, "--out", out, code=6).stderr
    assert "File too large while writing" in told and str(out) in told and "--resume" in told
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_a_limit_on_the_size_of_files_keeps_the_last_point_of_a_run(titans: Any, tiny: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with files_of_at_most(20_000):  # of a point with the optimiser's moments; weights alone would go in
        told = titans(*finetune(tiny, run), code=6).stderr
    assert "File too large while writing" in told and "checkpoints" in told
    assert not (run / "model").exists() and not [e for e in run.rglob("*") if e.name.startswith(".")]
    titans(*finetune(tiny, run, "--resume"))
    titans(*finetune(tiny, tmp_path / "unbroken"))
    assert (run / "metrics.csv").read_bytes() == (tmp_path / "unbroken" / "metrics.csv").read_bytes()


def test_a_prediction_goes_on_when_there_is_room_again(
    titans: Any, models: Any, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["genomics", "predict", models.classifier, fasta, "--batch-size", 4]
    write, written = PartFile.write, 0

    def fills(self: PartFile, rows: list[Any]) -> None:
        nonlocal written
        written += len(rows)
        if written > COUNT // 2:
            self.file.write(b'{"id": "half a')  # what went in before the disk was full
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, rows)

    out = tmp_path / "o.csv"
    with monkeypatch.context() as patch:
        patch.setattr("titans_seq.stream.SAVE_EVERY", 0)
        patch.setattr(PartFile, "write", lambda *a: _told_of(out, fills, *a))
        told = titans(*given, "--out", out, code=6).stderr
    assert "No space left on device while writing" in told and not out.exists()
    titans(*given, "--out", out, "--resume")
    titans(*given, "--out", tmp_path / "unbroken.csv")
    assert out.read_bytes() == (tmp_path / "unbroken.csv").read_bytes()
    assert not list(tmp_path.glob("*o.csv.*"))


def _told_of(out: Path, write: Any, *arguments: Any) -> None:
    from titans_seq.files import telling_disk_faults

    with telling_disk_faults(out):
        write(*arguments)


@pytest.mark.parametrize("torn", ["3", "3,0,0.1", '"'])
def test_a_row_of_metrics_that_a_full_disk_cut_is_written_again(tmp_path: Path, torn: str) -> None:
    file = tmp_path / "metrics.csv"
    rows: list[dict[str, float | int]] = [{"step": step, "train_loss": 1 / step} for step in range(1, 41)]
    whole = Metrics(file, 0)
    for row in rows:
        whole.write(row)
    wanted = file.read_bytes()
    file.write_bytes(b"\n".join(wanted.split(b"\n")[:36]) + b"\n" + torn.encode())
    resumed = Metrics(file, 35)
    for row in rows[35:]:
        resumed.write(row)
    assert file.read_bytes() == wanted


def test_a_genome_whose_copy_has_no_room_is_told(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(">a\n" + "ACGT" * 5000 + "\n")
    with files_of_at_most(1000), pytest.raises(EnvironmentFault, match=r"g.fa .* copy in .* File too large .*TMPDIR"):
        Reference(tmp_path / "g.fa")


def test_no_folder_for_temporary_files_is_needed(
    titans: Any, tiny: Any, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("mkstemp", "mkdtemp", "TemporaryFile", "NamedTemporaryFile", "gettempdir"):
        monkeypatch.setattr(tempfile, name, full)
    titans(*finetune(tiny, tmp_path / "run"))
    titans("genomics", "predict", tmp_path / "run", fasta, "--out", tmp_path / "o.parquet")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that is there and cannot be written, for root neither."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("root may write anywhere, and nothing can be mounted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("verb", ["predict", "score", "finetune"])
def test_a_folder_that_cannot_be_written_is_told_before_work(
    titans: Any, tiny: Any, models: Any, read_only: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("titans_seq.job.load_pretrained", lambda source: pytest.fail("a model was loaded"))
    monkeypatch.setattr("titans_seq.job.SequenceModel", lambda *_: pytest.fail("a model was made"))
    given = {
        "predict": ["genomics", "predict", models.classifier, tiny.fasta, "--out", read_only / "o.csv"],
        "score": ["genomics", "score", models.language, tiny.fasta, "--out", read_only / "new" / "o.parquet"],
        "finetune": finetune(tiny, read_only / "run"),
    }[verb]
    told = titans(*given, code=6).stderr
    assert f"{given[given.index('--out') + 1]} cannot be written: " in told and "Choose another --out" in told


# --- another process


HOLDER = """
import os, sys, time
from pathlib import Path
from titans_seq.errors import EnvironmentFault
from titans_seq.files import locked
folder, held = Path(sys.argv[1]), 0
while held < 20:
    try:
        with locked(folder / ".lock", folder):
            os.close(os.open(folder / "busy", os.O_CREAT | os.O_EXCL))  # fails if another is inside
            time.sleep(0.0005)
            os.unlink(folder / "busy")
            held += 1
    except EnvironmentFault as error:
        assert "is in use by" in str(error)
"""


def test_of_processes_that_start_together_one_is_inside(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    assert not list(tmp_path.iterdir())


def test_what_a_kill_after_the_last_step_left_is_cleared(titans: Any, models: Any, fasta: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "o.csv"
    titans("genomics", "predict", models.classifier, fasta, "--out", out)
    whole = out.read_bytes()
    for name in ("o.csv.part", "o.csv.point"):
        (out.parent / name).write_bytes(b"what a kill leaves")
    assert (
        "already finished" in titans("genomics", "predict", models.classifier, fasta, "--out", out, "--resume").stdout
    )
    assert [entry.name for entry in out.parent.iterdir()] == ["o.csv"] and out.read_bytes() == whole


# --- memory, network, clock


def test_memory_that_is_not_there_is_told(titans: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titans_seq.data.audit.audit_sequences", lambda *_, **__: torch.empty(1 << 50))
    told = titans("genomics", "audit", tiny.fasta, code=6).stderr
    assert told.startswith("error: Out of memory (can't allocate memory: you tried to allocate 4503599627370496 bytes")
    assert "--batch-size" in told


def test_the_network_is_not_touched(
    titans: Any, tiny: Any, models: Any, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, lambda *a: pytest.fail(f"the network was touched: {a}"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail(f"a name was looked up: {a}"))
    titans(*finetune(tiny, tmp_path / "run"))
    titans("genomics", "predict", tmp_path / "run", fasta, "--out", tmp_path / "o.csv")
    titans("forecast", "predict", models.wide, tiny.wide, "--out", tmp_path / "f.csv")


@pytest.mark.parametrize("shift", [-10 * 365 * 86400, 10 * 365 * 86400], ids=["back", "forth"])
def test_no_clock_decides(titans: Any, models: Any, fasta: Path, tmp_path: Path, shift: int) -> None:
    """Neither an input that seems changed, nor an index that seems old, nor an output that seems newer."""
    given = ["genomics", "predict", models.classifier, fasta]
    titans(*given, "--out", tmp_path / "before.csv")
    (fasta.parent / "x.fa.fai").write_text("r0\t99\t4\t10\t11\n")  # does not fit, however new it is
    when = time.time() + shift
    for file in (fasta, fasta.parent / "x.fa.fai"):
        os.utime(file, (when, when))
    told = titans(*given, "--out", tmp_path / "after.csv").stderr
    assert "gives record 'r0' 99 bases" in told
    assert (tmp_path / "before.csv").read_bytes() == (tmp_path / "after.csv").read_bytes()


def test_memory_of_a_gpu_that_is_not_there_is_told(titans: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.")

    monkeypatch.setattr("titans_seq.data.audit.audit_sequences", fails)
    told = titans("genomics", "audit", tiny.fasta, code=6).stderr
    assert "Out of memory (CUDA out of memory. Tried to allocate 90.00 GiB.)" in told and "--batch-size" in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    given = ["genomics", "predict", models.classifier, tiny.fasta, "--out", tmp_path / "o.csv", "--device", "cuda"]
    told = titans(*given, code=6).stderr
    assert torch.__version__ in told and "--device cpu" in told and not list(tmp_path.iterdir())
