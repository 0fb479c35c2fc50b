"""K-mers through the command line: every verb on models that read words, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from tests.conftest import bases
from titans_seq.checkpoint import load_config
from titans_seq.embedding import Kmers

KINDS = {"overlapping": Kmers(k=3), "side": Kmers(k=3, overlapping=False)}
every_kind = pytest.mark.parametrize("kind", KINDS)


def words(kind: str) -> list[str]:
    given = KINDS[kind].model_dump(mode="json")
    return [part for key, value in given.items() for part in ("--set", f"backbone.embedding.{key}={value}")]


class Runs(NamedTuple):
    """Runs of one step on words."""

    language: Path
    masked: Path
    classifier: Path


@pytest.fixture(scope="module", params=KINDS)
def runs(request: Any, titans: Any, tiny: Any, tmp_path_factory: Any) -> Runs:
    runs = Runs(*(tmp_path_factory.mktemp(request.param) / name for name in Runs._fields))
    once = (*tiny.size, "--set", "training.steps=1", "--quiet")
    pretrain = ("genomics", "pretrain", tiny.fasta, *words(request.param), *once, "--set", "data.length=64")
    titans(*pretrain, "--out", runs.language)
    titans(*pretrain, "--out", runs.masked, "--task", "masked_language_model")
    # from the pretrained backbone, whose tokens it takes over
    start = ("--backbone", runs.language, "--threads", "1", "--set", "training.steps=1", "--quiet")
    titans("genomics", "finetune", tiny.table, "--out", runs.classifier, *start)
    return runs


def test_a_run_of_words_is_saved_repeated_and_built_upon(titans: Any, runs: Runs, tiny: Any, tmp_path: Path) -> None:
    tokens = [load_config(str(run))[1].embedding for run in runs]
    assert tokens[0] in KINDS.values() and tokens == 3 * tokens[:1]
    for run in runs:
        again = tmp_path / run.name
        titans("run", run / "recipe.yaml", "--out", again, "--quiet")
        assert (again / "model" / "SHA256SUMS").read_text() == (run / "model" / "SHA256SUMS").read_text()
    other = ["genomics", "finetune", tiny.table, "--backbone", runs.language, "--out", tmp_path / "other"]
    told = titans(*other, "--set", "backbone.embedding={kind: nucleotides}", code=5).stderr
    assert "embedding {'kind': 'kmer', 'k': 3" in told and "there, {'kind': 'nucleotides'} here" in told


def test_every_verb_reads_words(titans: Any, runs: Runs, tiny: Any, tmp_path: Path) -> None:
    quiet = ("--quiet", "--threads", "1")
    for source in (runs.language, runs.classifier):
        titans("genomics", "predict", source, tiny.fasta, "--out", tmp_path / f"{source.name}.csv", *quiet)
        with (tmp_path / f"{source.name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == [f"r{i}" for i in range(4)]
    for source in runs:
        titans("genomics", "embed", source, tiny.fasta, "--out", tmp_path / f"{source.name}.npz", *quiet)
        with np.load(tmp_path / f"{source.name}.npz") as found:
            assert found["embeddings"].shape == (4, 16) and np.isfinite(found["embeddings"]).all()
    found = json.loads(titans("genomics", "evaluate", runs.language, tiny.fasta, "--json", *quiet).stdout)
    assert found["model"]["bits_per_nt"] == pytest.approx(2, abs=0.6)
    assert found["model"]["scored_bases"] == 806
    found = json.loads(titans("genomics", "evaluate", runs.masked, tiny.fasta, "--json", *quiet).stdout)
    assert found["model"]["bits_per_masked_nt"] == pytest.approx(2, abs=0.6)
    found = json.loads(titans("genomics", "evaluate", runs.classifier, tiny.table, "--json", *quiet).stdout)
    assert 0 <= found["model"]["accuracy"] <= 1
    titans("genomics", "score", runs.language, tiny.fasta, "--out", tmp_path / "x.parquet", *quiet)
    tracks = pl.read_parquet(tmp_path / "x.parquet")
    assert len(tracks) == 806 and not tracks.null_count().transpose().sum().item()
    for source in (runs.language, runs.classifier):
        given = ("genomics", "variants", source, tiny.vcf, "--reference", tiny.fasta, "--window", "31")
        titans(*given, "--both-strands", "--out", tmp_path / f"{source.name}.vcf", *quiet)
    titans(
        "genomics", "generate", runs.language, "--length", 50, "--prompt", "ACGT", "--out", tmp_path / "x.fa", *quiet
    )
    assert len((tmp_path / "x.fa").read_text().splitlines()[1]) == 50


def test_a_memory_goes_on_between_files_of_whole_words(titans: Any, runs: Runs, tmp_path: Path) -> None:
    text = "ACGTTGCAAC" * 9  # cut at 60, between words of 3
    for name, part in (("whole", text), ("first", text[:60]), ("second", text[60:])):
        (tmp_path / f"{name}.fa").write_text(f">r\n{part}\n")
    given = ("--threads", "1", "--quiet")
    for verb, out in (("score", "parquet"), ("predict", "parquet")):
        for name, more in (
            ("whole", ()),
            ("first", ("--state-out", tmp_path / f"{verb}.state")),
            ("second", ("--state-in", tmp_path / f"{verb}.state")),
        ):
            fasta = tmp_path / f"{name}.fa"
            titans("genomics", verb, runs.language, fasta, "--out", tmp_path / f"{verb}_{name}.{out}", *more, *given)
    first, second, whole = (pl.read_parquet(tmp_path / f"score_{n}.parquet") for n in ("first", "second", "whole"))
    for track in ("loglik", "entropy", "surprise"):
        parts = np.concatenate([first[track].to_numpy(), second[track].to_numpy()])
        np.testing.assert_allclose(parts, whole[track].to_numpy(), rtol=1e-4, atol=1e-5)
    nats = [
        pl.read_parquet(tmp_path / f"predict_{n}.parquet")["log_likelihood"][0] for n in ("first", "second", "whole")
    ]
    assert nats[0] + nats[1] == pytest.approx(nats[2], rel=1e-5)
    state = ("--state-in", tmp_path / "score.state")
    titans("genomics", "embed", runs.language, tmp_path / "second.fa", "--out", tmp_path / "e.npz", *state, *given)
    titans("genomics", "generate", runs.language, "--length", 7, "--out", tmp_path / "g.fa", *state, *given)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["k=3", "overlapping=false", "equivariant"], "words of 3 bases side by side are others from the other end"),
        (["k=1"], "backbone.embedding.kmer.k: input should be greater than or equal to 2"),
        (["k=9"], "backbone.embedding.kmer.k: input should be less than or equal to 8"),
        (["length=3"], "backbone.embedding.kmer.length: unknown key"),
    ],
)
def test_tokens_that_are_refused(titans: Any, tiny: Any, tmp_path: Path, settings: list[str], says: str) -> None:
    keys = [f"embedding.{s}" if "=" in s else f"{s}=true" for s in ["kind=kmer", *settings]]
    given = [part for key in keys for part in ("--set", f"backbone.{key}")]
    told = titans("genomics", "finetune", tiny.table, "--out", tmp_path / "run", *given, code=4).stderr
    assert says in told and not (tmp_path / "run").exists()


def test_tasks_that_words_do_not_suit(titans: Any, tiny: Any, tmp_path: Path) -> None:
    finetune = ("genomics", "finetune", tiny.table, "--out", tmp_path / "run", *tiny.size)
    told = titans(*finetune, *words("side"), "--task", "segmentation", code=4).stderr
    assert (
        "task segmentation has an answer for every base, and words of 3 bases side by side have one row a word" in told
    )
    told = titans(*finetune, *words("side"), "--task", "tracks", "--set", "task.bin=1", code=4).stderr
    assert "task tracks has an answer for every base" in told
    train = ("forecast", "train", tiny.wide, "--out", tmp_path / "run", *tiny.forecast)
    assert "k-mers are words of nucleotides" in titans(*train, *words("overlapping"), code=4).stderr
    pretrain = ("genomics", "pretrain", tiny.fasta, "--out", tmp_path / "run", *tiny.size, "--set", "task.word=2")
    assert "task.word follows from backbone.embedding, here 1" in titans(*pretrain, code=4).stderr
    patches = ("--set", "backbone.embedding={kind: patches, features: 4}")
    told = titans("genomics", "pretrain", tiny.fasta, "--out", tmp_path / "run", *tiny.size, *patches, code=4).stderr
    assert "the patches of a series follow from the task" in told
    assert not (tmp_path / "run").exists()


def test_a_memory_does_not_begin_anew_inside_a_word(titans: Any, runs: Runs, tiny: Any, tmp_path: Path) -> None:
    side = load_config(str(runs.language))[1].embedding.stride > 1
    given = ("genomics", "predict", runs.language, tiny.fasta, "--quiet", "--threads", "1")
    for number, (rule, code) in enumerate((("N:3", 2), ("every:10", 2), ("every:9", 0), ("never", 0))):
        told = titans(*given, "--reset", rule, "--out", tmp_path / f"{number}.csv", code=code if side else 0).stderr
        assert not (code and side) or "and this may begin anew inside one. Give record, never, or every:LENGTH" in told


def test_segmentation_and_tracks_by_overlapping_words(titans: Any, tmp_path: Path) -> None:
    rows = [f"{'ACGT' * 6}{'ACGT'[i % 4]},{'ab' * 12}{'ab'[i % 2]}" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["sequence,label", *rows, ""]))
    size = ("--set", "backbone.width=16", "--set", "backbone.heads=2", "--set", "training.steps=1", "--threads", "1")
    given = ("genomics", "finetune", tmp_path / "t.csv", *words("overlapping"), *size, "--quiet")
    titans(*given, "--task", "segmentation", "--out", tmp_path / "run")
    (tmp_path / "x.fa").write_text(">x\nACGTNACGTTGCA\n")
    titans("genomics", "predict", tmp_path / "run", tmp_path / "x.fa", "--out", tmp_path / "x.parquet", "--quiet")
    assert len(pl.read_parquet(tmp_path / "x.parquet")) == 13
    values = [f"{bases(24, i)},{';'.join(str((i * j) % 5) for j in range(4))}" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["sequence,label", *values, ""]))
    given = ("genomics", "finetune", tmp_path / "t.csv", *words("side"), *size, "--quiet")
    titans(*given, "--task", "tracks", "--out", tmp_path / "tracks")  # bins of 6 bases, two words
    titans("genomics", "predict", tmp_path / "tracks", tmp_path / "x.fa", "--out", tmp_path / "y.parquet", "--quiet")
    assert len(pl.read_parquet(tmp_path / "y.parquet")) == 13
