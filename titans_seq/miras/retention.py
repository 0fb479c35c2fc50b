r"""Retention gate: what the memory forgets while it learns (MIRAS, section 3.2 and 5.2).

Learning and forgetting alike are sums, so a chunk runs as a linear recurrence; what is not linear is one function
``link`` from what is carried, A, to the weights W, and it acts at a chunk's end (MIRAS, section 5.4):

$A_t = (1-\alpha_t) A_{t-1} + \alpha_t A_{init} + S_t$, and within the chunk
$W_t = (1-\alpha_t) W_{t-1} + \alpha_t W_{init} + S_t$ from $W = \mathrm{link}(A)$ on, where the chunk's gradients are
taken; with its last token the memory is link(A) again, also for that token's read. With ``chunk_size=1`` link acts at
every token and this is the online rule as printed. Momentum and every learning rule go with every retention.

Where ``accumulates``, A is carried over the chunk's end beside W (follow the regularised leader: a mirror map);
else W = link(A) itself is carried (a proximal step, a projection), and A begins from it.

Each link but one is the gradient of a convex function of A, so that W is the least of $R(W) - \langle W, A \rangle$
with R its conjugate: that is where the updates of MIRAS, eq. 18-23, come from.

To add one: write a class below and list it in `RetentionGate`.
The config schema, the operators and the tests read that list; nothing else changes.
"""
# ruff: noqa: D102 - link and start are explained once, in Retention

import math
from typing import Annotated, ClassVar, Literal, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor

from titans_seq.miras.choice import MemoryChoice

NOTHING = 1e-30  # norm below which a memory has no direction
AXES = (-2, -1)  # of one weight: inputs, outputs


class Retention(MemoryChoice):
    """What every retention has; a subclass adds ``kind``, and what differs."""

    gated: ClassVar[bool] = False  # whether it has a global part, and so a forgetting gate α
    linear: ClassVar[bool] = False  # whether link is the identity
    holds_norms: ClassVar[bool] = False  # whether weights keep the norms that they have at first
    accumulates: ClassVar[bool] = False  # whether A is carried over a chunk's end, else link(A)
    acts: ClassVar[str]  # where the non-linear part acts, for people

    @property
    def returns(self) -> bool:
        """Whether an idle memory goes back to the initial one."""
        return False

    @property
    def minimises(self) -> bool:
        r"""Whether link(A) is the least of some $R(W) - \langle W, A \rangle$."""
        return True

    def link(self, carried: Tensor, initial: Tensor) -> Tensor:
        """Weights (..., d_in, d_out) of what is carried; ``initial`` is what was carried at first."""
        return carried

    def start(self, memory: Tensor) -> Tensor:
        """What is carried at first for ``memory`` to be the weights, or weights of its norm where link has no such."""
        return memory


class NoRetention(Retention):
    r"""Nothing is forgotten, $W_t = W_{t-1} + S_t$: L2 local, $\frac{1}{2\theta} \lVert W - W_{t-1} \rVert^2$, alone.

    Linear attention, DeltaNet and TTT have this one; no gate α is made.
    """

    kind: Literal["none"] = "none"
    operators: ClassVar[tuple[str, ...]] = ("memory_scan", "delta_scan")
    linear: ClassVar[bool] = True
    acts: ClassVar[str] = "nowhere: nothing is forgotten"


class Gated(Retention):
    r"""A retention with a global part, the gate α: an idle memory returns to where it began, or to zero as printed.

    ``towards="initial"`` holds the memory to $A_{init}$ where the papers hold it to 0. Zero absorbs a memory of two
    layers and more: both weights reach it on long input and nothing is learned again.
    """

    gated: ClassVar[bool] = True
    towards: Literal["initial", "zero"] = Field(default="initial", description="Where an idle memory returns to.")

    @property
    def returns(self) -> bool:
        return self.towards == "initial"


