"""What was measured of a run's model, as parts of its page: scores, curves, forecasts, tracks along a sequence."""

import json
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from titans_seq.measured import Measured
from titans_seq.report import svg
from titans_seq.report.html import counted, embedded, folded, name, number, paragraph, table, text
from titans_seq.report.scores import chromosome_rows, lead_lines, score_rows

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
    "bits_per_masked_nt": "bits a masked nucleotide; less is better, 2 knows nothing",
    "perplexity": "2 to the power of the bits; 4 knows nothing",
    "scored_bases": "bases A, C, G, T that were predicted",
    "loss": "training loss on these data; less is better",
    "mse": "mean squared error, in squared training standard deviations",
    "mae": "mean absolute error, in training standard deviations",
    "scaled_mse": "mean squared error in training scale, which has no unit",
    "wql": "weighted quantile loss; less is better",
    "coverage_80": "share of the values inside the 80 % band; 0.8 is right",
    "windows": "forecast windows",
    "step": "step whose weights were kept",
}
# The same where `scaled_mse` stands beside: of labels, not of forecasts.
OWN_UNIT = {
    "mse": "mean squared error, in the labels' own unit squared; of several columns the mean",
    "mae": "mean absolute error, in the labels' own unit; of several columns the mean",
}
MATRIX, CONFUSIONS = 20, 30  # classes of a matrix at most; rows of a list in its place
BINS = 150  # points of the picture of a track that needs no script
TO_BITS = 1 / math.log(2)
# How tracks are drawn: what they are called, and the factor from what `genomics score` writes.
DRAWN = {
    "loglik": ("bits that the base took", -TO_BITS),
    "entropy": ("bits expected", TO_BITS),
    "surprise": ("the memory's surprise", 1.0),
}


def meaning(score: str, beside: Collection[str]) -> str:
    """Name of a score with what it means among the scores ``beside`` it."""
    meanings = MEANINGS | OWN_UNIT if "scaled_mse" in beside else MEANINGS
    said = f"<small>{text(meanings[score])}</small>" if score in meanings else ""
    return f"{name(score.replace('_', ' '))}{said}"


def measurement(one: Measured, run: str, field: str, trained: Mapping[str, str], held_out: bool) -> str:
    """One measurement as HTML.

    Args:
        one: what was kept.
        run: folder of the model, for the command that repeats it.
        field: ``genomics`` or ``forecast``.
        trained: sums of what the run was trained on, by path.
        held_out: whether a run of series left rows for a test.
    """
    parts = _backtest(one, held_out) if one.verb == "backtest" else _evaluation(one, trained)
    sums = "".join(f"{name(key)}: {name(value)}<br>" for key, value in one.identity.items())
    said = f"<small>{name(one.when[:16].replace('T', ' '))}, titans-seq {name(one.titans_seq)}. Again:</small>"
    how = f"{said}<pre>{text(_command(one, run, field))}</pre><p><small>{sums}</small></p>"
    body = "\n".join(part for part in parts if part)
    return f"<article>\n{body}\n{folded('How it was measured', how)}\n</article>"


_OPTIONS = ("leak_free", "labels", "label_columns", "resamples", "seed", "windows", "step", "horizon", "refit")


def _command(one: Measured, run: str, field: str) -> str:
    """The command line that measures the same again."""
    said: dict[str, Any] = {key: one.identity.get(key) for key in _OPTIONS}
    said = {key: value for key, value in said.items() if value not in (None, "", "None")}
    for group in ("reading", "regions"):
        said |= json.loads(one.identity.get(group) or "{}")
    if "label_columns" in said:
        said["label_column"] = json.loads(said.pop("label_columns"))
    if "feature" in said:
        said["feature"] = ",".join(said["feature"])
    given = [
        word
        for key, value in said.items()
        for one_of in (value if isinstance(value, list | tuple) else [value])
        for word in (f"--{key.replace('_', '-')}", str(one_of))
    ]
    flags = ["--both-strands"] if one.identity.get("both_strands") == "True" else []
    flags += ["--no-baseline"] if one.identity.get("baseline") == "False" else []
    out = ["--out", "backtest.csv"] if one.verb == "backtest" else []
    return shlex.join(["titans-seq", field, one.verb, run, one.path, *flags, *given, *out])


def _called(path: str) -> str:
    """What a file is called in a heading: its name; its whole path stands in the command."""
    return Path(path).name if Path(path).is_absolute() else path


# --- sequences


