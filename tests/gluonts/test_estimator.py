"""TitansEstimator and its predictors, held to what GluonTS' own tools expect, on a sample of real series."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from gluonts.dataset.split import split
from gluonts.ev.metrics import MASE, MeanWeightedSumQuantileLoss
from gluonts.evaluation import make_evaluation_predictions
from gluonts.model import Predictor, evaluate_model
from gluonts.torch import PatchTSTEstimator

from titans_seq import forecast
from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel, save_pretrained
from titans_seq.errors import ConfigError, InputError, ModelError
from titans_seq.gluonts import TitansEstimator, TitansPredictor, from_frame, predictor_of, to_frame
from titans_seq.gluonts.estimator import TitansModule, fitted
from titans_seq.resources import find
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.tasks.outputs import OUTPUTS
from titans_seq.training.config import Training

H, L = 6, 24
BACKBONE = {"width": 16, "depth": 1, "heads": 2, "block": {"kind": "lmm"}}
SIZE = {"patch": 6, "stride": 6}
ONCE = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def estimator(**options: Any) -> TitansEstimator:
    given = {"task": SIZE, "backbone": BACKBONE, "batch_size": 8, "num_batches_per_epoch": 3, "trainer_kwargs": ONCE}
    return TitansEstimator(prediction_length=H, context_length=L, **(given | options))


def entry(target: Any, **fields: Any) -> dict[str, Any]:
    return {"item_id": "a", "start": pd.Period("2024-01-01", freq="h"), "target": target, **fields}


@pytest.fixture(scope="module")
def weather() -> list[dict[str, Any]]:
    """The last 600 hours of four columns, in double precision, with 40 hours taken out."""
    wide = pl.read_csv(find("datasets", "new_york_weather") / "weather.csv.gz", try_parse_dates=True)
    long = wide.unpivot(index="date", variable_name="unique_id", value_name="y").rename({"date": "ds"})
    out = pl.col("ds").is_between(pl.datetime(2013, 12, 10), pl.datetime(2013, 12, 11, 15))
    entries = from_frame(long.filter(~out), "h")
    return [
        {**one, "target": one["target"][-600:], "start": one["start"] + len(one["target"]) - 600} for one in entries
    ]


@pytest.fixture(scope="module")
def trained(weather: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[str]]:
    """A predictor that was trained in an empty folder, and what was in that folder afterwards."""
    folder, here = tmp_path_factory.mktemp("empty"), Path.cwd()
    os.chdir(folder)
    try:
        torch.manual_seed(0)
        return estimator(num_batches_per_epoch=20).train(split(weather, offset=-48)[0]), os.listdir(folder)
    finally:
        os.chdir(here)


def test_the_sample_has_what_these_tests_are_about(weather: list[dict[str, Any]]) -> None:
    assert len(weather) == 4 and all(one["target"].dtype == np.float64 for one in weather)
    assert all(np.isnan(one["target"]).sum() == 40 for one in weather)


def test_training_writes_nothing_into_the_folder_it_runs_in(trained: tuple[Any, list[str]]) -> None:
    assert trained[1] == []


def test_gluonts_own_evaluations_take_it_as_they_take_patchtst(
    trained: tuple[Any, list[str]], weather: list[dict[str, Any]], tmp_path: Path
) -> None:
    peer = PatchTSTEstimator(
        prediction_length=H,
        context_length=L,
        patch_len=6,
        d_model=8,
        nhead=2,
        dim_feedforward=16,
        num_encoder_layers=1,
        batch_size=8,
        num_batches_per_epoch=3,
        trainer_kwargs=ONCE | {"default_root_dir": str(tmp_path), "logger": False},
    )
    single = [{**one, "target": one["target"].astype(np.float32)} for one in weather]  # it stops at double precision
    training, test = split(single, offset=-48)
    windows = test.generate_instances(prediction_length=H, windows=3)
    found = {}
    for name, predictor, data in (("ours", trained[0], weather), ("patchtst", peer.train(training), single)):
        metrics = [MASE(), MeanWeightedSumQuantileLoss(LEVELS)]
        found[name] = evaluate_model(predictor, test_data=windows, metrics=metrics, seasonality=24)
        assert np.isfinite(found[name].to_numpy()).all()
        forecasts, truths = make_evaluation_predictions(dataset=data, predictor=predictor, num_samples=10)
        assert [one.item_id for one in forecasts] == [one["item_id"] for one in weather]
        assert len(list(truths)) == len(weather)
    assert list(found["ours"]) == list(found["patchtst"])
    assert found["ours"]["mean_weighted_sum_quantile_loss"][None] < 0.5  # of a forecast of zeros it is 1


def test_quantiles_do_not_cross_and_become_a_frame(
    trained: tuple[Any, list[str]], weather: list[dict[str, Any]]
) -> None:
    forecasts, truths = make_evaluation_predictions(dataset=weather, predictor=trained[0])
    table = to_frame(forecasts, truths)
    assert list(table) == ["unique_id", "ds", "cutoff", "y", "mean", *(f"q{level:g}" for level in LEVELS)]
    assert len(table) == len(weather) * H
    assert (np.diff(table.filter(regex="^q").to_numpy(), axis=1) > 0).all()
    np.testing.assert_array_equal(table["y"], np.concatenate([one["target"][-H:] for one in weather]))


@pytest.mark.parametrize("kind", ["trained", "stream"])
def test_a_saved_predictor_forecasts_the_same(
    kind: str, trained: tuple[Any, list[str]], weather: list[dict[str, Any]], tmp_path: Path
) -> None:
    predictor = trained[0] if kind == "trained" else TitansPredictor.of(a_model("stream", ("y",)))
    predictor.serialize(tmp_path)
    assert not list(tmp_path.rglob("*.pt")), "no pickle leaves"
    again = Predictor.deserialize(tmp_path)
    assert again == predictor
    for one, other in zip(predictor.predict(weather), again.predict(weather), strict=True):
        np.testing.assert_array_equal(one.forecast_array, other.forecast_array)
        assert (one.start_date, one.item_id, one.forecast_keys) == (
            other.start_date,
            other.item_id,
            other.forecast_keys,
        )


def a_model(reads: str, channels: tuple[str, ...], **fields: Any) -> SequenceModel:
    location, scale = (tuple(v + c for c in range(len(channels))) for v in (1.0, 2.0))
    sizes = {"lookback": L, "patch": 6} | ({"stride": 6} if reads == "window" else {})
    known = {"channels": channels, "location": location, "scale": scale, "frequency": "1h"}
    task = Forecasting.model_validate({"horizon": H, "reads": reads, **sizes, **known, **fields})
    torch.manual_seed(1)
    backbone = BackboneConfig.model_validate(BACKBONE).model_copy(update={"embedding": task.embedding()})
    return SequenceModel(backbone, task).eval()


@pytest.mark.parametrize("reads", ["window", "stream"])
@pytest.mark.parametrize(
    ("channels", "mixing"),
    [(("a",), "independent"), (("a", "b"), "independent"), (("a", "b"), "attention")],
    ids=["one", "two", "attention"],
)
def test_a_run_and_its_predictor_forecast_the_same(
    reads: str, channels: tuple[str, ...], mixing: str, tmp_path: Path
) -> None:
    model = a_model(reads, channels, mixing=mixing)
    target = np.random.default_rng(2).normal(size=(len(channels), 60)).round(3)
    target[:, 40] = np.nan
    times = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 3, 11), "1h", eager=True)
    pl.DataFrame({"date": times, **dict(zip(channels, target, strict=True))}).write_csv(tmp_path / "table.csv")
    save_pretrained(model, tmp_path / "saved")
    predictor = predictor_of(tmp_path / "saved")
    (ours,) = predictor.predict([entry(target if len(channels) > 1 else target[0])])
    (tmp_path / "folder").mkdir()
    predictor.serialize(tmp_path / "folder")  # a predictor's folder is a model to our own command as well
    for source in ("saved", "folder"):
        out = tmp_path / f"{source}.csv"
        forecast.predict(str(tmp_path / source), str(tmp_path / "table.csv"), out, device="cpu", threads=1)
        rows = pl.read_csv(out).select("mean", *(f"q{level:g}" for level in LEVELS)).to_numpy()
        expected = rows.reshape(len(channels), H, -1).transpose(2, 1, 0)
        array = ours.forecast_array.reshape(expected.shape)
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)  # single precision, written as text
    assert ours.start_date == pd.Period("2024-01-03 12:00", freq="h")


def test_one_estimator_trains_twice_and_keeps_its_callbacks() -> None:
    from lightning.pytorch.callbacks import Callback

    class Counted(Callback):
        runs = 0

        def on_train_start(self, *_: Any) -> None:
            self.runs += 1

    counted = Counted()
    ours = estimator(trainer_kwargs=ONCE | {"callbacks": [counted]}, num_batches_per_epoch=1)
    hours = np.sin(np.arange(80) / 4)
    one = ours.train([entry(hours)])
    two = ours.train([entry(np.stack([hours, 100 * hours]))], validation_data=[entry(np.stack([hours, hours]))])
    assert counted.runs == 2
    assert [len(predictor.model.task.channels) for predictor in (one, two)] == [1, 2]
    (found,) = two.predict([entry(np.stack([hours, hours]))])
    assert found.forecast_array.shape == (10, H, 2)
    assert ours.train_from(one, [entry(hours)]).model.task.channels == ("y",)


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_epochs": 9, "max_steps": 4}])
def test_the_rate_falls_over_the_steps_that_are_taken(limits: dict[str, int]) -> None:
    """Batches that are accumulated are one step: 2 of the 4 of an epoch."""
    from lightning.pytorch.callbacks import Callback

    rates = []

    class Noted(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    given = ONCE | limits | {"accumulate_grad_batches": 2, "callbacks": [Noted()]}
    estimator(trainer_kwargs=given, num_batches_per_epoch=4).train([entry(np.sin(np.arange(80) / 4))])
    training = Training()
    assert len(rates) == 8 and rates[-1] == pytest.approx(training.rate(4, 4) / training.learning_rate * 3e-3)


def test_channels_that_attend_to_each_other_are_trained() -> None:
    ours = estimator(task={**SIZE, "mixing": "attention"}, num_batches_per_epoch=2)
    own, one, other = np.sin(np.arange(80) / 4), np.cos(np.arange(80) / 4), np.cos(np.arange(80))
    predictor = ours.train([entry(np.stack([own, one]))])
    found = [next(predictor.predict([entry(np.stack([own, x]))])).forecast_array for x in (one, other)]
    assert found[0].shape == (10, H, 2) and not np.allclose(found[0][..., 0], found[1][..., 0])


def test_a_stream_is_trained_and_read_to_its_first_row() -> None:
    ours = estimator(task={"reads": "stream", "patch": 6}, num_batches_per_epoch=2)
    values = np.random.default_rng(0).normal(size=200)
    predictor = ours.train([entry(values)])
    changed = values.copy()
    changed[:6] += 5  # far before the look-back
    one, other = (next(predictor.predict([entry(v)])).forecast_array for v in (values, changed))
    assert np.isfinite(one).all() and (one != other).any()


def test_a_point_forecast_is_its_own_median_and_its_intervals_are_quantiles() -> None:
    margins = (((1.0,),) * H, ((3.0,),) * H)
    calibrated = {"output": {"kind": "point"}, "conformal": (80, 95), "margins": margins}
    (found,) = TitansPredictor.of(a_model("window", ("y",), **calibrated)).predict([entry(np.arange(50.0))])
    np.testing.assert_array_equal(found.mean, found.quantile(0.5))
    for level, ends in {0.1: -1, 0.9: 1, 0.025: -3, 0.975: 3}.items():
        np.testing.assert_allclose(found.quantile(level), found.mean + 2.0 * ends)  # the scale is 2


def test_quantiles_of_a_distribution_are_given() -> None:
    predictor = TitansPredictor.of(a_model("window", ("y",), output={"kind": "student_t", "levels": (0.05, 0.5, 0.9)}))
    (found,) = predictor.predict([entry(np.arange(50.0))])
    assert found.forecast_keys == ["mean", "0.05", "0.5", "0.9"]
    assert (np.diff(found.forecast_array[1:], axis=0) > 0).all()


def test_what_a_short_series_lacks_is_not_observed() -> None:
    predictor = TitansPredictor.of(a_model("window", ("y",)))
    rows = np.random.default_rng(0).normal(size=10)
    padded = np.concatenate([np.full(L - 10, np.nan), rows])
    short, long = (next(predictor.predict([entry(v)])).forecast_array for v in (rows, padded))
    np.testing.assert_array_equal(short, long)


@pytest.mark.parametrize("kind", OUTPUTS, ids=lambda kind: kind.__name__)
def test_loss_does_not_depend_on_the_units_of_a_series(kind: type) -> None:
    module = TitansModule(a_model("window", ("y",), output=kind()), Training(), 1)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(1, L + H)).astype(np.float32))

    def loss(values: torch.Tensor) -> torch.Tensor:
        parts = {"past_target": values[:, :L], "future_target": values[:, L:]}
        seen = {"past_observed_values": torch.ones(1, L), "future_observed_values": torch.ones(1, H)}
        return module._loss(parts | seen, train=False)

    torch.testing.assert_close(loss(1000 * rows - 500), loss(rows), rtol=1e-3, atol=1e-4)  # 1e-7 of 1,000, and sums


def test_scaling_is_that_of_a_typical_series() -> None:
    task = Forecasting(horizon=2)
    data = [entry([0.0, 2.0, np.nan, 1.0]), entry([10.0, 14.0, 12.0]), entry([1e6, 3e6, 2e6]), entry([np.nan] * 9)]
    found = fitted(task, data)
    assert (found.channels, found.frequency, found.location) == (("y",), "1h", (12.0,))
    assert found.scale == pytest.approx((np.std([10, 14, 12]),))
    assert fitted(task, [entry(np.full((2, 9), 7.0))]).scale == (1.0, 1.0)


def test_covariates_are_told_once_to_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    predictor = TitansPredictor.of(a_model("window", ("y",)))
    more = {"feat_dynamic_real": np.zeros((1, 56)), "feat_static_cat": np.array([1])}
    with caplog.at_level(logging.WARNING, "titans_seq"):
        assert len(list(predictor.predict([entry(np.arange(50.0), **more)] * 3))) == 3
    told = [record.message for record in caplog.records if record.name == "titans_seq"]
    assert len(told) == 1 and "feat_dynamic_real, feat_static_cat is not read" in told[0]


def test_another_frequency_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    predictor = TitansPredictor.of(a_model("stream", ("y",)))
    with caplog.at_level(logging.WARNING, "titans_seq"):
        list(predictor.predict([entry(np.arange(50.0), start=pd.Period("2024-01-01", freq="15min"))] * 2))
    told = [record.message for record in caplog.records if record.name == "titans_seq"]
    assert told == ["Entry 'a' has one row every 15m, the model was trained on 1h: expect less of its forecasts."]


@pytest.mark.parametrize("reads", ["window", "stream"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([1.0, np.inf, 2.0], "Entry 'a': row 2 is infinite"),
        ([1.0, 2.0, -1e308], "row 3 is infinite or beyond 3e38"),
        (np.zeros((2, 50)), r"has a target of shape \(2, 50\); the model reads \(T,\)"),
    ],
)
def test_what_it_cannot_read_is_refused_by_name(reads: str, target: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(TitansPredictor.of(a_model(reads, ("y",))).predict([entry(target)]))


def test_data_without_a_whole_window_are_refused() -> None:
    with pytest.raises(InputError, match="longest series has 6 rows; 7 are needed"):
        estimator().train([entry(np.arange(6.0))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": {"wdith": 3}}, "wdith: unknown key"),
        ({"task": {"patch": 5, "stride": 5}}, "do not end with a look-back of 24"),
        ({"task": {**SIZE, "conformal": [80]}}, "calibrates no intervals"),
        ({"backbone": {"width": 7}}, "width 7 must be a multiple"),
        ({"backbone": {**BACKBONE, "direction": "both"}, "task": {"reads": "stream", "patch": 6}}, "causal backbone"),
        ({"backbone": "series_tyni"}, "Did you mean series_tiny"),
        ({"lr": -1.0}, "learning_rate: input should be greater than 0"),
    ],
)
def test_a_bad_setting_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimator(**options)


def test_without_gluonts_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['gluonts'] = None; import titans_seq.gluonts"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: titans_seq.gluonts needs GluonTS: pip install 'titans-seq[gluonts]'" in done.stderr


def test_only_a_forecaster_becomes_a_predictor() -> None:
    with pytest.raises(ModelError, match="dna_small is a model for"):
        predictor_of("dna_small")
