"""The verbs of the series field: forecast what comes; and what its other verbs share."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import Series, quoted
from titans_seq.data.series import SeriesReading, SeriesTable, timed
from titans_seq.data.series.rows import must_be_of_one_zone
from titans_seq.data.sources import SeriesSource, moments, own_moments
from titans_seq.data.times import future_times, steps_from
from titans_seq.data.windows import SeriesWindows
from titans_seq.data.write import Row
from titans_seq.errors import InputError, ModelError, UsageError, inform, warn
from titans_seq.files import to_json
from titans_seq.job import SharedJob, about, check_state_files, dry, finished, identity, must_differ, write
from titans_seq.memory_state import load_state, read_state, save_state
from titans_seq.resources import data_file
from titans_seq.stream import Point, Steps
from titans_seq.stream.series import Forecaster, Streams, initial_series, series_steps, window_steps

__all__ = ["Forecaster", "predict"]

KINDS = ("known_future", "past_only", "static")  # of covariates

Describe = Callable[[int, dict[str, np.ndarray]], list[Row]]


def predict(
    source: str,
    path: str,
    out: Path,
    *,
    future: str | None = None,
    horizon: int | None = None,
    quantiles: str | None = None,
    state_in: Path | None = None,
    state_out: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Forecast what follows the last row of each series, into ``out``.

    ``future`` is a table of what is known beforehand, where the table itself does not tell it. A ``horizon`` below the
    model's own cuts its forecast, one above it is rolled: see `titans_seq.stream.series.rolled`.

    A model that reads streams goes on from ``state_in``, as if the table's rows stood below those that it has read,
    and leaves where it stands in ``state_out``. ``options`` are of `SharedJob` and `SeriesSource`.
    """
    job, reading = SharedJob.among(options)
    must_differ(out, "--state-out", state_out)
    if finished(out, job, source, [path, *([future] if future else [])]):
        if state_out is not None and not state_out.is_file():
            raise UsageError(f"{out} is finished and {state_out} is not there. To make it again add --overwrite.")
        return {"out": str(job.target(out)), "already_finished": True}
    job.refuse_state(bool(state_in or state_out))
    check_state_files(state_in, state_out, job.overwrite or job.resume)
    model = job.load(source, "forecast")
    task = model.task
    if state_in or state_out:
        _must_stream(source, model)
    if future is not None and not task.covariates.known_future:
        raise UsageError(f"--future: {source} reads no covariates that are known beforehand. Leave it out.")
    table = read_table(source, model, path, reading, task.before, known=state_in is not None, future=future)
    series, ahead = list(table.series), horizon or task.horizon
    model = reaching(source, for_table(model, table, [len(s) for s in series]), ahead)
    task = model.task
    must_reach(path, series, task.before)
    streams, last = begun(model, series, [len(s) for s in series]), {}
    if streams is not None:
        if state_in:
            last = _continue(streams, state_in, source, model, path, table)
            if _on_gap(task, reading) == "ffill":
                _must_begin_with_values(series, streams.starts, path, state_in)
        streams.keep = state_out is not None
    series = [extended(s, task, ahead) for s in series]
    for s in series:
        _must_be_known(s, task, path, ahead)
    series = [with_time(s, task, last.get(s.id)) for s in series]
    spans = [(len(s) - ahead, len(s)) for s in series]
    items = SeriesWindows(series, spans, task.before, ahead)
    columns = columns_of(task, quantiles)
    if job.dry_run:
        return dry(model, series=len(series), windows=len(items))

    def describe(number: int, forecast: dict[str, np.ndarray]) -> list[Row]:
        s, future = place(items, number)
        return [
            {"unique_id": unique_id(s, c), "ds": stamp(s.times[t]), **row_values(forecast, columns, h, c)}
            for c in range(len(s.columns))
            for h, t in enumerate(future)
        ]

    def keep_state(point: Point) -> None:
        if streams is not None and state_out is not None:
            save_state(tuple(streams.states), state_out, about(source, **_facts(model, series, table.zone, ahead)))

    inputs = [data_file(path), *([data_file(future)] if future else []), *([state_in] if state_in else [])]
    rows = write(
        out,
        lambda point: forecast_steps(model, items, describe, job.batch_size, streams, point),
        identity(
            source,
            inputs,
            batch_size=job.batch_size,
            quantiles=quantiles,
            state_out=state_out,
            horizon=ahead,
            reading=as_read(reading),
        ),
        job=job,
        units=lambda: units_of(items, job.batch_size, streams),
        template=template_of(streams),
        at_end=keep_state,
    )
    found = {"out": str(job.target(out)), "series": len(series), "windows" if job.part else "rows": rows}
    return found if state_out is None else {**found, "state": str(state_out)}


