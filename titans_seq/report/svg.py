"""Charts as SVG: text stays text, and colours are the page's own, light or dark. No library, no script."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from titans_seq.report.html import name, text

WIDTH, HEIGHT = 420, 250  # units of a chart; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 40  # around its axes
LETTER = 6.0  # width of a letter of an axis
COLOURS = 5  # that page.css has, as .c0 to .c4; later lines are dashed

Pair = tuple[float, float]


class Named(NamedTuple):
    """A line of the legend."""

    label: str
    kind: str  # class of what it looks like


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about ``count``: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def spread(values: Sequence[float], margin: float = 0.05) -> Pair:
    """Lowest and highest finite value, with some room around; (0, 1) of none."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = margin * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


class Chart:
    """One pair of axes.

    Args:
        x: what the axis spans.
        y: likewise.
        labels: what stands along x and y.
        marks: places and words of the ticks of x; round numbers if not given.
        height: in units, of `WIDTH` across.
    """

    def __init__(
        self,
        x: Pair,
        y: Pair,
        labels: tuple[str, str],
        marks: Sequence[tuple[float, str]] | None = None,
        height: int = HEIGHT,
    ):
        self.x, self.y, self.labels, self.height = x, y, labels, height
        self.parts: list[str] = []
        self.legend: list[Named] = []
        self.marks = [(at, _short(at, x)) for at in ticks(*x)] if marks is None else marks

    def _x(self, value: float) -> float:
        low, high = self.x
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / ((high - low) or 1)

    def _y(self, value: float) -> float:
        low, high = self.y
        return TOP + (self.height - TOP - BOTTOM) * (high - value) / ((high - low) or 1)

    def _points(self, points: Sequence[Pair]) -> str:
        return " ".join(f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in points)

    def _name(self, label: str, kind: str) -> None:
        if label and Named(label, kind) not in self.legend:
            self.legend.append(Named(label, kind))

    def line(
        self, points: Sequence[tuple[float, float | None]], kind: str, label: str = "", dots: bool = False
    ) -> None:
        """A line through points, broken where one has no value; ``kind`` is its class."""
        self._name(label, f"line {kind}")
        run: list[Pair] = []
        for a, b in [*points, (0.0, None)]:
            if b is not None and math.isfinite(b):
                run.append((a, b))
                continue
            if len(run) > 1:
                self.parts.append(f'<polyline class="line {kind}" points="{self._points(run)}"/>')
            if dots or len(run) == 1:
                self.dots(run, kind)
            run = []

    def dots(self, points: Sequence[Pair], kind: str, label: str = "", radius: float = 2.5) -> None:
        """Points."""
        self._name(label, f"dot {kind}")
        self.parts += [
            f'<circle class="dot {kind}" cx="{self._x(a):.1f}" cy="{self._y(b):.1f}" r="{radius:g}"/>'
            for a, b in points
        ]

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], kind: str, label: str = "") -> None:
        """What lies between two lines."""
        self._name(label, f"band {kind}")
        around = [*zip(x, high, strict=True), *reversed(list(zip(x, low, strict=True)))]
        self.parts.append(f'<polygon class="band {kind}" points="{self._points(around)}"/>')

    def upright(self, x: float, kind: str, label: str = "") -> None:
        """A line from the bottom to the top."""
        self._name(label, f"line {kind}")
        low, high = self.y
        self.parts.append(f'<polyline class="line {kind}" points="{self._points([(x, low), (x, high)])}"/>')

    def svg(self, title: str) -> str:
        """The chart as a figure with its legend."""
        bottom, right = self.height - BOTTOM, WIDTH - RIGHT
        grid, words = [], []
        for at in ticks(*self.y):
            y = self._y(at)
            grid.append(f'<path d="M{LEFT} {y:.1f}H{right}"/>')
            words.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text(_short(at, self.y))}</text>')
        for at, word in self.marks:
            x, half = self._x(at), LETTER * len(word) / 2
            middle = min(max(x, half), WIDTH - half)  # inside the picture
            grid.append(f'<path d="M{x:.1f} {TOP}V{bottom}"/>')
            words.append(f'<text x="{middle:.1f}" y="{bottom + 15}" text-anchor="middle">{text(word)}</text>')
        words.append(
            f'<text x="{(LEFT + right) / 2}" y="{self.height - 6}" text-anchor="middle">{name(self.labels[0])}</text>'
        )
        middle = (TOP + bottom) / 2
        turned = f"translate(12 {middle:.1f}) rotate(-90)"
        words.append(f'<text transform="{turned}" text-anchor="middle">{name(self.labels[1])}</text>')
        legend = "".join(f'<span><i class="{kind}"></i>{name(label)}</span>' for label, kind in self.legend)
        return (
            f'<figure><figcaption>{name(title)}</figcaption><svg viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-label="{name(title)}"><g class="grid">{"".join(grid)}</g>{"".join(self.parts)}'
            f'<g class="words">{"".join(words)}</g></svg><div class="legend">{legend}</div></figure>'
        )


def kind_of(place: int) -> str:
    """Class of the line at this place of several."""
    return f"c{place % COLOURS}" + (" dashed" if place >= COLOURS else "")


def charts(*figures: str) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def _short(value: float, axis: Pair) -> str:
    """A tick in few letters."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.6g}" if max(map(abs, axis)) >= 1e-3 else f"{value:.1e}"
