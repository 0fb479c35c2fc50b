"""Series drawn by chance: what they are does not depend on the panel, and they are of the kinds that are said."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from titans_seq.data.series.synthetic import (
    KINDS,
    DrawnWindows,
    Panel,
    Synthetic,
    panel_named,
    periodic,
    season,
    synthetic,
    unit,
)
from titans_seq.data.sources import SeriesSource
from titans_seq.errors import ConfigError, UsageError
from titans_seq.tasks.forecasting import Forecasting

ROWS = 512


@pytest.fixture(scope="module")
def many() -> list[Synthetic]:
    return [synthetic(7, number, ROWS) for number in range(1000)]


def autocorrelation(values: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(values[lag:], values[:-lag])[0, 1])


def test_a_series_is_of_its_seed_and_number_alone(many: list[Synthetic]) -> None:
    whole = DrawnWindows(Panel(7, 9, ROWS), range(9), 64, 10)
    part = DrawnWindows(Panel(7, 5, ROWS), range(3, 5), 64, 10)
    for index, number in enumerate(part.numbers):
        one, other = part.series(index), whole.series(number)
        assert one.id == other.id == f"{many[number].kind}-{number}"
        assert np.array_equal(one.target, other.target) and np.array_equal(one.target[:, 0], many[number].values)
        for rng in (None, 5):
            a, b = (w.item(i, rng and np.random.default_rng(rng)) for w, i in ((part, index), (whole, number)))
            assert all(np.array_equal(a[name], b[name]) for name in a | b)
    assert not np.array_equal(synthetic(8, 0, ROWS).values, many[0].values)
    # straight lines alone are alike, each in units of its own
    assert len({one.values.tobytes() for one in many}) > 0.99 * len(many)


def test_every_series_is_finite_and_not_constant(many: list[Synthetic]) -> None:
    for one in many:
        assert one.values.shape == (ROWS,) and np.isfinite(one.values).all() and np.ptp(one.values) > 0
        assert np.abs(one.values).max() < 1e4  # single precision tells its steps


def test_kinds_occur_in_their_shares(many: list[Synthetic]) -> None:
    counts = Counter(one.kind for one in many)
    assert sum(kind.share for kind in KINDS.values()) == pytest.approx(1)
    for name, (share, _) in KINDS.items():
        deviation = np.sqrt(len(many) * share * (1 - share))
        assert abs(counts[name] - len(many) * share) < 4 * deviation, name


@pytest.mark.parametrize("draw", [season, periodic])
@pytest.mark.parametrize("period", [4, 7, 24, 96, 168])
def test_a_season_repeats_itself_after_its_rows_and_not_before(draw: Any, period: int) -> None:
    drawn = [draw(np.random.default_rng(seed), 8 * period, period) for seed in range(20)]
    told = [values for values in drawn if values.any()]  # four rows may miss all that a season has
    assert len(told) >= (10 if period == 4 else 20)
    for values in told:
        assert autocorrelation(values, period) > 0.999
        assert min(autocorrelation(values, lag) for lag in range(1, period)) < 0.5


def test_seasons_of_calendars_are_found_in_panels(many: list[Synthetic]) -> None:
    """The highest autocorrelation of changes stands at a day's or a week's rows in most seasonal series."""
    days = [24, 48, 96, 144]  # of which by chance few lags are multiples
    changes = [unit(np.diff(one.values)) for one in many if one.kind == "seasonal"][:100]
    lags = range(4, 200)
    best = [lags[int(np.argmax([autocorrelation(change, lag) for lag in lags]))] for change in changes]
    found, by_chance = (np.mean([any(lag % day == 0 for day in days) for lag in these]) for these in (best, lags))
    assert found > 4 * by_chance


def test_demand_is_nothing_most_of_the_time() -> None:
    draws = [KINDS["intermittent"].process(np.random.default_rng(seed), ROWS) for seed in range(50)]
    assert all((values >= 0).all() and (values > 0).any() for values in draws)
    assert np.mean([(values == 0).mean() for values in draws]) > 0.6


def test_levels_jump_where_pieces_meet(many: list[Synthetic]) -> None:
    """Means of halves lie further apart than those of noise around one level."""

    def apart(kind: str) -> float:
        return float(np.mean([abs(np.diff([h.mean() for h in np.split(o.values, 2)])) for o in many if o.kind == kind]))

    assert apart("shifts") > 2 * apart("heteroscedastic")


def test_panels_are_trained_on_like_tables() -> None:
    source = SeriesSource.of_file("synthetic:0/10/200", validation=3, test=2)
    assert source.files() == []
    given = Forecasting(horizon=10, reads="stream", patch=8, lookback=32, zero_shot=True)
    task, train, validation = source.parts(given, 0)
    assert task.channels == ("y",) and task.frequency == "1h"
    assert train.numbers == range(5) and validation.numbers == range(5, 8)
    last, values = validation.item(0, None), synthetic(0, 5, 200).values
    assert np.array_equal(np.concatenate([last["past"], last["future"]])[:, 0], values[-42:])
    drawn = [train.item(0, np.random.default_rng(seed)) for seed in range(50)]
    values = synthetic(0, 0, 200).values
    assert {float(item["past"][0, 0]) for item in drawn} <= set(values[:159].tolist())
    assert len({float(item["past"][0, 0]) for item in drawn}) > 20, "windows lie anywhere"
    assert {int(item["open"]) for item in drawn} == set(range(1, 9))
    assert train.collate(drawn)["past"].shape == (50, 32, 1)


def test_what_names_no_panel_is_refused(titans: Any) -> None:
    task = Forecasting(horizon=10, lookback=32, zero_shot=True)
    for path in ("synthetic:", "synthetic:0/10", "synthetic:0/1/100", "synthetic:0/10/31", "synthetic:-1/10/100"):
        with pytest.raises(UsageError, match="SEED/COUNT/LENGTH"):
            panel_named(path)
    with pytest.raises(ConfigError, match=r"data\.freq says how a table is read"):
        SeriesSource.of_file("synthetic:0/5/200", freq="D").parts(task, 0)
    with pytest.raises(ConfigError, match="series of 40 rows, and a window needs 42"):
        SeriesSource.of_file("synthetic:0/5/40").parts(task, 0)
    with pytest.raises(ConfigError, match="of 5 series 0 are left to train on"):
        SeriesSource.of_file("synthetic:0/5/200", validation=5).parts(task, 0)
    told = titans("forecast", "audit", "synthetic:0/5/200", code=2).stderr
    assert "is drawn by chance, to train on" in " ".join(told.split())


def test_a_command_trains_on_a_panel(titans: Any, tiny: Any, tmp_path: Any) -> None:
    given = ["--horizon", 4, *tiny.size, "--lookback", 16, "--set", "task.zero_shot=true", "--set", "training.steps=1"]
    titans("forecast", "train", "synthetic:3/20/64", "--out", tmp_path / "run", *given, "--quiet")
    assert "path: synthetic:3/20/64" in (tmp_path / "run" / "recipe.yaml").read_text()
