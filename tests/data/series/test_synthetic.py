"""Series drawn by chance: what they are does not depend on the panel, and they are of the kinds that are said."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from titans_seq.data.series.synthetic import (
    KINDS,
    Synthetic,
    periodic,
    season,
    synthetic,
    synthetic_panel,
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
    small, large = (synthetic_panel(f"synthetic:7/{count}/{ROWS}").series for count in (3, 9))
    for number, (one, other) in enumerate(zip(small, large, strict=False)):
        assert one.id == other.id == f"{many[number].kind}-{number}"
        assert np.array_equal(one.target, other.target) and np.array_equal(one.target[:, 0], many[number].values)
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
    source = SeriesSource.of_file("synthetic:0/5/200", validation=20)
    assert source.files() == []
    task, train, validation = source.parts(Forecasting(horizon=10, lookback=32, zero_shot=True), 0)
    assert task.channels == ("y",) and task.frequency == "1h"
    assert len(train) == 5 * (180 - 32 - 10 + 1) and len(validation) == 5 * 11


def test_what_names_no_panel_is_refused(titans: Any, tiny: Any, tmp_path: Any) -> None:
    for path in ("synthetic:", "synthetic:0/10", "synthetic:0/0/100", "synthetic:0/10/31", "synthetic:-1/10/100"):
        with pytest.raises(UsageError, match="SEED/COUNT/LENGTH"):
            synthetic_panel(path)
    with pytest.raises(ConfigError, match=r"data\.freq says how a table is read"):
        SeriesSource.of_file("synthetic:0/5/200", freq="D").read()
    told = titans("forecast", "audit", "synthetic:0/5/200", code=2).stderr
    assert "is drawn by chance, to train on" in " ".join(told.split())


def test_a_command_trains_on_a_panel(titans: Any, tiny: Any, tmp_path: Any) -> None:
    given = ["--horizon", 4, *tiny.size, "--lookback", 16, "--set", "task.zero_shot=true", "--set", "training.steps=1"]
    titans("forecast", "train", "synthetic:3/2/64", "--out", tmp_path / "run", *given, "--quiet")
    assert "path: synthetic:3/2/64" in (tmp_path / "run" / "recipe.yaml").read_text()
