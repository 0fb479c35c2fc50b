"""Scores of a model beside its baselines, with bootstrap intervals, on all of a test set and on parts of it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from titans_seq.progress import Progress

RESAMPLES, LEVEL = 1000, 0.95
MODEL = "model"

Rows = Mapping[str, np.ndarray]
Scores = dict[str, float]
Metrics = Callable[[dict[str, np.ndarray], np.ndarray], Scores]  # rows (n, ...) and how often each counts, (n,)


class Compared(NamedTuple):
    """What a model and its baselines said of the same units: records, or stretches of a genome."""

    rows: Mapping[str, Rows]  # of each model what its metrics are computed from; `MODEL` first
    metrics: Metrics
    units: int

    def part(self, which: np.ndarray) -> "Compared":
        """Some of the units, by a mask (n,)."""
        rows = {name: {key: values[which] for key, values in own.items()} for name, own in self.rows.items()}
        return Compared(rows, self.metrics, int(which.sum()))

    def scores(self, weight: np.ndarray | None = None) -> dict[str, Scores]:
        """Scores of each model."""
        weight = np.ones(self.units) if weight is None else weight
        with np.errstate(all="ignore"):  # what the units do not define is NaN
            return {name: self.metrics(dict(own), weight) for name, own in self.rows.items()}


def draws(units: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit stands in a resample of as many, drawn with replacement, (units,)."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, units, units), minlength=units).astype(np.float64)


def interval(samples: list[Scores], level: float = LEVEL) -> dict[str, list[float]]:
    """Percentile interval of each score over resamples (Efron and Tibshirani 1993, chapter 13).

    A resample that does not define a score, as one class alone no area under a curve, does not count for it.
    """
    found = {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        values = np.array([sample.get(name, np.nan) for sample in samples])
        values = values[np.isfinite(values)]
        if len(values):
            found[name] = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return found


def compare(compared: Compared, *, seed: int, resamples: int = RESAMPLES, what: str = "resampling") -> dict[str, Any]:
    """Scores of each model, their intervals, and those of the model's lead over each baseline on the same resamples.

    Args:
        compared: the model and its baselines.
        seed: of the resamples.
        resamples: how many; 0 for no intervals.
        what: name of the progress bar.
    """
    found: dict[str, Any] = {"items": compared.units, **compared.scores()}
    if not resamples or compared.units < 2:
        return found
    samples: dict[str, list[Scores]] = {name: [] for name in compared.rows}
    with Progress(what, "resamples", resamples) as progress:
        for weight in draws(compared.units, resamples, seed):
            for name, scores in compared.scores(weight).items():
                samples[name].append(scores)
            progress.add(1)
    leads = {name: _lead(samples[MODEL], own) for name, own in samples.items() if name != MODEL}
    return found | {
        "intervals": {name: interval(own) for name, own in samples.items()},
        "lead": {name: interval(own) for name, own in leads.items()},
        "bootstrap": {"level": LEVEL, "resamples": resamples, "seed": seed},
    }


def _lead(ours: list[Scores], theirs: list[Scores]) -> list[Scores]:
    """Differences of the scores that both have, resample by resample."""
    return [
        {key: one[key] - other[key] for key in one if key in other} for one, other in zip(ours, theirs, strict=True)
    ]


def compare_parts(compared: Compared, parts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Scores of each model on parts of the units, without intervals; ``parts`` are masks (n,) by name."""
    return {name: compared.part(mask).scores() for name, mask in parts.items()}
