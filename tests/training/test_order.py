"""The order of the data is a function of seed, step, rank and world, and of nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator

from titans_seq.training.order import Order, seed_step


class Numbers:
    """Items that say which they are, and what their random numbers are."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def item(self, index: int, rng: Generator | None) -> dict[str, np.ndarray]:
        assert rng is not None, "training draws with random numbers"
        return {"index": np.int64(index), "drawn": np.int64(rng.integers(1 << 40))}  # type: ignore[dict-item]

    def collate(self, items: list[Any]) -> dict[str, np.ndarray]:
        return {name: np.stack([item[name] for item in items]) for name in items[0]}


def order(seed: int = 0, start: int = 0, total: int = 30, rank: int = 0, world: int = 1, items: int = 10) -> Order:
    return Order(Numbers(items), 4, seed, start, total, rank, world)


def drawn(of: Order) -> list[list[int]]:
    return [batch["drawn"].tolist() for _, batch in of]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_epoch_visits_each_item_once(world: int) -> None:
    ranks = [[batch["index"].tolist() for _, batch in order(rank=rank, world=world)] for rank in range(world)]
    draws = [index for step in zip(*ranks, strict=True) for batch in step for index in batch]
    epochs = [draws[i : i + 10] for i in range(0, len(draws), 10)]
    whole = [epoch for epoch in epochs if len(epoch) == 10]
    assert len(whole) >= 12
    assert all(sorted(epoch) == list(range(10)) for epoch in whole)
    assert len({tuple(epoch) for epoch in whole}) == len(whole), "each epoch has an order of its own"


@pytest.mark.parametrize("start", [1, 7, 29])
def test_a_later_start_gives_the_same_batches(start: int) -> None:
    assert drawn(order())[start:] == drawn(order(start=start))
    assert [step for step, _ in order(start=start)] == list(range(start, 30))


def test_a_batch_can_be_asked_for_out_of_turn() -> None:
    one = order()
    late, early = one.batch(25), one.batch(3)
    assert [late["drawn"].tolist(), early["drawn"].tolist()] == [drawn(order())[i] for i in (25, 3)]


def test_other_seeds_and_ranks_draw_otherwise() -> None:
    draws = [tuple(map(tuple, drawn(order(seed=seed, rank=rank, world=2)))) for seed in (0, 1) for rank in (0, 1)]
    assert len(set(draws)) == 4


def test_dropout_depends_on_seed_step_and_rank_alone() -> None:
    def noise(*key: int) -> float:
        torch.rand(3)  # what came before does not matter
        seed_step(*key)
        return float(torch.rand(()))

    assert noise(1, 2, 0) == noise(1, 2, 0)
    assert len({noise(*key) for key in [(1, 2, 0), (2, 2, 0), (1, 3, 0), (1, 2, 1), (0, 0, 0)]}) == 5