class Forgetting(Gated):
    r"""L2 retention, Titans' forgetting gate α: L2 local and global (MIRAS, section 5.3).

    ``towards="initial"``: $W_t = (1-\alpha_t) W_{t-1} + \alpha_t W_{init} + S_t$, the least of
    $\langle W, \nabla\ell \rangle + \frac{1-\alpha}{2\theta} \lVert W - W_{t-1} \rVert^2
    + \frac{\alpha}{2\theta} \lVert W - W_{init} \rVert^2$.
    ``towards="zero"``: $W_t = (1-\alpha_t) W_{t-1} + S_t$ as printed (Titans, eq. 13).
    """

    kind: Literal["forgetting"] = "forgetting"
    linear: ClassVar[bool] = True
    acts: ClassVar[str] = "nowhere: forgetting is linear, at every token"


class Lq(Gated):
    r"""Lq stability, Moneta's (MIRAS, section 5.2 and eq. 24); q is the exponent of A's norm, and 2 is `Forgetting`.

    ``exact``: $W = \mathrm{sign}(A) |A|^{q-1} / \lVert A \rVert_q^{q-2}$, the least of
    $\frac{1}{2} \lVert W \rVert_p^2 - \langle W, A \rangle$ with $1/p + 1/q = 1$: q = 4 is the stability of p = 4/3,
    and the text's 1 < p ≤ 2 are q ≥ 2. ``printed``: $W = A / \lVert A \rVert_q^{q-2}$, which has lost the power. It is
    the least of nothing, and turns size around: $\lVert W \rVert_4 = 1 / \lVert A \rVert_4$ for q = 4; for q = 3 every
    memory has norm 1. The norm is that of a whole weight of a head.
    """

    kind: Literal["lq"] = "lq"
    accumulates: ClassVar[bool] = True
    acts: ClassVar[str] = "at each chunk's end: the weights are the accumulator over a power of its q-norm"
    q: float = Field(default=4.0, ge=2, le=8, description="Exponent of the accumulator's norm; 2 changes nothing.")
    form: Literal["exact", "printed"] = Field(default="exact", description="The minimiser, or the paper's equation.")

    @model_validator(mode="after")
    def _invertible(self) -> "Lq":
        if self.form == "printed" and 0 < abs(self.q - 3) < 0.1:
            raise ValueError(
                f"the printed form makes |W| = |A|^(3 - q), and for q = {self.q:g} what is carried leaves the range of "
                "numbers: take q = 3, a q further from it, or form: exact"
            )
        return self

    @property
    def minimises(self) -> bool:
        return self.form == "exact" or self.q == 2

    def link(self, carried: Tensor, initial: Tensor) -> Tensor:
        if self.form == "printed":
            return carried / (_norm(carried, self.q) ** (self.q - 2)).clamp(min=NOTHING)
        return _powers(carried, self.q)

    def start(self, memory: Tensor) -> Tensor:
        if self.form == "exact":
            return _powers(memory, self.q / (self.q - 1))
        size = _norm(memory, self.q)
        return memory / size if self.q == 3 else memory * size ** ((self.q - 2) / (3 - self.q))


class KL(Gated):
    r"""KL local and entropy global, Memora's: a softmax of carried logits (MIRAS, eq. 19-21 and 27).

    $W = c\, \mathrm{softmax}(\Lambda)$, $\Lambda_t = (1-\alpha_t) \Lambda_{t-1} - \theta_t \nabla\ell$: up to constants
    of a slice this is $W_t = c\, \mathrm{softmax}((1-\alpha_t) \log W_{t-1} - \theta_t \nabla\ell)$, the least of
    $\langle W, \nabla\ell \rangle + \frac{1-\alpha}{\theta} \mathrm{KL}(W, W_{t-1})
    + \frac{\alpha}{\theta} \sum W \log W$ over $W \ge 0$ of sum c. With ``towards="initial"`` the entropy is
    $\mathrm{KL}(W, W_{init})$. A slice is what one output takes of the inputs, a column of a weight.

    ``signed``: $W = W^+ - W^-$, two simplices of which the second moves up the slope (exponentiated gradient ±).
    They begin with opposite logits and keep them so:
    $W = c\, (\mathrm{softmax}(\Lambda) - \mathrm{softmax}(-\Lambda))$.

    The paper's lag token (eq. 30) is not needed: it keeps the logarithm and the softmax of one chunk's end from
    cancelling, and here no logarithm is taken.
    """

    kind: Literal["kl"] = "kl"
    accumulates: ClassVar[bool] = True
    acts: ClassVar[str] = "at each chunk's end: the weights are the softmax of the carried logits"
    scale: float | None = Field(
        default=None, gt=0, description="c, the sum of a column; none for √d_in, the norm of an ordinary one."
    )
    signed: bool = Field(default=False, description="The difference of two simplices, not one.")

    def _mass(self, weight: Tensor) -> float:
        return self.scale or math.sqrt(weight.shape[-2])

    def link(self, carried: Tensor, initial: Tensor) -> Tensor:
        up = carried.softmax(-2)
        return self._mass(carried) * (up - (-carried).softmax(-2) if self.signed else up)

    def start(self, memory: Tensor) -> Tensor:
        """Logits of the memory to first order when signed; else small ones, since no column can be smaller."""
        d_in = memory.shape[-2]
        return memory * (d_in / self._mass(memory) if self.signed else math.sqrt(d_in)) / 2


