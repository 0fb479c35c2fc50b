"""Data that `series_small` never saw: zero-shot, fine-tuned and from scratch, beside seasonal naive.

The last windows of each table, side by side and none dropped, are forecast by `titans-seq forecast backtest`, and the
model has read the last rows before each, its look-back; MASE is scaled by the seasonal error of these rows, its season
being a day's rows, of days a week's and of months a year's. Errors are means over windows, steps, columns and series.
Point forecasts are the quantile 0.5; a point counts as nine equal quantiles in the weighted quantile loss. Fine-tuning
and training from scratch are the same recipe with and without `start_from`: one architecture, as many steps of as many
windows of the rows before the test, the best weights by validation on the rows in between. Learning rates are the
recipe's, not chosen.
"""

import csv
import gzip
import math
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import Row, explained, measured_when, parsed, parser_of, results, rows_options, train

from titans_seq.backtest import MODEL, NAIVE, THETA, backtest
from titans_seq.bench.results import markdown
from titans_seq.checkpoint import find, load_config
from titans_seq.files import sha256
from titans_seq.resources import PREFIXES, data_file

ZERO_SHOT, TUNED, SCRATCH = STARTS = ("zero-shot", "fine-tuned", "from scratch")
RATES = {TUNED: 5e-4, SCRATCH: 2e-3}
TRAINING = {"steps": 200, "warmup": 0.1, "validate_every": 50}
LOOKBACK = 504


class Set(NamedTuple):
    """A table, what of it is forecast, and how it is read; without a ``lookback`` it is too short to be trained on."""

    file: str
    horizon: int
    windows: int  # a series
    reading: dict[str, Any]
    lookback: int | None = LOOKBACK
    validation: int = 192  # rows before the test
    batch: int = 16  # windows a training step; fewer of tables of several columns, which are read apart


SETS = {
    "ETTh1": Set("card:ett/ETTh1.csv.gz", 48, 20, {}, batch=4),
    "ETTm1": Set("card:ett/ETTm1.csv.gz", 96, 20, {}, batch=4),
    "Jena weather": Set(
        "card:jena_weather/weather.csv.gz", 96, 10, {"missing": ("-9999",), "on_duplicate": "first"}, batch=2
    ),
    "New York weather": Set("sample:new_york_weather/weather.csv.gz", 24, 30, {}, batch=4),
    "metro traffic": Set(
        "transport/metro_traffic_volume_hourly.csv.gz", 48, 20, {"target": ("traffic_volume",), "on_duplicate": "first"}
    ),
    "New York taxi": Set("transport/nyc_taxi_30min.csv.gz", 48, 20, {}),
    "Beijing PM2.5": Set("science/beijing_pm25.csv.gz", 24, 30, {"target": ("pm2.5",)}),
    "Victoria electricity": Set("card:vic_elec/vic_elec_30min.parquet", 48, 20, {"target": ("y",)}),
    "PJM electricity": Set("energy/pjm_in_zone.csv.gz", 24, 20, {}),
    "M4 hourly": Set("card:m4_hourly/Hourly-train.csv.gz", 48, 1, {}, lookback=240, validation=96),
    "Melbourne temperature": Set("science/melbourne_min_temp.csv.gz", 28, 12, {}),
    "hospital": Set("monash/hospital_dataset.tsf.gz", 12, 1, {}, lookback=None),
}


# --- what is measured


