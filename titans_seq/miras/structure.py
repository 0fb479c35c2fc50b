r"""Memory structure: what the memory is, how it reads, how an output error reaches its layers.

Row convention: a memory of L layers maps a row x_0 = k by z_l = x_{l-1} W_l and x_l = σ(z_l) (no σ after
the last layer) to f = z_L, and is f itself or, with ``norm``, k + LN(f) ⊙ γ. How a weight and a row meet is said
once, in `Layers.through`, ``scores``, ``recall``, ``outer`` and ``squares``; a weight may be less than a matrix there.

To add one: write a class below and list it in `MemoryStructure`.
The config schema, the operators and the tests read that list; nothing else changes.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from titans_seq.miras.choice import MemoryChoice

Weights = tuple[Tensor, ...]  # one (..., d_in, d_out) weight a layer
LN_EPS = 1e-6


class Trace(NamedTuple):
    """What a pass of the keys through the memory leaves behind for the errors of its layers."""

    inputs: tuple[Tensor, ...]  # x_0 ... x_{L-1}, each (..., T, d_l)
    slopes: tuple[Tensor, ...]  # σ'(z_1) ... σ'(z_{L-1})
    output: Tensor  # f (..., T, Dv)


def _gelu_and_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    return F.gelu(z), torch.ops.aten.gelu_backward(torch.ones_like(z), z)  # what it makes of a slope of one is σ'


class _GELU(torch.autograd.Function):
    """σ(z) and σ'(z), each in one pass; their own slopes take a quarter of the operations that autograd would."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = _gelu_and_slope(z)
        ctx.save_for_backward(z, slope)
        return value, slope

    @staticmethod
    def backward(ctx: Any, to_value: Tensor, to_slope: Tensor) -> Tensor:
        z, slope = ctx.saved_tensors
        square = z * z
        curvature = (square * -0.5).sub_(math.log(2 * math.pi) / 2).exp_() * (2 - square)
        return torch.addcmul(to_value * slope, to_slope, curvature)


def _gelu(z: Tensor) -> tuple[Tensor, Tensor]:
    if not (z.requires_grad and torch.is_grad_enabled()):
        return _gelu_and_slope(z)
    found: tuple[Tensor, Tensor] = _GELU.apply(z)
    return found


def _silu(z: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(z)
    return z * gate, gate * (1 + z * (1 - gate))


Activation = Callable[[Tensor], Tensor]
# by name: σ, and σ with its derivative
ACTIVATIONS: dict[str, tuple[Activation, Callable[[Tensor], tuple[Tensor, Tensor]]]] = {
    "gelu": (F.gelu, _gelu),
    "silu": (F.silu, _silu),
}


def _normalise(f: Tensor) -> tuple[Tensor, Tensor]:
    """Layer norm without gain over the last axis: the normalised f and 1/√(var + ε)."""
    centred = f - f.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + LN_EPS)
    return centred * scale, scale


def product(a: Tensor, b: Tensor, onto: Tensor | None = None) -> Tensor:
    """a @ b (of three axes where something stands below), added to ``onto``, in the dtype of a.

    Under autocast the operands are autocast's, and sums are kept as they are: bfloat16 products, a float32 memory.
    """
    cast = torch.is_autocast_enabled(a.device.type)
    if onto is not None:
        return torch.baddbmm(onto, a, b) if not cast else onto + torch.bmm(a, b)
    # of three axes without matmul's look at shapes, which a small chunk feels
    found = torch.bmm(a, b) if a.ndim == b.ndim == 3 else a @ b
    return found.to(a.dtype) if cast else found


