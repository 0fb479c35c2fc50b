"""What one forecaster gives to other tables: zero-shot forecasts, fine-tuning in full or of the head, panels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from titans_seq.checkpoint import SequenceModel, load_pretrained
from titans_seq.data.record import Series
from titans_seq.data.windows import SeriesWindows
from titans_seq.errors import ConfigError, ModelError
from titans_seq.recipe import build
from titans_seq.training.points import LAST, load_point

READS = ["window", "stream"]


@pytest.fixture(scope="module", params=READS)
def general(request: Any, titans: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for any table, after three steps on two series of hours."""
    folder = tmp_path_factory.mktemp("general") / "run"
    given = ["--horizon", 4, "--lookback", 12, "--set", "task.patch=4", "--set", "task.stride=4", *tiny.size]
    given += ["--set", f"task.reads={request.param}", "--set", "task.zero_shot=true", "--set", "training.steps=3"]
    titans("forecast", "train", tiny.long, "--out", folder, *given, "--quiet")
    return folder


def days(file: Path, scale: float = 1, shift: float = 0, last: float = 0, count: int = 50) -> Path:
    """Two columns of days that no model was trained on; ``last`` is added to the last four rows."""
    start, rng = np.datetime64("2023-03-01"), np.random.default_rng(0)
    values = scale * (rng.normal(size=(count, 2)).cumsum(0) + np.array([100, 3])) + shift
    values[-4:] += last
    lines = [f"{start + i},{a!r},{b!r}" for i, (a, b) in enumerate(values.tolist())]
    file.write_text("\n".join(["date,sales,stock", *lines, ""]))
    return file


def test_a_model_for_any_table_takes_its_names_scale_and_step(titans: Any, general: Path, tmp_path: Path) -> None:
    titans("forecast", "predict", general, days(tmp_path / "a.csv"), "--out", tmp_path / "fa.csv")
    found = pl.read_csv(tmp_path / "fa.csv")
    assert found["unique_id"].unique(maintain_order=True).to_list() == ["sales", "stock"]
    assert found["ds"][:4].to_list() == [f"2023-04-{20 + i} 00:00:00" for i in range(4)]
    titans("forecast", "predict", general, days(tmp_path / "b.csv", 1000, 7), "--out", tmp_path / "fb.csv")
    other = pl.read_csv(tmp_path / "fb.csv")
    # the reading ends in single precision; the scale of the table is 1000 times 30
    np.testing.assert_allclose(other["mean"], 1000 * found["mean"] + 7, rtol=1e-4)
    one = ["--target", "stock", "--out", tmp_path / "fc.csv"]
    titans("forecast", "predict", general, tmp_path / "a.csv", *one)
    np.testing.assert_allclose(pl.read_csv(tmp_path / "fc.csv")["mean"], found["mean"][4:], rtol=1e-5)


def test_the_scale_of_a_backtest_is_of_rows_before_it(titans: Any, general: Path, tmp_path: Path) -> None:
    for name, last in (("a", 0.0), ("b", 500.0)):
        table = days(tmp_path / f"{name}.csv", last=last)
        titans("forecast", "backtest", general, table, "--windows", 1, "--out", tmp_path / f"f{name}.csv", "--json")
    a, b = (pl.read_csv(tmp_path / f"f{name}.csv") for name in "ab")
    assert a.drop("y").equals(b.drop("y")) and not a["y"].equals(b["y"])


def test_a_series_is_forecast_in_its_own_scale_whatever_stands_beside_it(
    titans: Any, general: Path, tmp_path: Path
) -> None:
    """Law: the forecast of a small series is that of it alone, also where another is 1,000 times larger."""
    small = np.random.default_rng(0).normal(size=40).cumsum()
    found = {}
    for name, panel in (("alone", [small]), ("beside", [1e3 * small[::-1] + 1e4, small])):
        rows = [f"{i},2023-03-01 {h // 60:02}:{h % 60:02},{y}" for i, s in enumerate(panel) for h, y in enumerate(s)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["unique_id,ds,y", *rows, ""]))
        given = ["--out", tmp_path / f"f{name}.csv", "--quiet"]
        titans("forecast", "predict", general, tmp_path / f"{name}.csv", *given)
        found[name] = pl.read_csv(tmp_path / f"f{name}.csv")["mean"][-4:].to_numpy()
    # windows are read in single precision in units of the table, here 2,000 times the series'; 4e-4 was measured
    np.testing.assert_allclose(found["beside"], found["alone"], atol=2e-3 * small.std())


