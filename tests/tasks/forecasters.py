"""Small forecasting models, as several tests make them."""

from typing import Any

import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel
from titans_seq.memory import MemoryConfig
from titans_seq.tasks.forecasting import Forecasting

H, L, P = 6, 24, 4  # horizon, look-back and patch of `hourly`


def forecaster(task: Forecasting, **backbone: Any) -> SequenceModel:
    """An untrained model of a task, always with the same weights."""
    torch.manual_seed(0)
    config = BackboneConfig(**{"width": 16, "heads": 2, "embedding": task.embedding(), **backbone})
    return SequenceModel(config, task).eval()


def hourly(reads: str, **task: Any) -> SequenceModel:
    """A model of two channels by the hour, in float64."""
    made = Forecasting(
        horizon=H,
        reads=reads,
        lookback=L,
        patch=P,
        stride=P,
        channels=("a", "b"),
        location=(5.0, -1.0),
        scale=(2.0, 0.5),
        frequency="1h",
        **task,
    )
    return forecaster(made, depth=1, memory=MemoryConfig(chunk_size=4)).double()
