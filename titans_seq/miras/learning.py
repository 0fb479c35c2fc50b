"""Memory learning: how the memory moves down the slope of its bias.

To add one: write a class below and list it in `MemoryLearning`.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from titans_seq.miras.choice import Choice


class GradientDescent(Choice):
    r"""Plain steps, $S_t = -\theta_t \nabla\ell$ (Titans with $\eta = 0$; TTT, Gated DeltaNet's family)."""

    kind: Literal["gradient_descent"] = "gradient_descent"
    momentum: ClassVar[bool] = False
    step: float = Field(default=1.0, gt=0, description="κ of the bound θ ≤ κ(1-η)/C.")
    normalised: bool = Field(
        default=True, description="Divide a token's error by the largest step its own Jacobian bears, where above 1."
    )


class Momentum(GradientDescent):
    r"""Steps with momentum, $S_t = \eta_t S_{t-1} - \theta_t \nabla\ell$ (Titans, eq. 10 and 14)."""

    kind: Literal["momentum"] = "momentum"  # type: ignore[assignment]
    momentum: ClassVar[bool] = True


MemoryLearning = Annotated[GradientDescent | Momentum, Field(discriminator="kind")]
LEARNING: tuple[type[GradientDescent], ...] = get_args(get_args(MemoryLearning)[0])
