"""Order of the training data: batch k is a function of seed, k, rank and world, so a resume needs to know k alone."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from titans_seq.checkpoint import to_tensors
from titans_seq.data.windows import Items

SHUFFLE, ITEM, STEP = 1, 2, 4  # streams of random numbers under one seed (3 carves validation rows)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step (dropout), whatever came before it."""
    torch.manual_seed(int(np.random.SeedSequence([seed, STEP, step, rank]).generate_state(1, np.uint64)[0]) >> 1)


class Order(IterableDataset[tuple[int, dict[str, Tensor]]]):
    """Batches from step ``start`` to ``total``; every epoch visits each item once, in an order of its own.

    A step has ``batch_size`` items on each of ``world`` ranks: the same, in order, as one rank with so many times more.
    """

    def __init__(self, items: Items, batch_size: int, seed: int, start: int, total: int, rank: int, world: int):
        self.items, self.batch_size, self.seed = items, batch_size, seed
        self.start, self.total, self.rank, self.world = start, total, rank, world
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def _index(self, draw: int) -> int:
        epoch, place = divmod(draw, len(self.items))
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self.seed, SHUFFLE, epoch]).permutation(len(self.items))
        return int(self._permutation[place])

    def batch(self, step: int) -> dict[str, Tensor]:
        """Batch number ``step`` of this rank."""
        first = (step * self.world + self.rank) * self.batch_size
        draws = range(first, first + self.batch_size)
        items = [self.items.item(self._index(d), np.random.default_rng([self.seed, ITEM, d])) for d in draws]
        return to_tensors(self.items.collate(items))

    def __iter__(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        for step in range(self.start, self.total):
            yield step, self.batch(step)
