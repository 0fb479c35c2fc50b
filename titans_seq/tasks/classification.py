"""Sequence classification."""

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titans_seq.embedding import Embedding, Nucleotides
from titans_seq.miras.choice import Choice
from titans_seq.tasks.pooling import Pool, Pooling


class PooledHead(Pooling, nn.Module):
    """Mean of the hidden rows to one logit a class, (B, T, D) → (B, C)."""

    def __init__(self, width: int, classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(width, classes)
        self.width = width

    def result(self, read: Pool) -> Tensor:
        """Logits (B, C)."""
        return self.logits(self.dropout(super().result(read)))


class Classification(Choice):
    """Mean-pooled classifier."""

    kind: Literal["classification"] = "classification"
    field: ClassVar[str] = "genomics"
    causal: ClassVar[bool] = False
    data: ClassVar[str] = "sequences"  # kind of source it is trained on
    monitor: ClassVar[tuple[str, int]] = ("log_loss", -1)  # smoother than any count of right labels
    classes: tuple[str, ...] = Field(default=(), description="Label names in logit order; those of the data if empty.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of the pooled row.")

    def embedding(self) -> Embedding:
        """How the backbone reads."""
        return Nucleotides()

    def head(self, width: int) -> PooledHead:
        """Hidden rows to one logit a class."""
        return PooledHead(width, len(self.classes), self.dropout)

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy in nats; logits (B, C), label (B,) of class indices."""
        return F.cross_entropy(logits.float(), batch["label"])

    def measures(self, logits: Tensor, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """What `metrics` needs of a batch, a row a record."""
        return {"p": logits.float().softmax(-1).cpu().numpy(), "label": batch["label"].cpu().numpy()}

    def metrics(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """Accuracy, Matthews correlation, macro F1, AUROC (one against the rest, macro) and log loss in nats."""
        from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef, roc_auc_score

        p, label = rows["p"].astype(np.float64), rows["label"]
        p = p / p.sum(1, keepdims=True)
        found, every = p.argmax(1), range(len(self.classes))
        scores = {
            "accuracy": accuracy_score(label, found),
            "mcc": matthews_corrcoef(label, found),
            "f1": f1_score(label, found, average="macro", labels=list(every), zero_division=0),
            "log_loss": log_loss(label, p, labels=list(every)),
        }
        if len(set(label.tolist())) == len(self.classes):
            one_column = p[:, 1] if len(self.classes) == 2 else p
            scores["auroc"] = roc_auc_score(label, one_column, multi_class="ovr")
        return {name: float(score) for name, score in scores.items()}

    @torch.no_grad()
    def columns(self, logits: Tensor) -> dict[str, list[str] | list[float]]:
        """Columns of the prediction file: the label, and one probability a class."""
        p = logits.float().softmax(-1)
        label = [self.classes[i] for i in p.argmax(-1).tolist()]
        return {"label": label, **{f"p_{c}": p[:, i].tolist() for i, c in enumerate(self.classes)}}
