"""Forecasting: scaling, missing values, quantiles, and errors against their definitions."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from titans_seq.backbone import BackboneConfig
from titans_seq.baselines import errors, season_of, seasonal_naive
from titans_seq.checkpoint import SequenceModel
from titans_seq.data.record import Series
from titans_seq.data.windows import SeriesWindows
from titans_seq.tasks.forecasting import Forecasting, Point, Quantiles

CHANNELS = {"channels": ("a", "b"), "location": (5.0, -1.0), "scale": (2.0, 0.5), "frequency": "1h"}
FORMS = [
    {"mixing": mixing, "normalisation": normalisation, "pool": pool, "shortcut": shortcut, "output": output}
    for mixing, normalisation, pool, shortcut, output in [
        (False, "instance", "flatten", False, Quantiles()),
        (True, "instance", "last", True, Point()),
        (False, "training", "last", True, Quantiles(levels=(0.1, 0.9))),
        (True, "training", "flatten", False, Point(error="mae")),
    ]
]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f['normalisation']}-{f['pool']}")


def build(**form: object) -> SequenceModel:
    torch.manual_seed(0)
    task = Forecasting(horizon=6, lookback=24, patch=8, stride=4, **CHANNELS, **form)
    config = BackboneConfig(width=16, heads=2, depth=1, embedding=task.embedding())
    return SequenceModel(config, task).double().eval()


def windows(B: int = 3) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    scale, location = torch.tensor(CHANNELS["scale"]).double(), torch.tensor(CHANNELS["location"]).double()
    past, future = (torch.randn(B, n, 2, generator=g).double() * scale + location for n in (24, 6))
    seen = [torch.rand(B, n, 2, generator=g) > 0.2 for n in (24, 6)]
    return {"past": past, "observed": seen[0], "future": future, "future_observed": seen[1]}


@every_form
def test_shapes_columns_and_a_gradient_in_every_parameter(form):
    model = build(**form)
    output = model(windows())
    levels = len(model.task.output.levels)
    assert output.shape == (3, 6, 2, levels)
    assert len(model.task.columns(output)) == (1 if levels == 1 else 1 + levels)
    model.task.loss(output, windows()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@every_form
def test_a_missing_value_is_not_read(form):
    batch = windows()
    changed = {**batch, "past": batch["past"].where(batch["observed"], 1e6)}
    torch.testing.assert_close(build(**form)(changed), build(**form)(batch))


@every_form
def test_an_unobserved_future_is_not_scored(form):
    model, batch = build(**form), windows()
    changed = {**batch, "future": batch["future"].where(batch["future_observed"], 1e6)}
    output = model(batch)
    assert model.task.loss(output, changed) == model.task.loss(output, batch)
    a, b = (model.task.metrics(model.task.measures(output.detach(), x)) for x in (changed, batch))
    assert a == pytest.approx(b)


def test_instance_normalisation_moves_with_the_window():
    """Shifting and stretching the past does so to the forecast: reversible normalisation."""
    model, batch = build(output=Point()), windows()
    batch["observed"] = torch.ones_like(batch["observed"])
    moved = {**batch, "past": 3 * batch["past"] + 7}
    before, after = (model.task.columns(model(x))["mean"] for x in (batch, moved))
    # the floor under a window's deviation leaves 1e-10 of its square
    torch.testing.assert_close(after, 3 * before + 7, rtol=1e-5, atol=1e-5)


def test_a_constant_window_forecasts_near_its_constant():
    model = build(output=Point())
    batch = windows()
    batch |= {"past": torch.full_like(batch["past"], 4.0), "observed": torch.ones_like(batch["observed"])}
    mean = model.task.columns(model(batch))["mean"]
    torch.testing.assert_close(mean, torch.full_like(mean, 4.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.9), (0.1, 0.5, 0.9), Quantiles().levels])
def test_quantiles_never_cross(levels):
    found = Quantiles(levels=levels).ordered(5 * torch.randn(1000, len(levels)))
    assert (found.diff(dim=-1) >= 0).all()


def test_the_pinball_loss_is_least_at_the_quantile():
    sample = torch.randn(20_001, generator=torch.Generator().manual_seed(0))
    head, guesses = Quantiles(levels=(0.2,)), torch.linspace(-3, 3, 601)
    losses = torch.stack([head.loss(g.expand(len(sample), 1), sample).mean() for g in guesses])
    assert abs(guesses[losses.argmin()] - sample.quantile(0.2)) <= 0.01  # the step between guesses


def test_metrics_are_those_of_the_definition():
    model, batch = build(output=Point()), windows()
    output = model(batch).detach()
    found = model.task.metrics(model.task.measures(output, batch))
    location, scale = (np.array(CHANNELS[name]) for name in ("location", "scale"))
    error = (output[..., 0].numpy() - (batch["future"].numpy() - location) / scale)[batch["future_observed"].numpy()]
    assert found["mse"] == pytest.approx((error**2).mean())
    assert found["mae"] == pytest.approx(np.abs(error).mean())


def test_patches_must_end_with_the_window():
    with pytest.raises(ValidationError, match=r"patches of 16 every 8 rows do not end with a look-back of 100"):
        Forecasting(horizon=1, lookback=100)


def series(values: np.ndarray) -> Series:
    times = np.datetime64("2020-01-01", "us") + np.arange(len(values)) * np.timedelta64(1, "h")
    return Series("", times, values, ("a", "b"))


def test_seasonal_naive_repeats_the_last_season_and_looks_further_back_where_it_is_missing():
    day = np.arange(24.0)
    values = np.tile(np.stack([day, -day], 1), (4, 1))
    values[50] = np.nan  # hour 2 of the third day
    items = SeriesWindows([series(values)], [(72, 96)], 24, 24)
    (found,) = seasonal_naive(items, 24)
    assert np.array_equal(found, np.stack([day, -day], 1))
    task = Forecasting(horizon=24, lookback=24, patch=8, stride=8, **CHANNELS)
    assert errors(task, items, found[None]) == {"mse": 0.0, "mae": 0.0}


@pytest.mark.parametrize(
    ("frequency", "season"), [("1h", 24), ("15m", 96), ("10m", 144), ("1d", 7), ("1w", 52), ("1mo", 12)]
)
def test_season_of_a_frequency(frequency, season):
    assert season_of(frequency) == season


def test_windows_hold_every_origin_between_their_borders():
    values = np.arange(200.0).reshape(100, 2)
    items = SeriesWindows([series(values), series(values[:40])], [(0, 100), (30, 40)], 24, 6)
    assert len(items) == (100 - 6 - 24 + 1) + (40 - 6 - 30 + 1)
    assert items.place(len(items) - 1) == (1, 34)
    item = items.item(0, None)
    assert np.array_equal(item["past"][:, 0], values[:24, 0]) and np.array_equal(item["future"][:, 0], values[24:30, 0])
