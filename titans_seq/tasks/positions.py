"""An answer along the sequence: one for every base, or for every bin of some, or its hidden rows themselves."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_seq.embedding import PAD, Turn
from titans_seq.tasks.pooling import OwnTokens


class PositionHead(OwnTokens, nn.Module):
    """Hidden rows to one answer a bin, (B, T, D) → (B, ⌈T / bin⌉, C): the mean of the bin's rows, without padding.

    Answers do not hang together, so a stream gives those of a block from the block alone; blocks hold whole bins.
    """

    def __init__(self, width: int, outputs: int, bin: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(width, outputs)
        self.outputs, self.bin = outputs, bin

    def start(self, batch: dict[str, Tensor]) -> Tensor:
        """Nothing read."""
        return self.logits.weight.new_zeros(len(batch["tokens"]), 0, self.logits.out_features)

    def fold(self, so_far: Tensor, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Add the answers of one block, hidden (B, T, D)."""
        return torch.cat([so_far, self.logits(self.dropout(self._means(hidden, batch["tokens"])))], 1)

    def _means(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        if self.bin == 1:
            return hidden
        real = (tokens != PAD)[..., None].to(hidden.dtype)
        more = -hidden.shape[1] % self.bin

        def sums(rows: Tensor) -> Tensor:
            return F.pad(rows, (0, 0, 0, more)).unflatten(1, (-1, self.bin)).sum(2)

        return sums(hidden * real) / sums(real).clamp(min=1)

    def turned(self, output: Tensor, tokens: Tensor) -> Tensor:
        """Answers (B, bins, C) along the other strand as they stand along tokens (B, T), of whole bins."""
        return Turn(tokens[:, :: self.bin])(output)

    def result(self, read: Tensor) -> Tensor:
        """Answers (B, bins, C)."""
        return read


class TokenRows(OwnTokens):
    """Hidden rows (B, T, D) as they are, for `titans_seq.stream.tracks.token_steps`."""

    bin = 1

    def __init__(self, width: int):
        self.outputs = width

    def start(self, batch: dict[str, Tensor]) -> Tensor:
        """Nothing read."""
        return torch.zeros(len(batch["tokens"]), 0, self.outputs, device=batch["tokens"].device)

    def fold(self, so_far: Tensor, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Add the rows of one block."""
        return torch.cat([so_far, hidden], 1)

    def result(self, read: Tensor) -> Tensor:
        """The rows."""
        return read
