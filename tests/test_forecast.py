"""Streaming forecasts: continuing equals reading again, the future stays unseen, and a state is refused by name."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tests.conftest import thinned
from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG, MAL, AttentionOnly
from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import Series
from titans_seq.data.windows import SeriesWindows
from titans_seq.errors import InputError, ModelError
from titans_seq.files import sha256
from titans_seq.forecast import Forecaster
from titans_seq.memory import MemoryConfig
from titans_seq.memory_state import fill_state, load_state, read_state, save_state, state_tensors
from titans_seq.stream import Point, Steps, series
from titans_seq.stream.series import Streams, initial_series, series_steps
from titans_seq.tasks.forecasting import Forecasting

P, H = 4, 6
CHANNELS = {"channels": ("a", "b"), "location": (5.0, -1.0), "scale": (2.0, 0.5), "frequency": "1h"}
BLOCKS = {
    "lmm": LMM(),
    "mag": MAG(window=4),
    "mal": MAL(window=4),
    "mac": MAC(segment=8),
    "attention": AttentionOnly(window=4),
}
FORMS = [(block, "independent", "running") for block in BLOCKS]
FORMS += [("lmm", "token", "running"), ("mag", "independent", "training"), ("mag", "attention", "running")]
every_form = pytest.mark.parametrize(("block", "mixing", "normalisation"), FORMS)


def make(block: str = "mag", mixing: str = "independent", normalisation: str = "running", double: bool = True) -> Any:
    torch.manual_seed(0)
    task = Forecasting(
        horizon=H, reads="stream", patch=P, lookback=24, mixing=mixing, normalisation=normalisation, **CHANNELS
    )
    config = BackboneConfig(
        width=16,
        heads=2,
        depth=2,
        block=BLOCKS[block],
        memory=MemoryConfig(chunk_size=4),
        embedding=task.embedding(),
    )
    model = SequenceModel(config, task).eval()
    return model.double() if double else model


def rows(count: int, seed: int = 0) -> np.ndarray:
    """A walk of two channels, a tenth of it missing."""
    rng = np.random.default_rng(seed)
    values = np.array(CHANNELS["location"]) + rng.normal(size=(count, 2)).cumsum(0) * CHANNELS["scale"]
    values[rng.random((count, 2)) < 0.1] = np.nan
    return values


def forecast(model: SequenceModel, *parts: np.ndarray) -> dict[str, np.ndarray]:
    reader = Forecaster(model)
    for part in parts:
        reader.update(part)
    return reader.forecast()


def assert_alike(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


# --- continuing equals reading again


@pytest.mark.parametrize(("block", "mixing", "normalisation"), thinned(FORMS))
def test_any_cut_equals_one_pass(block: str, mixing: str, normalisation: str) -> None:
    """In float64 to 1e-9: sums run in another order when a patch is read beside others."""
    model, values = make(block, mixing, normalisation), rows(43)
    expected = forecast(model, values)
    assert expected["mean"].shape == (H, 2) and np.isfinite(expected["mean"]).all()
    for cut in range(1, 43):  # also inside patches, chunks and segments
        assert_alike(forecast(model, values[:cut], values[cut:]), expected, 1e-9)
    assert_alike(forecast(model, *values[:, None]), expected, 1e-9)


def test_any_cut_equals_one_pass_in_single_precision() -> None:
    model, values = make(double=False), rows(400)
    expected = forecast(model, values)
    for cut in (1, 130, 399):
        assert_alike(forecast(model, values[:cut], values[cut:]), expected, 1e-4)  # measured: 4e-6
    assert_alike(forecast(model, *values[:, None]), expected, 1e-4)


def test_blocks_of_a_long_series_equal_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model, values = make(), rows(203)
    expected = forecast(model, values)
    monkeypatch.setattr(series, "PATCHES", 3)
    assert_alike(forecast(model, values), expected, 1e-9)


def test_a_state_on_the_disk_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, values = make(double=False), rows(60)
    reader = Forecaster(model)
    reader.update(values[:33])
    save_state(reader.state, tmp_path / "state")
    reader.update(values[33:])
    other = Forecaster(model, load_state(tmp_path / "state", initial_series(model)))
    assert other.state.rows == 33
    other.update(values[33:])
    for name, part in state_tensors(reader.state).items():
        assert torch.equal(part, state_tensors(other.state)[name]), name
    assert_alike(other.forecast(), reader.forecast(), 0)


def test_a_forecast_leaves_the_stream_as_it_was() -> None:
    model, values = make(), rows(30)
    silent, asked = Forecaster(model), Forecaster(model)
    for row in values:
        silent.update(row[None])
        asked.update(row[None])
        asked.forecast()
    for name, part in state_tensors(silent.state).items():
        assert torch.equal(part, state_tensors(asked.state)[name]), name


def test_no_rows_change_nothing() -> None:
    model, values = make(), rows(9)
    assert_alike(forecast(model, values[:0], values, values[:0]), forecast(model, values), 0)


def test_the_state_does_not_grow() -> None:
    model = make(double=False)
    reader, sizes = Forecaster(model), []
    for _ in range(4):
        reader.update(rows(100))
        sizes.append(sum(part.numel() for part in state_tensors(reader.state).values()))
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("normalisation", thinned(["running", "training"]))
def test_a_stream_of_one_value_stays_finite_and_wakes(normalisation: str) -> None:
    model = make(normalisation=normalisation, double=False)
    reader = Forecaster(model)
    reader.update(np.full((20_000, 2), 3.0))
    reader.update(np.full((500, 2), np.nan))
    assert np.isfinite(reader.forecast()["mean"]).all()
    reader.update(np.full((5, 2), -40.0))  # 20 and 80 training deviations away
    assert np.isfinite(reader.forecast()["mean"]).all()


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")
def test_two_million_rows_are_read_in_flat_memory() -> None:
    """Noise about a daily wave; the weights of the memory and the process keep their size."""
    model = make("lmm", double=False)
    reader, rng = Forecaster(model), np.random.default_rng(0)
    wave = np.sin(np.arange(48_000) * 2 * np.pi / 24)[:, None]
    norms, sizes = [], []
    for _ in range(42):
        reader.update(wave + rng.normal(size=(48_000, 2)))
        found = reader.forecast()["mean"]
        assert np.isfinite(found).all()
        norms.append(sum(float(w.square().sum()) for layer in reader.state.memory.layers for w in layer.scan.weights))
        sizes.append(resident())
    assert reader.state.rows > 2_000_000
    last = norms[len(norms) // 2 :]
    assert max(last) < 1.5 * min(last)
    assert sizes[-1] - sizes[2] < 20_000_000


def resident() -> int:
    """Memory of this process now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- what is read, and what is not


