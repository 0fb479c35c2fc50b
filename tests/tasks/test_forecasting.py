"""Forecasting: scaling, missing values, quantiles, and errors against their definitions."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from titans_seq.backbone import BackboneConfig
from titans_seq.baselines import errors, season_of, seasonal_naive
from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.record import Series
from titans_seq.data.windows import SeriesWindows
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.tasks.outputs import Point, Quantiles, StudentT

CHANNELS = {"channels": ("a", "b"), "location": (5.0, -1.0), "scale": (2.0, 0.5), "frequency": "1h"}
FORMS = [
    {"mixing": mixing, "normalisation": normalisation, "pool": pool, "shortcut": shortcut, "output": output}
    for mixing, normalisation, pool, shortcut, output in [
        ("independent", "instance", "flatten", False, Quantiles()),
        ("token", "instance", "last", True, Point()),
        ("independent", "training", "last", True, Quantiles(levels=(0.1, 0.9))),
        ("token", "training", "flatten", False, Point(error="mae")),
        ("independent", "instance", "flatten", True, StudentT()),
        ("attention", "instance", "flatten", True, Quantiles()),
        ("attention", "training", "last", False, StudentT()),
    ]
]
every_form = pytest.mark.parametrize(
    "form", FORMS, ids=lambda f: f"{f['mixing']}-{f['normalisation']}-{f['output'].kind}"
)


def build(double: bool = True, **form: object) -> SequenceModel:
    torch.manual_seed(0)
    task = Forecasting(horizon=6, lookback=24, patch=8, stride=4, **{**CHANNELS, **form})
    config = BackboneConfig(width=16, heads=2, depth=1, embedding=task.embedding())
    model = SequenceModel(config, task).eval()
    return model.double() if double else model


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
    assert output.shape == (3, 6, 2, model.task.output.numbers)
    assert list(model.task.columns(output)) == model.task.names
    assert len(model.task.names) == 1 + len(model.task.output.levels)
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


@every_form
def test_a_level_takes_no_digits_from_the_steps(form):
    """In single precision too, in which 123,456,789 has no neighbour nearer than 8: forecast, loss and errors."""
    found = []
    for level in (0, 123_456_789):
        model = build(double=False, **form, location=tuple(at + level for at in CHANNELS["location"]))
        rng = np.random.default_rng(0)
        values = rng.normal(size=(60, 2)) * CHANNELS["scale"] + CHANNELS["location"] + level
        series = Series("", np.arange(60).astype("M8[h]").astype("M8[us]"), values, ("a", "b"))
        items = SeriesWindows([series], [(0, 60)], 24, 6)
        batch = to_tensors(items.collate([items.item(n, None) for n in range(len(items))]), "cpu")
        with torch.no_grad():
            output = model(batch)
        mean = model.task.columns(output)["mean"] - level
        measured = model.task.metrics(model.task.measures(output, batch))
        found.append([mean, model.task.loss(output, batch), measured["mse"], measured["mae"]])
    for moved, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-5)  # float32, and what 1e8 leaves of float64: 1e-8


def test_a_constant_window_forecasts_near_its_constant():
    model = build(output=Point())
    batch = windows()
    batch |= {"past": torch.full_like(batch["past"], 4.0), "observed": torch.ones_like(batch["observed"])}
    mean = model.task.columns(model(batch))["mean"]
    torch.testing.assert_close(mean, torch.full_like(mean, 4.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.9), (0.1, 0.5, 0.9), Quantiles().levels])
def test_quantiles_never_cross(levels):
    found = Quantiles(levels=levels).mapped(5 * torch.randn(1000, len(levels)))
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
    with pytest.raises(
        ValidationError, match=r"patches of 16 every 8 rows do not end with a look-back of 100.* 96 and 104"
    ):
        Forecasting(horizon=1, lookback=100)


# --- streams


def test_a_stream_has_defaults_of_its_own():
    task = Forecasting(horizon=1, reads="stream", patch=8)
    assert (task.stride, task.lookback, task.pool, task.normalisation) == (8, 256, "last", "running")
    assert task.causal and not Forecasting(horizon=1).causal
    assert Forecasting.model_validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stride": 4}, "needs stride equal to patch"),
        ({"pool": "flatten"}, 'pool "last"'),
        ({"shortcut": True}, "no shortcut"),
        ({"normalisation": "instance"}, "set normalisation to running or training"),
        ({"lookback": 20}, "do not end with a look-back of 20"),
        ({"reads": "window", "normalisation": "running"}, "set reads to stream"),
    ],
)
def test_what_a_stream_cannot_be(given, told):
    with pytest.raises(ValidationError, match=told):
        Forecasting(**{"horizon": 1, "reads": "stream", "patch": 8, **given})


def streaming(**form: object) -> SequenceModel:
    torch.manual_seed(0)
    task = Forecasting(horizon=6, reads="stream", lookback=24, patch=8, **CHANNELS, **form)
    return SequenceModel(BackboneConfig(width=16, heads=2, depth=1, embedding=task.embedding()), task).double().eval()


STREAMS = [
    {"mixing": "independent", "normalisation": "running", "output": Quantiles()},
    {"mixing": "token", "normalisation": "training", "output": Point()},
    {"mixing": "token", "normalisation": "running", "output": StudentT()},
    {"mixing": "attention", "normalisation": "running", "output": Quantiles()},
]
every_stream = pytest.mark.parametrize("form", STREAMS, ids=("running", "training", "student_t", "attention"))


@every_stream
def test_a_training_window_scores_what_follows_each_patch(form):
    """Against loops: rows that are seen are no target, what is missing does not count, the last patch weighs half."""
    model, batch = streaming(**form), {**windows(), "open": torch.tensor([1, 5, 8])}
    output = model(batch)
    assert output.shape == (3, 3, 8 - 1 + 6, 2, model.task.output.numbers)
    location, scale = (torch.tensor(CHANNELS[name]).double() for name in ("location", "scale"))
    rows = (torch.cat([batch["past"], batch["future"]], 1) - location) / scale
    known = torch.cat([batch["observed"], batch["future_observed"]], 1)
    total = weights = 0.0
    for b, n in np.ndindex(3, 3):
        begin, filled = 8 * n, 8 if n < 2 else int(batch["open"][b])
        for row in range(begin + filled, begin + 8 + 6):
            weight = known[b, row] * (2 if n == 2 else 1)
            total = total + (model.task.output.loss(output[b, n, row - begin - 1], rows[b, row]) * weight).sum()
            weights += weight.sum()
    loss = model.task.loss(output, batch)
    torch.testing.assert_close(loss, total / weights)
    loss.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@every_stream
def test_rows_that_are_not_yet_seen_do_not_reach_a_forecast(form):
    """No patch's forecast depends on a later row: not through the memory, not through the scaling."""
    model, batch = streaming(**form), {**windows(), "open": torch.tensor([3, 3, 3])}
    before = model(batch)
    for first in (8, 11, 19):  # the first row that changes; of the last patch 16, 17, 18 are seen
        changed = {**batch, "past": batch["past"].clone()}
        changed["past"][:, first:] += 1e3
        whole = [n for n in range(3) if min(8 * n + 8, 19) <= first]
        assert torch.equal(model(changed)[:, whole], before[:, whole])


