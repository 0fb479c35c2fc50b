"""What a trained model is printed beside: k-mers, interpolated Markov models, and seasonal naive."""

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from titans_seq.data.record import Series, decode
from titans_seq.data.windows import LabelledSequences, N, SeriesWindows

SEASONS = {"s": 60, "m": 60, "h": 24, "d": 7, "w": 52, "mo": 12, "q": 4, "y": 1}  # steps a season, by unit
DAY = {"m": 24 * 60, "s": 24 * 3600}  # steps of 1 a day, for several minutes or seconds a step


def season_of(frequency: str) -> int:
    """Rows of the usual season: a day for hours and minutes, a week for days, a year for weeks and months."""
    digits = "".join(c for c in frequency if c.isdigit())
    unit, count = frequency.removeprefix(digits), int(digits or 1)
    if unit in DAY and DAY[unit] % count == 0:
        return DAY[unit] // count
    return max(1, SEASONS.get(unit, 1) // count)


# --- labelled sequences


def _texts(items: LabelledSequences) -> list[str]:
    return [decode(record.codes) for record in items.records]


def _words() -> Any:
    """Tf-idf of all k-mers from 1 to 6."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char", ngram_range=(1, 6), lowercase=False, dtype=np.float32)


def kmer_logistic_regression(train: LabelledSequences, test: LabelledSequences, classes: int) -> np.ndarray:
    """Probabilities (n, C) of logistic regression (C = 10) on k-mers; of several labels a row, one model a label."""
    from sklearn.linear_model import LogisticRegression

    targets = np.array(train.targets)
    words = _words().fit(texts := _texts(train))
    seen, unseen = words.transform(texts), words.transform(_texts(test))
    found = np.zeros((len(test), classes))
    if targets.ndim == 1:
        model = LogisticRegression(C=10, max_iter=1000).fit(seen, targets)
        found[:, model.classes_] = model.predict_proba(unseen)
        return found
    for label in range(classes):
        found[:, label] = targets[:, label].mean()
        if 0 < found[0, label] < 1:
            found[:, label] = (
                LogisticRegression(C=10, max_iter=1000).fit(seen, targets[:, label]).predict_proba(unseen)[:, 1]
            )
    return found


def kmer_ridge(train: LabelledSequences, test: LabelledSequences, columns: int) -> np.ndarray:
    """Predictions (n, K) of ridge regression (alpha = 1) on k-mers."""
    from sklearn.linear_model import Ridge

    words = _words().fit(texts := _texts(train))
    model = Ridge(alpha=1.0).fit(words.transform(texts), np.array(train.targets))
    return model.predict(words.transform(_texts(test))).reshape(len(test), columns)


KMERS: dict[str, Callable[[LabelledSequences, LabelledSequences, int], np.ndarray]] = {
    "kmer_logistic_regression": kmer_logistic_regression,
    "kmer_ridge": kmer_ridge,
}


# --- genomes

ORDERS = 11  # Markov models of order 0 to 10: above, a genome has too few words of a length
ALPHA = 4.0  # weight of what the next lower order says, in words seen
_AT_ONCE = 1 << 20


class Markov:
    """Interpolated Markov models of orders 0 to ``orders - 1``, from the counts of both strands:

    p_k(x | context) = (n(context x) + α p_{k-1}(x | context without its oldest base)) / (n(context) + α),

    below order 0 all four alike. A base that has fewer known ones before it is predicted by a lower order.

    Args:
        records: codes (T,) to count, A C G T N = 0 1 2 3 4.
        orders: how many; as many as have a base a context, if not given.
    """

    def __init__(self, records: Sequence[np.ndarray], orders: int | None = None):
        if orders is None:
            orders = min(ORDERS, 1 + int(math.log(max(1, sum(map(len, records))), 4)))
        self.orders = orders
        flat = np.zeros(4**orders)
        for codes in records:
            for number, before in _windows(codes, orders):
                flat += np.bincount(number[before >= orders], minlength=len(flat))
        counts = flat.reshape((4,) * orders)
        counts = counts + np.flip(counts.T)  # a word's reverse complement: its axes and each axis turned round
        p = np.full(4, 0.25)
        self.logs = []
        for order in range(orders):
            seen = counts.sum(tuple(range(orders - 1 - order)))
            p = (seen + ALPHA * p) / (seen.sum(-1, keepdims=True) + ALPHA)
            self.logs.append(np.log(p).ravel())

    def loglik(self, codes: np.ndarray, order: int) -> np.ndarray:
        """ln p of each base (T,) in nats; 0 where it is N."""
        found = []
        for number, before in _windows(codes, order + 1):
            part = np.zeros(len(number))
            for length in range(1, order + 2):
                here = before == length
                part[here] = self.logs[length - 1][number[here] % 4**length]
            found.append(part)
        return np.concatenate(found) if found else np.zeros(0)

    def best_order(self, records: list[np.ndarray]) -> int:
        """The order that predicts records best."""
        return max(range(self.orders), key=lambda order: math.fsum(self.loglik(r, order).sum() for r in records))


def _windows(codes: np.ndarray, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each base, piece by piece: the number of the word that ends with it, the oldest base first, and how many of
    its bases are known without a gap, up to ``length``."""
    for start in range(0, len(codes), _AT_ONCE):
        first = max(0, start - length + 1)
        piece = codes[first : start + _AT_ONCE].astype(np.int64)
        known = piece < N
        piece = np.where(known, piece, 0)
        place = np.arange(len(piece))
        before = place - np.maximum.accumulate(np.where(known, -1, place))
        number = piece.copy()
        for back in range(1, length):
            number[back:] += piece[:-back] * 4**back
        yield number[start - first :], before[start - first :].clip(max=length)


# --- series

HISTORY = 2000  # rows that a statistical model is given at most: more make it slow and no better
EXTRA = "pip install 'titans-seq[stats]'"


class SeasonalNaive:
    """The value one season ago; where it is missing, the last observed of that phase, or if there is none, of all.

    Args:
        series: to forecast.
        season: rows a season.
    """

    def __init__(self, series: Series, season: int):
        self.season, self.values = season, _filled(series.target, season)
        self.last = np.nan_to_num(_filled(series.target, 1), nan=0.0)

    def forecast(self, origin: int, horizon: int) -> np.ndarray:
        """Forecast (H, C) of the rows from ``origin`` on."""
        steps = np.arange(horizon)
        back = steps - self.season * (steps // self.season + 1)  # rows from the origin, all before it
        found = np.where((origin + back >= 0)[:, None], self.values[np.maximum(origin + back, 0)], np.nan)
        return np.where(np.isfinite(found), found, self.last[max(origin - 1, 0)])


def seasonal_naive(windows: SeriesWindows, season: int) -> np.ndarray:
    """Forecasts (windows, H, C) of `SeasonalNaive`."""
    naive = [SeasonalNaive(s, season) for s in windows.series]
    places = (windows.place(i) for i in range(len(windows)))
    return np.stack([naive[n].forecast(t, windows.horizon) for n, t in places])


def _filled(values: np.ndarray, season: int) -> np.ndarray:
    """Values (T, C) with the last observed of the same phase where they are missing; NaN where there is none."""
    rows = len(values)
    whole = np.full((-(-rows // season) * season, values.shape[1]), np.nan)
    whole[:rows] = values
    seasons = whole.reshape(-1, season, values.shape[1])
    last = np.where(np.isfinite(seasons), np.arange(len(seasons))[:, None, None], 0)
    filled = np.take_along_axis(seasons, np.maximum.accumulate(last), 0)
    return np.asarray(filled.reshape(whole.shape)[:rows])


def has_statistical_model() -> bool:
    """Whether `AutoTheta` can be used: it takes statsforecast, an optional extra."""
    return find_spec("statsforecast") is not None


class AutoTheta:
    """The Theta method that fits best (Fiorucci et al. 2016), by statsforecast, a model a channel.

    Its parameters are fitted on up to `HISTORY` rows before ``fitted``, and kept for later origins, where it reads
    the rows that came since.

    Args:
        series: to forecast; what is missing is filled by `SeasonalNaive`.
        season: rows a season.
        fitted: row before which it is fitted.
    """

    def __init__(self, series: Series, season: int, fitted: int):
        from statsforecast.models import AutoTheta as Theta

        self.values = np.nan_to_num(_filled(series.target, season), nan=0.0)
        before = self.values[max(0, fitted - HISTORY) : fitted]
        season = season if len(before) >= 2 * season else 1
        self.models = [None if np.ptp(y) == 0 else Theta(season_length=season).fit(y) for y in before.T]

    def forecast(self, origin: int, horizon: int) -> np.ndarray:
        """Forecast (H, C) of the rows from ``origin`` on; of what was constant, its last value."""
        known = self.values[max(0, origin - HISTORY) : origin]
        parts = [
            np.full(horizon, y[-1]) if model is None or np.ptp(y) == 0 else model.forward(y, horizon)["mean"]
            for model, y in zip(self.models, known.T, strict=True)
        ]
        return np.stack(parts, 1)


def errors(task: Any, windows: SeriesWindows, forecast: np.ndarray) -> dict[str, float]:
    """MSE and MAE of forecasts (windows, H, C) in training standard deviations, over the observed steps."""
    scale = np.array(task.scale)
    squared = absolute = count = 0.0
    for i, guess in enumerate(forecast):
        item = windows.item(i, None)
        error = ((guess - item["future"]) / scale)[item["future_observed"]]
        squared, absolute, count = squared + (error**2).sum(), absolute + np.abs(error).sum(), count + error.size
    return {"mse": float(squared / max(count, 1)), "mae": float(absolute / max(count, 1))}
