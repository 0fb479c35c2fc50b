"""The demo: both main jobs on the shipped real samples, by the verbs and the recipes of the command line."""

import csv
import gzip
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from titans_seq import forecast
from titans_seq.backtest import backtest
from titans_seq.checkpoint import load_pretrained
from titans_seq.data.fasta import read_fasta
from titans_seq.evaluation import evaluate
from titans_seq.files import must_be_new, to_json, write_text
from titans_seq.genomics import predict
from titans_seq.job import prepare
from titans_seq.progress import Progress
from titans_seq.recipe import Recipe, load_recipe
from titans_seq.report import write_report
from titans_seq.report.plots.forecasts import forecast_plot
from titans_seq.report.plots.likelihood import likelihood_plot
from titans_seq.resources import data_file
from titans_seq.run import train
from titans_seq.stream.tracks import token_loglik

REGION = "sample:ecoli_region/region.fa.gz"
WINDOWS, NEW_WINDOWS = "sample:ecoli_region/train.csv.gz", "sample:ecoli_region/test.csv.gz"
WEATHER = "sample:new_york_weather/weather.csv.gz"
UNITS = {"temperature": "°C", "dew_point": "°C", "wind_speed": "m/s", "pressure": "hPa"}
HOURS, DAYS_DRAWN = 24, 6  # of a forecast, of forecasts in the picture

FILES = {
    "backbone": "run: the shipped dna_small, trained on with 400,000 bases of E. coli (see its report.html)",
    "classifier": "run: the backbone fine-tuned to tell coding from intergenic windows",
    "forecaster": "run: the next 24 hours of New York weather",
    "predictions.csv": "label and probabilities of every test window, by its id",
    "scores.json": "scores on the test windows, beside k-mer logistic regression",
    "likelihood.png": "how well the backbone predicts the genome along it",
    "backtest.csv": "a forecast for each of the last 60 days, which training never saw, and what came",
    "backtest.json": "its errors, beside seasonal naive",
    "backtest.png": "the last of these forecasts with bands of 50 % and 80 %",
    "forecast.csv": "quantiles of the 24 hours after the table's end",
    "forecast.png": "the same as a picture",
    "summary.txt": "what the demo printed at its end",
}


class Bench(NamedTuple):
    """Where the demo works, and on what."""

    out: Path
    device: str
    threads: int | None

    def tell(self, what: str, *words: Any) -> None:
        """Say what comes, and the command line that does the same."""
        if not Progress.quiet:
            line = f"\n  $ titans-seq {shlex.join(map(str, words))}" if words else ""
            print(f"\n{what}{line}", file=sys.stderr, flush=True)

    @property
    def options(self) -> dict[str, Any]:
        """Options of every verb that writes or computes."""
        return {"device": self.device, "threads": self.threads}

    def train(self, name: str, what: str, run: Path, start: Path | None = None) -> Recipe:
        """Carry out the shipped recipe ``name`` into ``run``."""
        self.tell(what, "run", name, *(("--set", f"start_from={start}") if start else ()), "--out", run)
        recipe = load_recipe(Path(name))
        begin = str(start.resolve()) if start else recipe.start_from
        recipe = recipe.model_copy(update={"threads": self.threads or recipe.threads, "start_from": begin})
        train(recipe, run, device=self.device, overwrite=True)
        return recipe

    def report(self, run: Path) -> None:
        """Write the page of a run anew."""
        self.tell("Write the run's page anew, with what was measured.", "report", run)
        write_report(run)


def demo(
    out: Path, *, device: str = "auto", threads: int | None = None, overwrite: bool = False
) -> tuple[str, dict[str, Any]]:
    """Pretrain, fine-tune, predict and evaluate on E. coli; train, backtest and forecast on New York weather.

    Args:
        out: folder for everything that is made; see `FILES`.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; one if None, for more gain these small models nothing.
        overwrite: begin anew in a folder that exists.

    Returns:
        The summary, and the same as a mapping.

    Raises:
        UsageError: if ``out`` exists and is not to be overwritten.
    """
    must_be_new(out, overwrite=overwrite, folder=True)
    began = time.monotonic()
    bench = Bench(out, device, threads)
    prepare(device, threads or 1)
    genomics, weather = _genomics(bench), _weather(bench)
    facts = {
        "out": str(out),
        "seconds": round(time.monotonic() - began, 1),
        "genomics": genomics,
        "forecast": weather,
        "files": {str(out / name): what for name, what in FILES.items()},
    }
    text = _summary(facts)
    write_text(out / "summary.txt", text + "\n")
    return text, facts


# --- E. coli


def _genomics(bench: Bench) -> dict[str, Any]:
    """Scores on the test windows, of the classifier and of its baseline."""
    backbone, classifier = bench.out / "backbone", bench.out / "classifier"
    what = "Go on pretraining dna_small, shipped and of human DNA, with 400,000 bases of E. coli."
    recipe = bench.train("demo_pretrain", what, backbone)
    bench.tell("Draw how well it predicts them (titans_seq.stream.tracks.token_loglik).")
    _draw_likelihood(recipe, backbone, bench.out / "likelihood.png", bench.device)
    bench.train("demo_finetune", "Fine-tune it: is a window of 120 bases coding or intergenic?", classifier, backbone)

    model, predictions, scores = str(classifier), bench.out / "predictions.csv", bench.out / "scores.json"
    what = "Predict windows from another part of the chromosome, each on both strands: a gene may lie on either."
    bench.tell(what, "genomics", "predict", model, NEW_WINDOWS, "--both-strands", "--out", predictions)
    predict(model, NEW_WINDOWS, predictions, both_strands=True, overwrite=True, **bench.options)
    what = "Score these, beside k-mer logistic regression."
    bench.tell(what, "genomics", "evaluate", model, NEW_WINDOWS, "--both-strands", "--out", scores)
    found = evaluate(model, NEW_WINDOWS, both_strands=True, **bench.options)
    write_text(scores, to_json(found))
    bench.report(classifier)
    return found


