"""Classification: pooling, and metrics against their definitions."""

import numpy as np
import pytest
import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel
from titans_seq.tasks.classification import Classification

TASK = Classification(classes=("intergenic", "coding"))


def test_padding_does_not_change_a_prediction():
    torch.manual_seed(0)
    model = SequenceModel(BackboneConfig(width=16, heads=2, depth=1), TASK).double().eval()
    long, short = [0, 1, 2, 3, 2, 1], [3, 2, 1]
    together = model({"tokens": torch.tensor([long, [*short, 6, 6, 6]])})
    torch.testing.assert_close(together[1], model({"tokens": torch.tensor([short])})[0])


def test_the_mean_is_carried_over_blocks():
    torch.manual_seed(0)
    model = SequenceModel(BackboneConfig(width=16, heads=2, depth=1), TASK).double().eval()
    tokens = torch.randint(0, 4, (1, 90))
    so_far, state = model.head.start({"tokens": tokens}), None
    for piece in tokens.split(37, 1):
        so_far, state = model.read({"tokens": piece}, so_far, state)
    torch.testing.assert_close(model.head.result(so_far), model({"tokens": tokens}))


def test_metrics_of_a_known_table():
    # 3 of 4 right; MCC of TP 1, TN 2, FP 0, FN 1 is (1*2 - 0*1) / sqrt(1*2*2*3)
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
    found = TASK.metrics({"p": p, "label": np.array([0, 0, 1, 1])})
    assert found["accuracy"] == 0.75
    assert found["mcc"] == pytest.approx(2 / 12**0.5)
    assert found["auroc"] == 1.0


def test_columns_are_the_label_and_a_probability_a_class():
    columns = TASK.columns(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    assert columns["label"] == ["coding", "intergenic"]
    assert columns["p_coding"][0] == pytest.approx(1 / (1 + np.exp(-2)))
