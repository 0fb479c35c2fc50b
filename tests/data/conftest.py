import gzip
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """The warnings that the user would see."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    log, keep = logging.getLogger("titans_seq"), Keep()
    level = log.level
    log.addHandler(keep)
    log.setLevel(logging.WARNING)
    yield messages
    log.removeHandler(keep)
    log.setLevel(level)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Write bytes or text to a file; ``.gz`` in the name packs nothing."""

    def write(content: bytes | str, name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture(scope="session")
def bgzip() -> Callable[..., bytes]:
    """Pack as bgzip does: members of limited size that say their own, and an empty one at the end."""

    def pack(content: bytes, size: int = 100, end_block: bool = True) -> bytes:
        parts = [content[at : at + size] for at in range(0, len(content), size)]
        packed = []
        for part in [*parts, b""] if end_block else parts:
            squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
            body = squeeze.compress(part) + squeeze.flush()
            head = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff\x06\x00BC\x02\x00" + struct.pack("<H", len(body) + 25)
            packed.append(head + body + struct.pack("<II", zlib.crc32(part), len(part)))
        assert gzip.decompress(b"".join(packed)) == content
        return b"".join(packed)

    return pack


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data."""
    folder = os.environ.get("TITANS_SEQ_DATA")
    if not folder:
        pytest.skip("set TITANS_SEQ_DATA to the folder of real data to run this")
    return Path(folder)
