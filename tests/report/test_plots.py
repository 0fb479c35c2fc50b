"""Pictures: PNG files that open, have the size they should, and show something, whatever the data are called."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from tests.conftest import thinned
from titans_seq.data.record import Series
from titans_seq.report.plots.benchmarks import Chart, Panel, Share, accuracy_plot, scaling_plot
from titans_seq.report.plots.forecasts import forecast_plot
from titans_seq.report.plots.likelihood import bits, likelihood_plot
from titans_seq.report.plots.mutations import _strongest, mutation_plot
from titans_seq.report.plots.scores import scores_plot

NAMES = ["temperature", "$\\frac{", "a\x00b\nc", "温度", "x" * 10_000, "<b>"]
START = datetime(2024, 1, 1)


def shown(file: Path) -> float:
    """Share of the pixels that are not white, of a picture that is neither blank nor a blot."""
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = imread(file)
    assert picture.shape[0] > 300 and picture.shape[1] > 800
    share = float((picture[..., :3].min(-1) < 0.95).mean())
    assert 0.005 < share < 0.7
    return share


def history(names: list[str], hours: int = 200) -> Series:
    times = np.array([START + timedelta(hours=i) for i in range(hours)], "datetime64[us]")
    values = np.sin(np.arange(hours)[:, None] / 4 + np.arange(len(names)))
    values[20:25] = np.nan
    return Series("", times, values, tuple(names))


def rows(names: list[str], first: int, horizon: int, levels: tuple[float, ...], cutoff: bool) -> list[dict[str, Any]]:
    found = []
    for name in names:
        for h in range(horizon):
            row: dict[str, Any] = {"unique_id": name, "ds": f"{START + timedelta(hours=first + h)}", "mean": "0.1"}
            if cutoff:
                row["cutoff"] = f"{START + timedelta(hours=first - 1)}"
            found.append(row | {f"q{level:g}": str(level - 0.5) for level in levels})
    return found


LEVELS = tuple(round(i / 10, 1) for i in range(1, 10))


def test_forecast_of_the_future(tmp_path: Path) -> None:
    names = ["temperature", "pressure"]
    out = tmp_path / "future.png"
    future = rows(names, 200, 24, LEVELS, cutoff=False)
    forecast_plot(history(names), future, out, past=96, names={"pressure": "hPa"}, title="T")
    shown(out)


def test_several_forecasts_of_the_past(tmp_path: Path) -> None:
    out = tmp_path / "past.png"
    found = [row for first in (100, 124, 148) for row in rows(["a"], first, 24, LEVELS, cutoff=True)]
    forecast_plot(history(["a"]), found, out, past=48)
    shown(out)


@pytest.mark.parametrize("name", thinned(NAMES), ids=range(len(NAMES)))
def test_names_from_the_data_do_not_break_a_picture(tmp_path: Path, name: str) -> None:
    forecast_plot(history([name]), rows([name], 200, 5, LEVELS, cutoff=False), tmp_path / "a.png", past=20, title=name)
    shown(tmp_path / "a.png")
    codes = np.zeros(100, np.uint8)
    likelihood_plot(codes, np.full(100, -1.3), tmp_path / "b.png", window=10, spans={name: [(0, 50)]}, title=name)
    shown(tmp_path / "b.png")


@pytest.mark.parametrize("levels", [(), (0.5,), (0.25, 0.5, 0.75)], ids=str)
def test_a_model_with_few_quantiles_or_none(tmp_path: Path, levels: tuple[float, ...]) -> None:
    forecast_plot(history(["a"]), rows(["a"], 200, 1, levels, cutoff=False), tmp_path / "a.png", past=10_000)
    shown(tmp_path / "a.png")


def test_bits_leave_out_what_is_not_known() -> None:
    codes = np.array([0, 1, 4, 4, 2, 3], np.uint8)
    loglik = np.log([0.25, 0.25, 1, 1, 0.5, 0.5])
    assert bits(loglik, codes, 0, 2) == pytest.approx(2)
    assert bits(loglik, codes, 0, 6) == pytest.approx(1.5)
    assert np.isnan(bits(loglik, codes, 2, 4))


@pytest.mark.parametrize("length", [1, 999, 50_000])
def test_likelihood_of_any_length_with_gaps(tmp_path: Path, length: int) -> None:
    codes = np.random.default_rng(0).integers(0, 4, length).astype(np.uint8)
    codes[length // 3 : length // 2] = 4
    loglik = np.where(codes < 4, -1.3 + 0.1 * np.sin(np.arange(length) / 3000), 0)
    spans = {"coding": [(0, length // 9)], "intergenic": [], "gap": [(length // 3, length // 2)]}
    out = tmp_path / "a.png"
    likelihood_plot(codes, loglik, out, window=1000, spans=spans, unseen=length - length // 10)
    shown(out)


def test_a_sequence_of_n_alone_is_drawn_as_a_gap(tmp_path: Path) -> None:
    likelihood_plot(np.full(5000, 4, np.uint8), np.zeros(5000), tmp_path / "a.png", spans={"coding": [(0, 10)]})
    shown(tmp_path / "a.png")


def test_changes_of_any_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for length, kinds in ((1, 1), (12, 2), (130, 1), (2000, 2)):
        reference = "".join(rng.choice(list("ACGTN"), length))
        scores = {f"score_{kind}": rng.standard_normal((length, 4)) * (-1) ** kind for kind in range(kinds)}
        scores["score_0"][reference == "N"] = np.nan
        mutation_plot(reference, scores, tmp_path / "x.png", first=99, title="chr1")
        picture = imread(tmp_path / "x.png")
        assert 300 < picture.shape[0] < 3000 and 800 < picture.shape[1] < 3000
    for nothing in (np.full((9, 4), np.nan), np.zeros((9, 4))):
        mutation_plot("N" * 9, {"llr": nothing}, tmp_path / "x.png", first=1)
    assert shown(tmp_path / "x.png")


def test_a_column_of_several_positions_shows_the_strongest_change() -> None:
    values = np.array([[0, 1, np.nan], [-3, 0.5, np.nan], [2, np.nan, np.nan], [1, -1, 4]])
    np.testing.assert_array_equal(_strongest(values, 3), [[-3, 1, np.nan], [1, -1, 4]])
    np.testing.assert_array_equal(_strongest(values, 1), values)


def test_sizes_and_what_grows_with_them(tmp_path: Path) -> None:
    lines = {f"model {i}": [(1024, 100.0 + i), (2**21, 10.0 + i)] for i in range(11)}
    panels = [Panel(name, "tokens", "tokens a second", lines) for name in ("speed", "$\\frac{")]
    scaling_plot(panels, tmp_path / "scaling.png", title="x" * 1000)
    assert shown(tmp_path / "scaling.png")
    dot = [Panel(name, "x", "y", {"a": [(1.0, 1.0)]}) for name in "ab"]
    scaling_plot(dot, tmp_path / "dot.png")
    assert shown(tmp_path / "dot.png")


def test_right_answers_by_length(tmp_path: Path) -> None:
    lines = {f"model {i}": [Share(4**n, 0.05 * i, 0.04 * i, 0.06 * i) for n in range(4, 9)] for i in range(11)}
    accuracy_plot([Chart(title, lines, 1 / 16, 256) for title in ("random", "$\\frac{")], tmp_path / "two.png")
    assert shown(tmp_path / "two.png")
    accuracy_plot([Chart("one", {"a": [Share(256, 1.0, 0.9, 1.0)]}, 0.5, 256)], tmp_path / "one.png")
    assert shown(tmp_path / "one.png")


CLASSES = [["a", "$b$"], NAMES[:5], [str(i) for i in range(20)]]


@pytest.mark.parametrize("names", CLASSES, ids=["two", "hostile", "many"])
@pytest.mark.parametrize("intervals", thinned([True, False]))
def test_scores_of_a_classifier(tmp_path: Path, names: list[str], intervals: bool) -> None:
    scores = {"mcc": 0.4, "auroc": None, "log_loss": 0.6}
    part = {"items": 9, "model": scores, "majority_class": {"mcc": 0.0}}
    if intervals:
        part["intervals"] = {"model": {"mcc": [0.3, 0.5]}, "majority_class": {"mcc": [0.0, 0.0]}}
    details = {
        "classes": names,
        "confusion": np.eye(len(names), dtype=int).tolist(),
        "roc": {name: [[0.0, 0.0], [0.2, 0.8], [1.0, 1.0]] for name in names[:-1]} | {names[-1]: []},
        "calibration": [[0.6, 0.5, 4.0], [0.9, 0.95, 5.0]],
    }
    scores_plot({**part, "leak_free": part, "details": details}, tmp_path / "s.png", title=names[-1])
    assert shown(tmp_path / "s.png") > 0.01


def test_scores_of_a_regression_and_of_a_language_model(tmp_path: Path) -> None:
    pairs = [[float(i), i / 2] for i in range(30)]
    found = {"items": 30, "model": {"pearson": 1.0, "r2": 0.1}, "details": {"scatter": {n: pairs for n in NAMES[:2]}}}
    scores_plot(found, tmp_path / "r.png")
    assert shown(tmp_path / "r.png") > 0.01
    found = {"items": 3, "model": {"bits_per_nt": 1.9}, "interpolated_markov": {"bits_per_nt": 1.95}, "chromosomes": {}}
    scores_plot(found, tmp_path / "l.png")
    assert imread(tmp_path / "l.png").shape[1] > 500