class ElasticNet(Gated):
    r"""Elastic net, local form: what is carried is soft-thresholded (MIRAS, eq. 22).

    $W_t = S_\gamma((1-\alpha_t) W_{t-1} - \theta_t \nabla\ell)$ with
    $S_\gamma(z) = \mathrm{sign}(z) \max(0, |z| - \gamma)$, the least of $\langle W, \nabla\ell \rangle
    + \frac{1-\alpha}{2\theta} \lVert W - W_{t-1} \rVert^2 + \frac{\alpha}{2\theta} \lVert W \rVert^2
    + \frac{\gamma}{\theta} \lVert W \rVert_1$. The paper's γ is a product of its gates; here it is a number, what a
    weight loses a chunk. The threshold is the exact one, not its arctan.
    """

    kind: Literal["elastic_net"] = "elastic_net"
    acts: ClassVar[str] = "at each chunk's end: the memory is soft-thresholded, and goes on from there"
    threshold: float = Field(default=1e-3, gt=0, description="γ, what a weight loses at each chunk's end.")

    def link(self, carried: Tensor, initial: Tensor) -> Tensor:
        return _soft(carried, self.threshold)


class ElasticNetFTRL(Retention):
    r"""Elastic net, as follow the regularised leader: the weights are thresholded, what is carried is not (eq. 23).

    $A_t = A_{t-1} - \theta_t \nabla\ell$ and $W_t = S_\gamma(A_t)$, the least of
    $\sum_{s \le t} \theta_s \langle W, \nabla\ell_s \rangle + \frac{1}{2} \lVert W \rVert^2
    + \gamma \lVert W \rVert_1$ (the paper lacks the one half that makes it so). A weight that was lost comes back
    when enough has been said for it.
    """

    kind: Literal["elastic_net_ftrl"] = "elastic_net_ftrl"
    accumulates: ClassVar[bool] = True
    acts: ClassVar[str] = "at each chunk's end: the weights are the soft-thresholded accumulator"
    threshold: float = Field(default=1e-3, gt=0, description="γ, size of the accumulator below which a weight is 0.")

    def link(self, carried: Tensor, initial: Tensor) -> Tensor:
        return _soft(carried, self.threshold)

    def start(self, memory: Tensor) -> Tensor:
        return memory + self.threshold * memory.sign()


class BregmanSigmoid(Retention):
    r"""Bregman divergence of the binary entropy: every weight stays in (0, 1) (MIRAS, section 5.2).

    $W_t = \sigma(\log\frac{W_{t-1}}{1 - W_{t-1}} - \theta_t \nabla\ell)$, the least of
    $\langle W, \nabla\ell \rangle + \frac{1}{\theta} D_F(W, W_{t-1})$ with $F = \sum W \log W + (1-W) \log(1-W)$. The
    logits are carried.
    """

    kind: Literal["bregman_sigmoid"] = "bregman_sigmoid"
    accumulates: ClassVar[bool] = True
    acts: ClassVar[str] = "at each chunk's end: the weights are the sigmoid of the carried logits"

    def link(self, carried: Tensor, initial: Tensor) -> Tensor:
        return carried.sigmoid()

    def start(self, memory: Tensor) -> Tensor:
        """Logits of the memory's absolute values."""
        return memory.abs().clamp(1e-3, 1 - 1e-3).logit()