def _evaluation(one: Measured, trained: Mapping[str, str]) -> list[str]:
    found, details = one.found, one.found.get("details", {})
    warning = "The run was trained on this file, or on a part of it: these scores say little about new data."
    parts = [
        f"<h3>On {name(_called(one.path))}</h3>",
        paragraph(warning, "warning") if one.seen(trained) else "",
        _scores(found, counted(found["items"], "item")),
    ]
    if clean := found.get("leak_free"):
        parts.append(_scores(clean, f"without leaks: {clean['items']:,} of {found['items']:,} items"))
    if how := found.get("bootstrap"):
        said = f"In brackets: {how['level']:.0%} intervals of {how['resamples']:,} bootstrap resamples."
        parts.append(paragraph(said, "note"))
    drawn = [
        _curves(details.get("roc"), "ROC", "false positive rate", "true positive rate", ((0, 0), (1, 1))),
        _curves(details.get("precision_recall"), "Precision and recall", "recall", "precision", ()),
        _calibration(details.get("calibration")),
        *_scatter(details.get("scatter")),
    ]
    parts += [_confusion(details), svg.charts(*drawn), region(one.drawn.get("region"))]
    if "chromosomes" in found:
        head, *rows = chromosome_rows(found["chromosomes"])
        parts.append(folded("By chromosome", table(list(map(name, head)), [list(map(name, row)) for row in rows])))
    return parts


def _scores(found: Mapping[str, Any], title: str) -> str:
    """The table of scores, and in words where the model is ahead."""
    head, *rows = score_rows(found, title)
    keys = [score for model in found["model"] for score in [model]]
    named = {score.replace("_", " "): score for score in keys}
    cells = [[meaning(named.get(row[0], row[0]), keys), *map(_with_interval, row[1:])] for row in rows]
    leads = "".join(paragraph(line) for line in lead_lines(found))
    return table(list(map(name, head)), cells) + leads


def _with_interval(cell: str) -> str:
    value, bracket, interval = cell.partition(" [")
    return text(value) + (f"<small>[{text(interval)}</small>" if bracket else "")


