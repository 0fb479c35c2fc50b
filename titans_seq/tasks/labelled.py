"""What all tasks on labelled sequences share: what a label is in numbers, and what they are measured beside."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from titans_seq.embedding import Embedding, Nucleotides
from titans_seq.errors import ConfigError, InputError, warn
from titans_seq.miras.choice import Choice

# What the text of a label is: names are any number of classes, and numbers may also come in `Record.values`.
Form = Literal["class", "names", "text", "numbers"]
BETWEEN, TRACKS = re.compile(r"\s*[;,\s]\s*"), "|"  # what stands between values of a label, and between tracks
Weight = Annotated[float, Field(gt=0)]
ClassWeights = Literal["balanced"] | dict[str, Weight] | None


class Labelled(Protocol):
    """A record as a task sees it; `titans_seq.data.record.Record` is one."""

    @property
    def id(self) -> str:
        """Name, or number of the row."""

    @property
    def codes(self) -> np.ndarray:
        """The sequence (T,), A C G T N = 0 1 2 3 4."""

    @property
    def label(self) -> str | None:
        """The label as text."""

    @property
    def values(self) -> np.ndarray | None:
        """The label as numbers, where its reader gives these."""


Records = Sequence[Labelled]


class SequenceTask(Choice):
    """A task on labelled sequences.

    A *target* is a label as the loss takes it, a *prediction* what the model says in the same form; both numpy.
    """

    field: ClassVar[str] = "genomics"
    causal: ClassVar[bool] = False
    data: ClassVar[str] = "sequences"  # kind of source it is trained on
    form: ClassVar[Form] = "class"
    along: ClassVar[bool] = False  # targets run along the sequence, and turn round with it
    constant: ClassVar[str] = "majority_class"  # name of the baseline that always says the same
    kmers: ClassVar[str | None] = "kmer_logistic_regression"  # of `titans_seq.baselines.KMERS`, where one fits

    def terms(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """How much a batch counts: what `loss` is a mean over, (): labels."""
        return torch.tensor(batch["label"].numel())

    def embedding(self, tokens: Embedding | None = None) -> Embedding:
        """How the backbone reads: the tokens that its config asks for."""
        return tokens or Nucleotides()

    def fitted(self, where: str, table: Records, train: Records, columns: tuple[str, ...]) -> Self:
        """The task with all that the data decide.

        Args:
            where: the table's name, for messages.
            table: all its records, which say what classes there are.
            train: those that are trained on, which say what is common.
            columns: names of the label columns, if they were given.
        """
        raise NotImplementedError

    def target(self, record: Labelled, where: str) -> np.ndarray:
        """What the loss compares with.

        Raises:
            InputError: if the label is not of this task; begins with ``where``.
        """
        raise NotImplementedError

    def same(self, targets: Sequence[np.ndarray]) -> np.ndarray:
        """The prediction that is best if it is the same for every record (or position), from the training targets."""
        raise NotImplementedError

    def rows(self, prediction: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """What `metrics` needs of predictions (B, ...), a row a record."""
        raise NotImplementedError

    def prediction(self, output: Tensor) -> np.ndarray:
        """The head's output (B, ...) as predictions."""
        raise NotImplementedError

    def prepared(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows with what `metrics` would find anew each time that it is asked; of a part it holds as well."""
        return rows

    def details(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """What a picture shows beside scores, small and ready for JSON."""
        return {}

    def measures(self, output: Tensor, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """`rows` of a batch."""
        return self.rows(self.prediction(output), batch["label"].cpu().numpy())


# --- numbers


def numbers_of(record: Labelled, where: str) -> np.ndarray:
    """Numbers of a label, (values, tracks) float64: `Record.values`, or text with ; between values, | between tracks.

    NaN stands for a value that is not known.

    Raises:
        InputError: if a part of the text is no number, a value is infinite, or tracks differ in length.
    """
    if record.values is not None:
        found = np.asarray(record.values, np.float64)
        found = found[:, None] if found.ndim == 1 else found
    else:
        tracks = [_numbers(text, where) for text in (record.label or "").split(TRACKS)]
        if len({len(track) for track in tracks}) > 1:
            raise InputError(f"{where} has tracks of {' and '.join(f'{len(t):,}' for t in tracks)} values.")
        found = np.stack(tracks, 1)
    if np.isinf(found).any():
        raise InputError(f"{where} has an infinite label. Mend or remove the row.")
    return found


def _numbers(text: str, where: str) -> np.ndarray:
    parts = BETWEEN.split(text.strip("[]() \t"))
    try:
        return np.array(parts, np.float64)
    except ValueError:
        wrong = next(part for part in parts if not _is_number(part))
        if not wrong:
            raise InputError(
                f"{where} lacks a number in one of its columns or lists. Fill in or remove the row."
            ) from None
        raise InputError(
            f"{where} has the label {wrong[:40]!r}, which is no number. For classes give --task classification."
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- classes


def classes_of(asked: tuple[str, ...], found: Iterable[str]) -> tuple[str, ...]:
    """The classes that a recipe names, or else those of the data, sorted."""
    return asked or tuple(sorted(set(found)))


def class_number(classes: tuple[str, ...], name: str | None, where: str) -> int:
    """Place of a class.

    Raises:
        InputError: if it is none.
    """
    if name not in classes:
        raise InputError(f"{where} has label {name!r}, which is not among the classes {', '.join(classes)}.")
    return classes.index(name)


def refuse_numbers(where: str, labels: Sequence[str]) -> None:
    """Refuse labels that are measured numbers: fractions, of which most are different; 0, 1 and 1.0 are good names."""
    names = set(labels)
    numbers = [float(text) for name in names if _is_number(text := name.replace(",", ".", 1))]  # 1,45 is 1.45
    if len(names) > len(labels) / 2 and len(numbers) == len(names) and not all(n.is_integer() for n in numbers):
        raise InputError(
            f"{where}: {len(names):,} different labels in {len(labels):,} rows are all numbers such as {min(names)}, "
            "and no classes. To learn numbers give --task regression."
        )


def weighted(asked: ClassWeights, classes: tuple[str, ...], balanced: np.ndarray) -> dict[str, float] | None:
    """Weight of every class: ``balanced`` (C,) if that is asked for, else the numbers given, and 1 where there is none.

    Raises:
        ConfigError: if a class that is named is none.
    """
    if asked is None:
        return None
    if asked == "balanced":
        return dict(zip(classes, balanced.tolist(), strict=True))
    if unknown := [name for name in asked if name not in classes]:
        raise ConfigError(
            f"task.class_weights names {unknown[0]!r}, which is no class of the data. Classes: {', '.join(classes)}."
        )
    return {name: asked.get(name, 1.0) for name in classes}


def even(counts: np.ndarray) -> np.ndarray:
    """Weights (C,) that give every class the same sum, and a mean of 1: n / (C n_c), as in scikit-learn."""
    weights: np.ndarray = counts.sum() / (len(counts) * counts.clip(1))
    return weights


def tell_missing(where: str, classes: tuple[str, ...], there: Iterable[Any]) -> None:
    """Warn of classes that no training row has."""
    if missing := sorted(set(classes) - set(there)):
        warn(f"{where}: no training row has the class {', '.join(missing)}.")


def counted(names: Iterable[Any], classes: tuple[Any, ...]) -> np.ndarray:
    """How often each class stands in ``names``, (C,)."""
    count = Counter(names)
    return np.array([count[name] for name in classes], np.float64)
