# ruff: noqa: D102 - loss and slope are explained once, in Bias
r"""Attentional bias: the error a memory is trained, token by token, to reduce (MIRAS, sections 3.1 and 5.1).

Everywhere $e = \hat v - v$ is the error of a prediction $\hat v = M(k)$, and D its width. Equation numbers are those
of MIRAS, arXiv 2504.13173v1, unless another paper is named.

To add one: write a class below with ``loss`` and ``slope``, and list it in `AttentionalBias`.
The config schema, the operators and the tests read that list; nothing else changes.
"""

import math
from typing import Annotated, ClassVar, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from titans_seq.miras.choice import MemoryChoice

SMOOTH = 1e-6  # ε of $|x| \approx \sqrt{x^2 + \varepsilon}$ (section 5.4)
NO_ERROR = 1e-12  # ⟨slope, e⟩ below which there is no error to overshoot

Delta = Annotated[float, Field(gt=0)] | Literal["learned", "token"]


class Bias(MemoryChoice):
    """What every bias has; a subclass adds ``kind``, ``loss`` and ``slope``."""

    least_at_no_error: ClassVar[bool] = True
    # Largest curvature of the loss in the prediction; None where there is none, or where it is reached at no error
    # alone and is so large that a step fitted to it would be none.
    curvature: ClassVar[float | None] = None

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        """Prediction and value (..., D) to loss (...); a given ``delta`` (..., 1) replaces the fixed one."""
        raise NotImplementedError

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        r"""Derivative $\partial\ell/\partial\hat v$, (..., D)."""
        raise NotImplementedError

    def burden(self, bearing: Tensor, prediction: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        r"""What divides a token's step, where above 1, so that it cannot overshoot its own token, (..., 1).

        ``bearing`` is $n_t$ of `Layers.bearing`, made for the curvature 2 of `L2`: with a largest curvature c it is
        $n_t c / 2$. Where c is None the token's own stands for it, $c_t = \lVert s \rVert^2 / \langle s, e \rangle$
        with s the slope: of a convex loss $c_t \le c$, and no step below $2 / (n_t c_t)$ leads away from the value.
        """
        if self.curvature == 2:
            return bearing
        if self.curvature is not None:
            return bearing * (self.curvature / 2)
        along = (slope * (prediction - value)).sum(-1, keepdim=True)
        return bearing * slope.square().sum(-1, keepdim=True) / (2 * along.clamp(min=NO_ERROR))


class WithDelta(Bias):
    """A bias with a length δ > 0 that its errors are held against."""

    channels: ClassVar[bool] = False  # whether δ may differ by channel
    delta: Delta = Field(default=1.0, description="A number, learned (one a head) or token (made of each token).")

    def _delta(self, given: Tensor | None, like: Tensor) -> Tensor:
        """δ as given, or the fixed one.

        Raises:
            ValueError: if δ is to be made by the layer and none is given.
        """
        if given is not None:
            return given
        if not isinstance(self.delta, float):
            raise ValueError(f"{self!r} needs the delta of every token: give it, or a number as the delta of the bias.")
        return like.new_tensor(self.delta)


class DotProduct(Bias):
    r"""Hebbian similarity, $\ell = -2 \langle \hat v, v \rangle$ (eq. 8): linear attention's family.

    No function of the error, and without a minimum: retention alone bounds what it writes. Its curvature is 0, so
    any step is borne by its own token; but in a memory of several layers each makes the others grow, exponentially.
    The normalised step is therefore that of `L2`, under which they grow with the root of time.
    """

    kind: Literal["dot_product"] = "dot_product"
    operators: ClassVar[tuple[str, ...]] = ("memory_scan", "delta_scan")
    least_at_no_error: ClassVar[bool] = False
    curvature: ClassVar[float | None] = 0.0

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        return -2 * (prediction * value).sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        return -2 * value.expand_as(prediction)

    def burden(self, bearing: Tensor, prediction: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        return bearing


class L2(Bias):
    r"""Squared error, $\ell = \lVert e \rVert^2$ (Titans, eq. 12; no factor one half). Curvature 2."""

    kind: Literal["l2"] = "l2"
    operators: ClassVar[tuple[str, ...]] = ("memory_scan", "delta_scan")
    curvature: ClassVar[float | None] = 2.0

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        return (prediction - value).square().sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        return 2 * (prediction - value)


class Lp(Bias):
    r"""Power of the error, $\ell = \lVert e \rVert_p^p$ (eq. 10 and 11); p = 3 is Moneta's, p = 2 is `L2`.

    Smooth at no error: $\ell = \sum_j (e_j^2 + \varepsilon)^{p/2} - \varepsilon^{p/2}$, the paper's smooth absolute
    value. Its derivative is $p\, \mathrm{sign}(e) |e|^{p-1}$ (eq. 11) with that absolute value and the smooth sign
    $e / \sqrt{e^2 + \varepsilon}$. The paper writes $\tanh(a e)$ for the sign, with a "large" and no number, which is
    the derivative of no such loss; with $a = \varepsilon^{-1/2}$ the two differ by 0.1 at most, within some
    $\sqrt\varepsilon$ of no error.

    Curvature: unbounded for p > 2, and $p\, \varepsilon^{p/2-1}$ at no error for p < 2.
    """

    kind: Literal["lp"] = "lp"
    p: float = Field(default=3.0, ge=1, le=8, description="Exponent; above 2 large errors weigh more, below 2 less.")
    smooth: float = Field(default=SMOOTH, gt=0, le=1, description="ε of |x| = √(x² + ε).")

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        squares = (prediction - value).square() + self.smooth
        return (squares ** (self.p / 2) - self.smooth ** (self.p / 2)).sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        error = prediction - value
        return self.p * error * (error.square() + self.smooth) ** (self.p / 2 - 1)


class L1(Lp):
    r"""Absolute error, $\ell = \lVert e \rVert_1$ (eq. 12, "value-less"), smooth as `Lp` with p = 1.

    Every coordinate pulls alike, however large its error. Curvature $\varepsilon^{-1/2}$ at no error.
    """

    kind: Literal["l1"] = "l1"  # type: ignore[assignment]
    p: ClassVar[float] = 1.0  # type: ignore[misc]


class LInf(Bias):
    r"""Largest coordinate of the error, $\ell = \max_j |e_j|$, or its smooth form.

    With a ``sharpness`` a, $\ell = \frac{1}{a} \log \frac{1}{2D} \sum_j (e^{a e_j} + e^{-a e_j})$, at most
    $\log(2D)/a$ below. Summaries of MIRAS speak of such a bias; the paper (v1) prints none. Curvature: unbounded
    where two coordinates are equal; of the smooth form at most a.
    """

    kind: Literal["l_inf"] = "l_inf"
    sharpness: float | None = Field(default=None, gt=0, description="a of the smooth form; none for the largest alone.")

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        error = prediction - value
        if self.sharpness is None:
            return error.abs().amax(-1)
        both = self.sharpness * torch.cat([error, -error], -1)
        return (both.logsumexp(-1) - math.log(both.shape[-1])) / self.sharpness

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        error = prediction - value
        if self.sharpness is None:
            size = error.abs()
            largest = size == size.amax(-1, keepdim=True)
            return error.sign() * largest / largest.sum(-1, keepdim=True)
        up, down = (self.sharpness * torch.cat([error, -error], -1)).softmax(-1).chunk(2, -1)
        return up - down


class Huber(WithDelta):
    r"""Quadratic up to δ, linear beyond, coordinate by coordinate: $\ell = \sum_j H(e_j)$ (eq. 13 and 14),

    $H(a) = \frac{1}{2} a^2$ where $|a| \le \delta$, else $\delta (|a| - \frac{1}{2} \delta)$: one outlier cannot
    rewrite the memory. It keeps the paper's one half, so that a very large δ gives half of `L2`. Curvature 1.
    """

    kind: Literal["huber"] = "huber"
    curvature: ClassVar[float | None] = 1.0
    channels: ClassVar[bool] = True

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        error, near = prediction - value, self.slope(prediction, value, delta)
        return (near * (error - 0.5 * near)).sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        bound = self._delta(delta, prediction)
        return (prediction - value).clamp(-bound, bound)


class HuberNorm(WithDelta):
    r"""Huber's H of the norm, $\ell = H(\lVert e \rVert)$ (eq. 15): a far token pulls straight, and by δ at most.

    It keeps the paper's one half, so that a very large δ gives half of `L2`. Curvature 1.
    """

    kind: Literal["huber_norm"] = "huber_norm"
    curvature: ClassVar[float | None] = 1.0

    def _parts(
        self, prediction: Tensor, value: Tensor, delta: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Error, its squared norm, whether it is within δ, its norm where it is not, and δ."""
        error, bound = prediction - value, self._delta(delta, prediction)
        squares = error.square().sum(-1, keepdim=True)
        near = squares <= bound.square()
        far = torch.where(near, torch.ones_like(squares), squares).sqrt()  # no root of 0: its slope is not finite
        return error, squares, near, far, bound

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        _, squares, near, far, bound = self._parts(prediction, value, delta)
        return torch.where(near, 0.5 * squares, bound * (far - 0.5 * bound)).squeeze(-1)

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        error, _, near, far, bound = self._parts(prediction, value, delta)
        return torch.where(near, error, bound * error / far)


class HuberSwitch(WithDelta):
    r"""Yaad's switch, $\lVert e \rVert^2$ where $\lVert e \rVert \le \delta$, else $\delta \lVert e \rVert_1$ (eq. 16).

    As printed the norm of the slope jumps there, from 2δ to $\delta \sqrt D$. With ``continuous`` the two parts are
    $\frac{1}{2} \lVert e \rVert^2$ and $\delta \lVert e \rVert_1 / \sqrt D$, δ on both sides; the slope's direction
    still turns, from e to its signs (`HuberNorm` does not turn). The absolute value is smooth, as in `Lp`.

    Curvature: unbounded at the jump. A normalised step divides by that of the token, and with it by the δ of the far
    part: a δ that is to be trained then has no slope, and is refused.
    """

    kind: Literal["huber_switch"] = "huber_switch"
    continuous: bool = Field(default=False, description="Weigh the parts so that the slope's norm does not jump.")

    def _parts(self, prediction: Tensor, value: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor, float, Tensor]:
        """Error, whether it is within δ, and the weights of the squared and the absolute error."""
        error, bound = prediction - value, self._delta(delta, prediction)
        near = error.square().sum(-1, keepdim=True) <= bound.square()
        return (error, near, 0.5, bound / math.sqrt(error.shape[-1])) if self.continuous else (error, near, 1.0, bound)

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        error, near, squared, absolute = self._parts(prediction, value, delta)
        size = (error.square() + SMOOTH).sqrt() - math.sqrt(SMOOTH)
        return torch.where(near, squared * error.square(), absolute * size).sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        error, near, squared, absolute = self._parts(prediction, value, delta)
        return torch.where(near, 2 * squared * error, absolute * error / (error.square() + SMOOTH).sqrt())


class Robust(WithDelta):
    r"""Worst squared error over values within δ of the given one (eq. 17; the paper's Δ, which may be learned):

    $\ell = \max_{\lVert d \rVert \le \delta} \frac{1}{2} \lVert \hat v - (v + d) \rVert^2
    = \frac{1}{2} \lVert e \rVert^2 + \delta \lVert e \rVert + \frac{1}{2} \delta^2$, so $\frac{1}{2} \delta^2$ at no
    error. There the norm is smooth, $\sqrt{\lVert e \rVert^2 + \varepsilon} - \sqrt\varepsilon$.

    Curvature $1 + \delta\, \varepsilon^{-1/2}$ at no error. A normalised step divides by that of the token, so that
    where it is bounded by it, in deep memories everywhere, the step is that of `L2` whatever δ is; ``learning:
    {normalised: false}`` lets δ act.
    """

    kind: Literal["robust"] = "robust"

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        shift = self._delta(delta, prediction)
        squares = (prediction - value).square().sum(-1, keepdim=True)
        size = (squares + SMOOTH).sqrt() - math.sqrt(SMOOTH)
        return (0.5 * squares + shift * (size + 0.5 * shift)).squeeze(-1)

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        error, shift = prediction - value, self._delta(delta, prediction)
        return error * (1 + shift / (error.square().sum(-1, keepdim=True) + SMOOTH).sqrt())


AttentionalBias = Annotated[
    DotProduct | L2 | L1 | Lp | LInf | Huber | HuberNorm | HuberSwitch | Robust, Field(discriminator="kind")
]
BIASES: tuple[type[Bias], ...] = get_args(get_args(AttentionalBias)[0])
