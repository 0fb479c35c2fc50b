"""Files and folders that appear whole or not at all, locks, and sums."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from titans_seq.errors import EnvironmentFault, ModelError, TitansError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last of a limit on the size of files
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.EIO, errno.ENXIO, errno.ESTALE),  # a disk or network folder that fails
)
DRAFT = ".draft-"  # every unfinished file or folder carries it, so that a later start can clear them
LOCK = ".lock"  # in a folder that a process holds


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def telling_disk_faults(path: Path) -> Iterator[None]:
    """Turn what the file system says about writing ``path`` into `EnvironmentFault`."""
    try:
        yield
    except TitansError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number is None:  # libraries in Rust tell the cause in words alone
            number = next((n for n in (*_FULL, *_REFUSED) if f"{os.strerror(n)} (os error" in str(error)), None)
        if number in _FULL:
            free = shutil.disk_usage(path.parent if path.parent.is_dir() else ".").free
            raise EnvironmentFault(
                f"{os.strerror(number)} while writing {path} ({free:,} bytes free). "
                "Make room or raise the limit, then repeat the command with --resume."
            ) from error
        if number in _REFUSED:
            raise EnvironmentFault(
                f"{path} cannot be written: {os.strerror(number)}. Choose another --out, or mend disk or permissions."
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
        with suppress(OSError):  # where nothing can be written, nothing is to be removed
            draft.unlink()


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


def held(out: Path) -> AbstractContextManager[None]:
    """Keep other processes from writing ``out``."""
    return locked(out.with_name(f".{out.name}{LOCK}"), out)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as a whole file in UTF-8."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def to_json(facts: Any, indent: int | None = 2) -> str:
    """Facts as JSON, in which a number that is not finite is null; on one line without ``indent``."""
    finite = json.loads(json.dumps(facts, default=str), parse_constant=lambda _: None)
    return json.dumps(finite, indent=indent) + "\n"


def read_json(file: Path, *keys: str) -> dict[str, Any]:
    """A mapping that `to_json` wrote, which has these keys.

    Raises:
        ModelError: if it is damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        lacking = [key for key in keys if key not in found]
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: {error}. Bring it back, or start anew with --overwrite.") from None
    if lacking or not isinstance(found, dict):
        raise ModelError(
            f"{file} is damaged: it lacks {', '.join(lacking) or 'all keys'}. "
            "Bring it back, or start anew with --overwrite."
        )
    return found


def clear_drafts(folder: Path, *names: str) -> None:
    """Remove the drafts that a killed process left in ``folder``, of ``names`` or of all; call it under their lock."""
    name = "|".join(map(re.escape, names)) or ".*"
    for entry in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(rf"{re.escape(DRAFT)}(old-)?\d+-({name})", entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, or of the names and sums of what lies in a folder."""
    if path.is_dir():
        inside = (f"{sha256(file)}  {file.relative_to(path)}\n" for file in sorted(path.rglob("*")) if file.is_file())
        return hashlib.sha256("".join(inside).encode("utf-8", "surrogateescape")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def must_be_new(path: Path, *, overwrite: bool, resume: bool = False, folder: bool = False) -> None:
    """Refuse an output that exists, unless the user said what to do with it; a folder with nothing in it is none.

    Raises:
        UsageError: if it exists, or is a folder where a file is to be written, or no ``folder`` where one is.
        EnvironmentFault: if nothing can be written there, so that it is said before hours of work.
    """
    if path.is_dir() != folder and path.exists():
        raise UsageError(f"{path} is a {'file' if folder else 'folder'}. Choose another --out.")
    nothing = path.is_dir() and all(entry.name == LOCK for entry in path.iterdir())
    if (path.exists() or path.is_symlink()) and not (nothing or overwrite or resume):
        raise UsageError(f"{path} exists. Choose another --out, or add --overwrite.")
    if not (resume and path.exists()):  # what is finished may lie anywhere
        _must_be_writable(path)


def _must_be_writable(path: Path) -> None:
    there = next(folder for folder in path.absolute().parents if folder.exists())
    with telling_disk_faults(path):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "")
        if not os.access(there, os.W_OK | os.X_OK):
            raise OSError(errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES, "")


@contextmanager
def locked(lock: Path, held: Path) -> Iterator[None]:
    """Hold ``held`` for this process by the file ``lock``; a second process is told who holds it.

    A folder that is made for the lock, and in which nothing else was put, goes with it.
    """
    made = not lock.parent.exists()
    with telling_disk_faults(held):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+b", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(file.fileno()).st_nlink > 0  # else its holder ended, and removed it, after we opened it
        except OSError:
            free = False
        if not free:
            file.seek(0)
            holder = file.read().decode() or "another process"
            raise EnvironmentFault(f"{held} is in use by {holder}. Wait for it, or choose another --out.")
        with suppress(OSError):  # on a full disk it holds all the same
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # there is something in it
                    lock.parent.rmdir()
