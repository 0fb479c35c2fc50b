"""Verbs of sequences: a memory as a file, reset rules, tracks, embeddings, generated DNA."""

import os
import resource
import signal
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import thinned
from titans_seq import genomics, stream
from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG, MAL, AttentionOnly
from titans_seq.checkpoint import SequenceModel, save_pretrained
from titans_seq.data.arrays import TrackFile
from titans_seq.data.fasta import Block
from titans_seq.data.record import encode
from titans_seq.data.reset import reset_rule
from titans_seq.errors import InputError, Interrupted, ModelError, UsageError
from titans_seq.memory import MemoryConfig
from titans_seq.memory_state import read_state
from titans_seq.miras.structure import MLP, Matrix
from titans_seq.stream import Point, Steps, generation, walk
from titans_seq.stream.generation import Sampling, drawn
from titans_seq.stream.sequences import sequence_steps
from titans_seq.stream.tracks import track_steps
from titans_seq.stream.walk import Course, learned_start
from titans_seq.tasks.classification import Classification
from titans_seq.tasks.language import LanguageModel
from titans_seq.tasks.pooling import Embedder

# float32 sums run in another order in other cuts and batches; the largest difference measured below is 3e-6 nats a
# record and 1e-6 of an embedding
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
BLOCKS = {
    "lmm": LMM(),
    "mag": MAG(window=8),
    "mal": MAL(window=8),
    "mac": MAC(segment=16),
    "attention": AttentionOnly(window=8),
}
MEMORIES = [name for name in BLOCKS if name != "attention"]
LENGTHS = [10, 64, 3, 140, 65, 1, 0, 33]


def make(block: Any = BLOCKS["mag"], task: Any = None, seed: int = 0, **backbone: Any) -> SequenceModel:
    torch.manual_seed(seed)
    given = {"width": 16, "depth": 2, "heads": 2, "memory": MemoryConfig(chunk_size=16), **backbone}
    config = BackboneConfig(block=block, **given)
    return SequenceModel(config, LanguageModel() if task is None else task).eval()


