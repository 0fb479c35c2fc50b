"""A class for every base: segmentation."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from titans_seq.errors import InputError
from titans_seq.tasks import scores
from titans_seq.tasks.classification import TINY
from titans_seq.tasks.labelled import (
    BETWEEN,
    ClassWeights,
    Form,
    Labelled,
    Records,
    SequenceTask,
    class_number,
    classes_of,
    counted,
    even,
    tell_missing,
    weighted,
)
from titans_seq.tasks.positions import PositionHead

NOWHERE = -1  # target of what pads a shorter record


def _names(record: Labelled, where: str) -> Sequence[str]:
    """The labels of a record, one a base: a string as long as the sequence, or names between separators."""
    text = record.label or ""
    names: Sequence[str] = BETWEEN.split(text) if BETWEEN.search(text) else text
    if len(names) != len(record.codes):
        raise InputError(
            f"{where} has {len(names):,} labels for {len(record.codes):,} bases. Give one symbol a base, "
            "or names between ; one a base."
        )
    return names


class Segmentation(SequenceTask):
    """A class for every base. From a causal backbone an answer knows the bases up to its own alone."""

    kind: Literal["segmentation"] = "segmentation"
    form: ClassVar[Form] = "text"
    along: ClassVar[bool] = True
    kmers: ClassVar[str | None] = None
    bin: ClassVar[int] = 1
    classes: tuple[str, ...] = Field(default=(), description="Label names in logit order; those of the data if empty.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of the hidden rows.")
    class_weights: ClassWeights = Field(
        default=None, description="Weight of each class in the loss, by name; balanced: n / (classes x n of the class)."
    )

    @property
    def monitor(self) -> tuple[str, int]:
        """The metric that chooses the weights: what is trained."""
        return ("weighted_log_loss" if self.class_weights else "log_loss"), -1

    @property
    def track_names(self) -> list[str]:
        """Of what is predicted."""
        return [f"p_{name}" for name in self.classes]

    def head(self, width: int) -> PositionHead:
        """Hidden rows to one logit a class and base."""
        return PositionHead(width, len(self.classes), 1, self.dropout)

    def fitted(self, where: str, table: Records, train: Records, columns: tuple[str, ...]) -> Self:
        """The task with the classes of the table, and their weights by bases."""
        rows = {id(record): _names(record, f"{where}: row {record.id!r}") for record in table}
        classes = classes_of(self.classes, (name for names in rows.values() for name in set(names)))
        if len(classes) < 2:
            raise InputError(f"{where} has only one class, {classes[0]!r}. Training needs at least two.")
        counts = sum((counted(rows[id(record)], classes) for record in train), np.zeros(len(classes)))
        tell_missing(where, classes, (name for name, count in zip(classes, counts, strict=True) if count))
        weights = weighted(self.class_weights, classes, even(counts))
        return self.model_copy(update={"classes": classes, "class_weights": weights})

    def target(self, record: Labelled, where: str) -> np.ndarray:
        """The number of each base's class, (T,)."""
        names = _names(record, where)
        number = {name: class_number(self.classes, name, where) for name in set(names)}
        return np.array([number[name] for name in names], np.int64)

    def same(self, targets: Sequence[np.ndarray]) -> np.ndarray:
        """Share of each class in the training bases, (C,)."""
        counts = np.bincount(np.concatenate(targets), minlength=len(self.classes))
        return counts / counts.sum()

    def _weights(self) -> list[float]:
        given = self.class_weights
        return [given[name] if isinstance(given, dict) else 1.0 for name in self.classes]

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy a base in nats; logits (B, T, C), label (B, T) of class indices."""
        weights = logits.new_tensor(self._weights(), dtype=torch.float32)
        return F.cross_entropy(logits.float().flatten(0, 1), batch["label"].flatten(), weights, ignore_index=NOWHERE)

    def terms(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """How much a batch counts: what `loss` is a mean over, (): bases, by their weights."""
        label = batch["label"]
        return output.new_tensor(self._weights(), dtype=torch.float32)[label[label != NOWHERE]].sum()

    def prediction(self, output: Tensor) -> np.ndarray:
        """Probabilities (B, T, C) of logits (B, T, C)."""
        return output.float().softmax(-1).cpu().numpy()

    def rows(self, prediction: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Sums over the bases of each record: its confusion matrix (B, C, C), and log loss by class (B, C) in nats."""
        classes, found = len(self.classes), prediction.argmax(-1)
        counts, nats = [], []
        for p, label, guess in zip(prediction, target, found, strict=True):
            there = label != NOWHERE
            label = label[there]
            counts.append(scores.confusion(label, guess[there], classes, np.ones(len(label))))
            lost = -np.log(p[there, label].astype(np.float64).clip(TINY))
            nats.append(np.bincount(label, lost, classes))
        return {"counts": np.array(counts), "nats": np.array(nats)}

    def metrics(self, rows: dict[str, np.ndarray], weight: np.ndarray | None = None) -> dict[str, float]:
        """Over all bases: accuracy, balanced accuracy, Matthews correlation, F1 (macro, by class), log loss in nats."""
        weight = np.ones(len(rows["counts"])) if weight is None else weight
        counts, nats = np.tensordot(weight, rows["counts"], 1), weight @ rows["nats"]
        f1, size = scores.f1_of_classes(counts), counts.sum(1)
        found = {
            "accuracy": scores.accuracy(counts),
            "balanced_accuracy": scores.balanced_accuracy(counts),
            "mcc": scores.mcc(counts),
            "f1": float(f1.mean()),
            "log_loss": float(nats.sum() / size.sum()),
            **{f"f1_{name}": float(score) for name, score in zip(self.classes, f1, strict=True)},
        }
        if self.class_weights:
            weights = np.array(self._weights())
            found["weighted_log_loss"] = float(nats @ weights / (size @ weights))
        return found

    def details(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The confusion matrix, in bases."""
        return {"classes": list(self.classes), "confusion": rows["counts"].sum(0).astype(int).tolist()}

    def target_tracks(self, target: np.ndarray) -> np.ndarray:
        """What `tracks` would give if all were right, (n,) → (C, n); NaN where there is no label."""
        there = (target != NOWHERE)[None]
        return np.where(there, target == np.arange(len(self.classes))[:, None], np.nan)

    @torch.no_grad()
    def tracks(self, output: Tensor) -> Tensor:
        """Values of `track_names`, (B, n, C) → (B, C, n): a probability a class."""
        return output.float().softmax(-1).movedim(-1, 1)
