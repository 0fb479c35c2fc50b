"""Forecasts of series: of windows, each read anew, and of streams, each read once with its memory carried on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.sources import own_moments
from titans_seq.data.windows import SeriesWindows, stream_rows
from titans_seq.data.write import Row
from titans_seq.errors import InputError, ModelError
from titans_seq.memory_state import MemoryState
from titans_seq.stream import Point, Steps, must_be_finite
from titans_seq.tasks.forecasting import Opened, Scaled

PATCHES = 512  # of a series that are read at once: running sums take the square of it


class Units(NamedTuple):
    """Affine map of a series from the data's units, (T, C) or (H, C), to those that a model reads."""

    own: Any  # (C,) mean of its rows before the first forecast
    read: Any  # (C,) what that becomes
    factor: Any

    def read_from(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the model reads them."""
        found: np.ndarray = (rows - self.own) * self.factor + self.read
        return found

    def told(self, forecast: np.ndarray) -> np.ndarray:
        """A forecast in the data's units."""
        found: np.ndarray = (forecast - self.read) / self.factor + self.own
        return found


def _units(task: Any, windows: SeriesWindows) -> Callable[[int], Units]:
    """Units by number of the series.

    To a model for any table each series has the table's mean and deviation, so that its forecast does not depend on
    the others, whose deviation may be a million times as large. The model of one table knows its series as they are.
    """

    @lru_cache(maxsize=1024)
    def of(number: int) -> Units:
        if not task.zero_shot:
            return Units(0.0, 0.0, 1.0)
        location, scale = own_moments(windows.series[number], int(windows.origins[number][0]))
        return Units(np.array(location), np.array(task.location), np.array(task.scale) / np.array(scale))

    return of


@torch.inference_mode()
def window_steps(
    model: SequenceModel,
    windows: SeriesWindows,
    describe: Callable[[int, dict[str, np.ndarray]], list[Row]],
    batch_size: int,
    point: Point,
) -> Steps:
    """Rows of forecasts for the windows in order; ``describe`` makes the rows of one from its columns (H, C)."""
    device, units = next(model.parameters()).device, _units(model.task, windows)
    while point.done < len(windows):
        numbers = range(point.done, min(point.done + batch_size, len(windows)))
        own = [units(windows.place(n)[0]) for n in numbers]
        items = [windows.item(n, None) for n in numbers]
        items = [item | {"past": unit.read_from(item["past"])} for item, unit in zip(items, own, strict=True)]
        batch = to_tensors(windows.collate(items), device)
        output = rolled(model, batch, windows.horizon)
        must_be_finite(output, (f"window {n + 1}" for n in numbers))
        columns = {name: v.cpu().numpy() for name, v in model.task.columns(output).items()}
        ready = [
            row
            for i, (n, unit) in enumerate(zip(numbers, own, strict=True))
            for row in describe(n, {c: unit.told(v[i]) for c, v in columns.items()})
        ]
        point = Point(numbers[-1] + 1, 0, point.tokens + batch["past"][..., 0].numel())
        yield ready, point


def rolled(model: SequenceModel, batch: dict[str, Tensor], horizon: int) -> Tensor:
    """Forecast (B, H', C, K) of any number of rows, in training standard deviations.

    Fewer than the model's H are its first. More are forecast H at a time, and each block reads the points (medians)
    of those before it as if they had been observed: so its quantiles leave out how uncertain these are.

    Args:
        model: of a forecasting task that reads windows.
        batch: of windows, with what is ``known`` beforehand of all H' rows.
        horizon: H' rows.
    """
    task, rows = model.task, batch["past"].shape[1]
    blocks = [model(_ahead_of(batch, rows, task.horizon))]
    for _ in range(task.horizon, horizon, task.horizon):
        new = _points(task, blocks[-1]).to(batch["past"])
        following = {"past": new, "observed": torch.ones_like(new, dtype=torch.bool)}
        if "past_only" in batch:
            following["past_only"] = torch.full_like(new[..., :1], torch.nan).expand(
                -1, -1, batch["past_only"].shape[2]
            )
        batch = batch | {name: torch.cat([batch[name], part], 1)[:, -rows:] for name, part in following.items()}
        if "known" in batch:
            batch["known"] = batch["known"][:, task.horizon :]
        blocks.append(model(_ahead_of(batch, rows, task.horizon)))
    return torch.cat(blocks, 1)[:, :horizon]


def _ahead_of(batch: dict[str, Tensor], rows: int, horizon: int) -> dict[str, Tensor]:
    """A batch with exactly so much of what is known: of rows that nobody asks for it is missing."""
    if "known" not in batch:
        return batch
    known = batch["known"][:, : rows + horizon]
    lacking = rows + horizon - known.shape[1]
    return batch | {"known": torch.nn.functional.pad(known, (0, 0, 0, lacking), value=torch.nan)}


def _points(task: Any, output: Tensor) -> Tensor:
    """Points (B, H, C) of a forecast (B, H, C, Q), in the data's units."""
    location, scale = (output.new_tensor(s, dtype=torch.float64) for s in (task.location, task.scale))
    points: Tensor = task.output.point(output).double() * scale + location
    return points


class SeriesState(NamedTuple):
    """All that the stream of one series hands on."""

    rows: int  # read
    memory: MemoryState  # of the patches that are closed
    running: Tensor  # (1, 3, C) moments of the rows in them
    values: Tensor  # (1, P, C + E) float64 of the open patch and its covariates, in the data's units; 0 where nothing
    observed: Tensor  # (1, P, C + E) was observed


class Forecaster:
    """Reads the rows of one series as they come, and forecasts at any row what follows it.

    The patch that holds the last row is open: it is kept, read anew for each forecast, and written to the memory
    when the row behind it comes. What is forecast does not depend on how rows were cut into updates.

    Args:
        model: of a forecasting task that reads streams.
        state: where an earlier `Forecaster` stopped; None for a series that begins.
        static: (S,) covariates of the series as a whole, where the model has such; missing ones if not given.

    Raises:
        ModelError: if the model reads windows.
    """

    state: SeriesState

    def __init__(self, model: SequenceModel, state: SeriesState | None = None, static: np.ndarray | None = None):
        if getattr(model.task, "reads", None) != "stream":
            raise ModelError(
                "This model has no state to carry from row to row: it reads a window anew for each forecast. "
                "Train one that reads streams: titans-seq forecast train ... --set task.reads=stream."
            )
        self.model = model.eval()
        self.state = initial_series(model) if state is None else state
        of_series = len(model.task.covariates.location) - model.task.beside
        given = np.full(of_series, np.nan) if static is None else np.asarray(static, np.float64)
        self.static = torch.from_numpy(given).to(self.state.values.device)[None] if of_series else None

    def _read(self, values: Tensor, observed: Tensor) -> tuple[Tensor, Scaled, MemoryState, Tensor]:
        """Read whole patches (1, N P, C) after the closed ones: hidden rows, scales, and the two states after them."""
        scaled, running = self.model.head.scaled(values, observed, self.state.running, self.static)
        hidden, memory = self.model.backbone(scaled.features, self.state.memory)
        return hidden, scaled, memory, running

    def _filled(self) -> int:
        """Rows of the open patch, 1 to P; 0 before any row."""
        return (self.state.rows - 1) % self.model.task.patch + 1 if self.state.rows else 0

    @torch.inference_mode()
    def update(self, rows: np.ndarray) -> None:
        """Read rows (T, C) in the data's units, NaN where nothing was observed.

        Covariates of rows stand behind the channels, (T, C + K + P): what is known beforehand, then what is not.
        """
        state, patch = self.state, self.model.task.patch
        if rows.ndim != 2 or rows.shape[1] != state.values.shape[2]:
            beside = f" + {self.model.task.beside} covariates" if self.model.task.beside else ""
            C = len(self.model.task.channels)
            raise ValueError(f"rows must have shape (T, C) with C = {C}{beside}, got {rows.shape}.")
        if np.isinf(rows).any():
            raise InputError("A row holds an infinite value. Mend it, or give NaN where nothing was observed.")
        new = torch.from_numpy(np.array(rows, np.float64)).to(state.values.device)[None]
        values = torch.cat([state.values[:, : self._filled()], new.nan_to_num()], 1)
        observed = torch.cat([state.observed[:, : self._filled()], new.isfinite()], 1)
        closed = max(0, values.shape[1] - 1) // patch * patch
        for start in range(0, closed, PATCHES * patch):
            part = slice(start, min(closed, start + PATCHES * patch))
            _, _, memory, running = self._read(values[:, part], observed[:, part])
            self.state = self.state._replace(memory=memory, running=running)
        rest = (0, 0, 0, patch - (values.shape[1] - closed))
        self.state = self.state._replace(
            rows=state.rows + len(rows),
            values=torch.nn.functional.pad(values[:, closed:], rest),
            observed=torch.nn.functional.pad(observed[:, closed:], rest),
        )

    @torch.inference_mode()
    def output(self, known: np.ndarray | None = None, horizon: int | None = None) -> Tensor:
        """Forecast (1, H, C, Q) of the rows after the last, in training standard deviations.

        Args:
            known: (H, K) what is known of these rows beforehand, NaN where it is missing.
            horizon: H, the model's own if not given; of more rows each block of so many is read before the next is
                forecast, as in `rolled`. The stream itself stays where it is.
        """
        task, H = self.model.task, self.model.task.horizon
        horizon = horizon or H
        if not self.state.rows:
            raise ValueError("There is no row yet to forecast from: call update first.")
        beside = np.zeros((horizon, 0)) if known is None and not task.known else known
        if beside is None or beside.shape != (horizon, task.known):
            given, shape = "nothing" if beside is None else beside.shape, (horizon, task.known)
            raise ValueError(f"What is known of the rows to be forecast must have shape (H, K) = {shape}, got {given}.")
        nothing = np.full((-horizon % H, task.known), np.nan)  # is known of rows that nobody asks for
        parts = np.split(np.concatenate([beside, nothing]), -(-horizon // H))
        reader, blocks = self, [self._block(parts[0])]
        static = None if self.static is None else self.static[0].cpu().numpy()
        for before, part in pairwise(parts):
            points = _points(task, blocks[-1])[0].cpu().numpy()
            reader = Forecaster(self.model, reader.state, static)
            reader.update(np.concatenate([points, before, np.full((H, task.beside - task.known), np.nan)], 1))
            blocks.append(reader._block(part))
        return torch.cat(blocks, 1)[:, :horizon]

    def _block(self, known: np.ndarray) -> Tensor:
        """Forecast of the model's own horizon."""
        hidden, scaled, _, _ = self._read(self.state.values, self.state.observed)
        ahead = self.model.head.beside.ahead(torch.from_numpy(known).to(hidden)[None, None]) if known.size else None
        found: Tensor = self.model.head.result(Opened(hidden, scaled.location, scaled.scale, self._filled(), ahead))
        return found

    def forecast(self, known: np.ndarray | None = None, horizon: int | None = None) -> dict[str, np.ndarray]:
        """Columns ``mean``, ``q0.1`` ... of the next H rows, each (H, C) in the data's units; arguments as `output`."""
        return {name: v[0].cpu().numpy() for name, v in self.model.task.columns(self.output(known, horizon)).items()}


@torch.inference_mode()
def initial_series(model: SequenceModel) -> SeriesState:
    """State of a series of which nothing was read, under a model that reads streams."""
    task = model.task
    device = next(model.parameters()).device
    return SeriesState(
        0,
        model.backbone.initial_state(len(task.channels) if task.apart else 1),
        model.head.initial_running(1),
        torch.zeros(1, task.patch, len(task.channels) + task.beside, dtype=torch.float64, device=device),
        torch.zeros(1, task.patch, len(task.channels) + task.beside, dtype=torch.bool, device=device),
    )


@dataclass
class Streams:
    """The streams of a job over several series; it changes as the job runs, and `Point.carried` is taken from it.

    ``states`` and ``starts`` are of each series: where its stream stands, and how many of its rows were read before
    the job. With ``keep`` the states of series that are finished stay; else ``begin``, the state of any series that
    begins, takes their place.
    """

    begin: SeriesState
    states: list[SeriesState]
    starts: list[int]
    keep: bool = False

    def close(self, number: int) -> None:
        """Series ``number`` is finished."""
        if not self.keep:
            self.states[number] = self.begin

    def carried(self, number: int) -> tuple[Any, ...]:
        """What must be saved while series ``number`` is open; also the form in which it is read again."""
        return tuple(self.states) if self.keep else (self.states[number],)

    def restore(self, number: int, states: tuple[Any, ...]) -> None:
        """Go back to what was saved."""
        self.states[:] = states if self.keep else [*self.states[:number], *states, *self.states[number + 1 :]]


def series_steps(
    model: SequenceModel,
    windows: SeriesWindows,
    describe: Callable[[int, dict[str, np.ndarray]], list[Row]],
    streams: Streams,
    point: Point,
) -> Steps:
    """Rows of forecasts at the origins of the windows in order, each series read once from left to right.

    A model that is for any table reads the look-back before each origin alone, or as much of it as there is: it was
    trained on no longer streams, and no state of a table is kept.
    """
    longest, zero_shot, units = PATCHES * model.task.patch, model.task.zero_shot, _units(model.task, windows)

    def carried(done: int) -> tuple[int, tuple[Any, ...]]:
        """The series that is open when so many windows are done, and what is saved of it."""
        number, _ = windows.place(min(done, len(windows) - 1))
        return number, streams.carried(number)

    if point.carried is not None:
        streams.restore(carried(point.done)[0], point.carried)
    while point.done < len(windows):
        number, origin = windows.place(point.done)
        series = windows.series[number]
        reader = Forecaster(model, streams.begin if zero_shot else streams.states[number], series.static)
        if zero_shot:  # each forecast begins anew
            at, end = max(0, origin - model.task.lookback), origin
            reader.update(units(number).read_from(stream_rows(series, at, end)))
        else:
            at = max(point.inside, streams.starts[number])
            end = min(origin, at + longest)
            reader.update(stream_rows(series, at, end))
            streams.states[number] = reader.state
        if end < origin:
            point = Point(point.done, end, point.tokens + end - at, carried(point.done)[1])
            yield [], point
            continue
        output = reader.output(series.known_future[origin : origin + windows.horizon], windows.horizon)
        must_be_finite(output, [f"window {point.done + 1}"])
        columns = {name: units(number).told(v[0].cpu().numpy()) for name, v in model.task.columns(output).items()}
        ready = describe(point.done, columns)
        following, saved = carried(point.done + 1)
        # behind the last window nothing is open: who goes on reads each series from its first row
        inside = origin if following == number and point.done + 1 < len(windows) else 0
        if following != number:
            streams.close(number)
        point = Point(point.done + 1, inside, point.tokens + end - at + 1, saved)
        yield ready, point
