"""Pictures of predictions and scores, as PNG files. matplotlib's objects alone: no window system, no global state."""

import datetime
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.dates as dates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from titans_seq.data.record import Series
from titans_seq.data.write import scan_rows
from titans_seq.files import whole_file

DPI = 150
INK, BLUE, ORANGE, GREEN, GREY = "#1f2933", "#2563a8", "#d9730d", "#2f855a", "#8a94a0"
BANDS = {0.8: 0.18, 0.5: 0.34}  # share of the values inside, and how dense it is drawn
TITLE, LABEL = 80, 20  # characters of a name that a picture has room for

KINDS = (GREEN, ORANGE, INK, BLUE)  # colours of labelled stretches
N = 4  # codes below it are A C G T
UNIFORM, KB = 2.0, 1000

Spans = Sequence[tuple[int, int]]  # 0-based, half-open


def _figure(width: float, height: float) -> Figure:
    """A figure of so many inches whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _named(axes: Axes, x: str, y: str) -> None:
    """Label the axes, and draw them plainly."""
    axes.set_xlabel(x, fontsize=9.5, parse_math=False)
    axes.set_ylabel(y, fontsize=9.5, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)


def _shown(text: str, most: int = LABEL) -> str:
    """Text of the data as a picture can show it: printable, and short."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _titled(axes: Axes, text: str) -> None:
    # a $ in an id is no formula
    axes.set_title(_shown(text, TITLE), fontsize=10.5, loc="left", color=INK, fontweight="bold", parse_math=False)


def _save(figure: Figure, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # an id in a script the font lacks: boxes will do
        with whole_file(out) as draft:
            figure.savefig(draft, dpi=DPI, format="png")


# --- forecasts


def _levels(rows: Sequence[Mapping[str, Any]]) -> dict[float, str]:
    """Quantile levels of forecast rows with the names of their columns, from low to high."""
    names = [name for name in rows[0] if name.startswith("q") and name[1:].replace(".", "", 1).isdigit()]
    return dict(sorted((float(name[1:]), name) for name in names))


def _quantile(rows: Sequence[Mapping[str, Any]], levels: dict[float, str], level: float) -> np.ndarray:
    """The quantile ``level`` of each row, in a straight line between the levels there are."""
    table = np.array([[float(row[name]) for name in levels.values()] for row in rows])
    return np.array([np.interp(level, list(levels), values) for values in table])


def _stamp(value: Any) -> Any:
    """A timestamp of a prediction file: text in CSV, a datetime in Parquet."""
    return value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))


def _draw_forecast(axes: Axes, rows: Sequence[Mapping[str, Any]], first: bool) -> None:
    """One forecast: bands, median, and where it was issued; only the first is named in the legend."""
    times, levels = [_stamp(row["ds"]) for row in rows], _levels(rows)
    marker = "o" if len(rows) == 1 else None
    if levels:
        for share, alpha in BANDS.items():
            low, high = 0.5 - share / 2, 0.5 + share / 2
            if low >= min(levels) - 1e-9 and high <= max(levels) + 1e-9:
                band = (_quantile(rows, levels, low), _quantile(rows, levels, high))
                label = f"band of {share:.0%}" if first else None
                axes.fill_between(times, *band, color=BLUE, alpha=alpha, linewidth=0, label=label)
        middle, name = _quantile(rows, levels, 0.5), "forecast (median)"
    else:
        middle, name = np.array([float(row["mean"]) for row in rows]), "forecast"
    axes.plot(times, middle, color=BLUE, linewidth=1.8, marker=marker, label=name if first else None)
    if "cutoff" in rows[0]:
        label = "issued" if first else None
        axes.axvline(_stamp(rows[0]["cutoff"]), color=GREY, linewidth=0.8, linestyle=":", label=label)


