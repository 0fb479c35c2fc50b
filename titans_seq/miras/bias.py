"""Attentional bias: the error a memory is trained, token by token, to reduce.

To add one: write a class below with ``loss`` and ``slope``, and list it in `BIASES`.
The config schema, the operators and the tests read that list; nothing else changes.
"""

from typing import ClassVar, Literal

from torch import Tensor

from titans_seq.miras.choice import Choice


class L2(Choice):
    r"""Squared error, $\ell = \lVert \hat v - v \rVert^2$ (Titans, eq. 12; no factor one half)."""

    kind: Literal["l2"] = "l2"
    least_at_no_error: ClassVar[bool] = True

    def loss(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        """Prediction and value (..., D) to loss (...)."""
        return (prediction - value).square().sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
        r"""Derivative $\partial\ell/\partial\hat v$, (..., D)."""
        return 2 * (prediction - value)


AttentionalBias = L2  # with a second bias: Annotated[L2 | ..., Field(discriminator="kind")]
BIASES: tuple[type[L2], ...] = (L2,)
