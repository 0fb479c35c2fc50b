"""Files and folders that appear whole or not at all, locks, and sums."""

import errno
import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from titans_seq.errors import EnvironmentFault, UsageError

DRAFT = ".draft-"  # every unfinished file or folder carries it, so that a later start can clear them


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def telling_disk_faults(path: Path) -> Iterator[None]:
    """Turn "disk full", "read-only" and "not permitted" under ``path`` into `EnvironmentFault`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(path.parent if path.parent.is_dir() else ".").free
            raise EnvironmentFault(
                f"No space left on device while writing {path} ({free:,} bytes free). "
                "Make room, then repeat the command with --resume."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise EnvironmentFault(
                f"{path} cannot be written: {error.strerror}. Choose another --out or mend the permissions."
            ) from error
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a draft beside ``path``; on success it is flushed to disk and takes the final name."""
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    try:
        with telling_disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield draft
            _sync(draft)
            os.replace(draft, path)
            _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a draft folder beside ``path``; on success it replaces ``path`` with one rename."""
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    old = path.with_name(f"{DRAFT}old-{os.getpid()}-{path.name}")
    try:
        with telling_disk_faults(path):
            draft.mkdir(parents=True)
            yield draft
            for file in draft.iterdir():
                _sync(file)
            _sync(draft)
            if path.exists():
                os.replace(path, old)
            os.replace(draft, path)
            _sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as a whole file in UTF-8."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def clear_drafts(folder: Path) -> None:
    """Remove what a killed process left unfinished in ``folder``; call it under the folder's lock."""
    for draft in folder.glob(f"{DRAFT}*"):
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def must_be_new(path: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse an output that exists, unless the user said what to do with it."""
    if (path.exists() or path.is_symlink()) and not (overwrite or resume):
        raise UsageError(f"{path} exists. Choose another --out, or add --overwrite.")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; a second process is told who holds it."""
    with telling_disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise EnvironmentFault(
                f"{folder} is in use by {file.read().strip() or 'another process'}. Wait for it, or choose another --out."
            ) from error
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        file.close()
