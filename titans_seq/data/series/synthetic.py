"""Series drawn by chance, of the kinds that real ones are made of, to train a forecaster on that is for any table.

``synthetic:SEED/COUNT/LENGTH`` names a panel of them where a table to train on is named. A series is a function of the
seed and its own number: any part of a panel is the same as in the whole. Each draws what it is made of from random
numbers, (T,) rows at a time; what is called a unit process has mean 0 and deviation 1 over these rows, or is 0.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.signal import lfilter
from scipy.special import ive

from titans_seq.data.record import Series
from titans_seq.data.windows import Item, SeriesWindows
from titans_seq.errors import UsageError
from titans_seq.resources import DRAWN

COLUMN, STEP, START = "y", "1h", np.datetime64("2000-01-01", "us")  # of a panel; its seasons are of any rows
SHORTEST = 32  # rows

Process = Callable[[Generator, int], np.ndarray]

# Rows of two seasons, the second of the first's: a day and a week of hours, of 2 hours, half, quarter and tenths of an
# hour; a week and a year of days, quarters, months and weeks of years
CALENDARS = ((24, 168), (24, 168), (12, 84), (48, 336), (96, 672), (144, 1008), (7, 365), (4, 16), (12, 48), (52, 208))
PERIODS = (4, 336)  # rows of a season that is of no calendar, drawn by its logarithm


def unit(values: np.ndarray) -> np.ndarray:
    """Values (T,) with mean 0 and deviation 1; zeros where they do not differ."""
    values = values - values.mean()
    deviation = values.std()
    return values / deviation if deviation > 1e-9 else np.zeros_like(values)


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


# --- Gaussian processes


def white(rng: Generator, rows: int) -> np.ndarray:
    """White noise."""
    return rng.standard_normal(rows)


def linear(rng: Generator, rows: int) -> np.ndarray:
    """A straight line through a random place, up or down."""
    return rng.choice([-1.0, 1.0]) * (np.arange(rows) / rows - rng.uniform())


def _smooth(rng: Generator, rows: int, scale: float) -> np.ndarray:
    """Of the squared exponential kernel with a length scale in rows: white noise on a circle, filtered.

    The circle is three times as long, so that its ends do not meet in what is taken.
    """
    frequency = np.fft.rfftfreq(3 * rows)
    spectrum = np.fft.rfft(rng.standard_normal(3 * rows)) * np.exp(-((np.pi * scale * frequency) ** 2))
    return np.fft.irfft(spectrum, 3 * rows)[:rows]


def smooth(rng: Generator, rows: int) -> np.ndarray:
    """Of a squared exponential kernel, from a few rows to all of them long."""
    return _smooth(rng, rows, _log_uniform(rng, 2, rows / 2))


def rough(rng: Generator, rows: int) -> np.ndarray:
    """Of a rational quadratic kernel: squared exponential ones of gamma distributed precisions, on average."""
    shape, scale = _log_uniform(rng, 0.1, 10), _log_uniform(rng, 2, rows / 2)
    scales = scale / np.sqrt(np.maximum(rng.gamma(shape, 1 / shape, 8), 1e-6))
    return np.mean([unit(_smooth(rng, rows, min(s, 10 * rows))) for s in scales], 0)


def periodic(rng: Generator, rows: int, period: float) -> np.ndarray:
    r"""Of the kernel $\exp(-2 \sin^2(\pi\tau/p)/\ell^2)$, by its Fourier series $2 e^{-z} I_k(z)$, $z = \ell^{-2}$."""
    harmonics = np.arange(1, max(2, min(20, int(period // 2))))
    variance = 2 * ive(harmonics, _log_uniform(rng, 0.3, 2) ** -2)
    angle = 2 * np.pi * harmonics * np.arange(rows)[:, None] / period
    a, b = rng.standard_normal((2, len(harmonics))) * np.sqrt(variance)
    return np.cos(angle) @ a + np.sin(angle) @ b


def period(rng: Generator) -> float:
    """Rows of a season, that of a calendar or any."""
    if rng.random() < 0.6:
        return float(CALENDARS[rng.integers(len(CALENDARS))][0])
    return _log_uniform(rng, *PERIODS)


KERNELS: tuple[Process, ...] = (
    white,
    linear,
    smooth,
    rough,
    lambda rng, rows: periodic(rng, rows, period(rng)),
    lambda rng, rows: periodic(rng, rows, period(rng)),
)


def kernels(rng: Generator, rows: int) -> np.ndarray:
    """One to five Gaussian processes joined by sums and products (KernelSynth, Ansari et al. 2024, algorithm 2).

    Of independent draws the covariances add and multiply as the draws do. A product is therefore made of draws and
    not of the product kernel: its covariance is right, and it is no Gaussian process any more.
    """
    values = np.zeros(rows)
    for number in range(rng.integers(1, 6)):
        drawn = unit(KERNELS[rng.integers(len(KERNELS))](rng, rows))
        values = values * (drawn + rng.choice([0.0, 2.0])) if number and rng.random() < 0.3 else values + drawn
    return values


# --- random walks and noise


def random_walk(rng: Generator, rows: int) -> np.ndarray:
    """A random walk with steps of light or heavy tails, at times with drift, drawn back to its mean, or exponential."""
    steps = rng.standard_t(3, rows) if rng.random() < 0.3 else rng.standard_normal(rows)
    steps += rng.choice([0.0, 0.0, 0.05, -0.05])
    keep = 1.0 if rng.random() < 0.5 else 1 - 1 / _log_uniform(rng, 10, rows)
    values = lfilter([1.0], [1.0, -keep], steps)
    return np.exp(0.5 * unit(values)) if rng.random() < 0.2 else values


def autoregressive(rng: Generator, rows: int) -> np.ndarray:
    """An autoregression of order 1 to 4, stable: its roots are drawn inside the unit circle."""
    radius = 1 - _log_uniform(rng, 0.01, 1) * rng.random(2)
    angle = 2 * np.pi / np.array([_log_uniform(rng, 3, 200) for _ in range(2)])
    real = [[1.0, -r * s] for r, s in zip(radius, rng.choice([1.0, 1.0, -1.0], 2), strict=True)]
    turning = [[1.0, -2 * r * np.cos(a), r * r] for r, a in zip(radius, angle, strict=True)]
    factors = [turning[i] if rng.random() < 0.3 else real[i] for i in range(rng.integers(1, 3))]
    polynomial = factors[0] if len(factors) == 1 else np.polymul(*factors)
    return lfilter([1.0], polynomial, rng.standard_normal(2 * rows))[rows:]


def heteroscedastic(rng: Generator, rows: int) -> np.ndarray:
    """Noise whose deviation drifts, or has a season, or both (stochastic volatility, Taylor 1982)."""
    level = 1 - 1 / _log_uniform(rng, 5, rows / 4)
    log_deviation = unit(lfilter([1.0], [1.0, -level], rng.standard_normal(rows)))
    if rng.random() < 0.5:
        log_deviation = 0.5 * log_deviation + unit(periodic(rng, rows, period(rng)))
    noise = rng.standard_normal(rows) * np.exp(rng.uniform(0.4, 1.2) * log_deviation)
    keep = rng.choice([0.0, 0.5, 0.9])
    return lfilter([1.0], [1.0, -keep], noise)


NOISES: tuple[Process, ...] = (white, autoregressive, autoregressive, random_walk, heteroscedastic)


def _noise(rng: Generator, rows: int) -> np.ndarray:
    return unit(NOISES[rng.integers(len(NOISES))](rng, rows))


# --- trends and seasons


def trend(rng: Generator, rows: int) -> np.ndarray:
    """A line, a line with bends, a saturating or a smooth curve, as a unit process; at times nothing."""
    along = np.arange(rows) / rows
    form = rng.integers(5)
    if form == 0:
        return np.zeros(rows)
    if form == 1:
        return unit(linear(rng, rows))
    if form == 2:
        bends, slopes = rng.random((rng.integers(1, 5), 1)), rng.standard_normal
        return unit(slopes() * along + slopes(len(bends)) @ np.maximum(along - bends, 0))
    if form == 3:
        return unit(rng.choice([-1.0, 1.0]) * np.exp(-along * rng.uniform(1, 8)))
    return unit(_smooth(rng, rows, rng.uniform(0.2, 0.6) * rows))


def _profile(rng: Generator, phase: np.ndarray) -> np.ndarray:
    """The form of a season over its phase in [0, 1): a bump and nothing else, steps, a saw, or two humps."""
    form = rng.integers(4)
    if form == 0:  # the sun
        return np.maximum(np.sin(2 * np.pi * phase) + rng.uniform(-0.5, 0.5), 0) ** rng.uniform(0.5, 2)
    if form == 1:  # open and shut
        cuts = np.sort(rng.random(rng.integers(2, 8)))
        levels = rng.standard_normal(len(cuts) + 1)
        levels[-1] = levels[0]
        return levels[np.searchsorted(cuts, phase)]
    if form == 2:
        top = rng.uniform(0.05, 0.95)
        return np.where(phase < top, phase / top, (1 - phase) / (1 - top))
    tops, widths, heights = rng.random(2), rng.uniform(0.02, 0.2, 2), rng.uniform(0.3, 1, 2)
    away = np.abs(phase[:, None] - tops)
    return np.exp(-0.5 * (np.minimum(away, 1 - away) / widths) ** 2) @ heights  # rush hours


def season(rng: Generator, rows: int, period: float) -> np.ndarray:
    """A season of so many rows, the same in each period, as a unit process."""
    if rng.random() < 0.4:
        return unit(periodic(rng, rows, period))
    phase = (np.arange(rows) / period + rng.random()) % 1
    if period >= 84 and rng.random() < 0.3:  # a step a day of the week
        phase = np.floor(7 * phase) / 7
    return unit(_profile(rng, phase))


def _seasons(rng: Generator, rows: int) -> np.ndarray:
    """One to three seasons together."""
    if rng.random() < 0.7:
        short, long = CALENDARS[rng.integers(len(CALENDARS))]
        found = season(rng, rows, short)
        if rng.random() < 0.6:
            week = season(rng, rows, long)
            found = found * (1 + 0.5 * week) if rng.random() < 0.3 else found + rng.uniform(0.1, 1) * week
        return found
    weights = rng.uniform(0.2, 1, rng.integers(1, 4))
    return np.sum([w * season(rng, rows, _log_uniform(rng, *PERIODS)) for w in weights], 0)


def level(rng: Generator, rows: int) -> np.ndarray:
    """A level that wanders, over some seasons rather than all rows, as a unit process; at times it stays."""
    form = rng.random()
    if form < 0.3:
        return np.zeros(rows)
    return unit(random_walk(rng, rows) if form < 0.6 else _smooth(rng, rows, _log_uniform(rng, 10, rows / 3)))


def seasonal(rng: Generator, rows: int) -> np.ndarray:
    """Trend, level, seasons whose strength may drift, and noise, in a sum or a product."""
    values = unit(_seasons(rng, rows))
    if rng.random() < 0.4:
        values = values * (1 + rng.uniform(0.1, 0.5) * unit(_smooth(rng, rows, _log_uniform(rng, 50, rows))))
    values = values + _log_uniform(rng, 0.1, 2) * trend(rng, rows) + _log_uniform(rng, 0.1, 3) * level(rng, rows)
    values = values + _log_uniform(rng, 0.02, 1) * _noise(rng, rows)
    return np.exp(rng.uniform(0.2, 0.8) * unit(values)) if rng.random() < 0.3 else values


# --- what breaks


def _segments(rng: Generator, rows: int) -> np.ndarray:
    """Numbers (T,) of two to six pieces, which rows they are of being drawn."""
    cuts = np.sort(rng.integers(1, rows, rng.integers(1, 6)))
    return np.searchsorted(cuts, np.arange(rows), side="right")


def shifts(rng: Generator, rows: int) -> np.ndarray:
    """A seasonal series whose level jumps."""
    piece = _segments(rng, rows)
    return unit(seasonal(rng, rows)) + rng.uniform(0.5, 3) * rng.standard_normal(piece.max() + 1)[piece]


def regimes(rng: Generator, rows: int) -> np.ndarray:
    """Two processes by turns, which of them being drawn piece by piece, each with a level of its own."""
    parts = np.stack([unit(process(rng, rows)) for process in (seasonal, (_noise, kernels)[rng.integers(2)])])
    piece = _segments(rng, rows)
    which = (rng.integers(2) + np.arange(piece.max() + 1)) % 2
    levels, scales = rng.standard_normal(2), np.exp(0.5 * rng.standard_normal(2))
    return (levels[:, None] + scales[:, None] * parts)[which[piece], np.arange(rows)]


def intermittent(rng: Generator, rows: int) -> np.ndarray:
    """Demands now and then and 0 else (Croston 1972): their rate may have a season, their sizes are counts or any."""
    rate = np.full(rows, 1 / _log_uniform(rng, 1.5, 20))
    if rng.random() < 0.5:
        rate = np.clip(rate * np.exp(season(rng, rows, period(rng))), 0, 1)
    sizes = rng.geometric(rng.uniform(0.1, 0.8), rows) if rng.random() < 0.6 else rng.lognormal(0, 0.8, rows)
    return np.where(rng.random(rows) < rate, sizes, 0.0)


# --- the panel


class Kind(NamedTuple):
    """A kind of series, and its share of a panel."""

    share: float
    process: Process


KINDS = {
    "seasonal": Kind(0.46, seasonal),
    "kernels": Kind(0.20, kernels),
    "shifts": Kind(0.08, shifts),
    "regimes": Kind(0.05, regimes),
    "autoregressive": Kind(0.06, autoregressive),
    "random_walk": Kind(0.06, random_walk),
    "heteroscedastic": Kind(0.03, heteroscedastic),
    "intermittent": Kind(0.06, intermittent),
}


def _measured(rng: Generator, values: np.ndarray) -> np.ndarray:
    """Values as an instrument may give them: now and then with outliers, cut off from below, or rounded."""
    how = rng.random(3)
    values = unit(values)
    if how[0] < 0.1:
        wrong = rng.random(len(values)) < rng.uniform(0.001, 0.01)
        values = np.where(wrong, values + 2 * rng.standard_t(3, len(values)), values)
    if how[1] < 0.08:
        values = np.maximum(values, np.quantile(values, rng.uniform(0.05, 0.5)))
    if how[2] < 0.1:
        step = _log_uniform(rng, 0.02, 0.5)
        values = np.round(values / step) * step
    return values


class Synthetic(NamedTuple):
    """One drawn series."""

    kind: str
    values: np.ndarray  # (T,)


def synthetic(seed: int, number: int, rows: int) -> Synthetic:
    """Series ``number`` of a seed; finite and not constant."""
    rng = np.random.default_rng([seed, number])
    names = list(KINDS)
    kind = names[rng.choice(len(names), p=[KINDS[name].share for name in names])]
    while True:
        values = _measured(rng, KINDS[kind].process(rng, rows))
        if np.isfinite(values).all() and np.ptp(values) > 0:
            return Synthetic(kind, values)


class Panel(NamedTuple):
    """So many series of a seed, each of so many rows."""

    seed: int
    size: int
    rows: int


def panel_named(path: str) -> Panel:
    """What ``synthetic:SEED/COUNT/LENGTH`` names.

    Raises:
        UsageError: if it is written otherwise, or has fewer than two series, or too few rows.
    """
    found = re.fullmatch(rf"{DRAWN}(\d+)/(\d+)/(\d+)", path)
    panel = Panel(*map(int, found.groups())) if found else Panel(0, 0, 0)
    if panel.size < 2 or panel.rows < SHORTEST:
        raise UsageError(
            f"{path}: write {DRAWN}SEED/COUNT/LENGTH, such as {DRAWN}0/100000/1024: two series or more, each of "
            f"{SHORTEST} rows or more."
        )
    return panel


class DrawnWindows:
    """One window of each series of a panel, drawn when it is asked for: a panel of any size takes no memory.

    Items are those of `SeriesWindows` for one column. In training a window lies anywhere in its series, else at its
    end.

    Args:
        panel: the series, of at least ``lookback + horizon`` rows.
        numbers: of those that are taken.
        lookback: L rows.
        horizon: H rows.
        open: rows of a patch, for a model that reads streams; else 0.
    """

    def __init__(self, panel: Panel, numbers: range, lookback: int, horizon: int, open: int = 0):
        self.panel, self.numbers, self.lookback, self.horizon, self.open = panel, numbers, lookback, horizon, open
        self.times = START + np.arange(panel.rows) * np.timedelta64(1, "h")

    def __len__(self) -> int:
        return len(self.numbers)

    def series(self, index: int) -> Series:
        """The series that item ``index`` is of."""
        number = self.numbers[index]
        kind, values = synthetic(self.panel.seed, number, self.panel.rows)
        return Series(f"{kind}-{number}", self.times, values[:, None], (COLUMN,), STEP)

    def item(self, index: int, rng: Generator | None) -> Item:
        """A window of series ``index``, with random numbers at any place."""
        windows = SeriesWindows(
            [self.series(index)], [(0, self.panel.rows)], self.lookback, self.horizon, open=self.open
        )
        return windows.item(len(windows) - 1 if rng is None else int(rng.integers(len(windows))), rng)

    def collate(self, items: list[Item]) -> Item:
        """Batch as that of `SeriesWindows`."""
        return {name: np.stack([item[name] for item in items]) for name in items[0]}
