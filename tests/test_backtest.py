"""Backtests: the numbers are those of the file, no forecast knows what came after, and a stopped one goes on."""

import gzip
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from titans_seq import backtest, baselines
from titans_seq.data.record import Series
from titans_seq.stream import Steps


@pytest.fixture(scope="module")
def run(titans: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two columns whose last 20 rows it has not seen."""
    folder = tmp_path_factory.mktemp("backtest") / "run"
    given = ["--conformal", "60", "--set", "data.test=20", "--set", "data.validation=12", "--set", "training.steps=2"]
    titans("forecast", "train", tiny.wide, "--out", folder, *tiny.forecast, *given, "--quiet")
    return folder


@pytest.fixture(autouse=True)
def no_statistical_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results alike with and without the extra; the one test that wants it asks for it."""
    monkeypatch.setattr(baselines, "has_statistical_model", lambda: False)


def measured(titans: Any, *arguments: Any) -> dict[str, Any]:
    return json.loads(titans("forecast", "backtest", *arguments, "--json").stdout)


def test_scores_are_those_of_the_rows_that_were_written(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.csv"
    found = measured(titans, run, tiny.wide, "--windows", 6, "--step", 3, "--out", out, "--quantiles", "0.1,0.5,0.9")
    assert json.loads((tmp_path / "b.json").read_text()) == found
    rows = pl.read_csv(out)
    assert rows.columns == ["unique_id", "ds", "cutoff", "y", "mean", "q0.1", "q0.5", "q0.9", "lo-60", "hi-60"]
    assert len(rows) == found["rows"] == 6 * 4 * 2
    assert rows["cutoff"].n_unique() == found["protocol"]["windows"] == 6
    assert (found["protocol"]["first_cutoff"], found["protocol"]["last_cutoff"]) == (
        rows["cutoff"].min(),
        rows["cutoff"].max(),
    )
    task = json.loads((run / "model" / "task.json").read_text())
    scale = rows["unique_id"].replace_strict(dict(zip(task["channels"], task["scale"], strict=True)))
    error = (rows["y"] - rows["q0.5"]).abs()
    assert found["model"]["mse"] == pytest.approx(((error / scale) ** 2).mean())
    assert found["model"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    for band, (low, high) in {"80": ("q0.1", "q0.9"), "conformal_60": ("lo-60", "hi-60")}.items():
        inside = rows["y"].is_between(rows[low], rows[high]).mean()
        assert found["model"][f"coverage_{band}"] == pytest.approx(inside)
    own = rows.with_columns(error=error).group_by("unique_id", maintain_order=True).agg(pl.col("error").mean())
    for part, (id, mean) in zip(found["series"], own.iter_rows(), strict=True):
        assert part["unique_id"] == id and part["model"]["mae_original"] == pytest.approx(mean)
    first = rows.with_columns(error=error / scale).filter(pl.col("ds") == pl.col("ds").min().over("cutoff"))
    assert found["steps"]["model"]["mae"][0] == pytest.approx(first["error"].mean())
    assert found["skill"]["seasonal_naive"]["mse"] == pytest.approx(
        1 - found["model"]["mse"] / found["seasonal_naive"]["mse"]
    )
    assert found["protocol"]["seen_in_training"] == 0 == found["protocol"]["dropped"]


def test_other_horizons_are_cut_or_rolled(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    """Law: from one cutoff all horizons tell the same of the rows that they share with a forecast of their own."""
    files = {horizon: tmp_path / f"{horizon}.csv" for horizon in (2, 4, 6)}
    for horizon, file in files.items():
        given = ["--windows", 3, "--step", 2, "--horizon", horizon, "--out", file, "--quantiles", "0.5"]
        found = measured(titans, run, tiny.wide, *given)
        assert found["protocol"]["horizon"] == horizon == len(found["steps"]["model"]["mae"])
        assert found["rows"] == 3 * horizon * 2
    own = pl.read_csv(files[4])
    for horizon in (2, 6):
        both = own.join(pl.read_csv(files[horizon]), on=["unique_id", "ds", "cutoff"], suffix="_other")
        assert len(both) == 2 * min(horizon, 4) * 2  # two columns; of three cutoffs the last ends with the table
        np.testing.assert_allclose(both["q0.5"], both["q0.5_other"], rtol=1e-6)


def test_the_table_says_the_protocol_and_how_to_get_the_statistical_model(
    titans: Any, tiny: Any, run: Path, tmp_path: Path
) -> None:
    told = titans("forecast", "backtest", run, tiny.wide, "--windows", 2, "--out", tmp_path / "b.parquet").stdout
    for words in (
        "look-back 12 rows, horizon 4, 2 windows every 4 rows, none dropped",
        "refit never, season 24",
        "training standard deviations (mean and deviation of each column's training rows",
        "skill over seasonal naive",
        "conformal 60",
        "pip install 'titans-seq[stats]'",
    ):
        assert words in told, told


def test_windows_that_were_trained_on_are_told(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    done = titans("forecast", "backtest", run, tiny.wide, "--windows", 10, "--out", tmp_path / "b.csv", "--json")
    assert json.loads(done.stdout)["protocol"]["seen_in_training"] == 5  # the last five stand in the 20 held-out rows
    assert "trained or chosen on: 5 of 10" in done.stderr and "data.test" in done.stderr


def test_rows_that_were_trained_on_are_known_in_another_file(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    """Law: what was seen does not depend on how a table is packed or goes on; another series has not been seen."""
    text = tiny.wide.read_text()
    packed, longer, other = tmp_path / "a.csv.gz", tmp_path / "b.csv", tmp_path / "c.csv"
    packed.write_bytes(gzip.compress(text.encode()))
    longer.write_text(text + "2024-01-04 08:00:00,1,1\n")
    head, *rows = text.splitlines()
    other.write_text(
        "\n".join([head, *(f"{row.partition(',')[0]},{n % 11}.3,{n % 9}.7" for n, row in enumerate(rows))])
    )
    for table, seen in ((packed, 5), (longer, 5), (other, 0)):
        found = measured(titans, run, table, "--windows", 10, "--out", tmp_path / "out.csv", "--overwrite")
        assert found["protocol"]["seen_in_training"] == seen, table


def test_rows_that_the_model_began_from_were_seen(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    recipe = ["run", run / "recipe.yaml", "--set", f"start_from={run}", "--set", "data.test=40", "--out", later]
    titans(*recipe, "--quiet")
    found = measured(titans, later, tiny.wide, "--windows", 10, "--out", tmp_path / "out.csv")
    assert found["protocol"]["seen_in_training"] == 5


def test_what_cannot_be_known_is_not_said(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    moved, alone = shutil.copytree(run, tmp_path / "moved"), shutil.copytree(run / "model", tmp_path / "alone")
    recipe = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(recipe.replace(str(tiny.wide), str(tmp_path / "gone.csv")))
    longer = tmp_path / "longer.csv"
    longer.write_text(tiny.wide.read_text() + "2024-01-04 08:00:00,1,1\n")
    for model, why in ((moved, "gone.csv, which it was trained on, is gone or has changed"), (alone, "no recipe")):
        out = tmp_path / f"{model.name}.csv"
        told = titans("forecast", "backtest", model, longer, "--windows", 2, "--out", out)
        assert "is unknown: " in told.stderr and why in told.stderr and "seen in training: unknown" in told.stdout
        assert json.loads(out.with_suffix(".json").read_text())["protocol"]["seen_in_training"] is None
    found = measured(titans, moved, tiny.wide, "--windows", 10, "--out", tmp_path / "same.csv")
    assert found["protocol"]["seen_in_training"] == 5  # the sums say that this is the file


def test_gaps_are_not_filled_with_what_comes(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    table, trained = tmp_path / "gaps.csv", tmp_path / "run"
    table.write_text("\n".join(row for n, row in enumerate(tiny.wide.read_text().split("\n")) if n % 9 != 8))
    told = titans("forecast", "train", table, "--out", trained, *tiny.forecast, "--set", "training.steps=1",
                  "--on-gap", "interpolate").stderr  # fmt: skip
    assert "gaps.csv: values in gaps are interpolated" in told and "validation windows too" in told
    out = tmp_path / "b.csv"
    asked = (run, "--on-gap", "interpolate")
    for verb in (("backtest", *asked, "--windows", 2), ("backtest", trained, "--windows", 2), ("anomalies", *asked)):
        told = titans("forecast", *verb[:2], table, *verb[2:], "--out", out, code=2).stderr
        assert "on the line to a value after it" in told and "--on-gap ffill or nan" in told and not out.exists()
    for how in ("nan", "ffill"):
        found = measured(titans, trained, table, "--windows", 2, "--out", out, "--on-gap", how, "--overwrite")
        assert found["protocol"]["on_gap"] == how


def test_refits_know_nothing_of_what_comes(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    """Rows after an origin are changed, and no earlier forecast changes by a bit; a later one does."""
    head, *body = tiny.wide.read_text().splitlines()
    changed = tmp_path / "changed.csv"
    changed.write_text("\n".join([head, *body[:72], *(line.split(",")[0] + ",50,-50" for line in body[72:]), ""]))
    frames = []
    for name, table in (("a", tiny.wide), ("b", changed)):
        out = tmp_path / f"{name}.csv"
        found = measured(titans, run, table, "--windows", 4, "--refit", 2, "--out", out)
        assert found["protocol"]["refit"] == 2 and found["protocol"]["seen_in_training"] == 0
        frames.append(pl.read_csv(out).drop("y"))
    assert sorted(p.name for p in (tmp_path / "a.csv.refits").iterdir()) == ["16-rows-held-out", "8-rows-held-out"]
    before = [frame.filter(pl.col("cutoff") <= "2024-01-03 23:00:00") for frame in frames]  # the row 72
    assert before[0].equals(before[1]) and len(before[0]) == 3 * 4 * 2
    assert not frames[0].equals(frames[1])


def test_each_refit_reads_every_series_from_its_first_row(titans: Any, tiny: Any, tmp_path: Path) -> None:
    """Of what the model before it made of other series nothing is left: the last block is what its model says alone."""
    run, out = tmp_path / "run", tmp_path / "b.parquet"
    settings = ["--set", "task.reads=stream", "--set", "training.steps=1"]
    titans("forecast", "train", tiny.long, "--out", run, *tiny.forecast, *settings)
    titans("forecast", "backtest", run, tiny.long, "--windows", 2, "--refit", 1, "--out", out)
    *_, last = sorted((tmp_path / "b.parquet.refits").iterdir(), reverse=True)  # fewest rows held out
    titans("forecast", "backtest", last, tiny.long, "--windows", 1, "--out", tmp_path / "alone.parquet")
    found, alone = pl.read_parquet(out), pl.read_parquet(tmp_path / "alone.parquet")
    assert found.filter(pl.col("cutoff") == alone["cutoff"][0]).equals(alone)


def test_a_refit_is_the_recipe_with_rows_held_out(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    measured(titans, run, tiny.wide, "--windows", 2, "--refit", 2, "--out", tmp_path / "a.csv")
    one = tmp_path / "one"
    titans("run", run / "recipe.yaml", "--set", "data.test=8", "--out", one, "--quiet")
    refit = tmp_path / "a.csv.refits" / "8-rows-held-out"
    assert (one / "model/model.safetensors").read_bytes() == (refit / "model/model.safetensors").read_bytes()
    measured(titans, one, tiny.wide, "--windows", 2, "--out", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_checkpoint_without_recipe_cannot_be_refitted(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run / "model", tmp_path / "alone")
    given = ["forecast", "backtest", alone, tiny.wide, "--windows", 2, "--out", tmp_path / "b.csv"]
    assert "Give a run folder" in titans(*given, "--refit", 1, code=2).stderr
    assert "never, or a number" in titans(*given, "--refit", "0", code=2).stderr


@pytest.mark.parametrize("refit", [(), ("--refit", 3)])
def test_a_stopped_backtest_goes_on(
    titans: Any, tiny: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: tuple[Any, ...]
) -> None:
    given = [run, tiny.wide, "--windows", 6, "--step", 1, "--batch-size", 2, *refit]
    whole = measured(titans, *given, "--out", tmp_path / "a.jsonl")
    steps = backtest.forecast_steps
    for stop in (2, 4):

        def signalled(*arguments: Any, stop: int = stop) -> Steps:
            for ready, point in steps(*arguments):
                if point.done >= stop - 1:
                    os.kill(os.getpid(), signal.SIGINT)
                yield ready, point

        out = tmp_path / f"{stop}.jsonl"
        with monkeypatch.context() as patch:
            patch.setattr(backtest, "forecast_steps", signalled)
            titans("forecast", "backtest", *given, "--out", out, code=130)
        assert not out.exists() and not out.with_suffix(".json").exists()
        again = measured(titans, *given, "--out", out, "--resume")
        assert again["model"] == whole["model"] and again["steps"] == whole["steps"]
        assert out.read_bytes() == (tmp_path / "a.jsonl").read_bytes()
    assert "already_finished" in measured(titans, *given, "--out", out, "--resume")


def test_seasonal_naive_makes_nothing_up() -> None:
    """Of a series of less than a season, and of phases that were never seen, the last value stands."""
    times = np.datetime64("2024-01-01") + np.arange(9)
    for head in (0, 3):
        values = np.arange(9.0)[:, None]
        values[:head] = np.nan
        one = baselines.SeasonalNaive(Series("", times, values, ("a",)), 7)
        assert one.forecast(5, 3)[:, 0].tolist() == [4.0, 4.0, 4.0 if head else 0.0]
        assert one.forecast(9, 3)[:, 0].tolist() == ([2.0, 3.0, 4.0] if not head else [8.0, 3.0, 4.0])


def test_a_column_that_begins_late_spoils_no_other(titans: Any, tiny: Any, tmp_path: Path) -> None:
    table, out = tmp_path / "late.csv", tmp_path / "f.csv"
    head, *rows = tiny.wide.read_text().splitlines()
    table.write_text("\n".join([head, *(row if n > 74 else row.rsplit(",", 1)[0] + "," for n, row in enumerate(rows))]))
    given = [*tiny.forecast, "--set", "training.steps=1"]
    titans("forecast", "train", table, "--out", tmp_path / "run", *given)
    titans("forecast", "predict", tmp_path / "run", table, "--out", out)
    assert pl.read_csv(out)["mean"].is_finite().all()
    titans("forecast", "predict", "series_small", table, "--out", out, "--overwrite")
    titans("forecast", "train", tiny.wide, "--out", tmp_path / "b", *given, "--set", "task.channels=[b]")
    task = json.loads((tmp_path / "b" / "model" / "task.json").read_text())
    assert task["channels"] == ["b"] and task["location"] == pytest.approx([2.0], abs=0.1)
    given += ["--out", tmp_path / "c", "--set", "task.channels=[c]"]
    assert "has no column c" in titans("forecast", "train", tiny.wide, *given, code=4).stderr


def test_ids_that_look_like_numbers_are_text(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    table = tmp_path / "long.csv"
    head, *rows = tiny.long.read_text().splitlines()
    table.write_text("\n".join([head, *({"x": "001", "y": "1"}[row[0]] + row[1:] for row in rows), ""]))
    for suffix in (".csv", ".tsv", ".parquet"):
        found = measured(titans, models.long, table, "--windows", 2, "--out", tmp_path / f"{suffix[1:]}{suffix}")
        assert {one["unique_id"] for one in found["series"]} == {"001", "1"}


def test_metrics_have_their_own_file_and_are_not_overwritten(titans: Any, tiny: Any, run: Path, tmp_path: Path) -> None:
    given = ["forecast", "backtest", run, tiny.wide, "--windows", 2, "--metrics", tmp_path / "m.json"]
    titans(*given, "--out", tmp_path / "a.csv")
    assert json.loads((tmp_path / "m.json").read_text())["protocol"]["windows"] == 2
    assert "exists" in titans(*given, "--out", tmp_path / "b.csv", code=2).stderr


def test_long_tables_have_a_row_of_scores_a_series(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    found = measured(titans, models.long, tiny.long, "--windows", 3, "--out", tmp_path / "b.csv")
    assert [part["unique_id"] for part in found["series"]] == ["x", "y"]
    assert found["protocol"]["windows"] == 6


def test_the_statistical_model_stands_beside(
    titans: Any, tiny: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("statsforecast", reason="statsforecast, the extra stats, is not installed")
    monkeypatch.setattr(baselines, "has_statistical_model", lambda: True)
    done = titans("forecast", "backtest", run, tiny.wide, "--windows", 3, "--out", tmp_path / "b.csv", "--json")
    found = json.loads(done.stdout)
    assert found["auto_theta"]["mse"] > 0 and found["skill"]["auto_theta"]["mse"] is not None
    wave = 10 + np.sin(np.arange(480) * np.pi / 12)
    times = np.datetime64("2020-01-01", "us") + np.arange(480) * np.timedelta64(1, "h")
    series = Series("", times, np.stack([wave, np.full(480, 3.0)], 1), ("wave", "constant"))
    model = baselines.AutoTheta(series, 24, 240)
    for origin in (240, 401):  # it goes on from where it was fitted
        guess = model.forecast(origin, 24)
        np.testing.assert_allclose(guess[:, 0], wave[origin : origin + 24], atol=0.05)
        assert (guess[:, 1] == 3).all()