def _known(table: str, label: str, end: int) -> list[tuple[int, int]]:
    """Places of the windows of a label that lie before ``end``."""
    with gzip.open(data_file(table), "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == label]
    return [(int(row["start"]), int(row["end"])) for row in rows if int(row["end"]) <= end]


def _draw_likelihood(recipe: Recipe, run: Path, out: Path, device: str) -> None:
    data: Any = recipe.data
    trained: Any = data.parts(recipe.task, recipe.seed).train
    record = next(iter(read_fasta(data_file(REGION))))
    model = load_pretrained(str(run)).to(prepare(device, None, width=recipe.backbone.width))
    likelihood_plot(
        record.codes,
        token_loglik(model, record.codes),
        out,
        spans={label: _known(WINDOWS, label, len(record)) for label in ("coding", "intergenic")},
        unseen=len(trained.records[0]),
        title="E. coli under the pretrained backbone",
    )


# --- New York


def _weather(bench: Bench) -> dict[str, Any]:
    """Errors on the last 60 days, of the forecaster and of seasonal naive."""
    run, out = bench.out / "forecaster", bench.out
    data: Any = bench.train("demo_forecast", "Train a forecaster of the next 24 hours on New York weather.", run).data
    days = int(data.test) // HOURS
    file, future = out / "backtest.csv", out / "forecast.csv"
    what = f"Forecast each of the last {days} days, which training never saw, beside seasonal naive."
    bench.tell(what, "forecast", "backtest", run, WEATHER, "--windows", days, "--out", file)
    found = backtest(str(run), WEATHER, file, windows=days, overwrite=True, **bench.options)
    bench.report(run)
    what = "Forecast the 24 hours after the table's end."
    bench.tell(what, "forecast", "predict", run, WEATHER, "--out", future)
    forecast.predict(str(run), WEATHER, future, overwrite=True, **bench.options)

    history, rows = data.read().series[0], _rows(file)
    last = sorted({row["cutoff"] for row in rows})[-DAYS_DRAWN:]
    rows = [row for row in rows if row["cutoff"] in last]
    title = "New York weather: a forecast of 24 hours each day, and what came"
    forecast_plot(history, rows, out / "backtest.png", past=2 * HOURS, names=UNITS, title=title)
    title = "New York weather: the 24 hours after the table's end"
    forecast_plot(history, _rows(future), out / "forecast.png", past=5 * HOURS, names=UNITS, title=title)
    return found


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


# --- the end


def _compared(found: Mapping[str, Any], baseline: str, scores: Mapping[str, str], sign: int) -> list[str]:
    """Scores of the model and of its baseline as lines, and in words which won; ``sign`` is 1 where more is better."""
    ours, theirs = found["model"], found[baseline.replace("-", "").replace(" ", "_")]
    width = len(baseline)
    lines = [f"    {'':<{width}}" + "".join(f"{name:>11}" for name in scores.values())]
    for name, values in (("titans-seq", ours), (baseline, theirs)):
        lines.append(f"    {name:<{width}}" + "".join(f"{values[score]:>11.3f}" for score in scores))
    won = [name for score, name in scores.items() if sign * (ours[score] - theirs[score]) > 0]
    lost = [name for name in scores.values() if name not in won]
    told = [f"{word} on {_listed(names)}" for word, names in (("won", won), ("did not win", lost)) if names]
    return [*lines, f"    titans-seq {', '.join(told)}."]


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _summary(facts: dict[str, Any]) -> str:
    genomics, weather = facts["genomics"], facts["forecast"]
    days, hours, inside = (
        weather["protocol"]["windows"],
        weather["protocol"]["horizon"],
        weather["model"]["coverage_80"],
    )
    width = max(len(name) for name in FILES)
    return "\n".join(
        [
            f"E. coli, coding or intergenic: {genomics['items']:,} windows, a part of the chromosome not trained on",
            *_compared(
                genomics, "k-mer logistic regression", {"accuracy": "accuracy", "mcc": "MCC", "auroc": "AUROC"}, 1
            ),
            "",
            f"New York weather, the next {hours} hours: {days} days not trained on, in training standard deviations",
            *_compared(weather, "seasonal naive", {"mse": "MSE", "mae": "MAE"}, -1),
            f"    {inside:.0%} of the values lie in the 80 % band.",
            "",
            f"{facts['out']} holds, after {facts['seconds']:.0f} seconds:",
            *(f"    {name:<{width}}  {what}" for name, what in FILES.items()),
            "",
            "With your own files:",
            "    titans-seq genomics pretrain genome.fa.gz --out runs/genome",
            "    titans-seq genomics finetune train.csv --backbone runs/genome --out runs/classifier",
            "    titans-seq forecast train sensors.csv --horizon 24 --out runs/sensors",
        ]
    )
