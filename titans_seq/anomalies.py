"""Rows of a series that are unlike what came before: by their forecast, and by the surprise of the memory."""

import bisect
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import Series
from titans_seq.data.sources import own_moments
from titans_seq.data.windows import SeriesWindows
from titans_seq.data.write import Row
from titans_seq.errors import InputError, UsageError
from titans_seq.files import must_be_new
from titans_seq.forecast import (
    as_read,
    begun,
    extended,
    filled_from_the_past,
    for_table,
    must_reach,
    read_table,
    stamp,
    unique_id,
    with_time,
)
from titans_seq.job import Job, dry, finished, identity, write
from titans_seq.progress import Progress
from titans_seq.report.plots.anomalies import anomaly_plot
from titans_seq.resources import data_file
from titans_seq.stream import Point
from titans_seq.stream.anomalies import Scored, Walk, step_of

SCORES = ("residual", "surprise")
TAIL = 0.02  # share of the calibration scores to which a tail is fitted (Siffer et al. 2017)
IN_TAIL = 20  # scores that it is fitted to at least
LEAST = 30  # calibration scores of a series that has thresholds of its own


def anomalies(
    source: str,
    path: str,
    out: Path,
    *,
    rate: float = 0.001,
    calibration: float = 0.15,
    **options: Any,
) -> dict[str, Any]:
    """Score every row of each series into ``out``, and flag those above thresholds; a picture is put beside it.

    Columns are unique_id, ds, y, mean, and of ``residual`` and ``surprise`` (see `Walk`) the score and its threshold;
    ``flag`` where one of them is passed. A model without a memory that learns has no surprise.

    Args:
        source: the model.
        path: the table.
        out: file to write.
        rate: of false alarms: share of the rows that are flagged where all is as in the calibration rows. Each of two
            scores has half of it.
        calibration: rows at the head of each series that thresholds are made of, below 1 their share. They are scored
            and flagged too.
        options: of `Job` and `SeriesSource`.

    Raises:
        UsageError: if gaps are to be interpolated, or ``calibration`` is not finite.
        InputError: if the calibration rows are too few.
    """
    job, reading = Job.among(options)
    if not math.isfinite(calibration):
        raise UsageError(f"--calibration {calibration} is no number of rows. Give rows, or below 1 their share.")
    picture = out.with_suffix(".png")
    if finished(out, job, source, [path]) and picture.is_file():
        return {"out": str(out), "already_finished": True}
    must_be_new(picture, overwrite=job.overwrite or job.resume)
    model = job.load(source, "forecast")
    task = model.task
    filled_from_the_past(source, model, reading)
    table = read_table(source, model, path, reading, task.before + step_of(task))
    series = list(table.series)
    must_reach(path, series, task.before + step_of(task))
    heads = [min(len(s), round(calibration * len(s)) if calibration < 1 else int(calibration)) for s in series]
    model = for_table(model, table, heads)
    task = model.task
    if job.dry_run:
        return dry(model, series=len(series), rows=sum(len(s) for s in series), calibration_rows=sum(heads))
    enough = functools.partial(_enough, heads, [len(s) for s in series], step_of(task), len(task.channels))
    thresholds = _Thresholds(path, heads, _calibrated(model, series, heads, job.batch_size), rate, enough)
    counts = torch.zeros(len(series), len(task.channels), 2, dtype=torch.int64)  # flags: calibration rows, and behind

    def emit(part: Scored) -> list[Row]:
        s, limits = series[part.series], thresholds.of[part.series]
        rows = slice(part.start, part.start + len(part.mean))
        y = np.where(s.observed[rows], s.target[rows], np.nan)
        scores = {name: getattr(part, name) for name in thresholds.scores}
        flags = np.any([scores[name] > limits[name] for name in scores], 0)
        head = np.clip(heads[part.series] - part.start, 0, len(flags))
        counts[part.series] += torch.from_numpy(np.stack([flags[:head].sum(0), flags[head:].sum(0)], 1))
        return [
            {
                "unique_id": unique_id(s, c),
                "ds": stamp(s.times[part.start + t]),
                "y": float(y[t, c]),
                "mean": float(part.mean[t, c]),
                **{
                    key: float(value)
                    for name in scores
                    for key, value in ((name, scores[name][t, c]), (f"{name}_threshold", limits[name][c]))
                },
                "flag": bool(flags[t, c]),
            }
            for t in range(len(y))
            for c in range(len(s.columns))
        ]

    walk, streams = _walk(model, series, heads, [len(s) for s in series], emit), begun(model, series, heads)

    def steps(point: Point) -> Any:
        if point.carried is not None:
            counts.copy_(point.carried[0])
            point = point._replace(carried=point.carried[1])
        for rows, after in walk.steps(streams, job.batch_size, point):
            yield rows, after._replace(carried=(counts, after.carried))

    rows = write(
        out,
        steps,
        identity(
            source,
            [data_file(path)],
            batch_size=job.batch_size,
            rate=rate,
            calibration=calibration,
            reading=as_read(reading),
        ),
        job=job,
        template=lambda point: (counts, walk.template(streams)),
    )
    anomaly_plot(out, picture)
    ids = [[unique_id(s, c) for c in range(len(s.columns))] for s in series]
    return {
        "out": str(out),
        "picture": str(picture),
        "rows": rows,
        "rate": rate,
        "calibration_rows": sum(heads) * len(task.channels),
        "flags": {"calibration": int(counts[..., 0].sum()), "behind": int(counts[..., 1].sum())},
        "series": {
            id: {
                "flags": int(counts[i, c].sum()),
                **{f"{name}_threshold": float(thresholds.of[i][name][c]) for name in thresholds.scores},
            }
            for i, own in enumerate(ids)
            for c, id in enumerate(own)
        },
    }


