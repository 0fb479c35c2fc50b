"""Files as plain bytes, whatever they were packed in; what a file is, is told by its bytes, never by its name."""

import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from titans_seq.errors import EnvironmentFault, InputError, UsageError, warn

SIZE = 1 << 20  # bytes per chunk: large enough that numpy, not Python, does the work
SNIFFED = 1 << 16  # bytes at the start of a file that tell what it is
UTF8_BOM = b"\xef\xbb\xbf"

GZIP = b"\x1f\x8b"
_SIGNS: tuple[tuple[bytes, str], ...] = (  # regular expressions at the start of a file
    (rb"\xff\xfe|\xfe\xff|(?:[^\0]\0){2}|(?:\0[^\0]){2}", "text in UTF-16; save it as UTF-8"),
    (rb"PAR1", "Parquet"),
    (rb"PK\x03\x04", "an Excel workbook or another zip archive; save the sheet as CSV"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as CSV"),
    (rb"ARROW1", "Arrow"),
    (rb"\x89HDF", "HDF5"),
    (rb"%PDF", "PDF"),
    (rb"BAM\x01", "BAM"),
    (rb"BCF\x02", "BCF; write it as VCF with `bcftools view`"),
    (rb"CRAM", "CRAM"),
    (rb"BZh", "bzip2; unpack it, or pack it with gzip"),
    (rb"\xfd7zXZ", "xz; unpack it, or pack it with gzip"),
    (rb"\x28\xb5\x2f\xfd", "zstandard; unpack it, or pack it with gzip"),
    (rb"\x1f\x8b", "gzip inside gzip; unpack it once"),
    (rb"(?s).*\0", "a binary file"),
    (rb"\s*<", "HTML or XML; was a web page saved in place of the file?"),
    (rb"LOCUS\s", "GenBank"),
    (rb"ID {3}", "EMBL"),
    (rb"##gff", "GFF"),
    (rb"##fileformat=VCF", "VCF"),
    (rb"@(?:HD|SQ|RG|PG)\t", "SAM"),
    (rb"@[^\n]*\n[^\n]*\n\+", "FASTQ"),
    (rb"\s*[\[{]\s*[\[{\"\]}\d]", "JSON"),
)


def shown(path: Path | str) -> str:
    """Return the name of an input as messages give it."""
    return "standard input" if str(path) == "-" else str(path)


def looks_like(head: bytes) -> str | None:
    """Return what the first bytes of a file that should be FASTA or a text table are instead, if they tell."""
    return next((what for sign, what in _SIGNS if re.match(sign, head)), None)


def decoded(raw: bytes) -> str:
    """Text that is UTF-8, or else latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@contextmanager
def _opened(path: Path | str) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    if Path(path).is_dir():
        raise InputError(f"{path} is a directory, not a file. Name a file in it.")
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist. Is the path right?") from error
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}. Mend its permissions.") from error
    with open(handle, "rb") as file:
        yield file


def _state(found: os.stat_result) -> tuple[int, ...] | None:
    """What changes when a regular file does; None for pipes and terminals."""
    return (found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _check_unchanged(path: Path | str, before: tuple[int, ...]) -> None:
    try:
        after = _state(os.stat(path))
    except OSError:
        after = None
    if after != before:
        raise InputError(f"{path} changed while it was read. Wait until it is written, then repeat the command.")


def _members(data: bytes, file: BinaryIO, name: str, doubt: Callable[[str], None]) -> Iterator[bytes]:
    """Yield what the members of a gzip or bgzip file hold, at most `SIZE` bytes at a time."""
    bgzip = len(data) > 13 and bool(data[3] & 4) and data[12:14] == b"BC"
    empty = False  # bgzip ends with an empty member
    while data:
        if not data.startswith(GZIP):
            doubt(f"{name}: what follows the end of the gzip data is garbage and was not read.")
            break
        member, empty = zlib.decompressobj(wbits=31), True
        while not member.eof:
            try:
                out = member.decompress(data, SIZE)
            except zlib.error as error:
                raise InputError(f"{name} is corrupt: gzip reports {error}. Fetch or pack it again.") from error
            if out:
                empty = False
                yield out
            data = member.unconsumed_tail
            if not data and not member.eof and len(out) < SIZE and not (data := file.read(SIZE)):
                raise InputError(f"{name} is truncated: its gzip data end too early. Fetch or pack it again.")
        data = member.unused_data.lstrip(b"\0")  # zeros may pad a gzip file
        while len(data) < len(GZIP) and (more := file.read(SIZE)):
            data = (data + more).lstrip(b"\0")
    if bgzip and not empty:
        doubt(f"{name}: the bgzip end block is missing; the file may be truncated.")


def _plain(file: BinaryIO, name: str, doubt: Callable[[str], None]) -> Iterator[bytes]:
    data = file.read(SIZE)
    if data.startswith(GZIP):
        yield from _members(data, file, name, doubt)
        return
    while data:
        yield data
        data = file.read(SIZE)


def _joined(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Join parts (bgzip has them by 64 kB) until they are worth a round of work."""
    held: list[bytes] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= SIZE:
            yield b"".join(held)
            held.clear()
    if held:
        yield b"".join(held)


def chunks(path: Path | str, doubt: Callable[[str], None] = warn) -> Iterator[bytes]:
    """Yield the bytes of a plain, gzip or bgzip file, or of standard input for "-", 1 to 2 MiB at a time.

    Raises:
        UsageError: if there is no such file.
        InputError: if it is a directory, truncated, corrupt, or changed while it was read.
        EnvironmentFault: if it may not be read.
    """
    with _opened(path) as file:
        before = None if str(path) == "-" else _state(os.fstat(file.fileno()))
        try:
            yield from _joined(_plain(file, shown(path), doubt))
        except InputError:
            if before is not None:
                _check_unchanged(path, before)  # the better reason, if it is one
            raise
        if before is not None:
            _check_unchanged(path, before)
