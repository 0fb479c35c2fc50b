"""What is read beside the channels: its names, and how it joins their patches and the rows to be forecast."""

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from titans_seq.miras.choice import Choice

if TYPE_CHECKING:
    from titans_seq.tasks.forecasting.task import Forecasting


class Covariates(Choice):
    """What a model was trained with beside the channels: names, and the values that each column of text had.

    A column of text is one covariate a value and one for values that training did not know, ``NAME=(other)``.
    """

    known_future: tuple[str, ...] = ()
    past_only: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    vocabularies: dict[str, tuple[str, ...]] = Field(default={})
    location: tuple[float, ...] = Field(
        default=(), description="Mean over the training rows of all three in turn; if empty the model reads none."
    )
    scale: tuple[float, ...] = Field(default=(), description="Standard deviation likewise.")

    def column(self, covariate: str) -> str:
        """The column of the table that a covariate was made of."""
        return next((text for text in self.vocabularies if covariate.startswith(f"{text}=")), covariate)


class Beside(nn.Module):
    """Covariates in training standard deviations, each with a mark; what is missing is 0 and has none."""

    location: Tensor
    scale: Tensor

    def __init__(self, task: "Forecasting"):
        super().__init__()
        self.apart, self.channels = task.apart, len(task.channels)
        self.known, self.rows = task.known, task.beside
        self.register_buffer("location", torch.tensor(task.covariates.location), persistent=False)
        self.register_buffer("scale", torch.tensor(task.covariates.scale), persistent=False)

    def _marked(self, values: Tensor, seen: Tensor, first: int) -> Tensor:
        """Values (..., K) of the covariates from number ``first`` on, and marks, (..., K, 2)."""
        own = slice(first, first + values.shape[-1])
        x = (values.nan_to_num() - self.location[own]) / self.scale[own]
        return torch.stack([x * seen, seen.to(x.dtype)], -1)

    def ahead(self, known: Tensor) -> Tensor:
        """What is known of rows to be forecast, (..., K) with NaN where it is missing, to (..., 2 K)."""
        return self._marked(known, known.isfinite(), 0).flatten(-2)

    def joined(self, target: Tensor, values: Tensor, seen: Tensor, static: Tensor | None, stride: int) -> Tensor:
        """Patches as the backbone reads them: the target's values and marks, then those of what stands beside it.

        Args:
            target: (B, N, C, 2, P).
            values: (B, T, E) of the covariates that rows have.
            seen: (B, T, E) marks of observation.
            static: (B, S) of the series, NaN where it is missing.
            stride: rows from one patch to the next.

        Returns:
            (B, N, F), or (B C, N, F) where channels are read apart: each has all covariates beside it.
        """
        own = (target.transpose(1, 2).flatten(0, 1) if self.apart else target).flatten(2)
        if not len(self.location):
            return own
        N, P = target.shape[1], target.shape[-1]
        parts = [self._marked(values, seen, 0).unfold(1, P, stride).flatten(2)]
        if static is not None:
            parts.append(self._marked(static, static.isfinite(), self.rows).flatten(1)[:, None].expand(-1, N, -1))
        beside = torch.cat(parts, -1).to(own.dtype)
        return torch.cat([own, self.each(beside) if self.apart else beside], -1)

    def each(self, shared: Tensor) -> Tensor:
        """What is of all channels (B, ...) for each that is read apart, (B C, ...)."""
        return shared.repeat_interleave(self.channels, 0)


class Ahead(nn.Module):
    """What is known of a row beforehand, and the hidden row, to what this adds to the row's forecast.

    One map for all steps, so that no step sees what is known of another (TiDE's temporal decoder, arXiv 2304.08424).
    """

    def __init__(self, context: int, known: int, width: int, out: int):
        super().__init__()
        self.context = nn.Linear(context, width)
        self.known = nn.Linear(2 * known, width, bias=False)
        self.out = nn.Linear(width, out)

    def forward(self, hidden: Tensor, known: Tensor) -> Tensor:
        """Hidden (..., D) and what is known (..., H, 2 K) to (..., H, out)."""
        added: Tensor = self.out(nn.functional.gelu(self.context(hidden)[..., None, :] + self.known(known)))
        return added


def rows_beside(batch: dict[str, Tensor], rows: int) -> Tensor:
    """Covariates (B, T, K + P) of the first rows of a window, NaN where one is missing."""
    parts = [batch[name][:, :rows] for name in ("known", "past_only") if name in batch]
    return torch.cat(parts, -1) if parts else batch["past"][:, :rows, :0]


def rows_ahead(batch: dict[str, Tensor], task: "Forecasting") -> Tensor:
    """What is known of the rows to be forecast, (B, H, K)."""
    before = batch["past"].shape[1]
    return batch["known"][:, before : before + task.horizon]
