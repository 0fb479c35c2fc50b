"""Masked language modelling: what is masked, what is scored, and that nothing else counts."""

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM
from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.record import LOWER, Record
from titans_seq.data.windows import BEGIN, MASK, PAD, GenomeWindows, MaskedWindows
from titans_seq.embedding import MASK as MASK_TOKEN
from titans_seq.embedding import other_strand
from titans_seq.errors import ConfigError
from titans_seq.recipe import build
from titans_seq.tasks.masked import MaskedLanguageModel
from titans_seq.training.evaluation import evaluate
from titans_seq.training.module import SequenceModule
from titans_seq.training.order import Order

TASK = MaskedLanguageModel()
RECIPE: dict[str, Any] = {"data": {"kind": "fasta", "paths": ["x.fa"]}, "task": {"kind": "masked_language_model"}}


def windows(count: int = 20_000, length: int = 1000, seed: int = 0) -> GenomeWindows:
    """Bases at random, a tenth of them N."""
    rng = np.random.default_rng(seed)
    return GenomeWindows([Record("r", rng.choice(5, count, p=[0.225] * 4 + [0.1]).astype(np.uint8))], length, True)


def model(**backbone: Any) -> SequenceModel:
    torch.manual_seed(0)
    config = BackboneConfig(width=8, heads=2, depth=1, block=LMM(), direction="both", **backbone)
    return SequenceModel(config, TASK).double().eval()


def test_the_readers_and_the_embedding_have_one_mask() -> None:
    assert MASK == MASK_TOKEN


def test_of_15_percent_of_the_bases_80_are_masked_and_10_drawn() -> None:
    items = MaskedWindows(windows(), 0.15)
    found = [items.item(i, np.random.default_rng(i)) for i in range(len(items))]
    read, masked = (np.concatenate([item[name] for item in found]) for name in ("tokens", "masked"))
    asked = masked < 4
    # 18,000 bases: three standard deviations are 0.8 % of a share of 15 %, and 2.4 % of one of 80 % of these
    assert asked.sum() / (asked | ((read < 4) & ~asked)).sum() == pytest.approx(0.15, abs=0.01)
    assert (read[asked] == MASK).mean() == pytest.approx(0.8, abs=0.03)
    assert (read[asked] == masked[asked]).mean() == pytest.approx(0.1 + 0.1 / 4, abs=0.03)
    assert not (read[~asked] == MASK).any()


@pytest.mark.parametrize("seed", [None, 0])
def test_n_is_never_masked_nor_a_target_and_nothing_else_is_changed(seed: int | None) -> None:
    plain, items = windows(), MaskedWindows(windows(), 0.15)
    for i in range(len(plain)):
        draw = (None, None) if seed is None else (np.random.default_rng(seed), np.random.default_rng(seed))
        codes, item = plain.item(i, draw[0])["tokens"], items.item(i, draw[1])
        asked = item["masked"] < 4
        assert (item["tokens"][codes == 4] == 4).all() and not asked[codes == 4].any()
        assert (item["tokens"][~asked] == codes[~asked]).all() and (item["masked"][asked] == codes[asked]).all()


def test_at_evaluation_each_base_is_asked_for_once() -> None:
    plain, items = windows(5000), MaskedWindows(windows(5000), 0.15, every=True)
    assert len(items) == 7 * len(plain)  # a seventh is 14.3 %
    for i in range(len(plain)):
        codes = plain.item(i, None)["tokens"]
        asked = sum((items.item(7 * i + k, None)["masked"] < 4).astype(int) for k in range(7))
        assert (asked == (codes < 4)).all()


def test_masks_are_those_of_seed_and_step() -> None:
    """What a resume needs: a batch is the same whatever came before it; another seed or step has others."""
    items = MaskedWindows(windows(), 0.15)

    def masked(seed: int, start: int) -> torch.Tensor:
        return Order(items, 4, seed, start, 10, 0, 1).batch(start)["masked"]

    assert torch.equal(masked(0, 3), masked(0, 3))
    assert not torch.equal(masked(0, 3), masked(0, 4)) and not torch.equal(masked(0, 3), masked(1, 3))


def test_a_uniform_head_gives_two_bits_whatever_is_asked() -> None:
    uniform = model()
    torch.nn.init.zeros_(uniform.head.logits.weight)
    torch.nn.init.zeros_(uniform.head.logits.bias)
    found = evaluate(uniform, MaskedWindows(windows(300, 64), 0.15, every=True), 8)
    assert math.isclose(found["bits_per_masked_nt"], 2.0, rel_tol=1e-7)  # the logarithms are float32
    assert found["masked_bases"] == (windows(300, 64).records[0].codes < 4).sum()


@pytest.mark.parametrize("equivariant", [False, True])
def test_the_loss_is_the_mean_over_masked_bases_and_padding_has_none(equivariant: bool) -> None:
    items = MaskedWindows(windows(150, 64), 0.3)  # the last window is shorter
    batch = to_tensors(items.collate([items.item(i, np.random.default_rng(i)) for i in range(3)]))
    assert (batch["masked"][batch["tokens"] == PAD] == PAD).all()
    net = model(equivariant=equivariant)
    output = net(batch)
    logp = net.head.bases(net.backbone(batch["tokens"])[0]).log_softmax(-1)
    asked = batch["masked"] < 4
    expected = -logp[asked].gather(-1, batch["masked"][asked][:, None]).mean()
    torch.testing.assert_close(net.task.loss(output, batch).double(), expected, rtol=1e-6, atol=0)  # float32
    # of both strands of a window, each base by its own
    both = net.of_both_strands(batch)
    again = net.of_both_strands({**batch, **{name: other_strand(batch[name]) for name in ("tokens", "masked")}})
    torch.testing.assert_close(again.nats, both.nats, rtol=1e-6, atol=1e-6)
    if equivariant:
        torch.testing.assert_close(both.nats, output.nats, rtol=1e-6, atol=1e-6)


