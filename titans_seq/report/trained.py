"""What a run trained on what, and how its training went, as parts of its page."""

from pathlib import Path
from typing import Any

from titans_seq.backbone import BackboneConfig
from titans_seq.data.record import printable
from titans_seq.report import svg
from titans_seq.report.html import counted, facts, folded, name, number, paragraph, seconds, table, text
from titans_seq.report.measurements import meaning
from titans_seq.report.scores import seed_rows
from titans_seq.training.points import read_metrics

NAMES = 2000  # characters of the names of classes or channels
SMOOTHED = 24  # logged steps from which on a curve is drawn smoothed


def lead(task: Any, manifest: dict[str, Any]) -> str:
    """The run in a line."""
    sizes = manifest.get("sizes", {})
    count = f"{sizes['parameters']:,} parameters, " if sizes else ""
    took = seconds(manifest["result"]["seconds"])
    return f"{task.kind.replace('_', ' ').capitalize()}: {count}trained in {took} on {manifest['began'][:10]}."


def trained(manifest: dict[str, Any], recipe: dict[str, Any], backbone: BackboneConfig, task: Any) -> str:
    """What was trained on what, by which means."""
    rows = [
        ("task", text(f"{task.kind.replace('_', ' ')}: {_first_line(task)}")),
        ("data", "<br>".join(name(path) for path in manifest["data_sha256"])),
        ("split", text(_split(recipe["data"]))),
        ("classes", text(", ".join(map(printable, getattr(task, "classes", ()))), NAMES)),
        ("channels", text(", ".join(map(printable, getattr(task, "channels", ()))), NAMES)),
        ("backbone", text(_backbone(backbone))),
        ("starts from", name(recipe["start_from"]) if recipe.get("start_from") else "new weights"),
        *_sizes(manifest),
        ("seed", text(manifest["seed"])),
        ("machine", text(f"{manifest['device']}, {counted(manifest['threads'], 'thread')}, {manifest['machine']}")),
        ("versions", text("titans-seq {titans_seq}, torch {torch}, Python {python}".format_map(manifest))),
    ]
    return facts((key, value) for key, value in rows if value)


def _sizes(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """How large the data and the model are; runs of earlier releases do not tell."""
    if "sizes" not in manifest:
        return []
    sizes, kept = manifest["sizes"], manifest["result"]["validation"].get("step")
    items = f"{sizes['training_items']:,} to train on, {sizes['validation_items']:,} to choose the weights with"
    return [
        ("items", items),
        ("parameters", f"{sizes['parameters']:,}"),
        ("steps", f"{sizes['steps']:,} at most; the weights kept are of step {number(kept)}"),
    ]


def _first_line(task: Any) -> str:
    """What a task is, as its class says."""
    return (type(task).__doc__ or "").split("\n", 1)[0].replace("``", "")


def _split(data: dict[str, Any]) -> str:
    """In words what of the data chose the weights, and what was kept for a test."""

    def part(value: float) -> str:
        return f"{value:,.0f} rows" if value >= 1 else f"{value:.0%}"

    if data["kind"] == "series":
        kept_back = f", the last {part(data['test'])} never seen" if data["test"] else ", none kept for a test"
        return f"by time: validation on {part(data['validation'])} after the training rows{kept_back}"
    if data["kind"] == "sequences":
        own = printable(data["validation"] or "")
        return f"validation on {own or format(data['share'], '.0%') + ' of the rows, drawn by seed'}"
    regions = {key: ", ".join(map(printable, data[f"{key}_regions"])) for key in ("validation", "test")}
    chosen = regions["validation"] or f"the last {data['validation']:.0%} of each record"
    return f"validation on {chosen}" + (f"; kept for a test: {regions['test']}" if regions["test"] else "")


def _backbone(config: BackboneConfig) -> str:
    """A backbone in a sentence or two."""
    c, m = config, config.memory
    kind = (type(c.block).__doc__ or c.block.kind).split("\n", 1)[0].rstrip(".")
    kind = f"{c.block.kind}: {kind[:1].lower()}{kind[1:]}"
    said = f"{counted(c.depth, 'block')} of width {c.width} with {c.heads} heads ({kind})."
    if c.block.kind != "attention":
        chunk = f", in chunks of {m.chunk_size} tokens" if m.operator == "memory_scan" else ", token by token"
        choices = f"error: {m.bias.kind}, retention: {m.retention.kind}, learning: {m.learning.kind}".replace("_", " ")
        structure = m.structure.kind.replace("_", " ")
        said += f" Its memory, of kind {structure}, learns while it reads{chunk} ({choices})."
    reads = "both strands alike" if c.equivariant else "from both ends" if c.direction == "both" else "forward"
    return f"{said} It reads {reads}."


# --- how it went


def validation(manifest: dict[str, Any], task: Any) -> str:
    """Scores on the validation data of the weights that were kept."""
    scores, chosen = manifest["result"]["validation"], task.monitor[0]
    rows = [
        [meaning(score, scores), f"<b>{number(scores[score])}</b>" if score == chosen else number(scores[score])]
        for score in sorted(scores, key=lambda score: score != chosen)  # what chose the weights comes first
    ]
    by = chosen.replace("_", " ")
    said = f"The weights kept are the best on the validation data by {by}, so these scores flatter them."
    return paragraph(said) + table(["best on the validation data", ""], rows)


def curves(metrics: Path, task: Any) -> str:
    """Training loss, and every metric of validation, by step."""
    rows = read_metrics(metrics)
    columns = [column for column in (rows[0] if rows else {}) if column.startswith("validation_")]
    monitor, sign = task.monitor
    names = sorted((c.removeprefix("validation_") for c in columns), key=lambda c: c != monitor)
    last = max([int(row["step"]) for row in rows], default=1)
    drawn = [_curve(rows, "train_loss", "training loss", "c0", last)]
    for score in names:
        title, better = f"validation: {score.replace('_', ' ')}", sign * (score == monitor)
        drawn.append(_curve(rows, f"validation_{score}", title, "c1", last, better))
    shown = svg.charts(*drawn[:2])
    return shown + folded("Other metrics of validation", svg.charts(*drawn[2:]))


def _curve(rows: list[dict[str, str]], column: str, title: str, kind: str, last: int, better: int = 0) -> str:
    """A column of metrics.csv by step; the best value is marked where ``better`` is 1 (more) or -1 (less)."""
    points = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
    if len({value for _, value in points}) < 2 and column != "train_loss" and not better:
        return ""  # such as the number of windows
    chart = svg.Chart((0, last), svg.spread([value for _, value in points]), ("step", ""))
    if len(points) > SMOOTHED:
        chart.line(points, f"{kind} thin", "each logged step")
        side = len(points) // SMOOTHED
        around = [points[max(0, i - side) : i + side + 1] for i in range(len(points))]
        means = [(step, sum(v for _, v in near) / len(near)) for (step, _), near in zip(points, around, strict=True)]
        chart.line(means, kind, f"mean of {2 * side + 1}")
    else:
        chart.line(points, kind, dots=True)
    if better and points:
        best = max(points, key=lambda point: better * point[1])
        chart.dots([best], "ring", f"kept: {best[1]:.4g} at step {best[0]:,}", radius=6)
    return chart.svg(title)


def seeds(found: dict[str, Any]) -> str:
    """Scores over several seeds, where there are several."""
    if not found:
        return ""
    head, *rows = seed_rows(found)
    by = found["chosen_by"].replace("_", " ")
    said = f"{found['best']} is best on validation by {by}, and is what this page shows."
    return paragraph(said) + table(list(map(name, head)), [list(map(name, row)) for row in rows])
