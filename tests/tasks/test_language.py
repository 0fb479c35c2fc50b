"""Next-nucleotide language modelling: what is scored, and that it does not depend on how it is read."""

import math

import numpy as np
import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import Record
from titans_seq.data.windows import BEGIN, GenomeWindows, reverse_complement
from titans_seq.stream.sequences import token_loglik
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