class Job(NamedTuple):
    """One row: a set, and how the model came by what it knows."""

    name: str
    start: str
    options: Namespace

    @property
    def set(self) -> Set:
        """The set."""
        return SETS[self.name]

    @property
    def key(self) -> str:
        """The row's name."""
        return f"{self.name}, {self.start}"

    def table(self) -> str:
        """The file of the set."""
        if self.name == "M4 hourly":
            return str(joined(self.options.work / "m4_hourly.csv"))
        file = self.set.file
        return str(data_file(file if file.startswith(PREFIXES) else self.options.data / "timeseries" / file))

    def settings(self) -> Row:
        """What decides the row, without folders of this machine."""
        own = self.set._asdict() | {"model": sha256(find(self.options.model) / "model.safetensors")[:12]}
        if self.start == ZERO_SHOT:
            return {name: own[name] for name in ("model", "file", "horizon", "windows", "reading")}
        return {**own, "training": self.training()}

    def training(self) -> Row:
        """How it is trained."""
        rate = self.options.rate or RATES[self.start]
        return {**TRAINING, "steps": self.options.steps, "batch_size": self.set.batch, "learning_rate": rate}

    def recipe(self) -> dict[str, Any]:
        """The sizes and the form of the model, trained on the rows of the set."""
        _, backbone, task = load_config(self.options.model)
        form = ("kind", "horizon", "reads", "patch", "stride", "normalisation", "pool", "output", "zero_shot")
        return {
            "data": {
                "kind": "series",
                "path": self.table(),
                "validation": self.set.validation,
                "test": self.set.horizon * self.set.windows,
                "sampling": "series",
                **self.set.reading,
            },
            "task": {**task.model_dump(mode="json", include=set(form)), "lookback": self.set.lookback},
            "backbone": backbone.model_dump(mode="json", exclude={"embedding"}),
            "start_from": self.options.model if self.start == TUNED else None,
            "training": self.training(),
            "threads": self.options.threads,
        }

    def run(self) -> tuple[str, Row]:
        """The model, trained where it has to be, and what its validation gave."""
        if self.start == ZERO_SHOT:
            return self.options.model, {}
        folder = self.options.work / "-".join(f"{self.key} {self.options.rate or ''}".replace(",", "").split())
        found = train(self.recipe(), folder)
        return str(folder), {"training_seconds": found["seconds"], "validation": found["validation"]}

    def measure(self) -> Row:
        """Scores of the model and of what stands beside it."""
        began = time.process_time()
        model, facts = self.run()
        out = self.options.work / "forecasts.parquet"
        asked = {"windows": self.set.windows, "horizon": self.set.horizon, "threads": self.options.threads}
        found = backtest(model, self.table(), out, overwrite=True, **asked, **self.set.reading)
        scores = {who: found[who] for who in (MODEL, NAIVE, THETA) if who in found}
        return {
            "set": self.name,
            "start": self.start,
            **facts,
            **scores,
            "protocol": found["protocol"],
            "processor_seconds": round(time.process_time() - began, 1),
        }


def joined(out: Path) -> Path:
    """M4's official training and test rows below one another, as a long table of hours."""
    if out.exists():
        return out
    series: dict[str, list[str]] = {}
    for part in ("train", "test"):
        with gzip.open(data_file(f"card:m4_hourly/Hourly-{part}.csv.gz"), "rt", newline="") as file:
            for name, *values in list(csv.reader(file))[1:]:
                series.setdefault(name, []).extend(value for value in values if value not in ("", "NA"))
    hours = np.datetime_as_string(
        np.datetime64("2000-01-01", "h") + np.arange(max(map(len, series.values()))), unit="s"
    )
    lines = (f"{name},{hour},{y}\n" for name, values in series.items() for hour, y in zip(hours, values, strict=False))
    out.write_text("unique_id,ds,y\n" + "".join(lines))
    return out


# --- the page

SCORES = {"mase": "MASE", "wql": "Weighted quantile loss"}


def report(kept: dict[str, Row]) -> str:
    """MASE and weighted quantile loss of each set, and what is made of them at the foot."""
    return "\n\n".join(
        [
            "# Forecasts of data that the model never saw",
            measured_when(kept),
            *(part for score, title in SCORES.items() for part in (f"## {title}", _table(kept, score))),
            "## Protocol",
            markdown(("set", "file", "rows ahead", "windows", "season", "first cutoff"), _sets(kept)),
            explained(__doc__),
        ]
    )


def _of_sets(kept: dict[str, Row], score: str) -> dict[str, dict[str, float]]:
    """A score of each set that has been measured, by who made it."""
    found: dict[str, dict[str, float]] = {}
    for row in kept.values():
        own = found.setdefault(row["set"], {})
        own |= {told(who): row[who][score] for who in (NAIVE, THETA) if who in row}
        own[row["start"]] = row[MODEL][score]
    return found


def told(who: str) -> str:
    """A baseline's name for people."""
    return who.replace("_", " ")


