"""What is told of every step of a forecast: quantiles, a Student-t distribution, or one number.

A head gives so many ``numbers`` a step. `mapped` makes an output of them, (..., K), and `moved` takes an output to
other units; loss, columns and intervals are read off the output. To add one: a class with the same methods, and its
name in `Output`.
"""

import math
from bisect import bisect
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from titans_seq.miras.choice import Choice

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEAST_SCALE = 2.0**-23  # as in GluonTS: the float32 step at 1


class _WithLevels(Choice):
    """An output that has quantiles."""

    levels: tuple[float, ...] = Field(default=DECILES, min_length=1)

    @field_validator("levels")
    @classmethod
    def _ordered(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if list(levels) != sorted(set(levels)) or not all(0 < q < 1 for q in levels):
            raise ValueError("levels must rise inside (0, 1)")
        return levels


class _Values(Choice):
    """An output whose numbers have the units of what is forecast."""

    def moved(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        """The output of ``scale`` y + ``location``, each (...), where that of y is given."""
        return output * scale[..., None] + location[..., None]


class Quantiles(_WithLevels, _Values):
    """Quantiles of every step, trained by the pinball loss; they cannot cross. An output is (..., Q)."""

    kind: Literal["quantiles"] = "quantiles"
    pinball: ClassVar[bool] = True  # whether the loss is that of quantiles

    @property
    def numbers(self) -> int:
        """One a level."""
        return len(self.levels)

    def mapped(self, raw: Tensor) -> Tensor:
        """Free numbers (..., Q) to rising ones: the middle one, and softplus steps away from it."""
        middle = len(self.levels) // 2
        steps = nn.functional.softplus(raw)
        below = raw[..., middle : middle + 1] - steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
        above = raw[..., middle : middle + 1] + steps[..., middle + 1 :].cumsum(-1)
        return torch.cat([below, raw[..., middle : middle + 1], above], -1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Twice the pinball loss, (..., Q) and (...) to (...): with one level 0.5 it is the absolute error."""
        level = output.new_tensor(self.levels)
        error = target[..., None] - output
        return 2 * torch.maximum(level * error, (level - 1) * error).mean(-1)

    def point(self, output: Tensor) -> Tensor:
        """The median, on the line between the levels around it where it is none; (..., Q) to (...)."""
        at = min(max(bisect(self.levels, 0.5 + 1e-9) - 1, 0), len(self.levels) - 1)
        low, high = self.levels[at], self.levels[min(at + 1, len(self.levels) - 1)]
        if low > 0.5 - 1e-9 or high == low:
            return output[..., at]
        return torch.lerp(output[..., at], output[..., at + 1], (0.5 - low) / (high - low))

    def mean(self, output: Tensor) -> Tensor:
        """The average over the levels, each by the probability around it, (..., Q) to (...)."""
        ends = np.array([0.0, *self.levels, 1.0])
        around = ends[2:] - ends[:-2]  # all alike for deciles
        return output @ output.new_tensor(around / around.sum())

    def quantiles(self, output: Tensor) -> Tensor:
        """As they are, (..., Q)."""
        return output

    def band(self, output: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The quantiles between which ``share`` of the values should lie, or those next to them, (...) each."""
        low, high = (_nearest(self.levels, 0.5 + side * share / 2) for side in (-1, 1))
        return output[..., low], output[..., high]


class StudentT(_WithLevels):
    r"""A Student-t distribution of every step, trained by its likelihood. An output is (..., 3): ν, μ, σ.

    ν = 2 + softplus, so that there is a variance, and σ = softplus, at least the float32 step at 1 (the convention of
    GluonTS' ``StudentTOutput``); σ is a scale, not the deviation σ √(ν/(ν-2)).
    """

    kind: Literal["student_t"] = "student_t"
    pinball: ClassVar[bool] = False
    numbers: ClassVar[int] = 3

    def mapped(self, raw: Tensor) -> Tensor:
        """Free numbers (..., 3) to ν, μ, σ."""
        df, loc, scale = raw.unbind(-1)
        scale = nn.functional.softplus(scale).clamp(min=LEAST_SCALE)
        return torch.stack([2 + nn.functional.softplus(df), loc, scale], -1)

    def moved(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        """The output of ``scale`` y + ``location``, each (...), where that of y is given."""
        df, loc, width = output.unbind(-1)
        return torch.stack([df, loc * scale + location, width * scale], -1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        r"""Negative log-likelihood in nats, (..., 3) and (...) to (...).

        In float64, since lnΓ of a large ν takes all digits of float32; ln(1 + z²/ν) as 2 ln √(1 + (z/√ν)²), which no
        z overflows.
        """
        df, loc, scale = output.double().unbind(-1)
        z = (target.double() - loc) / scale
        norm = torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2) + 0.5 * (math.pi * df).log() + scale.log()
        return (norm + (df + 1) * torch.hypot(torch.ones_like(z), z / df.sqrt()).log()).to(output.dtype)

    def point(self, output: Tensor) -> Tensor:
        """μ, mean and median at once, (..., 3) to (...)."""
        return output[..., 1]

    def mean(self, output: Tensor) -> Tensor:
        """μ, (..., 3) to (...)."""
        return output[..., 1]

    def _quantile(self, output: Tensor, level: float) -> Tensor:
        from scipy.special import stdtrit  # the inverse distribution function, which torch has not

        df = output[..., 0].detach().double().cpu().numpy()
        z = torch.as_tensor(stdtrit(df, level), dtype=output.dtype, device=output.device)
        return output[..., 1] + output[..., 2] * z

    def quantiles(self, output: Tensor) -> Tensor:
        """By the inverse distribution function, (..., 3) to (..., Q)."""
        return torch.stack([self._quantile(output, level) for level in self.levels], -1)

    def band(self, output: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The quantiles between which ``share`` of the values should lie, (...) each."""
        return self._quantile(output, 0.5 - share / 2), self._quantile(output, 0.5 + share / 2)


class Point(_Values):
    """One number a step. An output is (..., 1)."""

    kind: Literal["point"] = "point"
    error: Literal["mse", "mae", "huber"] = "mse"
    levels: ClassVar[tuple[float, ...]] = ()
    pinball: ClassVar[bool] = False
    numbers: ClassVar[int] = 1

    def mapped(self, raw: Tensor) -> Tensor:
        """As it is."""
        return raw

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Error of each step, (..., 1) and (...) to (...)."""
        error = output[..., 0] - target
        if self.error == "mse":
            return error.square()
        if self.error == "mae":
            return error.abs()
        return nn.functional.huber_loss(output[..., 0], target, reduction="none")

    def point(self, output: Tensor) -> Tensor:
        """(..., 1) to (...)."""
        return output[..., 0]

    def mean(self, output: Tensor) -> Tensor:
        """(..., 1) to (...)."""
        return output[..., 0]

    def quantiles(self, output: Tensor) -> Tensor:
        """None, (..., 0)."""
        return output[..., :0]

    def band(self, output: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The number itself, twice: a margin around it is an interval."""
        return output[..., 0], output[..., 0]


def _nearest(levels: tuple[float, ...], level: float) -> int:
    return int(np.abs(np.array(levels) - level).argmin())


Output = Annotated[Quantiles | StudentT | Point, Field(discriminator="kind")]
OUTPUTS = (Quantiles, StudentT, Point)
