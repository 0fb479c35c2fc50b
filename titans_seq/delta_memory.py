"""Matrix memories with an exact rule at every token: the layer around `delta_scan`."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_seq.memory import How, LowRank, Memory, MemoryConfig, NeuralMemory, in_full
from titans_seq.miras.learning import Exact, Implicit, InContext
from titans_seq.miras.retention import Decay
from titans_seq.miras.structure import Weights
from titans_seq.ops.delta_scan import DeltaState, delta_scan

Erase = tuple[Tensor, Tensor]


class Held(NamedTuple):
    """What a `DeltaMemory` carries: as in the state of other memories a weight a layer, here one."""

    weights: Weights  # (B, H, d, d)


class DecayGate(nn.Module):
    """log w of a `Decay`, (B, T, D) → (B, H, T) or by channel (B, H, T, d), and of the exponential form its step Δ."""

    project: Any

    def __init__(self, width: int, heads: int, config: Decay, rank: int | None):
        super().__init__()
        self.heads, self.config = heads, config
        if config.form == "fixed":
            return
        kept = -math.log(math.expm1(-config.temperature * math.log(0.98)))  # σ(kept)^(1/τ) = 0.98
        if config.by == "channel":
            first = {"sigmoid": kept, "bounded": -2.5}  # at first 2 to 5 % a token are lost
            self.project = LowRank(width, rank or width, width, first[config.form])
            return
        self.project = nn.Linear(width, heads)
        first_bias = torch.full((heads,), kept)
        if config.form == "exponential":
            self.log_a = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
            steps = torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
            first_bias = steps.expm1().log()  # softplus takes it back to the step
        elif config.form == "bounded":
            first_bias.fill_(-2.5)
        with torch.no_grad():
            self.project.bias.copy_(first_bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """log w ≤ 0, and Δ > 0 (B, H, T) or None."""
        form = self.config.form
        if form == "fixed":  # in float64, whatever x is: 1 - w of a long memory is small
            heads = torch.arange(self.heads, device=x.device, dtype=torch.float64)
            return torch.log1p(-(2 ** (-5 - heads)))[:, None].expand(len(x), -1, x.shape[1]), None
        z = in_full(self.project(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, 1 or d)
        if self.config.by == "head":
            z = z.squeeze(-1)
        if form == "sigmoid":
            return F.logsigmoid(z) / self.config.temperature, None
        if form == "bounded":
            return -math.exp(-0.5) * z.sigmoid(), None
        step = F.softplus(z)
        return -self.log_a.to(z.dtype).exp()[:, None] * step, step


class DeltaMemory(Memory):
    r"""Matrix memory that is zero at first and learns by an exact rule, (B, T, D) → (B, T, D): see `delta_scan`."""

    eps = 1e-12  # Mamba-2's first steps are a thousandth, its first reads have a mean square of 1e-8

    def __init__(self, width: int, heads: int, config: MemoryConfig):
        super().__init__(width, heads, config, config.learning.keys)  # type: ignore[union-attr]

    def make(self, width: int, config: MemoryConfig) -> None:
        """Gates of decay and rate."""
        rule: Any = config.learning
        heads, decay = self.heads, config.retention
        self.values_as_projected = getattr(rule, "rate", None) == "complement"  # HGRN2's SiLU is of its queries alone
        self.decay = DecayGate(width, heads, decay, config.gate_rank) if isinstance(decay, Decay) else None
        rated = isinstance(rule, Implicit) or (isinstance(rule, Exact) and rule.rate in ("sigmoid", "twice"))
        self.rate = nn.Linear(width, heads * rule.keys) if rated else None
        if isinstance(rule, InContext):
            self.rates = LowRank(width, config.gate_rank or width, width, 0.0)
            self.to_erase = nn.Parameter(torch.ones(heads, width // heads))  # ξ
            self.to_write = nn.Parameter(torch.ones(heads, width // heads))  # μ

    def initial_scan(self, batch: int) -> Held:
        """Zeros."""
        d = self.norm.shape[1]
        return Held((self.norm.new_zeros(batch, self.heads, d, d, dtype=self.dtype),))

    def read(self, q: Tensor, scan: Held) -> Tensor:
        """q M."""
        return q @ scan.weights[0]

    def scan(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Held, how: How) -> tuple[Tensor, Held]:
        """By `delta_scan`."""
        log_decay, step = (None, None) if self.decay is None else self.decay(x)
        k, v, erase = self._written(x, k, v, log_decay, step)
        y, after = delta_scan(q, k, v, log_decay, erase, state=DeltaState(state.weights[0]), backend=how.backend)
        return y, Held((after.memory,))

    def _written(
        self, x: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, step: Tensor | None
    ) -> tuple[Tensor, Tensor, Erase | None]:
        """Keys and values (B, H, T, n, d) to write, and what is to be erased."""
        rule: Any = self.config.learning
        if isinstance(rule, InContext):
            return self._in_context(x, k, v)
        beta: Any = None
        if self.rate is not None:
            beta = (
                in_full(self.rate(x)).sigmoid().unflatten(-1, (self.heads, -1)).transpose(1, 2)[..., None]
            )  # (B, H, T, n, 1)
        if isinstance(rule, Implicit):
            beta = beta / (1 + beta * k.square().sum(-1, keepdim=True))
        elif rule.rate == "twice":
            beta = 2 * beta
        elif rule.rate == "step":
            beta = step[..., None, None]  # type: ignore[index]
        elif rule.rate == "complement":
            k = -torch.expm1(log_decay)[..., None, :]  # type: ignore[arg-type]
        if self.config.bias.kind == "dot_product":
            return (k if beta is None else beta * k), v, None
        return beta * k, v, (self._decayed(k, log_decay), beta * k)

    def _decayed(self, k: Tensor, log_decay: Tensor | None) -> Tensor:
        """What reads the memory to be corrected: the first key of a token reads it decayed."""
        if log_decay is None:
            return k
        w = log_decay.exp()
        first = k[..., :1, :] * (w[..., None, None] if w.ndim == 3 else w[..., None, :])
        return torch.cat([first, k[..., 1:, :]], -2)

    def _in_context(self, x: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Erase]:
        rates = self._heads(in_full(self.rates(x))).sigmoid()[..., None, :]
        kappa = F.normalize(k * self.to_erase[:, None, None], dim=-1)
        return k * (1 + (rates - 1) * self.to_write[:, None, None]), v, (kappa, rates * kappa)


def build_memory(width: int, heads: int, config: MemoryConfig) -> Memory:
    """The layer of the operator that carries ``config`` out."""
    return (DeltaMemory if config.operator == "delta_scan" else NeuralMemory)(width, heads, config)
