"""The head of a forecast that reads each look-back window anew."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from titans_seq.tasks.forecasting.covariates import rows_ahead, rows_beside
from titans_seq.tasks.forecasting.head import STD_FLOOR, Head

if TYPE_CHECKING:
    from titans_seq.tasks.forecasting.task import Forecasting


class Window(NamedTuple):
    """What the head keeps of a look-back window."""

    hidden: Tensor  # (B, N, D), or (B C, N, D); the rows that a forecast is made of
    location: Tensor  # (B, 1, C) in training standard deviations
    scale: Tensor
    scaled: Tensor  # (B, L, C)
    known: Tensor | None = None  # (B, H, 2 K), see `Beside.ahead`


class ForecastHead(Head):
    """Normalise and patch a window, and map what the backbone made of it to (B, H, C, K)."""

    def __init__(self, width: int, task: "Forecasting"):
        rows = 1 if task.pool == "last" else task.patches
        super().__init__(width, task, rows, task.horizon)
        self.rows = rows

    def _scaled(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows (B, M + L, C) in units of the look-back (0 where missing), marks of observation, location, scale."""
        seen, dtype = batch["observed"].double(), self.steps.weight.dtype
        x = (batch["past"].double() - self.location) / self.scale * seen
        if self.task.normalisation == "training":
            one = torch.ones_like(x[:, :1], dtype=dtype)
            return x.to(dtype), seen.to(dtype), 0 * one, one
        last = slice(-self.task.lookback, None)
        count = seen[:, last].sum(1, keepdim=True).clamp(min=1)
        location = x[:, last].sum(1, keepdim=True) / count
        deviation = (x - location) * seen
        scale = (deviation[:, last].square().sum(1, keepdim=True) / count + STD_FLOOR**2).sqrt()
        return (deviation / scale).to(dtype), seen.to(dtype), location.to(dtype), scale.to(dtype)

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Patches (B, N, F), or (B C, N, F) where channels are read apart; F is values and marks of observation."""
        scaled, seen, *_ = self._scaled(batch)
        both = torch.stack([scaled, seen], -1)  # (B, L, C, 2)
        patches = both.unfold(1, self.task.patch, self.task.stride)  # (B, N, C, 2, P)
        rows = rows_beside(batch, scaled.shape[1])
        return self.beside.joined(patches, rows, rows.isfinite(), batch.get("static"), self.task.stride)

    def fold(self, so_far: None, hidden: Tensor, batch: dict[str, Tensor]) -> Window:
        """Keep the last row of hidden (B, N, D), or all of the look-back."""
        scaled, _, location, scale = self._scaled(batch)
        scaled = scaled[:, -self.task.lookback :]
        known = self.beside.ahead(rows_ahead(batch, self.task)) if self.ahead is not None else None
        return Window(hidden[:, -self.rows :], location, scale, scaled, known)

    def result(self, read: Window) -> Tensor:
        """Forecast (B, H, C, K) in training standard deviations."""
        output = self.task.output.mapped(self.told(self.variates(read.hidden).flatten(1), read.known))
        if self.shortcut is not None:
            along = self.shortcut(read.scaled.transpose(1, 2)).transpose(1, 2)
            output = self.task.output.moved(output, along, torch.ones_like(along))
        return self.task.output.moved(output, read.location, read.scale)
