"""The verbs of the series field: forecast what comes, and backtest what came."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_seq import baselines
from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import Series, quoted
from titans_seq.data.series import SeriesTable
from titans_seq.data.sources import SeriesSource
from titans_seq.data.times import future_times
from titans_seq.data.windows import SeriesWindows
from titans_seq.data.write import Row, read_numbers
from titans_seq.errors import InputError, ModelError, UsageError, warn
from titans_seq.memory import NeuralMemory, recorded_surprise, taken_surprise
from titans_seq.memory_state import load_state, read_state, save_state
from titans_seq.resources import data_file
from titans_seq.run import about, check_state_files, dry, finished, identity, keep, load, reading_of, write
from titans_seq.stream import Point, Steps
from titans_seq.stream.series import Forecaster, Streams, initial_series, series_steps, window_steps
from titans_seq.training.evaluation import evaluate

__all__ = ["Forecaster", "backtest", "predict"]

Describe = Callable[[int, dict[str, np.ndarray]], list[Row]]


def predict(
    source: str,
    path: str,
    out: Path,
    *,
    future: str | None = None,
    quantiles: str | None = None,
    state_in: Path | None = None,
    state_out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    **reading: Any,
) -> dict[str, Any]:
    """Forecast what follows the last row of each series, into ``out``; ``reading`` is of `SeriesSource`.

    ``future`` is a table of what is known beforehand, where the table itself does not tell it.
    A model that reads streams goes on from ``state_in``, as if the table's rows stood below those that it has read,
    and leaves where it stands in ``state_out``.
    """
    if finished(out, overwrite, resume):
        if state_out is not None and not state_out.is_file():
            raise UsageError(f"{out} is finished and {state_out} is not there. To make it again add --overwrite.")
        return {"out": str(out), "already_finished": True}
    check_state_files(state_in, state_out, overwrite or resume)
    model = load(source, "forecast", device, threads, seed)
    task = model.task
    if state_in or state_out:
        _must_stream(source, model)
    table = _read(source, model, path, reading, task.before, known=state_in is not None, future=future)
    series = list(table.series)
    _must_reach(path, series, task.before)
    streams = None
    if task.reads == "stream":
        streams = _streams(model, series)
        if state_in:
            _continue(streams, state_in, source, model, path, table)
        streams.keep = state_out is not None
    series = [_extended(s, task, path) for s in series]
    spans = [(len(s) - task.horizon, len(s)) for s in series]
    items = SeriesWindows(series, spans, task.before, task.horizon)
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

    def keep_state(point: Point) -> None:
        if streams is not None and state_out is not None:
            save_state(tuple(streams.states), state_out, about(source, **_facts(model, series)))

    inputs = [data_file(path), *([data_file(future)] if future else []), *([state_in] if state_in else [])]
    rows = write(
        out,
        lambda point: _steps(model, items, describe, batch_size, streams, point),
        identity(source, inputs, batch_size=batch_size, quantiles=quantiles, state_out=state_out),
        resume=resume,
        template=_template(streams),
        at_end=keep_state,
    )
    found = {"out": str(out), "series": len(series), "rows": rows}
    return found if state_out is None else {**found, "state": str(state_out)}


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

    The last window ends with the series' last row; origins are ``step`` rows apart, the horizon if None. What is found
    is kept in the model's run folder, if it has one, for the run's report.
    """
    if finished(out, overwrite, resume):
        return {"out": str(out), "already_finished": True}
    model = load(source, "forecast", device, threads, seed)
    task = model.task
    step = step or task.horizon
    behind = task.horizon + (windows - 1) * step
    series = list(_read(source, model, path, reading, task.before + behind).series)
    _must_reach(path, series, task.before + behind)
    spans = [(len(s) - behind, len(s)) for s in series]
    items = SeriesWindows(series, spans, task.before, task.horizon, step)
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
                "y": float(s.target[t, c]) if s.observed[t, c] else None,
                **_values(forecast, columns, h, c),
            }
            for c in range(len(s.columns))
            for h, t in enumerate(future)
        ]

    season = task.season or baselines.season_of(task.frequency)
    repeated = baselines.seasonal_naive(items, season)
    naive = baselines.errors(task, items, repeated)
    streams = _streams(model, series, len(items)) if task.reads == "stream" else None
    measured = evaluate(model, items, batch_size, "backtest") if streams is None else None
    rows = write(
        out,
        lambda point: _steps(model, items, describe, batch_size, streams, point),
        identity(source, [data_file(path)], batch_size=batch_size, quantiles=quantiles, windows=windows, step=step),
        resume=resume,
        template=_template(streams),
    )
    found = {
        "out": str(out),
        "protocol": {
            "lookback": task.lookback if streams is None else "all rows",
            "horizon": task.horizon,
            "step": step,
            "windows": len(items),
            "dropped": 0,
            "units": "training standard deviations",
        },
        "model": measured if streams is None else task.metrics(streams.scores),
        "seasonal_naive": {**naive, "season": season},
        "rows": rows,
    }
    shape = (len(items), len(task.channels), task.horizon, 1 + len(columns))

    def drawn() -> dict[str, Any]:
        surprise = {} if streams is None else {"surprise": _surprise(model, series[0])}
        return _drawn(task, items, columns, read_numbers(out, ["y", *columns]).reshape(shape), repeated) | surprise

    keep(source, "backtest", path, found, drawn, windows=windows, step=step)
    return found


