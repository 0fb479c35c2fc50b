"""Next-nucleotide language modelling: what is scored, and that it does not depend on how it is read."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.record import LOWER, Record, decode, encode
from titans_seq.data.sources import FastaSource
from titans_seq.data.windows import BEGIN, GenomeWindows, reverse_complement
from titans_seq.errors import InputError
from titans_seq.stream.tracks import token_loglik
from titans_seq.tasks.language import LanguageModel

TASK = LanguageModel()


def model() -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(BackboneConfig(width=16, heads=2, depth=1), TASK).double().eval()


def batch(tokens: list[list[int]]) -> dict[str, torch.Tensor]:
    return {"tokens": torch.tensor(tokens), "previous": torch.full((len(tokens),), BEGIN)}


def test_a_uniform_head_gives_two_bits():
    uniform = model()
    torch.nn.init.zeros_(uniform.head.logits.weight)
    torch.nn.init.zeros_(uniform.head.logits.bias)
    with torch.no_grad():
        output = uniform(batch([[0, 1, 2, 3, 3]]))
    rows = TASK.measures(output, {})
    # the logarithms are float32
    assert math.isclose(TASK.metrics(rows)["bits_per_nt"], 2.0, rel_tol=1e-7)
    assert TASK.columns(output)["scored_bases"] == [5]


def test_n_and_padding_are_read_but_never_scored():
    output = model()(batch([[0, 4, 4, 1, 6, 6]]))
    assert output.scored.tolist() == [2]


def test_padding_does_not_change_a_record():
    padded, alone = model()(batch([[0, 1, 2, 6, 6], [3, 3, 3, 2, 1]])), model()(batch([[0, 1, 2]]))
    torch.testing.assert_close(padded.nats[0], alone.nats[0])


def test_the_first_base_is_scored_from_the_beginning_alone():
    with torch.no_grad():
        first = [
            model().head.token_loglik(model().backbone(torch.tensor([[BEGIN]]))[0], batch([[b]])) for b in range(4)
        ]
    assert math.isclose(sum(float(p.exp()) for p in first), 1.0, rel_tol=1e-6)


def test_likelihood_is_the_sum_over_bases_however_the_stream_is_cut():
    codes = np.random.default_rng(0).integers(0, 5, 150).astype(np.uint8)
    whole = model()(batch([codes.tolist()])).nats.item()
    for block in (1, 7, 64, 150):
        # float32 logarithms of each base, so rounding of 150 terms
        assert math.isclose(token_loglik(model(), codes, block).sum(dtype=np.float64), whole, rel_tol=1e-5)


def test_windows_tile_every_base_once_and_know_what_came_before():
    codes = np.random.default_rng(1).integers(0, 4, 100).astype(np.uint8)
    items = GenomeWindows([Record("a", codes), Record("b", codes[:30])], 40, False)
    windows = [items.item(i, None) for i in range(len(items))]
    assert np.array_equal(np.concatenate([w["tokens"] for w in windows]), np.concatenate([codes, codes[:30]]))
    assert [int(w["previous"]) for w in windows] == [BEGIN, codes[39], codes[79], BEGIN]


def test_a_window_of_the_other_strand_has_its_own_neighbour_before_it():
    codes = np.random.default_rng(2).integers(0, 5, 500).astype(np.uint8)
    both = np.concatenate([[BEGIN], reverse_complement(codes)]).astype(np.uint8).tobytes()
    items, seen = GenomeWindows([Record("a", codes)], 50, True), 0
    forward = np.concatenate([[BEGIN], codes]).astype(np.uint8).tobytes()
    for draw in range(40):
        item = items.item(draw % len(items), np.random.default_rng(draw))
        piece = np.concatenate([[item["previous"]], item["tokens"]]).astype(np.uint8).tobytes()
        other = piece in both
        assert other or piece in forward
        seen += other
    assert 5 < seen < 35  # a fair coin leaves this range once in some million tries


def test_windows_are_cut_into_rows_that_score_the_same_tokens_after_the_same_ones():
    windows = {"tokens": torch.arange(2 * 11).reshape(2, 11) % 4, "previous": torch.tensor([BEGIN, 2])}
    cut = TASK.cut(windows, 3)
    assert cut["tokens"].tolist() == windows["tokens"][:, :9].reshape(6, 3).tolist()
    whole = torch.cat([windows["previous"][:, None], windows["tokens"]], 1)
    assert cut["previous"].tolist() == whole[:, [0, 3, 6]].flatten().tolist()
    assert TASK.cut(windows, 1) is windows


# --- soft-masked repeats


def masked(text: str, weight: float, length: int = 8, reverse: bool = False) -> GenomeWindows:
    return GenomeWindows([Record("a", encode(text, keep_case=True))], length, reverse, weight)


def test_a_weight_of_zero_leaves_the_same_loss_as_no_base_to_predict():
    """Bases in lower case are read like all others; the loss is the mean over those in upper case."""
    text = "ACgtnNACGTAcaGGGTTTTacgtACGTAAgg"
    items = masked(text, 0.0, 32)
    given = to_tensors(items.collate([items.item(0, None)]))
    upper = torch.tensor([[c in "ACGT" for c in text]])
    assert torch.equal(given["tokens"], torch.from_numpy(encode(text).astype(np.int64))[None])
    with torch.no_grad():
        loglik = model().head.token_loglik(model().backbone(model().head.inputs(given))[0], given)
        output = model()(given)
    assert output.scored.item() == upper.sum().item()
    assert math.isclose(TASK.loss(output, given).item(), -loglik[upper].mean().item(), rel_tol=1e-6)


def test_weights_make_the_loss_a_weighted_mean():
    text = "ACGTacgtNNacAAcc"
    items = masked(text, 0.1, 16)
    given = to_tensors(items.collate([items.item(0, None)]))
    weight = torch.tensor([[0.0 if c in "Nn" else 1.0 if c.isupper() else 0.1 for c in text]])
    with torch.no_grad():
        loglik = model().head.token_loglik(model().backbone(model().head.inputs(given))[0], given)
        loss = TASK.loss(model()(given), given)
    # float32 logarithms
    assert math.isclose(loss.item(), -((loglik * weight).sum() / weight.sum()).item(), rel_tol=1e-6)


def test_weights_go_with_their_bases_to_the_other_strand_and_into_shorter_windows():
    rng = np.random.default_rng(3)
    text = "".join(rng.choice(list("ACGTacgtNn"), 90))
    items = masked(text, 0.25, 20, reverse=True)
    forward = encode(text, keep_case=True)
    backward = reverse_complement(forward & (LOWER - 1)) | (forward & LOWER)[::-1]
    for draw in range(30):
        item = items.item(draw % len(items), np.random.default_rng(draw))
        cased = item["tokens"] | np.where(item["weight"] < 1, LOWER, 0).astype(np.uint8)
        assert cased.tobytes() in forward.tobytes() or cased.tobytes() in backward.tobytes()
        assert 0 <= item["previous"] <= BEGIN
    batch = to_tensors(items.collate([items.item(i, None) for i in range(len(items))]))
    assert batch["weight"][-1, 10:].tolist() == [0.0] * 10, "padding"
    cut = TASK.cut(batch, 2)
    assert torch.equal(cut["weight"], batch["weight"].reshape(-1, 10))
    assert torch.equal(cut["tokens"], batch["tokens"].reshape(-1, 10))


@pytest.mark.parametrize(("softmask", "train", "held"), [("keep", 1, 1), ("ignore", 0, 0), ("weight", 0.1, 0)])
def test_what_becomes_of_repeats_in_training_and_validation(
    tmp_path: Path, softmask: str, train: float, held: float
) -> None:
    text = "ACGTacgtnN" * 30
    (tmp_path / "x.fa").write_text(f">a\n{text}\n")
    source = FastaSource(paths=(str(tmp_path / "x.fa"),), length=50, validation=0.2, softmask=softmask)
    parts = source.parts(TASK, 0)
    for items, weight in ((parts.train, train), (parts.validation, held)):
        item = items.item(0, None)
        assert decode(item["tokens"]) == text[:50].upper()
        assert ("weight" in item) == (weight != 1)
        if weight != 1:
            lower = np.array([c.islower() for c in text[:50]])
            np.testing.assert_array_equal(item["weight"], np.where(lower, np.float32(weight), 1))


def test_a_genome_in_lower_case_has_no_targets_left(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(f">a\n{'acgt' * 50}\n")
    for softmask in ("ignore", "weight"):
        with pytest.raises(InputError, match=r"x.fa: too few bases A, C, G, T in upper case .* or softmask: keep"):
            FastaSource(paths=(str(tmp_path / "x.fa"),), softmask=softmask).parts(TASK, 0)
