import gzip
import io
import itertools
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from titans_seq.data import compressed
from titans_seq.data.fasta import read_blocks, read_fasta
from titans_seq.data.record import LOWER, Judge, decode
from titans_seq.errors import InputError, UsageError

File = Callable[..., Path]
with_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

ids = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8)
records = st.dictionaries(ids, st.text("ACGTN", max_size=60), min_size=1, max_size=5)


def found(path: Path | str) -> dict[str, str]:
    return {record.id: decode(record.codes) for record in read_fasta(path)}


def fasta(content: dict[str, str], width: int = 60, end: str = "\n") -> bytes:
    lines: list[str] = []
    for id, bases in content.items():
        lines += [f">{id}", *(bases[at : at + width] for at in range(0, len(bases), width))]
    return (end.join(lines) + end).encode()


# Laws


@with_fixtures
@given(
    content=records,
    width=st.integers(1, 70),
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    size=st.integers(16, 200),
    packed=st.booleans(),
)
def test_lines_ends_packing_and_chunks_do_not_matter(
    content: dict[str, str],
    width: int,
    end: str,
    size: int,
    packed: bool,
    file: File,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compressed, "SIZE", size)  # cuts headers, line ends and byte-order marks
    text = fasta(content, width, end)
    for variant in (text, text.rstrip(), b"\xef\xbb\xbf" + text, b"\n \r\n" + text):
        assert found(file(gzip.compress(variant) if packed else variant, "x.fa")) == content


lines = st.lists(
    st.tuples(
        st.sampled_from([">a", ">b\tz", ">c d ;", "; no", ";", "", "  ", "\t", "AC", "acgtn ", "RYU\t", "G" * 30]),
        st.sampled_from(["\n", "\r", "\r\n"]),
    ),
    max_size=30,
)