def forecast_plot(
    history: Series,
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    past: int,
    names: Mapping[str, str] | None = None,
    title: str = "",
) -> None:
    """Draw forecasts of one series with bands of 50 % and 80 %, and what was observed before and during them.

    Args:
        history: the series, with its rows after the forecasts' origins too where they are known.
        rows: rows of a prediction file of this series (``unique_id, ds, [cutoff,] mean, q0.1 ...``), of one origin or
            of several that do not overlap.
        out: PNG to write; it has a panel a channel.
        past: rows of the history drawn before the first forecast.
        names: label of the axis for a channel, such as its unit.
        title: of the picture.
    """
    channels = list(dict.fromkeys(str(row["unique_id"]) for row in rows))
    figure = _figure(8.4, 0.9 + 1.75 * len(channels))
    panels = figure.subplots(len(channels), 1, sharex=True, squeeze=False)[:, 0]
    stamps = history.times.astype("datetime64[us]").astype(object)
    for axes, channel in zip(panels, channels, strict=True):
        mine = [row for row in rows if str(row["unique_id"]) == channel]
        begin, end = (np.datetime64(pick(_stamp(row["ds"]) for row in mine)) for pick in (min, max))
        first = max(0, int(np.searchsorted(history.times, begin)) - past)
        last = int(np.searchsorted(history.times, end, side="right"))
        column = history.columns.index(channel) if channel in history.columns else 0
        axes.plot(stamps[first:last], history.target[first:last, column], color=INK, linewidth=1.3, label="observed")
        cutoffs = list(dict.fromkeys(row.get("cutoff") for row in mine))
        for number, cutoff in enumerate(cutoffs):
            _draw_forecast(axes, [row for row in mine if row.get("cutoff") == cutoff], first=number == 0)
        _named(axes, "", _shown((names or {}).get(channel, "")))
        _titled(axes, channel)
        locator = dates.AutoDateLocator(maxticks=9)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        axes.margins(x=0.01)
    if title:
        figure.suptitle(_shown(title, TITLE), fontsize=12, color=INK, x=0.01, ha="left", parse_math=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8.5, frameon=False)
    _save(figure, out)


# --- likelihood along a sequence


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
    figure = _figure(9.6, 3.8)
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
        axes.broken_barh(bars, (low - room * (0.12 + 0.1 * number), 0.07 * room), color=colour, label=_shown(label))
    axes.set(xlim=(0, len(codes) / KB), ylim=(None, high + 0.35 * room))  # room for the legend
    _named(axes, "position (kb)", "bits a nucleotide")
    axes.legend(fontsize=8.5, frameon=False, ncols=3, loc="upper left")
    _titled(axes, title)
    if spans:
        found = {label: [bits(loglik, codes, a, b) for a, b in places] for label, places in spans.items()}
        _distributions(side[0], {label: [v for v in values if math.isfinite(v)] for label, values in found.items()})
    _save(figure, out)


def _distributions(axes: Axes, values: Mapping[str, list[float]]) -> None:
    """Histograms over the stretches of each label, with their means."""
    edges = np.histogram_bin_edges([v for found in values.values() for v in found], bins=25).tolist()
    for (label, found), colour in zip(values.items(), KINDS, strict=False):
        if found:
            name = f"{_shown(label)}, mean {np.mean(found):.3f}"
            axes.hist(found, edges, weights=[1 / len(found)] * len(found), color=colour, alpha=0.5, label=name)
    _named(axes, "bits a nucleotide", "share of the known stretches")
    if any(values.values()):
        axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
        axes.legend(fontsize=8.5, frameon=False, loc="upper left")


# --- every change of a region

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
    figure = _figure(*size)
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
        bar.set_label(_shown(name.replace("_", " "), 30), fontsize=9, color=INK, parse_math=False)
        bar.ax.tick_params(labelsize=8, colors=INK)
        bar.outline.set_visible(False)
    several = f" (each column is {step:,} positions)" if step > 1 else ""
    _titled(panels[0], title + several)
    panels[-1].set_xlabel("position", fontsize=9.5)
    _save(figure, out)


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


# --- benchmarks

STYLES = [(colour, style) for style in ("-", "--") for colour in (BLUE, ORANGE, GREEN, INK, GREY)]


class Panel(NamedTuple):
    """One pair of axes, both logarithmic."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]  # points by name; a name has one colour in all panels


def scaling_plot(panels: Sequence[Panel], out: Path, *, title: str = "") -> None:
    """Draw how quantities grow with a size, as lines in panels side by side.

    Args:
        panels: what to draw.
        out: PNG to write.
        title: of the picture.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}
    figure = _figure(4.4 * len(panels), 4.6)
    handles = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in panel.lines.items():
            colour, style = styles[name]
            sizes, values = zip(*points, strict=True)
            line = axes.plot(sizes, values, style, color=colour, marker="o", markersize=4, linewidth=1.6)
            handles[name] = line[0]
        axes.set(xscale="log", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.12g}"))
        _named(axes, panel.x, panel.y)
        _titled(axes, panel.title)
        _sizes(axes)
    if title:
        figure.suptitle(_shown(title, TITLE), fontsize=12, color=INK, x=0.01, ha="left", parse_math=False)
    _legend(figure, handles)
    _save(figure, out)


