"""Covariates of all three kinds: read where they are known, never where they are not, in windows and in streams."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from forecasters import H, L, P, hourly

from titans_seq.checkpoint import SequenceModel, load_pretrained
from titans_seq.data.record import Series
from titans_seq.data.series import timed
from titans_seq.export import example
from titans_seq.forecast import Forecaster
from titans_seq.tasks.forecasting import Covariates

C, K, PAST, S = 2, 3, 1, 2  # channels, known beforehand (the last is time), known up to now, of the series
COVARIATES = Covariates(
    known_future=("holiday", "tariff"),
    past_only=("load",),
    static=("height", "width"),
    location=(0.0, 10.0, 0.0, 3.0, 1.0, 1.0),
    scale=(1.0, 5.0, 0.5, 2.0, 1.0, 2.0),
)
MIXINGS = ("independent", "token", "attention")
FORMS = [(reads, mixing) for reads in ("window", "stream") for mixing in MIXINGS]
every_form = pytest.mark.parametrize(("reads", "mixing"), FORMS)


def make(reads: str, mixing: str = "independent") -> SequenceModel:
    return hourly(reads, mixing=mixing, irregular=True, covariates=COVARIATES)


def windows(B: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g).double()

    known = drawn(B, L + H, K)
    known[0, 5, 1] = torch.nan
    return {
        "past": drawn(B, L, C),
        "observed": torch.rand(B, L, C, generator=g) > 0.2,
        "future": drawn(B, H, C),
        "future_observed": torch.ones(B, H, C, dtype=torch.bool),
        "known": known,
        "past_only": drawn(B, L, PAST),
        "static": drawn(B, S),
    }


def test_an_exported_window_names_all_that_is_read() -> None:
    assert set(example(make("window").float(), L)) == {"past", "observed", "known", "past_only", "static"}


@every_form
def test_shapes_and_a_gradient_in_every_parameter(reads: str, mixing: str) -> None:
    model, batch = make(reads, mixing), windows()
    output = model(batch)
    assert output.shape == (2, H, C, 9) and output.isfinite().all()
    if reads == "stream":
        batch["open"] = torch.tensor([1, 3])
        output = model(batch)
        assert output.shape == (2, L // P, P - 1 + H, C, 9)
    model.task.loss(output, batch).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@every_form
def test_every_covariate_that_is_known_reaches_the_forecast(reads: str, mixing: str) -> None:
    model, batch = make(reads, mixing), windows()
    before = model(batch)
    for name, places in (("known", range(K)), ("past_only", range(PAST)), ("static", range(S))):
        for place in places:
            changed = batch[name].clone()
            rows = (slice(None), slice(0, L)) if name == "known" else (...,)
            changed[(*rows, place)] += 1
            assert not torch.allclose(model({**batch, name: changed}), before), (name, place)


@every_form
def test_a_step_sees_what_is_known_of_its_own_row_alone(reads: str, mixing: str) -> None:
    """So nothing beyond the horizon reaches a forecast, and a shorter horizon's is the longer one's beginning."""
    model, batch = make(reads, mixing), windows()
    before = model(batch)
    for h in range(H):
        known = batch["known"].clone()
        known[:, L + h] += 1
        found = model({**batch, "known": known})
        same = [step for step in range(H) if step != h]
        assert torch.equal(found[:, same], before[:, same])
        assert not torch.allclose(found[:, h], before[:, h])


def test_in_training_no_later_row_reaches_a_patch_of_a_stream() -> None:
    """Neither targets, nor covariates up to now, nor what is known beforehand of other rows than the step's own."""
    model, batch = make("stream"), {**windows(), "open": torch.tensor([3, 3])}
    before = model(batch)
    first = 11  # of the rows that change, in the third patch
    for name in ("past", "past_only"):
        changed = batch[name].clone()
        changed[:, first:] += 1e3
        assert torch.equal(model({**batch, name: changed})[:, :2], before[:, :2])
    known = batch["known"].clone()
    known[:, 23] += 1  # of the last patch rows 20, 21 and 22 are seen
    found = model({**batch, "known": known})
    told = torch.zeros(L // P, P - 1 + H, dtype=torch.bool)
    for n in range(L // P):
        if 0 <= 23 - P * n - 1 < P - 1 + H:
            told[n, 23 - P * n - 1] = True
    assert torch.equal(found[:, ~told], before[:, ~told])
    assert (found[:, told] != before[:, told]).any()


@every_form
def test_a_missing_covariate_is_marked_and_not_read(reads: str, mixing: str) -> None:
    model, batch = make(reads, mixing), windows()
    mean = batch["past_only"].clone()
    mean[:, 3] = COVARIATES.location[K]  # what a missing one would be taken for without its mark
    gone = mean.clone()
    gone[:, 3] = torch.nan
    found = model({**batch, "past_only": gone})
    assert found.isfinite().all()
    assert not torch.allclose(found, model({**batch, "past_only": mean}))
    nothing = {name: torch.full_like(batch[name], torch.nan) for name in ("known", "past_only", "static")}
    assert model({**batch, **nothing}).isfinite().all()


@pytest.mark.parametrize("mixing", ["independent", "attention"])
@pytest.mark.parametrize("reads", ["window", "stream"])
def test_permuting_channels_that_are_read_apart_permutes_their_forecasts(reads: str, mixing: str) -> None:
    model, batch = make(reads, mixing), windows()
    model.head.location.fill_(0)
    model.head.scale.fill_(1)
    turned = {**batch, "past": batch["past"].flip(-1), "observed": batch["observed"].flip(-1)}
    torch.testing.assert_close(model(turned), model(batch).flip(2))


def test_covariates_scale_with_their_training_statistics() -> None:
    """A covariate in other units, with statistics in these, is the same covariate."""
    model, batch = make("window"), windows()
    other = make("window")
    other.head.beside.location.mul_(1000)
    other.head.beside.scale.mul_(1000)
    thousand = {name: 1000 * batch[name] for name in ("known", "past_only", "static")}
    torch.testing.assert_close(other({**batch, **thousand}), model(batch), rtol=1e-5, atol=1e-5)  # buffers of float32


# --- streams


def rows(count: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(count, C + K + PAST))
    values[np.random.default_rng(1).random(values.shape) < 0.1] = np.nan
    return values


@pytest.mark.parametrize("mixing", MIXINGS)
def test_any_cut_of_a_stream_with_covariates_equals_one_pass(mixing: str) -> None:
    model, values = make("stream", mixing), rows(43)
    known, static = np.random.default_rng(2).normal(size=(H, K)), np.array([0.5, np.nan])

    def forecast(*parts: np.ndarray) -> np.ndarray:
        reader = Forecaster(model, static=static)
        for part in parts:
            reader.update(part)
        return reader.forecast(known)["mean"]

    expected = forecast(values)
    for cut in range(1, 43):
        np.testing.assert_allclose(forecast(values[:cut], values[cut:]), expected, rtol=1e-9, atol=1e-9)
    window = {
        "past": values[:L, :C],
        "observed": np.isfinite(values[:L, :C]),
        "known": np.concatenate([values[:L, C : C + K], known]),
        "past_only": values[:L, C + K :],
        "static": static,
    }
    batch = {name: torch.from_numpy(np.array(part))[None] for name, part in window.items()}
    batch["past"] = batch["past"].nan_to_num()
    columns = model.task.columns(model(batch))
    np.testing.assert_allclose(forecast(values[:L]), columns["mean"][0].numpy(), rtol=1e-9, atol=1e-9)


def test_what_a_stream_must_be_given() -> None:
    reader = Forecaster(make("stream"))
    with pytest.raises(ValueError, match=r"C = 2 \+ 4 covariates, got \(5, 2\)"):
        reader.update(np.zeros((5, 2)))
    reader.update(rows(5))
    with pytest.raises(ValueError, match=r"shape \(H, K\) = \(6, 3\), got nothing"):
        reader.forecast()


def test_the_time_between_rows_goes_on_from_the_row_before() -> None:
    start = np.datetime64("2024-01-01", "us")
    times = start + np.cumsum([0, 1, 1, 5, 2, 1]) * np.timedelta64(1, "h")
    series = Series("", times, np.zeros((6, 1)), ("a",), "1h")
    steps = timed(series, "1h").known_future[:, 0]
    np.testing.assert_allclose(np.exp(steps), [1, 1, 1, 5, 2, 1], rtol=1e-6)
    rest = Series("", times[3:], np.zeros((3, 1)), ("a",), "1h")
    assert np.array_equal(timed(rest, "1h", times[2]).known_future[:, 0], steps[3:])


# --- through the command line


HEAD = "unique_id,ds,y,holiday,load,place"


def table(file: Path, count: int, future: int = 0, odd: bool = False, first: int = 0) -> Path:
    """Two series of hours, with covariates; the last rows know only what is known beforehand."""
    lines = [HEAD]
    for name, place in (("x", "north"), ("y", "south")):
        for i in range(first, count + future):
            minutes = 60 * i + (17 * (i % 3) if odd else 0)
            time = np.datetime64("2024-01-01T00:00:00") + np.timedelta64(minutes, "m")
            told = f"{i % 7}.5,{i % 5 == 0:d},{i % 4},{place}" if i < count else f",{i % 5 == 0:d},,{place}"
            lines.append(f"{name},{str(time).replace('T', ' ')},{told}")
    file.write_text("\n".join([*lines, ""]))
    return file


COLUMNS = ("--target", "y", "--known-future", "holiday", "--past-only", "load", "--static", "place")


@pytest.fixture(scope="module", params=["window", "stream"])
def run(request: Any, titans: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("covariates")
    given = ["--horizon", 4, "--lookback", 12, "--set", "task.patch=4", "--set", "task.stride=4", *tiny.size]
    given += ["--set", f"task.reads={request.param}", "--set", "training.steps=3", "--quiet"]
    data = table(folder / "train.csv", 60)
    titans("forecast", "train", data, "--out", folder / "run", *given, *COLUMNS)
    return folder / "run"


def test_a_model_of_a_table_with_covariates_forecasts_and_refuses(titans: Any, run: Path, tmp_path: Path) -> None:
    model = load_pretrained(str(run))
    assert len(model.task.covariates.location) == 1 + 1 + 3 and model.task.known == 1
    whole = table(tmp_path / "whole.csv", 60, 4)
    titans("forecast", "predict", run, whole, "--out", tmp_path / "a.csv")
    found = pl.read_csv(tmp_path / "a.csv")
    assert len(found) == 8 and found["mean"].is_finite().all()

    alone = table(tmp_path / "alone.csv", 60)
    later = tmp_path / "later.csv"
    kept = [line for line in whole.read_text().splitlines() if ",,0" in line or ",,1" in line]
    later.write_text("\n".join(["unique_id,ds,holiday", *(",".join(x.split(",")[i] for i in (0, 1, 3)) for x in kept)]))
    titans("forecast", "predict", run, alone, "--future", later, "--out", tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()

    short = table(tmp_path / "short.csv", 60, 2)
    told = " ".join(titans("forecast", "predict", run, short, "--out", tmp_path / "c.csv", code=3).stderr.split())
    assert "covariate 'holiday' stops before the horizon's end: its first missing value is of 2024-01-03 14:00" in told
    titans("forecast", "backtest", run, alone, "--windows", 3, "--out", tmp_path / "d.csv")


def test_a_model_folder_alone_knows_its_covariates(titans: Any, run: Path, tmp_path: Path) -> None:
    whole = table(tmp_path / "whole.csv", 60, 4)
    titans("forecast", "predict", run / "model", whole, "--out", tmp_path / "a.csv")
    changed = tmp_path / "changed.csv"
    changed.write_text(whole.read_text().replace(",0,north", ",none,north"))
    told = titans("forecast", "predict", run / "model", changed, "--out", tmp_path / "b.csv", code=3).stderr
    assert "load" in told


def test_irregular_rows_train_and_continue_as_they_come(titans: Any, tiny: Any, tmp_path: Path) -> None:
    given = ["--horizon", 4, "--lookback", 12, "--set", "task.patch=4", *tiny.size]
    given += ["--set", "task.reads=stream", "--set", "training.steps=2", "--quiet", "--on-gap", "keep", *COLUMNS[:2]]
    given += COLUMNS[4:]
    data, run = table(tmp_path / "train.csv", 60, odd=True), tmp_path / "run"
    titans("forecast", "train", data, "--out", run, *given)
    assert load_pretrained(str(run)).task.known == 1
    old = table(tmp_path / "old.csv", 41, odd=True)
    new = table(tmp_path / "new.csv", 60, odd=True, first=41)
    titans("forecast", "predict", run, old, "--out", tmp_path / "a.csv", "--state-out", tmp_path / "state")
    titans("forecast", "predict", run, new, "--out", tmp_path / "b.csv", "--state-in", tmp_path / "state")
    titans("forecast", "predict", run, data, "--out", tmp_path / "c.csv")
    b, c = pl.read_csv(tmp_path / "b.csv"), pl.read_csv(tmp_path / "c.csv")
    assert b["ds"].equals(c["ds"])
    np.testing.assert_allclose(b["mean"], c["mean"], rtol=1e-4, atol=1e-4)  # single precision, other cuts
