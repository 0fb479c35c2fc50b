"""Scores of every row of a series: how far it lies from its forecast, and how much it surprised the memory."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from titans_seq.checkpoint import SequenceModel
from titans_seq.data.windows import SeriesWindows
from titans_seq.data.write import Row
from titans_seq.memory import recorded_surprise
from titans_seq.stream import Point, Steps
from titans_seq.stream.series import Streams, series_steps, window_steps

LEAST_WIDTH = 0.01  # of an interval, in standard deviations: who is surer is sure of rounding


def step_of(task: Any) -> int:
    """Rows from one forecast to the next: a part of a token's rows that the horizon covers."""
    most = min(task.stride, task.horizon)
    return next(step for step in range(most, 0, -1) if task.stride % step == 0)


class Scored(NamedTuple):
    """Scores of some rows of one series, each (n, C); NaN where there is none."""

    series: int
    start: int  # first of the rows
    mean: np.ndarray
    residual: np.ndarray
    surprise: np.ndarray


class _Band(NamedTuple):
    """The forecast of the rows up to the next origin, each (step, C)."""

    mean: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


class _Surprise:
    """Surprise of the last token that a model has read, one window after another."""

    def __init__(self, seen: list[list[Tensor]], channels: int):
        self.seen, self.channels = seen, channels
        self.waiting: list[np.ndarray] = []

    def next(self) -> np.ndarray:
        """(C,) of the next window of the batch that was read; NaN of a model without a memory that learns."""
        if not self.seen:
            return np.full(self.channels, np.nan)
        if any(self.seen):
            last = torch.stack([calls[-1][..., -1].mean(1) for calls in self.seen]).mean(0)  # over heads and blocks
            rows = last.double().cpu().numpy().reshape(-1, 1 if len(last) % self.channels else self.channels)
            self.waiting = list(rows)
            for calls in self.seen:
                calls.clear()
        return np.broadcast_to(self.waiting.pop(0), (self.channels,))


def residual(y: np.ndarray, band: _Band, scale: np.ndarray) -> np.ndarray:
    """How far y (n, C) lies from the middle of its band, in widths of the half that it lies in, (n, C).

    1 is the end of the interval that the model told, on both sides; NaN where y is missing.
    """
    above = y >= band.middle
    half = np.where(above, band.high - band.middle, band.middle - band.low)
    found: np.ndarray = np.abs(y - band.middle) / np.maximum(half, LEAST_WIDTH * scale)
    return found


class Walk:
    """Forecasts of windows `step_of` rows apart, as scores of the rows between them.

    A row's residual is of the last forecast before it. Its surprise is of the token that ends the stretch up to the
    next origin, ‖∂ℓ/∂W‖ at the memory that the token met, as the model read it there: the mean over heads and blocks.

    Args:
        model: of a forecasting task.
        windows: at origins `step_of` rows apart.
        ends: rows of each series that are to be scored.
        scales: (C,) of each series, a standard deviation.
        emit: makes the rows of a file of scores.
    """

    def __init__(
        self,
        model: SequenceModel,
        windows: SeriesWindows,
        ends: list[int],
        scales: list[np.ndarray],
        emit: Callable[[Scored], list[Row]],
    ):
        self.model, self.windows, self.ends, self.scales, self.emit = model, windows, ends, scales, emit
        self.step, self.channels = step_of(model.task), len(model.task.channels)
        self.band = torch.zeros(4, self.step, self.channels, dtype=torch.float64)  # of the last origin

    def steps(self, streams: Streams | None, batch_size: int, point: Point) -> Steps:
        """Rows of a file, in order; `Point.carried` holds the last forecast beside what ``streams`` carry."""
        if point.carried is not None:
            self.band.copy_(point.carried[0])
            point = point._replace(carried=point.carried[1])
        with recorded_surprise(self.model) as seen:
            surprise = _Surprise(seen, self.channels)

            def describe(number: int, forecast: dict[str, np.ndarray]) -> list[Row]:
                return [row for part in self._scored(number, forecast, surprise.next()) for row in self.emit(part)]

            inner = (
                window_steps(self.model, self.windows, describe, batch_size, point)
                if streams is None
                else series_steps(self.model, self.windows, describe, streams, point)
            )
            for rows, after in inner:
                yield rows, after._replace(carried=(self.band, after.carried))

    def template(self, streams: Streams | None) -> tuple[Any, ...]:
        """What a point carries."""
        return self.band, streams and streams.carried(0)

    def _scored(self, number: int, forecast: dict[str, np.ndarray], surprise: np.ndarray) -> Iterator[Scored]:
        """Scores of the rows up to the origin of window ``number``; with a series' last one also of those behind it."""
        which, origin = self.windows.place(number)
        origins, end = self.windows.origins[which], self.ends[which]
        if origin == origins[0]:
            nothing = np.full((max(0, origin - self.step), self.channels), np.nan)
            if len(nothing):
                yield Scored(which, 0, nothing, nothing, nothing)
            self.band.fill_(np.nan)
        start = max(0, origin - self.step)
        yield self._part(which, start, origin, np.broadcast_to(surprise, (origin - start, self.channels)))
        columns = (forecast["mean"], forecast[self.model.task.median], *self._interval(which, forecast))
        self.band.copy_(torch.from_numpy(np.stack([c[: self.step] for c in columns])))
        if origin == origins[-1] and origin < end:
            yield self._part(which, origin, end, np.full((end - origin, self.channels), np.nan))

    def _part(self, which: int, start: int, end: int, surprise: np.ndarray) -> Scored:
        band = _Band(*self.band[:, : end - start].numpy().copy())
        s = self.windows.series[which]
        y = np.where(s.observed[start:end], s.target[start:end], np.nan)
        return Scored(which, start, band.mean, residual(y, band, self.scales[which]), surprise)

    def _interval(self, which: int, forecast: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The widest interval that the model tells; one standard deviation to each side, where it tells none.

        That of its quantiles where it has them: conformal margins may be below 0, and leave of some of a model's
        intervals next to nothing, which the threshold on residuals would then be made of.
        """
        names = self.model.task.names
        calibrated = [name[3:] for name in names if name.startswith("lo-")]
        quantiles = [name for name in names if name.startswith("q")]
        if quantiles:
            return forecast[quantiles[0]], forecast[quantiles[-1]]
        if calibrated:
            return forecast[f"lo-{calibrated[-1]}"], forecast[f"hi-{calibrated[-1]}"]
        return forecast["mean"] - self.scales[which], forecast["mean"] + self.scales[which]
