"""Words of nucleotides: what a token is, that models by words are distributions over bases, and that streams hold."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from tests.conftest import thinned
from titans_seq import genomics
from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG, AttentionOnly
from titans_seq.checkpoint import SequenceModel, load_pretrained, save_pretrained
from titans_seq.data.fasta import Block
from titans_seq.data.record import Record, encode
from titans_seq.data.reset import reset_rule
from titans_seq.data.windows import GenomeWindows, MaskedWindows, reverse_complement
from titans_seq.embedding import BEGIN, MASK, PAD, VOCABULARY, Embedding, Kmers, N, Nucleotides, spelled, word_tokens
from titans_seq.files import sha256
from titans_seq.memory import MemoryConfig
from titans_seq.stream import Point, walk
from titans_seq.stream.sequences import sequence_steps
from titans_seq.stream.tracks import token_loglik, track_steps
from titans_seq.stream.walk import Course, block_size, learned_start
from titans_seq.tasks.language import LanguageModel, base_logits
from titans_seq.tasks.masked import MaskedLanguageModel
from titans_seq.tasks.pooling import Embedder

TOKENS = [Nucleotides(), Kmers(k=3), Kmers(k=2, overlapping=False), Kmers(k=3, overlapping=False)]
every_tokens = pytest.mark.parametrize("tokens", TOKENS, ids=lambda t: f"{t.kind}-{getattr(t, 'k', 1)}-{t.stride}")
every_kmers = pytest.mark.parametrize("tokens", TOKENS[1:], ids=lambda t: f"{t.k}-{t.stride}")
BLOCKS = [LMM(), MAG(window=8), MAC(segment=16), AttentionOnly(window=8)]
every_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.kind)
# float32 sums run in another order in other cuts and batches: the tolerance of tests/test_genomics.py
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def make(tokens: Embedding, task: Any = None, block: Any = BLOCKS[1], **backbone: Any) -> SequenceModel:
    torch.manual_seed(0)
    memory = MemoryConfig(chunk_size=16)
    config = BackboneConfig(width=8, depth=2, heads=2, block=block, memory=memory, embedding=tokens, **backbone)
    return SequenceModel(config, LanguageModel() if task is None else task).eval()


def bases(count: int, seed: int = 0, unknown: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(count) < unknown, N, rng.integers(0, 4, count)).astype(np.uint8)


def tokens_of(tokens: Any, x: Tensor) -> Tensor:
    return tokens.tokens(x, tokens.start(len(x), x.device))[0]


# --- what a token is


def test_a_word_is_its_number_behind_the_symbols() -> None:
    words = torch.tensor(list(product(range(4), repeat=3)))
    assert word_tokens(words).tolist() == list(range(len(VOCABULARY), len(VOCABULARY) + 64))
    assert torch.equal(spelled(word_tokens(words), 3), words)


@pytest.mark.parametrize(
    ("word", "token"),
    [
        ([0, N, 2], N),
        ([0, 1, PAD], N),  # the tail of a record
        ([PAD, PAD, PAD], PAD),
        ([MASK, MASK, MASK], MASK),
        ([MASK, N, PAD], MASK),
        ([BEGIN, BEGIN, BEGIN], BEGIN),
        ([BEGIN, 0, 1], BEGIN),
    ],
)
def test_a_word_that_is_not_all_bases_is_a_symbol(word: list[int], token: int) -> None:
    assert int(word_tokens(torch.tensor(word))) == token
    assert set(spelled(torch.tensor(token), 3).tolist()) == {token}


def test_overlapping_words_end_at_their_place_and_side_by_side_tile() -> None:
    x = torch.tensor([[0, 1, 2, 3, N, 0, 0, 1]])
    first = len(VOCABULARY)
    assert tokens_of(Kmers(k=2), x).tolist() == [[0, first + 1, first + 6, first + 11, N, 0, first, first + 1]]
    assert tokens_of(Kmers(k=3, overlapping=False), x).tolist() == [[first + 6, N, N]]


@every_kmers
def test_tokens_of_the_other_strand_are_the_other_strand_of_the_tokens(tokens: Kmers) -> None:
    """Each word's reverse complement, last first, where there are whole words."""
    codes, k = bases(60), tokens.k
    own, other = (
        tokens_of(tokens, torch.from_numpy(c.astype(np.int64))[None])[0] for c in (codes, reverse_complement(codes))
    )
    words = spelled(own, k)
    turned = word_tokens(torch.where(words < N, 3 - words, words).flip(-1)).flip(0)
    if tokens.overlapping:  # the word that ends at t begins at t on the other strand
        ours, theirs = turned[: len(turned) - k + 1], other[k - 1 :]
        whole = theirs >= len(VOCABULARY)
        assert whole.sum() > 30 and torch.equal(whole, ours >= len(VOCABULARY))
        assert torch.equal(theirs[whole], ours[whole])
    else:
        assert torch.equal(other, turned)


