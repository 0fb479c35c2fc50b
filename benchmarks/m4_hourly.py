"""M4 hourly: `TitansEstimator` beside GluonTS' PatchTST with the same budget, and seasonal naive.

414 series, the official 48 hours after each, by GluonTS' own evaluation: MASE with a season of 24 hours, and the
weighted quantile loss over nine levels. Both models read the same 168 hours in patches of 24, have the same width,
depth and heads, and see as many batches of as many windows; else they are what their estimators make them. PatchTST
divides a window by its mean, and stands here too as it is where windows are centred and scaled, as ours are. None is
trained on the last 48 hours of the training file, whose errors choose between two learning rates.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from common import Row, page, results, rows_arguments
from gluonts.dataset.split import TestData, split
from gluonts.ev.metrics import MASE, MeanWeightedSumQuantileLoss
from gluonts.model import Predictor, evaluate_model
from gluonts.model.seasonal_naive import SeasonalNaivePredictor
from gluonts.torch import PatchTSTEstimator

from titans_seq.bench.results import markdown
from titans_seq.data.sources import SeriesSource
from titans_seq.gluonts import TitansEstimator, to_entries
from titans_seq.resources import data_file

HORIZON, SEASON = 48, 24
RATES, SEEDS = (1e-3, 3e-3), (0, 1, 2)
CONTEXT, PATCH, WIDTH, DEPTH, HEADS = 168, 24, 32, 2, 4
BUDGET = {"batch_size": 32, "num_batches_per_epoch": 50}
EPOCHS = 16
TITANS, NAIVE = "titans_seq", "seasonal_naive"
PATCHTST = {"patchtst": "mean", "patchtst_std": "std"}  # by its scaling, of which the first is its default
NAMES = {f"MASE[{SEASON}]": "mase", "mean_weighted_sum_quantile_loss": "wql"}

Entries = list[dict[str, Any]]


def entries(*files: Path) -> Entries:
    """A GluonTS entry a series, what stands of it in each file in turn."""
    parts = [SeriesSource.of_file(str(file), freq="h").read().series for file in files]
    following = [{series.id: series.target[:, 0] for series in part} for part in parts]
    return [
        # PatchTST reads no doubles
        {**entry, "target": np.concatenate([part[series.id] for part in following]).astype(np.float32)}
        for series in parts[0]
        for entry in to_entries(series)
    ]


def estimator(model: str, rate: float, folder: Path) -> Any:
    """The estimator of a model, with the shared sizes and budget."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = {"max_epochs": EPOCHS, "default_root_dir": str(folder), **quiet}
    shared = {"prediction_length": HORIZON, "context_length": CONTEXT, "lr": rate, "trainer_kwargs": trainer, **BUDGET}
    if model in PATCHTST:
        sizes = {"patch_len": PATCH, "stride": PATCH, "d_model": WIDTH, "nhead": HEADS, "num_encoder_layers": DEPTH}
        return PatchTSTEstimator(**shared, **sizes, dim_feedforward=2 * WIDTH, scaling=PATCHTST[model])
    backbone = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "dropout": 0.1, "block": {"kind": "lmm"}}
    memory = {"chunk_size": 4, "structure": {"kind": "matrix"}}
    return TitansEstimator(**shared, backbone={**backbone, "memory": memory}, task={"patch": PATCH, "stride": PATCH})


def scores(predictor: Predictor, windows: TestData) -> dict[str, float]:
    """MASE and weighted quantile loss, by GluonTS."""
    levels = [round(0.1 * n, 1) for n in range(1, 10)]
    metrics = [MASE(), MeanWeightedSumQuantileLoss(levels)]
    found = evaluate_model(predictor, test_data=windows, metrics=metrics, seasonality=SEASON)
    return dict(zip(NAMES.values(), map(float, found.iloc[0]), strict=True))


def measured(model: str, rate: float, seed: int, options: argparse.Namespace) -> Row:
    """Train a model, and measure it on the hours that choose and on the official ones."""
    data = entries(*(data_file(f"card:m4_hourly/Hourly-{part}.csv.gz") for part in ("train", "test")))
    known = [{**entry, "target": entry["target"][:-HORIZON]} for entry in data]
    training = split(known, offset=-HORIZON)[0]
    L.seed_everything(seed, verbose=False)
    predictor = (
        SeasonalNaivePredictor(HORIZON, SEASON)
        if model == NAIVE
        else estimator(model, rate, options.work / f"m4-{model}-{rate:g}-{seed}").train(training)
    )
    found = {
        part: scores(predictor, split(own, offset=-HORIZON)[1].generate_instances(HORIZON))
        for part, own in (("validation", known), ("test", data))
    }
    return {"model": model, "rate": rate, "seed": seed, **found}


def report(kept: dict[str, Row]) -> str:
    """A line a model, at the rate that its validation hours chose, and every row."""

    def mean(rows: list[Row], metric: str, part: str = "test") -> float:
        return float(np.mean([row[part][metric] for row in rows]))

    lines = []
    for model in dict.fromkeys(row["model"] for row in kept.values()):
        own = [row for row in kept.values() if row["model"] == model]
        by_rate = {rate: [row for row in own if row["rate"] == rate] for rate in {row["rate"] for row in own}}
        rate = min(by_rate, key=lambda rate: mean(by_rate[rate], "wql", "validation"))
        line = [f"{mean(by_rate[rate], metric):.3f}" for metric in NAMES.values()]
        lines.append([model, f"{rate:g}" if rate else "", str(len(by_rate[rate])), *line])
    every = [
        [key, *(f"{row[part][metric]:.3f}" for part, metric in product(("validation", "test"), NAMES.values()))]
        for key, row in kept.items()
    ]
    head = ("row", "MASE, validation", "wql, validation", "MASE, test", "wql, test")
    return page(
        "M4 hourly: 414 series, 48 hours ahead",
        kept,
        __doc__,
        markdown(("model", "learning rate", "seeds", "MASE", "weighted quantile loss"), lines),
        "Means over seeds, on the official 48 hours.",
        markdown(head, every),
    )


def main() -> None:
    """Measure what is not there yet."""
    settings = {"epochs": EPOCHS, "context": CONTEXT, "patch": PATCH, "width": WIDTH, "depth": DEPTH, **BUDGET}
    options = rows_arguments("M4 hourly.")
    with results("m4_hourly", options, report) as rows:
        rows.row(NAIVE, {}, lambda: measured(NAIVE, 0.0, 0, options))
        for seed, rate, model in product(SEEDS, RATES, (TITANS, *PATCHTST)):
            rows.row(
                f"{model}, rate {rate:g}, seed {seed}",
                settings,
                lambda m=model, r=rate, s=seed: measured(m, r, s, options),
            )


if __name__ == "__main__":
    main()
