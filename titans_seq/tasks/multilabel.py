"""Classification with any number of labels a sequence."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from titans_seq.errors import InputError
from titans_seq.tasks import scores
from titans_seq.tasks.classification import TINY, PooledHead
from titans_seq.tasks.labelled import (
    ClassWeights,
    Form,
    Labelled,
    Records,
    SequenceTask,
    class_number,
    classes_of,
    tell_missing,
    weighted,
)

BETWEEN = ";"  # labels of a row; alone it is a row without any
FLAGS = re.compile(r"[01](;[01])+")  # what several columns of 0 and 1 are read as


def _names(record: Labelled, classes: tuple[str, ...]) -> list[str]:
    """Labels of a record: of flags, one a class, the names of those that are set."""
    names = [name.strip() for name in (record.label or "").split(BETWEEN)]
    if FLAGS.fullmatch(record.label or "") and len(names) == len(classes) and not set(names) <= set(classes):
        return [name for name, flag in zip(classes, names, strict=True) if flag == "1"]
    return [name for name in names if name]


class MultiLabel(SequenceTask):
    """Mean-pooled yes or no for each of several labels: ``a;c`` in one column, or a column of 0 and 1 for each.

    In one column a lone ``;`` is a row without any; an empty cell is a label that is missing.
    """

    kind: Literal["multilabel"] = "multilabel"
    form: ClassVar[Form] = "names"
    constant: ClassVar[str] = "label_frequencies"
    classes: tuple[str, ...] = Field(default=(), description="Label names in logit order; those of the data if empty.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of the pooled row.")
    class_weights: ClassWeights = Field(
        default=None,
        description="Weight in the loss of rows with a label, by name; balanced: rows without / with.",
    )

    @property
    def monitor(self) -> tuple[str, int]:
        """The metric that chooses the weights: what is trained."""
        return ("weighted_log_loss" if self.class_weights else "log_loss"), -1

    def head(self, width: int) -> PooledHead:
        """Hidden rows to one logit a label."""
        return PooledHead(width, len(self.classes), self.dropout)

    def fitted(self, where: str, table: Records, train: Records, columns: tuple[str, ...]) -> Self:
        """The task with the labels of the table, and their weights; several columns are the labels themselves."""
        given = self.classes or (columns if len(columns) > 1 else ())
        classes = classes_of(given, (name for record in table for name in _names(record, given)))
        fitted = self.model_copy(update={"classes": classes})
        targets = np.array([fitted.target(r, f"{where}: row {r.id!r}") for r in train])
        if not classes or len({row.tobytes() for row in targets}) == 1:
            raise InputError(
                f"{where}: all rows have the same labels, {', '.join(_names(train[0], classes)) or 'none'}. "
                "Training needs rows that differ."
            )
        counts = targets.sum(0)
        tell_missing(where, classes, (name for name, count in zip(classes, counts, strict=True) if count))
        weights = weighted(self.class_weights, classes, (len(train) - counts).clip(1) / counts.clip(1))
        return fitted.model_copy(update={"class_weights": weights})

    def target(self, record: Labelled, where: str) -> np.ndarray:
        """1 for each label that the row has, else 0, (C,) float32."""
        found = np.zeros(len(self.classes), np.float32)
        found[[class_number(self.classes, name, where) for name in _names(record, self.classes)]] = 1
        return found

    def same(self, targets: Sequence[np.ndarray]) -> np.ndarray:
        """Share of the rows that have each label, (C,)."""
        share: np.ndarray = np.mean(targets, 0)
        return share

    def _weights(self) -> list[float]:
        given = self.class_weights
        return [given[name] if isinstance(given, dict) else 1.0 for name in self.classes]

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of each yes or no, in nats; logits and label (B, C)."""
        weights = logits.new_tensor(self._weights(), dtype=torch.float32)
        return F.binary_cross_entropy_with_logits(logits.float(), batch["label"], pos_weight=weights)

    def prediction(self, output: Tensor) -> np.ndarray:
        """Probabilities (B, C) of logits (B, C)."""
        return output.float().sigmoid().cpu().numpy()

    def rows(self, prediction: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities and labels, (B, C) both."""
        return {"p": prediction, "label": target}

    def metrics(self, rows: dict[str, np.ndarray], weight: np.ndarray | None = None) -> dict[str, float]:
        """Share of rows with all labels right, F1 (macro, micro), log loss in nats a label, mean AUROC and AUPRC.

        A label that all rows have, or none has, is in no area.
        """
        p, label = rows["p"].astype(np.float64), rows["label"] > 0
        weight = np.ones(len(label)) if weight is None else weight
        counts = [scores.confusion(label[:, c] * 1, (p[:, c] > 0.5) * 1, 2, weight) for c in range(len(self.classes))]
        nats = -np.log(np.where(label, p, 1 - p).clip(TINY))
        found = {
            "exact_match": scores.mean(((p > 0.5) == label).all(1), weight),
            "f1": float(np.mean([scores.f1_of_classes(count)[1] for count in counts])),
            "f1_micro": float(scores.f1_of_classes(np.sum(counts, 0))[1]),
            "log_loss": scores.mean(nats.mean(1), weight),
        }
        if self.class_weights:
            weighted_nats = nats * np.where(label, self._weights(), 1.0)
            found["weighted_log_loss"] = scores.mean(weighted_nats.mean(1), weight)
        both = [c for c, count in enumerate(counts) if (count.sum(1) > 0).all()]
        if both:
            place = rows["place"] if "place" in rows else scores.places(p)
            found |= scores.mean_areas([scores.areas(place[:, c], label[:, c], weight) for c in both])
        return found

    def prepared(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows with the places of their probabilities."""
        return {**rows, "place": scores.places(rows["p"])}

    def details(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The ROC curve of each label, and precision by recall."""
        label = rows["label"] > 0
        curves = {"roc": scores.roc, "precision_recall": scores.precision_recall}
        return {
            kind: {name: curve(rows["p"][:, c], label[:, c]) for c, name in enumerate(self.classes)}
            for kind, curve in curves.items()
        }

    @torch.no_grad()
    def columns(self, logits: Tensor) -> dict[str, list[str] | list[float]]:
        """Columns of the prediction file: the labels above one half, ``;`` if there is none, and each probability."""
        p = logits.float().sigmoid()
        names = [[c for c, one in zip(self.classes, row, strict=True) if one > 0.5] for row in p.tolist()]
        label = [BETWEEN.join(row) or BETWEEN for row in names]
        return {"label": label, **{f"p_{c}": p[:, i].tolist() for i, c in enumerate(self.classes)}}
