"""Data cards: what they say, and how a user's copy of their files is found and checked."""

import gzip
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result

from titans_seq import resources
from titans_seq.data.compressed import chunks
from titans_seq.errors import InputError, UsageError
from titans_seq.resources import card, data_file, find, is_there, names

CARDS = [name for name in names("datasets") if "folder" in card(name)]
KEYS = {"name", "about", "source", "licence", "folder", "columns", "split", "files"}  # and one of the two below
OF_FIELD = ({"organism"}, {"frequency"})
BYTES = b"sequence,label\nACGT,1\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a card of one file, ``x/a.csv.gz``, and nothing in it."""
    packed = gzip.compress(BYTES, mtime=0)
    sums = {"sha256": hashlib.sha256(packed).hexdigest(), "unpacked": hashlib.sha256(BYTES).hexdigest()}
    facts = {"folder": "toys", "files": {"x/a.csv.gz": sums}, "source": {"origin": "The toy shop."}}
    monkeypatch.setattr(resources, "card", lambda name: facts)
    monkeypatch.setenv("TITANS_SEQ_DATA", str(tmp_path))
    (tmp_path / "toys" / "x").mkdir(parents=True)
    return tmp_path / "toys" / "x"


@pytest.mark.parametrize("name", CARDS)
def test_card_says_all_that_one_must_know(name: str) -> None:
    facts = card(name)
    assert set(facts) - KEYS in OF_FIELD and set(facts) >= KEYS and facts["name"] == name
    assert set(facts["source"]) == {"origin"}
    assert {file.name for file in find("datasets", name).iterdir()} == {"README.md", "card.yaml"}
    for file in facts["files"].values():
        assert set(file) == {"rows", "sha256", "unpacked"}


def named(header: str) -> set[str]:
    """Columns of a CSV table; where a row is a series, its values stand in the card as "first to last"."""
    first, *rest = header.replace('"', "").split(",")
    return {first, f"{rest[0]} to {rest[-1]}"} if first == "V1" else {first, *rest}


@pytest.mark.skipif(not os.environ.get(resources.DATA), reason="TITANS_SEQ_DATA names no folder of real data")
@pytest.mark.parametrize("name", CARDS)
def test_files_are_what_their_card_says(name: str) -> None:
    facts = card(name)
    for file, said in facts["files"].items():
        text = b"".join(chunks(data_file(f"card:{name}/{file}")))
        assert hashlib.sha256(text).hexdigest() == said["unpacked"], file
        if file.endswith(".parquet"):
            table = pl.read_parquet(io.BytesIO(text))
            assert len(table) == said["rows"] and set(table.columns) <= set(facts["columns"]), file
            continue
        lines = [line for line in text.splitlines() if line.strip()]
        if ".csv" in file:
            assert len(lines) - 1 == said["rows"], file
            assert named(lines[0].decode()) <= set(facts["columns"]), file
        elif ".fa" in file:
            assert sum(line.startswith(b">") for line in lines) == said["rows"], file
        else:
            assert sum(not line.startswith(b"#") for line in lines) == said["rows"], file


@pytest.mark.parametrize("level", [1, 9])
def test_a_copy_may_be_packed_by_any_program(folder: Path, level: int) -> None:
    (folder / "a.csv.gz").write_bytes(gzip.compress(BYTES, level, mtime=level))
    assert data_file("card:toys/x/a.csv.gz") == folder / "a.csv.gz"


def test_a_copy_may_be_unpacked(folder: Path) -> None:
    (folder / "a.csv").write_bytes(BYTES)
    assert data_file("card:toys/x/a.csv.gz") == folder / "a.csv"


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", BYTES + b"G,0\n"), ("a.csv.gz", gzip.compress(BYTES, mtime=0)[:-9])]
)
def test_another_file_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=r"is not the file of the data card toys.* Get the file again"):
        data_file("card:toys/x/a.csv.gz")


def test_a_file_that_changes_is_read_again(folder: Path) -> None:
    file = folder / "a.csv"
    file.write_bytes(BYTES)
    data_file("card:toys/x/a.csv.gz")
    file.write_bytes(BYTES + b"\n")
    with pytest.raises(InputError):
        data_file("card:toys/x/a.csv.gz")


def test_a_missing_file_is_told_with_its_source_and_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"is not there.*The toy shop\. Put it at .*toys/x/a\.csv\.gz, packed or not"):
        data_file("card:toys/x/a.csv.gz")
    assert not is_there("card:toys/x/a.csv.gz")
    monkeypatch.delenv("TITANS_SEQ_DATA")
    with pytest.raises(UsageError, match=r"TITANS_SEQ_DATA names, which is not set.*Put it at \$TITANS_SEQ_DATA/toys"):
        data_file("card:toys/x/a.csv.gz")


def test_a_file_that_no_card_has_is_told_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"none of the 24 files of the data card gue. Did you mean tf/0/train.csv.gz\?"
    ):
        data_file("card:gue/tf/0/trian.csv.gz")
    with pytest.raises(UsageError, match=r"Write sample:ecoli_region/train\.csv\.gz"):
        data_file("card:ecoli_region/train.csv.gz")


def test_commands_end_with_the_codes_of_the_contract(titans: Callable[..., Result], folder: Path) -> None:
    assert "Put it at" in titans("genomics", "audit", "card:toys/x/a.csv.gz", code=2).output
    (folder / "a.csv").write_bytes(b"other")
    assert "SHA-256" in titans("genomics", "audit", "card:toys/x/a.csv.gz", code=3).output
