"""Next-nucleotide language modelling."""

import math
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_seq.embedding import Embedding, N, Nucleotides
from titans_seq.miras.choice import Choice


class Likelihood(NamedTuple):
    """Log-likelihood of what was read so far, a row a record."""

    nats: Tensor  # (B,) sum of ln p of the scored bases, float64
    scored: Tensor  # (B,) scored bases; N and padding are not. Where bases have weights both are weighted sums


class LanguageHead(nn.Module):
    """Hidden rows to the probabilities of the next A, C, G, T."""

    behind: ClassVar[bool] = True  # a row has read the tokens before its own

    def __init__(self, width: int):
        super().__init__()
        self.logits = nn.Linear(width, N)

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Tokens (B, T) moved one place later, behind the token ``previous`` (B,) that came before them."""
        return torch.cat([batch["previous"][:, None], batch["tokens"][:, :-1]], 1)

    def token_loglik(self, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """ln p of every token (B, T), float32; 0 where the token is no A, C, G or T."""
        tokens = batch["tokens"]
        nll = F.cross_entropy(
            self.logits(hidden).float().flatten(0, 1),
            tokens.where(tokens < N, -100).flatten(),
            ignore_index=-100,
            reduction="none",
        )
        return -nll.unflatten(0, tokens.shape)

    def token_entropy(self, hidden: Tensor) -> Tensor:
        """Entropy in nats of what is predicted for every token, (B, T, D) → (B, T), float32; ln 4 is the most."""
        logp = self.logits(hidden).float().log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)

    def start(self, batch: dict[str, Tensor]) -> Likelihood:
        """Nothing read."""
        zero = torch.zeros(len(batch["tokens"]), dtype=torch.float64, device=batch["tokens"].device)
        return Likelihood(zero, zero)

    def fold(self, so_far: Likelihood, hidden: Tensor, batch: dict[str, Tensor]) -> Likelihood:
        """Add one block, hidden (B, T, D); a batch may have a ``weight`` (B, T) a token."""
        loglik, scored = self.token_loglik(hidden, batch), batch["tokens"] < N
        if "weight" in batch:
            loglik, scored = loglik * batch["weight"], scored * batch["weight"]
        return Likelihood(
            so_far.nats + loglik.sum(1, dtype=torch.float64), so_far.scored + scored.sum(1, dtype=torch.float64)
        )

    def result(self, read: Likelihood) -> Likelihood:
        """What a prediction is made of."""
        return read


def bits_of(nats: float, bases: float) -> float:
    """Bits a base of a log-likelihood in nats."""
    return -float(nats / max(bases, 1)) / math.log(2)


class LanguageModel(Choice):
    """Predict each nucleotide from those before it; N is read and never a target."""

    kind: Literal["language_model"] = "language_model"
    field: ClassVar[str] = "genomics"
    causal: ClassVar[bool] = True  # no row may see a later one
    data: ClassVar[str] = "fasta"  # kind of source it is trained on
    monitor: ClassVar[tuple[str, int]] = ("bits_per_nt", -1)  # the metric that says which checkpoint is best, its sign

    def embedding(self) -> Embedding:
        """How the backbone reads."""
        return Nucleotides()

    def head(self, width: int) -> LanguageHead:
        """Hidden rows to logits of A, C, G, T."""
        return LanguageHead(width)

    def cut(self, batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        """Each window (B, T) cut into ``rows`` shorter ones; up to rows - 1 tokens at its end are left out."""
        if rows == 1:
            return batch
        length = batch["tokens"].shape[1] // rows * rows
        parts = {n: v[:, :length].unflatten(1, (rows, -1)) for n, v in batch.items() if n in ("tokens", "weight")}
        previous = torch.cat([batch["previous"][:, None], parts["tokens"][:, :-1, -1]], 1)
        return {**batch, **{n: v.flatten(0, 1) for n, v in parts.items()}, "previous": previous.flatten()}

    def loss(self, output: Likelihood, batch: dict[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood in nats a scored base."""
        return -(output.nats.sum() / output.scored.sum().clamp(min=1)).float()

    def measures(self, output: Likelihood, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """What `metrics` needs of a batch, a row a record."""
        return {"log_likelihood": output.nats.cpu().numpy(), "scored_bases": output.scored.cpu().numpy()}

    def metrics(self, rows: dict[str, np.ndarray], weight: np.ndarray | None = None) -> dict[str, float]:
        """Bits a nucleotide and perplexity over all scored bases; where there are repeats, bits there and elsewhere.

        ``weight`` (n,) says how often a row counts.
        """
        sums = {name: (values if weight is None else weight * values).sum() for name, values in rows.items()}
        nats, scored = sums["log_likelihood"], sums["scored_bases"]
        bits = bits_of(nats, scored)
        perplexity = 2**bits if bits < 1000 else math.inf
        found = {"bits_per_nt": bits, "perplexity": perplexity, "scored_bases": float(scored)}
        if (repeats := sums.get("repeat_bases", 0)) > 0:
            within = sums["repeat_log_likelihood"]
            found |= {"bits_per_nt_repeat": bits_of(within, repeats), "repeat_bases": float(repeats)}
            found |= {"bits_per_nt_other": bits_of(nats - within, scored - repeats)}
        return found

    def columns(self, output: Likelihood) -> dict[str, list[float] | list[int]]:
        """Columns of the prediction file: bits a nucleotide, log-likelihood in nats, scored bases."""
        nats, count = output.nats.tolist(), output.scored.tolist()
        bits = [-n / c / math.log(2) if c else math.nan for n, c in zip(nats, count, strict=True)]
        return {"bits_per_nt": bits, "log_likelihood": nats, "scored_bases": [int(c) for c in count]}
