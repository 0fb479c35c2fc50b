"""Masked language modelling: each masked nucleotide, or word of them, from those on both sides of it."""

import math
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titans_seq.embedding import Embedding, N, Nucleotides
from titans_seq.miras.choice import Choice
from titans_seq.tasks.language import Likelihood, Word, along, bits_of
from titans_seq.tasks.pooling import OwnTokens


class MaskedHead(OwnTokens, nn.Module):
    """Hidden rows to the probabilities of A, C, G, T at their own places, or of words of them."""

    stranded: ClassVar[bool] = True  # a base is of one strand

    def __init__(self, width: int, word: int = 1):
        super().__init__()
        self.logits = nn.Linear(width, N**word)
        self.word = word

    def bases(self, hidden: Tensor) -> Tensor:
        """Logits of A, C, G, T (B, T, 4), or of words; of an equivariant backbone the mean of what both strands say.

        The other strand's row says what stands opposite: the same weights, read from T to A.
        """
        hidden = hidden[:, :: self.word]
        if hidden.shape[-1] == self.logits.in_features:
            return self.logits(hidden)
        own, other = hidden.chunk(2, -1)
        return (self.logits(own) + self.logits(other).flip(-1)) / 2

    def start(self, batch: dict[str, Tensor]) -> Likelihood:
        """Nothing read."""
        zero = torch.zeros(len(batch["tokens"]), dtype=torch.float64, device=batch["tokens"].device)
        return Likelihood(zero, zero)

    def fold(self, so_far: Likelihood, hidden: Tensor, batch: dict[str, Tensor]) -> Likelihood:
        """Add the masked bases of hidden (B, T, D); a batch may have a ``weight`` (B, T) a token."""
        asked = batch["masked"] < N
        target = batch["masked"].where(asked, -100)
        logits = along(self.bases(hidden), batch["masked"], self.word)
        nll = F.cross_entropy(logits.transpose(1, 2), target, ignore_index=-100, reduction="none")
        if "weight" in batch:
            nll, asked = nll * batch["weight"], asked * batch["weight"]
        return Likelihood(
            so_far.nats - nll.sum(1, dtype=torch.float64), so_far.scored + asked.sum(1, dtype=torch.float64)
        )

    def result(self, read: Likelihood) -> Likelihood:
        """What the loss is made of."""
        return read


class MaskedLanguageModel(Choice):
    """Predict masked nucleotides from those around them; N is read, and never masked or a target."""

    kind: Literal["masked_language_model"] = "masked_language_model"
    field: ClassVar[str] = "genomics"
    causal: ClassVar[bool] = False
    two_sided: ClassVar[bool] = True  # of what stands behind a mask a causal backbone would tell nothing
    data: ClassVar[str] = "fasta"
    monitor: ClassVar[tuple[str, int]] = ("bits_per_masked_nt", -1)
    masked: float = Field(
        default=0.15, gt=0, le=0.5, description="Share of the bases that are asked for: 80 % masked, 10 % drawn."
    )

    word: Word = 1

    def embedding(self, tokens: Embedding | None = None) -> Embedding:
        """How the backbone reads: the tokens that its config asks for."""
        return tokens or Nucleotides()

    def head(self, width: int) -> MaskedHead:
        """Hidden rows to logits of A, C, G, T, or of words."""
        return MaskedHead(width, self.word)

    def cut(self, batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        """Each window (B, T) cut into ``rows`` shorter ones, of whole words; what is over at its end is left out."""
        length = batch["tokens"].shape[1] // (rows * self.word) * self.word
        wide = {name: part for name, part in batch.items() if part.ndim == 2}
        return {name: part[:, : length * rows].reshape(-1, length) for name, part in wide.items()}

    def loss(self, output: Likelihood, batch: dict[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood in nats a masked base."""
        return -(output.nats.sum() / self.terms(output, batch).clamp(min=1)).float()

    def terms(self, output: Likelihood, batch: dict[str, Tensor]) -> Tensor:
        """How much a batch counts: what `loss` is a mean over, (): bases that are asked for."""
        return output.scored.sum()

    def measures(self, output: Likelihood, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """What `metrics` needs of a batch, a row a window."""
        return {"log_likelihood": output.nats.cpu().numpy(), "masked_bases": output.scored.cpu().numpy()}

    def metrics(self, rows: dict[str, np.ndarray], weight: np.ndarray | None = None) -> dict[str, float]:
        """Bits a masked nucleotide and perplexity over all of them; ``weight`` (n,) says how often a row counts."""
        weight = np.ones(len(rows["masked_bases"])) if weight is None else weight
        masked = weight @ rows["masked_bases"]
        bits = bits_of(weight @ rows["log_likelihood"], masked)
        perplexity = math.inf if bits >= 1000 else 2**bits
        return {
            "bits_per_masked_nt": bits,
            "perplexity": perplexity,
            "masked_bases": float(masked),
        }
