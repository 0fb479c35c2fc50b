"""Numbers along the sequence, one a bin of bases: coverage, signal, methylation."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from titans_seq.errors import ConfigError, InputError
from titans_seq.tasks import scores
from titans_seq.tasks.labelled import Form, Labelled, Records, SequenceTask, numbers_of
from titans_seq.tasks.positions import PositionHead
from titans_seq.tasks.regression import named


class Tracks(SequenceTask):
    """Values a bin, of one or several tracks. A bin whose value is NaN is not learned from and not measured.

    Labels are a list column a track, or `Record.values` (bins, K) of another reader; the bin's width is the
    sequence's length over their number.
    """

    kind: Literal["tracks"] = "tracks"
    form: ClassVar[Form] = "numbers"
    along: ClassVar[bool] = True
    constant: ClassVar[str] = "training_mean"
    kmers: ClassVar[str | None] = None
    bin: int = Field(default=0, ge=0, description="Bases a bin; from the data if 0.")
    objective: Literal["mse", "poisson"] = Field(
        default="mse", description="poisson: for counts, which are not negative (Basenji, Enformer)."
    )
    targets: tuple[str, ...] = Field(default=(), description="Names of the tracks; from the data if empty.")
    location: tuple[float, ...] = Field(default=(), description="What is taken off each: its mean; for poisson 0.")
    scale: tuple[float, ...] = Field(default=(), description="Its standard deviation; for poisson its mean.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of a bin's row.")

    @property
    def monitor(self) -> tuple[str, int]:
        """The metric that chooses the weights: what is trained."""
        return ("poisson_loss" if self.objective == "poisson" else "scaled_mse"), -1

    @property
    def track_names(self) -> list[str]:
        """Of what is predicted."""
        return list(self.targets)

    def head(self, width: int) -> PositionHead:
        """Hidden rows to one number a track and bin."""
        return PositionHead(width, len(self.location), self.bin, self.dropout)

    def fitted(self, where: str, table: Records, train: Records, columns: tuple[str, ...]) -> Self:
        """The task with the bin's width, and names, location and scale of its tracks."""
        first = numbers_of(table[0], f"{where}: row {table[0].id!r}")
        width = self.bin or max(1, len(table[0].codes) // len(first))
        names = self.targets or named(columns, first.shape[1])
        if len(names) != first.shape[1]:
            raise ConfigError(f"task.targets names {len(names)} tracks; {where} has {first.shape[1]}.")
        fitted = self.model_copy(update={"bin": width, "targets": names})
        values = np.concatenate([fitted._values(record, f"{where}: row {record.id!r}") for record in train])
        if unknown := [name for name, seen in zip(names, np.isfinite(values).any(0), strict=True) if not seen]:
            raise InputError(f"{where}: track {unknown[0]!r} has no value in the training rows. Leave it out.")
        mean, spread = np.nanmean(values, 0), np.nanstd(values, 0)
        if flat := [name for name, moves in zip(names, spread > 0, strict=True) if not moves]:
            raise InputError(
                f"{where}: track {flat[0]!r} has the same value in all bins. Training needs values that differ."
            )
        location = np.zeros_like(mean) if self.objective == "poisson" else mean
        scale = mean if self.objective == "poisson" else spread
        return fitted.model_copy(update={"location": tuple(location.tolist()), "scale": tuple(scale.tolist())})

    def _values(self, record: Labelled, where: str) -> np.ndarray:
        """The label (bins, K), whole bins that cover the sequence."""
        values = numbers_of(record, where)
        if len(values) * self.bin != len(record.codes) or values.shape[1] != len(self.targets):
            raise InputError(
                f"{where} has {len(values):,} values of {values.shape[1]} tracks for {len(record.codes):,} bases; bins "
                f"of {self.bin} bases need {len(record.codes) / self.bin:g} of {len(self.targets)}. Give one value "
                "a bin, between ; or in a list column; for one number a sequence give --task regression."
            )
        if self.objective == "poisson" and (values < 0).any():
            raise InputError(f"{where} has a negative value, which is no count. Give --set task.objective=mse.")
        return values

    def target(self, record: Labelled, where: str) -> np.ndarray:
        """Values (bins, K) in training scale, float32."""
        values = self._values(record, where)
        return ((values - self.location) / self.scale).astype(np.float32)

    def same(self, targets: Sequence[np.ndarray]) -> np.ndarray:
        """The mean (K,)."""
        mean: np.ndarray = np.nanmean(np.concatenate(targets), 0)
        return mean

    def _rates(self, output: Tensor) -> Tensor:
        """The output (B, bins, K) as values in training scale: as it is, or positive for counts."""
        return F.softplus(output.float()) if self.objective == "poisson" else output.float()

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean over bins of the squared error, or of Poisson's f - y ln f, in training scale; (B, bins, K) both."""
        value, found = batch["label"], self._rates(output)
        known = value.isfinite()
        value = value.where(known, 0.0)
        poisson = self.objective == "poisson"
        lost = found - value * found.clamp(min=1e-6).log() if poisson else (found - value).square()
        return (lost * known).sum() / known.sum().clamp(min=1)

    def terms(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """How much a batch counts: what `loss` is a mean over, (): values that are known."""
        return batch["label"].isfinite().sum()

    def prediction(self, output: Tensor) -> np.ndarray:
        """Values (B, bins, K) in training scale."""
        return self._rates(output).cpu().numpy()

    def rows(self, prediction: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Sums over the bins of each record: `scores.moments` (B, K, 7), and Poisson's loss (B, K)."""
        known = np.isfinite(target)
        value, found = np.where(known, target, 0.0).astype(np.float64), prediction.astype(np.float64)
        lost = np.where(known, found - value * np.log(found.clip(1e-6)), 0.0)
        return {"moments": scores.moments(target, found).sum(1), "poisson": lost.sum(1)}

    def metrics(self, rows: dict[str, np.ndarray], weight: np.ndarray | None = None) -> dict[str, float]:
        """Over all bins, the mean of the tracks: Pearson, R², and errors in the data's own unit and in training scale.

        Of several tracks each one's Pearson, MSE and MAE stand beside.
        """
        weight = np.ones(len(rows["moments"])) if weight is None else weight
        sums = np.tensordot(weight, rows["moments"], 1)  # (K, 7)
        pearson = [scores.pearson_of(one) for one in sums]
        short = [name.removeprefix("predicted_") for name in self.targets]
        several = {f"pearson_{name}": r for name, r in zip(short, pearson, strict=True)}
        found = {
            "pearson": float(np.mean(pearson)),
            "r2": float(np.mean([scores.r2_of(one) for one in sums])),
            **scores.errors(sums, self.scale, short),
            **(several if len(several) > 1 else {}),
        }
        if self.objective == "poisson":
            found["poisson_loss"] = float((weight @ rows["poisson"]).sum() / sums[:, 0].sum())
        return found

    def target_tracks(self, target: np.ndarray) -> np.ndarray:
        """What `tracks` would give if all were right, (n, K) → (K, n); NaN where it is not known."""
        return (target * np.array(self.scale) + np.array(self.location)).T

    @torch.no_grad()
    def tracks(self, output: Tensor) -> Tensor:
        """Values of `track_names` in their own unit, (B, n, K) → (B, K, n)."""
        values = self._rates(output).double() * output.new_tensor(self.scale, dtype=torch.float64)
        values = values + output.new_tensor(self.location, dtype=torch.float64)
        return values.movedim(-1, 1).float()
