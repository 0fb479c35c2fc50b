"""`genomics embed`: what is made of the hidden rows of a record, of which block, in which precision."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tests.conftest import thinned
from titans_seq import genomics, stream
from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG
from titans_seq.checkpoint import SequenceModel, save_pretrained
from titans_seq.data.arrays import EmbeddingFile
from titans_seq.data.record import decode
from titans_seq.embedding import Kmers, N, Nucleotides
from titans_seq.errors import NumericFault, UsageError
from titans_seq.memory import MemoryConfig
from titans_seq.stream import Steps, walk
from titans_seq.tasks.classification import Classification
from titans_seq.tasks.language import LanguageModel

# float32 sums run in another order in other cuts and batches: the tolerance of tests/test_genomics.py
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
LENGTHS = [10, 64, 3, 130, 1, 0, 33]
TOKENS = {"single": Nucleotides(), "overlapping": Kmers(k=3), "side": Kmers(k=3, overlapping=False)}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "BLOCK", 48)


def records(lengths: list[int] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.choice(5, n, p=[0.24, 0.24, 0.24, 0.24, 0.04]).astype(np.uint8) for n in lengths]


def write_fasta(file: Path, codes: list[np.ndarray]) -> str:
    file.write_text("".join(f">r{i}\n{''.join('ACGTN'[c] for c in record)}\n" for i, record in enumerate(codes)))
    return str(file)


def make(tokens: Any = TOKENS["single"], block: Any = None, task: Any = None, chunk_size: int = 16) -> SequenceModel:
    torch.manual_seed(0)
    given = {"block": block or MAG(window=8), "memory": MemoryConfig(chunk_size=chunk_size), "embedding": tokens}
    config = BackboneConfig(width=8, depth=3, heads=2, **given)
    return SequenceModel(config, LanguageModel() if task is None else task).eval()


def rows_of(model: SequenceModel, codes: np.ndarray, layer: int = 3) -> np.ndarray:
    """Rows (T, D) behind so many blocks, in one pass."""
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        hook = model.backbone.blocks[layer - 1].register_forward_hook(lambda _, given, found: seen.append(found[0]))
        hidden, _ = model.backbone(torch.from_numpy(codes.astype(np.int64))[None])
        hook.remove()
    if layer == 3:
        return hidden[0].numpy()
    stride = model.backbone.config.embedding.stride
    return seen[0][0].repeat_interleave(stride, 0)[: len(codes)].numpy()


def embedded(model: SequenceModel, folder: Path, codes: list[np.ndarray], name: str, **options: Any) -> Any:
    if not (folder / "model").exists():
        save_pretrained(model, folder / "model")
    fasta = write_fasta(folder / "x.fa", codes)
    genomics.embed(str(folder / "model"), fasta, folder / name, **options)
    if name.endswith(".npz"):
        with np.load(folder / name) as found:
            return dict(found)
    return pl.read_parquet(folder / name)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("layer", thinned([1, None]))
def test_a_record_is_what_its_rows_make(tmp_path: Path, tokens: str, layer: int | None) -> None:
    model, codes = make(TOKENS[tokens], task=Classification(classes=("a", "b"))), records()
    make_one = {"mean": lambda rows: rows.mean(0), "max": lambda rows: rows.max(0), "last": lambda rows: rows[-1]}
    for pooling, one in make_one.items():
        for batch_size in (1, 4):
            name = f"{pooling}{batch_size}.npz"
            found = embedded(model, tmp_path, codes, name, pooling=pooling, layer=layer, batch_size=batch_size)
            assert found["ids"].tolist() == [f"r{i}" for i in range(len(codes))]
            for vector, record in zip(found["embeddings"], codes, strict=True):
                expected = one(rows_of(model, record, layer or 3)) if len(record) else np.zeros(8)
                np.testing.assert_allclose(vector, expected, **TOLERANCE)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("block", thinned([MAC(segment=16), LMM()]), ids=lambda b: b.kind)
def test_every_token_has_its_row(tmp_path: Path, tokens: str, block: Any) -> None:
    model, codes = make(TOKENS[tokens], block), records()
    stride = TOKENS[tokens].stride
    for layer, batch_size in ((None, 1), (2, 4)):
        options = {"per_token": True, "layer": layer, "batch_size": batch_size}
        arrays = embedded(model, tmp_path, codes, f"{layer}.npz", **options)
        table = embedded(model, tmp_path, codes, f"{layer}.parquet", **options)
        assert arrays["ids"].tolist() == [f"r{i}" for i in range(len(codes))]
        for i, record in enumerate(codes):
            own = table.filter(pl.col("id") == f"r{i}")
            first, end = arrays["offsets"][i : i + 2]
            assert own["start"].to_list() == list(range(0, len(record), stride))
            assert end - first == len(own) == -(-len(record) // stride)
            if len(record):
                expected = rows_of(model, record, layer or 3)[::stride]
                np.testing.assert_allclose(arrays["embeddings"][first:end], expected, **TOLERANCE)
                np.testing.assert_array_equal(np.array(own["embedding"].to_list()), arrays["embeddings"][first:end])
        assert len(arrays["embeddings"]) == arrays["offsets"][-1] == len(table)


@pytest.mark.parametrize("per_token", [False, True])
def test_half_precision_is_the_whole_one_rounded(tmp_path: Path, per_token: bool) -> None:
    model, codes = make(), records()
    exact = embedded(model, tmp_path, codes, "a.npz", per_token=per_token)["embeddings"]
    half = embedded(model, tmp_path, codes, "b.npz", per_token=per_token, dtype="float16")["embeddings"]
    assert exact.dtype == np.float32 and half.dtype == np.float16
    np.testing.assert_array_equal(half, exact.astype(np.float16))
    table = embedded(model, tmp_path, codes, "b.parquet", per_token=per_token, dtype="float16")
    assert table.schema["embedding"] == pl.List(pl.Float16)
    np.testing.assert_array_equal(np.array(table["embedding"].to_list(), np.float16), half)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    file = EmbeddingFile(tmp_path / "x.npz", precision="float16")
    with pytest.raises(NumericFault, match=r"record 'a' holds 70000, and float16 ends at 65504\. Give --dtype float32"):
        file.write([{"id": "a", "embedding": np.array([1, -70000], np.float32)}])


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
@pytest.mark.parametrize("options", [{"per_token": True}, {"pooling": "max", "layer": 1}, {"pooling": "last"}])
def test_what_is_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(stream, "SAVE_EVERY", 0)
    model, codes = make(), records([200, 10, 64, 130])
    name = "token_steps" if "per_token" in options else "sequence_steps"
    embedded(model, tmp_path, codes, f"whole.{suffix}", **options)
    steps = getattr(genomics, name)
    for stop in (1, 4):

        def stopped(*arguments: Any, stop: int = stop) -> Steps:
            for number, step in enumerate(steps(*arguments)):
                yield step
                if number == stop:
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(genomics, name, stopped)
            embedded(model, tmp_path, codes, f"x.{suffix}", resume=True, **options)
    embedded(model, tmp_path, codes, f"x.{suffix}", resume=True, **options)
    assert (tmp_path / f"x.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()


def test_memory_does_not_grow_with_the_length_of_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "BLOCK", 2048)
    save_pretrained(make(block=LMM(), chunk_size=128), tmp_path / "model")
    sizes = [8 * 2048, 72 * 2048]
    for bases in sizes:
        codes = np.random.default_rng(0).integers(0, N, bases, np.uint8)
        lines = "\n".join(decode(line) for line in codes.reshape(-1, 64))
        (tmp_path / f"{bases}.fa").write_text(f">r\n{lines}\n")

    def peak(bases: int) -> int:
        fasta, out = tmp_path / f"{bases}.fa", tmp_path / f"{bases}.npz"
        genomics.embed(str(tmp_path / "model"), str(fasta), out, per_token=True, layer=1)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak(sizes[0])
    # rows of float32 that were kept would be 4 MB more
    assert peak(sizes[1]) - before < 3_000_000


def test_what_cannot_be_embedded(titans: Any, tmp_path: Path) -> None:
    save_pretrained(make(), tmp_path / "model")
    given = ("genomics", "embed", tmp_path / "model", write_fasta(tmp_path / "x.fa", records()), "--quiet")
    for code, says, *more in (
        (2, "has 3 blocks. Give 1 to 3", "--layer", 4),
        (2, "a state file is of all", "--layer", 1, "--state-out", tmp_path / "state"),
        (2, "writes every row, and --pooling max one a record", "--per-token", "--pooling", "max"),
        (2, "would hold every row of a record", "--per-token", "--both-strands"),
        (2, "'half' is not one of", "--dtype", "half"),
        (2, "should end in one of .parquet, .npz", "--per-token", "--out", tmp_path / "x.csv"),
    ):
        out = () if "--out" in more else ("--out", tmp_path / "x.npz")
        assert says in " ".join(titans(*given, *out, *more, code=code).stderr.split())
    assert {entry.name for entry in tmp_path.iterdir()} == {"model", "x.fa"}
    titans(*given, "--out", tmp_path / "x.npz", "--layer", 3, "--state-out", tmp_path / "state")
    titans(*given, "--out", tmp_path / "y.npz", "--per-token", "--state-in", tmp_path / "state")


def test_a_layer_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--layer 9"):
        embedded(make(), tmp_path, records(), "x.npz", layer=9, dry_run=True)
