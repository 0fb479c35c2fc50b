"""Memory learning: how the memory moves down the slope of its bias.

To add one: write a class below and list it in `MemoryLearning`.
"""

from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from titans_seq.miras.choice import MemoryChoice

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Muon's quintic: steep at 0, and 5 steps are enough
NO_UPDATE = 1e-7  # norm below which an update is no direction


class Learning(MemoryChoice):
    """What every rule of `memory_scan` has; a subclass adds ``kind`` and ``momentum``, and what differs."""

    momentum: ClassVar[bool]  # whether there is a gate η
    at_chunk_end: ClassVar[bool] = False  # whether the memory moves once a chunk, by ``move`` of the summed update
    acts: ClassVar[str] = "at every token, by gradients at its chunk's start"  # where it acts, for people
    step: float = Field(default=1.0, gt=0, description="κ of the bound θ ≤ κ(1-η)/C.")
    normalised: bool = Field(
        default=True, description="Divide a token's error by the largest step its own Jacobian bears, where above 1."
    )

    def theta(self, gate: Tensor, eta: Tensor | None, chunk_size: int) -> Tensor:
        """Step θ from a gate in (0, 1): inside the bound under which C equal tokens cannot overshoot."""
        bound = self.step / chunk_size
        return bound * gate if eta is None else bound * (1 - eta) * gate

    def move(self, update: Tensor) -> Tensor:
        """What a chunk's summed update (..., d_in, d_out) adds to the memory, where it moves at the chunk's end."""
        return update


class GradientDescent(Learning):
    r"""Plain steps, $S_t = -\theta_t \nabla\ell$ (Titans with $\eta = 0$; TTT, Gated DeltaNet's family)."""

    kind: Literal["gradient_descent"] = "gradient_descent"
    momentum: ClassVar[bool] = False


class Momentum(Learning):
    r"""Steps with momentum, $S_t = \eta_t S_{t-1} - \theta_t \nabla\ell$ (Titans, eq. 10 and 14)."""

    kind: Literal["momentum"] = "momentum"
    momentum: ClassVar[bool] = True


class Orthogonalised(Learning):
    r"""One orthogonalised step a chunk (LaCT, arXiv 2505.23884; ATLAS, arXiv 2505.23735; Muon).

    $S_n = \bar\eta_n S_{n-1} - \sum_{s \in n} \theta_s \nabla\ell_s$ and $W_n = b_n W_{n-1} + \kappa\,
    \mathrm{NS}_5(S_n)$: the sum over chunk n, with the mean η of its tokens as momentum, moved to singular values of
    about 1 by five Newton-Schulz steps with Muon's coefficients. A chunk's tokens read its start ("apply then
    update"), since what they write is known at its end; chunks are long, 512 tokens and more.

    The scale of θ cancels: θ in (0, 1) says how much a token counts beside the others, κ is the size of the step. LaCT
    has θ = softplus(·), of each matrix its own, κ = 1, no forgetting, rows held by `RowNorm`, and coefficients of its
    own for each of the five steps; its products here are in float32, there in bfloat16.
    """

    kind: Literal["orthogonalised"] = "orthogonalised"
    at_chunk_end: ClassVar[bool] = True
    acts: ClassVar[str] = "at each chunk's end: one orthogonalised update of all its tokens"
    momentum: bool = Field(default=True, description="Carry the summed update on, by the mean η of a chunk.")  # type: ignore[misc]
    step: float = Field(default=1.0, gt=0, description="κ, about the largest singular value of a chunk's update.")

    def theta(self, gate: Tensor, eta: Tensor | None, chunk_size: int) -> Tensor:
        """The gate itself: how much a token counts."""
        return gate

    def move(self, update: Tensor) -> Tensor:
        """κ times the update with its singular values moved to about 1 (0.68 to 1.2); nothing of no update."""
        a, b, c = NEWTON_SCHULZ
        wide = update.shape[-2] > update.shape[-1]
        x = update.mT if wide else update
        x = x / (torch.linalg.matrix_norm(x, keepdim=True) + NO_UPDATE)
        for _ in range(5):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return self.step * (x.mT if wide else x)


class Exact(MemoryChoice):
    r"""One step a token at the memory that the token meets, so that there is no chunk: `delta_scan`.

    Under the dot product it writes, $M_t = W_t M_{t-1} + \beta_t k_t^\top v_t$ (Hebb); under `L2` it corrects,
    $M_t = (I - \beta_t k_t^\top k_t) W_t M_{t-1} + \beta_t k_t^\top v_t$ with $W_t$ the decay and β = 2θ: the delta
    rule, its gradient taken at the decayed memory (Gated DeltaNet, arXiv 2412.06464, eq. 10).

    ``rate``: β = 1; ``sigmoid`` of the token, a head; ``twice``, twice that, so that the memory can turn around
    (DeltaProduct, arXiv 2502.10297); ``step``, the Δ of Mamba-2, which is also what its exponential decay is made of;
    ``complement``: β = 1 and the key is 1 - w, w the decay (HGRN2, arXiv 2404.07904).
    """

    kind: Literal["exact"] = "exact"
    operators: ClassVar[tuple[str, ...]] = ("delta_scan",)
    acts: ClassVar[str] = "at every token, exactly"
    rate: Literal["one", "sigmoid", "twice", "step", "complement"] = "sigmoid"
    keys: int = Field(default=1, ge=1, le=8, description="Keys, values and steps a token (DeltaProduct).")


class Implicit(MemoryChoice):
    r"""The implicit step: the token's loss at the memory after it, $M_t$, so that no β overshoots (`delta_scan`).

    $M_t$ is the least of $\lVert M - M_{t-1} \rVert_F^2 + \beta_t \lVert k_t M - v_t \rVert^2$, the delta rule with
    $\beta_t / (1 + \beta_t \lVert k_t \rVert^2)$ (Longhorn, arXiv 2407.14207, theorem 3.1); β is a sigmoid, a head
    (Longhorn's own is one a channel of the values).
    """

    kind: Literal["implicit"] = "implicit"
    operators: ClassVar[tuple[str, ...]] = ("delta_scan",)
    acts: ClassVar[str] = "at every token, exactly"
    keys: ClassVar[int] = 1


class InContext(MemoryChoice):
    r"""RWKV-7's rule: what is erased and what is written have keys of their own (`delta_scan`).

    $M_t = (\mathrm{diag}(w_t) - (a_t \odot \hat\kappa_t)^\top \hat\kappa_t) M_{t-1} + \tilde k_t^\top v_t$ with
    $\hat\kappa = \mathrm{unit}(k \odot \xi)$, $\tilde k = k \odot (1 + (a - 1) \odot \mu)$ and the in-context
    learning rate a, a sigmoid a channel (arXiv 2503.14456, section 4).
    """

    kind: Literal["in_context"] = "in_context"
    operators: ClassVar[tuple[str, ...]] = ("delta_scan",)
    acts: ClassVar[str] = "at every token, exactly"
    keys: ClassVar[int] = 1


MemoryLearning = Annotated[
    GradientDescent | Momentum | Orthogonalised | Exact | Implicit | InContext, Field(discriminator="kind")
]
ALL_LEARNING: tuple[Any, ...] = get_args(get_args(MemoryLearning)[0])
LEARNING: tuple[type[Learning], ...] = tuple(kind for kind in ALL_LEARNING if "memory_scan" in kind.operators)
