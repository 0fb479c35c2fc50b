"""Mean of the hidden rows of a record, carried over its blocks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_seq.embedding import BEGIN, PAD


class Pool(NamedTuple):
    """Hidden rows summed so far."""

    total: Tensor  # (B, D), float32 at least
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


class Embedder(Pooling):
    """What `embed` writes of a record: the mean itself."""

    def __init__(self, width: int):
        self.width = width

    def columns(self, output: Tensor) -> dict[str, Any]:
        """Columns of the embedding file: one vector (D,) float32 a record."""
        return {"embedding": output.float().cpu().numpy()}
