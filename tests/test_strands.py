"""Both strands: what is averaged is the same for a sequence and its reverse complement, and tracks flip."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from titans_seq import genomics, stream
from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG, MAL, AttentionOnly
from titans_seq.checkpoint import SequenceModel, save_pretrained
from titans_seq.data.fasta import Block
from titans_seq.data.reset import reset_rule
from titans_seq.data.windows import reverse_complement
from titans_seq.errors import Interrupted
from titans_seq.memory import MemoryConfig
from titans_seq.signals import Watch
from titans_seq.stream import Point, walk
from titans_seq.stream.sequences import sequence_steps
from titans_seq.stream.tracks import track_steps
from titans_seq.stream.walk import Course, learned_start
from titans_seq.tasks.classification import Classification
from titans_seq.tasks.language import LanguageModel
from titans_seq.tasks.pooling import Embedder

BLOCKS = [LMM(), MAG(window=8), MAL(window=8), MAC(segment=16), AttentionOnly(window=8)]
LENGTHS = [10, 64, 3, 200, 65, 1, 0, 33]  # with blocks of 64: together, alone, and empty
every_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.kind)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "BLOCK", 64)


def make(block: Any = BLOCKS[1], task: Any = None, **backbone: Any) -> SequenceModel:
    torch.manual_seed(0)
    config = BackboneConfig(width=8, depth=1, heads=2, block=block, memory=MemoryConfig(chunk_size=16), **backbone)
    return SequenceModel(config, LanguageModel() if task is None else task).eval()


def records(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.choice(5, n, p=[0.24, 0.24, 0.24, 0.24, 0.04]).astype(np.uint8) for n in LENGTHS]


def other(codes: list[np.ndarray]) -> list[np.ndarray]:
    return [reverse_complement(record) for record in codes]


def blocks(codes: list[np.ndarray], size: int = 64) -> Iterator[Block]:
    for number, record in enumerate(codes):
        for start in range(0, max(1, len(record)), size):
            yield Block(number, f"r{number}", start, record[start : start + size], start + size >= len(record))


def rows(model: SequenceModel, codes: list[np.ndarray], batch_size: int = 3, **options: Any) -> list[dict[str, Any]]:
    steps = sequence_steps(model, blocks(codes), batch_size, Point(), both_strands=True, **options)
    return [row for ready, _ in steps for row in ready]


def tracks(model: SequenceModel, codes: list[np.ndarray], both: bool = True, rule: str = "record") -> list[np.ndarray]:
    course = Course(learned_start(model), reset_rule(rule))
    found: list[list[np.ndarray]] = [[np.zeros((3, 0))] for _ in codes]
    for ready, _ in track_steps(model, blocks(codes), 3, Point(), course, both_strands=both):
        for row in ready:
            found[int(row["chrom"][1:])].append(row["values"])
    return [np.concatenate(parts, 1) for parts in found]


@every_block
def test_a_record_and_its_other_strand_get_one_likelihood_and_one_embedding(block: Any) -> None:
    """Of a causal model, which reads one strand: streamed in blocks or side by side."""
    model = make(block).double()
    found, turned = (rows(model, codes) for codes in (records(), other(records())))
    assert [row["id"] for row in found] == [f"r{i}" for i in range(len(LENGTHS))]
    for ours, theirs in zip(found, turned, strict=True):
        # the logarithms are float32
        assert ours["log_likelihood"] == pytest.approx(theirs["log_likelihood"], rel=1e-6)
    embedder = Embedder(8)
    found, turned = (rows(model, codes, embed=embedder) for codes in (records(), other(records())))
    for ours, theirs in zip(found, turned, strict=True):
        np.testing.assert_allclose(ours["embedding"], theirs["embedding"], rtol=1e-6, atol=1e-6)  # written as float32


def test_it_is_the_mean_of_both() -> None:
    model = make().double()
    one, two = (
        [row["log_likelihood"] for ready, _ in sequence_steps(model, blocks(codes), 3, Point()) for row in ready]
        for codes in (records(), other(records()))
    )
    found = [row["log_likelihood"] for row in rows(model, records())]
    np.testing.assert_allclose(found, (np.array(one) + np.array(two)) / 2, rtol=1e-6)
    assert not np.allclose(one, two, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_classes_do_not_depend_on_strand_or_batch(batch_size: int, direction: str) -> None:
    model = make(task=Classification(classes=("a", "b")), direction=direction)
    codes = [record for record in records() if len(record) <= 64] if direction == "both" else records()
    expected = [row["p_a"] for row in rows(model, codes, 1)]
    # float32 sums in another order
    np.testing.assert_allclose([row["p_a"] for row in rows(model, other(codes), batch_size)], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("block", "rule"), [*((block, "record") for block in BLOCKS[:-1]), (BLOCKS[1], "N:3")], ids=lambda v: str(v)[:20]
)
def test_tracks_flip(block: Any, rule: str) -> None:
    """ln p is of the base opposite, from what stands behind it; each is the mean of both."""
    model = make(block).double()
    found, turned = (tracks(model, codes, rule=rule) for codes in (records(), other(records())))
    one, two = (tracks(model, codes, both=False, rule=rule) for codes in (records(), other(records())))
    for codes, ours, theirs, ahead, back in zip(records(), found, turned, one, two, strict=True):
        assert ours.shape == (3, len(codes)) and (np.isnan(ours) == (codes == 4)).all()
        np.testing.assert_allclose(ours, theirs[:, ::-1], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours, (ahead + back[:, ::-1]) / 2, rtol=1e-5, atol=1e-6)


# --- through the commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strands")
    save_pretrained(make(), folder / "language")
    save_pretrained(make(task=Classification(classes=("a", "b"))), folder / "classifier")
    save_pretrained(make(task=Classification(classes=("a", "b")), direction="both"), folder / "both")
    save_pretrained(
        make(task=Classification(classes=("a", "b")), direction="both", equivariant=True), folder / "equivariant"
    )
    for name, codes in (("x.fa", records()), ("y.fa", other(records()))):
        text = "".join(f">r{i}\n{''.join('ACGTN'[c] for c in record)}\n" for i, record in enumerate(codes))
        (folder / name).write_text(text)
    return folder


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize("model", ["language", "classifier", "both", "equivariant"])
def test_predictions_of_both_strands(titans: Any, folder: Path, tmp_path: Path, model: str) -> None:
    column = "log_likelihood" if model == "language" else "p_a"
    found = []
    flag = [] if model == "equivariant" else ["--both-strands"]
    for name in ("x.fa", "y.fa"):
        out = tmp_path / f"{name}.csv"
        titans("genomics", "predict", folder / model, folder / name, "--out", out, "--batch-size", 3, *flag)
        found.append([float(row[column]) for row in table(out)])
    # float32 sums in two orders, 2e-7 of a log-likelihood measured
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def test_tracks_and_embeddings_of_both_strands(titans: Any, folder: Path, tmp_path: Path) -> None:
    for verb, name in (("score", "track"), ("embed", "vectors")):
        for file in ("x", "y"):
            out = tmp_path / f"{name}_{file}.parquet"
            given = ["genomics", verb, folder / "language", folder / f"{file}.fa", "--out", out, "--both-strands"]
            assert "records  8\nbases    376" in titans(*given).stdout
    ours, theirs = (pl.read_parquet(tmp_path / f"track_{file}.parquet") for file in ("x", "y"))
    for (name,), track in ours.group_by("chrom"):
        turned = theirs.filter(pl.col("chrom") == name)["loglik"].to_numpy()[::-1]
        np.testing.assert_allclose(track["loglik"].to_numpy(), turned, rtol=1e-4, atol=1e-5)
    ours, theirs = (pl.read_parquet(tmp_path / f"vectors_{file}.parquet") for file in ("x", "y"))
    np.testing.assert_allclose(*(np.stack(f["embedding"].to_list()) for f in (ours, theirs)), rtol=1e-4, atol=1e-5)


def test_metrics_of_both_strands(titans: Any, folder: Path, tmp_path: Path) -> None:
    found = []
    for number, codes in enumerate((records(), other(records()))):
        rows = [f"{''.join('ACGTN'[c] for c in r)},{'ab'[i % 2]}" for i, r in enumerate(codes) if len(r)]
        (tmp_path / f"{number}.csv").write_text("\n".join(["sequence,label", *rows, ""]))
        given = ["genomics", "evaluate", folder / "classifier", tmp_path / f"{number}.csv", "--both-strands"]
        found.append(titans(*given, "--json").stdout)
        fasta = folder / ("x.fa", "y.fa")[number]
        given = ["genomics", "evaluate", folder / "language", fasta, "--both-strands", "--resamples", 0]
        found.append(titans(*given).stdout)  # intervals depend on the order of a record's stretches
    assert found[1] == found[3]
    assert (
        pytest.approx(json.loads(found[0])["model"]["log_loss"], rel=1e-6) == json.loads(found[2])["model"]["log_loss"]
    )


@pytest.mark.parametrize("flag", [[], ["--both-strands"]], ids=["one strand", "both"])
def test_bits_in_repeats_and_elsewhere(titans: Any, folder: Path, tmp_path: Path, flag: list[str]) -> None:
    """Lower case, N among it, in records of several blocks and of one; those of a track."""
    text = (folder / "x.fa").read_text()
    cased = "".join(s.lower() if i % 100 < 30 and s in "ACGTN" else s for i, s in enumerate(text))
    (tmp_path / "cased.fa").write_text(cased)
    evaluate = ["genomics", "evaluate", folder / "language"]
    found = json.loads(titans(*evaluate, tmp_path / "cased.fa", "--json", *flag).stdout)
    titans("genomics", "score", folder / "language", folder / "x.fa", "--out", tmp_path / "t.parquet", *flag)
    track = pl.read_parquet(tmp_path / "t.parquet")
    sequences = dict(part.split("\n")[:2] for part in cased.split(">")[1:])
    base = track.select(pl.col("chrom", "start", "loglik")).drop_nulls().rows()
    nats: dict[bool, list[float]] = {True: [], False: []}
    for chrom, start, loglik in base:
        nats[sequences[chrom][start].islower()].append(loglik)
    for name, inside in (("bits_per_nt_repeat", True), ("bits_per_nt_other", False)):
        assert found["model"][name] == pytest.approx(-np.mean(nats[inside]) / np.log(2), rel=1e-4)
    assert found["model"]["repeat_bases"] == len(nats[True])
    assert found["items"] == sum(length > 0 for length in LENGTHS)
    whole = json.loads(titans(*evaluate, folder / "x.fa", "--json", *flag).stdout)
    assert whole["model"]["bits_per_nt"] == found["model"]["bits_per_nt"]
    assert "bits_per_nt_repeat" not in whole["model"]


@pytest.mark.parametrize("verb", ["predict", "score"])
def test_stopped_at_every_point_and_resumed_it_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Byte for byte, also inside a record: its other strand is read again."""
    monkeypatch.setattr(stream, "SAVE_EVERY", 1)
    suffix = ".csv" if verb == "predict" else ".bedgraph"
    run = getattr(genomics, verb)
    given = {"both_strands": True, "batch_size": 2, "device": "cpu"}
    run(str(folder / "language"), str(folder / "x.fa"), tmp_path / f"whole{suffix}", **given)
    for stop_at in (1, 6, 11):
        out, calls = tmp_path / f"parts{stop_at}{suffix}", 0

        def stop(watch: Watch, remedy: str, stop_at: int = stop_at) -> None:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise Interrupted(15, remedy)

        with monkeypatch.context() as broken:
            broken.setattr(Watch, "stop", stop)
            with pytest.raises(Interrupted):
                run(str(folder / "language"), str(folder / "x.fa"), out, **given)
        run(str(folder / "language"), str(folder / "x.fa"), out, resume=True, **given)
        assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("model", "options", "code", "says"),
    [
        ("language", ["--both-strands", "--state-out", "s"], 2, "reads each record from its end too"),
        ("language", ["--both-strands", "--reset", "never"], 2, "reads each record from its end too"),
        ("both", ["--state-out", "s"], 5, r"reads each record as a whole, from both ends (backbone.direction both)"),
        ("both", ["--reset", "N:10"], 5, "so it has no memory to carry on"),
        ("equivariant", ["--reset", "never"], 5, "along both strands (backbone.equivariant)"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(
    titans: Any, folder: Path, tmp_path: Path, model: str, options: list[str], code: int, says: str
) -> None:
    options = [str(tmp_path / part) if part == "s" else part for part in options]
    given = ["genomics", "predict", folder / model, folder / "x.fa", "--out", tmp_path / "x.csv", *options]
    assert says in titans(*given, code=code).stderr
    assert not (tmp_path / "x.csv").exists()


def test_a_record_that_is_too_long_to_be_read_as_a_whole(
    titans: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (walk, genomics):
        monkeypatch.setattr(module, "TOGETHER", 100)
    given = ["genomics", "predict", folder / "both", folder / "x.fa", "--out", tmp_path / "x.csv"]
    told = titans(*given, code=3).stderr
    assert f"{folder / 'x.fa'}: record 'r3' has more than 100 bases" in told and "Cut it into windows" in told
