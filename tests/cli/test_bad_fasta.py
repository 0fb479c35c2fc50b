"""Bad FASTA through the command line: each row of the contract's table, by `genomics predict`."""

import csv
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result

from titans_seq.data import compressed

GOOD = ">a\nACGTACGTAC\nGTTA\n>b one two\nTTACG\n"
Predict = Callable[..., Result]


def bgzip(content: bytes, end_block: bool = True) -> bytes:
    packed = b""
    for part in (content, b"")[: 1 + end_block]:
        squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = squeeze.compress(part) + squeeze.flush()
        head = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff\x06\x00BC\x02\x00" + struct.pack("<H", len(body) + 25)
        packed += head + body + struct.pack("<II", zlib.crc32(part), len(part))
    return packed


@pytest.fixture
def predict(titans: Any, models: Any, tmp_path: Path) -> Predict:
    """Predict a file of these bytes; what fails leaves nothing beside the input."""

    def run(content: str | bytes, code: int = 0, name: str = "x.fa", model: Any = None, out: str = "out.csv") -> Result:
        path, folder = tmp_path / name, tmp_path / "out"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        result = titans("genomics", "predict", model or models.classifier, path, "--out", folder / out, code=code)
        if code:
            assert str(path) in result.stderr, "the message names the file"
            assert not folder.exists(), "an error leaves nothing"
        else:
            assert [file.name for file in folder.iterdir()] == [out], "nothing but the output is left"
        return result

    return run


def rows(out: Path) -> list[dict[str, str]]:
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("\n  \n\t\n", "empty", id="blanks"),
        pytest.param("; a comment\n", "no record", id="no record"),
        pytest.param("ACGT\n", "a bare sequence", id="no header"),
        pytest.param("@r1\nACGT\n+\nIIII\n", "looks like FASTQ", id="FASTQ"),
        pytest.param("<!DOCTYPE html><html>\n", "looks like HTML", id="HTML"),
        pytest.param("LOCUS       NC_1  10 bp\n", "looks like GenBank", id="GenBank"),
        pytest.param(b"\x7fELF\x00\x01\x02\x00\xff" * 50, "a binary file", id="binary"),
        pytest.param(GOOD.encode("utf-16"), "UTF-16", id="UTF-16"),
        pytest.param(">a\nACGT\n>p\nACGTMKVLAE\n", "record 'p' has 'L' at position 8", id="protein"),
        pytest.param(">a\nAC\nG7\n", "record 'a' has '7' at position 4", id="digit"),
        pytest.param(">a\nACG*\n", "record 'a' has '*' at position 4", id="stop"),
        pytest.param(">a\nAC\0G\n", "record 'a' has '\\x00' at position 3", id="NUL"),
        pytest.param(">a\nAC-GT\n", "record 'a' has '-' at position 3", id="gap"),
        pytest.param(">a\nACG.T\n", "record 'a' has '.' at position 4", id="dot"),
        pytest.param(">a\nACG!\n", "record 'a' has '!' at position 4", id="symbol"),
        pytest.param(">a\nACG\n>b\nC\n>a\nT\n", "duplicate id 'a', of records 1 and 3", id="duplicate ids"),
        pytest.param(">a\nACG\n>\nC\n", "record 2 has no id", id="empty id"),
        pytest.param(gzip.compress(GOOD.encode())[:-12], "truncated", id="truncated gzip"),
        pytest.param(gzip.compress(GOOD.encode())[:-8] + b"\1\2\3\4" + bytes(4), "corrupt", id="wrong checksum"),
    ],
)
def test_refused(predict: Predict, content: str | bytes, says: str) -> None:
    assert says in predict(content, code=3).stderr


def test_a_folder_is_refused(titans: Any, models: Any, tmp_path: Path) -> None:
    folder = tmp_path / "genome.fa"
    folder.mkdir()
    result = titans("genomics", "predict", models.classifier, folder, "--out", tmp_path / "out.csv", code=3)
    assert f"{folder} is a directory" in result.stderr
    assert list(tmp_path.iterdir()) == [folder]


