"""The verbs of the command line: train, predict, evaluate, forecast, backtest. Each is short enough to read in one look."""

import contextlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_seq import __version__, baselines
from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import (
    SequenceModel,
    find,
    load_backbone,
    load_config,
    load_pretrained,
    save_pretrained,
)
from titans_seq.data.fasta import Block, read_blocks
from titans_seq.data.record import Record, Series
from titans_seq.data.series import future_times
from titans_seq.data.sources import SequenceSource, SeriesSource
from titans_seq.data.windows import GenomeWindows, LabelledSequences, SeriesWindows
from titans_seq.data.write import Row, check_suffix
from titans_seq.errors import ConfigError, EnvironmentFault, InputError, ModelError, UsageError
from titans_seq.files import clear_drafts, locked, must_be_new, sha256, telling_disk_faults, write_text
from titans_seq.recipe import Recipe, differences, load_recipe
from titans_seq.resources import data_file
from titans_seq.stream import BLOCK, carried_template, run_stream, sequence_steps, window_steps
from titans_seq.training.evaluation import evaluate as measure
from titans_seq.training.module import fit

# --- what every verb needs


def prepare(device: str, threads: int | None) -> str:
    """Set the number of threads, and return ``cpu`` or ``cuda``.

    Raises:
        EnvironmentFault: if CUDA is asked for and not there.
    """
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault(
            f"--device cuda: this torch ({torch.__version__}) finds no CUDA device. Use --device cpu, "
            "or install a torch built for your GPU."
        )
    return device


def parameters(backbone: BackboneConfig, task: Any) -> int:
    """Number of parameters, counted without building the model."""
    with torch.device("meta"):
        return sum(p.numel() for p in SequenceModel(backbone, task).parameters())


def must_fit(count: int, copies: int, what: str) -> None:
    """Refuse a model whose weights (times ``copies``: gradients, optimiser) do not fit this machine's memory."""
    need, there = 4 * count * copies, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > there:
        raise ConfigError(
            f"{what} has {count:,} parameters and needs {need:,} bytes; this machine has {there:,}. Choose a smaller backbone."
        )


def load(source: str, device: str, kind: str | None = None) -> SequenceModel:
    """Load a model for inference; with ``kind``, one of that field.

    Raises:
        ModelError: if it is damaged, or of the other field.
        ConfigError: if it does not fit this machine.
    """
    _, backbone, task = load_config(source)
    if kind and task.field != kind:  # type: ignore[attr-defined]
        raise ModelError(f"{source} is a model of task {task.kind}, for `titans-seq {task.field}`.")  # type: ignore[attr-defined]
    must_fit(parameters(backbone, task), 1, source)
    return load_pretrained(source).to(device)


def _identity(source: str, inputs: list[Path], **options: Any) -> dict[str, str]:
    """What must not change between a job and its resume."""
    sums = {f"input {path}": sha256(path) for path in inputs if str(path) != "-"}
    return {"model": sha256(find(source) / "model.safetensors"), **sums, **{k: str(v) for k, v in options.items()}}


# --- train