def _sizes(axes: Axes) -> None:
    """Ticks of an axis of sizes, a factor of four apart."""
    axes.xaxis.set_major_locator(LogLocator(base=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x < 2**20 else f"{x / 2**20:g} Mi"))
    axes.tick_params(axis="x", labelrotation=30)
    axes.minorticks_off()


def _legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """What a name looks like, below the panels."""
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8.5, frameon=False
    )


class Share(NamedTuple):
    """A share of right answers and an interval around it, at a size."""

    size: int
    share: float
    low: float
    high: float


class Chart(NamedTuple):
    """One pair of axes for shares by size."""

    title: str
    lines: Mapping[str, Sequence[Share]]  # by name; a name has one colour in all charts
    chance: float
    trained: int  # the size of training


def accuracy_plot(charts: Sequence[Chart], out: Path) -> None:
    """Draw shares of right answers by length with their intervals, the length of training and chance marked.

    Args:
        charts: three side by side.
        out: PNG to write.
    """
    names = list(dict.fromkeys(name for chart in charts for name in chart.lines))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}
    rows, columns = -(-len(charts) // 3), min(3, len(charts))
    figure = _figure(max(6.4, 4.8 * columns), 4.6 * rows)
    handles: dict[str, Any] = {}
    every = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes in every[len(charts) :]:
        axes.set_visible(False)
    for axes, chart in zip(every[: len(charts)], charts, strict=True):
        axes.set(xscale="log", ylim=(-0.03, 1.03))
        for place, name in enumerate(chart.lines):
            sizes, share, low, high = np.array(chart.lines[name], float).T
            beside = sizes * 1.03 ** (place - len(chart.lines) / 2)  # so that intervals do not hide each other
            errors = np.stack([share - low, high - share])
            colour, style = styles[name]
            handles[name] = axes.errorbar(
                beside, share, errors, fmt=style, color=colour, marker="o", markersize=4, linewidth=1.6, elinewidth=1
            )
        handles["length of training"] = axes.axvline(chart.trained, color=GREY, linewidth=1.2, linestyle="--")
        handles["chance"] = axes.axhline(chart.chance, color=GREY, linewidth=1.2, linestyle=":")
        _named(axes, "tokens", "right answers")
        _titled(axes, chart.title)
        _sizes(axes)
    _legend(figure, handles)
    _save(figure, out)


# --- scores

SCORES = {  # what a picture has room for, of each kind of task: those a figure of merit is quoted by
    "mcc": "MCC",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
    "bits_per_nt": "bits a nucleotide",
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
    figure = _figure(4.6 + 3.8 * len(panels), 4.2)
    first, *rest = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    _draw_scores(first, found)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8.5, frameon=False)
    for axes, draw in zip(rest, panels, strict=True):
        draw(axes, details)
    if title:
        figure.suptitle(_shown(title, TITLE), fontsize=12, color=INK, x=0.01, ha="left", parse_math=False)
    _save(figure, out)


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
    _named(axes, "with 95 % bootstrap intervals" if "intervals" in found else "", "")


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _draw_confusion(axes: Axes, details: Mapping[str, Any]) -> None:
    counts, names = np.array(details["confusion"], float), [_shown(name, 12) for name in details["classes"]]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 12:
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if share[row, column] > 0.6 else INK
            text = f"{counts[row, column]:,.0f}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=30, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    _named(axes, "found", "label")
    axes.grid(False)
    _titled(axes, "Confusion, with shares of a label")


def _draw_roc(axes: Axes, details: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for (name, points), (colour, style) in zip(details["roc"].items(), STYLES, strict=False):
        if points:
            axes.plot(*np.array(points).T, style, color=colour, linewidth=1.6, label=_shown(name))
    _named(axes, "false positive rate", "true positive rate")
    _titled(axes, "ROC")
    _plain_legend(axes)


def _draw_calibration(axes: Axes, details: Mapping[str, Any]) -> None:
    said, right, _ = np.array(details["calibration"]).T
    low = min(said.min(), right.min())
    axes.plot([low, 1], [low, 1], color=GREY, linestyle="--", linewidth=1)
    axes.plot(said, right, color=BLUE, marker="o", markersize=4, linewidth=1.6)
    _named(axes, "probability of the class found", "share that is right")
    _titled(axes, "Calibration, tenths of the rows")


def _draw_scatter(axes: Axes, details: Mapping[str, Any]) -> None:
    for (name, pairs), (colour, _) in zip(details["scatter"].items(), STYLES, strict=False):
        value, said = np.array(pairs).T
        axes.plot(value, said, ".", color=colour, alpha=0.4, markersize=4, label=_shown(name))
    if len(details["scatter"]) > 1:
        _plain_legend(axes)
    _named(axes, "label", "prediction")
    _titled(axes, "Predictions")


def _plain_legend(axes: Axes) -> None:
    legend = axes.legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a class is no formula


_DETAILS = {
    "confusion": _draw_confusion,
    "roc": _draw_roc,
    "calibration": _draw_calibration,
    "scatter": _draw_scatter,
}


# --- anomalies

SERIES_DRAWN, BINS = 4, 1500


def anomaly_plot(scores: Path, out: Path) -> None:
    """Draw the series with most flags: what was observed, the rows flagged, and each score over its threshold.

    Args:
        scores: what `titans_seq.anomalies.anomalies` wrote.
        out: PNG to write; long series are drawn in stretches, each by its extremes.
    """
    import polars as pl

    frame = scan_rows(scores)
    flags = frame.group_by("unique_id", maintain_order=True).agg(pl.col("flag").cast(pl.Boolean).sum()).collect()
    ids = flags.sort("flag", descending=True, maintain_order=True)["unique_id"].head(SERIES_DRAWN).to_list()
    figure = _figure(8.4, 0.6 + 3.0 * len(ids))
    panels = figure.subplots(2 * len(ids), 1, squeeze=False, height_ratios=[3, 2] * len(ids))[:, 0]
    for number, id in enumerate(ids):
        rows = frame.filter(pl.col("unique_id") == id).collect()
        above, below = panels[2 * number : 2 * number + 2]
        below.sharex(above)
        _draw_flags(above, below, rows)
        _titled(above, str(id))
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=8.5, frameon=False)
    _save(figure, out)


def _draw_flags(above: Axes, below: Axes, rows: Any) -> None:
    """One series: values with flagged rows above, scores below, a stretch of rows a point where there are many."""
    times = [_stamp(value) for value in rows["ds"]]
    size = -(-len(times) // BINS)
    first = times[::size]
    y = _binned(rows["y"].cast(float).to_numpy(), size)
    above.fill_between(first, _extreme(y, np.fmin), _extreme(y, np.fmax), color=INK, linewidth=0.9, label="observed")
    flagged = [i for i, flag in enumerate(rows["flag"].cast(str).str.to_lowercase() == "true") if flag]
    marks = rows["y"].cast(float).to_numpy()[flagged]
    above.plot([times[i] for i in flagged], marks, "o", markersize=3.5, color=ORANGE, label="flagged", zorder=3)
    for name, color in (("residual", BLUE), ("surprise", GREEN)):
        if name in rows.columns:
            ratio = rows[name].cast(float).to_numpy() / rows[f"{name}_threshold"].cast(float).to_numpy()
            top = _extreme(_binned(ratio, size), np.fmax)
            below.plot(first, np.maximum(top, 1e-2), color=color, linewidth=0.9, label=name)
    below.axhline(1, color=ORANGE, linewidth=1, label="threshold")
    below.set_yscale("log")
    _named(above, "", "")
    _named(below, "", "score / threshold")
    locator = dates.AutoDateLocator(maxticks=9)
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    above.tick_params(labelbottom=False)
    above.margins(x=0.01)


def _binned(values: np.ndarray, size: int) -> np.ndarray:
    """Values (n,) in stretches of ``size``, (m, size), the last one filled with NaN."""
    whole = np.full(-(-len(values) // size) * size, np.nan)
    whole[: len(values)] = values
    return whole.reshape(-1, size)


def _extreme(stretches: np.ndarray, of: Any) -> np.ndarray:
    """Smallest or largest known value of each stretch; NaN where none is known."""
    found: np.ndarray = of.reduce(stretches, axis=1)
    return found