@with_fixtures
@given(lines=lines, size=st.integers(16, 60), block=st.integers(1, 20))
def test_a_stream_says_what_reading_line_by_line_says(
    lines: list[tuple[str, str]], size: int, block: int, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "SIZE", size)
    expected: list[tuple[str, str]] = []
    for line, _ in [(">first", "\n"), *lines]:
        if line.startswith(">"):
            expected.append((line[1:].split()[0], ""))
        elif not line.startswith(";"):
            id, bases = expected[-1]
            expected[-1] = id, bases + line.strip().upper().translate(str.maketrans("URY", "TNN"))
    path = file(">first\n" + "".join(map("".join, lines)), "x.fa")
    lenient = Judge(lambda _: None, lambda _: None)  # ids stand more than once
    assert [(r.id, decode(r.codes)) for r in read_fasta(path, judge=lenient)] == expected

    blocks = list(read_blocks(path, size=block, judge=lenient))
    for number, group in itertools.groupby(blocks, lambda b: b.record):
        parts = list(group)
        assert (parts[0].id, "".join(decode(b.codes) for b in parts)) == expected[number]
        assert [b.start for b in parts] == list(range(0, block * len(parts), block))
        assert len(parts) == max(1, -(-len(expected[number][1]) // block))
        assert [b.last for b in parts] == [False] * (len(parts) - 1) + [True]
        assert all(len(b.codes) == block for b in parts[:-1])
        assert all(b.codes.flags.writeable and b.codes.base is None for b in parts)


def test_memory_is_flat_however_long_a_record_or_line(file: File) -> None:
    peaks = []
    for bases in (2_200_000, 22_000_000):
        path = file(b">one\n" + b"ACGTTGCAAC" * (bases // 10), "x.fa")
        tracemalloc.start()
        assert sum(len(block.codes) for block in read_blocks(path)) == bases
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 20_000_000


# What is accepted without a word


@pytest.mark.parametrize(
    "text",
    [
        ">a x\r\nACGT\r\nAC\r\n>b\r\nGG\r\n",
        ">a x\rACGT\rAC\r>b\rGG\r",
        ">a x\nACGT\r\nAC\r>b\nGG\r\n",
        "\ufeff>a x\nACGT\nAC\n>b\nGG\n",
        "\n\n  \n>a x\nACGTAC\n>b\nGG\n",
        ">a\tx\ty\nACGTAC\n>b\nGG",
        ">a x\nA\nCGT\n\nAC\n\n>b\nG\n\n\nG\n\n",
        ">a x\nacgtAc \t\n>b  \nGg",
        "> a x\nACGTAC\n> b\nGG\n",
    ],
)
def test_harmless_forms_are_accepted_in_silence(file: File, warned: list[str], text: str) -> None:
    assert found(file(text, "x.fa")) == {"a": "ACGTAC", "b": "GG"}
    assert warned == []


@pytest.mark.parametrize(
    "id",
    [
        "../../etc/passwd",
        "$(rm)",
        "<script>",
        "=1+1",
        "x" * 10_000,
        "\N{CJK UNIFIED IDEOGRAPH-4E2D}",
        "a\x07b",
        ">a",
        "a;",
    ],
)
def test_hostile_ids_are_accepted_exactly(file: File, id: str) -> None:
    assert found(file(f">{id} description\nACGT\n", "x.fa")) == {id: "ACGT"}


def test_an_id_in_latin_1(file: File) -> None:
    assert found(file(">caf\xe9 x\nACGT\n".encode("latin-1"), "x.fa")) == {"caf\xe9": "ACGT"}


def test_gzip_named_fa_and_plain_named_gz_and_members(
    file: File, bgzip: Callable[..., bytes], warned: list[str]
) -> None:
    text = fasta({"a": "ACGT" * 100, "b": "GGN"})
    whole = {"a": "ACGT" * 100, "b": "GGN"}
    for content in (text, gzip.compress(text), gzip.compress(text[:50]) + gzip.compress(text[50:]), bgzip(text)):
        assert found(file(content, "x.fa")) == found(file(content, "x.fa.gz")) == whole
    assert warned == []


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b">a\nACJ\n")))
    with pytest.raises(InputError, match="standard input: record 'a' has 'J' at position 3"):
        found("-")


# What is refused


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty: it has no record"),
        (b" \n\n\t\n", "is empty: it has no record"),
        (b"; only a comment\n", "is empty: it has no record"),
        (b"ACGT\nACGT\n", "no '>' line.*bare sequence"),
        (b"ACGT\n>a\nACGT\n", "no '>' line"),
        (b"@read1\nACGT\n+\nIIII\n", "looks like FASTQ"),
        (b"<html><body>404</body></html>", "looks like HTML"),
        (b"LOCUS       NC_001422   5386 bp\n", "looks like GenBank"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00", "looks like a binary file"),
        (">a\nACGT\n".encode("utf-16"), "UTF-16"),
        (">a\nACGT\n".encode("utf-16-le"), "UTF-16"),
        (">a\nACGT\n".encode("utf-16-be"), "UTF-16"),
        (b"sequence,label\nACGT,1\n", "looks like text; its first line is 'sequence,label'"),
        (b">a\nAC.GT\n", "record 'a' has '.' at position 3 "),
        (b">a\nACG\nT-T\n", "record 'a' has '-' at position 5 "),
        (b">a\nACGT\n>p\nMKVLAAGIVGLLLAQPS\n", "record 'p' has 'L' at position 4 "),
        (b">a\nACG1T\n", "has '1' at position 4 "),
        (b">a\nACGT*\n", r"has '\*' at position 5 "),
        (b">a\nAC\0GT\n", r"has '\\x00' at position 3 "),
        (b">a\nAC GT\n", "has ' ' at position 3 "),
        (b">a\nAC>GT\n", "has '>' at position 3 "),
        (b">a\nAC\xc3\xa9\n", "at position 3 "),
        (b">a\nA\n>b\nC\n>a\nG\n", "duplicate id 'a', of records 1 and 3"),
        (b">a\nA\n>\nC\n", "record 2 has no id"),
        (b">a\nA\n> \t\nC\n", "record 2 has no id"),
    ],
)
def test_bad_input_is_refused_with_place_and_cause(file: File, content: bytes, why: str) -> None:
    path = file(content, "x.fa")
    with pytest.raises(InputError, match=f"x[.]fa.*{why}") as told:
        found(path)
    assert told.value.code == 3


def test_positions_count_over_lines_and_blocks(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "SIZE", 1000)
    path = file(b">a\n" + b"ACGTACGTAC\n" * 1000 + b"AC-T\n", "x.fa")
    with pytest.raises(InputError, match=r"'-' at position 10,003 \(1-based\)"):
        list(read_blocks(path, size=64))