def test_running_moments_are_those_of_the_definition():
    """A patch is brought to the mean and deviation of all rows up to its own, those of older patches for less."""
    model, batch = streaming(), windows()
    head, keep = model.head, np.exp(-8 / 24)
    scaled, running = head.scaled(batch["past"], batch["observed"], head.initial_running(3))
    x = ((batch["past"] - torch.tensor(CHANNELS["location"])) / torch.tensor(CHANNELS["scale"])).double().numpy()
    seen = batch["observed"].numpy()
    count, total, squares = (8 * np.full((3, 2), m) for m in (1.0, 0.0, 1.0))
    for n in range(3):
        rows, marks = x[:, 8 * n : 8 * n + 8], seen[:, 8 * n : 8 * n + 8]
        count = keep * count + marks.sum(1)
        total = keep * total + (rows * marks).sum(1)
        squares = keep * squares + (rows**2 * marks).sum(1)
        np.testing.assert_allclose(scaled.location[:, n].numpy(), total / count)
        np.testing.assert_allclose(scaled.scale[:, n].numpy(), np.sqrt(squares / count - (total / count) ** 2))
    np.testing.assert_allclose(running.numpy(), np.stack([count, total, squares], 1))


def test_only_training_items_of_a_stream_are_cut():
    items = SeriesWindows([series(rng_values(60))], [(0, 60)], 24, 6, open=8)
    drawn = {int(items.item(0, np.random.default_rng(seed))["open"]) for seed in range(200)}
    assert drawn == set(range(1, 9))
    assert "open" not in items.item(0, None)
    assert items.collate([items.item(i, np.random.default_rng(i)) for i in range(3)])["open"].shape == (3,)


def rng_values(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2))


def series(values: np.ndarray) -> Series:
    times = np.datetime64("2020-01-01", "us") + np.arange(len(values)) * np.timedelta64(1, "h")
    return Series("", times, values, ("a", "b"))


# --- windows, and what forecasts are measured beside


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
