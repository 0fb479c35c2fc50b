"""The learning rate along a run, and what the optimiser spares."""

import pytest

from titans_seq.backbone import Backbone, BackboneConfig
from titans_seq.miras.presets import PRESETS
from titans_seq.training.config import Training
from titans_seq.training.optimizer import optimizer


def test_the_rate_rises_and_falls_as_a_cosine() -> None:
    config = Training(learning_rate=0.01, warmup=0.1, final_rate=0.05)
    rates = [config.rate(step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.01 * step / 11 for step in range(1, 11)])
    assert rates[10] == max(rates) == 0.01 and rates[55] == pytest.approx(0.01 * 1.05 / 2)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == pytest.approx(0.0005)


def test_only_matrices_of_weights_decay() -> None:
    model = Backbone(BackboneConfig(width=16, heads=2))
    model.embedding.weight.requires_grad_(False)
    for name in PRESETS:
        other = Backbone(BackboneConfig.model_validate({"preset": name, "width": 16, "heads": 2}))
        sizes = {id(p): name for name, p in other.named_parameters()}
        decayed = optimizer(other, Training()).param_groups[0]["params"]
        assert all(sizes[id(p)].endswith("weight") and p.ndim == 2 for p in decayed), name
    decayed, free = optimizer(model, Training(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") and p.ndim == 2 for p in decayed["params"])
    spared = {names[id(p)].rpartition(".")[2] for p in free["params"]}
    assert {"persistent", "norm", "bias", "0", "1", "weight"} == spared
    assert len(decayed["params"]) + len(free["params"]) == len(names) - 1
