"""What is told of a step: laws of every output, the Student-t against its definition, and calibrated intervals."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.conftest import thinned
from titans_seq.errors import InputError
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.tasks.outputs import DECILES, LEAST_SCALE, OUTPUTS, Output, Quantiles, StudentT
from titans_seq.training.calibration import calibrate, margin, must_suffice

every_output = pytest.mark.parametrize("output", [kind() for kind in OUTPUTS], ids=lambda o: o.kind)
CHANNELS = {"channels": ("a", "b"), "location": (5.0, -1.0), "scale": (2.0, 0.5), "frequency": "1h"}


def numbers(output: Any, *shape: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return output.mapped(size * torch.randn(*shape, output.numbers, generator=g).double())


@every_output
def test_units_move_with_what_is_read_off(output: Any) -> None:
    """Point, mean, quantiles and bands of 3 y + 7 are 3 times those of y, and 7 more."""
    y = numbers(output, 5, 4)
    moved = output.moved(y, torch.full((5, 4), 7.0).double(), torch.full((5, 4), 3.0).double())
    for read in (output.point, output.mean, output.quantiles, lambda o: torch.stack(output.band(o, 0.8))):
        torch.testing.assert_close(read(moved), 3 * read(y) + 7)


@every_output
def test_quantiles_rise_and_stand_in_the_band(output: Any) -> None:
    y = numbers(output, 200, size=5)
    low, high = output.band(y, 0.8)
    assert (high >= low).all()
    found = output.quantiles(y)
    assert (found.diff(dim=-1) >= 0).all()
    if len(output.levels):
        torch.testing.assert_close(torch.stack([low, high], -1), found[:, [0, -1]])


@every_output
def test_any_finite_number_has_a_finite_loss_and_slope(output: Any) -> None:
    """Raw numbers far beyond those of a model in training, and truths of 1e18 deviations, in float32."""
    raw = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4]).repeat_interleave(5)[:, None].repeat(1, output.numbers)
    raw.requires_grad_()
    target = torch.tensor([-1e18, -1.0, 0.0, 1.0, 1e18]).repeat(5)
    loss = output.loss(output.mapped(raw), target)
    loss.mean().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(raw.grad).all()


@every_output
def test_config_round_trip(output: Any) -> None:
    assert TypeAdapter(Output).validate_json(output.model_dump_json()) == output


@pytest.mark.parametrize(
    ("levels", "point"),
    [((0.1, 0.5, 0.9), 2.0), ((0.05, 0.95), 2.0), ((0.2, 0.4, 0.8), 2.25), ((0.6, 0.9), 1.0), ((0.5,), 1.0)],
)
def test_what_stands_for_a_median_is_between_its_neighbours(levels: Any, point: float) -> None:
    values = torch.tensor([1.0, 3.0]) if len(levels) == 2 else torch.tensor([1.0, 2.0, 3.0])[: len(levels)]
    assert Quantiles(levels=levels).point(values).item() == pytest.approx(point)


def test_the_student_t_loss_is_its_negative_log_density() -> None:
    output = StudentT()
    y = numbers(output, 1000, size=4).requires_grad_()
    target = torch.randn(1000, generator=torch.Generator().manual_seed(1)).double()
    torch_t = torch.distributions.StudentT(*y.unbind(-1))
    loss = output.loss(y, target)
    torch.testing.assert_close(loss, -torch_t.log_prob(target))
    ours, theirs = (
        torch.autograd.grad(part.sum(), y, retain_graph=True)[0] for part in (loss, torch_t.log_prob(target))
    )
    torch.testing.assert_close(ours, -theirs)


def test_student_t_numbers_are_those_of_gluonts() -> None:
    theirs = pytest.importorskip("gluonts.torch.distributions", reason="gluonts is not installed").StudentTOutput
    raw = 3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    ours = StudentT().mapped(raw)
    df, loc, scale = theirs.domain_map(*raw.split(1, -1))
    torch.testing.assert_close(ours, torch.stack([df, loc, scale], -1))
    distribution = theirs.distr_cls(df, loc, scale)
    for i, level in enumerate(StudentT().levels):
        found = distribution.icdf(torch.tensor(level).double())
        torch.testing.assert_close(StudentT().quantiles(ours)[:, i], found, rtol=1e-6, atol=1e-6)


def test_student_t_quantiles_hold_their_share_of_a_sample() -> None:
    output = StudentT(levels=(0.05, 0.5, 0.9))
    y = numbers(output, 1).expand(200_000, 3)
    torch.manual_seed(0)
    sample = torch.distributions.StudentT(*y.unbind(-1)).sample()
    share = (sample[:, None] <= output.quantiles(y[:1])).double().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.05, 0.5, 0.9]).double(), rtol=0, atol=0.004)  # 4 standard errors


def test_a_student_t_scale_never_reaches_zero() -> None:
    assert StudentT().mapped(torch.full((1, 3), -1e4))[0, 2] == LEAST_SCALE


def test_a_mean_weighs_levels_by_the_probability_around_them() -> None:
    """Of a uniform distribution, whose quantiles are the levels."""
    for levels in (DECILES, (0.5, 0.9, 0.95, 0.99), (0.1, 0.5, 0.9), (0.3,)):
        output = torch.tensor(levels, dtype=torch.float64)
        found = float(Quantiles(levels=levels).mean(output))
        assert levels[0] <= found <= levels[-1]
        if levels == tuple(sorted(round(1 - q, 9) for q in levels)):
            assert found == pytest.approx(0.5)
    assert float(Quantiles(levels=(0.5, 0.9, 0.95, 0.99)).mean(torch.tensor([0.5, 0.9, 0.95, 0.99]))) < 0.7


# --- conformal intervals


class Guess(torch.nn.Module):
    """A forecaster whose band is far too narrow for one step and too wide for the other."""

    def __init__(self, task: Forecasting):
        super().__init__()
        self.task, self.head = task, torch.nn.Linear(1, 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        B, H, C = batch["future"].shape
        raw = torch.zeros(B, H, C, self.task.output.numbers)
        raw[..., -1] = torch.tensor([-3.0, 3.0])[:, None] * (self.task.output.numbers > 1)
        return self.task.output.mapped(raw)


class Futures:
    """Independent futures of two steps and two channels, of which a tenth is missing."""

    def __init__(self, count: int, seed: int):
        rng = np.random.default_rng(seed)
        self.future = rng.standard_t(3, (count, 2, 2)) * [2.0, 0.5] + [5.0, -1.0]
        self.seen = rng.random((count, 2, 2)) > 0.1

    def __len__(self) -> int:
        return len(self.future)

    def item(self, index: int, rng: Any) -> dict[str, np.ndarray]:
        return {"future": self.future[index].astype(np.float32), "future_observed": self.seen[index]}

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.stack([item[name] for item in items]) for name in items[0]}


@pytest.mark.parametrize("output", thinned([kind() for kind in OUTPUTS[1:] + OUTPUTS[:1]]), ids=lambda o: o.kind)
def test_calibrated_intervals_hold_at_least_what_they_say(output: Any) -> None:
    """On exchangeable data, in the mean over calibration sets, at every step and channel (Vovk et al. 2005)."""
    task = Forecasting(horizon=2, lookback=8, patch=8, output=output, conformal=(95, 80), **CHANNELS)
    assert task.conformal == (80, 95)
    covered: dict[str, list[np.ndarray]] = {"80": [], "95": []}
    test = Futures(2000, 99)
    batch = {name: torch.from_numpy(v) for name, v in test.collate([test.item(i, None) for i in range(2000)]).items()}
    for seed in range(100):
        model = Guess(task)
        calibrate(model, Futures(40, seed), 16)
        columns = model.task.columns(model(batch))
        assert list(columns) == model.task.names
        for level, found in covered.items():
            low, high = columns[f"lo-{level}"].numpy(), columns[f"hi-{level}"].numpy()
            assert (high >= low).all()
            inside = np.where(test.seen, (test.future >= low) & (test.future <= high), np.nan)
            found.append(np.nanmean(inside, 0))
    for level, found in covered.items():
        mean = np.mean(found, 0)
        assert (mean > int(level) / 100 - 0.02).all(), mean  # four standard errors of 100 sets of 40
        assert (mean < int(level) / 100 + 0.05).all(), mean  # 1 / (n + 1) above at most, n about 36


def test_a_margin_is_the_smallest_that_suffices() -> None:
    scores = np.arange(19.0)[:, None, None]
    assert margin(scores, 0.9) == 17  # the 18th of 19: ceil(20 * 0.9)
    assert margin(scores, 0.95) == 18
    assert np.isinf(margin(scores, 0.96))
    assert margin(np.concatenate([scores, np.full((5, 1, 1), np.nan)]), 0.9) == 17


def test_too_few_windows_for_a_level_are_told() -> None:
    task = Forecasting(horizon=1, conformal=(80, 95))
    must_suffice(task, 19)
    with pytest.raises(InputError, match=r"95 % takes 19 validation windows, and there are 18.*data\.validation"):
        must_suffice(task, 18)
    with pytest.raises(ValidationError, match="less than 100"):
        Forecasting(horizon=1, conformal=(100,))


def test_a_wider_interval_holds_the_narrower() -> None:
    task = Forecasting(horizon=1, lookback=8, patch=8, conformal=(80, 95), **CHANNELS)
    task = task.model_copy(update={"margins": (((0.5, 0.5),), ((-9.0, 0.1),))})
    found = task.columns(numbers(task.output, 10, 1, 2))
    assert (found["lo-95"] <= found["lo-80"]).all() and (found["hi-95"] >= found["hi-80"]).all()
    assert (found["hi-80"] > found["lo-80"]).all()


def test_a_trained_model_keeps_its_margins(titans: Any, tiny: Any, tmp_path: Any) -> None:
    given = ["--set", "task.output={kind: student_t}", "--set", "data.validation=30", "--set", "training.steps=1"]
    run = tmp_path / "run"
    titans("forecast", "train", tiny.wide, "--out", run, *tiny.forecast, *given, "--conformal", "80,90", "--quiet")
    titans("forecast", "predict", run, tiny.wide, "--out", tmp_path / "a.csv", "--quantiles", "0.1,0.9")
    head = (tmp_path / "a.csv").read_text().splitlines()[0]
    assert head == "unique_id,ds,mean,q0.1,q0.9,lo-80,hi-80,lo-90,hi-90"
    told = titans(
        "forecast", "train", tiny.wide, "--out", tmp_path / "b", *tiny.forecast, "--conformal", "99", "--quiet", code=3
    ).stderr
    assert "takes 99 validation windows" in told
