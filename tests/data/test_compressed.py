import gzip
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from titans_seq.data import compressed
from titans_seq.data.compressed import chunks, looks_like
from titans_seq.errors import EnvironmentFault, InputError, UsageError

File = Callable[..., Path]
TEXT = b">a\n" + b"ACGTACGTTTGACC\n" * 200


def read(path: Path | str) -> bytes:
    return b"".join(chunks(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=400), size=st.integers(16, 500), members=st.integers(1, 4))
def test_packed_is_plain(
    content: bytes, size: int, members: int, file: File, bgzip: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "SIZE", size)  # chunks end anywhere, also between and inside members
    cut = len(content) // members + 1
    parts = b"".join(gzip.compress(content[at : at + cut]) for at in range(0, max(len(content), 1), cut))
    plain = content if not content.startswith(b"\x1f\x8b") else b"A" + content
    assert read(file(plain, "a.gz")) == plain
    assert read(file(parts, "a")) == content
    assert read(file(parts + bytes(7), "a")) == content
    assert read(file(bgzip(content), "a")) == content


def test_chunks_are_bounded_whatever_the_packing_ratio(file: File) -> None:
    path = file(gzip.compress(bytes(50_000_000)), "zeros.gz")
    assert max(map(len, chunks(path))) <= 2 * compressed.SIZE


@pytest.mark.parametrize("keep", [5, 30, -9, -1])
def test_truncated_gzip(file: File, keep: int) -> None:
    with pytest.raises(InputError, match=r"x\.gz is truncated"):
        read(file(gzip.compress(os.urandom(500))[:keep], "x.gz"))


@pytest.mark.parametrize("at", [-8, -1, 20])
def test_corrupt_gzip(file: File, at: int) -> None:
    packed = bytearray(gzip.compress(TEXT))
    packed[at] ^= 0xFF
    with pytest.raises(InputError, match=r"x\.gz is (corrupt|truncated)"):
        read(file(bytes(packed), "x.gz"))


def test_garbage_after_gzip_is_told_and_not_read(file: File, warned: list[str]) -> None:
    assert read(file(gzip.compress(TEXT) + b"garbage", "x.gz")) == TEXT
    assert len(warned) == 1 and "garbage" in warned[0]


def test_bgzip_without_its_end_block_is_told(file: File, bgzip: Callable[..., bytes], warned: list[str]) -> None:
    assert read(file(bgzip(TEXT), "x.gz")) == TEXT
    assert warned == []
    assert read(file(bgzip(TEXT, end_block=False), "x.gz")) == TEXT
    assert len(warned) == 1 and "end block is missing" in warned[0] and "truncated" in warned[0]


def test_standard_input_packed_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (TEXT, gzip.compress(TEXT)):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        assert read("-") == TEXT


def test_a_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    if os.fork() == 0:
        path.write_bytes(TEXT)
        os._exit(0)
    assert read(path) == TEXT
    os.wait()


def test_missing_file_and_directory_and_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"nothing\.fa does not exist"):
        read(tmp_path / "nothing.fa")
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path)

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(compressed.os, "open", denied)
    with pytest.raises(EnvironmentFault, match="cannot be read: Permission denied"):
        read(tmp_path / "a")


@pytest.mark.parametrize("change", ["append", "replace", "remove", "truncate"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_that_changes_while_it_is_read(file: File, change: str, pack: Callable[[bytes], bytes]) -> None:
    path = file(pack(os.urandom(3 * compressed.SIZE)), "x.fa")
    parts = chunks(path)
    next(parts)
    if change == "append":
        path.write_bytes(path.read_bytes() + b"more")
    elif change == "replace":
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        os.utime(other, ns=(0, path.stat().st_mtime_ns))
        other.replace(path)
    elif change == "truncate":
        os.truncate(path, 2 * compressed.SIZE)
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"x\.fa changed while it was read"):
        list(parts)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"@r1\nACGT\n+\nIIII\n", "FASTQ"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"LOCUS       X 5386 bp", "GenBank"),
        (b"PAR1\x15", "Parquet"),
        (b"PK\x03\x04\x14", "Excel"),
        (b'{"a": 1}', "JSON"),
        (b'[\n {"a": 1}]', "JSON"),
        ("date,a\n".encode("utf-16"), "UTF-16"),
        ("date,a\n".encode("utf-16-le"), "UTF-16"),
        ("date,a\n".encode("utf-16-be"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "binary"),
        (b"##fileformat=VCFv4.2", "VCF"),
        (b"BZh91AY", "bzip2"),
    ],
)
def test_a_file_is_known_by_its_first_bytes(head: bytes, what: str) -> None:
    found = looks_like(head)
    assert found is not None and what in found


@pytest.mark.parametrize("head", [b"", b"date,a,b\n", b">a\nACGT", b"\xef\xbb\xbfds\ty\n", b"[a],b\n1,2", b"ID,y\n"])
def test_text_is_not_taken_for_something_else(head: bytes) -> None:
    assert looks_like(head) is None
