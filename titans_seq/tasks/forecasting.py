"""Multivariate probabilistic forecasting: patches of a look-back window in, all steps of the horizon out."""

from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from titans_seq.embedding import Embedding, Patches
from titans_seq.miras.choice import Choice

STD_FLOOR = 1e-5  # in training standard deviations; a constant window is read as zeros


class Quantiles(Choice):
    """Quantiles of every step, trained by the pinball loss; they cannot cross."""

    kind: Literal["quantiles"] = "quantiles"
    levels: tuple[float, ...] = Field(default=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> "Quantiles":
        if list(self.levels) != sorted(set(self.levels)) or not all(0 < q < 1 for q in self.levels):
            raise ValueError("levels must rise inside (0, 1)")
        return self

    def ordered(self, raw: Tensor) -> Tensor:
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
        """The quantile next to the median, (..., Q) to (...)."""
        return output[..., int(np.abs(np.array(self.levels) - 0.5).argmin())]


class Point(Choice):
    """One number a step."""

    kind: Literal["point"] = "point"
    error: Literal["mse", "mae", "huber"] = "mse"
    levels: ClassVar[tuple[float, ...]] = (0.5,)

    def ordered(self, raw: Tensor) -> Tensor:
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


Output = Annotated[Quantiles | Point, Field(discriminator="kind")]


class Window(NamedTuple):
    """What the head keeps of a look-back window."""

    hidden: Tensor  # (B * series read apart, D or N D)
    location: Tensor  # (B, 1, C) in training standard deviations
    scale: Tensor
    scaled: Tensor  # (B, L, C)


class ForecastHead(nn.Module):
    """Normalise and patch a window, and map what the backbone made of it to (B, H, C, Q)."""

    location: Tensor
    scale: Tensor

    def __init__(self, width: int, task: "Forecasting"):
        super().__init__()
        self.task = task
        self.register_buffer("location", torch.tensor(task.location), persistent=False)
        self.register_buffer("scale", torch.tensor(task.scale), persistent=False)
        self.channels = len(task.channels)
        apart = 1 if not task.mixing else self.channels
        rows = 1 if task.pool == "last" else task.patches
        self.dropout = nn.Dropout(task.dropout)
        self.steps = nn.Linear(rows * width, task.horizon * apart * len(task.output.levels))
        self.shortcut = nn.Linear(task.lookback, task.horizon) if task.shortcut else None

    def _scaled(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Window (B, L, C) in normalised units (0 where missing), marks of observation, location, scale."""
        seen = batch["observed"].to(batch["past"].dtype)
        x = (batch["past"] - self.location) / self.scale * seen
        if self.task.normalisation == "training":
            one = torch.ones_like(x[:, :1])
            return x, seen, 0 * one, one
        count = seen.sum(1, keepdim=True).clamp(min=1)
        location = x.sum(1, keepdim=True) / count
        deviation = (x - location) * seen
        scale = (deviation.square().sum(1, keepdim=True) / count + STD_FLOOR**2).sqrt()
        return deviation / scale, seen, location, scale

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Patches (B, N, F), or (B C, N, F) where channels are read apart; F is values and marks of observation."""
        scaled, seen, *_ = self._scaled(batch)
        both = torch.stack([scaled, seen], -1)  # (B, L, C, 2)
        patches = both.unfold(1, self.task.patch, self.task.stride)  # (B, N, C, 2, P)
        return patches.flatten(2) if self.task.mixing else patches.transpose(1, 2).flatten(0, 1).flatten(2)

    def start(self, batch: dict[str, Tensor]) -> None:
        """A window is one block."""

    def fold(self, so_far: None, hidden: Tensor, batch: dict[str, Tensor]) -> Window:
        """Keep the last row of hidden (B, N, D), or all."""
        scaled, _, location, scale = self._scaled(batch)
        kept = hidden[:, -1] if self.task.pool == "last" else hidden.flatten(1)
        return Window(kept, location, scale, scaled)

    def result(self, read: Window) -> Tensor:
        """Forecast (B, H, C, Q) in training standard deviations."""
        H, Q = self.task.horizon, len(self.task.output.levels)
        raw = self.steps(self.dropout(read.hidden)).float()
        raw = (
            raw.unflatten(-1, (H, -1, Q))
            if self.task.mixing
            else raw.unflatten(0, (-1, self.channels)).unflatten(-1, (H, Q)).transpose(1, 2)
        )
        if self.shortcut is not None:
            raw = raw + self.shortcut(read.scaled.transpose(1, 2)).transpose(1, 2)[..., None]
        return self.task.output.ordered(raw) * read.scale[..., None] + read.location[..., None]


class Forecasting(Choice):
    """Direct forecast of ``horizon`` rows from the ``lookback`` rows before them.

    Scaling by the statistics of the training rows comes first; errors and the loss are in these units. With
    ``normalisation="instance"`` each look-back window is also brought to mean 0 and deviation 1 and the forecast
    taken back (reversible instance normalisation). ``"training"`` does no more, so that continuing a stream
    equals reading it again.
    """

    kind: Literal["forecasting"] = "forecasting"
    field: ClassVar[str] = "forecast"
    causal: ClassVar[bool] = False
    data: ClassVar[str] = "series"  # kind of source it is trained on
    monitor: ClassVar[tuple[str, int]] = ("loss", -1)
    horizon: int = Field(ge=1, le=100_000, description="Rows to forecast.")
    lookback: int = Field(default=96, ge=1, le=10_000_000, description="Rows read before them.")
    patch: int = Field(default=16, ge=1, description="Rows a token.")
    stride: int = Field(default=8, ge=1, description="Rows from one token to the next.")
    mixing: bool = Field(default=False, description="Read all channels in one token, instead of each channel apart.")
    normalisation: Literal["instance", "training"] = "instance"
    pool: Literal["last", "flatten"] = Field(default="flatten", description="Forecast from the last token or from all.")
    shortcut: bool = Field(default=False, description="Add one linear map of the normalised window.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the forecast layer.")
    output: Output = Quantiles()
    season: int = Field(default=0, ge=0, description="Rows a season, of seasonal naive; 0 for that of the frequency.")
    channels: tuple[str, ...] = Field(default=(), description="Columns; those of the data if empty.")
    location: tuple[float, ...] = Field(default=(), description="Mean of each channel over the training rows.")
    scale: tuple[float, ...] = Field(default=(), description="Standard deviation likewise.")
    frequency: str = Field(default="", description="Step of the timestamps, from the data if empty.")

    @model_validator(mode="after")
    def _patches_fit(self) -> "Forecasting":
        if self.patch > self.lookback:
            raise ValueError(f"patch {self.patch} is longer than lookback {self.lookback}")
        if (self.lookback - self.patch) % self.stride:
            raise ValueError(
                f"patches of {self.patch} every {self.stride} rows do not end with a look-back of {self.lookback}: "
                "choose lookback = patch + a multiple of stride"
            )
        return self

    @property
    def patches(self) -> int:
        """Tokens a window, N."""
        return (self.lookback - self.patch) // self.stride + 1

    def embedding(self) -> Embedding:
        """How the backbone reads."""
        return Patches(features=2 * self.patch * (max(1, len(self.channels)) if self.mixing else 1))

    def head(self, width: int) -> ForecastHead:
        """From hidden rows of a window to all steps, channels and quantiles."""
        return ForecastHead(width, self)

    def targets(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Future (B, H, C) in training standard deviations, and marks of observation."""
        location, scale = (batch["future"].new_tensor(s) for s in (self.location, self.scale))
        return (batch["future"] - location) / scale, batch["future_observed"]

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss of the observed steps, in training standard deviations."""
        target, seen = self.targets(batch)
        return (self.output.loss(output, target) * seen).sum() / seen.sum().clamp(min=1)

    def measures(self, output: Tensor, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """What `metrics` needs of a batch, a row a window; sums over steps."""
        target, seen = self.targets(batch)
        error = (self.output.point(output) - target) * seen
        found = {
            "count": seen.sum((1, 2)),
            "loss": (self.output.loss(output, target) * seen).sum((1, 2)),
            "squared": error.square().sum((1, 2)),
            "absolute": error.abs().sum((1, 2)),
            "size": (target.abs() * seen).sum((1, 2)),
        }
        if len(self.output.levels) > 1:
            inside = (target >= output[..., 0]) & (target <= output[..., -1])
            found["inside"] = (inside * seen).sum((1, 2))
        return {name: value.double().cpu().numpy() for name, value in found.items()}

    def metrics(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """Errors in training standard deviations over all windows, steps and channels; nothing is dropped."""
        sums = {name: float(values.sum()) for name, values in rows.items()}
        count = max(sums["count"], 1)
        scores = {
            "loss": sums["loss"] / count,
            "mse": sums["squared"] / count,
            "mae": sums["absolute"] / count,
            "windows": float(len(rows["count"])),
        }
        if "inside" in sums:
            scores["wql"] = sums["loss"] / max(sums["size"], 1e-12)
            scores[f"coverage_{round(100 * (self.output.levels[-1] - self.output.levels[0]))}"] = sums["inside"] / count
        return scores

    @torch.no_grad()
    def columns(self, output: Tensor) -> dict[str, Tensor]:
        """Columns of the prediction file in the data's units, each (B, H, C): mean, and a column a quantile.

        Of quantiles, ``mean`` is the average over the levels.
        """
        location, scale = (output.new_tensor(s) for s in (self.location, self.scale))
        values = output.double() * scale[:, None] + location[:, None]
        found = {"mean": values.mean(-1)}
        if len(self.output.levels) > 1:
            found |= {f"q{level:g}": values[..., i] for i, level in enumerate(self.output.levels)}
        return found