def _steps(
    model: SequenceModel,
    items: SeriesWindows,
    describe: Describe,
    batch_size: int,
    streams: Streams | None,
    point: Point,
) -> Steps:
    """Forecasts of windows that are read anew each, or of ``streams`` that are carried on."""
    if streams is None:
        return window_steps(model, items, describe, batch_size, point)
    return series_steps(model, items, describe, streams, point)


def _template(streams: Streams | None) -> Callable[[Point], Any]:
    return lambda point: streams and streams.carried(0)


# --- streams and their states


def _must_stream(source: str, model: SequenceModel) -> None:
    if model.task.reads != "stream":
        raise ModelError(
            f"{source} reads the last {model.task.lookback} rows anew for each forecast and has no state to carry. "
            "Leave out --state-in and --state-out, or train a model that reads streams: "
            "titans-seq forecast train TABLE ... --set task.reads=stream."
        )


def _streams(model: SequenceModel, series: list[Series], windows: int = 0) -> Streams:
    """Streams of series that begin; with ``windows`` so many are to be measured."""
    begin = initial_series(model)
    streams = Streams(begin, [begin] * len(series), [0] * len(series))
    if windows:
        C, H = len(model.task.channels), model.task.horizon
        nothing = {"future": torch.zeros(1, H, C), "future_observed": torch.zeros(1, H, C, dtype=torch.bool)}
        names = model.task.measures(torch.zeros(1, H, C, len(model.task.output.levels)), nothing)
        streams.scores = {name: np.zeros(windows) for name in names}
    return streams


def _facts(model: SequenceModel, series: list[Series]) -> dict[str, str]:
    """What a state file says of its series, which end a horizon after the rows that were read."""
    last = {s.id: _stamp(s.times[len(s) - 1 - model.task.horizon]) for s in series}
    return {"columns": json.dumps(model.task.channels), "last": json.dumps(last)}


def _last_read(file: Path) -> dict[str, np.datetime64]:
    """The time of the last row that a state file has read of each series, in the file's order."""
    _, about = read_state(file)
    try:
        return {id: np.datetime64(time, "us") for id, time in json.loads(about["last"]).items()}
    except (KeyError, ValueError, AttributeError):
        raise ModelError(f"{file} holds no state of series. Give what forecast predict --state-out wrote.") from None


def _continue(streams: Streams, file: Path, source: str, model: SequenceModel, path: str, table: SeriesTable) -> None:
    """Let streams go on where a state file stopped.

    Raises:
        ModelError: if the file is damaged, or of another model.
        InputError: if a series of the table does not go on where the file's stopped; says which.
    """
    series, last = table.series, _last_read(file)
    states = load_state(file, (streams.begin,) * len(last), about(source)["model"])
    for one, other, name, lacks in (
        (last, {s.id for s in series}, path, file),
        ({s.id for s in series}, last, file, path),
    ):
        if strange := [id for id in one if id not in other]:
            raise InputError(
                f"{name} lacks series {quoted(strange[0])}, which {lacks} holds (such series: {len(strange):,}). "
                "A state goes on with the series that it was made of: give rows of each, and of no other."
            )
    of_id = dict(zip(last, states, strict=True))
    streams.states = [of_id[s.id] for s in series]
    step = None if table.irregular else model.task.frequency
    streams.starts = [_rows_read(s, last[s.id], step, file, path) for s in series]
    if again := sum(streams.starts):
        warn(f"{path}: rows that {file} has read already: {again:,}; they are skipped, whatever they hold now.")