def test_a_model_for_any_table_has_no_state_and_no_covariates(
    titans: Any, tiny: Any, general: Path, tmp_path: Path
) -> None:
    given = ["forecast", "predict", general, days(tmp_path / "a.csv"), "--out", tmp_path / "f.csv"]
    told = titans(*given, "--state-out", tmp_path / "state", code=5).stderr
    assert "a state of one does not go on with another" in " ".join(told.split())
    train = ["forecast", "train", tiny.wide, "--out", tmp_path / "run", "--past-only", "b", "--target", "a"]
    told = titans(*train, *tiny.forecast, "--set", "task.zero_shot=true", code=4).stderr
    assert "zero_shot is for any table" in told
    with pytest.raises(ConfigError, match="zero_shot needs channels that are read apart"):
        task = {"kind": "forecasting", "horizon": 1, "zero_shot": True, "mixing": True}
        build({"data": {"kind": "series", "path": "x.csv"}, "task": task})


def test_a_model_for_any_table_is_no_predictor_of_entries(general: Path) -> None:
    from titans_seq.gluonts import predictor_of

    with pytest.raises(ModelError, match="takes its scale from a table"):
        predictor_of(general)


# --- fine-tuning


def tuned(titans: Any, general: Path, table: Path, out: Path, *given: Any, code: int = 0) -> str:
    options = ["--backbone", general, "--out", out, "--set", "training.steps=1", "--threads", 1, *given]
    return " ".join(titans("forecast", "train", table, *options, code=code).stderr.split())


def test_fine_tuning_takes_over_what_fits_and_says_so(titans: Any, tiny: Any, general: Path, tmp_path: Path) -> None:
    still = ["--set", "training.learning_rate=1e-30", "--set", "training.weight_decay=0"]
    told = tuned(titans, general, tiny.wide, tmp_path / "same", "--horizon", 4, *still)
    assert "taken over: blocks, patch embedding, forecast layer; begins anew: nothing (channels y there, a, b" in told
    before, after = (load_pretrained(str(run)) for run in (general, tmp_path / "same"))
    for name, weights in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], weights), name
    told = tuned(titans, general, days(tmp_path / "a.csv", count=90), tmp_path / "other", "--horizon", 7, *still)
    assert "taken over: blocks, patch embedding; begins anew: forecast layer (horizon 4 there, 7 here" in told
    assert "frequency 1h there, 1d here" in told
    columns = ["--target", "a", "--past-only", "b"]
    told = tuned(titans, general, tiny.wide, tmp_path / "more", "--horizon", 4, *still, *columns)
    assert "taken over: blocks; begins anew: patch embedding, forecast layer" in told and "none there, b here" in told
    blocks = {n: w for n, w in load_pretrained(str(tmp_path / "more")).state_dict().items() if ".blocks." in n}
    assert blocks and all(torch.equal(w, before.state_dict()[n]) for n, w in blocks.items())


def test_attention_over_variates_goes_on_with_other_channels(titans: Any, tiny: Any, tmp_path: Path) -> None:
    """Trained on two channels, calibrated and tested; then on three of another table, forecast layer included."""
    run, size = tmp_path / "run", ["--horizon", 4, "--lookback", 12, "--set", "task.patch=4", "--set", "task.stride=4"]
    size += ["--set", "training.steps=2", "--quiet", *tiny.size, "--set", "task.mixing=attention", "--conformal", 80]
    titans("forecast", "train", tiny.wide, "--out", run, *size)
    backtest = ["--windows", 3, "--out", tmp_path / "back.csv", "--json"]
    assert json.loads(titans("forecast", "backtest", run, tiny.wide, *backtest).stdout)["model"]["mse"] > 0
    assert pl.read_csv(tmp_path / "back.csv")["hi-80"].is_finite().all()
    head, *rows = days(tmp_path / "two.csv", count=90).read_text().splitlines()
    three = tmp_path / "three.csv"
    three.write_text("\n".join([f"{head},more", *(f"{row},{n % 7}" for n, row in enumerate(rows)), ""]))
    told = tuned(titans, run, three, tmp_path / "other", "--horizon", 4)
    assert "forecast layer; begins anew: nothing (channels a, b there, sales, stock, more here" in told
    assert load_pretrained(str(tmp_path / "other")).task.mixing == "attention"