def forecast_steps(
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


def units_of(items: SeriesWindows, batch_size: int, streams: Streams | None) -> Iterator[tuple[int, int]]:
    """Windows that are read together: those of a batch, or those of a stream; how many are done after, and how many."""
    if streams is None:
        ends = [*range(batch_size, len(items), batch_size), len(items)]
    else:
        ends = [n + 1 for n in range(len(items)) if n + 1 == len(items) or items.place(n)[0] != items.place(n + 1)[0]]
    yield from ((end, end - first) for first, end in pairwise([0, *ends]))


def template_of(streams: Streams | None) -> Callable[[Point], Any]:
    """What a point of a job over ``streams`` carries."""
    return lambda point: streams and streams.carried(0)


# --- streams and their states


def _must_stream(source: str, model: SequenceModel) -> None:
    if model.task.zero_shot:
        raise ModelError(
            f"{source} takes its scale from each table, so that a state of one does not go on with another. Leave out "
            "--state-in and --state-out, or train it on the table: titans-seq forecast train TABLE --backbone ..."
        )
    if model.task.reads != "stream":
        raise ModelError(
            f"{source} reads the last {model.task.lookback} rows anew for each forecast and has no state to carry. "
            "Leave out --state-in and --state-out, or train a model that reads streams: "
            "titans-seq forecast train TABLE ... --set task.reads=stream."
        )


def begun(model: SequenceModel, series: list[Series], ends: list[int]) -> Streams | None:
    """Streams of series that begin; None where each window is read anew.

    Under a model that is for any table each begins with the scale of its own first rows, up to ``ends``.
    """
    if model.task.reads != "stream":
        return None
    begin = initial_series(model)
    states = [begin] * len(series)
    if model.task.zero_shot:
        own = (own_moments(s, end) for s, end in zip(series, ends, strict=True))
        states = [begin._replace(running=model.head.initial_running(1, *each)) for each in own]
    return Streams(begin, states, [0] * len(series))


def _facts(model: SequenceModel, series: list[Series], zone: str, ahead: int) -> dict[str, str]:
    """What a state file says of its series, which end so many rows after those that were read."""
    last = {s.id: stamp(s.times[len(s) - 1 - ahead]) for s in series}
    return {"columns": json.dumps(model.task.channels), "last": json.dumps(last), "zone": zone}


def _last_read(file: Path) -> tuple[dict[str, np.datetime64], str | None]:
    """The time of the last row that a state file has read of each series, in the file's order, and their zone."""
    _, about = read_state(file)
    try:
        last = {id: np.datetime64(time, "us") for id, time in json.loads(about["last"]).items()}
    except (KeyError, ValueError, AttributeError):
        raise ModelError(f"{file} holds no state of series. Give what forecast predict --state-out wrote.") from None
    return last, about.get("zone")


def _continue(
    streams: Streams, file: Path, source: str, model: SequenceModel, path: str, table: SeriesTable
) -> dict[str, np.datetime64]:
    """Let streams go on where a state file stopped; returns the time of the last row that it has read of each series.

    Raises:
        ModelError: if the file is damaged, or of another model.
        InputError: if a series of the table does not go on where the file's stopped; says which.
    """
    series, (last, zone) = table.series, _last_read(file)
    states = load_state(file, (streams.begin,) * len(last), about(source)["model"])
    if zone is not None:  # states of earlier releases do not tell
        must_be_of_one_zone(path, table.zone, str(file), zone)
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
    return last


def _must_begin_with_values(series: list[Series], starts: list[int], path: str, file: Path) -> None:
    """Refuse rows whose first values are missing where a gap is filled with the last ones, which a state does not know.

    Rows that it has read already tell them.
    """
    for s, start in zip(series, starts, strict=True):
        if start == 0 and any(np.isnan(part[0]).any() for part in (s.target, s.past_only) if part is not None):
            called = f"{path}: series {quoted(s.id)}" if s.id else path
            raise InputError(
                f"{called}: its first row misses a value, which --on-gap ffill takes from a row before it. Give rows "
                f"from one with all values on; those that {file} has read are skipped."
            )


def _rows_read(series: Series, last: np.datetime64, frequency: str | None, file: Path, path: str) -> int:
    """Rows of a series up to ``last``, which a state has read; of a regular one the row behind ``last`` must follow."""
    called = f"{path}: series {quoted(series.id)}" if series.id else path
    read = int(np.searchsorted(series.times, last, side="right"))
    if series.times[len(series) - 1] < last:
        raise InputError(
            f"{called} ends at {stamp(series.times[len(series) - 1])}, and {file} has read on to {stamp(last)}. "
            "Give the rows that came after it, or an older state."
        )
    if frequency is None or read >= len(series):
        return read
    following = steps_from(np.append(last, series.times[read:]), 0, frequency, np.ones(1, int))[0]
    if series.times[read] != following:
        raise InputError(
            f"{called} does not go on where {file} stopped: after {stamp(last)} the row of {stamp(following)} is "
            f"missing, the next is of {stamp(series.times[read])}. Give all rows, with empty fields where nothing "
            "was observed, or read the whole table without --state-in."
        )
    return read


# --- tables


def _on_gap(task: Any, reading: dict[str, Any]) -> str:
    """What becomes of gaps, as was said now or in training."""
    return str(reading.get("on_gap") or task.reading.get("on_gap") or "nan")


def filled_from_the_past(source: str, model: SequenceModel, reading: dict[str, Any]) -> str:
    """What becomes of gaps, as was said now or in training, where rows are judged by those before them.

    Raises:
        UsageError: if they are to be interpolated.
    """
    on_gap = _on_gap(model.task, reading)
    if on_gap == "interpolate":
        whose = (
            "--on-gap interpolate" if reading.get("on_gap") else f"{source} was trained with --on-gap interpolate. It"
        )
        raise UsageError(
            f"{whose} looks ahead: what is forecast from would lie on the line to a value after it, and errors be too "
            "small. Give --on-gap ffill or nan."
        )
    return on_gap


def as_read(reading: dict[str, Any]) -> str:
    """Options of reading that were given, as part of what a job's resume must have alike."""
    return to_json({name: value for name, value in sorted(reading.items()) if value}, None).strip()


def read_table(
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
    options = _reading_of(source, task) | _beside(task)
    options |= {name: value for name, value in reading.items() if value}
    if task.irregular and not reading.get("on_gap"):  # as a whole, wherever it is cut
        options |= {"on_gap": "keep"}
    given = SeriesSource.of_file(path, **options)
    vocabularies = task.covariates.vocabularies
    table = given.read(rows, task.frequency if known else None, vocabularies, future)
    if task.zero_shot:
        task = task.model_copy(update={"channels": table.series[0].columns, "frequency": table.frequency})
    if missing := [c for c in task.channels if c not in table.series[0].columns]:
        if reading.get("target"):
            raise UsageError(
                f"--target leaves out {', '.join(missing)}, and {source} forecasts all its columns together. "
                "Leave out --target, and take from the forecasts the columns that you want."
            )
        raise InputError(f"{path} lacks the column {', '.join(missing)} that the model was trained on.")
    if table.frequency != task.frequency and given.on_gap != "keep":
        raise InputError(
            f"{path} has one row every {table.frequency}; the model was trained on one every {task.frequency}. "
            "Resample the table, or train on this frequency."
        )
    if table.irregular and not task.irregular and given.on_gap != "keep":
        steps = "reads even steps" if task.zero_shot else f"was trained on even steps of {task.frequency}"
        raise InputError(
            f"{path} is irregular; the model {steps}. Resample it, say the step with --freq, or take its rows for such "
            "steps with --on-gap keep."
        )
    order = [table.series[0].columns.index(c) for c in task.channels]
    nothing: dict[str, Any] = {}
    if task.covariates.location:
        _must_know(path, table, task)
    else:  # the model reads none
        nothing = dict.fromkeys(KINDS)
    series = (
        replace(s, target=s.target[:, order], observed=s.observed[:, order], columns=task.channels, **nothing)
        for s in table.series
    )
    return replace(table, series=tuple(series))


def for_table(model: SequenceModel, table: SeriesTable, ends: list[int]) -> SequenceModel:
    """A model that is for any table with this one's columns, frequency and scale; another as it is.

    The scale is that of the first rows of each series, up to ``ends``: those before what is forecast first.
    """
    if not model.task.zero_shot:
        return model
    location, scale = moments(np.concatenate([s.target[:end] for s, end in zip(table.series, ends, strict=True)]))
    of_table = {"channels": table.series[0].columns, "frequency": table.frequency, "location": location, "scale": scale}
    task = model.task.model_copy(update={**of_table, "season": 0, "margins": ()})
    found = SequenceModel(model.backbone.config, task)
    found.load_state_dict(model.state_dict())
    return found.to(next(model.parameters()).device).eval()


def reaching(source: str, model: SequenceModel, ahead: int) -> SequenceModel:
    """The model with the intervals of so many rows: beyond its horizon none was calibrated."""
    task = model.task
    if ahead > task.horizon:
        calibrated = " Calibrated intervals are left out." if task.margins else ""
        inform(
            f"{source} forecasts {task.horizon:,} rows; {ahead:,} are rolled from blocks of these, each after the "
            "points of those before it. Quantiles leave out how uncertain these points are: take them as too narrow."
            f"{calibrated}"
        )
    model.task = task.reaching(ahead)
    return model


def _reading_of(source: str, task: Any) -> dict[str, Any]:
    """Options by which the model's training table was read."""
    try:
        return SeriesReading.model_validate(task.reading).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("reading", *first["loc"])))
        raise ModelError(f"{source}: task.json: {place}: {first['msg']}. Bring back what training wrote.") from None


