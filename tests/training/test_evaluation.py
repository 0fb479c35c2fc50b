"""Metrics do not depend on the batch an item is in."""

import numpy as np
import pytest
import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, BlockConfig
from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import Record
from titans_seq.data.windows import LabelledSequences
from titans_seq.memory import MemoryConfig
from titans_seq.tasks.classification import Classification
from titans_seq.training.evaluation import evaluate


@pytest.mark.parametrize("block", [LMM(), MAC(segment=16), MAC(segment=16, mode="paper")], ids=str)
def test_metrics_do_not_depend_on_the_batch(block: BlockConfig) -> None:
    """Nor on what pads shorter items: in the printed form of MAC it would be seen by them."""
    torch.manual_seed(0)
    config = BackboneConfig(width=16, heads=2, depth=1, block=block, memory=MemoryConfig(chunk_size=16))
    model = SequenceModel(config, Classification(classes=("a", "b"))).double()
    rng = np.random.default_rng(0)
    lengths = [5, 5, 9, 30, 30, 30, 17, 40]
    records = [Record(str(i), rng.integers(0, 4, n).astype(np.uint8), "ab"[i % 2]) for i, n in enumerate(lengths)]
    items = LabelledSequences(records, [np.array("ab".index(str(r.label))) for r in records], False)
    alone, together = (evaluate(model, items, size)["log_loss"] for size in (1, 8))
    assert together == pytest.approx(alone, rel=1e-9)