def test_a_missing_value_is_not_read_and_a_present_one_is() -> None:
    model, values = make(), rows(30)
    hidden = Forecaster(model)
    hidden.update(values)
    assert_alike(hidden.forecast(), forecast(model, np.where(np.isnan(values), np.nan, values)), 0)
    changed = values.copy()
    changed[0] = 9.0  # the first row of all reaches the last forecast
    assert not np.allclose(hidden.forecast()["mean"], forecast(model, changed)["mean"], atol=1e-9)


def test_a_missing_row_counts_as_a_row() -> None:
    """A row of nothing and a row that has not come look alike to the backbone, and are not forecast alike."""
    model, values = make(), rows(11)
    nothing = np.full((1, 2), np.nan)
    before, after = forecast(model, values), forecast(model, values, nothing)
    assert_alike({"mean": after["mean"][:-1]}, {"mean": before["mean"][1:]}, 1e-9)  # the same rows of time


def test_channels_that_are_read_apart_do_not_touch() -> None:
    model, values = make(), rows(30)
    changed = values.copy()
    changed[:, 1] += 1
    a, b = forecast(model, values)["mean"], forecast(model, changed)["mean"]
    np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=1e-12)
    assert not np.allclose(a[:, 1], b[:, 1])


def test_running_normalisation_forgets_where_a_series_began() -> None:
    """Long after a series was shifted by any constant, its forecast is shifted by it: the prior has faded."""
    model, values = make(), rows(6000)  # so long that the memory too has forgotten it: 2 % a token
    before, after = forecast(model, values)["mean"], forecast(model, values + 100)["mean"]
    np.testing.assert_allclose(after, before + 100, rtol=1e-6)