def test_a_missing_file_is_told(titans: Any, models: Any, tmp_path: Path) -> None:
    result = titans("genomics", "predict", models.classifier, tmp_path / "no.fa", "--out", tmp_path / "o.csv", code=2)
    assert "no.fa does not exist" in result.stderr


@pytest.mark.parametrize(
    ("content", "name"),
    [
        pytest.param(GOOD.replace("\n", "\r\n"), "x.fa", id="CRLF"),
        pytest.param(GOOD.replace("\n", "\r"), "x.fa", id="CR"),
        pytest.param(GOOD.replace("\n", "\r\n", 2), "x.fa", id="mixed line ends"),
        pytest.param(b"\xef\xbb\xbf" + GOOD.encode(), "x.fa", id="BOM"),
        pytest.param("\n\n" + GOOD, "x.fa", id="leading blank lines"),
        pytest.param(GOOD.rstrip(), "x.fa", id="no final newline"),
        pytest.param(GOOD.replace("ACGTAC", "A\nCGTA\nC"), "x.fa", id="ragged lines"),
        pytest.param(GOOD.replace("AC\nGT", "ACGT"), "x.fa", id="one line"),
        pytest.param(GOOD.replace("one two", "\tone\ttwo"), "x.fa", id="tabs in a header"),
        pytest.param(GOOD.replace("ACGTAC", "acgtac"), "x.fa", id="lower case"),
        pytest.param(GOOD, "x.fa.gz", id="plain named .gz"),
        pytest.param(gzip.compress(GOOD.encode()), "x.fa", id="gzip named .fa"),
        pytest.param(
            gzip.compress(GOOD[:9].encode()) + gzip.compress(GOOD[9:].encode()), "x.fa.gz", id="several gzip members"
        ),
        pytest.param(bgzip(GOOD.encode()), "x.fa.gz", id="bgzip"),
    ],
)
def test_accepted_as_if_it_were_plain(predict: Predict, tmp_path: Path, content: str | bytes, name: str) -> None:
    assert "warning" not in predict(content, name=name).stderr
    found = (tmp_path / "out" / "out.csv").read_bytes()
    (tmp_path / "out" / "out.csv").unlink()
    predict(GOOD)
    assert found == (tmp_path / "out" / "out.csv").read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(">a\nACGRYTACRGT\n", "IUPAC codes were read as N: R 2, Y 1", id="IUPAC"),
        pytest.param(">a\nACGUUACG\n", "U was read as T, 2 times", id="U"),
        pytest.param(">a\nACG\n>b\n>c\nA\n", "1 record is empty; first record 2 ('b')", id="empty record"),
        pytest.param(">a\nACG\n>b\nNNN\n>c\nN\n", "2 records are all N; first record 2 ('b')", id="all N"),
        pytest.param("; one\n>a\nACG\n; two\nT\n", "2 comment lines (';') are not sequence", id="comments"),
        pytest.param(gzip.compress(GOOD.encode()) + b"garbage", "garbage and was not read", id="garbage after gzip"),
        pytest.param(bgzip(GOOD.encode(), end_block=False), "bgzip end block is missing", id="no bgzip end block"),
    ],
)
def test_accepted_with_one_warning(predict: Predict, tmp_path: Path, content: str | bytes, says: str) -> None:
    told = predict(content).stderr
    assert says in told and told.count("warning:") == 1
    assert str(tmp_path / "x.fa") in told