def _rows_read(series: Series, last: np.datetime64, frequency: str | None, file: Path, path: str) -> int:
    """Rows of a series up to ``last``, which a state has read; of a regular one the row behind ``last`` must follow."""
    called = f"{path}: series {quoted(series.id)}" if series.id else path
    read = int(np.searchsorted(series.times, last, side="right"))
    if series.times[len(series) - 1] < last:
        raise InputError(
            f"{called} ends at {_stamp(series.times[len(series) - 1])}, and {file} has read on to {_stamp(last)}. "
            "Give the rows that came after it, or an older state."
        )
    if frequency is None or read >= len(series):
        return read
    following = future_times(last, frequency, 1)[0]
    if series.times[read] != following:
        raise InputError(
            f"{called} does not go on where {file} stopped: after {_stamp(last)} the row of {_stamp(following)} is "
            f"missing, the next is of {_stamp(series.times[read])}. Give all rows, with empty fields where nothing "
            "was observed, or read the whole table without --state-in."
        )
    return read


# --- tables


def _read(
    source: str,
    model: SequenceModel,
    path: str,
    reading: dict[str, Any],
    rows: int,
    *,
    known: bool = False,
    future: str | None = None,
) -> SeriesTable:
    """Series of a table, with the columns and the frequency that the model was trained on.

    With ``known`` they go on with what was read before, so one row is enough.
    """
    task = model.task
    options = reading_of(source) | {name: value for name, value in reading.items() if value}
    given = SeriesSource.of_file(path, **options)
    vocabularies = task.covariates.vocabularies
    table = given.read(rows, task.frequency if known else None, vocabularies, future)
    if missing := [c for c in task.channels if c not in table.series[0].columns]:
        raise InputError(f"{path} lacks the column {', '.join(missing)} that the model was trained on.")
    if table.frequency != task.frequency and given.on_gap != "keep":
        raise InputError(
            f"{path} has one row every {table.frequency}; the model was trained on one every {task.frequency}. "
            "Resample the table, or train on this frequency."
        )
    if table.irregular and not task.irregular and given.on_gap != "keep":
        raise InputError(
            f"{path} is irregular; the model was trained on even steps of {task.frequency}. Resample it, or take "
            "its rows for such steps with --on-gap keep."
        )
    order = [table.series[0].columns.index(c) for c in task.channels]
    series = (
        replace(s, target=s.target[:, order], observed=s.observed[:, order], columns=task.channels)
        for s in table.series
    )
    return replace(table, series=tuple(series))


def _must_reach(path: str, series: list[Series], rows: int) -> None:
    for s in series:
        if len(s) < rows:
            raise InputError(
                f"{path}: series {s.id or 'of this table'} has {len(s)} rows, {rows} are needed. "
                "Give more rows, or ask for fewer windows."
            )


def _extended(series: Series, task: Any, path: str) -> Series:
    """The series with its future rows, where all is missing but what is known beforehand.

    Raises:
        InputError: if that stops before the horizon's end.
    """
    T, H = len(series), task.horizon
    times = np.concatenate([series.times, future_times(series.times[-1], task.frequency, H)])[: T + H]
    known = series.known_future[: T + H]
    if known.shape[1]:
        _must_be_known(series, times[T:], known[T:], task, path)
    else:
        known = np.zeros((T + H, 0), np.float32)
    return replace(
        series,
        times=times,
        target=_longer(series.target, H),
        observed=np.concatenate([series.observed, np.zeros((H, series.observed.shape[1]), bool)]),
        known_future=known,
        past_only=_longer(series.past_only, H),
    )


