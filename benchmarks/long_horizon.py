"""Long horizons as published tables measure them: Titans' blocks and a MIRAS preset beside DLinear and seasonal naive.

Borders, scaling and windows are those of the published tables: months of 30 days, 12 of training, 4 of validation, 4 of
test (Weather 70, 10 and 20 %), errors in standard deviations of the training rows, every window, none dropped, whatever
the look-back. A look-back of 96+672 is 96 rows, and 672 before them that only the memory reads. Weights and settings
are chosen on validation rows; test rows are read once a cell. Weather is read as it stands, its rows taken as evenly
spaced and its marks of -9999 as numbers, since published tables do so.
"""

import argparse
import copy
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from common import Row, explained, measured_when, parsed, parser_of, results, rows_options, train
from torch import Tensor, nn

from titans_seq.baselines import errors, season_of, seasonal_naive
from titans_seq.bench.results import markdown
from titans_seq.checkpoint import load_pretrained, to_tensors
from titans_seq.data.sources import Parts, SeriesSource
from titans_seq.data.windows import Items, SeriesWindows
from titans_seq.resources import data_file
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.training.evaluation import evaluate

# --- what is measured


class Set(NamedTuple):
    """A table: its file, the rows where training, validation and test end, and how long models are trained."""

    file: str
    borders: tuple[int, int, int]
    steps: int


_HOURS, _QUARTERS = (8_640, 11_520, 14_400), (34_560, 46_080, 57_600)
SETS = {
    "ETTh1": Set("card:ett/ETTh1.csv.gz", _HOURS, 528),
    "ETTh2": Set("card:ett/ETTh2.csv.gz", _HOURS, 528),
    "ETTm1": Set("card:ett/ETTm1.csv.gz", _QUARTERS, 1056),
    "Weather": Set("card:jena_weather/weather.csv.gz", (36_887, 42_157, 52_696), 528),
}
HORIZONS = (96, 192, 336, 720)
SEEDS = (0, 1, 2)
DLINEAR, NAIVE = "dlinear", "seasonal_naive"
LONGER = {"ETTh1": (0.375, 0.399), "ETTm1": (0.299, 0.343)}  # DLinear, look-back 336, horizon 96, Zeng et al. 2023
BEST = "lmm"  # the simplest of five that ETTh1's validation rows do not tell apart: 0.680 to 0.682 with seed 0

# The one table of settings, chosen by `TRIED`
TASK: dict[str, Any] = {"patch": 16, "stride": 16, "output": {"kind": "point", "error": "mse"}}
BACKBONE: dict[str, Any] = {"width": 64, "depth": 1, "heads": 4, "dropout": 0.3}
MEMORY: dict[str, Any] = {"chunk_size": 4, "structure": {"kind": "matrix"}}
TRAINING: dict[str, Any] = {"batch_size": 32, "learning_rate": 4e-3, "patience": 2}
BLOCKS: dict[str, dict[str, Any]] = {  # a look-back of 96 is six patches
    "lmm": {"block": {"kind": "lmm", "persistent": 0}},
    "mac": {"block": {"kind": "mac", "segment": 4}},
    "mag": {"block": {"kind": "mag", "window": 4}},
    "mal": {"block": {"kind": "mal", "window": 4}},
    "yaad": {"block": {"kind": "lmm", "persistent": 0}, "memory": {"preset": "yaad", "chunk_size": 4}},
    "attention": {"block": {"kind": "attention"}},  # without a memory
}
VARIANTS: dict[str, dict[str, Any]] = {  # of the best, in its task
    "absolute-error": {"output": {"kind": "point", "error": "mae"}},
    "training-scale": {"normalisation": "training"},
}
TRIED = (  # validation MSE on ETTh1, horizon 96, seed 0, one after the other
    ("lmm, width 64, two blocks, patches of 16 every 8, rate 5e-4, 792 steps, dropout 0.2", 0.692),
    ("the same with a linear shortcut, stopped after 643 steps", 0.703),
    ("lmm, width 32, one block, patches of 16 every 8, rate 1e-3, 528 steps, dropout 0.2", 0.696),
    ("the same, patches every 16, dropout 0.3 before the head", 0.703),
    ("lmm, width 64, one block, patches of 16 every 16, rate 1e-3, 528 steps, dropout 0.2", 0.689),
    ("the same, rate 5e-4", 0.699),
    ("the same, rate 2e-3", 0.683),
    ("the same, rate 4e-3, dropout 0.3: taken", 0.681),
    ("dlinear, look-back 336, rate 3e-4", 0.648),
    ("the same, rate 1e-3, whose test MSE, 0.379, was seen", 0.645),
    ("the same, rate 5e-3: taken", 0.643),
)
DLINEAR_TRAINING = {"epochs": 8, "batch_size": 32, "learning_rate": 5e-3, "patience": 3}


