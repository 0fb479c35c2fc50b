"""The verbs of the series field: forecast what comes, and backtest what came."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from titans_seq import baselines
from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import Series
from titans_seq.data.sources import SeriesSource
from titans_seq.data.times import future_times
from titans_seq.data.windows import SeriesWindows
from titans_seq.data.write import Row
from titans_seq.errors import InputError, UsageError
from titans_seq.resources import data_file
from titans_seq.run import dry, finished, identity, load, prepare, reading_of, write
from titans_seq.stream import window_steps
from titans_seq.training.evaluation import evaluate


def predict(
    source: str,
    path: str,
    out: Path,
    *,
    quantiles: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    **reading: Any,
) -> dict[str, Any]:
    """Forecast what follows the last row of each series, into ``out``; ``reading`` is of `SeriesSource`."""
    if finished(out, overwrite, resume):
        return {"out": str(out), "already_finished": True}
    model = load(source, prepare(device, threads, seed), "forecast")
    task = model.task
    series = _read(source, model, path, reading, task.lookback)
    _must_reach(path, series, task.lookback)
    series = [_extended(s, task.horizon, task.frequency) for s in series]
    spans = [(len(s.times) - task.horizon, len(s.times)) for s in series]
    items = SeriesWindows(series, spans, task.lookback, task.horizon)
    columns = _columns(task, quantiles)
    if dry_run:
        return dry(model, series=len(series), windows=len(items))

    def describe(number: int, forecast: dict[str, np.ndarray]) -> list[Row]:
        s, future = _place(items, number)
        return [
            {"unique_id": _name(s, c), "ds": _stamp(s.times[t]), **_values(forecast, columns, h, c)}
            for c in range(len(s.columns))
            for h, t in enumerate(future)
        ]

    rows = _write(source, model, path, out, items, describe, batch_size, resume, quantiles=quantiles)
    return {"out": str(out), "series": len(series), "rows": rows}


def backtest(
    source: str,
    path: str,
    out: Path,
    *,
    windows: int,
    step: int | None = None,
    quantiles: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    **reading: Any,
) -> dict[str, Any]:
    """Forecast from ``windows`` origins at the end of each series, into ``out``, and measure beside seasonal naive.

    The last window ends with the series' last row; origins are ``step`` rows apart, the horizon if None.
    """
    if finished(out, overwrite, resume):
        return {"out": str(out), "already_finished": True}
    model = load(source, prepare(device, threads, seed), "forecast")
    task = model.task
    step = step or task.horizon
    behind = task.horizon + (windows - 1) * step
    series = _read(source, model, path, reading, task.lookback + behind)
    _must_reach(path, series, task.lookback + behind)
    spans = [(len(s.times) - behind, len(s.times)) for s in series]
    items = SeriesWindows(series, spans, task.lookback, task.horizon, step)
    columns = _columns(task, quantiles)
    if dry_run:
        return dry(model, series=len(series), windows=len(items))

    def describe(number: int, forecast: dict[str, np.ndarray]) -> list[Row]:
        s, future = _place(items, number)
        cutoff = _stamp(s.times[future[0] - 1])
        return [
            {
                "unique_id": _name(s, c),
                "ds": _stamp(s.times[t]),
                "cutoff": cutoff,
                "y": None if np.isnan(s.values[t, c]) else float(s.values[t, c]),
                **_values(forecast, columns, h, c),
            }
            for c in range(len(s.columns))
            for h, t in enumerate(future)
        ]

    season = task.season or baselines.season_of(task.frequency)
    naive = baselines.errors(task, items, baselines.seasonal_naive(items, season))
    found = {
        "out": str(out),
        "protocol": {
            "lookback": task.lookback,
            "horizon": task.horizon,
            "step": step,
            "windows": len(items),
            "dropped": 0,
            "units": "training standard deviations",
        },
        "model": evaluate(model, items, batch_size, "backtest"),
        "seasonal_naive": {**naive, "season": season},
    }
    rows = _write(
        source, model, path, out, items, describe, batch_size, resume, quantiles=quantiles, windows=windows, step=step
    )
    return {**found, "rows": rows}


def _write(
    source: str,
    model: SequenceModel,
    path: str,
    out: Path,
    items: SeriesWindows,
    describe: Callable[[int, dict[str, np.ndarray]], list[Row]],
    batch_size: int,
    resume: bool,
    **options: Any,
) -> int:
    return write(
        out,
        lambda point: window_steps(model, items, describe, batch_size, point),
        identity(source, [data_file(path)], batch_size=batch_size, **options),
        resume=resume,
    )


def _read(source: str, model: SequenceModel, path: str, reading: dict[str, Any], rows: int) -> list[Series]:
    """Series of a table, with the columns and the frequency that the model was trained on."""
    options = reading_of(source) | {name: value for name, value in reading.items() if value}
    series, frequency = SeriesSource.of_file(path, **options).read(min_rows=rows)
    task = model.task
    if missing := [c for c in task.channels if c not in series[0].columns]:
        raise InputError(f"{path} lacks the column {', '.join(missing)} that the model was trained on.")
    if frequency != task.frequency:
        raise InputError(
            f"{path} has one row every {frequency}; the model was trained on one every {task.frequency}. "
            "Resample the table, or train on this frequency."
        )
    order = [series[0].columns.index(c) for c in task.channels]
    return [Series(s.id, s.times, s.values[:, order], task.channels) for s in series]


def _must_reach(path: str, series: list[Series], rows: int) -> None:
    for s in series:
        if len(s.times) < rows:
            raise InputError(
                f"{path}: series {s.id or 'of this table'} has {len(s.times)} rows, {rows} are needed. "
                "Give more rows, or ask for fewer windows."
            )


def _extended(series: Series, horizon: int, frequency: str) -> Series:
    """The series with its future timestamps, where all is missing."""
    times = np.concatenate([series.times, future_times(series.times[-1], frequency, horizon)])
    empty = np.full((horizon, series.values.shape[1]), np.nan)
    return Series(series.id, times, np.concatenate([series.values, empty]), series.columns)


def _place(items: SeriesWindows, number: int) -> tuple[Series, range]:
    """The series of a window, and the rows of its future."""
    which, t = items.place(number)
    return items.series[which], range(t, t + items.horizon)


def _stamp(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="us")).replace("T", " ").removesuffix(".000000")


def _name(series: Series, channel: int) -> str:
    """unique_id of one column: its name in a wide table, the series' id in a long one."""
    column = series.columns[channel]
    if not series.id:
        return column
    return series.id if len(series.columns) == 1 else f"{series.id}:{column}"


def _values(forecast: dict[str, np.ndarray], columns: list[str], h: int, c: int) -> dict[str, float]:
    return {name: float(forecast[name][h, c]) for name in columns}


def _columns(task: Any, quantiles: str | None) -> list[str]:
    """Columns of the prediction file: the mean, and the quantiles that are asked for."""
    known = [f"q{level:g}" for level in task.output.levels] if len(task.output.levels) > 1 else []
    if not quantiles:
        return ["mean", *known]
    try:
        wanted = [f"q{float(part):g}" for part in quantiles.split(",")]
    except ValueError:
        raise UsageError(f"--quantiles {quantiles}: give numbers between commas, such as 0.1,0.5,0.9.") from None
    if lacking := [name for name in wanted if name not in known]:
        raise UsageError(
            f"The model has no quantile {', '.join(lacking)}. It has {', '.join(known) or 'only a point forecast'}."
        )
    return ["mean", *wanted]
