"""Embedding: nucleotides, words of them, and series patches become rows of the backbone's width.

To add a tokeniser: a class below with ``stride``, ``start`` and ``tokens``, and its name in `Tokens`.
"""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
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


class Reading(Choice):
    """How a backbone reads its input; tokens of nucleotides stand one for each."""

    @property
    def stride(self) -> int:
        """Nucleotides a token."""
        return 1

    def start(self, batch: int, device: torch.device) -> Tensor | None:
        """What `tokens` goes on from where ``batch`` streams begin; None where a token is of its own place alone."""
        return None

    def tokens(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the embedding reads of input x (B, T, ...), and what the next call goes on from."""
        return x, before

    def build(self, width: int) -> nn.Module:
        """Tokens to rows of the backbone's width."""
        raise NotImplementedError


class Nucleotides(Reading):
    """One token a nucleotide, (B, T) of codes → (B, T, D)."""

    kind: Literal["nucleotides"] = "nucleotides"

    def build(self, width: int) -> nn.Module:
        """The embedding table of the vocabulary."""
        return nn.Embedding(len(VOCABULARY), width)


class Kmers(Reading):
    """One token a word of k nucleotides; its number in base 4 stands behind the symbols of `VOCABULARY`.

    Overlapping (DNABERT, Ji et al. 2021), the token of a place is the word that ends there, so that it knows no later
    base; where no k known bases end, it is the symbol of the place alone. A base that is masked is in no word.

    Else (Nucleotide Transformer, Dalla-Torre et al. 2025) a token is of k places, on a grid that begins with the
    sequence, and N where one of them is unknown: so are the last bases, fewer than k, that make no word.
    """

    kind: Literal["kmer"] = "kmer"
    k: int = Field(ge=2, le=8, description="Nucleotides a word; there are 4^k words.")
    overlapping: bool = Field(default=True, description="A token a nucleotide; else a token for k of them.")

    @property
    def stride(self) -> int:
        """Nucleotides a token."""
        return 1 if self.overlapping else self.k

    def start(self, batch: int, device: torch.device) -> Tensor | None:
        """Symbols (B, k - 1) before the first ones, where words overlap."""
        return torch.full((batch, self.k - 1), BEGIN, device=device) if self.overlapping else None

    def tokens(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T), or (B, ⌈T / k⌉) of words that do not overlap, and the last k - 1 symbols where they do."""
        if before is None:
            return word_tokens(F.pad(x, (0, -x.shape[1] % self.k), value=PAD).unflatten(1, (-1, self.k))), None
        if not x.shape[1]:
            return x, before
        joined = torch.cat([before, x], 1)
        windows = joined.unfold(1, self.k, 1)
        number = _numbers(windows)
        tokens = torch.where(number < 0, x, number + len(VOCABULARY))
        return tokens, joined[:, joined.shape[1] - self.k + 1 :]

    def build(self, width: int) -> nn.Module:
        """The embedding table of symbols and words."""
        return nn.Embedding(len(VOCABULARY) + 4**self.k, width)


def _numbers(words: Tensor) -> Tensor:
    """Numbers (...) of words (..., k), the first base's digit the highest; -1 where one is no base."""
    places = 4 ** torch.arange(words.shape[-1] - 1, -1, -1, device=words.device)
    return torch.where((words < N).all(-1), (words * places).sum(-1), -1)


def word_tokens(words: Tensor) -> Tensor:
    """Tokens (...) of words (..., k) by themselves: PAD of padding alone; MASK or BEGIN where there is one; else N."""
    number, padding = _numbers(words), words == PAD
    symbol = torch.where(padding, N, words).amax(-1)
    symbol = torch.where(padding.all(-1), PAD, symbol)
    return torch.where(number < 0, symbol, number + len(VOCABULARY))


def spelled(tokens: Tensor, k: int) -> Tensor:
    """Words (..., k) of their `word_tokens` (...); a symbol stands k times, and a lone base is no known word."""
    places = 4 ** torch.arange(k - 1, -1, -1, device=tokens.device)
    bases = (tokens[..., None] - len(VOCABULARY)) // places % 4
    symbol = torch.where(tokens < N, N, tokens)
    return torch.where(tokens[..., None] < len(VOCABULARY), symbol[..., None], bases)


class Patches(Reading):
    """One token a patch of a series, (B, N, F) of numbers → (B, N, D); F is values and marks of observation."""

    kind: Literal["patches"] = "patches"
    features: int = Field(ge=1, le=1_000_000, description="Numbers a patch: 2 x length x channels mixed.")

    def build(self, width: int) -> nn.Module:
        """The linear patch embedding."""
        return nn.Linear(self.features, width)


Tokens = Nucleotides | Kmers
Embedding = Annotated[Tokens | Patches, Field(discriminator="kind")]