def test_fine_tuning_hands_on_nothing_worse_than_it_began_with(
    titans: Any, tiny: Any, general: Path, tmp_path: Path
) -> None:
    wild = ["--set", "training.learning_rate=10", "--set", "training.validate_every=1"]
    tuned(titans, general, tiny.wide, tmp_path / "wild", "--horizon", 4, *wild)
    first, last = pl.read_csv(tmp_path / "wild" / "metrics.csv").iter_rows(named=True)
    assert (first["step"], last["step"]) == (0, 1) and first["validation_loss"] < last["validation_loss"]
    before, after = (load_pretrained(str(run)).state_dict() for run in (general, tmp_path / "wild"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    kept = json.loads((tmp_path / "wild" / "manifest.json").read_text())["result"]["validation"]
    assert (kept["step"], kept["loss"]) == (0, first["validation_loss"])
    tuned(titans, general, tiny.wide, tmp_path / "anew", "--horizon", 7, *wild)  # whose forecast layer knows nothing
    assert pl.read_csv(tmp_path / "anew" / "metrics.csv")["step"].to_list() == [1]


def test_the_head_alone(titans: Any, tiny: Any, general: Path, tmp_path: Path) -> None:
    head = ["--set", "training.freeze=true"]
    tuned(titans, general, tiny.wide, tmp_path / "head", "--horizon", 4, *head)
    before = load_pretrained(str(general)).state_dict()
    after = load_point(tmp_path / "head" / "checkpoints" / LAST)["model"]
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("backbone.")}
    columns = ["--target", "a", "--past-only", "b"]
    told = tuned(titans, general, tiny.wide, tmp_path / "no", "--horizon", 4, *head, *columns, code=4)
    assert "training.freeze trains the head alone" in told and not (tmp_path / "no").exists()


def test_what_cannot_be_started_from_is_refused(
    titans: Any, tiny: Any, models: Any, general: Path, tmp_path: Path
) -> None:
    told = tuned(titans, models.language, tiny.wide, tmp_path / "a", *tiny.forecast, code=5)
    assert "cannot be used here" in told
    told = tuned(titans, general, tiny.wide, tmp_path / "b", "--horizon", 4, "--set", "backbone.depth=2", code=5)
    assert "depth 1 there, 2 here" in told


# --- panels


def test_short_series_are_left_out_and_counted(titans: Any, tiny: Any, tmp_path: Path) -> None:
    rows = tiny.long.read_text().splitlines()
    short = [row.replace("x,", "z,", 1) for row in rows if row.startswith("x,")][:9]
    table = tmp_path / "panel.csv"
    table.write_text("\n".join([*rows, *short, ""]))
    run = tmp_path / "run"
    told = titans("forecast", "train", table, "--out", run, *tiny.forecast, "--set", "training.steps=1", "--json")
    assert "not trained on: 1 of 3; their training rows are fewer than the 16 of a window" in told.stderr
    whole = titans("forecast", "train", tiny.long, "--out", tmp_path / "w", *tiny.forecast, "--dry-run", "--json")
    assert json.loads(told.stdout)["training_items"] == json.loads(whole.stdout)["training_items"]


def test_a_series_that_hardly_moves_beside_the_others_is_told(titans: Any, tiny: Any, tmp_path: Path) -> None:
    rows = pl.read_csv(tiny.long)
    numbers = [pl.col(name) * 1e6 for name, kind in rows.schema.items() if kind.is_numeric()]
    large = rows.with_columns(*numbers, pl.lit("large").alias(rows.columns[0]))
    pl.concat([rows.cast(dict.fromkeys(large.columns, pl.String)), large.cast(pl.String)]).write_csv(
        table := tmp_path / "panel.csv"
    )
    given = ("forecast", "train", table, "--out", tmp_path / "run", *tiny.forecast, "--dry-run")
    told = titans(*given, "--on-duplicate", "last").stderr
    assert "series that move by less than 0.001 of the table's deviation" in told and "2 of 3, first 'x'" in told


def test_every_series_is_drawn_as_often_as_another() -> None:
    def of(count: int) -> Series:
        times = np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(1, "h")
        return Series(str(count), times, np.full((count, 1), float(count)), ("y",))

    series = [of(30), of(300), of(20)]
    items = SeriesWindows(series, [(0, 30), (0, 300), (0, 10)], 8, 4, balanced=True)
    drawn = [float(items.item(0, np.random.default_rng(seed))["past"][0, 0]) for seed in range(400)]
    assert set(drawn) == {30.0, 300.0}  # the third has no window
    assert 150 < drawn.count(30.0) < 250  # within five standard deviations of half
    assert items.item(0, None)["past"][0, 0] == 30.0


def test_a_model_of_one_table_keeps_its_channels(tiny: Any, models: Any) -> None:
    model = load_pretrained(str(models.wide))
    assert isinstance(model, SequenceModel) and not model.task.zero_shot and model.task.channels == ("a", "b")
