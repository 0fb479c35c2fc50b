"""Shards of a job, gathered, are the file that one job writes, byte by byte, in every form; others are refused."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from tests.conftest import thinned
from titans_seq.data.fasta import Block
from titans_seq.data.shards import Shard
from titans_seq.errors import UsageError
from titans_seq.files import held
from titans_seq.stream import walk
from titans_seq.stream.sequences import units_of


def write_fasta(file: Path, lengths: list[int]) -> Path:
    draw = random.Random(0)
    file.write_text("".join(f">r{i}\n{''.join(draw.choices('ACGTN', k=n))}\n" for i, n in enumerate(lengths)))
    return file


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of many lengths, one of several blocks, one empty."""
    lengths = [40, 12, 700, 3, 0, 64, 65, 200, 31, 90, 8, 77, 150]
    return write_fasta(tmp_path_factory.mktemp("records") / "x.fa", lengths)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "BLOCK", 64)


@pytest.fixture
def job(titans: Any, tiny: Any, models: Any, records: Path) -> Callable[[str], list[Any]]:
    batch = ["--batch-size", 3]
    jobs = {
        "predict": ["genomics", "predict", models.classifier, records, *batch],
        "both strands": ["genomics", "predict", models.classifier, records, *batch, "--both-strands"],
        "score": ["genomics", "score", models.language, records, *batch],
        "embed": ["genomics", "embed", models.language, records, *batch],
        "tokens": ["genomics", "embed", models.language, records, *batch, "--per-token", "--dtype", "float16"],
        "variants": ["genomics", "variants", models.language, tiny.vcf, "--reference", tiny.fasta],
        "mutate": ["genomics", "mutate", models.language, tiny.fasta, "--region", "r0:9-11", "--window", 32],
        "forecast": ["forecast", "predict", models.long, tiny.long, "--batch-size", 1],
    }
    return lambda name: jobs[name]


@pytest.mark.parametrize("parts", thinned([3, 1]))
@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("predict", ".csv"),
        ("predict", ".parquet"),
        ("both strands", ".jsonl"),
        ("score", ".bedgraph"),
        ("score", ".parquet"),
        ("score", ".bw"),
        ("embed", ".npz"),
        ("embed", ".parquet"),
        ("tokens", ".npz"),
        ("variants", ".vcf.gz"),
        ("variants", ".tsv"),
        ("mutate", ".tsv"),
        ("forecast", ".csv"),
    ],
)
def test_gathered_shards_are_what_one_job_writes(
    titans: Any, job: Any, tmp_path: Path, name: str, suffix: str, parts: int
) -> None:
    if suffix == ".bw":
        pytest.importorskip("pybigtools")
    one, out = tmp_path / f"one{suffix}", tmp_path / f"out{suffix}"
    titans(*job(name), "--out", one)
    for number in range(1, parts + 1):
        told = titans(*job(name), "--out", out, "--shard", f"{number}/{parts}").stdout
        assert f"{out}.{number}-of-{parts}" in told and not out.exists()
        assert ("variants of this shard" in told) is (name == "variants")
    shards = [f"{out}.{number}-of-{parts}" for number in range(parts, 0, -1)]
    titans("gather", out, *shards)
    if suffix == ".npz":  # each entry holds the minute in which it was written
        one_, out_ = np.load(one), np.load(out)
        assert all(np.array_equal(one_[name], out_[name]) for name in one_.files)
    else:
        assert out.read_bytes() == one.read_bytes()
    if name == "mutate":
        picture = out.with_suffix(".png")
        picture.write_bytes(b"another picture")
        out.unlink()
        assert f"{picture} exists" in titans("gather", out, *shards, code=2).stderr
        assert picture.read_bytes() == b"another picture" and not out.exists()
        titans("gather", out, *shards, "--overwrite")
        assert picture.read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith("one")}
    assert names - {out.with_suffix(".png").name} == {out.name, *(Path(shard).name for shard in shards)}


@drawn(
    st.lists(st.integers(0, 30), max_size=30),
    st.integers(1, 9),
    st.integers(1, 5),
    st.booleans(),
)
def test_parts_are_disjoint_complete_and_in_order(
    lengths: list[int], total: int, batch_size: int, both_strands: bool
) -> None:
    def blocks() -> Any:
        for number, length in enumerate(lengths):
            for start in range(0, max(1, length), 8):
                codes = np.zeros(min(8, length - start), np.uint8)
                yield Block(number, str(number), start, codes, start + 8 >= length)

    spans = [Shard(i, total).span(units_of(blocks(), batch_size, True, both_strands)) for i in range(1, total + 1)]
    assert [record for span in spans for record in span] == list(range(len(lengths)))


