"""What the heads of windows and of streams have in common."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from titans_seq.tasks.forecasting.covariates import Ahead, Beside
from titans_seq.tasks.forecasting.variates import VariateAttention

if TYPE_CHECKING:
    from titans_seq.tasks.forecasting.task import Forecasting

STD_FLOOR = 1e-5  # in training standard deviations; a constant window is read as zeros


class Head(nn.Module):
    """The scale of the training rows, what stands beside the channels, and the layers behind the backbone.

    Args:
        width: D of a hidden row.
        task: what is forecast.
        rows: hidden rows that a forecast is made of.
        steps: R rows that it tells.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, width: int, task: "Forecasting", rows: int, steps: int):
        super().__init__()
        self.task = task
        self.register_buffer("location", torch.tensor(task.location, dtype=torch.float64), persistent=False)
        self.register_buffer("scale", torch.tensor(task.scale, dtype=torch.float64), persistent=False)
        self.channels = len(task.channels)
        self.numbers = task.output.numbers * (1 if task.apart else self.channels)
        self.dropout = nn.Dropout(task.dropout)
        self.steps = nn.Linear(rows * width, steps * self.numbers)
        self.shortcut = nn.Linear(task.lookback, task.horizon) if task.shortcut else None
        self.beside = Beside(task)
        self.ahead = Ahead(rows * width, task.known, width, self.numbers) if task.known else None
        self.variates = VariateAttention(width, self.channels) if task.mixing == "attention" else nn.Identity()

    def start(self, batch: dict[str, Tensor]) -> None:
        """A window is one block."""

    def told(self, hidden: Tensor, known: Tensor | None, asked: slice = slice(None)) -> Tensor:
        """What hidden rows (B, ..., D), or (B C, ..., D) of channels read apart, tell of steps, (B, ..., R, C, K).

        ``known`` (B, ..., R, 2 K) is what is known of them beforehand, see `Beside.ahead`; ``asked`` are some of them.
        """
        task = self.task
        hidden = self.dropout(hidden)
        raw = self.steps(hidden)
        raw = (raw if raw.dtype == torch.float64 else raw.float()).unflatten(-1, (-1, self.numbers))[..., asked, :]
        if self.ahead is not None and known is not None:
            known = self.beside.each(known) if task.apart else known
            raw = raw + self.ahead(hidden, known.to(hidden.dtype)).to(raw.dtype)
        if task.apart:
            return raw.unflatten(0, (-1, self.channels)).movedim(1, -2)
        return raw.unflatten(-1, (-1, task.output.numbers))