def train(
    recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False, device: str = "auto", dry_run: bool = False
) -> dict[str, Any]:
    """Carry out a recipe into the run folder ``out``; returns what the command reports."""
    device = prepare(device, recipe.threads)
    if "-" in getattr(recipe.data, "paths", ()):
        raise UsageError("Training reads its data more than once, so it needs a file, not stdin.")
    if not dry_run:
        must_be_new(out, overwrite=overwrite, resume=resume)
    task, training, validation = recipe.data.parts(recipe.task, recipe.seed)
    backbone = recipe.backbone.model_copy(update={"embedding": task.embedding()})
    count = parameters(backbone, task)
    must_fit(count, 4, "the backbone")
    facts = {
        "run": str(out),
        "task": task.kind,
        "parameters": count,
        "training_items": len(training),
        "validation_items": len(validation),
        "steps": recipe.training.total(len(training)),
        "device": device,
        "weights_and_optimizer_bytes": 16 * count,
    }
    if dry_run:
        return {**facts, "dry_run": True}
    if overwrite and not resume:
        _clear(out)
    with locked(out):
        clear_drafts(out)
        manifest = _open_run(recipe, out, device, resume)
        if manifest["status"] == "finished":
            return {**facts, **manifest["result"], "already_finished": True}
        torch.manual_seed(recipe.seed)
        model = SequenceModel(backbone, task)
        if recipe.start_from:
            load_backbone(model, recipe.start_from)
        began = time.monotonic()
        (out / "checkpoints").mkdir(exist_ok=True)
        best = fit(model.to(device), training, validation, recipe.training, recipe.seed, out, device)
        save_pretrained(model, out / "model")
        result = {"validation": best, "seconds": round(time.monotonic() - began, 1)}
        manifest |= {"status": "finished", "result": result, "model_sha256": sha256(out / "model" / "model.safetensors")}
        write_text(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        from titans_seq.report import write_report

        write_report(out)
        return {**facts, **result}


def _clear(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / "recipe.yaml").is_file():
        raise UsageError(f"{out} is not a run folder, so --overwrite does not empty it. Choose another --out.")
    shutil.rmtree(out, ignore_errors=True)


def _open_run(recipe: Recipe, out: Path, device: str, resume: bool) -> dict[str, Any]:
    """Write recipe and manifest of a new run; of a resumed one check that nothing but time has passed."""
    sums = {str(path): sha256(path) for path in recipe.data.files() if path.is_file()}
    file = out / "recipe.yaml"
    if resume and file.is_file() and (out / "manifest.json").is_file():
        there = load_recipe(file).model_dump(mode="json", exclude={"backbone": {"embedding"}})
        now = recipe.model_dump(mode="json", exclude={"backbone": {"embedding"}})
        if changed := differences(there, now):
            raise ConfigError(f"{out} was begun with another recipe: {'; '.join(changed)}. Resume with the same one.")
        manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        if manifest["data_sha256"] != sums:
            other = [p for p in sums.keys() | manifest["data_sha256"].keys() if sums.get(p) != manifest["data_sha256"].get(p)]
            raise InputError(f"{out} was begun with other data: the sum of {', '.join(sorted(other))} differs.")
        return manifest
    manifest = {
        "schema_version": 1,
        "status": "running",
        "command": sys.argv,
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "titans_seq": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "data_sha256": sums,
    }
    with telling_disk_faults(out):
        write_text(file, recipe.text())
        write_text(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return manifest


# --- genomics


def _blocks(path: Path, model: SequenceModel) -> Iterator[Block]:
    """Records of a FASTA, or of a table of sequences, in blocks."""
    if _is_table(path):
        for number, record in enumerate(SequenceSource(train=str(path)).read_unlabelled(str(path))):
            pieces = range(0, max(1, len(record)), BLOCK)
            for start in pieces:
                yield Block(number, record.id, start, record.codes[start : start + BLOCK], start == pieces[-1])
        return
    yield from read_blocks(path, size=BLOCK)


def _is_table(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return name.endswith((".csv", ".tsv", ".parquet"))


def predict(
    source: str,
    path: str,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Predict every record of a FASTA or table with a sequence model, into ``out``."""
    check_suffix(out)
    must_be_new(out, overwrite=overwrite, resume=resume)
    if resume and out.exists() and not overwrite:
        return {"out": str(out), "already_finished": True}
    file = data_file(path)
    model = load(source, prepare(device, threads), "genomics").eval()
    if resume and path == "-":
        raise UsageError("--resume needs the input as a file: what came through stdin is gone.")
    from titans_seq.stream import prefetch

    with _beside(out):
        rows = run_stream(
            lambda point: sequence_steps(model, prefetch(_blocks(file, model)), batch_size, point),
            out,
            _identity(source, [file], batch_size=batch_size),
            resume=resume,
            template=lambda: carried_template(model),
        )
    return {"out": str(out), "records": rows}


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[None]:
    """Hold the output against a second process that would write the same file."""
    with telling_disk_faults(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(out.name + ".lock")
    with locked(lock):
        yield
    shutil.rmtree(lock, ignore_errors=True)


def evaluate(
    source: str, path: str, *, device: str = "auto", threads: int | None = None, batch_size: int = 64, baseline: bool = True
) -> dict[str, Any]:
    """Metrics of a sequence model on a labelled table, or of a language model on a FASTA; with a k-mer baseline beside."""
    model = load(source, prepare(device, threads), "genomics")
    file = data_file(path)
    if model.task.kind == "language_model":
        from titans_seq.data.fasta import read_fasta

        items = GenomeWindows([Record(r.id, r.codes) for r in read_fasta(file) if len(r)], 4 * BLOCK, False)
        return {"model": measure(model, items, 1, "evaluating")}
    read = SequenceSource(train=str(file), on_conflict="warn").read
    records = read(str(file))
    for record in records:
        if record.label not in model.task.classes:
            raise InputError(f"{path}: row {record.id!r} has label {record.label!r}; the model knows {', '.join(model.task.classes)}.")
    items = LabelledSequences(records, model.task.classes, False)
    found = {"rows": len(records), "model": measure(model, items, batch_size, "evaluating")}
    recipe = find(source).parent / "recipe.yaml"
    if baseline and recipe.is_file():
        data = load_recipe(recipe).data
        p = baselines.kmer_probabilities(data.read(data.train), records, model.task.classes)
        found["kmer_logistic_regression"] = model.task.metrics({"p": p, "label": np.array(items.labels)})
    return found


# --- forecast


def _series(source: str, model: SequenceModel, path: str, reading: dict[str, Any], rows: int) -> list[Series]:
    """Series of a table, with the columns and the frequency that the model was trained on."""
    recipe, options = find(source).parent / "recipe.yaml", {}
    if recipe.is_file():  # what the training table needed is likely what this one needs
        data = load_recipe(recipe).data
        options = data.model_dump(include={"format", "time", "id", "target", "time_format", "on_duplicate", "on_gap"})
    options |= {name: value for name, value in reading.items() if value}
    series, frequency = SeriesSource(path=path, **options).read(min_rows=rows)
    task = model.task
    if series[0].columns != task.channels:
        missing = [c for c in task.channels if c not in series[0].columns]
        if missing:
            raise InputError(f"{path} lacks the column {', '.join(missing)} that the model was trained on.")
        order = [series[0].columns.index(c) for c in task.channels]
        series = [Series(s.id, s.times, s.values[:, order], task.channels) for s in series]
    if frequency != task.frequency:
        raise InputError(f"{path} has one row every {frequency}; the model was trained on one every {task.frequency}.")
    return series


def _stamp(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="s")).replace("T", " ")


def _name(series: Series, column: str) -> str:
    """unique_id of one column: the series' id in a long table, the column's name in a wide one."""
    if not series.id:
        return column
    return series.id if len(series.columns) == 1 else f"{series.id}:{column}"


def _forecast_rows(series: Series, times: np.ndarray, columns: dict[str, np.ndarray], extra: dict[str, Any], actual: np.ndarray | None) -> list[Row]:
    rows = []
    for c, column in enumerate(series.columns):
        for h, time in enumerate(times):
            row: Row = {"unique_id": _name(series, column), "ds": _stamp(time), **extra}
            if actual is not None:
                row["y"] = None if np.isnan(actual[h, c]) else float(actual[h, c])
            rows.append(row | {name: float(values[h, c]) for name, values in columns.items()})
    return rows


def _levels(task: Any, wanted: str | None) -> set[str] | None:
    """Names of the columns that ``--quantiles`` asks for."""
    if not wanted:
        return None
    known = {f"{level:g}" for level in task.output.levels} if len(task.output.levels) > 1 else set()
    try:
        names = [f"{float(part):g}" for part in wanted.split(",")]
    except ValueError:
        raise UsageError(f"--quantiles {wanted}: give numbers between commas, such as 0.1,0.5,0.9.") from None
    if lacking := [name for name in names if name not in known]:
        raise UsageError(f"The model has no quantile {', '.join(lacking)}; it has {', '.join(sorted(known)) or 'none, it forecasts a point'}.")
    return {"mean", *(f"q{name}" for name in names)}


def forecast(
    source: str,
    path: str,
    out: Path,
    *,
    quantiles: str | None = None,
    windows: int | None = None,
    step: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int = 64,
    **reading: Any,
) -> dict[str, Any]:
    """Forecast what follows each series; or with ``windows`` backtest: forecast that many origins at its end.

    A backtest's last window ends with the series' last row, its origins are ``step`` rows apart (the horizon,
    if None), and errors of the model and of seasonal naive on the same windows are returned.
    """
    check_suffix(out)
    must_be_new(out, overwrite=overwrite, resume=resume)
    if resume and out.exists() and not overwrite:
        return {"out": str(out), "already_finished": True}
    model = load(source, prepare(device, threads), "forecast").eval()
    task = model.task
    keep = _levels(task, quantiles)
    L, H = task.lookback, task.horizon
    if windows is None:
        series = [_extended(s, H, task.frequency) for s in _series(source, model, path, reading, L)]
        spans = [(len(s.times) - H, len(s.times)) for s in series]
        step = 1
    else:
        step = step or H
        need = L + H + (windows - 1) * step
        series = _series(source, model, path, reading, L + H)
        spans = [(max(L, len(s.times) - H - (windows - 1) * step), len(s.times)) for s in series]
        if short := [s for s in series if len(s.times) < need]:
            raise InputError(
                f"{path}: {windows} windows {step} rows apart need {need} rows; series {short[0].id!r} has {len(short[0].times)}. "
                "Ask for fewer --windows."
            )
    if short := [s for s, (a, b) in zip(series, spans, strict=True) if a < L]:
        raise InputError(f"{path}: series {short[0].id!r} has {len(short[0].times) - (H if windows is None else 0)} rows, the model reads {L}.")
    items = SeriesWindows(series, spans, L, H, step)

    def describe(number: int, columns: dict[str, np.ndarray]) -> list[Row]:
        which, t = items.place(number)
        s, future = series[which], slice(t, t + H)
        columns = {name: v for name, v in columns.items() if keep is None or name in keep}
        if windows is None:
            return _forecast_rows(s, s.times[future], columns, {}, None)
        return _forecast_rows(s, s.times[future], columns, {"cutoff": _stamp(s.times[t - 1])}, s.values[future])

    found: dict[str, Any] = {"out": str(out), "series": len(series)}
    if windows is not None:
        season = task.season or baselines.season_of(task.frequency)
        found |= {
            "protocol": {"lookback": L, "horizon": H, "step": step, "windows": len(items), "dropped": 0,
                         "units": "training standard deviations"},
            "model": measure(model, items, batch_size, "backtest"),
            "seasonal_naive": {**baselines.errors(task, items, baselines.seasonal_naive(items, season)), "season": season},
        }
    with _beside(out):
        found["rows"] = run_stream(
            lambda point: window_steps(model, items, describe, batch_size, point),
            out,
            _identity(source, [data_file(path)], batch_size=batch_size, quantiles=quantiles, windows=windows, step=step),
            resume=resume,
            template=lambda: None,
        )
    return found


def _extended(series: Series, horizon: int, frequency: str) -> Series:
    """The series with its future timestamps, where all is missing."""
    times = np.concatenate([series.times, future_times(series.times[-1], frequency, horizon)])
    empty = np.full((horizon, series.values.shape[1]), np.nan)
    return Series(series.id, times, np.concatenate([series.values, empty]), series.columns)
