"""Metrics of a model over a set of items."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.windows import Item, Items
from titans_seq.errors import NumericFault
from titans_seq.progress import Progress
from titans_seq.training.world import ALONE, World


def _batches(items: Items, numbers: range, batch_size: int, alike: bool) -> Iterator[list[Item]]:
    """Items of these numbers in order, in batches; with ``alike`` of items of one shape."""
    batch: list[Item] = []
    for number in numbers:
        item = items.item(number, None)
        unlike = alike and batch and {n: v.shape for n, v in batch[0].items()} != {n: v.shape for n, v in item.items()}
        if len(batch) == batch_size or unlike:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@torch.no_grad()
def answers(
    model: SequenceModel,
    items: Items,
    batch_size: int,
    what: str = "",
    both_strands: bool = False,
    numbers: range | None = None,
) -> dict[str, np.ndarray]:
    """What the metrics of ``model``'s task need of items, a row an item, in order, none dropped.

    Args:
        model: what is measured.
        items: what it is measured on.
        batch_size: items read side by side.
        what: names the progress bar; without it there is none.
        both_strands: measure the mean of what each item and its other strand give.
        numbers: of the items that are measured; all if None.

    Raises:
        NumericFault: if the model's output is not finite.
    """
    was_training, numbers = model.training, range(len(items)) if numbers is None else numbers
    model.eval()
    device = next(model.parameters()).device
    found: dict[str, list[np.ndarray]] = {}
    progress = Progress(what, "windows", len(numbers))
    progress.quiet = progress.quiet or not what
    alike = not model.backbone.config.padded  # what pads a shorter item would reach back into it
    read = model.of_both_strands if both_strands else model
    done = numbers.start
    with progress:
        for given in _batches(items, numbers, batch_size, alike):
            batch = to_tensors(items.collate(given), device)
            for name, values in model.task.measures(read(batch), batch).items():
                if not np.isfinite(values).all():
                    last = done + len(given)
                    raise NumericFault(f"The model's {name} of items {done + 1} to {last} is not finite")
                found.setdefault(name, []).append(values)
            progress.add(len(given))
            done += len(given)
    model.train(was_training)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def evaluate(
    model: SequenceModel, items: Items, batch_size: int, what: str = "", world: World = ALONE
) -> dict[str, float]:
    """Metrics of ``model``'s task over all items, of which each rank reads a part; the rest as for `answers`."""
    try:
        own, fault = answers(model, items, batch_size, what, numbers=world.part(len(items))), ""
    except NumericFault as error:
        own, fault = {}, str(error)  # for all ranks, which else would wait for this one
    parts = world.gathered((own, fault))
    for _, fault in parts:
        if fault:
            raise NumericFault(fault)
    found = [part for part, _ in parts if part]  # a rank may have none of few items
    rows = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # what these items do not define is told by its value
        warnings.simplefilter("ignore")
        return model.task.metrics(rows)