def test_a_window_is_a_stream_of_its_own() -> None:
    """What validation measures is what a stream forecasts that begins with the window."""
    model, values = make(), rows(24)
    past = torch.from_numpy(np.nan_to_num(values))[None]
    output = model({"past": past, "observed": torch.from_numpy(np.isfinite(values))[None]})
    columns = {name: v[0].numpy() for name, v in model.task.columns(output).items()}
    assert_alike(forecast(model, values), columns, 1e-9)


@pytest.mark.parametrize("seen", [1, 3, 4])
def test_training_meets_the_forecasts_of_use(seen: int) -> None:
    """In a training window every whole patch, and the last cut at any row, give what a stream would there."""
    model, values = make(), rows(24)
    batch = {
        "past": torch.from_numpy(np.nan_to_num(values))[None],
        "observed": torch.from_numpy(np.isfinite(values))[None],
        "open": torch.tensor([seen]),
    }
    output = model(batch)  # (1, N, P - 1 + H, C, Q)
    for patch in range(6):
        filled = seen if patch == 5 else P
        found = model.task.columns(output[:, patch, filled - 1 : filled - 1 + H].detach())
        expected = forecast(model, values[: patch * P + filled])
        assert_alike({name: v[0].numpy() for name, v in found.items()}, expected, 1e-9)


def test_rows_of_another_shape_and_infinite_ones() -> None:
    reader = Forecaster(make())
    with pytest.raises(ValueError, match=r"rows must have shape \(T, C\) with C = 2, got \(5, 3\)"):
        reader.update(np.zeros((5, 3)))
    with pytest.raises(InputError, match="infinite value"):
        reader.update(np.full((1, 2), np.inf))
    with pytest.raises(ValueError, match="no row yet"):
        reader.forecast()


def test_a_model_that_reads_windows_has_no_state() -> None:
    task = Forecasting(horizon=H, lookback=24, patch=P, stride=P, **CHANNELS)
    model = SequenceModel(BackboneConfig(width=16, heads=2, depth=1, embedding=task.embedding()), task)
    with pytest.raises(ModelError, match=r"--set task\.reads=stream"):
        Forecaster(model)


# --- the job over several series


def windows(lengths: tuple[int, ...], step: int = 3) -> SeriesWindows:
    series = []
    for number, count in enumerate(lengths):
        times = np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(1, "h")
        series.append(Series(str(number), times, rows(count, number), ("a", "b")))
    return SeriesWindows(series, [(5, count) for count in lengths], 1, H, step)


def streams_of(model: SequenceModel, items: SeriesWindows, keep: bool = False) -> Streams:
    begin = initial_series(model)
    count = len(items.series)
    return Streams(begin, [begin] * count, [0] * count, keep)


