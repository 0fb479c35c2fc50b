"""Regression: one or several numbers a sequence."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from titans_seq.errors import ConfigError, InputError, inform
from titans_seq.tasks import scores
from titans_seq.tasks.classification import PooledHead
from titans_seq.tasks.labelled import Form, Labelled, Records, SequenceTask, numbers_of


def named(columns: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Names of ``count`` predicted columns: of one, ``predicted``; of several, with the column's name or number."""
    if count == 1:
        return ("predicted",)
    return tuple(f"predicted_{name}" for name in (columns if len(columns) == count else range(1, count + 1)))


class Regression(SequenceTask):
    """Mean-pooled regression, in training standard deviations inside and in the data's own unit outside."""

    kind: Literal["regression"] = "regression"
    form: ClassVar[Form] = "numbers"
    constant: ClassVar[str] = "training_mean"
    kmers: ClassVar[str | None] = "kmer_ridge"
    monitor: ClassVar[tuple[str, int]] = ("scaled_mse", -1)
    targets: tuple[str, ...] = Field(default=(), description="Columns of the predictions; from the data if empty.")
    location: tuple[float, ...] = Field(default=(), description="Mean of each over the training rows.")
    scale: tuple[float, ...] = Field(default=(), description="Its standard deviation.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of the pooled row.")

    def head(self, width: int) -> PooledHead:
        """Hidden rows to one number a column."""
        return PooledHead(width, len(self.location), self.dropout)

    def fitted(self, where: str, table: Records, train: Records, columns: tuple[str, ...]) -> Self:
        """The task with names, mean and standard deviation of its columns."""
        count = len(columns) or len(numbers_of(table[0], f"{where}: row {table[0].id!r}"))
        values = np.stack([self._values(record, count, f"{where}: row {record.id!r}") for record in train])
        names, spread = self.targets or named(columns, values.shape[1]), values.std(0)
        if len(names) != values.shape[1]:
            raise ConfigError(f"task.targets names {len(names)} columns; {where} has {values.shape[1]}.")
        if len(names) > max(1, len(columns)) and not self.targets:
            inform(f"{where}: labels hold {len(names)} numbers each, such as {table[0].label!r}; each is a target.")
        if (flat := np.flatnonzero(spread == 0)).size:
            which = f" of {names[flat[0]]}" if len(names) > 1 else ""
            raise InputError(f"{where}: all labels{which} are {values[0, flat[0]]:g}. Training needs others.")
        update = {"targets": names, "location": tuple(values.mean(0).tolist()), "scale": tuple(spread.tolist())}
        return self.model_copy(update=update)

    def target(self, record: Labelled, where: str) -> np.ndarray:
        """Values (K,) in training standard deviations from the mean, float32."""
        values = self._values(record, len(self.location), where)
        return ((values - self.location) / self.scale).astype(np.float32)

    def _values(self, record: Labelled, count: int, where: str) -> np.ndarray:
        """The label's ``count`` numbers, (K,)."""
        values = numbers_of(record, where)[:, 0]
        if len(values) != count:
            raise InputError(
                f"{where} has {len(values):,} numbers as its label, where {count} should be. Name the columns with "
                "--label-column; for a value a bin of the sequence give --task tracks."
            )
        if np.isnan(values).any():
            raise InputError(f"{where} has no label. Fill in or remove the row.")
        return values

    def same(self, targets: Sequence[np.ndarray]) -> np.ndarray:
        """The mean (K,)."""
        found: np.ndarray = np.mean(targets, 0)
        return found

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error in training standard deviations; output and label (B, K)."""
        return F.mse_loss(output.float(), batch["label"])

    def prediction(self, output: Tensor) -> np.ndarray:
        """The output (B, K), in training standard deviations."""
        return output.float().cpu().numpy()

    def rows(self, prediction: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Predictions and labels, (B, K) both."""
        return {"found": prediction, "value": target}

    def metrics(self, rows: dict[str, np.ndarray], weight: np.ndarray | None = None) -> dict[str, float]:
        """Pearson, Spearman, R², and errors in the data's own unit and as trained; of several columns their means.

        Of several columns each one's Pearson, MSE and MAE stand beside.
        """
        value, found = rows["value"].astype(np.float64), rows["found"].astype(np.float64)
        weight = np.ones(len(value)) if weight is None else weight
        columns = range(value.shape[1])
        sums = np.tensordot(weight, scores.moments(value, found), 1)  # (K, 7)
        pearson = [scores.pearson(value[:, k], found[:, k], weight) for k in columns]
        several = {f"pearson_{name}": r for name, r in zip(self._short(), pearson, strict=True)}
        return {
            "pearson": float(np.mean(pearson)),
            "spearman": float(np.mean([scores.spearman(value[:, k], found[:, k], weight) for k in columns])),
            "r2": float(np.mean([scores.r2_of(sums[k]) for k in columns])),
            **scores.errors(sums, self.scale, self._short()),
            **(several if len(several) > 1 else {}),
        }

    def details(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """Label and prediction of up to a thousand rows, evenly taken, in the data's own unit."""
        kept = np.unique(np.linspace(0, len(rows["value"]) - 1, 1000).round().astype(int))
        pairs = np.stack([rows["value"][kept], rows["found"][kept]], -1).astype(np.float64)  # (n, K, 2)
        pairs = pairs * np.array(self.scale)[:, None] + np.array(self.location)[:, None]
        return {"scatter": {name: pairs[:, k].tolist() for k, name in enumerate(self._short())}}

    def _short(self) -> list[str]:
        return [name.removeprefix("predicted_") for name in self.targets]

    @torch.no_grad()
    def columns(self, output: Tensor) -> dict[str, list[float]]:
        """Columns of the prediction file, in the data's own unit."""
        values = output.double().cpu().numpy() * self.scale + self.location
        return {name: values[:, k].tolist() for k, name in enumerate(self.targets)}
