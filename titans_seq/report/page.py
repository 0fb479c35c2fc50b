"""``report.html``: what a run was, how well it did and how to repeat it, in one file that needs nothing else.

The page may load nothing and run nothing but its own script, which its content security policy names by its sum;
whatever names the data bring are escaped besides.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from titans_seq.checkpoint import load_config
from titans_seq.data.audit.found import Audit
from titans_seq.errors import InputError, ModelError, UsageError
from titans_seq.files import read_json, write_text
from titans_seq.measured import SEEDS, kept_measured
from titans_seq.report.html import (
    code,
    facts,
    flat,
    folded,
    listed,
    name,
    paragraph,
    section,
)
from titans_seq.report.measurements import measurement
from titans_seq.report.trained import curves, lead, seeds, trained, validation

SHOWN = 6  # measurements that are not folded
NEEDED = (  # of a manifest
    *("result", "began", "data_sha256", "model_sha256", "seed", "command"),
    *("device", "threads", "machine", "titans_seq", "torch", "python"),
)
LISTED = 40  # findings of an audit
MEASURE = {
    "genomics": "titans-seq genomics evaluate {run} TEST.csv",
    "forecast": "titans-seq forecast backtest {run} TABLE.csv --windows 30 --out backtest.csv",
}


def write_report(run: Path, out: Path | None = None, audits: Sequence[Path] = ()) -> dict[str, Any]:
    """Write the page of a finished run; it is self-contained and asks nothing of the network.

    It shows what lies in the run folder: the recipe, the manifest, ``metrics.csv``, what `evaluate` and `backtest`
    measured, and audits as ``audit*.json``. No model is computed.

    Args:
        run: a run folder, or one of several seeds, whose best run is shown.
        out: the page; ``report.html`` in the run folder if None.
        audits: more files that ``audit --out`` wrote.

    Returns:
        The page's path, and how many measurements and audits are in it.

    Raises:
        ModelError: if it is no run folder, is not finished, or ``model/`` is damaged.
        InputError: if an audit or a measurement is none.
    """
    best, several = _best(run)
    manifest = _manifest(best)
    _, backbone, task = load_config(str(best))
    measured = [m for folder in dict.fromkeys((run, best)) for m in kept_measured(folder, manifest["model_sha256"])]
    files = [*sorted(run.glob("audit*.json")), *audits]
    recipe_text, recipe = _recipe(best / "recipe.yaml")
    title = run.resolve().name
    read = manifest["data_sha256"]
    held_out = bool(recipe["data"].get("test"))
    told = [measurement(m, str(run), task.field, read, held_out) for m in measured]
    body = [
        f"<header><h1>{name(title)}</h1>{paragraph(lead(task, manifest), 'lead')}</header>",
        section("What was trained on what", trained(manifest, recipe, backbone, task)),
        section("How well it does", *_measured(told, run, task.field)),
        section("Training", validation(manifest, task), curves(best / "metrics.csv", task)),
        section("Seeds", seeds(several)),
        section("Audit of the data", *map(_audit, files)),
        section("Use it", code(_commands(run, task, read))),
        section("Repeat it", *_repeat(best, manifest, recipe_text)),
    ]
    page = out or run / "report.html"
    write_text(page, _page(title, "\n".join(part for part in body if part)))
    return {"report": str(page), "measurements": len(measured), "audits": len(files)}


def _best(run: Path) -> tuple[Path, dict[str, Any]]:
    """The run to show, and what several seeds found, if this is a folder of these."""
    if not run.is_dir():
        raise UsageError(f"{run} is no folder. Give the run folder that a training command wrote.")
    if not (run / SEEDS).is_file():
        return run, {}
    found = read_json(run / SEEDS)
    if "best" not in found:
        raise ModelError(f"{run} holds seeds of which not all are finished. Finish them with --resume.")
    return run / found["best"], found


def _manifest(run: Path) -> dict[str, Any]:
    file = run / "manifest.json"
    if not file.is_file() or not (run / "recipe.yaml").is_file():
        raise ModelError(
            f"{run} is no run folder: it lacks manifest.json or recipe.yaml. Give one that training wrote."
        )
    if read_json(file, "status")["status"] != "finished":
        raise ModelError(f"{run} is a run that is not finished. Finish it with --resume, then report on it.")
    return read_json(file, *NEEDED)


def _recipe(file: Path) -> tuple[str, dict[str, Any]]:
    """Text and content of a run's recipe."""
    try:
        text = file.read_text(encoding="utf-8")
        found = yaml.safe_load(text)
        return text, {"data": found["data"], "start_from": found.get("start_from")}
    except (ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        told = " ".join(str(error).split())
        raise ModelError(f"{file} is damaged: {told}. Bring it back, or start anew with --overwrite.") from None


def _page(title: str, body: str) -> str:
    style, script = (Path(__file__).with_name(part).read_text(encoding="utf-8") for part in ("page.css", "track.js"))
    script = script if 'class="track"' in body else ""
    sources = {"style": style, "script": script}
    allowed = "; ".join(f"{kind}-src {_sum(text)}" for kind, text in sources.items() if text)
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def _sum(source: str) -> str:
    """What a content security policy calls an inline source by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


# --- how well it does


def _measured(told: list[str], run: Path, field: str) -> list[str]:
    if told:
        return [*told[:SHOWN], folded("Earlier measurements", "\n".join(told[SHOWN:]))]
    command = MEASURE[field].format(run=shlex.quote(str(run)))
    again = f"titans-seq report {shlex.quote(str(run))}"
    return [
        paragraph("Nothing was measured yet on data that the run did not see. This does, and shows it here:"),
        code(f"{command}\n{again}"),
    ]


# --- audits


def _audit(file: Path) -> str:
    """What ``genomics audit`` or ``forecast audit`` found."""
    audit = _read_audit(file)
    verdict = "No problem and no leak was found." if audit.sound else ""
    parts = [f"<h3>{name(audit.path)} ({name(audit.kind)})</h3>", paragraph(verdict)]
    for title, found in (
        ("Leaks and conflicts between splits: these make a test score too good, or meaningless", audit.leaks),
        ("Problems: training refuses these", audit.problems),
        ("Notes", audit.notes),
    ):
        if found:
            parts += [f"<h4>{title}</h4>", listed(found, LISTED)]
    return f"<article>{''.join(parts)}{folded('All that was found', code(audit.text()))}</article>"


def _read_audit(file: Path) -> Audit:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        lists = {key: tuple(map(str, found[key])) for key in ("problems", "leaks", "notes")}
        audit = Audit(str(found["path"]), str(found["kind"]), dict(found["facts"]), **lists)
        audit.text()
    except FileNotFoundError:
        raise UsageError(f"{file} does not exist.") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"{file} is no audit. Give what `audit --out FILE.json` wrote.") from None
    return audit


# --- use and repeat


def _commands(run: Path, task: Any, files: dict[str, str]) -> str:
    """Command lines that use the model, by field and by what it says of a sequence."""
    folder, data = shlex.quote(str(run)), shlex.quote(next(iter(files), "TABLE"))
    first = "predict {} NEW.fa --out predictions.csv"
    if getattr(task, "along", False):
        first = "predict {} NEW.fa --out predictions.parquet"
    elif task.kind == "masked_language_model":
        first = "embed {} NEW.fa --out embeddings.parquet"
    own = {
        "genomics": [
            f"titans-seq genomics {first.format(folder)}",
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
            *own[task.field],
            f"titans-seq models show {folder}",
            "",
            "# in Python",
            "from titans_seq import load_pretrained",
            f"model = load_pretrained({str(run / 'model')!r})",
        ]
    )


def _repeat(run: Path, manifest: dict[str, Any], recipe: str) -> list[str]:
    sums = [(path, f"<code>{name(value)}</code>") for path, value in manifest["data_sha256"].items()]
    sums.append(("model/model.safetensors", f"<code>{name(manifest['model_sha256'])}</code>"))
    again = f"titans-seq run {shlex.quote(str(run / 'recipe.yaml'))} --out runs/again"
    return [
        paragraph("The run was begun by this command. Its recipe holds every setting, and repeats it:"),
        code(f"{shlex.join(manifest['command'])}\n{again}"),
        folded("recipe.yaml", code(recipe)),
        folded("SHA-256 of what was read, and of the weights", facts(sums)),
        folded("manifest.json", facts(flat({k: v for k, v in manifest.items() if k != "data_sha256"}))),
    ]
