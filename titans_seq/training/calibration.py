"""Intervals that hold what they say: split-conformal margins from validation windows."""

import math
from typing import Any

import numpy as np
import torch

from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.windows import Items
from titans_seq.errors import InputError, warn
from titans_seq.progress import Progress

WINDOWS = 2000  # that are read at most, evenly spread: more move no quantile by as much as its own sampling error


def must_suffice(task: Any, windows: int) -> None:
    """Refuse conformal levels that so many validation windows cannot give; of a task without, do nothing.

    Raises:
        InputError: with the number of windows that are needed.
    """
    for level in getattr(task, "conformal", ()):
        need = math.ceil(level / (100 - level) - 1e-9)
        if windows < need:
            raise InputError(
                f"An interval of {level:g} % takes {need:,} validation windows, and there are {windows:,}. "
                "Ask for a lower level, or raise data.validation."
            )


def margin(excess: np.ndarray, share: float) -> np.ndarray:
    r"""The $\lceil (n + 1) s \rceil$-th smallest of n scores: the next one exceeds it with probability 1 - s at most.

    (Vovk et al. 2005; Romano et al. 2019, eq. 8, where scores are exchangeable.)

    Args:
        excess: (n, H, C) scores, NaN where there is none.
        share: s, of the values that are to be held.

    Returns:
        (H, C); infinite where n is too small for s.
    """
    count = np.isfinite(excess).sum(0)
    rank = np.ceil((count + 1) * share - 1e-9).astype(int)
    ordered = np.concatenate([np.sort(excess, 0), np.full((1, *excess.shape[1:]), np.inf)])  # NaN is sorted last
    found: np.ndarray = np.take_along_axis(ordered, np.minimum(rank, len(excess) + 1)[None] - 1, 0)[0]
    return np.where(rank > count, np.inf, found)


@torch.inference_mode()
def calibrate(model: SequenceModel, items: Items, batch_size: int) -> None:
    """Give a task with conformal levels the margins of its model over validation windows; leave any other task.

    A step of a channel that was observed too rarely gets the largest margin of any, and this is told.
    """
    task = model.task
    if not getattr(task, "conformal", ()):
        return
    if task.reads == "stream":
        warn(
            f"Conformal margins are of validation windows of {task.window:,} rows, each read anew. This model is used "
            "on whole histories, of which its intervals may hold less: `titans-seq forecast backtest` says how much."
        )
    model.eval()
    device = next(model.parameters()).device
    numbers = np.unique(np.linspace(0, len(items) - 1, min(len(items), WINDOWS)).astype(int))
    parts = []
    with Progress("calibrating", "windows", len(numbers)) as progress:
        for start in range(0, len(numbers), batch_size):
            some = numbers[start : start + batch_size]
            batch = to_tensors(items.collate([items.item(int(i), None) for i in some]), device)
            parts.append(task.excess(model(batch), batch).float().cpu().numpy())
            progress.add(len(some))
    excess = np.concatenate(parts)
    margins = [margin(excess[:, k], level / 100) for k, level in enumerate(task.conformal)]
    for level, found in zip(task.conformal, margins, strict=True):
        if (rare := np.isinf(found)).all():
            raise InputError(f"The validation windows hold too few values for an interval of {level:g} %.")
        if rare.any():
            warn(
                f"Steps with too few validation values for an interval of {level:g} %: {int(rare.sum())} of "
                f"{rare.size}; they get the widest margin of the others."
            )
            found[rare] = found[~rare].max()
    model.task = model.head.task = task.model_copy(
        update={"margins": tuple(tuple(map(tuple, found.tolist())) for found in margins)}
    )