class Cell(NamedTuple):
    """One measurement."""

    set: str
    lookback: str  # rows, or rows and those before them that the memory reads: 96+672
    horizon: int
    model: str
    seed: int = 0

    @property
    def key(self) -> str:
        """What its row is called."""
        seed = "" if self.model == NAIVE else f", seed {self.seed}"
        return f"{self.set}, {self.lookback} to {self.horizon}, {self.model}{seed}"

    @property
    def rows_read(self) -> tuple[int, int]:
        """Rows of the look-back, and rows before it that the memory reads."""
        lookback, _, memory = self.lookback.partition("+")
        return int(lookback), int(memory or 0)

    @property
    def task(self) -> dict[str, Any]:
        """The task of its recipe."""
        _, _, variant = self.model.partition(":")
        lookback, memory = self.rows_read
        sizes = {"horizon": self.horizon, "lookback": lookback, "memory_lookback": memory}
        return {"kind": "forecasting", **TASK, **VARIANTS.get(variant, {}), **sizes}

    @property
    def backbone(self) -> dict[str, Any]:
        """The backbone of its recipe."""
        block = BLOCKS[self.model.partition(":")[0]]
        return {**BACKBONE, "memory": MEMORY, **block}

    @property
    def training(self) -> dict[str, Any]:
        """The training of its recipe, validated four times."""
        steps = SETS[self.set].steps
        return {**TRAINING, "steps": steps, "validate_every": max(1, steps // 4)}

    def settings(self) -> Row:
        """What must be the same for a row to stand for this cell."""
        if self.model == NAIVE:
            return {}
        if self.model == DLINEAR:
            return {"training": DLINEAR_TRAINING}
        return {"task": self.task, "backbone": self.backbone, "training": self.training}


def plan() -> Iterator[Cell]:
    """All cells, the first to be measured first."""
    for name in LONGER:
        yield Cell(name, "336", 96, DLINEAR)
    compared = [name for name in BLOCKS if name != "attention"]
    yield Cell("ETTh1", "96", 96, NAIVE)
    for seed, model in product(SEEDS, (DLINEAR, *compared)):
        yield Cell("ETTh1", "96", 96, model, seed)
    for model in ("attention", *(f"{BEST}:{variant}" for variant in VARIANTS)):
        yield Cell("ETTh1", "96", 96, model)
    for name, lookback in product(LONGER, ("336", "96+672")):
        yield Cell(name, lookback, 96, BEST)
    tables = {"ETTh1": HORIZONS[1:], "ETTh2": HORIZONS, "ETTm1": HORIZONS, "Weather": HORIZONS[:1]}
    for seed, name in product(SEEDS, tables):
        models = (NAIVE,) * (seed == 0) + (DLINEAR, *(compared if name == "ETTh1" else (BEST,)))
        for horizon, model in product(tables[name], models):
            yield Cell(name, "96", horizon, model, seed)


# --- data


def source_of(cell: Cell, work: Path) -> SeriesSource:
    """The table of a cell; training, validation and test end at the borders."""
    file, (train_end, validation_end, _), _ = SETS[cell.set]
    if cell.set == "Weather":
        file = str(evenly(data_file(file), work / "weather.csv"))
    rows = len(SeriesSource.of_file(file).read().series[0])
    return SeriesSource(path=file, validation=validation_end - train_end, test=rows - validation_end)


def evenly(source: Path, target: Path) -> Path:
    """A copy of Weather's table with times that are evenly spaced; one that is there is taken up."""
    if not target.exists():
        table = pl.read_csv(source)
        first = np.datetime64("2020-01-01T00:10", "us")
        times = pl.Series("date", first + np.arange(len(table)) * np.timedelta64(600_000_000, "us"))
        table.with_columns(times).write_csv(target)
    return target


def test_of(cell: Cell, source: SeriesSource) -> SeriesWindows:
    """Every window whose future lies in the test rows."""
    series = list(source.read().series)
    return SeriesWindows(series, [SETS[cell.set].borders[1:]], sum(cell.rows_read), cell.horizon)


# --- models


class DLinear(nn.Module):
    """Two linear maps of a window's trend (moving mean of 25) and rest, one for all channels (Zeng et al. 2023).

    Args:
        task: with look-back, horizon and scaling.
    """

    def __init__(self, task: Any, kernel: int = 25):
        super().__init__()
        self.kernel, self.location, self.scale = kernel, torch.tensor(task.location), torch.tensor(task.scale)
        self.trend, self.rest = nn.Linear(task.lookback, task.horizon), nn.Linear(task.lookback, task.horizon)
        for layer in (self.trend, self.rest):
            nn.init.constant_(layer.weight, 1 / task.lookback)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Forecast (B, H, C, 1) in training standard deviations."""
        x = ((batch["past"] - self.location) / self.scale).float().transpose(1, 2)
        half = self.kernel // 2
        trend = F.avg_pool1d(F.pad(x, (half, half), mode="replicate"), self.kernel, 1)
        return (self.trend(trend) + self.rest(x - trend)).transpose(1, 2)[..., None]


def batches(items: Items, order: np.ndarray, size: int) -> Iterator[dict[str, Tensor]]:
    """Items in an order, in batches of which the last may be smaller."""
    for first in range(0, len(order), size):
        yield to_tensors(items.collate([items.item(int(i), None) for i in order[first : first + size]]))


def scores(model: nn.Module, task: Any, items: Items) -> dict[str, float]:
    """Metrics of the task over all items."""
    with torch.no_grad():
        found = [task.measures(model(batch), batch) for batch in batches(items, np.arange(len(items)), 256)]
    return task.metrics({name: np.concatenate([part[name] for part in found]) for name in found[0]})


def fit_dlinear(parts: Parts, seed: int) -> tuple[DLinear, dict[str, float]]:
    """DLinear by Adam, its rate halved each epoch (as Zeng et al. do), with the weights that validation chooses."""
    task, items, validation = parts
    torch.manual_seed(seed)
    rng, model, c = np.random.default_rng(seed), DLinear(task), DLINEAR_TRAINING
    adam = torch.optim.Adam(model.parameters(), lr=c["learning_rate"])
    best, kept, since = {"mse": np.inf}, copy.deepcopy(model), 0
    for _ in range(int(c["epochs"])):
        for batch in batches(items, rng.permutation(len(items)), int(c["batch_size"])):
            adam.zero_grad()
            task.loss(model(batch), batch).backward()
            adam.step()
        adam.param_groups[0]["lr"] /= 2
        found, since = scores(model, task, validation), since + 1
        if found["mse"] < best["mse"]:
            best, kept, since = found, copy.deepcopy(model), 0
        if since == c["patience"]:
            break
    return kept, best


def measured(cell: Cell, options: argparse.Namespace) -> Row:
    """Train the model of a cell, or take up its run, and test it."""
    source = source_of(cell, options.work)
    test = test_of(cell, source)
    if cell.model not in (DLINEAR, NAIVE):
        return {**cell._asdict(), **trained(cell, source, test, options)}
    parts = source.parts(Forecasting.model_validate(cell.task), cell.seed)
    if cell.model == NAIVE:
        season = season_of(parts.task.frequency)
        return {**cell._asdict(), "test": errors(parts.task, test, seasonal_naive(test, season))}
    model, best = fit_dlinear(parts, cell.seed)
    return {**cell._asdict(), "validation": best, "test": scores(model, parts.task, test)}


def trained(cell: Cell, source: SeriesSource, test: SeriesWindows, options: argparse.Namespace) -> Row:
    """What a model of ours reaches."""
    digest = hashlib.sha256(repr(cell.settings()).encode()).hexdigest()[:8]  # other settings are another folder
    run = options.work / f"{cell.key.translate(str.maketrans(', :', '---'))}-{digest}"
    found = train({"data": source.model_dump(), **cell.settings(), "seed": cell.seed, "threads": options.threads}, run)
    model = load_pretrained(str(run))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": found["seconds"],
        "validation": found["validation"],
        "test": evaluate(model, test, 256),
    }


# --- tables

PRINTED = {  # MSE and MAE at look-back 96 as printed by Liu et al. 2024 (iTransformer, arXiv 2310.06625)
    "iTransformer": {
        "ETTh1": {96: (0.386, 0.405), 192: (0.441, 0.436), 336: (0.487, 0.458), 720: (0.503, 0.491)},
        "ETTh2": {96: (0.297, 0.349), 192: (0.380, 0.400), 336: (0.428, 0.432), 720: (0.427, 0.445)},
        "ETTm1": {96: (0.334, 0.368), 192: (0.377, 0.391), 336: (0.426, 0.420), 720: (0.491, 0.459)},
        "Weather": {96: (0.174, 0.214)},
    },
    "PatchTST": {
        "ETTh1": {96: (0.414, 0.419), 192: (0.460, 0.445), 336: (0.501, 0.466), 720: (0.500, 0.488)},
        "ETTh2": {96: (0.302, 0.348), 192: (0.388, 0.400), 336: (0.426, 0.433), 720: (0.431, 0.446)},
        "ETTm1": {96: (0.329, 0.367), 192: (0.367, 0.385), 336: (0.399, 0.410), 720: (0.454, 0.439)},
        "Weather": {96: (0.177, 0.218)},
    },
    "DLinear, printed": {
        "ETTh1": {96: (0.386, 0.400), 192: (0.437, 0.432), 336: (0.481, 0.459), 720: (0.519, 0.516)},
        "ETTh2": {96: (0.333, 0.387), 192: (0.477, 0.476), 336: (0.594, 0.541), 720: (0.831, 0.657)},
        "ETTm1": {96: (0.345, 0.372), 192: (0.380, 0.389), 336: (0.413, 0.413), 720: (0.474, 0.453)},
        "Weather": {96: (0.196, 0.255)},
    },
}
TITANS = {"ETTh1": (0.420, 0.421), "ETTh2": (0.336, 0.382), "ETTm1": (0.358, 0.387)}  # table 3, means of the horizons


def told(rows: list[Row], planned: bool = True) -> str:
    """Mean MSE and MAE on test rows, and of several seeds how many; without rows whether they are planned."""
    if not rows:
        return "open" if planned else ""
    return pair(_mean(rows)) + (f" ({len(rows)})" if len(rows) > 1 else "")


def pair(values: tuple[float, float] | None) -> str:
    """Printed MSE and MAE."""
    return f"{values[0]:.3f} / {values[1]:.3f}" if values else ""


def report(kept: dict[str, Row]) -> str:
    """Tables of what is measured, of what others print, of settings, and the cells that are open."""

    def of(name: str, lookback: str, horizon: int, model: str) -> list[Row]:
        wanted = (name, lookback, horizon, model)
        return [r for r in kept.values() if tuple(r[k] for k in Cell._fields[:4]) == wanted]

    cells = list(plan())
    compared = [model for model in BLOCKS if model != "attention"]
    unified = list(dict.fromkeys((c.set, c.horizon) for c in cells if c.lookback == "96"))
    planned = {(c.set, c.horizon, c.model) for c in cells}
    ours = (*compared, DLINEAR, NAIVE)
    first = [
        [
            name,
            str(horizon),
            *(told(of(name, "96", horizon, model), (name, horizon, model) in planned) for model in ours),
        ]
        + [pair(values[name].get(horizon)) for values in PRINTED.values()]
        for name, horizon in unified
    ]
    second = [[c.set, c.lookback, c.model, told(of(*c[:4]))] for c in dict.fromkeys(map(_apart, cells)) if _special(c)]
    averages = {name: _averages(of, name, ours) for name in TITANS}
    means = [
        [
            name,
            *(pair(found.get(m)) or told([], (name, 720, m) in planned) for m in (*ours, *PRINTED)),
            pair(TITANS[name]),
        ]
        for name, found in averages.items()
    ]
    open_cells = [cell for cell in cells if cell.key not in kept]
    return "\n\n".join(
        [
            "# Long horizons: MSE / MAE on test rows",
            measured_when(kept) if kept else "Not yet measured.",
            explained(__doc__).strip(),
            "## Look-back 96",
            markdown(("table", "horizon", *ours, *PRINTED), first),
            "Means over seeds, in brackets how many, where it is not one alone. On the right printed numbers.",
            "## Means of the four horizons, look-back 96",
            markdown(("table", *ours, *PRINTED, "Titans, table 3"), means),
            _aims(averages),
            "## Horizon 96: other look-backs, without a memory, other losses and scales",
            markdown(("table", "look-back", "model", "MSE / MAE"), second),
            "DLinear with a look-back of 336 is printed as "
            + " and ".join(f"{pair(values)} on {name}" for name, values in LONGER.items())
            + ". A look-back of 96+672 is 96 rows, and the 672 before them read by the memory alone.",
            "## Settings",
            _settings(),
            f"## Open: {len(open_cells)} of {len(cells)} cells",
            _listed(open_cells),
            "",
        ]
    )


def _apart(cell: Cell) -> Cell:
    return cell._replace(seed=0)


def _special(cell: Cell) -> bool:
    return cell.lookback != "96" or (cell.set, cell.horizon) == ("ETTh1", 96)


def _listed(cells: list[Cell]) -> str:
    """Cells as a list, the seeds of a model together."""
    seeds: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        place = f"{cell.set}, {cell.lookback} to {cell.horizon}"
        seeds.setdefault(place, {}).setdefault(cell.model, []).append(str(cell.seed))
    lines = (", ".join(f"{model} ({' '.join(own)})" for model, own in models.items()) for models in seeds.values())
    return "\n".join(f"- {place}: {line}" for place, line in zip(seeds, lines, strict=True)) or "None."


def _mean(rows: list[Row]) -> tuple[float, float]:
    return tuple(float(np.mean([row["test"][name] for row in rows])) for name in ("mse", "mae"))


def _averages(of: Callable[..., list[Row]], name: str, models: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Means over the four horizons, of the models that have them all."""
    rows = {model: [of(name, "96", horizon, model) for horizon in HORIZONS] for model in models}
    found = {model: list(map(_mean, cells)) for model, cells in rows.items() if all(cells)}
    found |= {who: list(values[name].values()) for who, values in PRINTED.items()}
    return {model: tuple(np.mean(pairs, 0)) for model, pairs in found.items()}


def _aims(averages: dict[str, dict[str, tuple[float, float]]]) -> str:
    """How the best of ours stands beside Titans' averages."""
    told = []
    for name, found in averages.items():
        ours = {model: found[model][0] for model in BLOCKS if model in found}
        best = min(ours, key=lambda model: ours[model], default=None)
        gap = f"{ours[best] - TITANS[name][0]:+.3f} in MSE by {best}" if best else "not known, horizons are open"
        told.append(f"{name} {gap}")
    return f"Beside Titans' averages: {'; '.join(told)}."


def _settings() -> str:
    """What every model of ours is, and what each is."""
    steps = ", ".join(f"{facts.steps:,} on {name}" for name, facts in SETS.items())
    lines = [["all", f"task {TASK}; backbone {BACKBONE}; memory {MEMORY}; training {TRAINING}, steps {steps}"]]
    lines += [[name, str(choice)] for name, choice in (*BLOCKS.items(), *VARIANTS.items())]
    lines += [[DLINEAR, f"Adam, rate halved each epoch: {DLINEAR_TRAINING}"]]
    tried = markdown(
        ("tried on ETTh1, horizon 96, seed 0", "MSE on validation"), [[what, f"{mse:.3f}"] for what, mse in TRIED]
    )
    return "\n\n".join([markdown(("model", "settings"), lines), tried])


# --- what is asked


def options_of() -> argparse.Namespace:
    """The options: some of the plan's cells."""
    parser = parser_of("Forecasts at long horizons.")
    for name in ("sets", "lookbacks", "horizons", "models", "seeds"):
        parser.add_argument(f"--{name}", help="some of them, between commas")
    rows_options(parser)
    return parsed(parser)


def asked(options: argparse.Namespace) -> list[Cell]:
    """Cells of the plan that the options name."""
    wanted = {field: getattr(options, f"{field}s") for field in Cell._fields}
    chosen = {field: text.split(",") for field, text in wanted.items() if text}
    known = {field: {str(getattr(cell, field)) for cell in plan()} for field in chosen}
    for field, values in chosen.items():
        if strange := sorted(set(values) - known[field]):
            sys.exit(f"--{field}s: {', '.join(strange)}: there are {', '.join(sorted(known[field]))}")
    return [cell for cell in plan() if all(str(getattr(cell, field)) in values for field, values in chosen.items())]


def main() -> None:
    """Measure every cell that is asked for and not there yet."""
    options = options_of()
    torch.set_num_threads(options.threads)
    with results("long_horizon", options, report) as rows:
        for cell in asked(options):
            rows.row(cell.key, cell.settings(), lambda cell=cell: measured(cell, options))


if __name__ == "__main__":
    main()
