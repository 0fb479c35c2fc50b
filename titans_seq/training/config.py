"""How long and how to train."""

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from titans_seq.miras.choice import Choice


class Training(Choice):
    """AdamW with warm-up and cosine decay, clipping, early stopping; the keys of a recipe's ``training``."""

    steps: int | None = Field(default=None, ge=1, le=1_000_000_000, description="Batches; or give epochs.")
    epochs: float | None = Field(default=None, gt=0, le=1_000_000, description="Passes over the training items.")
    batch_size: int = Field(default=32, ge=1, le=1_000_000)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    warmup: float = Field(default=0.1, ge=0, le=1, description="Share of the steps that the rate rises.")
    final_rate: float = Field(default=0.05, ge=0, le=1, description="Rate at the end over the largest.")
    first_length: int | None = Field(
        default=None,
        ge=2,
        description="Tokens a window at the first step: windows are cut into more rows, and double up to whole ones "
        "over the first half of the run.",
    )
    recompute: bool | None = Field(
        default=None, description="Read pieces of a window again in the backward pass; above 4,096 tokens if null."
    )
    truncate: int | None = Field(
        default=None, ge=1, description="Tokens of a window that slopes go back through the memory; all if null."
    )
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    precision: Literal["32", "bf16"] = Field(
        default="32",
        description="bf16: mixed precision, with bfloat16 operands in the memory's products; the memory stays float32.",
    )
    backend: Literal["auto", "reference", "chunked", "triton"] = Field(
        default="auto", description="What computes the memories; auto: Triton's kernels on CUDA where they can."
    )
    freeze: bool = Field(default=False, description="Train the head alone.")
    validate_every: int | None = Field(
        default=None, ge=1, description="Steps; an epoch, or a tenth of the run, if null."
    )
    patience: int | None = Field(default=None, ge=1, description="Validations without a better one before it stops.")
    checkpoint_every: int = Field(default=200, ge=1, description="Steps between points from which a run can resume.")
    log_every: int = Field(default=10, ge=1, description="Steps between rows of metrics.csv.")

    @field_validator("precision", mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:
        return str(given) if isinstance(given, int) else given  # --set reads 32 as a number

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self

    def total(self, items: int) -> int:
        """Steps of the whole run over ``items`` training items; one epoch when nothing is said."""
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or 1) * items / self.batch_size))

    def rate(self, step: int, total: int) -> float:
        """Learning rate of a step: linear warm-up, then cosine decay."""
        warm = self.warmup * total
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        along = min(1.0, (step - warm) / max(1.0, total - warm))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * along)))

    def rows(self, length: int, step: int, total: int) -> int:
        """Into how many rows a window of ``length`` is cut at a step: a power of two, from the one that gives rows of
        ``first_length`` tokens down to 1 half-way through the run; 1 all along if there is no such length."""
        most = max(0, int(math.log2(length / (self.first_length or length))))
        return int(2 ** max(0, most - int((most + 1) * 2 * step / total)))

    def interval(self, items: int) -> int:
        """Steps between validations."""
        if self.validate_every is not None:
            return self.validate_every
        total = self.total(items)
        epoch = max(1, items // self.batch_size)
        return max(1, min(epoch, total // 10) if self.epochs is None else min(epoch, total))