def _walk(model: SequenceModel, series: list[Series], heads: list[int], ends: list[int], emit: Any) -> Walk:
    """A walk over the first rows of each series, up to ``ends``; under a model for any table in its heads' units."""
    task, step = model.task, step_of(model.task)
    longer = [with_time(extended(s, task), task) for s in series]
    before = task.before if task.reads == "window" else task.patch
    spans = [(before, end + task.horizon) for end in ends]
    own = (own_moments(s, head)[1] if task.zero_shot else task.scale for s, head in zip(series, heads, strict=True))
    windows = SeriesWindows(longer, spans, task.before, task.horizon, step)
    return Walk(model, windows, ends, list(map(np.array, own)), emit)


def _calibrated(
    model: SequenceModel, series: list[Series], heads: list[int], batch_size: int
) -> list[dict[str, np.ndarray]]:
    """Scores (n, C) of the calibration rows of each series; of surprise, which a token's rows share, one a token."""
    parts: list[dict[str, list[np.ndarray]]] = [{name: [] for name in SCORES} for _ in series]

    def emit(part: Scored) -> list[Row]:
        parts[part.series]["residual"].append(part.residual)
        parts[part.series]["surprise"].append(part.surprise[:1])
        return []

    walk = _walk(model, series, heads, heads, emit)
    with Progress("calibrating", "windows", len(walk.windows)) as progress:
        done = 0
        for _, point in walk.steps(begun(model, series, heads), batch_size, Point()):
            progress.add(point.done - done)
            done = point.done
    nothing = np.empty((0, len(model.task.channels)))
    return [{name: np.concatenate([nothing, *found]) for name, found in part.items()} for part in parts]


def _enough(heads: list[int], lengths: list[int], step: int, channels: int, score: str, lacking: int) -> int | None:
    """Calibration rows a series that have so many scores more; None where the table has not so many rows.

    Of surprise there is one a token's rows, of residuals one a row, where none is missing.
    """
    every = step if score == "surprise" else 1

    def more(rows: int) -> int:
        grown = (max(0, min(rows, length) - head) for head, length in zip(heads, lengths, strict=True))
        return channels * sum(own // every for own in grown)

    longer = range(max(heads) + 1, max(lengths) + 1)
    found = bisect.bisect_left(longer, lacking, key=more)
    return longer[found] if found < len(longer) else None


class _Thresholds:
    """Limits of each score: of a series' own calibration rows, or of those of all series where these are few."""

    def __init__(
        self,
        path: str,
        heads: list[int],
        found: list[dict[str, np.ndarray]],
        rate: float,
        enough: Callable[[str, int], int | None],
    ):
        known = {name: [part[name] for part in found] for name in SCORES}
        surprised = any(np.isfinite(part).any() for part in known["surprise"])
        self.scores = SCORES if surprised else SCORES[:1]
        self.of: list[dict[str, np.ndarray]] = [{} for _ in heads]
        together = {name: np.concatenate([part.ravel() for part in known[name]]) for name in self.scores}
        together = {name: scores[np.isfinite(scores)] for name, scores in together.items()}
        fewest = min(together, key=lambda name: len(together[name]))
        if (count := len(together[fewest])) < LEAST:
            rows = enough(fewest, LEAST - count)
            remedy = (
                "The whole table has too few: give more rows."
                if rows is None
                else f"Give --calibration {rows} (rows a series), or more rows."
            )
            raise InputError(
                f"{path}: the {max(heads):,} calibration rows have {count:,} scores of {fewest}, and thresholds need "
                f"{LEAST:,}. {remedy}"
            )
        for name in self.scores:
            pooled = tail_threshold(together[name], rate / len(self.scores))
            for limits, part in zip(self.of, known[name], strict=True):
                columns = (scores[np.isfinite(scores)] for scores in part.T)
                limits[name] = np.array(
                    [pooled if len(own) < LEAST else tail_threshold(own, rate / len(self.scores)) for own in columns]
                )


def tail_threshold(scores: np.ndarray, rate: float) -> float:
    r"""The score that a share ``rate`` of like rows exceeds.

    A generalised Pareto tail over a high quantile u of the scores, that of `TAIL` if `IN_TAIL` scores pass it,
    $z = u + \sigma\,((n\,r / n_u)^{-\gamma} - 1) / \gamma$ (Siffer et al. 2017, eq. 1), with γ and σ by probability
    weighted moments (Hosking and Wallis 1987), which few exceedances are enough for. Below u the empirical quantile.

    Args:
        scores: (n,) of calibration rows.
        rate: r, in (0, 1).
    """
    share = min(0.2, max(TAIL, IN_TAIL / len(scores)))
    u = float(np.quantile(scores, 1 - max(rate, share)))
    beyond = np.sort(scores[scores > u]) - u
    if rate >= share or len(beyond) < 2:
        return u
    weight = 1 - (np.arange(1, len(beyond) + 1) - 0.35) / len(beyond)
    a, b = float(beyond.mean()), float((weight * beyond).mean())
    gamma, sigma = 2 - a / (a - 2 * b), 2 * a * b / (a - 2 * b)
    ratio = rate * len(scores) / len(beyond)
    far = -np.log(ratio) if abs(gamma) < 1e-6 else (ratio**-gamma - 1) / gamma
    return u + sigma * float(far)
