"""Embedding: nucleotide tokens and series patches become rows of the backbone's width."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from titans_seq.miras.choice import Choice

A, C, G, T, N, BEGIN, PAD, MASK = range(8)  # the first five are what the readers yield
VOCABULARY = ("A", "C", "G", "T", "N", "[BEGIN]", "[PAD]", "[MASK]")


def complement(tokens: Tensor) -> Tensor:
    """Tokens (B, T) of the bases opposite; what is no base stays as it is."""
    return torch.where(tokens < N, T - tokens, tokens)


class _Turned(torch.autograd.Function):
    """Rows (B, T, ...) in a given order, one that undoes itself: its slopes are turned likewise."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return rows[torch.arange(len(rows), device=rows.device)[:, None], order]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return _Turned.apply(slope, *ctx.saved_tensors), None


class Turn:
    """Turns rows (B, T, ...) of a batch around: last first. Padding, on the right, stays where it is.

    Args:
        x: (B, T) tokens, or (B, T, F) patches, which have no padding.
    """

    def __init__(self, x: Tensor):
        self.order: Tensor | None = None
        if not x.is_floating_point():
            places = torch.arange(x.shape[1], device=x.device)
            turned = (x != PAD).sum(1, keepdim=True) - 1 - places
            self.order = turned.where(turned >= 0, places)

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows in the other order."""
        return rows.flip(1) if self.order is None else _Turned.apply(rows, self.order)


def other_strand(tokens: Tensor) -> Tensor:
    """The other strand of tokens (B, T), read in its own direction."""
    return Turn(tokens)(complement(tokens))


class Nucleotides(Choice):
    """One token a nucleotide, (B, T) of codes → (B, T, D)."""

    kind: Literal["nucleotides"] = "nucleotides"

    def build(self, width: int) -> nn.Module:
        """The embedding table of the vocabulary."""
        return nn.Embedding(len(VOCABULARY), width)


class Patches(Choice):
    """One token a patch of a series, (B, N, F) of numbers → (B, N, D); F is values and marks of observation."""

    kind: Literal["patches"] = "patches"
    features: int = Field(ge=1, le=1_000_000, description="Numbers a patch: 2 x length x channels mixed.")

    def build(self, width: int) -> nn.Module:
        """The linear patch embedding."""
        return nn.Linear(self.features, width)


Embedding = Annotated[Nucleotides | Patches, Field(discriminator="kind")]