def records(lengths: list[int] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    """Random bases with runs of N."""
    rng = np.random.default_rng(seed)
    found = [rng.choice(5, n, p=[0.24, 0.24, 0.24, 0.24, 0.04]).astype(np.uint8) for n in lengths]
    for codes in found:
        codes[len(codes) // 2 : len(codes) // 2 + len(codes) // 8] = 4
    return found


def blocks(codes: list[np.ndarray], size: int = 64, names: str = "r") -> Iterator[Block]:
    for number, record in enumerate(codes):
        for start in range(0, max(1, len(record)), size):
            piece = record[start : start + size]
            yield Block(number, f"{names}{number}", start, piece, start + size >= len(record))


def write_fasta(file: Path, codes: list[np.ndarray]) -> Path:
    file.write_text("".join(f">r{i}\n{''.join('ACGTN'[c] for c in record)}\n" for i, record in enumerate(codes)))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of both tasks, another language model, and records in a FASTA."""
    folder = tmp_path_factory.mktemp("genomics")
    save_pretrained(make(), folder / "language")
    save_pretrained(make(seed=1), folder / "other")
    save_pretrained(make(task=Classification(classes=("a", "b"))), folder / "classifier")
    save_pretrained(make(MAC(segment=16, mode="paper"), Classification(classes=("a", "b"))), folder / "printed")
    write_fasta(folder / "x.fa", records())
    return folder


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "BLOCK", 64)
    monkeypatch.setattr(generation, "PIECE", 16)


def nats(steps: Steps) -> np.ndarray:
    return np.array([row["log_likelihood"] for ready, _ in steps for row in ready])


def tracks_of(model: SequenceModel, codes: list[np.ndarray], rule: str = "record", **options: Any) -> list[np.ndarray]:
    """Tracks (K, T) of each record."""
    course = options.pop("course", None) or Course(learned_start(model), reset_rule(rule))
    size, batch_size = options.pop("size", 64), options.pop("batch_size", 4)
    found: dict[str, list[np.ndarray]] = {f"r{i}": [] for i in range(len(codes))}
    for ready, _ in track_steps(model, blocks(codes, size), batch_size, Point(), course, **options):
        for row in ready:
            assert row["start"] == sum(part.shape[1] for part in found[row["chrom"]])
            found[row["chrom"]].append(row["values"])
    return [np.concatenate(parts, 1) if parts else np.zeros((1, 0)) for parts in found.values()]


# --- where the memory begins anew


def by_hand(model: SequenceModel, codes: list[np.ndarray], rule: str) -> list[np.ndarray]:
    """ln p of every base, each stretch between resets read in one pass from the learned memory."""
    head, found = model.head, []
    whole = [np.concatenate(codes)] if rule == "never" else codes
    for record in whole:
        cuts, _ = reset_rule(rule).inside(record, 0, 0)
        for part in np.split(record, cuts):
            tokens = torch.from_numpy(part.astype(np.int64))[None]
            batch = {"tokens": tokens, "previous": torch.tensor([5])}
            if len(part):
                hidden, _ = model.backbone(head.inputs(batch))
                found.append(head.token_loglik(hidden, batch)[0].detach().numpy())
    return np.split(np.concatenate(found), np.cumsum([len(record) for record in codes])[:-1])


@pytest.mark.parametrize(("block", "rule"), thinned(product(BLOCKS, ["record", "never", "N:5", "every:50"])))
def test_the_memory_begins_anew_where_the_rule_says(block: str, rule: str) -> None:
    model, codes = make(BLOCKS[block]), records()
    expected = by_hand(model, codes, rule)
    for size, batch_size in ((64, 4), (16, 1), (1000, 64)):
        found = tracks_of(model, codes, rule, tracks=["loglik"], size=size, batch_size=batch_size)
        for ours, theirs, record in zip(found, expected, codes, strict=True):
            np.testing.assert_array_equal(np.isnan(ours[0]), record == 4)
            np.testing.assert_allclose(ours[0][record < 4], theirs[record < 4], **TOLERANCE)
        course = Course(learned_start(model), reset_rule(rule))
        total = nats(sequence_steps(model, blocks(codes, size), batch_size, Point(), course))
        np.testing.assert_allclose(total, [record.sum() for record in expected], **TOLERANCE)


def test_rules_differ() -> None:
    model, codes = make(), records()
    found = [np.concatenate(by_hand(model, codes, rule)) for rule in ("record", "never", "N:5", "every:50")]
    assert all(not np.allclose(one, other) for i, one in enumerate(found) for other in found[:i])


# --- a memory as a file


def options(folder: Path, source: str = "language", fasta: str = "x.fa") -> tuple[str, str]:
    return str(folder / source), str(folder / fasta)


@pytest.mark.parametrize("verb", ["predict", "score", "embed"])
def test_a_state_file_is_the_state(folder: Path, tmp_path: Path, verb: str) -> None:
    """A, its state, then B from it: bit for bit A and B as one stream with the same cuts."""
    codes, run = records([200, 64]), getattr(genomics, verb)
    both = write_fasta(tmp_path / "both.fa", codes)
    first, second = (write_fasta(tmp_path / f"{i}.fa", [c]) for i, c in enumerate(codes))
    suffix, extra = ("parquet", {"tracks": ["loglik", "entropy"]}) if verb == "score" else ("parquet", {})
    source, out = str(folder / "language"), [tmp_path / f"{i}.{suffix}" for i in range(3)]
    states = [tmp_path / f"{i}.state" for i in range(3)]
    run(source, str(both), out[0], reset="never", state_out=states[0], **extra)
    run(source, str(first), out[1], reset="never", state_out=states[1], **extra)
    run(source, str(second), out[2], state_in=states[1], state_out=states[2], **extra)
    whole, parts = pl.read_parquet(out[0]), pl.concat([pl.read_parquet(part) for part in out[1:]])
    kept = [c for c in whole.columns if c not in ("id", "chrom")]
    assert whole.select(kept).equals(parts.select(kept))
    one, other = (read_state(states[i])[0] for i in (0, 2))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    # an embedding reads the last base too, a language model has it before it
    assert int(one["memory.position"]) == 264 and int(one["previous"]) == (5 if verb == "embed" else codes[1][-1])


def test_a_record_cut_in_two_files_is_the_record(folder: Path, tmp_path: Path) -> None:
    model, (codes,) = make(), records([300])
    (whole,) = tracks_of(model, [codes], tracks=["loglik"])
    (tmp_path / "a.fa").write_text(write_fasta(tmp_path / "x.fa", [codes[:171]]).read_text())
    write_fasta(tmp_path / "b.fa", [codes[171:]])
    source = str(folder / "language")
    genomics.score(source, str(tmp_path / "a.fa"), tmp_path / "a.parquet", state_out=tmp_path / "s", tracks=["loglik"])
    genomics.score(source, str(tmp_path / "b.fa"), tmp_path / "b.parquet", state_in=tmp_path / "s", tracks=["loglik"])
    parts = [pl.read_parquet(tmp_path / f"{n}.parquet")["loglik"].fill_null(np.nan).to_numpy() for n in "ab"]
    np.testing.assert_allclose(np.concatenate(parts), whole[0], **TOLERANCE)


def test_every_record_starts_from_the_state_that_is_given(folder: Path, tmp_path: Path) -> None:
    source, fasta = options(folder)
    genomics.predict(source, fasta, tmp_path / "a.csv", state_out=tmp_path / "s", reset="never")
    codes = records()
    start = genomics._start(source, make(), tmp_path / "s")
    for batch_size in (1, 4):
        genomics.predict(
            source, fasta, tmp_path / f"{batch_size}.parquet", state_in=tmp_path / "s", batch_size=batch_size
        )
        found = pl.read_parquet(tmp_path / f"{batch_size}.parquet")["log_likelihood"].to_numpy()
        alone = [nats(sequence_steps(make(), blocks([c]), 1, Point(), Course(start)))[0] for c in codes]
        np.testing.assert_allclose(found, alone, **TOLERANCE)
    learned = nats(sequence_steps(make(), blocks(codes), 4, Point()))
    assert not np.allclose(found, learned)


def test_states_that_are_refused(folder: Path, tmp_path: Path) -> None:
    source, fasta = options(folder)
    state = tmp_path / "s"
    genomics.predict(source, fasta, tmp_path / "a.csv", state_out=state)
    good = state.read_bytes()

    def refused(kind: type[Exception], match: str, source: str = source, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            genomics.predict(source, fasta, tmp_path / "b.csv", **{"state_in": state, **options})
        assert not (tmp_path / "b.csv").exists()

    refused(ModelError, rf"{state} was made by another model \({source}\)", source=str(folder / "other"))
    refused(ModelError, "by another model", source=str(folder / "classifier"))
    refused(UsageError, "is not there", state_in=tmp_path / "none")
    refused(UsageError, "is the file of --state-in", state_out=state)
    state.write_bytes(good[:-7])
    refused(ModelError, f"{state} is not a memory state that can be read")
    state.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused(ModelError, f"{state} is not what was saved|is not finite")
    tensors, about = read_state(Path(state.write_bytes(good) and state))
    for name, value, match in (
        ("previous", torch.tensor(77), "holds the token 77"),
        ("memory.layers.0.scan.weights.0", None, "is not finite"),
    ):
        changed = dict(tensors)
        changed[name] = tensors[name] * torch.nan if value is None else value
        save_file(changed, state, metadata={key: v for key, v in about.items() if key != "sum"})
        refused(ModelError, match)
    save_file(tensors, state)
    refused(ModelError, "was made without saying by which model")


@pytest.mark.parametrize("given", [{"reset": "never"}, {"reset": "N:3"}, {"state_out": "s"}])
def test_a_backbone_that_looks_ahead_carries_no_state(folder: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    given = {name: tmp_path / value if name == "state_out" else value for name, value in given.items()}
    with pytest.raises(UsageError, match=r"cannot be carried on from anywhere\. Leave out --state-in"):
        genomics.predict(*options(folder, "printed"), tmp_path / "out.csv", **given)


# --- tracks


@pytest.mark.parametrize("block", BLOCKS)
def test_a_track_sums_to_the_likelihood_of_the_record(block: str) -> None:
    model, codes = make(BLOCKS[block]), records()
    found = [np.nansum(values[0], dtype=np.float64) for values in tracks_of(model, codes, tracks=["loglik"])]
    np.testing.assert_allclose(found, nats(sequence_steps(model, blocks(codes), 4, Point())), **TOLERANCE)


def test_entropy_is_that_of_the_four_probabilities() -> None:
    model, (codes,) = make(), records([100])
    (values,) = tracks_of(model, [codes], tracks=["loglik", "entropy"])
    for at in (0, 1, 40, 99):
        p = []
        for base in range(4):
            other = np.array([*codes[:at], base], np.uint8)
            p.append(np.exp(by_hand(model, [other], "record")[0][at]))
        assert sum(p) == pytest.approx(1, abs=1e-5)
        if codes[at] < 4:
            assert values[1][at] == pytest.approx(-(np.array(p) * np.log(p)).sum(), abs=1e-5)


def surprise_by_autograd(model: SequenceModel, codes: np.ndarray) -> np.ndarray:
    """‖∂ℓ/∂W‖ of every base at the memory of its chunk's start, of a model of one block that is memory alone."""
    block = model.backbone.blocks[0]
    memory, chunk = block.mixer.memory, model.backbone.config.memory.chunk_size
    with torch.no_grad():
        x = block.norm_mixer(model.backbone.embedding(torch.tensor([[5, *codes.tolist()]])))
        projected, _ = memory.conv(memory.project(x), block.mixer.initial_state(1).tails)
        _, k, v = (memory._heads(part) for part in torch.nn.functional.silu(projected).chunk(3, -1))
        k = torch.nn.functional.normalize(k, dim=-1)
        starts, state = [], block.mixer.initial_state(1)
        for part in x.split(chunk, 1):
            starts.append(state.scan.weights)
            _, state = memory(part, state)
    found = []
    for t in range(1, x.shape[1]):
        norms = []
        for h in range(memory.heads):
            weights = tuple(w[:1, h : h + 1].clone().requires_grad_() for w in starts[t // chunk])
            read = memory.config.structure.read(weights, k[:, h : h + 1, t : t + 1], None)
            loss = memory.config.bias.loss(read, v[:, h : h + 1, t : t + 1]).sum()
            norms.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]).norm())
        found.append(float(torch.stack(norms).mean()))
    return np.array(found)


@pytest.mark.parametrize("structure", [Matrix(), MLP()], ids=lambda s: s.kind)
def test_surprise_is_the_norm_of_the_gradient(structure: Any) -> None:
    torch.manual_seed(0)
    memory = MemoryConfig(chunk_size=16, structure=structure)
    model = SequenceModel(
        BackboneConfig(width=16, depth=1, heads=2, block=LMM(), memory=memory), LanguageModel()
    ).eval()
    codes = records([90, 7])
    for size, batch_size in ((1000, 2), (1000, 1), (16, 1), (25, 1)):
        found = tracks_of(model, codes, tracks=["surprise"], size=size, batch_size=batch_size)
        for ours, record in zip(found, codes, strict=True):
            expected = surprise_by_autograd(model, record)
            np.testing.assert_allclose(ours[0][record < 4], expected[record < 4], rtol=1e-4)


@pytest.mark.parametrize(("block", "rule"), thinned(product(MEMORIES, ["every:50", "N:5", "never"])))
def test_surprise_does_not_depend_on_cuts(block: str, rule: str) -> None:
    model, codes = make(BLOCKS[block]), records()
    whole = tracks_of(model, codes, rule, tracks=["surprise", "loglik"], size=1000, batch_size=1)
    alone = tracks_of(model, codes, tracks=["surprise"], size=1000, batch_size=1)
    for size, batch_size in ((64, 4), (16, 1), (50, 3)):
        for one, other in zip(
            tracks_of(model, codes, rule, tracks=["surprise", "loglik"], size=size), whole, strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        cut = tracks_of(model, codes, tracks=["surprise"], size=size, batch_size=batch_size)
        for one, other in zip(cut, alone, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_surprise_changes_no_prediction() -> None:
    """The base that is read ahead leaves nothing behind."""
    model, codes = make(), records()
    for ours, theirs in zip(
        tracks_of(model, codes, tracks=["loglik", "surprise"], batch_size=1),
        tracks_of(model, codes, tracks=["loglik"], batch_size=1),
        strict=True,
    ):
        np.testing.assert_array_equal(ours[0], theirs[0])


@pytest.mark.parametrize("by", ["attention", "gates by chunk"])
def test_a_model_without_a_memory_whose_surprise_is_known(tmp_path: Path, by: str) -> None:
    chunks = MemoryConfig(chunk_size=16, gates="chunk", read="start")
    model = make(AttentionOnly(window=8)) if by == "attention" else make(LMM(), memory=chunks)
    save_pretrained(model, tmp_path / "model")
    write_fasta(tmp_path / "x.fa", records())
    given = str(tmp_path / "model"), str(tmp_path / "x.fa")
    with pytest.raises(UsageError, match="has no memory whose surprise is recorded"):
        genomics.score(*given, tmp_path / "out.bedgraph", tracks=["surprise"])
    genomics.score(*given, tmp_path / "out.parquet")
    assert pl.read_parquet(tmp_path / "out.parquet").columns == ["chrom", "start", "loglik", "entropy"]


def test_one_track_a_file_but_parquet(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds one track and loglik and entropy are asked for\. Write \.parquet"):
        genomics.score(*options(folder), tmp_path / "out.bedgraph", tracks=["loglik", "entropy"])
    with pytest.raises(UsageError, match=r"should end in one of \.bedgraph, \.bw, \.parquet"):
        genomics.score(*options(folder), tmp_path / "out.csv")
    with pytest.raises(ModelError, match=r"task classification, and this needs a language model, which .* Train one"):
        genomics.score(*options(folder, "classifier"), tmp_path / "out.bedgraph")


# --- kills and resumes


@pytest.mark.parametrize(
    ("verb", "rule"), thinned(product(["predict", "score", "embed"], ["record", "never", "N:5", "every:50"]))
)
def test_a_stopped_job_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, rule: str
) -> None:
    monkeypatch.setattr(stream, "SAVE_EVERY", 0)
    run, name = getattr(genomics, verb), "track_steps" if verb == "score" else "sequence_steps"
    extra: dict[str, Any] = {"reset": rule, "tracks": ["loglik"]} if verb == "score" else {"reset": rule}
    steps = getattr(genomics, name)
    run(*options(folder), tmp_path / "whole.parquet", state_out=tmp_path / "whole.state", **extra)
    given = {**extra, "state_out": tmp_path / "state", "resume": True}
    for stop in (1, 2, 3):

        def signalled(*arguments: Any, stop: int = stop) -> Steps:
            for number, step in enumerate(steps(*arguments)):
                yield step
                if number == stop:
                    raise Interrupted(signal.SIGTERM, "between two steps")

        with monkeypatch.context() as patch:
            patch.setattr(genomics, name, signalled)
            try:
                run(*options(folder), tmp_path / "out.parquet", **given)
            except Interrupted:
                assert not (tmp_path / "out.parquet").exists() and not (tmp_path / "state").exists()
    with pytest.raises(InputError, match="another reset"):
        run(*options(folder), tmp_path / "out.parquet", **{**given, "reset": "every:9"})
    run(*options(folder), tmp_path / "out.parquet", **given)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert (tmp_path / "state").read_bytes() == (tmp_path / "whole.state").read_bytes()


def test_a_job_whose_state_is_gone_is_not_finished(folder: Path, tmp_path: Path) -> None:
    given = (*options(folder), tmp_path / "out.csv")
    genomics.predict(*given, state_out=tmp_path / "state")
    assert genomics.predict(*given, state_out=tmp_path / "state", resume=True)["already_finished"]
    (tmp_path / "state").unlink()
    with pytest.raises(UsageError, match=r"state is not there\. To make it again add --overwrite"):
        genomics.predict(*given, state_out=tmp_path / "state", resume=True)


def test_memory_does_not_grow_with_the_length_of_a_record(tmp_path: Path) -> None:
    model = make(LMM(), depth=1, memory=MemoryConfig(chunk_size=128))

    def read(bases: int) -> int:
        """Peak of this process after a record of so many bases, in bytes."""
        codes = np.random.default_rng(0).integers(0, 4, bases, np.uint8)
        stream.run_stream(
            lambda point: track_steps(model, blocks([codes], 2048), 4, point, Course(learned_start(model)), ["loglik"]),
            tmp_path / f"{bases}.bedgraph",
            {},
            resume=False,
            template=lambda _: None,
            kind=TrackFile,
        )
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = read(8 * 2048)
    # one hidden row a base, kept, would be 8 MB more, and so would a line of text a base
    assert read(72 * 2048) - before < 5_000_000


def test_a_track_through_the_command_line(titans: Any, folder: Path, tmp_path: Path) -> None:
    given = ["genomics", "score", *options(folder), "--quiet"]
    titans(*given, "--out", tmp_path / "a.bedgraph", "--reset", "N:5", "--state-out", tmp_path / "state")
    titans(*given, "--out", tmp_path / "a.parquet", "--reset", "N:5", "--track", "entropy", "--track", "loglik")
    table = pl.read_parquet(tmp_path / "a.parquet")
    assert table.columns == ["chrom", "start", "entropy", "loglik"]
    lines = [line.split("\t") for line in (tmp_path / "a.bedgraph").read_text().splitlines()]
    found = {(chrom, at): float(value) for chrom, start, end, value in lines for at in range(int(start), int(end))}
    expected = {(chrom, at): value for chrom, at, value in table.drop("entropy").drop_nulls().iter_rows()}
    assert found.keys() == expected.keys()
    assert all(np.float32(found[key]) == np.float32(value) for key, value in expected.items())
    for code, says, *more in (
        (2, "--reset N:0 is no rule", "--reset", "N:0"),
        (2, "--track gc is none. Give loglik, entropy, surprise", "--track", "gc"),
        (2, "none is not there", "--state-in", tmp_path / "none"),
        (2, f"{tmp_path / 'state'} exists", "--state-out", tmp_path / "state"),
        (5, "is not a memory state", "--state-in", folder / "x.fa"),
    ):
        assert says in titans(*given, "--out", tmp_path / "b.bedgraph", *more, code=code).stderr
    other = ["genomics", "embed", folder / "other", folder / "x.fa", "--state-in", tmp_path / "state"]
    assert f"by another model ({folder / 'language'})" in titans(*other, "--out", tmp_path / "b.npz", code=5).stderr
    printed = ["genomics", "predict", *options(folder, "printed"), "--out", tmp_path / "b.csv", "--reset", "never"]
    assert "cannot be carried" in titans(*printed, code=2).stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.bedgraph", "a.parquet", "state"}


# --- embeddings


@pytest.mark.parametrize(
    ("block", "task"), thinned(product(BLOCKS, [LanguageModel(), Classification(classes=("a", "b"))]), 3)
)
def test_an_embedding_is_the_mean_of_the_last_hidden_rows(block: str, task: Any) -> None:
    model, codes = make(BLOCKS[block], task), records()
    for size, batch_size in ((64, 1), (64, 4), (16, 64), (1000, 3)):
        steps = sequence_steps(model, blocks(codes, size), batch_size, Point(), None, Embedder(16))
        found = [row["embedding"] for ready, _ in steps for row in ready]
        for ours, record in zip(found, codes, strict=True):
            if not len(record):
                assert not ours.any()
                continue
            hidden, _ = model.backbone(torch.from_numpy(record.astype(np.int64))[None])
            np.testing.assert_allclose(ours, hidden[0].mean(0).detach(), **TOLERANCE)


def test_an_embedding_goes_on_where_a_language_model_stopped(folder: Path, tmp_path: Path) -> None:
    """The base that a language model has not read is read, and is in no mean."""
    model, (codes,) = make(), records([150])
    write_fasta(tmp_path / "a.fa", [codes[:100]])
    write_fasta(tmp_path / "b.fa", [codes[100:]])
    source = str(folder / "language")
    genomics.predict(source, str(tmp_path / "a.fa"), tmp_path / "a.csv", state_out=tmp_path / "s")
    genomics.embed(source, str(tmp_path / "b.fa"), tmp_path / "b.npz", state_in=tmp_path / "s")
    hidden, _ = model.backbone(torch.tensor([[5, *codes.tolist()]]))  # BEGIN, as the language model reads it
    with np.load(tmp_path / "b.npz") as found:
        np.testing.assert_allclose(found["embeddings"][0], hidden[0, 101:].mean(0).detach(), **TOLERANCE)


# --- generated DNA


def generated(folder: Path, out: Path, **options: Any) -> list[str]:
    genomics.generate(str(folder / "language"), out, **{"length": 24, "overwrite": True, **options})
    return ["".join(record.splitlines()[1:]) for record in out.read_text().split(">")[1:]]


def test_what_is_generated_follows_from_the_seed(folder: Path, tmp_path: Path) -> None:
    three = generated(folder, tmp_path / "x.fa", samples=3, seed=7, prompt="ACGTN")
    assert all(len(text) == 24 and set(text) <= set("ACGT") for text in three) and len(set(three)) == 3
    assert generated(folder, tmp_path / "y.fa", samples=3, seed=7, prompt="ACGTN") == three
    assert generated(folder, tmp_path / "y.fa", samples=2, seed=7, prompt="ACGTN", batch_size=1) == three[:2]
    assert generated(folder, tmp_path / "y.fa", samples=3, seed=8, prompt="ACGTN") != three
    assert (tmp_path / "x.fa").read_text().splitlines()[0] == ">sample_1 seed=7 temperature=1 top_k=4 prompt=5"


def test_the_likeliest_base_is_taken_each_time_without_temperature(folder: Path, tmp_path: Path) -> None:
    model, prompt = make(), "ACGTTGCA" * 12
    (found,) = generated(folder, tmp_path / "x.fa", prompt=prompt, temperature=0, length=20)
    assert found == generated(folder, tmp_path / "x.fa", prompt=prompt, top_k=1, length=20)[0]
    codes = encode(prompt + found)
    hidden, _ = model.backbone(torch.tensor([[5, *codes[:-1].tolist()]]))
    best = model.head.logits(hidden)[0].argmax(-1)[len(prompt) :]
    assert best.tolist() == encode(found).tolist()


def test_bases_are_drawn_as_often_as_the_model_says() -> None:
    logits = np.log([[0.5, 0.3, 0.15, 0.05]])
    chance = (np.arange(1000) + 0.5) / 1000
    for temperature, top_k, expected in (
        (1.0, 4, [500, 300, 150, 50]),
        (1.0, 2, [625, 375, 0, 0]),
        (0.0, 4, [1000, 0, 0, 0]),
        (0.5, 4, [685, 247, 62, 7]),  # of the squares
    ):
        found = drawn(np.repeat(logits, 1000, 0), Sampling(1, temperature=temperature, top_k=top_k), chance)
        assert np.abs(np.bincount(found, minlength=4) - expected).max() <= 1, (temperature, top_k)
    assert drawn(logits, Sampling(1), np.array([np.nextafter(1, 0)]))[0] == 3


def test_a_prompt_may_stand_in_a_state(folder: Path, tmp_path: Path) -> None:
    prompt = "GATTACA" * 13
    (tmp_path / "p.fa").write_text(f">p\n{prompt}\n")
    genomics.score(
        str(folder / "language"), str(tmp_path / "p.fa"), tmp_path / "p.bedgraph", state_out=tmp_path / "state"
    )
    whole = generated(folder, tmp_path / "x.fa", prompt=prompt)
    assert generated(folder, tmp_path / "x.fa", state_in=tmp_path / "state") == whole


@pytest.mark.parametrize(("block", "stop"), thinned(product(["mag", "mac", "attention"], [0, 1, 2, 3])))
def test_what_is_killed_and_resumed_is_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str, stop: int
) -> None:
    """Three samples, two side by side and one alone, of two pieces each; killed after a step, with its point or not."""
    save_pretrained(make(BLOCKS[block]), tmp_path / "model")
    given = {"length": 24, "samples": 3, "batch_size": 2, "prompt": "ACGTN", "seed": 7}
    genomics.generate(str(tmp_path / "model"), tmp_path / "whole.fa", **given)
    for save_every in (0, 40):

        def killed(*arguments: Any, whole: Any = genomics.generation_steps) -> Steps:
            for number, step in enumerate(whole(*arguments)):
                yield step
                if number == stop:
                    raise KeyboardInterrupt

        monkeypatch.setattr(genomics, "GENERATED", save_every)
        out = tmp_path / f"{save_every}.fa"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(genomics, "generation_steps", killed)
            genomics.generate(str(tmp_path / "model"), out, **given)
        assert not out.exists()
        if out.with_name(f"{out.name}.point").exists():
            with pytest.raises(InputError, match="another temperature"):
                genomics.generate(str(tmp_path / "model"), out, **given, temperature=0.5, resume=True)
        genomics.generate(str(tmp_path / "model"), out, **given, resume=True)
        assert out.read_bytes() == (tmp_path / "whole.fa").read_bytes()
    assert genomics.generate(str(tmp_path / "model"), out, **given, resume=True)["already_finished"]


def test_a_signal_leaves_what_can_be_resumed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generated(folder, tmp_path / "whole.fa")
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=r"by SIGTERM\. .*x\.fa is not complete"):
        patch.setattr(stream.Progress, "add", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        generated(folder, tmp_path / "x.fa")
    assert not (tmp_path / "x.fa").exists()
    assert generated(folder, tmp_path / "x.fa", overwrite=False, resume=True) == whole
    assert {entry.name for entry in tmp_path.iterdir()} == {"whole.fa", "x.fa"}


def test_a_prompt_that_is_no_dna(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--prompt has 'E' at position 2"):
        generated(folder, tmp_path / "x.fa", prompt="AE")
    assert not (tmp_path / "x.fa").exists()
