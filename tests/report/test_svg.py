"""Charts: round ticks inside the axis, lines broken where nothing is known, text that stays text."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_seq.report.svg import HEIGHT, WIDTH, Chart, charts, spread, ticks

numbers = st.floats(-1e9, 1e9, allow_subnormal=False)


@given(low=numbers, size=st.floats(1e-6, 1e9))
def test_ticks_are_round_even_and_inside(low: float, size: float) -> None:
    high = low + size
    found = ticks(low, high)
    if size < 1e-6 * abs(low):  # steps at the end of what a float can tell apart
        return
    assert 2 <= len(found) <= 12
    steps = [b - a for a, b in pairwise(found)]
    step = steps[0]
    assert all(math.isclose(one, step, rel_tol=1e-3) for one in steps)
    assert found[0] >= low - 1e-3 * step and found[-1] <= high + 1e-3 * step
    assert any(math.isclose(step / 10 ** math.floor(math.log10(step * 1.0001)), m, rel_tol=1e-3) for m in (1, 2, 5))


@given(values=st.lists(numbers | st.just(math.nan), max_size=20))
def test_an_axis_has_room_around_what_it_shows(values: list[float]) -> None:
    low, high = spread(values)
    assert low < high and all(low < v < high for v in values if math.isfinite(v))


def test_a_line_is_broken_where_nothing_is_known() -> None:
    chart = Chart((0, 6), (0, 1), ("x", "y"))
    chart.line([(0, 0.0), (1, 0.5), (2, None), (3, 0.1), (4, 0.2), (5, math.nan), (6, 1.0)], "c0", "a")
    svg = chart.svg("title")
    assert svg.count("<polyline") == 2 and svg.count("<circle") == 1  # what stands alone is a dot
    assert "nan" not in svg and svg.count("<span>") == 1


def test_points_stand_inside_the_picture() -> None:
    chart = Chart((-1, 3), (10, 20), ("x", "y"))
    chart.line([(-1, 10), (3, 20)], "c0")
    (points,) = re.findall(r'points="([^"]+)"', chart.svg("t"))
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
    assert 0 < x0 < x1 < WIDTH and HEIGHT > y0 > y1 > 0


@pytest.mark.parametrize("words", ["<b>", "a & b", "\x1b[0m"])
def test_words_are_escaped(words: str) -> None:
    chart = Chart((0, 1), (0, 1), (words, words), [(0.5, words)])
    chart.line([(0, 0), (1, 1)], "c0", words)
    svg = chart.svg(words)
    assert "<b>" not in svg and "\x1b" not in svg and "a & b" not in svg


def test_no_charts_are_nothing() -> None:
    assert charts("", "") == "" and charts("x", "").count("x") == 1
