"""Tracks and embeddings: every form holds the same numbers, N has none, a resume cuts back."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from titans_seq.data import arrays
from titans_seq.data.arrays import EmbeddingFile, TrackFile
from titans_seq.errors import EnvironmentFault, InputError

NAN = float("nan")
# equal neighbours, N at both ends and inside, a record in two pieces, one all N, one of nothing, an odd name
PIECES: list[tuple[str, int, list[float]]] = [
    ("chr1", 0, [NAN, NAN, -1.5, -1.5, 0.25, NAN]),
    ("chr1", 6, [NAN, 3e-8, 2.0, 2.0, NAN]),
    ("n", 0, [NAN, NAN]),
    ("nothing", 0, []),
    ("a\x07b", 0, [7.0]),
]
BASES = [(chrom, start + i, value) for chrom, start, values in PIECES for i, value in enumerate(values)]


def row(chrom: str, start: int, values: list[float], tracks: tuple[str, ...] = ("loglik",)) -> dict[str, Any]:
    array = np.array([values] * len(tracks), np.float32) * np.arange(1, len(tracks) + 1)[:, None]
    return {"chrom": chrom, "start": start, "tracks": list(tracks), "values": array}


def write(out: Path, tracks: tuple[str, ...] = ("loglik",)) -> int:
    file = TrackFile(out)
    file.write([row(*piece, tracks) for piece in PIECES])
    count = file.finish()
    assert [entry.name for entry in out.parent.iterdir()] == [out.name]
    return count


def shown(chrom: str) -> str:
    return chrom.replace("\x07", "\\x07")


def test_bedgraph(tmp_path: Path) -> None:
    assert write(tmp_path / "out.bedgraph") == 5
    assert (tmp_path / "out.bedgraph").read_text().splitlines() == [
        "chr1\t2\t4\t-1.5",
        "chr1\t4\t5\t0.25",
        "chr1\t7\t8\t3e-8",
        "chr1\t8\t10\t2.0",
        "a\\x07b\t0\t1\t7.0",
    ]


def test_parquet(tmp_path: Path) -> None:
    assert write(tmp_path / "out.parquet", ("loglik", "entropy")) == len(BASES)
    table = pl.read_parquet(tmp_path / "out.parquet")
    kinds = {"chrom": pl.String(), "start": pl.Int64(), "loglik": pl.Float32(), "entropy": pl.Float32()}
    assert dict(table.schema) == kinds
    assert table["chrom"].to_list() == [chrom for chrom, _, _ in BASES]
    assert table["start"].to_list() == [start for _, start, _ in BASES]
    values = np.array([value for _, _, value in BASES], np.float32)
    assert table["loglik"].null_count() == np.isnan(values).sum() and not table["loglik"].is_nan().any()
    for times, name in enumerate(("loglik", "entropy"), start=1):
        np.testing.assert_array_equal(table[name].fill_null(NAN).to_numpy(), times * values)


def test_bigwig(tmp_path: Path) -> None:
    tools = pytest.importorskip("pybigtools")
    write(tmp_path / "out.bw")
    with tools.open(str(tmp_path / "out.bw")) as file:
        assert file.chroms() == {"chr1": 11, "a\\x07b": 1}, "the library leaves out what has no value"
        for chrom in ("chr1", "a\\x07b"):
            expected = np.array([value for name, _, value in BASES if shown(name) == chrom], np.float32)
            np.testing.assert_array_equal(file.values(chrom, fillna=None), expected)


def test_a_bigwig_that_could_not_be_written_whole_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library prints that a disk is full, or what is wrong with the values, and returns as if it were done."""
    pytest.importorskip("pybigtools")
    values = np.random.default_rng(0).normal(size=60_000).tolist()
    file = TrackFile(tmp_path / "out.bw")
    file.write([row("chr1", 0, values)])
    file.settle()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(EnvironmentFault, match=r"out.bw could not be written whole: .*--resume"):
            file.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.bw.part"], "nothing of the work is lost"
    again = TrackFile(tmp_path / "out.bw", file.part.stat().st_size)
    assert again.finish() == len(values)

    lost = TrackFile(tmp_path / "lost.bw")
    lost.write([row("chr1", 0, [1.0, 2.0]), row("chr2", 0, [1.0])])
    monkeypatch.setattr(TrackFile, "_intervals", lambda self, row: (np.array([0]), np.array([9]), np.array([1.0])))
    with pytest.raises(EnvironmentFault, match=r"lost\.bw could not be written whole"):
        lost.finish()
    assert not (tmp_path / "lost.bw").exists() and not capfd.readouterr().out, "stdout is the command's"


