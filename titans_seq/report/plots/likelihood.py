"""How well a language model predicts a sequence, along it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from titans_seq.data.windows import N
from titans_seq.report.plots.drawing import BLUE, GREEN, GREY, INK, ORANGE, blank, named, save, shown, titled

KINDS = (GREEN, ORANGE, INK, BLUE)  # colours of labelled stretches
UNIFORM, KB = 2.0, 1000

Spans = Sequence[tuple[int, int]]  # 0-based, half-open


def bits(loglik: np.ndarray, codes: np.ndarray, start: int, end: int) -> float:
    """Mean bits a nucleotide of the bases A, C, G, T in [start, end); NaN where there is none."""
    known = codes[start:end] < N
    return float(-loglik[start:end][known].mean() / math.log(2)) if known.any() else math.nan


def likelihood_plot(
    codes: np.ndarray,
    loglik: np.ndarray,
    out: Path,
    *,
    window: int = 2000,
    spans: Mapping[str, Spans] | None = None,
    unseen: int | None = None,
    title: str = "",
) -> None:
    """Draw how well a language model predicts a sequence along it, in bits a nucleotide; stretches of N stay blank.

    Args:
        codes: (T,) the sequence, A C G T N = 0 1 2 3 4.
        loglik: (T,) ln p of every base.
        out: PNG to write.
        window: bases a point of the line is the mean of.
        spans: known stretches by label, such as coding; marked below the line, and their bits compared at the side.
        unseen: base from which on the model was not trained.
        title: of the picture.
    """
    starts = range(0, len(codes), window)
    values = np.array([bits(loglik, codes, a, a + window) for a in starts])
    known = values[np.isfinite(values)]
    low, high = min([1.9, *known]), max([UNIFORM, *known])
    figure = blank(9.6, 3.8)
    columns = 2 if spans else 1
    axes, *side = figure.subplots(1, columns, width_ratios=(3, 1)[:columns], squeeze=False)[0]
    axes.axhline(UNIFORM, color=GREY, linestyle="--", linewidth=1.2, label="2 bits: every base equally likely")
    if unseen is not None and unseen < len(codes):
        axes.axvspan(unseen / KB, len(codes) / KB, color=GREY, alpha=0.2, linewidth=0, label="not trained on")
    middle = [(a + min(a + window, len(codes))) / 2 / KB for a in starts]
    dots = "o" if len(values) < 3 else None
    axes.plot(middle, values, color=BLUE, linewidth=1.3, marker=dots, label=f"mean of {window:,} nt")
    room = high - low
    for number, ((label, places), colour) in enumerate(zip((spans or {}).items(), KINDS, strict=False)):
        bars = [(a / KB, (b - a) / KB) for a, b in places]
        axes.broken_barh(bars, (low - room * (0.12 + 0.1 * number), 0.07 * room), color=colour, label=shown(label))
    axes.set(xlim=(0, len(codes) / KB), ylim=(None, high + 0.35 * room))  # room for the legend
    named(axes, "position (kb)", "bits a nucleotide")
    axes.legend(fontsize=8.5, frameon=False, ncols=3, loc="upper left")
    titled(axes, title)
    if spans:
        found = {label: [bits(loglik, codes, a, b) for a, b in places] for label, places in spans.items()}
        _distributions(side[0], {label: [v for v in values if math.isfinite(v)] for label, values in found.items()})
    save(figure, out)


def _distributions(axes: Axes, values: Mapping[str, list[float]]) -> None:
    """Histograms over the stretches of each label, with their means."""
    edges = np.histogram_bin_edges([v for found in values.values() for v in found], bins=25).tolist()
    for (label, found), colour in zip(values.items(), KINDS, strict=False):
        if found:
            name = f"{shown(label)}, mean {np.mean(found):.3f}"
            axes.hist(found, edges, weights=[1 / len(found)] * len(found), color=colour, alpha=0.5, label=name)
    named(axes, "bits a nucleotide", "share of the known stretches")
    if any(values.values()):
        axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
        axes.legend(fontsize=8.5, frameon=False, loc="upper left")