def _table(kept: dict[str, Row], score: str) -> str:
    """A line a set, and below them what `summary` makes of all sets, and of those that were trained on."""
    found = _of_sets(kept, score)
    who = [name for name in (told(NAIVE), told(THETA), *STARTS) if any(name in own for own in found.values())]
    lines = [[name, *(f"{own[w]:.3f}" if w in own else "" for w in who)] for name, own in found.items()]
    without = [name for name in who if name not in (TUNED, SCRATCH)]
    for names in dict.fromkeys([tuple(without), tuple(who)]):
        sets = [own for own in found.values() if all(name in own for name in names)]
        if sets and {told(NAIVE), ZERO_SHOT} <= set(names):
            for title, values in summary(sets, names).items():
                cells = [f"{values[w]:.3f}" if w in values else "" for w in who]
                lines.append([f"**{title}** of {len(sets)} sets", *cells])
    return markdown(("set", *who), lines)


def summary(sets: list[dict[str, float]], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Of scores by set and name: mean, geometric mean of the ratios to seasonal naive, and mean rank."""
    naive, count = told(NAIVE), len(sets)
    ordered = [sorted(own[name] for name in names) for own in sets]
    return {
        "mean": {n: sum(own[n] for own in sets) / count for n in names},
        "mean ratio": {n: math.exp(sum(math.log(own[n] / own[naive]) for own in sets) / count) for n in names},
        "mean rank": {
            n: sum(ranks.index(own[n]) + 1 for ranks, own in zip(ordered, sets, strict=True)) / count for n in names
        },
    }


def _sets(kept: dict[str, Row]) -> list[list[str]]:
    """How each set was measured."""
    found = {}
    for row in kept.values():
        how = row["protocol"]
        numbers = [str(how[name]) for name in ("horizon", "windows", "season", "first_cutoff")]
        found[row["set"]] = [row["set"], row["settings"]["file"], *numbers]
    return list(found.values())


def tried(kept: dict[str, Row]) -> str:
    """Validation losses of the rates that were tried; no test row was read."""
    lines = [[key, f"{row['validation']['loss']:.4f}", f"{row['validation']['step']:.0f}"] for key, row in kept.items()]
    head = ("tried", "loss on validation", "at step")
    return "\n\n".join(["# Learning rates tried on validation rows", measured_when(kept), markdown(head, lines), ""])


# --- the command


def options_of() -> Namespace:
    """What the command line asks for."""
    parser = parser_of(__doc__ or "")
    rows_options(parser)
    parser.add_argument("--model", default="series_small", help="a shipped name, a run or a checkpoint")
    parser.add_argument("--sets", default=",".join(SETS), help="some of them, between commas")
    parser.add_argument("--starts", default=",".join(STARTS), help="likewise")
    parser.add_argument("--steps", type=int, default=TRAINING["steps"], help="of training, where there is any")
    parser.add_argument("--rates", help="only try these learning rates, between commas, on validation rows")
    options = parsed(parser)
    options.sets, options.starts = (
        [part.strip() for part in part.split(",")] for part in (options.sets, options.starts)
    )
    for known, asked in ((SETS, options.sets), (STARTS, options.starts)):
        if unknown := [name for name in asked if name not in known]:
            parser.error(f"{unknown[0]!r} is none of {', '.join(known)}")
    options.rate = None
    return options


def jobs_of(options: Namespace) -> Iterator[Job]:
    """All starts of a set before the next, zero-shot of all sets first."""
    jobs = [Job(name, start, options) for start in STARTS[:1] for name in options.sets]
    jobs += [Job(name, start, options) for name in options.sets for start in STARTS[1:] if SETS[name].lookback]
    return (job for job in jobs if job.start in options.starts)


def main() -> None:
    """Measure every row that is not there yet."""
    options = options_of()
    if options.rates:
        with results("zero_shot_rates", options, tried) as rows:
            for rate in map(float, options.rates.split(",")):
                for job in jobs_of(Namespace(**{**vars(options), "rate": rate})):
                    if job.start != ZERO_SHOT:
                        rows.row(f"{job.key}, rate {rate:g}", job.settings(), lambda job=job: job.run()[1])
        return
    with results("zero_shot", options, report) as rows:
        for job in jobs_of(options):
            rows.row(job.key, job.settings(), job.measure)


if __name__ == "__main__":
    main()
