"""Errors of forecasts as running sums, in memory that does not grow with the number of windows.

Definitions are those of `gluonts.ev`, over every observed step, none dropped: sums over steps and series come first,
divisions last. Point errors are of the median, or of what stands for it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from titans_seq.data.record import Series

Scores = dict[str, float | None]


class Guess(NamedTuple):
    """One forecast of one series, in the data's units."""

    point: np.ndarray  # (H, C)
    quantiles: np.ndarray  # (H, C, Q), of the levels of its `Accuracy`
    intervals: np.ndarray  # (H, C, K, 2), likewise

    @classmethod
    def of(cls, point: np.ndarray, quantiles: Sequence[np.ndarray] = (), ends: Sequence[np.ndarray] = ()) -> "Guess":
        """From columns (H, C) each; ``ends`` are low and high in turn."""
        empty = np.empty((*point.shape, 0))
        stacked = [np.stack(columns, -1) if columns else empty for columns in (quantiles, ends)]
        return cls(point, stacked[0], stacked[1].reshape(*point.shape, len(ends) // 2, 2))


class SeasonalError:
    """Mean |y_t - y_{t-m}| of the rows before an origin, by which MASE is scaled (Hyndman and Koehler 2006).

    Args:
        series: what was measured of it counts.
        season: m rows.
    """

    def __init__(self, series: Series, season: int):
        values = np.where(series.observed, series.target, np.nan)
        change = np.full(values.shape, np.nan)
        change[season:] = np.abs(values[season:] - values[:-season])
        nothing = np.zeros((1, len(series.columns)))
        self.total = np.concatenate([nothing, np.nan_to_num(change).cumsum(0)])
        self.count = np.concatenate([nothing, np.isfinite(change).cumsum(0)])

    def before(self, origin: int) -> np.ndarray:
        """(C,) of the rows before ``origin``; NaN where none is known."""
        with np.errstate(invalid="ignore"):
            found: np.ndarray = self.total[origin] / self.count[origin]
        return found


class Accuracy:
    """Sums over windows of the errors of one model, for each series, step and channel.

    Args:
        series: S.
        horizon: H.
        scale: (C,) training standard deviations.
        levels: of the quantiles.
        intervals: names, with the per cent that each should hold.
    """

    def __init__(
        self,
        series: int,
        horizon: int,
        scale: Sequence[float],
        levels: Sequence[float] = (),
        intervals: Sequence[str] = (),
    ):
        self.scale, self.levels, self.intervals = np.array(scale), np.array(levels), tuple(intervals)
        shape = (series, horizon, len(self.scale))
        plain = ("count", "squared", "absolute", "size", "symmetric", "scaled", "scaled_count")
        self.sums: dict[str, np.ndarray] = {name: np.zeros(shape) for name in plain}
        self.sums |= {name: np.zeros((*shape, len(self.levels))) for name in ("pinball", "below")}
        self.sums |= {name: np.zeros((*shape, len(self.intervals))) for name in ("inside", "width")}

    def add(self, series: int, y: np.ndarray, guess: Guess, seasonal_error: np.ndarray) -> None:
        """Count one window: the truth y (H, C) with NaN where it is unknown, and `SeasonalError.before` its origin."""
        seen = np.isfinite(y)
        y = np.where(seen, y, 0.0)
        error = np.abs(y - guess.point)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = error / seasonal_error
            symmetric = np.where(error > 0, 2 * error / (np.abs(y) + np.abs(guess.point)), 0.0)
        defined = np.isfinite(scaled)
        beyond = y[..., None] - guess.quantiles
        low, high = guess.intervals[..., 0], guess.intervals[..., 1]
        found = {
            "count": np.ones_like(y),
            "squared": error**2,
            "absolute": error,
            "size": np.abs(y),
            "symmetric": symmetric,
            "scaled": np.where(defined, scaled, 0.0),
            "scaled_count": defined,
            "pinball": 2 * np.maximum(self.levels * beyond, (self.levels - 1) * beyond),
            "below": beyond <= 0,
            "inside": (low <= y[..., None]) & (y[..., None] <= high),
            "width": high - low,
        }
        for name, value in found.items():
            self.sums[name][series] += value * (seen if value.ndim == 2 else seen[..., None])

    def _over(self, axes: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Quotients of the sums over some of the axes series, step and channel."""
        of = {name: values.sum(axes) for name, values in self.sums.items()}
        count = of["count"]
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {
                "mse": (self.sums["squared"] / self.scale**2).sum(axes) / count,
                "mae": (self.sums["absolute"] / self.scale).sum(axes) / count,
                "mse_original": of["squared"] / count,
                "mae_original": of["absolute"] / count,
                "rmse": np.sqrt(of["squared"] / count),
                "mase": of["scaled"] / of["scaled_count"],
                "smape": of["symmetric"] / count,
                "wape": of["absolute"] / of["size"],
            }
            if len(self.levels):
                found["wql"] = (of["pinball"] / of["size"][..., None]).mean(-1)
            for number, name in enumerate(self.intervals):
                found[f"coverage_{name}"] = of["inside"][..., number] / count
                found[f"width_{name}"] = (self.sums["width"][..., number] / self.scale).sum(axes) / count
        return found

    def overall(self) -> Scores:
        """Scores over all series, steps and channels; None where nothing defines them.

        ``mse``, ``mae`` and the widths are in training standard deviations, ``mse_original``, ``mae_original`` and
        ``rmse`` in the data's units, the others without any.
        """
        return {name: _number(value) for name, value in self._over((0, 1, 2)).items()}

    def by_step(self) -> dict[str, list[float | None]]:
        """Scores of each step, lists of H."""
        return {name: [_number(v) for v in values] for name, values in self._over((0, 2)).items()}

    def by_series(self) -> list[Scores]:
        """Scores of each channel of each series, channels within series."""
        found = {name: values.ravel() for name, values in self._over((1,)).items()}
        return [{n: _number(v[i]) for n, v in found.items()} for i in range(len(found["mse"]))]

    def calibration(self) -> list[list[float | None]]:
        """Of each quantile level, the level and the share of the values at or below the quantile."""
        count = self.sums["count"].sum()
        observed = self.sums["below"].sum((0, 1, 2)) / count if count else np.full(len(self.levels), np.nan)
        return [[float(level), _number(share)] for level, share in zip(self.levels, observed, strict=True)]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def skill(ours: Scores, theirs: Scores) -> Scores:
    """1 - error / the other's error, of each error that both have: above 0 is better."""
    names = ("mse", "mae", "mase", "smape", "wape", "wql")
    return {n: 1 - a / b if (a := ours.get(n)) is not None and (b := theirs.get(n)) else None for n in names}