@pytest.mark.parametrize("suffix", [".bw", ".bedgraph", ".parquet"])
def test_a_name_that_comes_again_is_refused_where_it_tells_records_apart(tmp_path: Path, suffix: str) -> None:
    file = TrackFile(tmp_path / f"out{suffix}")
    file.write([row("a", 0, [1.0]), row("a", 1, [2.0]), row("b", 0, [1.0])])
    size = file.settle()
    file.close()
    resumed = TrackFile(tmp_path / f"out{suffix}", size)
    if suffix == ".parquet":
        resumed.write([row("a", 0, [1.0])])
        assert resumed.finish() == 4
    else:
        with pytest.raises(InputError, match=r"two records are called 'a'.* or write .parquet"):
            resumed.write([row("a", 0, [1.0])])


def test_a_bigwig_of_nothing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pybigtools")
    file = TrackFile(tmp_path / "out.bw")
    file.write([row("n", 0, [NAN])])
    with pytest.raises(InputError, match="no base has a value, and a bigWig cannot be empty"):
        file.finish()
    assert not (tmp_path / "out.bw").exists()


@pytest.mark.parametrize("most", [1, 2])
def test_a_bigwig_of_too_many_records_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    tools = pytest.importorskip("pybigtools")
    assert arrays.MOST_IN_BIGWIG == 2**16 - 1
    monkeypatch.setattr(arrays, "MOST_IN_BIGWIG", most)
    if most == 2:  # of the four records two have a value
        write(tmp_path / "out.bw")
        with tools.open(str(tmp_path / "out.bw")) as file:
            assert len(file.chroms()) == 2
        return
    says = r"out\.bw: 2 records have values, and a bigWig holds 1 at most\. Write \.bedgraph or \.parquet"
    with pytest.raises(InputError, match=says):
        write(tmp_path / "out.bw")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.bw.part"]


def test_without_its_library_a_bigwig_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybigtools", None)
    with pytest.raises(EnvironmentFault, match=r"pip install titans-seq\[bigwig\].*\.bedgraph"):
        write(tmp_path / "out.bw")


@pytest.mark.parametrize("suffix", [".bedgraph", ".parquet"])
def test_no_rows_are_a_file(tmp_path: Path, suffix: str) -> None:
    assert TrackFile(tmp_path / f"out{suffix}").finish() == 0
    assert (tmp_path / f"out{suffix}").exists()


def test_a_resume_cuts_back_to_what_was_settled(tmp_path: Path) -> None:
    file = TrackFile(tmp_path / "out.bedgraph")
    file.write([row("a", 0, [1.0])])
    size = file.settle()
    file.write([row("b", 0, [2.0])])
    file.close()
    with file.part.open("ab") as torn:
        torn.write(json.dumps({"chrom": "c"}).encode())
    file = TrackFile(tmp_path / "out.bedgraph", size)
    file.write([row("d", 0, [3.0])])
    file.finish()
    assert (tmp_path / "out.bedgraph").read_text() == "a\t0\t1\t1.0\nd\t0\t1\t3.0\n"


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embeddings(tmp_path: Path, suffix: str) -> None:
    out, vectors = tmp_path / f"out{suffix}", np.random.default_rng(0).random((3, 5), np.float32)
    file = EmbeddingFile(out)
    file.write([{"id": id, "embedding": v} for id, v in zip(("001", "染", "x\n"), vectors, strict=True)])
    assert file.finish() == 3
    if suffix == ".npz":
        with np.load(out) as found:
            ids, embeddings = found["ids"].tolist(), found["embeddings"]
        assert embeddings.dtype == np.float32
    else:
        table = pl.read_parquet(out)
        assert table.schema["embedding"] == pl.List(pl.Float32)
        ids, embeddings = table["id"].to_list(), np.array(table["embedding"].to_list(), np.float32)
    assert ids == ["001", "染", "x\n"]
    np.testing.assert_array_equal(embeddings, vectors)
