"""``report.html``: what a run was, how well it did and how to use it, in one file that needs nothing else."""

import base64
import json
import shlex
from collections.abc import Iterator
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from titans_seq.checkpoint import load_config
from titans_seq.files import write_text
from titans_seq.report.plots import training_curve

STYLE = """
body { max-width: 46rem; margin: 0 auto; padding: 1rem; font: 16px/1.55 system-ui, sans-serif; color: #1f2933; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; margin: .5rem 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 2px solid #e4e7eb; padding-bottom: .25rem; }
p.lead { color: #52606d; margin: 0; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #e4e7eb; }
th, td { overflow-wrap: anywhere; }
th { font-weight: 500; color: #52606d; width: 42%; }
td small { color: #7b8794; display: block; }
tr.chosen th, tr.chosen td { font-weight: 700; color: #1f2933; }
img { max-width: 100%; height: auto; }
pre { background: #f5f7fa; padding: .75rem; border-radius: .4rem; font-size: .82rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: #52606d; margin-top: 1rem; }
"""

# What a reader should know of a number; a metric without a line here is shown by its name alone.
MEANINGS = {
    "accuracy": "share of the rows whose label is right",
    "mcc": "Matthews correlation: 1 is perfect, 0 is chance",
    "f1": "F1, mean over the classes",
    "weighted_log_loss": "log loss with the classes' weights, in nats",
    "balanced_accuracy": "mean over the classes of the share of each that is found",
    "auprc": "average precision: 1 is perfect, chance is the share of positive rows",
    "exact_match": "share of the rows of which all labels are right",
    "f1_micro": "F1 over all labels of all rows",
    "pearson": "correlation with the labels: 1 is perfect, 0 is chance",
    "spearman": "correlation of the ranks",
    "r2": "share of the labels' variance that is explained",
    "poisson_loss": "f - y ln f, less is better",
    "auroc": "area under the ROC curve: 1 is perfect, 0.5 is chance",
    "log_loss": "nats a row; less is better",
    "bits_per_nt": "bits a nucleotide; less is better, 2 knows nothing",
    "perplexity": "2 to the power of the bits; 4 knows nothing",
    "scored_bases": "bases A, C, G, T that were predicted",
    "loss": "training loss on the validation data; less is better",
    "mse": "mean squared error, in squared training standard deviations",
    "mae": "mean absolute error, in training standard deviations",
    "wql": "weighted quantile loss; less is better",
    "coverage_80": "share of the values inside the 80 % band; 0.8 is right",
    "windows": "forecast windows",
    "step": "step whose weights were kept",
}


def write_report(run: Path) -> None:
    """Write ``report.html`` into a finished run folder; it is self-contained and asks nothing of the network.

    Args:
        run: a run folder with ``recipe.yaml``, ``manifest.json``, ``metrics.csv`` and ``model/``.

    Raises:
        ModelError: if ``model/`` is damaged.
    """
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    _, backbone, task = load_config(str(run))
    monitor, sign = task.monitor
    settings = {**recipe, "backbone": backbone.model_dump(mode="json")}
    sums = {f"SHA-256 of {Path(path).name}": value for path, value in manifest["data_sha256"].items()}
    data = {**settings.pop("data"), **sums}
    about = manifest["result"]
    body = [
        f"<h1>{escape(run.resolve().name)}</h1>",
        f'<p class="lead">{escape(task.kind.replace("_", " "))}, trained in {_seconds(about["seconds"])}, '
        f"{escape(manifest['began'][:10])}</p>",
        "<h2>Best on the validation data</h2>",
        _metrics(about["validation"], monitor),
        "<h2>Training</h2>",
        _picture(run, monitor, sign),
        "<h2>Use it</h2>",
        f"<pre>{escape(_commands(run, task.field, manifest['data_sha256']))}</pre>",
        "<h2>Data</h2>",
        _table(data),
        "<h2>Settings</h2>",
        f"<details><summary>All of them, as in recipe.yaml</summary>{_table(settings)}</details>",
        "<h2>Where it ran</h2>",
        _table({k: v for k, v in manifest.items() if k not in ("data_sha256", "result", "schema_version")}),
    ]
    write_text(run / "report.html", _page(run.resolve().name, "\n".join(body)))


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _seconds(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _number(value: float | None) -> str:
    if value is None:  # as the manifest has what is not finite
        return "not finite"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _metrics(scores: dict[str, float], chosen: str) -> str:
    rows = []
    for name in sorted(scores, key=lambda name: name != chosen):  # what chose the weights comes first
        mark = ' class="chosen"' if name == chosen else ""
        meaning = f"<small>{escape(MEANINGS[name])}</small>" if name in MEANINGS else ""
        shown = escape(name.replace("_", " "))
        rows.append(f"<tr{mark}><th>{shown}</th><td>{_number(scores[name])}{meaning}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Keys of a nested mapping with dots between, and their values as text; what is not set is left out."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, list):
            yield f"{before}{key}", " ".join(map(str, value))
        elif value is not None:
            yield f"{before}{key}", str(value)


def _table(values: dict[str, Any]) -> str:
    rows = (f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in _flat(values))
    return f"<table>{''.join(rows)}</table>"


def _picture(run: Path, monitor: str, sign: int) -> str:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "curve.png"
        training_curve(run / "metrics.csv", file, monitor=monitor, sign=sign)
        data = base64.b64encode(file.read_bytes()).decode()
    alt = f"Training loss, and {monitor.replace('_', ' ')} on the validation data, by step."
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def _commands(run: Path, field: str, files: dict[str, str]) -> str:
    """Command lines that use the model, by field."""
    folder, data = shlex.quote(str(run)), shlex.quote(next(iter(files), "TABLE"))
    own = {
        "genomics": [
            f"titans-seq genomics predict {folder} NEW.fa --out predictions.csv",
            f"titans-seq genomics evaluate {folder} LABELLED.csv",
            f"titans-seq genomics finetune TRAIN.csv --backbone {folder} --out runs/finetuned",
        ],
        "forecast": [
            f"titans-seq forecast predict {folder} {data} --out forecast.csv",
            f"titans-seq forecast backtest {folder} {data} --windows 30 --out backtest.csv",
        ],
    }
    return "\n".join(
        [
            *own[field],
            f"titans-seq models show {folder}",
            f"titans-seq run {shlex.quote(str(run / 'recipe.yaml'))} --out runs/again",
            "",
            "# in Python",
            "from titans_seq import load_pretrained",
            f"model = load_pretrained({str(run / 'model')!r})",
        ]
    )
