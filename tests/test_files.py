"""Files and folders appear whole or not at all, whatever ends the work; locks tell who holds them."""

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from titans_seq.errors import EnvironmentFault, InputError, UsageError
from titans_seq.files import (
    LOCK,
    clear_drafts,
    locked,
    must_be_new,
    sha256,
    to_json,
    whole_file,
    whole_folder,
    write_text,
)


class Ended(BaseException):
    """What ends a process in the middle, such as Ctrl-C."""


FAULTS: dict[str, tuple[BaseException, type[BaseException]]] = {
    "bug": (ValueError("x"), ValueError),
    "Ctrl-C": (Ended(), Ended),
    "bad input": (InputError("x"), InputError),
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), EnvironmentFault),
    "disk full, by a library": (RuntimeError("I/O error: No space left on device (os error 28)"), EnvironmentFault),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), EnvironmentFault),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), EnvironmentFault),
    "no permission, by a library": (RuntimeError("I/O error: Permission denied (os error 13)"), EnvironmentFault),
    "no permission": (PermissionError(errno.EACCES, "Permission denied"), EnvironmentFault),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("there", [False, True])
def test_a_file_is_whole_or_as_it_was(tmp_path: Path, fault: str, there: bool) -> None:
    file, (raised, expected) = tmp_path / "out.txt", FAULTS[fault]
    if there:
        file.write_text("old")
    with pytest.raises(expected) as told, whole_file(file) as draft:
        draft.write_text("half of the n")
        raise raised
    if expected is EnvironmentFault:
        assert str(file) in str(told.value)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"] * there
    with whole_file(file) as draft:
        draft.write_text("new")
        assert not file.exists() or file.read_text() == "old"
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_whole_or_as_it_was(tmp_path: Path, fault: str, there: bool) -> None:
    folder, (raised, expected) = tmp_path / "model", FAULTS[fault]
    if there:
        folder.mkdir()
        (folder / "a").write_text("old")
    with pytest.raises(expected), whole_folder(folder) as draft:
        (draft / "a").write_text("new")
        raise raised
    assert [entry.read_text() for entry in tmp_path.rglob("*") if entry.is_file()] == ["old"] * there
    with whole_folder(folder) as draft:
        (draft / "b").write_text("new")
    assert {entry.relative_to(tmp_path).as_posix() for entry in tmp_path.rglob("*")} == {"model", "model/b"}


def test_what_is_written_reaches_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    write_text(tmp_path / "a", "text")
    assert done == ["fsync", "replace", "fsync"], "the file, its name, the folder that holds the name"


def test_folders_above_a_file_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "é")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "é".encode()


def test_only_drafts_of_the_given_names_are_cleared(tmp_path: Path) -> None:
    mine = [".draft-12-a.csv", ".draft-old-7-a.csv"]
    others = ["a.csv", ".draft-12-my-a.csv", ".draft-x-a.csv", "draft-12-a.csv", ".draft-12-axcsv"]
    for name in (*mine, *others):
        (tmp_path / name).touch()
    clear_drafts(tmp_path, "a.csv")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(others)
    (tmp_path / ".draft-3-model").mkdir()
    clear_drafts(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".draft-x-a.csv", "a.csv", "draft-12-a.csv"]


def test_sums(tmp_path: Path) -> None:
    file, folder = tmp_path / "a", tmp_path / "folder"
    file.write_bytes(b"abc" * 100_000)
    assert sha256(file) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "1").write_text("one")
    first = sha256(folder)
    assert first == sha256(folder)
    (folder / "x" / "1").rename(folder / "x" / "2")
    second = sha256(folder)
    (folder / "x" / "2").write_text("two")
    assert len({first, second, sha256(folder)}) == 3


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_an_output_that_exists(tmp_path: Path, make: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    must_be_new(out, overwrite=False)
    make(out)
    if folder := out.is_dir():
        must_be_new(out, overwrite=False, folder=True)  # there is nothing in it to lose
        (out / "file").touch()
    with pytest.raises(UsageError, match=r"out exists\. Choose another --out, or add --overwrite"):
        must_be_new(out, overwrite=False, folder=folder)
    must_be_new(out, overwrite=True, folder=folder)
    must_be_new(out, overwrite=False, resume=True, folder=folder)
    if out.exists():
        with pytest.raises(UsageError, match=f"out is a {'folder' if folder else 'file'}"):
            must_be_new(out, overwrite=True, folder=not folder)


def test_json_has_no_number_that_json_does_not_know() -> None:
    text = to_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x"), "é": None})
    assert text.isascii() and "NaN" not in text and "Infinity" not in text and '"c": "x"' in text


# --- locks


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run / LOCK, run):
        assert (run / LOCK).exists()
        told = rf"run is in use by process {os.getpid()} on .*\. Wait for it"
        with pytest.raises(EnvironmentFault, match=told), locked(run / LOCK, run):
            pass
        (run / "work").touch()
    assert [entry.name for entry in run.iterdir()] == ["work"]
    with locked(run / LOCK, run):
        pass


def test_a_lock_that_a_killed_process_left_is_free(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("process 1 on another")
    with locked(tmp_path / LOCK, tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} ")


def test_a_folder_that_a_lock_made_goes_with_it(tmp_path: Path) -> None:
    with pytest.raises(InputError), locked(tmp_path / "new" / LOCK, tmp_path / "new"):
        raise InputError("nothing was written")
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / LOCK, tmp_path):
        pass
    assert tmp_path.exists(), "one that was there stays"


def test_a_lock_whose_holder_ended_meanwhile_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    flock = fcntl.flock

    def late(file: Any, how: int) -> None:  # between opening and locking, the holder removes the file
        (tmp_path / LOCK).unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(EnvironmentFault, match="is in use by"), locked(tmp_path / LOCK, tmp_path):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="cannot be written: "):
        write_text(tmp_path / "file" / "a", "x")
    with pytest.raises(EnvironmentFault, match="cannot be written"), locked(tmp_path / "file" / "a" / LOCK, tmp_path):
        pass


# --- a disk that is really full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 240 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=240k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_full_disk_leaves_the_old_predictions(
    titans: Any, models: Any, small_disk: Path, tmp_path: Path, suffix: str
) -> None:
    out, fasta = small_disk / f"out{suffix}", tmp_path / "x.fa"
    fasta.write_text("".join(f">r{i}\nACGT\n" for i in range(3000)))
    out.write_text("old")
    told = titans("genomics", "predict", models.classifier, fasta, "--out", out, "--overwrite", code=6).stderr
    assert "No space left on device while writing" in told and str(out) in told and "--resume" in told
    assert out.read_text() == "old"
    assert [entry.name for entry in small_disk.iterdir()] == [out.name], "room is made again"


def test_a_full_disk_keeps_the_last_point_of_a_run(titans: Any, tiny: Any, small_disk: Path, tmp_path: Path) -> None:
    sets = ["steps=60", "checkpoint_every=1", "log_every=1", "batch_size=4"]
    given = ["genomics", "finetune", tiny.table, *tiny.size, *(x for s in sets for x in ("--set", f"training.{s}"))]
    (small_disk / "ballast").write_bytes(bytes(60_000))
    told = titans(*given, "--out", small_disk / "run", code=6).stderr
    assert "No space left on device while writing" in told
    point = torch.load(small_disk / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < point["step"] < 60
    assert not [entry for entry in (small_disk / "run").rglob("*") if entry.name.startswith(".")]
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    titans(*given, "--out", small_disk / "run", "--resume")
    titans(*given, "--out", tmp_path / "unbroken")
    for name in ("metrics.csv", "model/model.safetensors"):
        assert (small_disk / "run" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
