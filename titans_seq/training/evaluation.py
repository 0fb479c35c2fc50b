"""Metrics of a model over a set of items."""

import warnings

import numpy as np
import torch

from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.windows import Items
from titans_seq.errors import NumericFault
from titans_seq.progress import Progress


@torch.no_grad()
def evaluate(model: SequenceModel, items: Items, batch_size: int, what: str = "") -> dict[str, float]:
    """Metrics of ``model``'s task over all items, in order, none dropped; ``what`` names the progress bar.

    Raises:
        NumericFault: if the model's output is not finite.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    found: dict[str, list[np.ndarray]] = {}
    progress = Progress(what, "windows", len(items))
    progress.quiet = progress.quiet or not what
    with progress:
        for first in range(0, len(items), batch_size):
            rows = range(first, min(first + batch_size, len(items)))
            batch = to_tensors(items.collate([items.item(i, None) for i in rows]), device)
            for name, values in model.task.measures(model(batch), batch).items():
                if not np.isfinite(values).all():
                    raise NumericFault(f"The model's {name} of items {rows[0] + 1} to {rows[-1] + 1} is not finite")
                found.setdefault(name, []).append(values)
            progress.add(len(rows))
    model.train(was_training)
    with warnings.catch_warnings():  # a metric that one class or one item does not define is told by its value
        warnings.simplefilter("ignore")
        return model.task.metrics({name: np.concatenate(parts) for name, parts in found.items()})