def test_soft_masked_bases_weigh_what_they_are_given() -> None:
    """Repeats of weight 0: neither in the loss nor counted."""
    codes = np.random.default_rng(0).integers(0, 4, 128).astype(np.uint8)
    cased = codes | np.where(np.arange(128) % 64 < 40, LOWER, 0).astype(np.uint8)
    items = MaskedWindows(GenomeWindows([Record("r", cased)], 64, True, 0.0), 0.3)
    batch = to_tensors(items.collate([items.item(i, np.random.default_rng(i)) for i in range(2)]))
    net = model()
    output = net(batch)
    upper = net({"tokens": batch["tokens"], "masked": batch["masked"].where(batch["weight"] == 1, 4)})
    torch.testing.assert_close(output.nats, upper.nats, rtol=1e-12, atol=0)
    assert torch.equal(output.scored, upper.scored) and 0 < output.scored.sum() < (batch["masked"] < 4).sum()
    assert TASK.cut(batch, 2)["weight"].shape == (4, 32)


def test_a_base_cannot_see_itself_through_its_mask() -> None:
    """Whatever stands behind a mask, what is said of it is the same."""
    tokens = torch.tensor([[0, 1, MASK, 3, 2]])
    net = model()
    nats = [net({"tokens": tokens, "masked": torch.tensor([[4, 4, base, 4, 4]])}).nats for base in range(4)]
    assert math.isclose(sum(p.exp().item() for p in nats), 1.0, rel_tol=1e-6)


def test_windows_are_cut_with_their_masks() -> None:
    batch = {
        "tokens": torch.arange(22).reshape(2, 11),
        "masked": torch.arange(22).reshape(2, 11) + 100,
        "previous": torch.tensor([BEGIN, 2]),
    }
    cut = TASK.cut(batch, 3)
    assert cut["tokens"].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [11, 12, 13], [14, 15, 16], [17, 18, 19]]
    assert torch.equal(cut["masked"], cut["tokens"] + 100)


def test_it_needs_a_backbone_that_sees_both_sides() -> None:
    with pytest.raises(ConfigError, match=r"sees what stands behind a mask: set backbone\.direction to both"):
        build(RECIPE)
    for backbone in ({"direction": "both"}, {"equivariant": True}, {"block": {"kind": "mac", "mode": "paper"}}):
        build(RECIPE | {"backbone": backbone})
    for backbone in ({"direction": "both"}, {"equivariant": True}):
        with pytest.raises(ConfigError, match="needs a causal backbone, whose rows have seen nothing"):
            build(RECIPE | {"task": {"kind": "language_model"}, "backbone": backbone})
    series = {"data": {"kind": "series", "path": "x.csv"}, "task": {"kind": "forecasting", "horizon": 3}}
    build(series | {"backbone": {"direction": "both"}})
    with pytest.raises(ConfigError, match="task forecasting reads series"):
        build(series | {"backbone": {"equivariant": True}})


def test_trained_stopped_resumed_measured_and_built_upon(
    titans: Any, tiny: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Through the command line: a run in two parts is the run in one, bit for bit."""
    given = ["genomics", "pretrain", tiny.fasta, "--task", "masked_language_model", *tiny.size, "--quiet"]
    sets = ("data.length=40", "training.steps=6", "training.checkpoint_every=3", "backbone.dropout=0.1")
    given += [part for setting in sets for part in ("--set", setting)]
    given += ["--set", "training.first_length=16", "--set", "backbone.equivariant=true"]
    titans(*given, "--out", tmp_path / "whole")
    with monkeypatch.context() as broken:

        def stop(module: SequenceModule, finished: bool) -> None:
            save(module, finished)
            module.watch.caught = signal.SIGTERM

        save = SequenceModule.save
        broken.setattr(SequenceModule, "save", stop)
        titans(*given, "--out", tmp_path / "parts", code=143)
    titans(*given, "--out", tmp_path / "parts", "--resume")
    for file in ("metrics.csv", "model/model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    found = titans("genomics", "evaluate", tmp_path / "whole", tiny.fasta, "--both-strands").stdout
    assert "bits per masked nt" in found
    for verb, out, reason in (
        ("predict", "x.csv", "Measure it with evaluate"),
        ("score", "x.bw", "from those before it"),
    ):
        told = titans("genomics", verb, tmp_path / "whole", tiny.fasta, "--out", tmp_path / out, code=5).stderr
        assert "task masked_language_model" in told and reason in told
    once = ("--set", "training.steps=1", "--quiet")
    tuned = tmp_path / "tuned"
    titans("genomics", "finetune", tiny.table, "--backbone", tmp_path / "whole", "--out", tuned, *once)
    titans("genomics", "predict", tuned, tiny.table, "--out", tmp_path / "p.csv")
