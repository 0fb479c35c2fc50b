"""A genome by name and place: any stretch of any chromosome, in memory that does not grow with the genome."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from titans_seq.data.aliases import several
from titans_seq.data.compressed import SIZE, shown
from titans_seq.data.fasta import read_blocks
from titans_seq.data.record import LOWER, STRICT, Judge, quoted
from titans_seq.data.windows import N
from titans_seq.errors import EnvironmentFault


@contextmanager
def _telling_room(name: str) -> Iterator[None]:
    """Turn what is said of the folder for temporary files into `EnvironmentFault`."""
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise EnvironmentFault(
            f"{name} is read at any place from a copy in {folder}, a byte a base, which does not fit: {error.strerror} "
            f"({shutil.disk_usage(folder).free:,} bytes free). Make room there, or name another folder with TMPDIR."
        ) from error


class Reference:
    """The records of a FASTA file, read once by the strict reader and kept, a byte a base, in a temporary file.

    So no index of anybody is trusted, any packing will do, and what is not looked at takes no memory.

    Args:
        path: plain, gzip or bgzip.
        judge: what to do about what the reader finds.

    Raises:
        InputError: as `fasta.read_blocks` does.
    """

    def __init__(self, path: Path | str, judge: Judge = STRICT):
        self.name = shown(path)
        self.lengths: dict[str, int] = {}
        self._starts: dict[str, int] = {}
        total = 0
        with tempfile.TemporaryFile() as file:
            for block in read_blocks(path, size=SIZE, judge=judge, keep_case=True):
                self._starts.setdefault(block.id, total - block.start)
                self.lengths[block.id] = block.start + len(block.codes)
                with _telling_room(self.name):
                    total += file.write(block.codes.tobytes())
            with _telling_room(self.name):
                file.flush()
            self._codes = np.memmap(file, np.uint8, "r", shape=(total,)) if total else np.zeros(0, np.uint8)

    def _raw(self, chrom: str, start: int, end: int) -> np.ndarray:
        first = self._starts[chrom]
        here = slice(first + max(0, start), first + max(0, min(end, self.lengths[chrom])))
        inside = np.asarray(self._codes[here])
        if len(inside) == end - start:
            return inside
        raw = np.full(end - start, N, np.uint8)
        raw[max(0, -start) : max(0, -start) + len(inside)] = inside
        return raw

    def codes(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Codes (end - start,) uint8 of the forward strand, 0-based and half-open; N beyond the chromosome."""
        return self._raw(chrom, start, end) & np.uint8(LOWER - 1)

    def lower(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Whether bases (end - start,) are in lower case, soft-masked as repeats; not so beyond the chromosome."""
        return self._raw(chrom, start, end) >= LOWER

    def lacks(self, chrom: str) -> str:
        """The rest of a message about a name that is not there: which there are, and what to do."""
        return (
            f"{quoted(chrom)}, which {self.name} does not have; it has {several(self.lengths)}: take the genome that "
            "the file was made for, or say which names mean the same with --aliases FILE"
        )


@lru_cache(maxsize=1)
def _kept(path: Path, state: tuple[int, ...]) -> Reference:
    return Reference(path)


def open_reference(path: Path) -> Reference:
    """The reference of a file; the last one is kept, since training and validation tables share it."""
    found = os.stat(path)
    return _kept(path, (found.st_ino, found.st_size, found.st_mtime_ns))