class RowNorm(Retention):
    r"""Norms are retained: what an output takes of the inputs gets its initial norm back (LaCT, arXiv 2505.23884).

    $W_j \leftarrow W_j \lVert W_{init,j} \rVert / \lVert W_j \rVert$ for every column j of a weight, a row in LaCT's
    convention: the memory is projected onto a product of spheres, after each chunk, and goes on from there.
    """

    kind: Literal["row_norm"] = "row_norm"
    holds_norms: ClassVar[bool] = True
    acts: ClassVar[str] = "at each chunk's end: each output's weights get their initial norm back"

    def link(self, carried: Tensor, initial: Tensor) -> Tensor:
        now, first = (torch.linalg.vector_norm(w, dim=-2, keepdim=True) for w in (carried, initial))
        return carried * (first / now.clamp(min=NOTHING))


class Decay(Retention):
    r"""Decay w of a matrix memory at every token, $M_t = \mathrm{diag}(w_t) M_{t-1} + \dots$, towards zero.

    ``by``: one w a head, or one a key channel. ``form`` says how w follows from a projection z of the token:
    ``fixed`` $w = 1 - 2^{-5-h}$ of head h (RetNet, arXiv 2307.08621, eq. 8), ``sigmoid`` $w = \sigma(z)^{1/\tau}$ (GLA,
    arXiv 2312.06635, with τ = 16; HGRN2, arXiv 2404.07904, with 1), ``exponential`` $w = e^{-e^A \mathrm{softplus}(z)}$
    (Mamba-2, arXiv 2405.21060; Gated DeltaNet, arXiv 2412.06464), ``bounded`` $w = e^{-e^{-1/2} \sigma(z)}$ (RWKV-7,
    arXiv 2503.14456).
    """

    kind: Literal["decay"] = "decay"
    operators: ClassVar[tuple[str, ...]] = ("delta_scan",)
    linear: ClassVar[bool] = True
    acts: ClassVar[str] = "nowhere: decay is linear, at every token"
    by: Literal["head", "channel"] = Field(default="head", description="What shares one decay: a head, a key channel.")
    form: Literal["fixed", "sigmoid", "exponential", "bounded"] = Field(
        default="exponential", description="How the decay follows from the token; fixed: it does not."
    )
    temperature: float = Field(default=16.0, gt=0, le=10_000, description="τ of the sigmoid form.")


def _norm(weight: Tensor, q: float) -> Tensor:
    """The q-norm of all entries of a weight, (..., 1, 1)."""
    return torch.linalg.vector_norm(weight, q, AXES, keepdim=True).clamp(min=NOTHING)


def _powers(weight: Tensor, q: float) -> Tensor:
    r"""$\mathrm{sign}(A) |A|^{q-1} / \lVert A \rVert_q^{q-2}$, the gradient of $\frac{1}{2} \lVert A \rVert_q^2$."""
    # of degree 1 in A: the largest entry is taken out, as a constant, so that no power leaves the range of numbers
    largest = weight.detach().abs().amax(AXES, keepdim=True).clamp(min=NOTHING)
    near = weight / largest
    # an entry of 1 makes the norm 1 at least; a memory of zeros stays one
    return largest * near.sign() * near.abs() ** (q - 1) / _norm(near, q).clamp(min=1) ** (q - 2)


def _soft(weight: Tensor, threshold: float) -> Tensor:
    return weight.sign() * (weight.abs() - threshold).clamp(min=0)


RetentionGate = Annotated[
    NoRetention | Forgetting | Lq | KL | ElasticNet | ElasticNetFTRL | BregmanSigmoid | RowNorm | Decay,
    Field(discriminator="kind"),
]
ALL_RETENTIONS: tuple[type[Retention], ...] = get_args(get_args(RetentionGate)[0])
RETENTIONS = tuple(kind for kind in ALL_RETENTIONS if "memory_scan" in kind.operators)
