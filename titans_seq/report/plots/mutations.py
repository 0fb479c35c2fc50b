"""What every single-base change of a region does, as heat maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from titans_seq.report.plots.drawing import INK, blank, save, shown, titled

COLUMNS, LINES = 120, 10  # of a heat map: a column is so many bases that no more lines are needed
SATURATED = 99.5  # percentile of the scores from which on no colour is deeper
BASES = "ACGT"


def mutation_plot(reference: str, scores: Mapping[str, np.ndarray], out: Path, *, first: int, title: str = "") -> None:
    """Draw what every single-base change of a stretch does, as heat maps: a row a base, a column a position.

    A score that is below and above 0 is drawn in red and blue with 0 white, one that is not below 0 from white to
    blue. A long stretch is broken into lines, and where these do not suffice a column is several positions and shows
    the strongest of each change. The base that stands there is written in its cell.

    Args:
        reference: the L bases that stand there.
        scores: of each kind (L, 4), of a change to A, C, G and T; NaN where there is none.
        out: PNG to write.
        first: position of the first base.
        title: of the picture.
    """
    step = -(-len(reference) // (COLUMNS * max(1, LINES // len(scores))))
    columns = -(-len(reference) // step)
    width = -(-columns // -(-columns // COLUMNS))
    starts = range(0, len(reference), width * step)
    size = (max(6.0, 1.6 + width * 0.115), 0.9 + 1.2 * len(starts) * len(scores))
    figure = blank(*size)
    panels = figure.subplots(len(starts) * len(scores), 1, squeeze=False)[:, 0]
    for number, (name, values) in enumerate(scores.items()):
        mine = panels[number * len(starts) : (number + 1) * len(starts)]
        strongest = _strongest(values, step)
        known = strongest[np.isfinite(strongest)]
        most = float(np.percentile(np.abs(known), SATURATED)) if len(known) else 0.0
        most = most or 1.0
        lowest = -most if (known < 0).any() else 0.0
        for axes, start in zip(mine, starts, strict=True):
            column = start // step
            line = np.full((width, len(BASES)), np.nan)
            part = strongest[column : column + width]
            line[: len(part)] = part
            colours = "RdBu" if lowest < 0 else "Blues"
            image = axes.imshow(line.T, cmap=colours, vmin=lowest, vmax=most, aspect="auto", interpolation="nearest")
            _bases_of(axes, reference[start : start + width * step] if step == 1 else "", width)
            places = first + start + step * np.arange(len(part))
            every = step * (10 if width > 30 else 5)
            ticks = np.flatnonzero(places // every != (places - step) // every)
            axes.set_xticks(ticks, [f"{place:,}" for place in places[ticks]], fontsize=7.5)
            axes.set_yticks(range(len(BASES)), list(BASES), fontsize=8.5)
            axes.tick_params(length=2, colors=INK)
            axes.spines[:].set_visible(False)
        bar = figure.colorbar(
            image, ax=list(mine), pad=0.01, aspect=9 * len(starts), extend="both" if lowest else "max"
        )
        bar.set_label(shown(name.replace("_", " "), 30), fontsize=9, color=INK, parse_math=False)
        bar.ax.tick_params(labelsize=8, colors=INK)
        bar.outline.set_visible(False)
    several = f" (each column is {step:,} positions)" if step > 1 else ""
    titled(panels[0], title + several)
    panels[-1].set_xlabel("position", fontsize=9.5)
    save(figure, out)


def _strongest(values: np.ndarray, step: int) -> np.ndarray:
    """Of every ``step`` rows of values (L, 4) the one furthest from 0 of each column; NaN where there is none."""
    padded = np.full((-(-len(values) // step) * step, values.shape[1]), np.nan)
    padded[: len(values)] = values
    blocks = padded.reshape(-1, step, values.shape[1])
    place = np.argmax(np.nan_to_num(np.abs(blocks), nan=-1), axis=1)[:, None]
    found: np.ndarray = np.take_along_axis(blocks, place, 1)[:, 0]
    return found


def _bases_of(axes: Axes, bases: str, width: int) -> None:
    """Mark the cells of the bases that stand there."""
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6 if width > 60 else 7.5, "color": "#56606b"}
    for column, base in enumerate(bases):
        if base in BASES:
            axes.text(column, BASES.index(base), base, **style)