def _beside(task: Any) -> dict[str, list[str]]:
    """Options of the columns that a model reads beside its channels."""
    kinds = {name: getattr(task.covariates, name) for name in KINDS}
    return {name: list(dict.fromkeys(map(task.covariates.column, own))) for name, own in kinds.items()}


def _must_know(path: str, table: SeriesTable, task: Any) -> None:
    """A table's covariates are those of the model, numbers where these were numbers."""
    for kind in KINDS:
        own, there = getattr(task.covariates, kind), getattr(table.covariates, kind)
        if strange := [name for name in (*own, *there) if (name in own) != (name in there)]:
            raise InputError(
                f"{path}: the covariate {strange[0]!r} is {'missing' if strange[0] in own else 'new'}; the model was "
                f"trained with {', '.join(own) or 'none'}. Give the columns as they were, numbers as numbers."
            )


def with_time(series: Series, task: Any, before: np.datetime64 | None = None) -> Series:
    """The series with the time between its rows, where the model reads it; ``before`` is that of the last row read."""
    if not (task.irregular and task.known):
        return series
    return timed(series, task.frequency, before if before is not None and before < series.times[0] else None)


def must_reach(path: str, series: list[Series], rows: int) -> None:
    for s in series:
        if len(s) < rows:
            raise InputError(
                f"{path}: series {s.id or 'of this table'} has {len(s)} rows, {rows} are needed. "
                "Give more rows, or ask for fewer windows."
            )