def test_a_header_without_end_does_not_fill_the_memory(file: File) -> None:
    with pytest.raises(InputError, match=r"header at byte 1 .* longer than"):
        found(file(b">a " + b"ACGT" * compressed.SIZE, "x.fa"))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        found(tmp_path / "none.fa")
    with pytest.raises(InputError, match="is a directory"):
        found(tmp_path)


def test_a_file_that_changes_while_it_is_read(file: File) -> None:
    path = file(fasta({"a": "ACGT" * 100}), "x.fa")
    blocks = read_blocks(path, size=10)
    next(blocks)
    path.write_bytes(fasta({"a": "AAAA"}))
    with pytest.raises(InputError, match="changed while it was read"):
        list(blocks)


def test_truncated_gzip(file: File) -> None:
    packed = gzip.compress(fasta({"a": "ACGT" * 5000}))
    with pytest.raises(InputError, match="truncated"):
        found(file(packed[:-20], "x.fa.gz"))


@pytest.mark.parametrize("size", [0, -1])
def test_a_block_has_a_base(file: File, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 base"):
        next(read_blocks(file(">a\nA\n", "x.fa"), size=size))


# What is warned about, once


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (">a\nACRYR\n", "IUPAC codes were read as N: R 2, Y 1"),
        (">a\nACUUu\n", "U was read as T, 3 times"),
        (">a\n>b\nACGT\n", r"1 record is empty; first record 1 \('a'\)"),
        (">a\nA\n>b\n\n>c\n", r"2 records are empty; first record 2 \('b'\)"),
        (">a\nACGT\n>b\nNNN\nnnn\n", r"1 record is all N; first record 2 \('b'\)"),
        ("; by hand\n>a\nAC\n;and here\nGT\n", r"2 comment lines .* not sequence"),
    ],
)
def test_doubts_are_told_once_with_count_and_place(file: File, warned: list[str], text: str, why: str) -> None:
    found(file(text, "x.fa"))
    assert len(warned) == 1
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(warned[0])


def test_an_empty_record_is_one_empty_block(file: File) -> None:
    blocks = list(read_blocks(file(">a\n>b\nAC\n>c", "x.fa")))
    assert [(b.record, b.id, len(b.codes), b.last) for b in blocks] == [
        (0, "a", 0, True),
        (1, "b", 2, True),
        (2, "c", 0, True),
    ]


# The index beside a file


def index(text: bytes, content: dict[str, str], width: int, end: bytes) -> str:
    rows = []
    for id, bases in content.items():
        at = text.index(b">" + id.encode() + end) + len(id) + 1 + len(end)
        line = min(width, len(bases))
        rows.append(f"{id}\t{len(bases)}\t{at}\t{line}\t{line + len(end)}\n")
    return "".join(rows)


@with_fixtures
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    width=st.integers(1, 40),
    end=st.sampled_from([b"\n", b"\r\n"]),
    size=st.integers(16, 100),
)
def test_an_index_that_fits_is_passed_over_in_silence(
    lengths: list[int],
    width: int,
    end: bytes,
    size: int,
    file: File,
    warned: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compressed, "SIZE", size)
    content = {f"r{n}": ("ACGT" * 30)[:length] for n, length in enumerate(lengths)}
    text = fasta(content, width, end.decode())
    path = file(text, "x.fa")
    file(index(text, content, width, end), "x.fa.fai")
    found(path)
    assert warned == []


