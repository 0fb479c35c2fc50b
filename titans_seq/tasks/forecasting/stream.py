"""The head of a forecast that reads a series once, its memory carried from patch to patch."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from titans_seq.tasks.forecasting.covariates import rows_ahead, rows_beside
from titans_seq.tasks.forecasting.head import STD_FLOOR, Head

if TYPE_CHECKING:
    from titans_seq.tasks.forecasting.task import Forecasting


class Scaled(NamedTuple):
    """Patches of a stream as the backbone reads them, and what was taken out of each."""

    features: Tensor  # (B, N, F), or (B C, N, F) where channels are read apart
    location: Tensor  # (B, N, C) in training standard deviations
    scale: Tensor


class Opened(NamedTuple):
    """What the head keeps of a stream: every patch of a training window, else the last alone."""

    hidden: Tensor  # (B, N, D), or (B C, N, D)
    location: Tensor  # (B, N, C)
    scale: Tensor
    filled: int | None = None  # rows seen of the last patch; None to keep what follows every patch
    known: Tensor | None = None  # (B, N, rows that are told, 2 K), see `Beside.ahead`


class StreamHead(Head):
    """Scale patches causally, and map what the backbone made of each to the rows behind its first, (B, H, C, K).

    A patch gives the P - 1 + H rows that follow its first row, the place of each fixed to the patch; of these, the H
    rows after the last that was seen are the forecast. So an open patch needs no head of its own, nor has the head
    to know how many of its rows were seen: which could not be told from rows whose values are missing.
    """

    def __init__(self, width: int, task: "Forecasting"):
        super().__init__(width, task, 1, task.reach)

    def initial_running(self, batch: int, location: Any = None, scale: Any = None) -> Tensor:
        """Running count, sum and sum of squares (B, 3, C) before any row: a patch of the training rows' moments.

        A series of another scale begins with its own ``location`` and ``scale``, (C,) each in the data's units.
        """
        mean = torch.zeros(self.channels, dtype=torch.float64, device=self.location.device)
        deviation = torch.ones_like(mean)
        if location is not None:
            mean = (mean.new_tensor(location) - self.location) / self.scale
            deviation = mean.new_tensor(scale) / self.scale
        prior = torch.stack([torch.ones_like(mean), mean, mean.square() + deviation.square()])
        return self.task.patch * prior.expand(batch, 3, self.channels)

    def scaled(
        self, values: Tensor, seen: Tensor, running: Tensor, static: Tensor | None = None
    ) -> tuple[Scaled, Tensor]:
        """Cut rows into patches and scale each by what was read up to its own last row.

        Args:
            values: (B, N P, C + E) in the data's units, channels and then the covariates that rows have.
            seen: (B, N P, C + E) marks of observation.
            running: (B, 3, C) of the rows before them, see `initial_running`.
            static: (B, S) of the series, NaN where it is missing.

        Returns:
            The patches, and ``running`` after them.
        """
        P, C = self.task.patch, self.channels
        beside, (values, seen) = (values[..., C:], seen[..., C:]), (values[..., :C], seen[..., :C])
        marks = seen.double().unflatten(1, (-1, P))  # (B, N, P, C)
        x = (values.double().unflatten(1, (-1, P)) - self.location) / self.scale * marks
        if self.task.normalisation == "running":
            moments = torch.stack([marks.sum(2), x.sum(2), x.square().sum(2)], 2)  # (B, N, 3, C)
            after = _decayed(moments, running, math.exp(-P / self.task.lookback))
            running = after[:, -1]
            location = after[:, :, 1] / after[:, :, 0]
            variance = after[:, :, 2] / after[:, :, 0] - location.square()
            scale = (variance.clamp(min=0) + STD_FLOOR**2).sqrt()
        else:
            location, scale = torch.zeros_like(x[:, :, 0]), torch.ones_like(x[:, :, 0])
        x = (x - location[:, :, None]) / scale[:, :, None] * marks
        both = torch.stack([x, marks], -1).transpose(2, 3).transpose(3, 4)  # (B, N, C, 2, P)
        features = self.beside.joined(both, *beside, static, P)
        dtype = self.steps.weight.dtype
        return Scaled(features.to(dtype), location.to(dtype), scale.to(dtype)), running

    def _window(self, batch: dict[str, Tensor]) -> Scaled:
        """A window as a stream of its own; in training only ``open`` rows (B,) of its last patch are seen."""
        beside = rows_beside(batch, self.task.lookback)
        values, seen = torch.cat([batch["past"], beside], -1), torch.cat([batch["observed"], beside.isfinite()], -1)
        if "open" in batch:
            last = torch.arange(seen.shape[1], device=seen.device) - (self.task.lookback - self.task.patch)
            seen = seen & (last < batch["open"][:, None])[:, :, None]
        return self.scaled(values, seen, self.initial_running(len(seen)), batch.get("static"))[0]

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Patches (B, N, F), or (B C, N, F) where channels are read apart; F is values and marks of observation."""
        return self._window(batch).features

    def fold(self, so_far: None, hidden: Tensor, batch: dict[str, Tensor]) -> Opened:
        """Keep the last row of hidden (B, N, D), or in training all."""
        _, location, scale = self._window(batch)
        if "open" in batch:
            known = None if self.ahead is None else self.beside.ahead(self._following(batch["known"]))
            return Opened(hidden, location, scale, known=known)
        known = None if self.ahead is None else self.beside.ahead(rows_ahead(batch, self.task)[:, None])
        return Opened(hidden[:, -1:], location[:, -1:], scale[:, -1:], self.task.patch, known)

    def _following(self, rows: Tensor) -> Tensor:
        """Of rows (B, L + H, K) those behind the first of each patch, (B, N, P - 1 + H, K)."""
        return rows[:, 1:].unfold(1, self.task.reach, self.task.patch).transpose(2, 3)

    def result(self, read: Opened) -> Tensor:
        """Forecast (B, H, C, K) in training standard deviations; the rows (B, N, P - 1 + H, C, K) in training."""
        asked = slice(None) if read.filled is None else slice(read.filled - 1, read.filled - 1 + self.task.horizon)
        raw = self.told(self.variates(read.hidden), read.known, asked)
        output = self.task.output.moved(self.task.output.mapped(raw), read.location[:, :, None], read.scale[:, :, None])
        return output if read.filled is None else output[:, -1]


def _decayed(moments: Tensor, before: Tensor, keep: float) -> Tensor:
    """Running sums s_n = keep s_{n-1} + m_n of moments (B, N, 3, C) after ``before`` (B, 3, C)."""
    n = torch.arange(moments.shape[1], device=moments.device)
    age = (n[:, None] - n).double()
    weights = torch.where(age >= 0, keep ** age.clamp(min=0), 0.0)
    carried = keep ** (n + 1).double()[:, None, None] * before[:, None]
    return torch.einsum("nm,bmsc->bnsc", weights, moments) + carried