class Layers(MemoryChoice):
    """A memory of linear layers: everything below follows from depth, activation and norm."""

    # a subclass fixes each, as a constant or as a field
    depth: ClassVar[int]
    expansion: ClassVar[float]
    activation: ClassVar[str]
    norm: ClassVar[bool]

    def sizes(self, d_in: int, d_out: int) -> list[tuple[int, int]]:
        """Shape (d_in, d_out) of every layer's weight.

        Raises:
            ValueError: if the residual of ``norm`` has no place because keys and values differ in width.
        """
        if self.norm and d_in != d_out:
            raise ValueError(f"k + LN(f(k)) needs keys and values of one width, got {d_in} and {d_out}.")
        hidden = max(1, round(self.expansion * d_in))
        widths = [d_in, *[hidden] * (self.depth - 1), d_out]
        return list(pairwise(widths))

    def through(self, x: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
        """Rows (..., T, d_in) through one layer's weight: (..., T, d_out), added to ``onto`` (of three axes)."""
        return product(x, weight, onto)

    def scores(self, write: Tensor, q: Tensor, x: Tensor) -> Tensor:
        """What `recall` needs of the queries and the inputs that were written, however often: (..., T, T)."""
        return write * product(q, x.mT)

    def recall(self, onto: Tensor, scores: Tensor, q: Tensor, x: Tensor, errors: Tensor) -> Tensor:
        r"""Read $\sum_s w_{ts}\, x_s^\top G_s$ with $q_t$, where no weight is formed: ``onto`` plus (B H, T, d_out)."""
        return product(scores, errors, onto)

    def outer(self, onto: Tensor, x: Tensor, errors: Tensor) -> Tensor:
        r"""Gradient $\sum_s x_s^\top G_s$ of a layer from inputs and errors, added to ``onto`` (B H, d_in, d_out)."""
        return product(x.mT, errors, onto)

    def squares(self, x: Tensor, errors: Tensor) -> Tensor:
        """Squared norm of every token's gradient of a layer, (..., T): that of x ᵀ G is that of x times that of G."""
        return x.square().sum(-1) * errors.square().sum(-1)

    def trace(self, weights: Weights, keys: Tensor) -> Trace:
        """Pass keys (..., T, D) through the memory, keeping what the errors need."""
        activate = ACTIVATIONS[self.activation][1]
        inputs, slopes, z = [keys], [], self.through(keys, weights[0])
        for weight in weights[1:]:
            row, slope = activate(z)
            inputs.append(row)
            slopes.append(slope)
            z = self.through(row, weight)
        return Trace(tuple(inputs), tuple(slopes), z)

    def activate(self, z: Tensor) -> Tensor:
        """σ(z)."""
        return ACTIVATIONS[self.activation][0](z)

    def finish(self, x: Tensor, f: Tensor, gain: Tensor | None) -> Tensor:
        """From the last layer's f to the read M(x), both (..., T, Dv)."""
        return f if gain is None else x + _normalise(f)[0] * gain

    def read(self, weights: Weights, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """Read M(x): rows (..., T, D) to (..., T, Dv). The memory does not change."""
        z = self.through(x, weights[0])
        for weight in weights[1:]:
            z = self.through(self.activate(z), weight)
        return self.finish(x, z, gain)

    def bearing(self, weights: Weights, trace: Trace, gain: Tensor | None) -> Tensor:
        r"""Bound n_t on the squared norm of each token's Jacobian $\partial M(k_t) / \partial W$, (..., T, 1).

        $n_t = \sum_l \lVert x_{l-1} \rVert^2 \prod_{m \ge l} \lVert \sigma'(z_m) \odot W_{m+1} \rVert_F^2$, times
        $\max \gamma^2 / (\mathrm{var} f + \varepsilon)$ under the norm. A step of gradient descent on
        ``L2`` that is divided by n_t cannot overshoot its own token.
        """
        back, total = None, trace.inputs[-1].square().sum(-1, keepdim=True)
        for level in reversed(range(len(weights) - 1)):
            rows = weights[level + 1].square().sum(-1, keepdim=True)  # ‖row i of W_{l+1}‖², (..., d, 1)
            here = product(trace.slopes[level].square(), rows)
            back = here if back is None else back * here
            total = torch.addcmul(total, trace.inputs[level].square().sum(-1, keepdim=True), back)
        if gain is not None:
            total = total * (_normalise(trace.output)[1] * gain.abs().amax(-1, keepdim=True)).square()
        return total

    def errors(self, weights: Weights, trace: Trace, error: Tensor, gain: Tensor | None) -> list[Tensor]:
        r"""Errors $G_l = \partial \ell / \partial z_l$ of every layer from the error at the read, each (..., T, d_l).

        The gradient of layer l is then $x_{l-1}^\top G_l$: a weight per token is never formed.
        """
        if gain is not None:
            f, scale = _normalise(trace.output)
            error = error * gain
            mean, along = error.mean(-1, keepdim=True), (error * f).mean(-1, keepdim=True)
            error = (error - mean - f * along) * scale
        found = [error]
        for level in reversed(range(len(weights) - 1)):
            found.append(product(found[-1], weights[level + 1].mT) * trace.slopes[level])
        return found[::-1]


class MLP(Layers):
    r"""Memory of ``depth`` linear layers, $M(k) = f(k)$ or $k + \mathrm{LN}(f(k)) \odot \gamma$ (MIRAS, section 5.3).

    The gain γ is slow: it is trained by the outer loop alone (as in TTT).
    """

    kind: Literal["mlp"] = "mlp"
    depth: int = Field(default=2, ge=1, le=8, description="Linear layers, L_M of Titans.")  # type: ignore[misc]
    expansion: float = Field(default=2.0, gt=0, le=16, description="Hidden width over head width.")  # type: ignore[misc]
    activation: Literal["gelu", "silu"] = "gelu"  # type: ignore[misc]
    norm: bool = Field(default=False, description="Read k + LN(f(k)) γ instead of f(k).")  # type: ignore[misc]


class Matrix(Layers):
    r"""Linear memory $M(k) = k W$, the associative matrix of linear attention and DeltaNet."""

    kind: Literal["matrix"] = "matrix"
    operators: ClassVar[tuple[str, ...]] = ("memory_scan", "delta_scan")
    depth: ClassVar[int] = 1
    expansion: ClassVar[float] = 1.0
    activation: ClassVar[str] = "gelu"
    norm: ClassVar[bool] = False


class Vector(Layers):
    r"""One weight a channel, $M(k) = w \odot k$: the smallest memory (MIRAS, section 4; table 1 counts RetNet as one).

    The weight is a column (D, 1). Its Jacobian is diag(k), so the bound on a step is exact, $n_t = \max_i k_i^2$.
    """

    kind: Literal["vector"] = "vector"
    depth: ClassVar[int] = 1
    expansion: ClassVar[float] = 1.0
    activation: ClassVar[str] = "gelu"
    norm: ClassVar[bool] = False

    def sizes(self, d_in: int, d_out: int) -> list[tuple[int, int]]:
        """Shape (D, 1) of the weight.

        Raises:
            ValueError: if keys and values differ in width.
        """
        if d_in != d_out:
            raise ValueError(f"A weight a channel needs keys and values of one width, got {d_in} and {d_out}.")
        return [(d_in, 1)]

    def through(self, x: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
        """x ⊙ w."""
        return x * weight.mT if onto is None else torch.addcmul(onto, x, weight.mT)

    def scores(self, write: Tensor, q: Tensor, x: Tensor) -> Tensor:
        """How much was written, alone: channels do not meet."""
        return write

    def recall(self, onto: Tensor, scores: Tensor, q: Tensor, x: Tensor, errors: Tensor) -> Tensor:
        """Read with q ⊙ what was written in each channel."""
        return torch.addcmul(onto, q, product(scores, x * errors))

    def outer(self, onto: Tensor, x: Tensor, errors: Tensor) -> Tensor:
        """Sum of x ⊙ G over the tokens, as a column."""
        return onto + (x * errors).sum(-2)[..., None]

    def squares(self, x: Tensor, errors: Tensor) -> Tensor:
        """Of x ⊙ G."""
        return (x * errors).square().sum(-1)

    def bearing(self, weights: Weights, trace: Trace, gain: Tensor | None) -> Tensor:
        """Squared norm of diag(k): that of its largest entry."""
        return trace.inputs[0].square().amax(-1, keepdim=True)


MemoryStructure = Annotated[MLP | Matrix | Vector, Field(discriminator="kind")]
STRUCTURES: tuple[type[Layers], ...] = get_args(get_args(MemoryStructure)[0])
