"""Next-nucleotide language modelling, also by words of several."""

import math
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titans_seq.embedding import BEGIN, PAD, VOCABULARY, Embedding, N, Nucleotides, spelled, word_tokens
from titans_seq.miras.choice import Choice


class Likelihood(NamedTuple):
    """Log-likelihood of what was read so far, a row a record."""

    nats: Tensor  # (B,) sum of ln p of the scored bases, float64
    scored: Tensor  # (B,) scored bases; N and padding are not. Where bases have weights both are weighted sums


def base_logits(words: Tensor, bases: Tensor) -> Tensor:
    r"""Logits of A, C, G, T at each place of words, given the bases before it in its word: the chain rule,

    $\ln p(b_1 \dots b_k) = \sum_j \ln p(b_j \mid b_1 \dots b_{j-1})$; a place whose base is not known is summed over.

    Args:
        words: (..., 4^k) logits of words, the first base's digit the highest.
        bases: (..., k) what stands there; of the last one nothing is needed.

    Returns:
        (..., k, 4), to be normalised.
    """
    found = []
    for base in bases[..., :-1].unbind(-1):
        words = words.unflatten(-1, (N, -1))
        found.append(words.logsumexp(-1))
        taken = words.take_along_dim(base.clamp(max=N - 1)[..., None, None], -2).squeeze(-2)
        words = taken.where(base[..., None] < N, words.logsumexp(-2))
    return torch.stack([*found, words], -2)


def side_by_side(bases: Tensor, word: int) -> Tensor:
    """Bases (B, T) as words (B, ⌈T / word⌉, word), padded on the right."""
    return F.pad(bases, (0, -bases.shape[1] % word), value=PAD).unflatten(1, (-1, word))


def along(words: Tensor, bases: Tensor, word: int) -> Tensor:
    """`base_logits` (B, T, 4), float32, along bases (B, T), of words side by side: logits (B, ⌈T / word⌉, 4^word)."""
    return base_logits(words.float(), side_by_side(bases, word)).flatten(1, 2)[:, : bases.shape[1]]


class LanguageHead(nn.Module):
    """Hidden rows to the probabilities of the next A, C, G, T, of one base or of the ``word`` of them that comes next.

    All is said a base: the bases of a word have the conditional probabilities of the chain rule, so that models of
    other words compare. ``previous`` (B,) is the token before what is read: a base or BEGIN; of words side by side one
    of `word_tokens`, where a base says that its word is not known.
    """

    def __init__(self, width: int, word: int = 1):
        super().__init__()
        self.logits = nn.Linear(width, N**word)
        self.word = word

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Bases (B, T) moved one token later, behind the token ``previous`` (B,) that came before them; whole words."""
        words = side_by_side(batch["tokens"], self.word)
        return torch.cat([self.unpacked(batch["previous"])[:, None], words[:, :-1]], 1).flatten(1)

    def unpacked(self, previous: Tensor) -> Tensor:
        """The bases (B, word) of a token (B,) to be read."""
        return previous[:, None] if self.word == 1 else spelled(previous, self.word)

    def unread(self, batch: dict[str, Tensor]) -> Tensor:
        """The token (B,) that a stream has not read after a batch: the last."""
        last = side_by_side(batch["tokens"], self.word)[:, -1]
        return last[:, 0] if self.word == 1 else word_tokens(last)

    @property
    def highest(self) -> int:
        """The largest number that such a token has."""
        return BEGIN if self.word == 1 else len(VOCABULARY) + N**self.word - 1

    def _along(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return along(self.logits(hidden[:, :: self.word]), tokens, self.word)

    def token_loglik(self, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """ln p of every base (B, T), float32; 0 where there is no A, C, G or T."""
        tokens = batch["tokens"]
        logits, target = self._along(hidden, tokens).flatten(0, 1), tokens.where(tokens < N, -100).flatten()
        nll = F.cross_entropy(logits, target, ignore_index=-100, reduction="none")
        return -nll.unflatten(0, tokens.shape)

    def token_entropy(self, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Entropy in nats of what is predicted for every base, (B, T), float32; ln 4 is the most."""
        logp = self._along(hidden, batch["tokens"]).log_softmax(-1)
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
    """Bits a base of a log-likelihood in nats; NaN of no base."""
    return -float(nats / bases) / math.log(2) if bases else math.nan


Word = Annotated[int, Field(ge=1, le=8, description="Nucleotides predicted at once; follows from the embedding.")]


class LanguageModel(Choice):
    """Predict each nucleotide, or word of them, from those before it; N is read and never a target."""

    kind: Literal["language_model"] = "language_model"
    field: ClassVar[str] = "genomics"
    causal: ClassVar[bool] = True  # no row may see a later one
    data: ClassVar[str] = "fasta"  # kind of source it is trained on
    monitor: ClassVar[tuple[str, int]] = ("bits_per_nt", -1)  # the metric that says which checkpoint is best, its sign
    word: Word = 1

    def embedding(self, tokens: Embedding | None = None) -> Embedding:
        """How the backbone reads: the tokens that its config asks for."""
        return tokens or Nucleotides()

    def head(self, width: int) -> LanguageHead:
        """Hidden rows to logits of A, C, G, T, or of words."""
        return LanguageHead(width, self.word)

    def cut(self, batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        """Each window (B, T) cut into ``rows`` shorter ones, of whole words; what is over at its end is left out."""
        if rows == 1:
            return batch
        length = batch["tokens"].shape[1] // (rows * self.word) * rows * self.word
        parts = {n: v[:, :length].unflatten(1, (rows, -1)) for n, v in batch.items() if n in ("tokens", "weight")}
        previous = torch.cat([batch["previous"][:, None], parts["tokens"][:, :-1, -1]], 1)
        return {**batch, **{n: v.flatten(0, 1) for n, v in parts.items()}, "previous": previous.flatten()}

    def loss(self, output: Likelihood, batch: dict[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood in nats a scored base."""
        return -(output.nats.sum() / self.terms(output, batch).clamp(min=1)).float()

    def terms(self, output: Likelihood, batch: dict[str, Tensor]) -> Tensor:
        """How much a batch counts: what `loss` is a mean over, (): bases that are scored."""
        return output.scored.sum()

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
        perplexity = math.inf if bits >= 1000 else 2**bits
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