INDEX = ["chr1\t10\t6\t4\t5", "chr2\t6\t25\t4\t5", "chr3\t2\t39\t2\t3"]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (INDEX[:2], "it lacks record 'chr3'"),
        ([], "it lacks record 'chr1'"),
        ([*INDEX, "chr4\t5\t60\t4\t5"], "it lists record 'chr4'"),
        (["chr1\t599\t6\t4\t5", *INDEX[1:]], "gives record 'chr1' 599 bases"),
        ([INDEX[0], "chr2\t6\t24\t4\t5", INDEX[2]], "lines of record 'chr2'"),
        (["chr1\t10\t6\t5\t6", *INDEX[1:]], "lines of record 'chr1'"),
        (["chr1\t10\t6\t4\t6", *INDEX[1:]], "lines of record 'chr1'"),
        (["chr1\t10\t6\t5\t7", *INDEX[1:]], "lines of record 'chr1'"),  # the last base stands right
        (["chr1\t10\t6\t0\t0", *INDEX[1:]], "lines of record 'chr1'"),
        (["nonsense"], "malformed"),
        (["chr1\tten\t6\t4\t5"], "malformed"),
        ([row.replace("\t", " ") for row in INDEX], "malformed"),
    ],
)
def test_an_index_that_does_not_fit_is_told_not_used_and_made_again(
    file: File, warned: list[str], rows: list[str], why: str
) -> None:
    content = {"chr1": "ACGTACGTAC", "chr2": "GGGTTT", "chr3": "AC"}
    path = file(fasta(content, 4), "x.fa")
    fits = index(path.read_bytes(), content, 4, b"\n")
    assert "\n".join(INDEX) + "\n" == fits
    stale = file("\n".join(rows), "x.fa.fai")
    assert found(path) == content
    assert len(warned) == 1 and "does not fit its file and is not used" in warned[0] and why in warned[0]
    assert warned[0].endswith("It was made again.") and stale.read_text() == fits
    assert found(path) == content and len(warned) == 1  # in silence from now on


@pytest.mark.parametrize(
    "text",
    [
        ">a\nACG\nACGT\n",
        ">a\nACGT\nAC\nACGT\n",
        ">a\nACGT\n\nACGT\n",
        ">a\nACGT\n;note\nACGT\n",
        ">a\nACGT\r\nACGT\nACGT\n",
        ">a\rACGT\rACGT\r",
    ],
)
def test_no_index_is_made_of_lines_that_none_can_describe(file: File, warned: list[str], text: str) -> None:
    path, stale = file(text, "x.fa"), file("a\t5\t3\t5\t6\n", "x.fa.fai")
    found(path)
    assert any("None can be made" in told and "remove it" in told for told in warned)
    assert stale.read_text() == "a\t5\t3\t5\t6\n"


def test_an_index_that_cannot_be_made_again_stays_and_is_told(
    file: File, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stale = file(">a\nACGT\n", "x.fa"), file("a\t5\t3\t5\t6\n", "x.fa.fai")

    def refused(_: Path, __: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refused)
    assert found(path) == {"a": "ACGT"}
    assert len(warned) == 1 and "could not be made again" in warned[0] and "Read-only" in warned[0]
    assert stale.read_text() == "a\t5\t3\t5\t6\n"


def test_case_is_kept_where_it_is_asked_for(file: File, warned: list[str]) -> None:
    path = file(">a\nACgt\nnNRy\n>b\nnn\n", "x.fa")
    cased = {record.id: record.codes for record in read_fasta(path, keep_case=True)}
    assert {id: decode(codes & (LOWER - 1)) for id, codes in cased.items()} == {"a": "ACGTNNNN", "b": "NN"}
    assert (cased["a"] >= LOWER).tolist() == [False, False, True, True, True, False, False, True]
    assert any("1 record is all N; first record 2 ('b')" in told for told in warned)


# Real genomes


@pytest.mark.parametrize(
    ("name", "count", "bases"),
    [
        ("human_MT", 1, 16_569),
        ("phage_lambda_NC_001416.1", 1, 48_502),
        ("ecoli_k12_mg1655_U00096.3", 1, 4_641_652),
        ("yeast_S288C", 16, 12_157_149),
        ("plasmodium_falciparum_3D7_lowercase", 14, 23_264_425),
        ("human_b37_chr20", 1, 63_025_520),
    ],
)
def test_real_genomes_are_read_whole_and_their_indexes_fit(
    real: Path, warned: list[str], name: str, count: int, bases: int
) -> None:
    lengths = np.zeros(count, int)
    for block in read_blocks(real / "genomics" / "genomes" / f"{name}.fa.gz"):
        lengths[block.record] += len(block.codes)
    assert lengths.sum() == bases and (lengths > 0).all()
    assert warned == []
    assert os.path.exists(real / "genomics" / "genomes" / f"{name}.fa.gz.fai")