def extended(series: Series, task: Any, horizon: int | None = None) -> Series:
    """The series with the rows of a horizon behind it, where all is missing but what is known beforehand."""
    T, H = len(series), horizon or task.horizon
    times = np.concatenate([series.times, future_times(series.times, task.frequency, H)])[: T + H]
    known = _longer(series.known_future, max(0, T + H - len(series.known_future)))
    return replace(
        series,
        times=times,
        target=_longer(series.target, H),
        observed=np.concatenate([series.observed, np.zeros((H, series.observed.shape[1]), bool)]),
        known_future=known[: T + H],
        past_only=_longer(series.past_only, H),
    )


def _longer(values: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([values, np.full((rows, values.shape[1]), np.nan, values.dtype)])


def _must_be_known(series: Series, task: Any, path: str, horizon: int) -> None:
    """Every covariate that is known beforehand must tell the last rows of an `extended` series, which are forecast.

    Raises:
        InputError: if one stops before the horizon's end.
    """
    times, lacking = series.times[-horizon:], np.isnan(series.known_future[-horizon:])
    if lacking.any():
        row = int(lacking.any(1).argmax())
        name = task.covariates.column(task.covariates.known_future[int(lacking[row].argmax())])
        called = f"{path}: series {quoted(series.id)}" if series.id else path
        raise InputError(
            f"{called}: covariate {name!r} stops before the horizon's end: its first missing value is of "
            f"{stamp(times[row])}, and a forecast reaches {stamp(times[-1])}. Give the rows with --future TABLE, or "
            "below the others, with empty targets."
        )


def place(items: SeriesWindows, number: int) -> tuple[Series, range]:
    """The series of a window, and the rows of its future."""
    which, t = items.place(number)
    return items.series[which], range(t, t + items.horizon)


def stamp(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="us")).replace("T", " ").removesuffix(".000000")


def unique_id(series: Series, channel: int) -> str:
    """unique_id of one column: its name in a wide table, the series' id in a long one."""
    column = series.columns[channel]
    if not series.id:
        return column
    return series.id if len(series.columns) == 1 else f"{series.id}:{column}"


def row_values(forecast: dict[str, np.ndarray], columns: list[str], h: int, c: int) -> dict[str, float]:
    """Columns (H, C) of a forecast at one step and channel."""
    return {name: float(forecast[name][h, c]) for name in columns}


def columns_of(task: Any, quantiles: str | None) -> list[str]:
    """Columns of the prediction file: the mean, the quantiles that are asked for, and the calibrated intervals."""
    if not quantiles:
        return list(task.names)
    known = [name for name in task.names if name.startswith("q")]
    try:
        wanted = [f"q{float(part):g}" for part in quantiles.split(",")]
    except ValueError:
        raise UsageError(f"--quantiles {quantiles}: give numbers between commas, such as 0.1,0.5,0.9.") from None
    if lacking := [name for name in wanted if name not in known]:
        raise UsageError(
            f"The model has no quantile {', '.join(lacking)}. It has {', '.join(known) or 'only a point forecast'}."
        )
    return ["mean", *wanted, *(name for name in task.names if name.startswith(("lo-", "hi-")))]