def _longer(values: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([values, np.full((rows, values.shape[1]), np.nan, values.dtype)])


def _must_be_known(series: Series, times: np.ndarray, known: np.ndarray, task: Any, path: str) -> None:
    """Every covariate that is known beforehand must tell the rows to be forecast, (H,) at ``times``."""
    lacking = np.ones((len(times), known.shape[1]), bool)
    lacking[: len(known)] = np.isnan(known)
    if lacking.any():
        row = int(lacking.any(1).argmax())
        name = task.covariates.column(task.covariates.known_future[int(lacking[row].argmax())])
        called = f"{path}: series {quoted(series.id)}" if series.id else path
        raise InputError(
            f"{called}: covariate {name!r} stops before the horizon's end: its first missing value is of "
            f"{_stamp(times[row])}, and a forecast reaches {_stamp(times[-1])}. Give the rows with --future TABLE, or "
            "below the others, with empty targets."
        )


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


# --- what a report draws of a backtest

BANDS = (0.5, 0.8)  # shares of the values that should lie inside
EXAMPLES, DRAWN = 6, 200  # series, and rows of each
PATCHES = 2000  # along which the memory's surprise is drawn


def _drawn(
    task: Any, items: SeriesWindows, columns: list[str], rows: np.ndarray, repeated: np.ndarray
) -> dict[str, Any]:
    """Errors by step of the horizon, how often values lie below each quantile, and forecasts of some series.

    Args:
        task: of the model.
        items: W windows.
        columns: K columns that were written of each step, ``mean`` and quantiles.
        rows: (W, C, H, 1 + K) what came, and these.
        repeated: (W, H, C) seasonal naive forecasts.
    """
    y, levels = rows[..., 0], {float(name[1:]): rows[..., 1 + i] for i, name in enumerate(columns) if name != "mean"}
    middle = levels.get(0.5, rows[..., 1 + columns.index("mean")])
    scale = np.array(task.scale)[:, None]
    errors = {"model": (middle - y) / scale, "seasonal_naive": (repeated.swapaxes(1, 2) - y) / scale}
    known = np.isfinite(y)
    return {
        "steps": {name: _by_step(error) for name, error in errors.items()},
        "calibration": [
            [level, float((y <= quantile)[known].mean())] for level, quantile in levels.items() if known.any()
        ],
        "examples": _examples(items, y, middle, levels, np.abs(errors["model"])),
    }


def _by_step(error: np.ndarray) -> dict[str, list[float]]:
    """Errors (W, C, H) at each of H steps, in training standard deviations; NaN of a step that was never observed."""
    count = np.isfinite(error).sum((0, 1))
    sums = {"mse": np.nansum(error**2, (0, 1)), "mae": np.nansum(np.abs(error), (0, 1))}
    return {name: np.where(count, total / count.clip(1), np.nan).tolist() for name, total in sums.items()}


def _examples(
    items: SeriesWindows, y: np.ndarray, middle: np.ndarray, levels: dict[float, np.ndarray], errors: np.ndarray
) -> list[dict[str, Any]]:
    """The last forecasts of some series, from the best to the worst predicted, that do not overlap."""
    places = [items.place(window) for window in range(len(items))]
    windows: dict[int, list[int]] = {}
    for window, (number, _) in enumerate(places):
        windows.setdefault(number, []).append(window)
    error = {
        (number, channel): float(np.nanmean(known)) if np.isfinite(known := errors[own, channel]).any() else np.inf
        for number, own in windows.items()
        for channel in range(y.shape[1])
    }
    ranked = sorted(error, key=lambda pair: error[pair])
    chosen = np.unique(np.linspace(0, len(ranked) - 1, EXAMPLES).round().astype(int))
    found = []
    for number, channel in (ranked[place] for place in chosen):
        series, H = items.series[number], items.horizon
        last = windows[number][-1]
        own = [w for w in windows[number] if not (places[last][1] - places[w][1]) % H][-max(1, DRAWN // (2 * H)) :]
        first = max(0, places[own[0]][1] - max(2 * H, DRAWN - len(own) * H))
        end = places[last][1] + H
        found.append(
            {
                "id": _name(series, channel),
                "mae": error[number, channel],
                "times": [_stamp(time) for time in series.times[first:end]],
                "observed": series.target[first:end, channel].tolist(),
                "forecasts": [
                    {
                        "row": places[w][1] - first,
                        "middle": middle[w, channel].tolist(),
                        "bands": _bands({level: part[w, channel] for level, part in levels.items()}),
                    }
                    for w in own
                ],
            }
        )
    return found


def _bands(levels: dict[float, np.ndarray]) -> dict[str, list[list[float]]]:
    """Lower and upper end (H,) of each of `BANDS` that the quantiles reach, in a straight line between them."""
    known = sorted(levels)
    found = {}
    for share in BANDS:
        ends = [0.5 - share / 2, 0.5 + share / 2]
        if len(known) > 1 and known[0] <= ends[0] + 1e-9 and ends[1] <= known[-1] + 1e-9:
            table = np.array([levels[level] for level in known])
            found[f"{share:g}"] = [[float(np.interp(end, known, step)) for step in table.T] for end in ends]
    return found


def _surprise(model: SequenceModel, series: Series) -> dict[str, Any]:
    """How strongly the memory had to change with each of a series' last patches, read from an empty memory."""
    patch, reader = model.task.patch, Forecaster(model)
    if not any(isinstance(module, NeuralMemory) for module in model.modules()):
        return {}
    first = max(0, len(series) - 1 - PATCHES * patch)
    with recorded_surprise(model) as seen:
        reader.update(series.target[first:])
        if not any(seen):
            return {}
        values = taken_surprise(seen).mean(0).tolist()
    ends = range(first + patch - 1, len(series), patch)
    return {
        "id": series.id,
        "times": [_stamp(series.times[row]) for row, _ in zip(ends, values, strict=False)],
        "values": values,
    }