def _confusion(details: Mapping[str, Any]) -> str:
    """The confusion matrix, shaded by the share of each label; of many classes the most frequent confusions."""
    if "confusion" not in details:
        return ""
    classes, counts = details["classes"], np.array(details["confusion"], float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(classes) > MATRIX:
        off = counts * (1 - np.eye(len(classes)))
        worst = np.argsort(-off, None, kind="stable")[:CONFUSIONS]
        pairs = [divmod(int(place), len(classes)) for place in worst if off.flat[place]]
        rows = [[name(classes[a]), name(classes[b]), number(counts[a, b]), f"{share[a, b]:.0%}"] for a, b in pairs]
        return "<h4>Most frequent confusions</h4>" + table(["label", "found", "items", "of the label"], rows)
    rows = [
        [name(label), *(_shaded(counts[a, b], share[a, b]) for b in range(len(classes)))]
        for a, label in enumerate(classes)
    ]
    head = ["label, and what was found:", *map(name, classes)]
    return f'<h4>Confusion</h4><div class="matrix">{table(head, rows)}</div>'


def _shaded(count: float, share: float) -> str:
    return f'<div class="cell s{round(10 * share)}">{count:,.0f}<small>{share:.0%}</small></div>'


def _curves(
    curves: Mapping[str, Sequence[svg.Pair]] | None, title: str, x: str, y: str, chance: Sequence[svg.Pair]
) -> str:
    """Curves over thresholds, one a class."""
    if not curves or not any(curves.values()):
        return ""
    chart = svg.Chart((0, 1), (0, 1.02), (x, y))
    if chance:
        chart.line(chance, "faint dashed", "chance")
    for place, (label, points) in enumerate(curves.items()):
        if place < 2 * svg.COLOURS:
            chart.line([(a, b) for a, b in points], svg.kind_of(place), label)
    return chart.svg(title)


def _calibration(bins: Sequence[Sequence[float]] | None) -> str:
    """How often the class that was found is right, by its probability."""
    if not bins:
        return ""
    said, right = ([row[i] for row in bins] for i in (0, 1))
    low = min(*said, *right, 0.5)
    chart = svg.Chart((low, 1), (low, 1.02), ("probability of the class found", "share that is right"))
    chart.line([(low, low), (1, 1)], "faint dashed", "perfect")
    chart.line(list(zip(said, right, strict=True)), "c0", "tenths of the items", dots=True)
    return chart.svg("Calibration")


def _scatter(scatter: Mapping[str, Sequence[svg.Pair]] | None) -> list[str]:
    """Predictions against labels, a chart a column."""
    figures = []
    for label, pairs in list((scatter or {}).items())[: 2 * svg.COLOURS]:
        span = svg.spread([v for pair in pairs for v in pair])
        chart = svg.Chart(span, span, ("observed", "predicted"))
        chart.line([(span[0], span[0]), (span[1], span[1])], "faint dashed", "equal")
        chart.dots([(a, b) for a, b in pairs], "c0", radius=2)
        figures.append(
            chart.svg(
                f"Predicted against observed: {label}" if len(scatter or {}) > 1 else "Predicted against observed"
            )
        )
    return figures


# --- along a sequence


def region(found: Mapping[str, Any] | None) -> str:
    """Tracks along a sequence: pictures that need no script, which the page's script makes browsable."""
    if not found or not found["tracks"]:
        return ""
    lines = []
    for track, values in found["tracks"].items():
        called, factor = DRAWN.get(track, (track, 1.0))
        observed = found["observed"].get(track)
        scaled = [None if v is None else round(v * factor, 4) for v in values]
        lines.append({"name": called, "values": scaled, "observed": observed})
    data = {**{key: found[key] for key in ("id", "start", "bin", "bases")}, "lines": lines}
    end = found["start"] + found["bin"] * len(lines[0]["values"])
    where = f"{name(found['id'])}, positions {found['start'] + 1:,} to {end:,}"
    still = svg.charts(*(_still(line, data) for line in lines))
    note = (
        "Of the sequence that stands there: bits that each base took (2 is a guess, 0 is certain), bits that were "
        "expected, and how strongly the memory had to change (the norm of its gradient)."
        if "loglik" in found["tracks"]
        else "Predicted along the sequence, beside what was observed."
    )
    return (
        f"<h4>Along {where}</h4>{paragraph(note, 'note')}"
        f'<div class="track" tabindex="0" aria-label="Tracks along {name(found["id"])}">'
        f'<div class="still">{still}</div>'
        f'<script type="application/json">{embedded(data)}</script></div>'
    )


def _still(line: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """A line as means over stretches."""
    start, step = data["start"] + 1, data["bin"]
    end = start + step * len(line["values"])
    drawn = {key: _means(line[key]) for key in ("observed", "values") if line[key]}
    chart = svg.Chart(
        (start, end), svg.spread([v for part in drawn.values() for v in part if v is not None]), ("position", "")
    )
    for key, kind, label in (
        ("observed", "c1", "observed"),
        ("values", "c0", "predicted" if "observed" in drawn else ""),
    ):
        if key in drawn:
            each = (end - start) / len(drawn[key])
            chart.line([(start + each * (i + 0.5), v) for i, v in enumerate(drawn[key])], kind, label)
    return chart.svg(line["name"])


def _means(values: Sequence[float | None]) -> list[float | None]:
    """Means over `BINS` stretches of what is known; None where nothing is."""
    parts = np.array_split(np.array([math.nan if v is None else v for v in values]), min(BINS, len(values)))
    return [float(np.nanmean(part)) if np.isfinite(part).any() else None for part in parts]


# --- series


def _backtest(one: Measured, held_out: bool) -> list[str]:
    found, drawn = one.found, one.drawn
    how = found["protocol"]
    reads = "all rows before it" if how["lookback"] == "all rows" else f"the {how['lookback']:,} rows before it"
    protocol = (
        f"{counted(how['windows'], 'forecast')} of {counted(how['horizon'], 'row')}, "
        f"{counted(how['step'], 'row')} apart, each from {reads}; {how['dropped'] or 'none'} was left out. "
        f"Errors are in {how['units']}: an MSE of 1 is what always guessing the training mean would give on data "
        "like the training rows."
    )
    warning = _too_good(how, held_out)
    beside = {"seasonal_naive": f"seasonal naive ({how['season']:,} rows)", "auto_theta": "AutoTheta"}
    models = [key for key in ("model", *beside) if key in found]
    scores = list(dict.fromkeys(score for model in models for score in found[model]))
    rows = [
        [meaning(score, scores), *(number(found[model][score]) if score in found[model] else "-" for model in models)]
        for score in scores
    ]
    steps = drawn.get("steps", {})
    figures = [
        _by_step(steps, "mae", "Mean absolute error by step"),
        _by_step(steps, "mse", "Mean squared error by step"),
        _quantiles(drawn.get("calibration")),
    ]
    examples = [_forecast(example) for example in drawn.get("examples", [])]
    return [
        f"<h3>Forecasts of {name(_called(one.path))}</h3>",
        paragraph(warning, "warning") if warning else "",
        paragraph(protocol),
        table(["", *(beside.get(model, model) for model in models)], rows),
        svg.charts(*figures),
        "<h4>Forecasts and what came</h4>" + svg.charts(*examples) if examples else "",
        _surprise(drawn.get("surprise")),
    ]


def _too_good(how: Mapping[str, Any], held_out: bool) -> str:
    """Why errors may be better than those on new rows will be; nothing where they are of such."""
    better = "so these errors are better than those on new rows will be."
    if "seen_in_training" not in how:  # written by an earlier release
        told = "The run held no rows out for a test (data.test is 0): the last rows chose its weights, "
        return "" if held_out else told + better
    seen = how["seen_in_training"]
    if seen is None:
        return "Whether the model was trained on rows of these forecasts is unknown."
    told = f"The model was trained on, or chosen by, rows of {seen:,} of these {how['windows']:,} forecasts, "
    return told + better if seen else ""


def _by_step(steps: Mapping[str, Mapping[str, Sequence[float | None]]], score: str, title: str) -> str:
    """An error at each step of the horizon."""
    lines = {model: errors[score] for model, errors in steps.items() if errors.get(score)}
    if not lines:
        return ""
    highest = max((v for values in lines.values() for v in values if v is not None), default=1.0)
    horizon = max(map(len, lines.values()))
    chart = svg.Chart((0.5, horizon + 0.5), (0, 1.08 * highest or 1.0), ("rows ahead", score.upper()))
    for place, (model, values) in enumerate(lines.items()):
        chart.line([(h + 1, v) for h, v in enumerate(values)], svg.kind_of(place), model.replace("_", " "))
    return chart.svg(title)


def _quantiles(calibration: Sequence[Sequence[float]] | None) -> str:
    """Share of the values at or below each quantile, against what it should be."""
    if not calibration:
        return ""
    chart = svg.Chart((0, 1), (0, 1.02), ("quantile", "share of the values below it"))
    chart.line([(0, 0), (1, 1)], "faint dashed", "perfect")
    chart.line([(level, share) for level, share in calibration], "c0", "observed", dots=True)
    return chart.svg("Calibration: nominal against observed")


def _forecast(example: Mapping[str, Any]) -> str:
    """Forecasts of one series with their bands, and what was observed before and during them."""
    times, observed = example["times"], example["observed"]
    bands = [part for one in example["forecasts"] for pair in one["bands"].values() for end in pair for part in end]
    middles = [v for one in example["forecasts"] for v in one["middle"]]
    chart = svg.Chart((0, len(times) - 1), svg.spread([*observed, *middles, *bands]), ("", ""), _dates(times))
    for one in example["forecasts"]:
        rows = list(range(one["row"], one["row"] + len(one["middle"])))
        for share, (low, high) in sorted(one["bands"].items(), reverse=True):
            kind = "c0 wide" if float(share) > 0.6 else "c0"
            chart.band(rows, low, high, kind, f"{float(share):.0%} band")
    for one in example["forecasts"]:
        chart.upright(one["row"] - 0.5, "faint dashed", "issued")
        chart.line([(one["row"] + h, v) for h, v in enumerate(one["middle"])], "c0", "forecast")
    chart.line(list(enumerate(observed)), "ink", "observed")
    return chart.svg(f"{example['id']}: MAE {number(example['mae'])}")


def _surprise(found: Mapping[str, Any] | None) -> str:
    """The memory's surprise along a series, a value a patch."""
    if not found:
        return ""
    values, times = found["values"], found["times"]
    chart = svg.Chart((0, max(1, len(values) - 1)), svg.spread(values), ("", "norm of the gradient"), _dates(times))
    means = _means(values)
    if len(values) > 2 * BINS:
        chart.line(list(enumerate(values)), "c0 thin", "each patch")
        step = len(values) / len(means)
        chart.line([((i + 0.5) * step, v) for i, v in enumerate(means)], "c0", "mean of stretches")
    else:
        chart.line(list(enumerate(values)), "c0", "each patch")
    note = "How strongly the memory had to change with each patch of rows: high where the series was new to it."
    title = f"Along {found['id'] or 'the first series'}"
    return f"<h4>The memory's surprise</h4>{paragraph(note, 'note')}{svg.charts(chart.svg(title))}"


def _dates(times: Sequence[str], count: int = 3) -> list[tuple[float, str]]:
    """Ticks of a time axis: the date where it is all there is to say, else month, day, hour and minute."""
    daily = all(time.endswith("00:00:00") or len(time) <= 10 for time in times)
    places = np.unique(np.linspace(0, len(times) - 1, count + 2).round().astype(int))[1:-1]
    return [(float(place), times[place][:10] if daily else times[place][5:16]) for place in places]
