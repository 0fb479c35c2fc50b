"""Scores of predictions as plain formulas, over rows that may count several times.

``weight`` (n,) says how often each row counts: ones for the rows as they are, the draws of a bootstrap for a resample.
A score that the rows do not define, such as an area under a curve without a positive row, is NaN.
"""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def mean(values: Array, weight: Array) -> float:
    """Mean of values (n,)."""
    return _share(float((weight * values).sum()), float(weight.sum()))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


# --- one label of several


def confusion(label: Array, found: Array, classes: int, weight: Array) -> Array:
    """Counts (C, C) of rows by their label and by the class that was found, both (n,) of class indices."""
    return np.bincount(label * classes + found, weight, classes * classes).reshape(classes, classes)


def accuracy(counts: Array) -> float:
    """Share of the rows on the diagonal of a confusion matrix (C, C)."""
    return _share(float(np.trace(counts)), float(counts.sum()))


def balanced_accuracy(counts: Array) -> float:
    """Mean over the classes that occur of the share found of each."""
    there = counts.sum(1) > 0
    return float((np.diag(counts)[there] / counts.sum(1)[there]).mean()) if there.any() else float("nan")


def mcc(counts: Array) -> float:
    """Matthews correlation for any number of classes (Gorodkin 2004); 0 where only one class is or was found."""
    labels, found, total = counts.sum(1), counts.sum(0), counts.sum()
    both = np.trace(counts) * total - labels @ found
    scale = (total**2 - labels @ labels) * (total**2 - found @ found)
    return float(both / np.sqrt(scale)) if scale > 0 else 0.0


def f1_of_classes(counts: Array) -> Array:
    """F1 (C,), 2 TP / (2 TP + FP + FN); 0 for a class that neither is nor was found."""
    size = counts.sum(0) + counts.sum(1)
    return 2 * np.diag(counts) / np.where(size > 0, size, 1)


# --- scores that order rows


def places(score: Array) -> Array:
    """Place of each score (n, ...) among the distinct ones of its column, from the highest, 0, down.

    Sorting takes longer than all else of a curve, and is the same for every resample.
    """
    columns = (np.unique(-column, return_inverse=True)[1] for column in np.atleast_2d(score.T))
    return np.stack(list(columns), -1).reshape(score.shape)


def curve(place: Array, positive: Array, weight: Array) -> tuple[Array, Array]:
    """Positive and negative rows at or above each of the distinct scores, from the highest down, both from 0.

    Args:
        place: (n,) of each row, of `places`.
        positive: (n,) whether a row is.
        weight: (n,) how often it counts.
    """
    hits, others = (np.cumsum(np.bincount(place, weight * part)) for part in (positive, ~positive))
    return np.append(0.0, hits), np.append(0.0, others)


def areas(place: Array, positive: Array, weight: Array) -> dict[str, float]:
    """Two areas under curves of rows in the order of their scores; arguments as for `curve`.

    ``auroc``: how often a positive row stands above a negative one, ties counted half;
    ``auprc``: average precision, the sum over thresholds of the recall gained times the precision there.
    """
    hits, others = curve(place, positive, weight)
    precision = hits[1:] / np.maximum(hits[1:] + others[1:], np.finfo(float).tiny)
    above = float((np.diff(others) * (hits[1:] + hits[:-1]) / 2).sum())
    return {
        "auroc": _share(above, float(hits[-1] * others[-1])),
        "auprc": _share(float((np.diff(hits) * precision).sum()), float(hits[-1])),
    }