def test_parts_have_about_as_much_work(records: Path) -> None:
    units = [(i + 1, 10) for i in range(96)]
    assert {len(Shard(i, 8).span(units)) for i in range(1, 9)} == {12}
    assert Shard(1, 2).span([(1, 900), (2, 50), (3, 50)]) == range(1)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="give i/n"):
        Shard.parse(text)


def test_a_shard_with_nothing_to_do_says_so(titans: Any, models: Any, tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "x.fa", [40, 40, 40, 40])
    given = ["genomics", "score", models.language, fasta, "--out", tmp_path / "out.bedgraph", "--shard", "1/2"]
    assert "--batch-size than 64" in titans(*given).stderr
    assert "--batch-size" not in titans(*given, "--overwrite", "--batch-size", 1).stderr


@pytest.fixture
def shards(titans: Any, job: Any, tmp_path: Path) -> list[Path]:
    for number in (1, 2):
        titans(*job("predict"), "--out", tmp_path / "out.csv", "--shard", f"{number}/2")
    return [tmp_path / f"out.csv.{number}-of-2" for number in (1, 2)]


def test_shards_that_do_not_belong_together_are_refused(
    titans: Any, job: Any, models: Any, shards: list[Path], tmp_path: Path
) -> None:
    out, (one, two) = tmp_path / "out.csv", shards

    def refused(*given: Any, code: int = 3) -> str:
        told: str = titans("gather", *given, code=code).stderr
        assert not out.exists() and not out.with_name("out.csv.part").exists()
        return told

    assert "Of 2 shards these are missing: 2" in refused(out, one)
    assert "is shard 1, as is" in refused(out, one, one, two)
    other = tmp_path / "other" / "out.csv"
    other.parent.mkdir()
    titans(*job("predict"), "--both-strands", "--out", other, "--shard", "2/2")
    assert "is a shard of another job" in (told := refused(out, one, f"{other}.2-of-2")) and "both_strands" in told
    titans(*job("predict"), "--out", other, "--shard", "2/3")
    assert "another number of shards" in refused(out, one, f"{other}.2-of-3")
    (tmp_path / "x.csv").write_text("id,label\n")
    assert "is no shard" in refused(out, one, tmp_path / "x.csv")
    assert "does not exist" in refused(out, one, tmp_path / "no", code=2)
    assert "should end in .csv" in refused(tmp_path / "out.tsv", one, two, code=2)
    broken = tmp_path / "broken"
    head, rows = one.read_bytes().split(b"\n", 1)
    for damaged in (rows[: rows.rindex(b"\n", 0, -1) + 1], rows[:-9], b""):  # whole lines are gone, or part of one
        broken.write_bytes(head + b"\n" + damaged)
        assert "broken is damaged" in refused(out, broken, two)
    broken.write_bytes(head.replace(b'"span"', b'"spam"') + b"\n" + rows)
    assert "broken is damaged" in refused(out, broken, two)
    with held(out):
        assert "is in use" in refused(out, one, two, code=6)
    titans("gather", out, one, two)
    assert "exists" in titans("gather", out, one, two, code=2).stderr


def test_a_shard_is_resumed_and_told_to_be_finished(titans: Any, job: Any, shards: list[Path], tmp_path: Path) -> None:
    given = [*job("predict"), "--out", tmp_path / "out.csv", "--shard", "1/2"]
    assert "exists" in titans(*given, code=2).stderr
    before = shards[0].read_bytes()
    assert "already finished  yes" in titans(*given, "--resume").stdout
    titans(*given, "--overwrite")
    assert shards[0].read_bytes() == before


def test_what_is_one_stream_has_no_parts(titans: Any, models: Any, records: Path, tmp_path: Path) -> None:
    given = ["genomics", "score", models.language, records, "--out", tmp_path / "o.parquet", "--shard", "1/2"]
    for option in (["--reset", "never"], ["--state-out", tmp_path / "s"], ["--reset", "every:64"]):
        assert "is of all of them" in titans(*given, *option, code=2).stderr
    stdin = ["genomics", "score", models.language, "-", "--out", tmp_path / "o.parquet", "--shard", "1/2"]
    assert "needs the input as a file" in titans(*stdin, code=2, stdin=">a\nACGT\n").stderr
    assert not list(tmp_path.iterdir())


def test_records_of_one_name_in_two_shards_are_refused_as_in_one_job(titans: Any, models: Any, tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "x.bedgraph"
    table.write_text("id,sequence\n" + "".join(f"x{i % 2},{'ACGT' * 40}\n" for i in range(4)))
    given = ["genomics", "score", models.language, table, "--batch-size", 1, "--out", out]
    says = "two records are called 'x0', whose values a .bedgraph cannot tell apart"
    assert says in titans(*given, code=3).stderr
    for part in ("1/2", "2/2"):
        titans(*given, "--shard", part)
    assert says in titans("gather", out, f"{out}.1-of-2", f"{out}.2-of-2", code=3).stderr
    assert not out.exists()
