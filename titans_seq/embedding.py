"""Embedding: nucleotide tokens and series patches become rows of the backbone's width."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from titans_seq.miras.choice import Choice

A, C, G, T, N, BEGIN, PAD, MASK = range(8)  # the first five are what the readers yield
VOCABULARY = ("A", "C", "G", "T", "N", "[BEGIN]", "[PAD]", "[MASK]")


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
