"""Does a long memory earn its keep? Error of forecasts of a load against how much of the past the memory has read.

Electricity demand of Victoria, every half hour; the next day is forecast from the last two days, and from 0 to 84 days
before them. These the memory alone reads, or they are a longer window, all of whose patches the forecast sees. Each
point is a model of its own, trained as long as any other. The last half year is for testing, an origin every six hours,
and the 60 days before it choose the weights. Two days do not hold the same day of a week ago, nine do.
"""

import argparse
import hashlib
from itertools import product
from typing import Any

import numpy as np
from common import Row, page, results, rows_arguments, train

from titans_seq.baselines import errors, seasonal_naive
from titans_seq.bench.results import markdown
from titans_seq.checkpoint import load_pretrained
from titans_seq.data.sources import SeriesSource
from titans_seq.data.windows import SeriesWindows
from titans_seq.report.plots.benchmarks import Panel, scaling_plot
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.training.evaluation import evaluate

DAY, WEEK = 48, 336  # half hours
LOOKBACK = 2 * DAY
BEFORE = (0, 2 * DAY, WEEK, 4 * WEEK, 12 * WEEK)
MEMORY, WINDOW, NAIVE = "memory", "window", "seasonal naive, a week"
SEEDS = (0, 1)
VALIDATION, TEST = 60 * DAY, 182 * DAY
EVERY = DAY // 4  # rows from one test origin to the next
TASK: dict[str, Any] = {
    "kind": "forecasting",
    "horizon": DAY,
    "patch": DAY // 2,
    "stride": DAY // 2,
    "output": {"kind": "point", "error": "mae"},
}
BACKBONE: dict[str, Any] = {
    "width": 64,
    "depth": 1,
    "heads": 4,
    "dropout": 0.1,
    "block": {"kind": "lmm", "persistent": 0},
    "memory": {"chunk_size": 4, "structure": {"kind": "matrix"}},
}
TRAINING = {"steps": 600, "batch_size": 32, "learning_rate": 2e-3, "validate_every": 150}


def settings_of(reader: str, before: int) -> Row:
    """Task, backbone and training of a point."""
    sizes = {"lookback": LOOKBACK, "memory_lookback": before} if reader == MEMORY else {"lookback": LOOKBACK + before}
    return {"task": {**TASK, **sizes}, "backbone": BACKBONE, "training": TRAINING}


def source() -> SeriesSource:
    """The load alone."""
    path = "card:vic_elec/vic_elec_30min.parquet"
    return SeriesSource(path=path, target=("y",), validation=VALIDATION, test=TEST)


def test_of(rows: int) -> SeriesWindows:
    """Windows of the test part, each with so many rows before its origin."""
    series = list(source().read().series)
    return SeriesWindows(series, [(len(series[0]) - TEST, len(series[0]))], rows, DAY, EVERY)


def measured(reader: str, before: int, seed: int, options: argparse.Namespace) -> Row:
    """Train the model of a point, or take up its run, and test it."""
    settings = settings_of(reader, before)
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    run = options.work / f"memory-lookback-{reader}-{before}-{seed}-{digest}"
    found = train({"data": source().model_dump(), **settings, "seed": seed, "threads": options.threads}, run)
    test = evaluate(load_pretrained(str(run)), test_of(LOOKBACK + before), 64)
    facts = {"reader": reader, "before": before, "seed": seed}
    return {**facts, "seconds": found["seconds"], "validation": found["validation"], "test": test}


def naive() -> Row:
    """The same half hour of a week ago."""
    task = source().parts(Forecasting.model_validate(settings_of(MEMORY, 0)["task"]), 0).task
    test = test_of(WEEK)
    return {"reader": NAIVE, "before": WEEK - LOOKBACK, "test": errors(task, test, seasonal_naive(test, WEEK))}


def curves(kept: dict[str, Row], part: str = "test", metric: str = "mae") -> dict[str, dict[int, list[float]]]:
    """For each reader, errors of the seeds by the rows before the look-back."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in kept.values():
        if part in row:
            found.setdefault(row["reader"], {}).setdefault(row["before"], []).append(row[part][metric])
    return found


def report(kept: dict[str, Row]) -> str:
    """The curve as a table."""
    test, validation, mse = curves(kept), curves(kept, "validation"), curves(kept, metric="mse")

    def told(errors: list[float]) -> str:
        spread = f" ({min(errors):.4f} to {max(errors):.4f})" if len(errors) > 1 else ""
        return f"{np.mean(errors):.4f}{spread}" if errors else ""

    lines = [
        [
            reader,
            f"{(LOOKBACK + before) / DAY:g}",
            told(values),
            told(mse[reader][before]),
            told(validation.get(reader, {}).get(before, [])),
        ]
        for reader, points in test.items()
        for before, values in sorted(points.items())
    ]
    return page(
        "Error against memory look-back",
        kept,
        __doc__,
        markdown(("read by", "days", "MAE", "MSE", "MAE on validation"), lines),
        "In standard deviations of the training rows; of several seeds the mean, and the least and largest.",
        "![MAE against days read](memory_lookback.png)",
    )


def draw(kept: dict[str, Row], options: argparse.Namespace) -> None:
    """The curve as a picture."""
    lines = {
        reader: [((LOOKBACK + before) / DAY, float(np.mean(values))) for before, values in sorted(points.items())]
        for reader, points in curves(kept).items()
    }
    panel = Panel("demand of the next day", "days read", "MAE, training standard deviations", lines)
    scaling_plot([panel], options.out / "memory_lookback.png")


def main() -> None:
    """Measure what is not there yet."""
    options = rows_arguments("Error against memory look-back.")
    with results("memory_lookback", options, report) as rows:
        rows.row(NAIVE, {}, naive)
        for seed, before, reader in product(SEEDS, BEFORE, (MEMORY, WINDOW)):
            if before or reader == MEMORY:  # without rows before it the window is the same
                rows.row(
                    f"{reader}, {before} before, seed {seed}",
                    settings_of(reader, before),
                    lambda point=(reader, before, seed): measured(*point, options),
                )
            draw(rows.kept, options)


if __name__ == "__main__":
    main()
