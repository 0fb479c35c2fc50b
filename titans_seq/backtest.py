"""Forecasts of the past from rolling origins, and how wrong they were, beside seasonal naive and a Theta model.

What was measured is one JSON file beside the forecasts:

``protocol``: look-back, horizon, step, windows, first and last cutoff, refit, season, scaler, units, the column that
point errors are of, what becomes of gaps; ``dropped`` is 0, and ``seen_in_training`` counts windows whose truth the
model has learned from, null where that cannot be known.
``model``, ``seasonal_naive``, ``auto_theta``: scores over everything, see `Accuracy.overall`.
``skill``: of each baseline, 1 - error / its error.
``steps``: of each model, scores of each step of the horizon, lists.
``calibration``: pairs of a quantile level and the share of the values at or below that quantile.
``series``: for each ``unique_id`` the scores of each model.
"""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from titans_seq import baselines
from titans_seq.accuracy import Accuracy, Guess, SeasonalError, skill
from titans_seq.checkpoint import SequenceModel, find, shipped
from titans_seq.data.record import Series
from titans_seq.data.sources import own_moments
from titans_seq.data.windows import SeriesWindows, stream_rows
from titans_seq.data.write import Row
from titans_seq.errors import UsageError, warn
from titans_seq.files import must_be_new, sha256, to_json, write_text
from titans_seq.forecast import (
    Forecaster,
    as_read,
    begun,
    columns_of,
    filled_from_the_past,
    for_table,
    forecast_steps,
    must_reach,
    reaching,
    read_table,
    row_values,
    stamp,
    unique_id,
    with_time,
)
from titans_seq.job import Job, dry, finished, identity, keep, must_differ, write
from titans_seq.memory import recorded_surprise, surprised, taken_surprise
from titans_seq.recipe import Recipe, load_recipe
from titans_seq.report.examples import forecast_examples
from titans_seq.resources import data_file
from titans_seq.run import train
from titans_seq.stream import Point, Steps

MODEL, NAIVE, THETA = "model", "seasonal_naive", "auto_theta"


