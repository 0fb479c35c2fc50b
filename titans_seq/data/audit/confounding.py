"""Confounding: what tells the classes apart besides the sequence's content, so that a model learns it first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from titans_seq.data.audit.splits import Split

MODERATE, STRONG = 0.64, 0.71  # AUROC of a medium and a large difference (Cohen's d 0.5 and 0.8)
MODERATE_V, STRONG_V = 0.3, 0.5  # Cramér's V, for Cohen's w 0.3 and 0.5
_CLASSES = 20  # beyond, labels are rather numbers than classes


@dataclass(frozen=True)
class Effect:
    """How well one feature tells classes apart.

    ``size`` is the AUROC of the feature alone between ``label`` and the rest, from 0.5 (not at all) to 1, or of
    chromosomes Cramér's V, from 0 to 1; ``says`` is the sentence, where the effect is at least moderate.
    """

    feature: str
    measure: str
    label: str
    size: float
    says: str = ""


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the chance that a positive row's value is above another's, ties by half; (n,) and (n,) bool."""
    _, place = np.unique(values, return_inverse=True)
    ours, theirs = (
        np.bincount(place[positive], minlength=len(values)),
        np.bincount(place[~positive], minlength=len(values)),
    )
    below = np.cumsum(theirs) - theirs
    return float((ours * (below + theirs / 2)).sum() / max(ours.sum() * theirs.sum(), 1))


def cramers_v(table: np.ndarray) -> float:
    """Return Cramér's V of counts (rows, columns), corrected for bias (Bergsma 2013), from 0 to 1."""
    table = table[table.sum(1) > 0][:, table.sum(0) > 0].astype(float)
    n, (rows, columns) = table.sum(), table.shape
    if min(rows, columns) < 2:
        return 0.0
    expected = table.sum(1, keepdims=True) * table.sum(0) / n
    phi2 = ((table - expected) ** 2 / expected).sum() / n
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    least = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, np.sqrt(phi2 / least)))


def _of_number(
    feature: str, more: str, less: str, values: np.ndarray, labels: np.ndarray, classes: list[str]
) -> Effect:
    """The class that a number tells best from the rest."""
    areas = [auroc(values, labels == place) for place in range(len(classes))]
    best = max(range(len(classes)), key=lambda place: (round(abs(areas[place] - 0.5), 9), areas[place]))
    size, label = max(areas[best], 1 - areas[best]), classes[best]
    says = ""
    if size >= MODERATE:
        how = "strongly" if size >= STRONG else "moderately"
        says = (
            f"{feature} alone {how} tells class {label!r} from the rest (AUROC {size:.2f}; 0.5 is chance): its "
            f"sequences are {more if areas[best] > 0.5 else less}. A model may learn this and no motif; match them."
        )
    return Effect(feature, "AUROC", label, size, says)


def _of_chromosome(chromosomes: Sequence[str], labels: np.ndarray, classes: list[str]) -> Effect:
    names, place = np.unique(np.array(chromosomes), return_inverse=True)
    table = np.bincount(place * len(classes) + labels, minlength=len(names) * len(classes))
    table = table.reshape(len(names), len(classes))
    size = cramers_v(table)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    row, column = np.unravel_index(np.argmax((table - expected) / np.sqrt(np.maximum(expected, 1e-9))), table.shape)
    says = ""
    if size >= MODERATE_V:
        how = "strongly" if size >= STRONG_V else "moderately"
        says = (
            f"class and chromosome go {how} together (Cramér's V {size:.2f}; 0 is not at all): {names[row]} has "
            f"{table[row, column]:,} rows of {classes[column]!r} where {expected[row, column]:,.0f} would be its "
            "share. A model may learn the chromosome; draw the classes from the same ones."
        )
    return Effect("chromosome", "Cramér's V", classes[column], size, says)


def effects(split: Split, gc: np.ndarray | None) -> list[Effect]:
    """Return how well length, GC and chromosome, where known, tell the classes of a split apart.

    Args:
        split: rows with at least two classes and at most twenty, else nothing is measured.
        gc: the share of G and C among known bases of each row, (n,).
    """
    classes = sorted(set(split.labels))
    if not 2 <= len(classes) <= _CLASSES:
        return []
    labels = np.searchsorted(np.array(classes), np.array(split.labels))
    found = [_of_number("length", "longer", "shorter", split.lengths, labels, classes)]
    if gc is not None:
        found.append(_of_number("GC content", "richer in G and C", "poorer in G and C", gc, labels, classes))
    if split.coordinates is not None:
        found.append(_of_chromosome(split.coordinates.shared_chrom, labels, classes))
    return found