@every_block
def test_a_stream_of_words_is_one_pass(block: Any) -> None:
    """Of words that overlap at any cut; of words side by side between words."""
    x = torch.from_numpy(np.stack([bases(60, s) for s in (0, 1)]).astype(np.int64))
    for tokens, cuts in ((Kmers(k=3), [1, 2, 3, 31, 32]), (Kmers(k=3, overlapping=False), [3, 6, 48])):
        backbone = make(tokens, block=block).backbone.double()
        whole, end = backbone(x)
        state, rows = None, []
        for part in x.tensor_split(cuts, 1):
            y, state = backbone(part, state)
            rows.append(y)
        assert whole.shape == (2, 60, 8) and state is not None and state.position == end.position == 60 // tokens.stride
        torch.testing.assert_close(torch.cat(rows, 1), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_an_equivariant_backbone_reads_words_that_overlap(direction: Any) -> None:
    backbone = make(Kmers(k=3), MaskedLanguageModel(), direction=direction, equivariant=True).backbone.double()
    codes = bases(45)
    own, other = (backbone(torch.from_numpy(c.astype(np.int64))[None])[0] for c in (codes, reverse_complement(codes)))
    torch.testing.assert_close(other, torch.cat(own.flip(1).chunk(2, -1)[::-1], -1), rtol=1e-10, atol=1e-10)


# --- what a model by words says


def test_the_chain_rule_gives_the_word_and_sums_over_what_is_not_known() -> None:
    torch.manual_seed(0)
    logits = torch.randn(64, dtype=torch.float64)
    p = logits.softmax(0).view(4, 4, 4)
    for word in product(range(4), repeat=3):
        found = base_logits(logits, torch.tensor(word)).log_softmax(-1)[range(3), word].sum()
        assert found.exp() == pytest.approx(float(p[word]), rel=1e-12)
    a, _, c = base_logits(logits, torch.tensor([2, N, 1])).softmax(-1)
    torch.testing.assert_close(a, p.sum((1, 2)))
    torch.testing.assert_close(c, p[2].sum(0) / p[2].sum())


@every_tokens
def test_probabilities_of_all_sequences_sum_to_one(tokens: Embedding) -> None:
    """So bits a nucleotide of models by other words compare: 5 bases are a word and a tail, 6 are whole words."""
    model = make(tokens).double()
    for length in (5, 6):
        every = torch.tensor(list(product(range(4), repeat=length)))
        with torch.no_grad():
            read = model({"tokens": every, "previous": torch.full((len(every),), BEGIN)})
        assert read.nats.exp().sum() == pytest.approx(1, abs=1e-5)  # logits are float32; measured 2e-7
        assert (read.scored == length).all()


@every_tokens
def test_a_base_is_predicted_from_those_before_it(tokens: Embedding) -> None:
    model, codes = make(tokens).double(), bases(40)
    changed = codes.copy()
    changed[23:] = np.where(codes[23:] < N, 3 - codes[23:], N)
    ours, theirs = (token_loglik(model, c) for c in (codes, changed))
    np.testing.assert_allclose(ours[:23], theirs[:23], rtol=1e-12, atol=1e-6)
    assert ((ours != 0) == (codes < N)).all()  # every base is scored, beside an N too


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "BLOCK", 48)


def blocks(codes: list[np.ndarray], size: int) -> Iterator[Block]:
    for number, record in enumerate(codes):
        for start in range(0, max(1, len(record)), size):
            yield Block(number, f"r{number}", start, record[start : start + size], start + size >= len(record))


