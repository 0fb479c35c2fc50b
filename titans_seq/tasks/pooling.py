"""The hidden rows of a record made one, carried over its blocks."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from titans_seq.embedding import BEGIN, PAD


class Pool(NamedTuple):
    """Hidden rows read so far."""

    total: Tensor  # (B, D) their sum, or what else is kept of them, float32 at least
    rows: Tensor  # (B, 1) rows in it; padding is not


class OwnTokens:
    """Of a head whose rows have each read the token of their own place."""

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Tokens (B, T) as they are, masks among them where there are any."""
        return batch["tokens"]

    def unread(self, batch: dict[str, Tensor]) -> Tensor:
        """BEGIN (B,): no token is left to read."""
        return torch.full_like(batch["tokens"][:, 0], BEGIN)


class Pooling(OwnTokens):
    """Mean of the hidden rows, (B, T, D) → (B, D); padding is in no mean."""

    width: int

    def start(self, batch: dict[str, Tensor]) -> Pool:
        """Nothing read."""
        zero = torch.zeros(len(batch["tokens"]), 1, device=batch["tokens"].device)
        return Pool(zero.expand(-1, self.width), zero)

    def fold(self, so_far: Pool, hidden: Tensor, batch: dict[str, Tensor]) -> Pool:
        """Add one block, hidden (B, T, D)."""
        real = (batch["tokens"] != PAD)[..., None].to(so_far.total.dtype)
        return Pool(so_far.total + (hidden * real).sum(1), so_far.rows + real.sum(1))

    def result(self, read: Pool) -> Tensor:
        """The mean (B, D); zeros where nothing was read."""
        return read.total / read.rows.clamp(min=1)


def _largest(so_far: Tensor, hidden: Tensor, real: Tensor) -> Tensor:
    """The largest of what was kept (B, D) and of the real rows of hidden (B, T, D), number by number."""
    return torch.maximum(so_far, hidden.where(real, -torch.inf).amax(1))


def _last(so_far: Tensor, hidden: Tensor, real: Tensor) -> Tensor:
    """The last real row; what was kept where there is none."""
    at = real.sum(1, keepdim=True) - 1
    return hidden.take_along_dim(at.clamp(min=0), 1)[:, 0].where(at[:, 0] >= 0, so_far)


PoolingKind = Literal["mean", "max", "last"]
_KEPT: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"max": _largest, "last": _last}


class Embedder(Pooling):
    """What `embed` writes of a record: the mean of its rows, the largest of each number, or the last row."""

    def __init__(self, width: int, pooling: PoolingKind = "mean"):
        self.width, self.pooling = width, pooling

    def fold(self, so_far: Pool, hidden: Tensor, batch: dict[str, Tensor]) -> Pool:
        """Add one block, hidden (B, T, D)."""
        if self.pooling == "mean":
            return super().fold(so_far, hidden, batch)
        real = (batch["tokens"] != PAD)[..., None]
        before = so_far.total.where(so_far.rows > 0, -torch.inf)
        found = _KEPT[self.pooling](before, hidden.to(before.dtype), real)
        rows = so_far.rows + real.sum(1)
        return Pool(found.where(rows > 0, 0.0), rows)

    def result(self, read: Pool) -> Tensor:
        """The vector (B, D); zeros where nothing was read."""
        return super().result(read) if self.pooling == "mean" else read.total

    def columns(self, output: Tensor) -> dict[str, Any]:
        """Columns of the embedding file: one vector (D,) float32 a record."""
        return {"embedding": output.float().cpu().numpy()}