def describe(number: int, columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [{"window": number, "mean": columns["mean"].tolist()}]


@pytest.mark.parametrize("keep", thinned([True, False]))
def test_from_every_point_a_job_goes_on_alike(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forecasts and states; and each forecast is that of a series that is read anew up to its origin."""
    monkeypatch.setattr(series, "PATCHES", 2)
    model, items = make(), windows((40, 13, 30))
    whole = streams_of(model, items, keep)
    steps = list(series_steps(model, items, describe, whole, Point()))
    found = [row for ready, _ in steps for row in ready]
    assert [row["window"] for row in found] == list(range(len(items)))
    for number, row in enumerate(found):
        which, origin = items.place(number)
        expected = forecast(model, items.series[which].target[:origin])["mean"]
        np.testing.assert_allclose(row["mean"], expected, rtol=1e-9, atol=1e-9)
    # points as they are saved, since a point's arrays go on changing
    saved: list[tuple[Point, dict[str, torch.Tensor], int]] = []
    count = 0
    for ready, point in series_steps(model, items, describe, streams_of(model, items, keep), Point()):
        count += len(ready)
        saved.append((point, {name: t.clone() for name, t in state_tensors(point.carried).items()}, count))
    for point, tensors, done in saved:
        again = streams_of(model, items, keep)
        carried = fill_state(again.carried(0), tensors)
        rest = list(series_steps(model, items, describe, again, point._replace(carried=carried)))
        assert [row for ready, _ in rest for row in ready] == found[done:]
        for mine, theirs in zip(again.states, whole.states, strict=True):
            for name, part in state_tensors(theirs).items():
                assert torch.equal(part, state_tensors(mine)[name])


# --- through the command line


@pytest.fixture(scope="module")
def run(titans: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads streams, after three steps of training."""
    folder = tmp_path_factory.mktemp("stream") / "run"
    given = ["--horizon", 4, "--lookback", 12, "--set", "task.patch=4", "--set", "task.reads=stream", *tiny.size]
    titans("forecast", "train", tiny.wide, "--out", folder, *given, "--set", "training.steps=3", "--quiet")
    return folder


@pytest.fixture(scope="module")
def run_of_long(titans: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream") / "long"
    given = ["--horizon", 4, "--lookback", 12, "--set", "task.patch=4", "--set", "task.reads=stream", *tiny.size]
    titans("forecast", "train", tiny.long, "--out", folder, *given, "--set", "training.steps=1", "--quiet")
    return folder


def lines(file: Path, start: int, stop: int | None, target: Path) -> Path:
    """Rows of a table, counted from 0, as a table."""
    head, *body = file.read_text().splitlines()
    target.write_text("\n".join([head, *body[start:stop], ""]))
    return target


def same(one: Path, other: Path) -> None:
    a, b = pl.read_csv(one), pl.read_csv(other)
    numbers = [name for name in a.columns if a[name].dtype == pl.Float64]
    assert a.drop(numbers).equals(b.drop(numbers))
    np.testing.assert_allclose(a[numbers].to_numpy(), b[numbers].to_numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", [2, 40, 41, 79])
def test_new_rows_after_a_state_equal_the_whole_table(
    titans: Any, tiny: Any, run: Path, tmp_path: Path, cut: int
) -> None:
    old = lines(tiny.wide, 0, cut, tmp_path / "old.csv")
    new = lines(tiny.wide, cut, None, tmp_path / "new.csv")
    titans("forecast", "predict", run, old, "--out", tmp_path / "a.csv", "--state-out", tmp_path / "state")
    told = titans("forecast", "predict", run, new, "--out", tmp_path / "b.csv", "--state-in", tmp_path / "state")
    assert "constant" not in told.stderr, "one row is no constant series"
    titans("forecast", "predict", run, tiny.wide, "--out", tmp_path / "c.csv")
    same(tmp_path / "b.csv", tmp_path / "c.csv")


def test_new_rows_may_hold_nothing_and_leave_rows_out(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    """The step is known: of two rows that stand two hours apart the one between them is missing."""
    old = lines(tiny.wide, 0, 76, tmp_path / "old.csv")
    table = tiny.wide.read_text().splitlines()
    rest = [table[77].split(",")[0] + ",,", table[79], table[80]]  # the row 78 is left out
    (tmp_path / "new.csv").write_text("\n".join([table[0], *rest[:2], ""]))
    (tmp_path / "last.csv").write_text("\n".join([table[0], rest[2], ""]))
    (tmp_path / "all.csv").write_text("\n".join([*table[:77], *rest, ""]))
    states = ["--state-out", tmp_path / "one"], ["--state-in", tmp_path / "one", "--state-out", tmp_path / "two"]
    titans("forecast", "predict", run, old, "--out", tmp_path / "a.csv", *states[0])
    assert (
        "gaps"
        in titans("forecast", "predict", run, tmp_path / "new.csv", "--out", tmp_path / "b.csv", *states[1]).stderr
    )
    last = titans(
        "forecast", "predict", run, tmp_path / "last.csv", "--out", tmp_path / "c.csv", "--state-in", tmp_path / "two"
    )
    assert "warning" not in last.stderr
    titans("forecast", "predict", run, tmp_path / "all.csv", "--out", tmp_path / "d.csv")
    same(tmp_path / "c.csv", tmp_path / "d.csv")
    odd = tmp_path / "odd.csv"
    odd.write_text(f"{table[0]}\n2024-01-04 04:00:00,1,1\n2024-01-04 04:30:00,1,1\n")
    told = titans("forecast", "predict", run, odd, "--out", tmp_path / "e.csv", "--state-in", tmp_path / "one", code=3)
    assert "irregular" in told.stderr


def test_an_irregular_model_reads_even_pieces_as_they_come(titans: Any, tiny: Any, tmp_path: Path) -> None:
    """One row stands off the grid, and a piece behind it is even: it is not put on a grid of its own."""
    head, *rows = tiny.wide.read_text().splitlines()
    rows[20] = rows[20].replace(":00:00", ":20:00")
    del rows[60:63]  # which a grid would have as missing rows
    old, new, whole = (tmp_path / f"{name}.csv" for name in ("old", "new", "whole"))
    for file, part in ((old, rows[:50]), (new, rows[50:]), (whole, rows)):
        file.write_text("\n".join([head, *part, ""]))
    settings = ["--set", "task.reads=stream", "--set", "training.steps=1"]
    titans("forecast", "train", whole, "--out", tmp_path / "run", *tiny.forecast, *settings)
    a, b, c = (tmp_path / f"{name}.csv" for name in "abc")
    given = ["forecast", "predict", tmp_path / "run"]
    titans(*given, whole, "--out", a)
    titans(*given, old, "--out", b, "--state-out", tmp_path / "state")
    titans(*given, new, "--out", c, "--state-in", tmp_path / "state")
    same(c, a)


def test_states_of_several_series_in_any_order(titans: Any, tiny: Any, run_of_long: Path, tmp_path: Path) -> None:
    head, *body = tiny.long.read_text().splitlines()
    (tmp_path / "old.csv").write_text("\n".join([head, *body[:50], *body[60:97], ""]))
    (tmp_path / "new.csv").write_text("\n".join([head, *body[97:], *body[50:60], ""]))
    (tmp_path / "all.csv").write_text("\n".join([head, *body[60:], *body[:60], ""]))
    for table, options in (
        ("old", ["--state-out", "one"]),
        ("new", ["--state-in", "one", "--state-out", "two"]),
        ("all", []),
    ):
        named = [part if part.startswith("--") else tmp_path / part for part in options]
        titans(
            "forecast", "predict", run_of_long, tmp_path / f"{table}.csv", "--out", tmp_path / f"{table}-f.csv", *named
        )
    same(tmp_path / "new-f.csv", tmp_path / "all-f.csv")


def test_rows_that_were_read_are_skipped_and_told(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    old = lines(tiny.wide, 0, 50, tmp_path / "old.csv")
    given = ["--state-in", tmp_path / "state"]
    titans("forecast", "predict", run, old, "--out", tmp_path / "a.csv", "--state-out", tmp_path / "state")
    told = titans("forecast", "predict", run, tiny.wide, "--out", tmp_path / "b.csv", *given).stderr
    assert "has read already: 50; they are skipped" in told
    titans("forecast", "predict", run, tiny.wide, "--out", tmp_path / "c.csv")
    same(tmp_path / "b.csv", tmp_path / "c.csv")
    titans("forecast", "predict", run, old, "--out", tmp_path / "d.csv", *given)  # nothing new at all
    same(tmp_path / "d.csv", tmp_path / "a.csv")


def test_a_table_that_does_not_go_on_is_refused(
    titans: Any, tiny: Any, run: Path, run_of_long: Path, tmp_path: Path
) -> None:
    def refused(model: Path, table: Path, code: int = 3, state: str = "state") -> str:
        given = ["--out", tmp_path / "b.csv", "--state-in", tmp_path / state]
        told = titans("forecast", "predict", model, table, *given, code=code).stderr
        assert not (tmp_path / "b.csv").exists()
        return " ".join(told.split())

    old = lines(tiny.wide, 0, 50, tmp_path / "old.csv")
    titans("forecast", "predict", run, old, "--out", tmp_path / "a.csv", "--state-out", tmp_path / "state")
    gap = refused(run, lines(tiny.wide, 51, None, tmp_path / "gap.csv"))
    assert "after 2024-01-03 01:00:00 the row of 2024-01-03 02:00:00 is missing, the next is of 2024-01-03 03" in gap
    past = refused(run, lines(tiny.wide, 0, 40, tmp_path / "past.csv"))
    assert "ends at 2024-01-02 15:00:00" in past and "has read on to 2024-01-03 01:00:00" in past

    titans("forecast", "predict", run_of_long, tiny.long, "--out", tmp_path / "l.csv", "--state-out", tmp_path / "two")
    one = lines(tiny.long, 0, 60, tmp_path / "one.csv")
    assert "lacks series 'y'" in refused(run_of_long, one, state="two")
    other = tmp_path / "other.csv"
    other.write_text(tiny.long.read_text().replace("y,", "z,"))
    assert "lacks series 'y'" in refused(run_of_long, other, state="two")
    more = tmp_path / "more.csv"
    added = "".join(line.replace("y,", "w,") + "\n" for line in tiny.long.read_text().splitlines() if line[0] == "y")
    more.write_text(tiny.long.read_text() + added)
    assert f"{tmp_path / 'two'} lacks series 'w'" in refused(run_of_long, more, state="two")

    assert "made by another model" in refused(run_of_long, tiny.long, code=5)
    (tmp_path / "torn").write_bytes((tmp_path / "state").read_bytes()[:-9])
    assert "not a memory state that can be read" in refused(run, tiny.wide, 5, "torn")
    assert "is not there" in refused(run, tiny.wide, 2, "nothing")
    save_state((), tmp_path / "other")
    assert "holds no state of series" in refused(run, tiny.wide, 5, "other")


def test_a_model_of_windows_takes_no_state(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    for option in ("--state-out", "--state-in"):
        (tmp_path / "in").write_bytes(b"")
        given = [option, tmp_path / ("in" if option == "--state-in" else "state")]
        told = titans("forecast", "predict", models.wide, tiny.wide, "--out", tmp_path / "a.csv", *given, code=5).stderr
        assert "has no state to carry" in told and "--set task.reads=stream" in told
        assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_state_files_are_new_and_not_one(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    state, given = tmp_path / "state", ["forecast", "predict", run, tiny.wide, "--out", tmp_path / "a.csv"]
    titans(*given, "--state-out", state)
    assert "exists" in titans(*given[:-1], tmp_path / "b.csv", "--state-out", state, code=2).stderr
    told = titans(*given, "--overwrite", "--state-in", state, "--state-out", state, code=2).stderr
    assert "another name" in told
    assert "already finished" in titans(*given, "--resume", "--state-out", state).stdout
    state.unlink()
    assert "is not there" in titans(*given, "--resume", "--state-out", state, code=2).stderr
    assert "is the file of --out" in titans(*given[:-1], state, "--state-out", state, code=2).stderr
    (tmp_path / "folder.csv").mkdir()
    for more in ((), ("--overwrite",), ("--resume",)):
        assert "folder.csv is a folder" in titans(*given[:-1], tmp_path / "folder.csv", *more, code=2).stderr


def test_a_stopped_prediction_goes_on_with_its_states(
    titans: Any, tiny: Any, run_of_long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = series_steps

    def signalled(*arguments: Any) -> Steps:
        for number, step in enumerate(steps(*arguments)):
            if number == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step

    monkeypatch.setattr(series, "PATCHES", 2)
    given = ["forecast", "predict", run_of_long, tiny.long]
    titans(*given, "--out", tmp_path / "a.csv", "--state-out", tmp_path / "whole")
    resumed = [*given, "--out", tmp_path / "b.csv", "--state-out", tmp_path / "state"]
    with monkeypatch.context() as patch:
        patch.setattr("titans_seq.forecast.series_steps", signalled)
        titans(*resumed, code=143)
    assert not (tmp_path / "b.csv").exists() and not (tmp_path / "state").exists()
    assert "reading" in titans(*resumed, "--on-gap", "ffill", "--resume", code=3).stderr
    titans(*resumed, "--resume")
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    (one, of_one), (other, of_other) = read_state(tmp_path / "state"), read_state(tmp_path / "whole")
    assert of_one == of_other and one.keys() == other.keys()
    assert all(torch.equal(part, other[name]) for name, part in one.items())


def test_a_stopped_backtest_measures_the_same(
    titans: Any, tiny: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = series_steps

    def signalled(*arguments: Any) -> Steps:
        for number, step in enumerate(steps(*arguments)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    given = ["forecast", "backtest", run, tiny.wide, "--windows", 7, "--step", 1, "--json"]
    whole = json.loads(titans(*given, "--out", tmp_path / "a.jsonl").stdout)
    assert whole["protocol"]["windows"] == 7 and whole["model"]["mse"] > 0
    with monkeypatch.context() as patch:
        patch.setattr("titans_seq.forecast.series_steps", signalled)
        titans(*given, "--out", tmp_path / "b.jsonl", code=130)
    again = json.loads(titans(*given, "--out", tmp_path / "b.jsonl", "--resume").stdout)
    assert {**again, **(names := {"out": "", "metrics": ""})} == {**whole, **names}
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_a_backtest_ends_as_a_prediction_from_its_last_origin(
    titans: Any, tiny: Any, run: Path, tmp_path: Path
) -> None:
    titans("forecast", "backtest", run, tiny.wide, "--windows", 5, "--step", 3, "--out", tmp_path / "back.csv")
    before = lines(tiny.wide, 0, 76, tmp_path / "before.csv")
    titans("forecast", "predict", run, before, "--out", tmp_path / "next.csv")
    back, then = pl.read_csv(tmp_path / "back.csv"), pl.read_csv(tmp_path / "next.csv")
    last = back.filter(pl.col("cutoff") == back["cutoff"].max()).drop("cutoff", "y")
    assert last.select("unique_id", "ds").equals(then.select("unique_id", "ds"))
    np.testing.assert_allclose(last["mean"], then["mean"], rtol=1e-4, atol=1e-4)


def test_training_that_resumes_repeats_itself(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    """The rows that are seen of a last patch are drawn by step, not by the process."""
    given = ["--horizon", 4, "--lookback", 12, "--set", "task.patch=4", "--set", "task.reads=stream", *tiny.size]
    titans("forecast", "train", tiny.wide, "--out", tmp_path / "run", *given, "--set", "training.steps=3", "--quiet")
    file = Path("model/model.safetensors")
    assert (tmp_path / "run" / file).read_bytes() == (run / file).read_bytes()


def test_a_model_knows_how_its_table_was_read_wherever_its_folder_lies(titans: Any, tiny: Any, tmp_path: Path) -> None:
    times = [line.split(",")[0] for line in tiny.wide.read_text().splitlines()[1:]]
    lines = [f"{t},{'wet' if i % 3 else 'dry'},{-9999 if i == 70 else i % 7},{i % 5}" for i, t in enumerate(times)]
    del lines[75]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["when,sky,a,b", *lines, ""]))
    given = ("--target", "a", "--missing", "-9999", "--on-gap", "ffill", "--time", "when")
    titans(
        "forecast",
        "train",
        table,
        *given,
        "--past-only",
        "b",
        "--out",
        tmp_path / "run",
        *tiny.forecast,
        "--set",
        "training.steps=1",
    )
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    shutil.rmtree(tmp_path / "run")
    titans("forecast", "predict", tmp_path / "model", table, "--out", tmp_path / "f.csv", "--threads", 1)
    titans("forecast", "predict", tmp_path / "model", table, *given, "--out", tmp_path / "g.csv", "--threads", 1)
    assert (tmp_path / "f.csv").read_bytes() == (tmp_path / "g.csv").read_bytes()

    file, sums = (tmp_path / "model" / name for name in ("task.json", "SHA256SUMS"))
    before = sha256(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"reading": {"path": "x"}}))
    sums.write_text(sums.read_text().replace(before, sha256(file)))
    told = titans("forecast", "predict", tmp_path / "model", table, "--out", tmp_path / "h.csv", code=5).stderr
    assert "task.json: reading.path: " in told


def test_a_future_that_no_covariate_asks_for_is_refused(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    """It would be read as rows without values, behind which the forecast begins."""
    later = tmp_path / "later.csv"
    later.write_text("date,k\n2024-01-04 08:00:00,1\n2024-01-04 09:00:00,1\n")
    given = ["forecast", "predict", models.wide, tiny.wide, "--future", later, "--out", tmp_path / "f.csv"]
    assert "reads no covariates that are known beforehand" in titans(*given, code=2).stderr


def test_series_that_are_held_out_whole_tell_no_scale(titans: Any, tiny: Any, tmp_path: Path) -> None:
    times = [f"2024-01-{1 + h // 24:02} {h % 24:02}:00:00" for h in range(200)]
    rows = [f"a,{t},{i % 7}" for i, t in enumerate(times)] + [f"b,{t},{1000 + i}" for i, t in enumerate(times[:30])]
    for name, kept in (("both", rows), ("one", rows[:200])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["unique_id,ds,y", *kept, ""]))
        held = ("--set", "data.validation=20", "--set", "data.test=20", "--set", "training.steps=1")
        titans("forecast", "train", tmp_path / f"{name}.csv", "--out", tmp_path / name, *tiny.forecast, *held)
    both, one = (json.loads((tmp_path / name / "model" / "task.json").read_text()) for name in ("both", "one"))
    assert (both["location"], both["scale"]) == (one["location"], one["scale"])


def test_rows_of_another_zone_do_not_stand_beside_others(titans: Any, tiny: Any, tmp_path: Path) -> None:
    """Each table is kept as written, so that the same hour would be two."""

    def table(name: str, first: int, count: int, zone: str, ahead: bool = False) -> Path:
        times = [(h, f"2024-01-{1 + h // 24:02} {h % 24:02}:00:00{zone}") for h in range(first, first + count)]
        rows = [f"{time},{'' if ahead else h % 7},{h % 5}" for h, time in times]
        (tmp_path / name).write_text("\n".join(["date,a,k", *rows, ""]))
        return tmp_path / name

    past, run = table("past.csv", 0, 60, "+02:00"), tmp_path / "run"
    stream = ("--set", "task.reads=stream", "--set", "task.stride=4")
    titans(
        "forecast",
        "train",
        past,
        "--known-future",
        "k",
        "--out",
        run,
        *tiny.forecast,
        *stream,
        "--set",
        "training.steps=1",
    )
    ahead = {zone: table(f"ahead{len(zone)}.csv", 60, 8, zone, ahead=True) for zone in ("+02:00", "Z")}
    given = ["forecast", "predict", run, past, "--threads", 1, "--out", tmp_path / "f.csv"]
    told = titans(*given, "--future", ahead["Z"], code=3).stderr
    assert "times are in the zone UTC, those of" in told and "past.csv in +02:00" in told
    titans(*given, "--future", ahead["+02:00"], "--state-out", tmp_path / "state")
    for zone, code in (("Z", 3), ("+02:00", 0)):
        new = table("new.csv", 60, 4, zone)
        later = table("later.csv", 64, 8, zone, ahead=True)
        out = ["--state-in", tmp_path / "state", "--out", tmp_path / "g.csv", "--threads", 1]
        told = titans("forecast", "predict", run, new, "--future", later, *out, code=code).stderr
        assert ("state in +02:00" in told) is bool(code)


def test_a_gap_that_a_cut_lies_in_is_filled_from_rows_that_were_read(titans: Any, tiny: Any, tmp_path: Path) -> None:
    head, *all_rows = tiny.wide.read_text().splitlines()
    all_rows[50:56] = [f"{row.split(',')[0]},," for row in all_rows[50:56]]

    def table(name: str, first: int, end: int) -> Path:
        (tmp_path / name).write_text("\n".join([head, *all_rows[first:end], ""]))
        return tmp_path / name

    run, state, whole = tmp_path / "run", tmp_path / "state", table("whole.csv", 0, 70)
    given = ("--set", "task.reads=stream", "--set", "training.steps=1", "--on-gap", "ffill")
    titans("forecast", "train", whole, "--out", run, *tiny.forecast, *given)
    predict = ["forecast", "predict", run]
    titans(*predict, whole, "--out", tmp_path / "a.csv")
    titans(*predict, table("first.csv", 0, 52), "--state-out", state, "--out", tmp_path / "b.csv")
    then = ["--state-in", state, "--out", tmp_path / "c.csv"]
    assert "its first row misses a value" in titans(*predict, table("new.csv", 52, 70), *then, code=3).stderr
    titans(*predict, table("more.csv", 48, 70), *then)
    found, expected = (pl.read_csv(tmp_path / f"{name}.csv") for name in "ca")
    # float32 sums in another order, of values up to 6
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-4, atol=1e-5)
