"""Sequence classification."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titans_seq.tasks import scores
from titans_seq.tasks.labelled import (
    ClassWeights,
    Labelled,
    Records,
    SequenceTask,
    class_number,
    classes_of,
    counted,
    even,
    refuse_numbers,
    tell_missing,
    weighted,
)
from titans_seq.tasks.pooling import Pool, Pooling

TINY = float(np.finfo(np.float64).eps)  # no probability counts as less, as in scikit-learn


class PooledHead(Pooling, nn.Module):
    """Mean of the hidden rows to one number an output, (B, T, D) → (B, C)."""

    def __init__(self, width: int, outputs: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(width, outputs)
        self.width = width

    def result(self, read: Pool) -> Tensor:
        """Logits (B, C)."""
        return self.logits(self.dropout(super().result(read)))


class Classification(SequenceTask):
    """Mean-pooled classifier, of one class a sequence."""

    kind: Literal["classification"] = "classification"
    classes: tuple[str, ...] = Field(default=(), description="Label names in logit order; those of the data if empty.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of the pooled row.")
    class_weights: ClassWeights = Field(
        default=None, description="Weight of each class in the loss, by name; balanced: n / (classes x n of the class)."
    )

    @property
    def monitor(self) -> tuple[str, int]:
        """The metric that chooses the weights: what is trained, smoother than any count of right labels."""
        return ("weighted_log_loss" if self.class_weights else "log_loss"), -1

    def head(self, width: int) -> PooledHead:
        """Hidden rows to one logit a class."""
        return PooledHead(width, len(self.classes), self.dropout)

    def fitted(self, where: str, table: Records, train: Records, columns: tuple[str, ...]) -> Self:
        """The task with the classes of the table, and their weights."""
        names = [str(record.label) for record in table]
        if not self.classes:
            refuse_numbers(where, names)
        classes = classes_of(self.classes, names)
        counts = counted((record.label for record in train), classes)
        tell_missing(where, classes, (record.label for record in train))
        weights = weighted(self.class_weights, classes, even(counts))
        return self.model_copy(update={"classes": classes, "class_weights": weights})

    def target(self, record: Labelled, where: str) -> np.ndarray:
        """The number of the class, ()."""
        return np.array(class_number(self.classes, record.label, where))

    def same(self, targets: Sequence[np.ndarray]) -> np.ndarray:
        """Share of each class in the training rows, (C,)."""
        counts = np.bincount(np.array(targets), minlength=len(self.classes))
        return counts / counts.sum()

    def _weights(self) -> list[float] | None:
        return [self.class_weights[name] for name in self.classes] if isinstance(self.class_weights, dict) else None

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy in nats; logits (B, C), label (B,) of class indices."""
        weights = self._weights()
        weight = None if weights is None else logits.new_tensor(weights, dtype=torch.float32)
        return F.cross_entropy(logits.float(), batch["label"], weight)

    def terms(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """How much a batch counts: what `loss` is a mean over, (): sequences, by their weights."""
        weights, label = self._weights(), batch["label"]
        return output.new_tensor(weights or [1.0] * len(self.classes), dtype=torch.float32)[label].sum()

    def prediction(self, output: Tensor) -> np.ndarray:
        """Probabilities (B, C) of logits (B, C)."""
        return output.float().softmax(-1).cpu().numpy()

    def rows(self, prediction: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities (B, C), and the class (B,)."""
        return {"p": prediction, "label": target}

    def metrics(self, rows: dict[str, np.ndarray], weight: np.ndarray | None = None) -> dict[str, float]:
        """Accuracy, balanced accuracy, Matthews correlation, macro F1, log loss in nats, AUROC and AUPRC.

        Areas are one against the rest and the mean over classes, of two classes those of the second; they are left out
        where a class has no row. ``weight`` (n,) says how often a row counts.
        """
        p, label = rows["p"].astype(np.float64), rows["label"]
        weight = np.ones(len(label)) if weight is None else weight
        p = p / p.sum(1, keepdims=True)
        counts = scores.confusion(label, p.argmax(1), len(self.classes), weight)
        nats = -np.log(p[np.arange(len(p)), label].clip(TINY))
        found = {
            "accuracy": scores.accuracy(counts),
            "balanced_accuracy": scores.balanced_accuracy(counts),
            "mcc": scores.mcc(counts),
            "f1": float(scores.f1_of_classes(counts).mean()),
            "log_loss": scores.mean(nats, weight),
        }
        if weights := self._weights():
            found["weighted_log_loss"] = scores.mean(nats, weight * np.array(weights)[label])
        if (counts.sum(1) > 0).all():
            ranked = [1] if len(self.classes) == 2 else range(len(self.classes))
            place = rows["place"] if "place" in rows else scores.places(p)
            found |= scores.mean_areas([scores.areas(place[:, c], label == c, weight) for c in ranked])
        return found

    def prepared(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows with the places of their probabilities."""
        return {**rows, "place": scores.places(rows["p"])}

    def details(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The confusion matrix, curves over thresholds, and how often the class found is right by its probability."""
        p, label = rows["p"].astype(np.float64), rows["label"]
        found, one = p.argmax(1), np.ones(len(label))
        ranked = [1] if len(self.classes) == 2 else range(len(self.classes))
        return {
            "classes": list(self.classes),
            "confusion": scores.confusion(label, found, len(self.classes), one).astype(int).tolist(),
            "roc": {self.classes[c]: scores.roc(p[:, c], label == c) for c in ranked},
            "precision_recall": {self.classes[c]: scores.precision_recall(p[:, c], label == c) for c in ranked},
            "calibration": scores.calibration(p.max(1), found == label),
        }

    @torch.no_grad()
    def columns(self, logits: Tensor) -> dict[str, list[str] | list[float]]:
        """Columns of the prediction file: the label, and one probability a class."""
        p = logits.float().softmax(-1)
        label = [self.classes[i] for i in p.argmax(-1).tolist()]
        return {"label": label, **{f"p_{c}": p[:, i].tolist() for i, c in enumerate(self.classes)}}
