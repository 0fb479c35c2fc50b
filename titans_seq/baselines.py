"""What a trained model is printed beside: k-mer logistic regression, and seasonal naive."""

from typing import Any

import numpy as np

from titans_seq.data.record import Record, Series, decode
from titans_seq.data.windows import SeriesWindows

SEASONS = {"s": 60, "m": 60, "h": 24, "d": 7, "w": 52, "mo": 12, "q": 4, "y": 1}  # steps a season, by unit
DAY = {"m": 24 * 60, "s": 24 * 3600}  # steps of 1 a day, for several minutes or seconds a step


def season_of(frequency: str) -> int:
    """Rows of the usual season: a day for hours and minutes, a week for days, a year for weeks and months."""
    digits = "".join(c for c in frequency if c.isdigit())
    unit, count = frequency.removeprefix(digits), int(digits or 1)
    if unit in DAY and DAY[unit] % count == 0:
        return DAY[unit] // count
    return max(1, SEASONS.get(unit, 1) // count)


def kmer_probabilities(train: list[Record], test: list[Record], classes: tuple[str, ...]) -> np.ndarray:
    """Probabilities (n, C) of logistic regression (C = 10) on tf-idf of all k-mers from 1 to 6."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(analyzer="char", ngram_range=(1, 6), lowercase=False, dtype=np.float32)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000))
    model.fit([decode(r.codes) for r in train], [str(r.label) for r in train])
    found = np.zeros((len(test), len(classes)))
    order = [classes.index(name) for name in model.classes_]
    found[:, order] = model.predict_proba([decode(r.codes) for r in test])
    return found


def seasonal_naive(windows: SeriesWindows, season: int) -> np.ndarray:
    """Forecasts (windows, H, C): the value one season ago, the last observed of that phase where it is missing."""
    filled = [_filled(s, season) for s in windows.series]
    steps = np.arange(windows.horizon)
    back = steps - season * (steps // season + 1)  # rows from the origin, all before it
    places = [windows.place(i) for i in range(len(windows))]
    return np.stack([filled[n][np.maximum(t + back, 0)] for n, t in places])


def _filled(series: Series, season: int) -> np.ndarray:
    values = series.values.copy()
    for t in range(season, len(values)):
        values[t] = np.where(np.isfinite(values[t]), values[t], values[t - season])
    return np.nan_to_num(values, nan=0.0)


def errors(task: Any, windows: SeriesWindows, forecast: np.ndarray) -> dict[str, float]:
    """MSE and MAE of forecasts (windows, H, C) in training standard deviations, over the observed steps."""
    scale = np.array(task.scale)
    squared = absolute = count = 0.0
    for i, guess in enumerate(forecast):
        item = windows.item(i, None)
        error = ((guess - item["future"]) / scale)[item["future_observed"]]
        squared, absolute, count = squared + (error**2).sum(), absolute + np.abs(error).sum(), count + error.size
    return {"mse": float(squared / max(count, 1)), "mae": float(absolute / max(count, 1))}
