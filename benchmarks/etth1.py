"""ETTh1, look-back 96, horizon 96, standard borders, all 2,785 test windows: three seeds, DLinear and seasonal naive.

The settings are the first that were tried; ``results/etth1.json`` keeps every validation error.
"""

import gzip
from pathlib import Path

import numpy as np
import torch
from common import arguments, keep, train
from torch import Tensor, nn

from titans_seq.baselines import errors, season_of, seasonal_naive
from titans_seq.checkpoint import load_pretrained
from titans_seq.data.sources import SeriesSource
from titans_seq.data.windows import SeriesWindows
from titans_seq.training.config import Training
from titans_seq.training.evaluation import evaluate
from titans_seq.training.module import fit

SEEDS = (0, 1, 2)
ROWS = 14_400  # of 17,420: the standard borders leave the last 3,020 unused
TASK = {
    "kind": "forecasting",
    "horizon": 96,
    "lookback": 96,
    "patch": 16,
    "stride": 8,
    "output": {"kind": "point", "error": "mse"},
}
BACKBONE = {
    "width": 64,
    "depth": 2,
    "heads": 4,
    "dropout": 0.2,
    "block": {"kind": "lmm", "persistent": 0},
    "memory": {"chunk_size": 4, "structure": {"kind": "matrix"}},
}
TRAINING = {"epochs": 4, "batch_size": 32, "learning_rate": 5e-4, "patience": 3}


class DLinear(nn.Module):
    """Two linear maps of the window's trend (moving mean of 25) and rest, one for all channels (Zeng et al. 2022)."""

    def __init__(self, task: object, kernel: int = 25):
        super().__init__()
        self.task = task
        self.kernel = kernel
        self.trend = nn.Linear(task.lookback, task.horizon)
        self.rest = nn.Linear(task.lookback, task.horizon)
        for layer in (self.trend, self.rest):
            nn.init.constant_(layer.weight, 1 / task.lookback)
        self.register_buffer("location", torch.tensor(task.location))
        self.register_buffer("scale", torch.tensor(task.scale))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Forecast (B, H, C, 1) in training standard deviations."""
        x = ((batch["past"] - self.location) / self.scale).transpose(1, 2)
        half = self.kernel // 2
        padded = torch.cat([x[..., :1].expand(-1, -1, half), x, x[..., -1:].expand(-1, -1, half)], -1)
        trend = padded.unfold(-1, self.kernel, 1).mean(-1)
        return (self.trend(trend) + self.rest(x - trend)).transpose(1, 2)[..., None]


def cut(source: Path, target: Path) -> Path:
    """The rows that the standard borders use; a table that is there is taken up."""
    if target.exists():
        return target
    with gzip.open(source, "rt") as rows, gzip.open(target, "wt") as out:
        out.writelines(line for _, line in zip(range(ROWS + 1), rows, strict=False))
    return target


def main() -> None:
    """Train, measure, keep."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(options.threads)
    table = cut(options.data / "timeseries/ltsf/ETTh1.csv.gz", options.work / "ETTh1.csv.gz")
    data = {"kind": "series", "path": str(table), "validation": 2880, "test": 2880}
    found: dict[str, object] = {
        "protocol": "look-back 96, horizon 96, 8640/2880/2880 rows, z-scored by the training rows"
    }
    runs = []
    for seed in SEEDS:
        recipe = {"data": data, "task": TASK, "backbone": BACKBONE, "training": TRAINING, "seed": seed}
        run = train({**recipe, "threads": options.threads}, options.work / f"etth1-{seed}")
        model = load_pretrained(str(options.work / f"etth1-{seed}"))
        source = SeriesSource(**data)
        table = source.read()
        windows = SeriesWindows(list(table.series), [(ROWS - 2880, ROWS)], 96, 96)
        test = evaluate(model, windows, 128)
        runs.append({"seed": seed, "validation_mse": run["validation"]["mse"], "seconds": run["seconds"], **test})
    found["titans_seq"] = runs
    found["titans_seq_mean"] = {name: float(np.mean([run[name] for run in runs])) for name in ("mse", "mae")}
    task, training, validation = source.parts(model.task, 0)
    torch.manual_seed(0)
    (options.work / "dlinear/checkpoints").mkdir(parents=True, exist_ok=True)
    config = Training(epochs=10, batch_size=32, learning_rate=1e-3, weight_decay=0, warmup=0, patience=3)
    dlinear = DLinear(task)
    best = fit(dlinear, training, validation, config, 0, options.work / "dlinear", "cpu")
    found["dlinear"] = {"validation_mse": best["mse"], **evaluate(dlinear, windows, 128)}
    found["seasonal_naive"] = errors(task, windows, seasonal_naive(windows, season_of(table.frequency)))
    keep("etth1", found, options.threads)


if __name__ == "__main__":
    main()