@pytest.mark.parametrize("block", thinned(BLOCKS[1:]), ids=lambda b: b.kind)
@every_kmers
def test_streamed_records_are_what_one_pass_says(tokens: Kmers, block: Any) -> None:
    """Tracks, likelihoods and embeddings, in blocks of any whole words, side by side or alone."""
    model = make(tokens, block=block)
    codes = [bases(n, n) for n in (10, 96, 3, 130, 65, 1, 0, 33)]
    names = ["loglik", "entropy"] + (["surprise"] if block.kind != "attention" else [])
    found = []
    for size, batch_size in ((48, 4), (12, 1), (1200, 64)):
        course = Course(learned_start(model))
        tracks = track_steps(model, blocks(codes, size), batch_size, Point(), course, names)
        rows: dict[str, list[np.ndarray]] = {f"r{i}": [np.zeros((len(names), 0))] for i in range(len(codes))}
        for ready, _ in tracks:
            for row in ready:
                rows[row["chrom"]].append(row["values"])
        values = [np.concatenate(parts, 1) for parts in rows.values()]
        for one, record in zip(values, codes, strict=True):
            assert one.shape[1] == len(record) and (np.isnan(one[0]) == (record == N)).all()
        nats = [
            r["log_likelihood"]
            for ready, _ in sequence_steps(model, blocks(codes, size), batch_size, Point())
            for r in ready
        ]
        np.testing.assert_allclose(nats, [np.nansum(one[0], dtype=np.float64) for one in values], **TOLERANCE)
        steps = sequence_steps(model, blocks(codes, size), batch_size, Point(), None, Embedder(8))
        means = np.stack([row["embedding"] for ready, _ in steps for row in ready])
        found.append((np.concatenate(values, 1), means))
    for values, means in found[1:]:
        # norms of gradients differ most, as in tests/test_genomics.py
        np.testing.assert_allclose(values, found[0][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(means, found[0][1], **TOLERANCE)


@every_kmers
def test_records_are_one_stream_where_nothing_is_reset(tokens: Kmers) -> None:
    model, codes = make(tokens), [bases(n, n, 0) for n in (48, 96, 60)]
    course = Course(learned_start(model), reset_rule("never"))
    steps = sequence_steps(model, blocks(codes, 48), 4, Point(), course)
    joined = sequence_steps(model, blocks([np.concatenate(codes)], 48), 4, Point())
    found, whole = (sum(row["log_likelihood"] for ready, _ in s for row in ready) for s in (steps, joined))
    assert found == pytest.approx(whole, rel=1e-6)


# --- masks


@every_kmers
def test_words_side_by_side_are_masked_as_a_whole(tokens: Kmers) -> None:
    word, codes = tokens.stride, bases(61)
    plain = GenomeWindows([Record("r", codes)], 61, False)
    for every in (False, True):
        items = MaskedWindows(plain, 0.2, every, word)
        asked = np.zeros(61, int)
        for index in range(len(items)):
            item = items.item(index, None)
            here = item["masked"] < N
            asked += here
            assert (item["tokens"][here] == MASK).all()
            for w in range(-(-61 // word)):
                place = slice(w * word, (w + 1) * word)
                assert here[place].sum() in (0, (codes[place] < N).sum())
        if every:
            assert (asked == (codes < N)).all()


@every_kmers
def test_what_is_masked_is_not_seen(tokens: Kmers) -> None:
    task = MaskedLanguageModel(word=tokens.stride)
    model = make(tokens, task, direction="both").double()
    codes = bases(60)
    found = []
    for shift in (0, 1):
        own = codes.copy()
        own[30:33] = (codes[30:33] + shift) % 4
        read = own.astype(np.int64)
        read[30:33] = MASK
        found.append(model.backbone(torch.from_numpy(read)[None])[0])
        asked = torch.full((1, 60), N)
        asked[0, 30:33] = torch.from_numpy(own[30:33].astype(np.int64))
        with torch.no_grad():
            output = model({"tokens": torch.from_numpy(read)[None], "masked": asked})
        assert output.scored.item() == 3 and output.nats.item() < 0
    assert torch.equal(*found)


# --- what is saved


@every_tokens
def test_tokens_are_saved_with_the_model(tokens: Embedding, tmp_path: Path) -> None:
    model = make(tokens)
    save_pretrained(model, tmp_path / "model")
    again = load_pretrained(str(tmp_path / "model"))
    assert again.backbone.config.embedding == tokens and again.task.word == tokens.stride
    codes = bases(50)
    np.testing.assert_array_equal(token_loglik(again, codes), token_loglik(model, codes))


def test_a_checkpoint_that_says_nothing_of_words_is_of_single_nucleotides(tmp_path: Path) -> None:
    folder, model = tmp_path / "model", make(Nucleotides())
    save_pretrained(model, folder)
    task = json.loads((folder / "task.json").read_text())
    del task["word"]
    (folder / "task.json").write_text(json.dumps(task))
    files = sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files))
    codes = bases(50)
    again = load_pretrained(str(folder))
    np.testing.assert_array_equal(token_loglik(again, codes), token_loglik(model, codes))


def test_words_side_by_side_are_refused_on_both_strands_at_once() -> None:
    with pytest.raises(ValidationError, match="words of 3 bases side by side are others from the other end"):
        BackboneConfig(embedding=Kmers(k=3, overlapping=False), equivariant=True)
    with pytest.raises(ValidationError):
        TypeAdapter(Embedding).validate_python({"kind": "kmer", "k": 9})


def test_blocks_hold_whole_words() -> None:
    for tokens in TOKENS:
        for block in BLOCKS:
            size = block_size(make(tokens, block=block).backbone.config)
            assert size % tokens.stride == 0 and size % (getattr(block, "segment", 1) * tokens.stride) == 0


# --- what is written


@every_kmers
def test_the_likeliest_bases_are_written_word_by_word(tokens: Kmers, tmp_path: Path) -> None:
    """Each base is the likeliest behind the prompt and what was written, also within a word that the prompt opened."""
    model, prompt = make(tokens), "ACGTTGCATA"
    save_pretrained(model, tmp_path / "model")
    genomics.generate(str(tmp_path / "model"), tmp_path / "x.fa", length=70, prompt=prompt, temperature=0)
    text = "".join((tmp_path / "x.fa").read_text().splitlines()[1:])
    assert len(text) == 70
    for at in (0, 1, 2, 3, 40, 69):
        said = [token_loglik(model, encode(prompt + text[:at] + base))[-1] for base in "ACGT"]
        assert "ACGT"[int(np.argmax(said))] == text[at]