@pytest.mark.parametrize(
    ("index", "says"),
    [
        pytest.param("a\t99\t3\t10\t11\nb\t5\t31\t5\t6\n", "gives record 'a' 99 bases, the file has 14", id="stale"),
        pytest.param("a\t14\t4\t10\t11\nb\t5\t31\t5\t6\n", "the lines of record 'a' stand elsewhere", id="wrong"),
        pytest.param("a\t14\t3\t10\t11\n", "lacks record 'b'", id="incomplete"),
        pytest.param("a\t14\n\0", "malformed", id="malformed"),
    ],
)
def test_an_index_that_does_not_fit_is_not_trusted(predict: Predict, tmp_path: Path, index: str, says: str) -> None:
    predict(GOOD)
    found = (tmp_path / "out" / "out.csv").read_bytes()
    (tmp_path / "out" / "out.csv").unlink()
    (tmp_path / "x.fa.fai").write_text(index)
    told = predict(GOOD).stderr
    assert says in told and "made again" in told and told.count("warning:") == 1
    assert found == (tmp_path / "out" / "out.csv").read_bytes()


def test_a_file_that_changes_while_it_is_read(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compressed._joined

    def meddle(parts: Iterator[bytes]) -> Iterator[bytes]:
        yield from whole(parts)
        with (tmp_path / "x.fa").open("a") as file:
            file.write(">c\nACGT\n")

    monkeypatch.setattr(compressed, "_joined", meddle)
    assert "changed while it was read" in predict(GOOD, code=3).stderr


HOSTILE = {
    "../../etc/passwd": "../../etc/passwd",
    "$(rm&x);`id`": "$(rm&x);`id`",
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "=cmd|'/c'!A0": "'=cmd|'/c'!A0",
    "+1": "+1",  # a number runs nothing, and a label may be one
    "-1": "-1",
    "@x": "'@x",
    "esc\x1b[31m": "esc\\x1b[31m",
    "nul\x00del\x7f": "nul\\x00del\\x7f",
    "染色体_Ünï": "染色体_Ünï",
    'comma,quote"': 'comma,quote"',
    "x" * 10_000: "x" * 10_000,
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_hostile_ids_are_kept_and_escaped(predict: Predict, tmp_path: Path, suffix: str) -> None:
    told = predict("".join(f">{id}\nACGT\n" for id in HOSTILE), out=f"out{suffix}")
    out = tmp_path / "out" / f"out{suffix}"
    assert "\x1b" not in told.output
    if suffix == ".parquet":
        assert pl.read_parquet(out)["id"].to_list() == list(HOSTILE)
    elif suffix == ".jsonl":
        assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(HOSTILE)
    else:
        with out.open(encoding="utf-8", newline="") as file:
            found = [row["id"] for row in csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")]
        assert found == list(HOSTILE.values())


@pytest.mark.parametrize("id", ["\x1b[2J", "=1+1", "x" * 10_000], ids=["control", "formula", "long"])
def test_a_hostile_id_does_not_reach_the_terminal_as_it_is(predict: Predict, id: str) -> None:
    told = predict(f">{id}\nACG!\n", code=3)
    assert "\x1b" not in told.output and len(told.output) < 1000


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (">a\nACGT\n>a\nAC\n", 0, "duplicate id 'a'"),
        (">a\nACGJ\n", 3, "'J' at position 4"),
        ("", 3, "empty"),
    ],
)
def test_an_audit_tells_what_training_would_refuse(
    titans: Any, tmp_path: Path, content: str, code: int, says: str
) -> None:
    (tmp_path / "x.fa").write_text(content)
    assert says in titans("genomics", "audit", tmp_path / "x.fa", code=code).output
    assert says in titans("genomics", "audit", tmp_path / "x.fa", "--strict", code=3).output


def test_stdin_is_read(titans: Any, models: Any, tmp_path: Path) -> None:
    titans("genomics", "predict", models.classifier, "-", "--out", tmp_path / "out.csv", stdin=GOOD)
    assert [row["id"] for row in rows(tmp_path / "out.csv")] == ["a", "b"]
    told = titans("genomics", "predict", models.classifier, "-", "--out", tmp_path / "o.csv", stdin="ACGT", code=3)
    assert "standard input is not FASTA" in told.stderr