def mean_areas(found: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each area over several classes."""
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def roc(score: Array, positive: Array, points: int = 200) -> list[list[float]]:
    """Share of negative and of positive rows above a threshold, [[0, 0], ..., [1, 1]], in at most so many points."""
    hits, others = curve(places(score), positive, np.ones(len(score)))
    if not hits[-1] or not others[-1]:
        return []
    kept = np.unique(np.linspace(0, len(hits) - 1, points).round().astype(int))
    return np.stack([others[kept] / others[-1], hits[kept] / hits[-1]], 1).round(6).tolist()


def precision_recall(score: Array, positive: Array, points: int = 200) -> list[list[float]]:
    """Recall and precision above a threshold, from the highest threshold down, in at most so many points."""
    hits, others = curve(places(score), positive, np.ones(len(score)))
    if not hits[-1]:
        return []
    kept = np.unique(np.linspace(1, len(hits) - 1, points).round().astype(int))
    return np.stack([hits[kept] / hits[-1], hits[kept] / (hits[kept] + others[kept])], 1).round(6).tolist()


def calibration(p: Array, right: Array, bins: int = 10) -> list[list[float]]:
    """Mean probability, share of right rows and number of rows, for equally full bins of probabilities p (n,)."""
    parts = np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)))
    return [[float(p[part].mean()), float(right[part].mean()), float(len(part))] for part in parts]


# --- numbers


def moments(value: Array, found: Array) -> Array:
    """(..., 7) of a pair of numbers (...): 1, y, f, y², f², y f and |y - f|; zeros where ``value`` is NaN.

    Their sums over rows are what `pearson_of`, `r2_of`, `mse_of` and `mae_of` need.
    """
    known = np.isfinite(value)
    y, f = np.where(known, value, 0.0).astype(np.float64), np.where(known, found, 0.0).astype(np.float64)
    return np.stack([known.astype(np.float64), y, f, y * y, f * f, y * f, np.abs(y - f)], -1)


def pearson_of(sums: Array) -> float:
    """Pearson's correlation from the sums (7,) of `moments`; NaN where a side is constant."""
    n, y, f, yy, ff, yf, _ = sums
    scale = (n * yy - y * y) * (n * ff - f * f)
    # rounding leaves a constant side with a variance of about 1e-16 of its square
    flat = min(n * yy - y * y - 1e-12 * n * yy, n * ff - f * f - 1e-12 * n * ff) <= 0
    return float("nan") if flat else float(np.clip((n * yf - y * f) / np.sqrt(scale), -1, 1))


def r2_of(sums: Array) -> float:
    """Share of the variance of y that is explained; negative if the mean would have been nearer."""
    n, y, _, yy, ff, yf, _ = sums
    spread = yy - y * y / n if n else 0.0
    return 1 - float((yy - 2 * yf + ff) / spread) if spread > 1e-12 * yy else float("nan")


def mse_of(sums: Array) -> float:
    """Mean squared error."""
    return _share(float(sums[3] - 2 * sums[5] + sums[4]), float(sums[0]))


def mae_of(sums: Array) -> float:
    """Mean absolute error."""
    return _share(float(sums[6]), float(sums[0]))


def errors(sums: Array, scale: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """MSE and MAE of columns in their own unit, and ``scaled_mse`` in training scale; of several columns the means.

    Of several columns each one's stand beside, since the means add up what may have different units. A column without
    a value that is known is NaN, and not in the means.

    Args:
        sums: (K, 7) of `moments` of numbers in training scale.
        scale: (K,) what 1 there is in the column's own unit.
        names: (K,) of the columns.
    """
    scaled = np.array([mse_of(one) for one in sums])
    own = {"mse": scaled * np.square(scale), "mae": np.array([mae_of(one) for one in sums]) * scale}
    there = ~np.isnan(scaled)

    def among(values: Array) -> float:
        return float(values[there].mean()) if there.any() else float("nan")

    found = {**{error: among(values) for error, values in own.items()}, "scaled_mse": among(scaled)}
    if len(names) > 1:
        found |= {f"{error}_{n}": float(v) for error, values in own.items() for n, v in zip(names, values, strict=True)}
    return found


def ranks(values: Array, weight: Array) -> Array:
    """Ranks (n,) of values, from 1; equal ones share the mean of theirs, and a row of weight w stands w times."""
    _, group = np.unique(values, return_inverse=True)
    size = np.bincount(group, weight)
    return (np.cumsum(size) - (size - 1) / 2)[group]


def pearson(value: Array, found: Array, weight: Array) -> float:
    """Pearson's correlation of two (n,)."""
    centred = moments(value - mean(value, weight), found - mean(found, weight))  # sums then lose no digits
    return pearson_of((weight[:, None] * centred).sum(0))


def spearman(value: Array, found: Array, weight: Array) -> float:
    """Spearman's correlation of two (n,): Pearson's of their ranks."""
    return pearson(ranks(value, weight), ranks(found, weight), weight)