def backtest(
    source: str,
    path: str,
    out: Path,
    *,
    windows: int,
    horizon: int | None = None,
    step: int | None = None,
    refit: int | None = None,
    metrics: Path | None = None,
    quantiles: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Forecast from ``windows`` origins at the end of each series, into ``out``, and measure beside baselines.

    The last window ends with the series' last row; origins are ``step`` rows apart, the horizon if None. Rows are
    written series by series, and with ``refit`` block by block.

    Args:
        source: the model; with ``refit`` a run folder, whose recipe is carried out anew.
        path: the table.
        out: gets the forecasts: unique_id, ds, cutoff, y, mean, quantiles, calibrated intervals.
        windows: origins a series.
        horizon: rows of a forecast, if not as many as in training: fewer are its first, more are rolled.
        step: rows from one to the next.
        refit: origins after which the model is trained anew, on the rows before the next; None for never.
        metrics: gets what is returned; ``out`` with the suffix .json if None.
        quantiles: those that are written, between commas; all if None. All are measured.
        options: of `Job` and `SeriesSource`.

    Raises:
        UsageError: if ``refit`` is asked of a model without a recipe, or gaps are to be interpolated.
        InputError: if a series is too short for so many windows.
    """
    job, reading = Job.among(options)
    metrics = metrics or out.with_suffix(".json")
    must_differ(out, "--metrics", metrics)
    if finished(out, job, source, [path]) and metrics.is_file():
        return {**json.loads(metrics.read_text(encoding="utf-8")), "already_finished": True}
    must_be_new(metrics, overwrite=job.overwrite or job.resume)
    model = job.load(source, "forecast")
    task = model.task
    on_gap = filled_from_the_past(source, model, reading)
    horizon = horizon or task.horizon
    step = step or horizon
    behind = horizon + (windows - 1) * step
    table = read_table(source, model, path, reading, task.before + behind)
    ends = [len(s) - behind for s in table.series]
    model = reaching(source, for_table(model, table, ends), horizon)
    task = model.task
    series = [with_time(s, task) for s in table.series]
    must_reach(path, series, task.before + behind)
    columns = columns_of(task, quantiles)
    recipe = _recipe(source)
    if refit is not None and recipe is None:
        raise UsageError(f"--refit carries out the recipe of a run anew, and {source} has none. Give a run folder.")
    blocks = list(_blocks(series, horizon, windows, step, refit or windows))
    if job.dry_run:
        return dry(model, series=len(series), windows=windows * len(series), refits=len(blocks) if refit else 0)
    if refit is not None and recipe is not None:
        reading = {name: value for name, value in reading.items() if value}
        blocks = [_refitted(b, recipe, path, reading, out, job) for b in blocks]

    seen = _seen(recipe.start_from if refit and recipe else source, path, series, behind, step, windows)
    test = _Test(task, series, blocks, columns, horizon, task.season or baselines.season_of(task.frequency))
    protocol = {
        "lookback": task.lookback if task.reads == "window" or task.zero_shot else "all rows",
        **({"memory_lookback": task.memory_lookback} if task.memory_lookback else {}),
        "horizon": horizon,
        "step": step,
        "windows": windows * len(series),
        **test.cutoffs,
        "refit": "never" if refit is None else refit,
        "season": test.season,
        "scaler": f"mean and deviation of each column's training rows; normalisation: {task.normalisation}",
        "units": "training standard deviations",
        "point": task.median,
        "on_gap": "keep" if table.irregular else on_gap,
        "dropped": 0,
        "seen_in_training": None if isinstance(seen, str) else seen,
    }
    if isinstance(seen, str):
        warn(f"{path}: whether the model was trained on rows of these windows is unknown: {seen}.")
    elif seen:
        warn(
            f"{path}: windows whose rows the model was trained or chosen on: {seen:,} of {protocol['windows']:,}; its "
            "errors there are too small. Train with --set data.test=ROWS, or --refit."
        )
    found = {"out": str(out), "metrics": str(metrics), "protocol": protocol, "rows": test.rows}

    def measured(point: Point) -> None:
        found.update(test.found())
        write_text(metrics, to_json(found))

    def model_of(own: str) -> SequenceModel:
        if not own:
            return model
        return reaching(own, for_table(job.load(own, "forecast"), table, ends), horizon)

    sources = {b.source or source for b in blocks}
    sums = identity(
        source,
        [data_file(path)],
        batch_size=job.batch_size,
        quantiles=quantiles,
        windows=windows,
        horizon=horizon,
        step=step,
        reading=as_read(reading),
    )
    refits = [sha256(find(one) / "model.safetensors") for one in sorted(sources - {source})]
    write(
        out,
        lambda point: test.steps(point, model_of, job.batch_size),
        {**sums, "refits": " ".join(refits), "beside": " ".join(test.sums)},
        job=job,
        template=lambda point: test.carried(begun(model, series, ends)),
        at_end=measured,
    )

    def drawn() -> dict[str, Any]:
        return {**{name: found[name] for name in ("steps", "calibration")}, **test.drawn(model, out)}

    more = {"horizon": horizon, "reading": as_read(reading)}
    shown = {name: part for name, part in found.items() if name not in ("steps", "calibration", "series")}
    keep(source, "backtest", path, shown, drawn, windows=windows, step=step, refit=refit, **more)
    return found


# --- windows, in blocks that one model forecasts


class _Block(NamedTuple):
    """Windows that one model forecasts."""

    spans: tuple[tuple[int, int], ...]  # of each series: the first origin, and the row behind the last future row
    step: int
    held: int  # rows at each series' end that this model may not see
    windows: int  # of all series
    source: str = ""  # the model, where it is not the one that was given

    def items(self, series: list[Series], rows: int, horizon: int) -> SeriesWindows:
        """Its windows of the series, each of ``rows`` before its origin and ``horizon`` behind it."""
        return SeriesWindows(series, list(self.spans), rows, horizon, self.step)


def _blocks(series: list[Series], horizon: int, windows: int, step: int, size: int) -> Iterator[_Block]:
    """Windows in blocks of ``size`` origins a series, in order of time."""
    for first in range(0, windows, size):
        last = min(first + size, windows) - 1
        held, rest = (horizon + (windows - 1 - n) * step for n in (first, last))
        spans = tuple((len(s) - held, len(s) - rest + horizon) for s in series)
        yield _Block(spans, step, held, len(series) * (last - first + 1))


def _recipe(source: str) -> Recipe | None:
    """What a model was trained by; None for a checkpoint folder alone."""
    file = find(source).parent / "recipe.yaml"
    return load_recipe(file) if file.is_file() else None


def _refitted(
    block: _Block,
    recipe: Recipe,
    path: str,
    reading: dict[str, Any],
    out: Path,
    job: Job,
) -> _Block:
    """The block with a model that was trained on the rows before it, a run of its own beside ``out``."""
    data = {"path": str(data_file(path).resolve()), "test": float(block.held), **reading}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})
    folder = out.with_name(f"{out.name}.refits") / f"{block.held}-rows-held-out"
    train(recipe, folder, device=job.device, resume=job.resume, overwrite=job.overwrite)
    return block._replace(source=str(folder))


# --- windows that the model knows


def _seen(begin: str | None, path: str, series: list[Series], behind: int, step: int, windows: int) -> int | str:
    """Windows of a table that reach into rows which a model was trained on or chosen by, or why that is unknown."""
    seen = np.zeros((len(series), windows), bool)
    origins = np.arange(windows) * step - behind
    try:
        for learned in _learned(begin, path):
            if learned and ("" in learned) != ("" in {s.id for s in series}):
                return "its series have ids and those of the training table have none, or the other way round"
            for row, s in zip(seen, series, strict=True):
                if s.id in learned and (until := _known_until(s, learned[s.id])) is not None:
                    row |= s.times[origins + len(s)] <= until
    except LookupError as why:
        return str(why)
    return int(seen.sum())


def _learned(begin: str | None, path: str) -> Iterator[dict[str, Series]]:
    """Rows that a model was trained on or chosen by, by id, and so for each that it began from.

    Raises:
        LookupError: where that cannot be known, with the reason.
    """
    while begin is not None:
        if not Path(begin).is_dir():
            if begin in shipped():  # made of drawn series
                return
            raise LookupError(f"{begin} is no folder that tells what it was trained on")
        recipe, manifest = _recipe(begin), find(begin).parent / "manifest.json"
        if recipe is None or not manifest.is_file():
            raise LookupError(f"{begin} has no recipe and manifest, which tell what it was trained on")
        yield _rows_learned(recipe, json.loads(manifest.read_text(encoding="utf-8"))["data_sha256"].values(), path)
        begin = recipe.start_from


def _rows_learned(recipe: Recipe, sums: Collection[str], path: str) -> dict[str, Series]:
    """Rows that a recipe trains on or chooses by: of the table ``path`` if it is that, else of the recipe's own."""
    data: Any = recipe.data
    if not sums:  # drawn by chance
        return {}
    for one in (path, data.path):
        with suppress(UsageError):  # there is none
            if sha256(file := data_file(one)) in sums:
                found: dict[str, Series] = data.model_copy(update={"path": str(file)}).learned(recipe.task)
                return found
    raise LookupError(f"{data.path}, which it was trained on, is gone or has changed")


def _known_until(series: Series, learned: Series) -> np.datetime64 | None:
    """When what was learned of a series ends; None if it is of another one: most values of the same time differ."""
    _, here, there = np.intersect1d(series.times[: len(series)], learned.times[: len(learned)], return_indices=True)
    scales = own_moments(learned, len(learned))[1]
    away = [
        np.abs(series.target[here, series.columns.index(column)] - learned.target[there, place]) / scale
        for place, (column, scale) in enumerate(zip(learned.columns, scales, strict=True))
        if column in series.columns
    ]
    known = np.concatenate([np.zeros(0), *(one[np.isfinite(one)] for one in away)])
    return learned.times[len(learned) - 1] if 2 * (known < 1e-3).sum() > len(known) else None


# --- what is measured


@dataclass
class _Test:
    """A backtest as it runs: sums of errors of the model and of what stands beside it."""

    task: Any
    series: list[Series]
    blocks: list[_Block]
    columns: list[str]
    horizon: int
    season: int
    sums: dict[str, Accuracy] = field(init=False)
    theta: tuple[int, int, Any] = (-1, -1, None)  # block, series, and the model fitted for them

    def __post_init__(self) -> None:
        task = self.task
        levels = task.output.levels if len(task.output.levels) > 1 else ()
        self.levels = [f"q{level:g}" for level in levels]
        self.bands = _bands(levels) | {
            f"conformal_{name[3:]}": (name, f"hi-{name[3:]}") for name in task.names if name.startswith("lo-")
        }
        size = (len(self.series), self.horizon, task.scale, levels)
        self.sums = {MODEL: Accuracy(*size, tuple(self.bands)), NAIVE: Accuracy(*size)}
        if baselines.has_statistical_model():
            self.sums[THETA] = Accuracy(*size)
        self.naive = [baselines.SeasonalNaive(s, self.season) for s in self.series]
        self.errors = [SeasonalError(s, self.season) for s in self.series]

    @property
    def rows(self) -> int:
        """Of the file of forecasts."""
        return sum(b.windows for b in self.blocks) * self.horizon * len(self.task.channels)

    @property
    def cutoffs(self) -> dict[str, str]:
        """First and last row that a forecast has read."""
        first = (s.times[a - 1] for s, (a, _) in zip(self.series, self.blocks[0].spans, strict=True))
        last = (s.times[b - self.horizon - 1] for s, (_, b) in zip(self.series, self.blocks[-1].spans, strict=True))
        return {"first_cutoff": stamp(min(first)), "last_cutoff": stamp(max(last))}

    def steps(self, point: Point, model_of: Callable[[str], SequenceModel], batch_size: int) -> Steps:
        """Rows of all blocks; `Point.done` counts their windows together."""
        if point.carried is not None:
            for sums, saved in zip(self._arrays(), point.carried[0], strict=True):
                sums[:] = saved.numpy()
        first = 0
        for number, block in enumerate(self.blocks):
            if point.done < first + block.windows:
                for rows, after in self._block(number, model_of(block.source), first, point, batch_size):
                    point = after
                    yield rows, after
            first += block.windows

    def _block(self, number: int, model: SequenceModel, first: int, point: Point, batch_size: int) -> Steps:
        items = self.blocks[number].items(self.series, self.task.before, self.horizon)
        streams = begun(model, self.series, [first for first, _ in self.blocks[0].spans])
        within = point.done > first or point.inside > 0
        inner = point._replace(done=point.done - first, carried=point.carried[1] if within and point.carried else None)

        def describe(n: int, forecast: dict[str, np.ndarray]) -> list[Row]:
            which, origin = items.place(n)
            self._count(number, which, origin, forecast)
            return self._rows(self.series[which], origin, forecast)

        for rows, after in forecast_steps(model, items, describe, batch_size, streams, inner):
            yield rows, after._replace(done=first + after.done, carried=(self.tensors, after.carried))

    def _rows(self, s: Series, origin: int, forecast: dict[str, np.ndarray]) -> list[Row]:
        cutoff = stamp(s.times[origin - 1])
        return [
            {
                "unique_id": unique_id(s, c),
                "ds": stamp(s.times[t]),
                "cutoff": cutoff,
                "y": float(s.target[t, c]) if s.observed[t, c] else None,
                **row_values(forecast, self.columns, h, c),
            }
            for c in range(len(s.columns))
            for h, t in enumerate(range(origin, origin + self.horizon))
        ]

    def _count(self, number: int, which: int, origin: int, forecast: dict[str, np.ndarray]) -> None:
        """Add the errors of a window of a block: the series, and the first row that is forecast."""
        horizon = self.horizon
        s, future = self.series[which], slice(origin, origin + horizon)
        y = np.where(s.observed[future], s.target[future], np.nan)
        ends = [forecast[name] for pair in self.bands.values() for name in pair]
        guesses = {MODEL: Guess.of(forecast[self.task.median], [forecast[name] for name in self.levels], ends)}
        points = {NAIVE: self.naive[which].forecast(origin, horizon)}
        if THETA in self.sums:
            points[THETA] = self._fitted(number, which).forecast(origin, horizon)
        guesses |= {name: Guess.of(point, [point] * len(self.levels)) for name, point in points.items()}
        seasonal_error = self.errors[which].before(origin)
        for name, guess in guesses.items():
            self.sums[name].add(which, y, guess, seasonal_error)

    def _fitted(self, number: int, which: int) -> Any:
        """The Theta model of a series, fitted on the rows before a block, as the model is."""
        if self.theta[:2] != (number, which):
            s = self.series[which]
            fitted = len(s) - self.blocks[number].held
            self.theta = (number, which, baselines.AutoTheta(s, self.season, fitted))
        return self.theta[2]

    def _arrays(self) -> list[np.ndarray]:
        return [array for sums in self.sums.values() for array in sums.sums.values()]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The sums as a point keeps them."""
        return tuple(torch.from_numpy(array) for array in self._arrays())

    def carried(self, streams: Any) -> tuple[Any, ...]:
        """What a point carries, with ``streams`` that begin."""
        return self.tensors, streams and streams.carried(0)

    def drawn(self, model: SequenceModel, out: Path) -> dict[str, Any]:
        """What a report draws beside the scores: forecasts of some series, and the surprise along the first."""
        channels = [(unique_id(s, c), s, c) for s in self.series for c in range(len(s.columns))]
        errors = [scores["mae"] for scores in self.sums[MODEL].by_series()]
        found: dict[str, Any] = {"examples": forecast_examples(out, channels, errors, self.horizon)}
        return found if self.task.reads == "window" else {**found, "surprise": _surprise(model, self.series[0])}

    def found(self) -> dict[str, Any]:
        """All that was measured."""
        scores = {name: sums.overall() for name, sums in self.sums.items()}
        ids = [unique_id(s, c) for s in self.series for c in range(len(s.columns))]
        each = {name: sums.by_series() for name, sums in self.sums.items()}
        return {
            **scores,
            "skill": {name: skill(scores[MODEL], own) for name, own in scores.items() if name != MODEL},
            "steps": {name: sums.by_step() for name, sums in self.sums.items()},
            "calibration": self.sums[MODEL].calibration(),
            "series": [{"unique_id": id, **{name: own[i] for name, own in each.items()}} for i, id in enumerate(ids)],
        }


PATCHES = 2000  # along which the memory's surprise is drawn


def _surprise(model: SequenceModel, series: Series) -> dict[str, Any]:
    """How strongly the memory had to change with each of a series' last patches, read from an empty memory."""
    patch, reader = model.task.patch, Forecaster(model, static=series.static)
    if not surprised(model):
        return {}
    first = max(0, len(series) - 1 - PATCHES * patch)
    with recorded_surprise(model) as seen:
        reader.update(stream_rows(series, first, len(series)))
        if not any(seen):
            return {}
        values = taken_surprise(seen).mean(0).tolist()
    ends = range(first + patch - 1, len(series), patch)
    return {
        "id": series.id,
        "times": [stamp(series.times[row]) for row, _ in zip(ends, values, strict=False)],
        "values": values,
    }


def _bands(levels: tuple[float, ...]) -> dict[str, tuple[str, str]]:
    """Pairs of quantile columns, by the per cent that lie between them."""
    pairs = [(low, high) for low in levels for high in levels if low < high and np.isclose(low + high, 1)]
    return {f"{round(100 * (high - low), 6):g}": (f"q{low:g}", f"q{high:g}") for low, high in pairs}
