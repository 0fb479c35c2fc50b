"""Scores of an evaluation with intervals, and what the task has beside them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from titans_seq.report.plots.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    STYLES,
    blank,
    headed,
    named,
    save,
    shown,
    titled,
)

SCORES = {  # what a picture has room for, of each kind of task: those a figure of merit is quoted by
    "mcc": "MCC",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
    "bits_per_nt": "bits a nucleotide",
    "bits_per_masked_nt": "bits a masked nucleotide",
}


def scores_plot(found: Mapping[str, Any], out: Path, *, title: str = "") -> None:
    """Draw what `titans_seq.evaluation.evaluate` found: scores with intervals, and what the task has beside them.

    Args:
        found: its result; what is measured without leaks stands beside.
        out: PNG to write.
        title: of the picture.
    """
    details = found.get("details", {})
    panels = [draw for name, draw in _DETAILS.items() if details.get(name)]
    figure = blank(4.6 + 3.8 * len(panels), 4.2)
    first, *rest = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    _draw_scores(first, found)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8.5, frameon=False)
    for axes, draw in zip(rest, panels, strict=True):
        draw(axes, details)
    headed(figure, title)
    save(figure, out)


def _draw_scores(axes: Axes, found: Mapping[str, Any]) -> None:
    """A point and its interval for each model and score; filled on all rows, open on those without leaks."""
    models = [name for name in found if isinstance(found[name], dict) and set(found[name]) & set(SCORES)]
    scores = [score for score in SCORES if score in found["model"]]
    for place, (name, colour) in enumerate(zip(models, (BLUE, GREY, ORANGE, GREEN), strict=False)):
        for part, fill in ((found, "full"), (found.get("leak_free"), "none")):
            if part is None:
                continue
            at = np.arange(len(scores)) + 0.16 * place + (0.06 if fill == "none" else 0) - 0.08 * (len(models) - 1)
            values = np.array([_known(part[name].get(score)) for score in scores])
            bounds = part.get("intervals", {}).get(name, {})
            low, high = np.array([bounds.get(s, (v, v)) for s, v in zip(scores, values, strict=True)]).T
            label = name.replace("_", " ") + (", without leaks" if fill == "none" else "")
            errors = np.nan_to_num(np.stack([values - low, high - values]).clip(0))
            axes.errorbar(values, at, xerr=errors, fmt="o", fillstyle=fill, color=colour, markersize=5, label=label)
    axes.set_yticks(range(len(scores)), [SCORES[score] for score in scores])
    axes.set_ylim(len(scores) - 0.4, -0.6)
    named(axes, "with 95 % bootstrap intervals" if "intervals" in found else "", "")


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _draw_confusion(axes: Axes, details: Mapping[str, Any]) -> None:
    counts, names = np.array(details["confusion"], float), [shown(name, 12) for name in details["classes"]]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 12:
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if share[row, column] > 0.6 else INK
            text = f"{counts[row, column]:,.0f}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=30, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    named(axes, "found", "label")
    axes.grid(False)
    titled(axes, "Confusion, with shares of a label")


def _draw_roc(axes: Axes, details: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for (name, points), (colour, style) in zip(details["roc"].items(), STYLES, strict=False):
        if points:
            axes.plot(*np.array(points).T, style, color=colour, linewidth=1.6, label=shown(name))
    named(axes, "false positive rate", "true positive rate")
    titled(axes, "ROC")
    _legend(axes)


def _draw_calibration(axes: Axes, details: Mapping[str, Any]) -> None:
    said, right, _ = np.array(details["calibration"]).T
    low = min(said.min(), right.min())
    axes.plot([low, 1], [low, 1], color=GREY, linestyle="--", linewidth=1)
    axes.plot(said, right, color=BLUE, marker="o", markersize=4, linewidth=1.6)
    named(axes, "probability of the class found", "share that is right")
    titled(axes, "Calibration, tenths of the rows")


def _draw_scatter(axes: Axes, details: Mapping[str, Any]) -> None:
    for (name, pairs), (colour, _) in zip(details["scatter"].items(), STYLES, strict=False):
        value, said = np.array(pairs).T
        axes.plot(value, said, ".", color=colour, alpha=0.4, markersize=4, label=shown(name))
    if len(details["scatter"]) > 1:
        _legend(axes)
    named(axes, "label", "prediction")
    titled(axes, "Predictions")


def _legend(axes: Axes) -> None:
    if not axes.get_legend_handles_labels()[1]:
        return  # nothing could be drawn
    legend = axes.legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a class is no formula


_DETAILS = {
    "confusion": _draw_confusion,
    "roc": _draw_roc,
    "calibration": _draw_calibration,
    "scatter": _draw_scatter,
}
