"""Laws of an attentional bias, and where its kinds meet each other and the paper."""

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from titans_seq.miras.bias import (
    BIASES,
    L1,
    L2,
    NO_ERROR,
    SMOOTH,
    AttentionalBias,
    Bias,
    DotProduct,
    Huber,
    HuberNorm,
    HuberSwitch,
    LInf,
    Lp,
    Robust,
    WithDelta,
)

EVERY_BIAS: list[Bias] = [
    *(bias() for bias in BIASES),
    Lp(p=1.5),
    Lp(p=2.0),
    LInf(sharpness=5.0),
    HuberSwitch(continuous=True),
]
every_bias = pytest.mark.parametrize("bias", EVERY_BIAS, ids=str)
every_delta = pytest.mark.parametrize(
    "bias", [bias for bias in EVERY_BIAS if isinstance(bias, WithDelta)], ids=lambda bias: str(bias)
)
ROWS, D = 200, 5
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, entries of order 1 to 100


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pair(scale: float = 2.0, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Predictions and values (rows, D) whose errors lie on both sides of every δ of 1; no error is at a kink."""
    value = torch.randn(rows, D, dtype=torch.float64)
    return value + scale * torch.rand(rows, 1, dtype=torch.float64) * torch.randn_like(value), value


def slope_of(bias: Bias, prediction: Tensor, value: Tensor, delta: Tensor | None = None) -> Tensor:
    """The derivative of the loss by autograd, itself differentiable."""
    prediction = prediction if prediction.requires_grad else prediction.detach().requires_grad_()
    loss = bias.loss(prediction, value, delta)
    return torch.autograd.grad(loss.sum(), prediction, create_graph=True)[0]


@every_bias
def test_slope_is_the_derivative_of_the_loss(bias: Bias) -> None:
    prediction, value = pair()
    assert bias.loss(prediction, value).shape == (ROWS,)
    derivative = slope_of(bias, prediction, value)
    torch.testing.assert_close(bias.slope(prediction, value), derivative.detach(), **EXACT)


@every_bias
def test_so_are_its_own_derivatives(bias: Bias) -> None:
    """The outer loop differentiates the slope once more: in the prediction, the value and δ."""
    prediction, value = pair()
    weight = torch.randn_like(value)
    found = []
    for slope in (bias.slope, lambda *given: slope_of(bias, *given)):
        leaves = [x.clone().requires_grad_() for x in (prediction, value)]
        if isinstance(bias, WithDelta):
            leaves.append((0.5 + torch.arange(ROWS, dtype=torch.float64)[:, None] / ROWS).requires_grad_())
        moved = slope(*leaves)
        found.append(torch.autograd.grad((weight * moved).sum() + 0 * sum(x.sum() for x in leaves), leaves))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)  # ε^(-1/2) = 1000 times rounding


@every_bias
def test_loss_is_least_at_no_error_where_the_class_says_so(bias: Bias) -> None:
    if not bias.least_at_no_error:
        return
    prediction, value = pair()
    assert (bias.loss(prediction, value) > bias.loss(value, value)).all()
    assert not bias.slope(value, value).any()


@every_bias
def test_no_error_has_finite_slopes_and_curvatures(bias: Bias) -> None:
    """As much in float32, and of a key that a memory has met already the outer gradient is asked."""
    for dtype in (torch.float32, torch.float64):
        value = torch.randn(3, D, dtype=dtype)
        for slope in (bias.slope, lambda *given: slope_of(bias, *given)):
            leaves = [value.clone().requires_grad_() for _ in range(2)]
            if isinstance(bias, WithDelta):
                leaves.append(torch.ones(3, 1, dtype=dtype, requires_grad=True))
            found = slope(*leaves)
            burden = bias.burden(torch.ones_like(value[:, :1]), leaves[0], leaves[1], found)
            total = (found / burden.clamp(min=1)).sum() + 0 * sum(x.sum() for x in leaves)
            parts = (found, burden, *torch.autograd.grad(total, leaves))
            assert all(part.isfinite().all() for part in parts)


@every_bias
def test_no_curvature_is_above_the_one_that_is_stated(bias: Bias) -> None:
    if bias.curvature is None:
        return
    for prediction, value in zip(*pair(rows=20), strict=True):
        hessian = torch.func.jacrev(lambda x, v=value: bias.slope(x, v))(prediction)
        assert torch.linalg.matrix_norm(hessian, 2) <= bias.curvature + 1e-12


@every_bias
@pytest.mark.parametrize("n", [1.0, 100.0])
@pytest.mark.parametrize("scale", [1e-2, 2.0, 100.0])
def test_the_largest_step_does_not_lead_away_from_the_value(bias: Bias, scale: float, n: float) -> None:
    """A linear memory with a key of squared norm n moves its read by n times the step times the slope."""
    if not bias.least_at_no_error:
        return
    prediction, value = pair(scale)
    slope = bias.slope(prediction, value)
    burden = bias.burden(torch.full_like(slope[:, :1], n), prediction, value, slope)
    after = (prediction - n * slope / burden - value).norm(dim=-1)
    before = (prediction - value).norm(dim=-1)
    seen = (slope * (prediction - value)).sum(-1) > NO_ERROR
    assert seen.sum() > 0.9 * ROWS and (after <= before * (1 + 1e-9))[seen].all()


@every_bias
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_dtype_are_kept(bias: Bias, dtype: torch.dtype) -> None:
    prediction, value = torch.randn(2, 2, 3, 7, D, dtype=dtype)
    given: list[Tensor | None] = [None]
    if isinstance(bias, WithDelta):
        given += [torch.rand(2, 3, 7, wide, dtype=dtype) for wide in ((1, D) if bias.channels else (1,))]
    for delta in given:
        loss, slope = bias.loss(prediction, value, delta), bias.slope(prediction, value, delta)
        assert loss.shape == (2, 3, 7) and slope.shape == (2, 3, 7, D)
        assert loss.dtype == slope.dtype == dtype


@every_delta
def test_a_given_delta_replaces_the_fixed_one(bias: WithDelta) -> None:
    prediction, value = pair()
    other = bias.model_copy(update={"delta": 0.3})
    given = torch.full((ROWS, 1), 0.3, dtype=torch.float64)
    for ask in ("loss", "slope"):
        assert torch.equal(getattr(bias, ask)(prediction, value, given), getattr(other, ask)(prediction, value))


@every_delta
@pytest.mark.parametrize("made", ["learned", "token"])
def test_a_delta_that_is_to_be_made_is_missed(bias: WithDelta, made: str) -> None:
    with pytest.raises(ValueError, match=f"{made}.*needs the delta of every token: give it, or a number"):
        type(bias)(delta=made).slope(*pair())  # type: ignore[arg-type]


@every_bias
def test_config_round_trip(bias: Bias) -> None:
    read: TypeAdapter[Any] = TypeAdapter(AttentionalBias)
    again = read.validate_json(bias.model_dump_json())
    assert again == bias and type(again) is type(bias)
    with pytest.raises(ValidationError, match="wdith"):
        read.validate_python({**bias.model_dump(), "wdith": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "huber", "delta": 0},
        {"kind": "huber_norm", "delta": float("inf")},
        {"kind": "robust", "delta": "tokens"},
        {"kind": "lp", "p": 0.5},
        {"kind": "lp", "smooth": 0},
        {"kind": "l1", "p": 2},
        {"kind": "l_inf", "sharpness": 0},
    ],
    ids=str,
)
def test_what_is_no_bias_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=list(wrong)[1]):
        TypeAdapter(AttentionalBias).validate_python(wrong)


# where the kinds meet


def same(one: Bias, other: Bias, factor: float = 1.0, least: float = 0.0, scale: float = 2.0) -> None:
    """``one`` is ``factor`` times ``other``, in loss and slope, but for ``least``."""
    prediction, value = pair(scale)
    for ask in ("loss", "slope"):
        ours, theirs = (getattr(bias, ask)(prediction, value) for bias in (one, other))
        torch.testing.assert_close(ours, factor * theirs, rtol=1e-12, atol=1e-12 + least)


def test_l2_is_the_squared_error_without_one_half() -> None:
    """Titans, eq. 12."""
    prediction, value = torch.tensor([1.0, 2.0]), torch.tensor([4.0, -2.0])
    assert L2().loss(prediction, value) == 25
    assert L2().slope(prediction, value).tolist() == [-6, 8]


def test_the_dot_product_is_what_l2_writes_into_an_empty_memory() -> None:
    """Eq. 8: its slope knows no prediction."""
    prediction, value = pair()
    assert torch.equal(DotProduct().slope(prediction, value), L2().slope(torch.zeros_like(value), value))
    torch.testing.assert_close(DotProduct().loss(value, value), -2 * value.square().sum(-1))


@pytest.mark.parametrize("bias", [Huber(delta=1e3), HuberNorm(delta=1e3), HuberSwitch(delta=1e3, continuous=True)])
def test_huber_with_a_large_delta_is_half_of_l2(bias: Bias) -> None:
    same(bias, L2(), 0.5)


def test_others_that_are_l2_in_a_limit() -> None:
    same(Lp(p=2.0), L2())
    same(HuberSwitch(delta=1e3), L2())
    same(Robust(delta=1e-9), L2(), 0.5, least=1e-7)


def test_huber_with_a_small_delta_is_delta_times_l1_or_the_norm() -> None:
    prediction, value = pair()
    error, delta = prediction - value, 1e-3
    far = error.abs().amin(-1) > delta
    assert far.sum() > ROWS / 2
    torch.testing.assert_close(Huber(delta=delta).slope(prediction, value)[far], delta * error.sign()[far])
    norm = error.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(HuberNorm(delta=delta).slope(prediction, value)[far], (delta * error / norm)[far])


def test_smooth_forms_tend_to_the_sharp_ones() -> None:
    prediction, value = pair()
    error = prediction - value
    for smooth in (1e-6, 1e-8, 1e-10):
        found = L1(smooth=smooth)
        assert ((found.loss(prediction, value) - error.abs().sum(-1)).abs() <= D * math.sqrt(smooth)).all()
        far = error.abs().amin(-1) > 0.01
        torch.testing.assert_close(found.slope(prediction, value)[far], error.sign()[far], rtol=0, atol=5000 * smooth)
        same(found, Lp(p=1.0, smooth=smooth))
    for a in (10.0, 1e2, 1e4):
        gap = LInf().loss(prediction, value) - LInf(sharpness=a).loss(prediction, value)
        assert (gap >= 0).all() and (gap <= math.log(2 * D) / a + 1e-12).all()
    assert LInf(sharpness=1e6).slope(prediction, value).sub(LInf().slope(prediction, value)).abs().max() < 1e-3


def test_l_inf_pulls_the_largest_coordinate_alone() -> None:
    prediction, value = torch.tensor([1.0, -5.0, 2.0]), torch.zeros(3)
    assert LInf().loss(prediction, value) == 5
    assert LInf().slope(prediction, value).tolist() == [0, -1, 0]


# what the paper prints


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_lp_is_the_printed_slope_with_another_smooth_sign(p: float) -> None:
    """Eq. 11 with tanh(a e) for the sign, a = ε^(-1/2): they part by 0.0737 of the slope at most, close to no error."""
    error = torch.logspace(-6, 1, 500, dtype=torch.float64)[:, None]
    printed = p * torch.tanh(error / math.sqrt(SMOOTH)) * (error.square() + SMOOTH) ** ((p - 1) / 2)
    ours = Lp(p=p).slope(error, torch.zeros_like(error))
    part = (ours - printed).abs() / (p * (error.square() + SMOOTH) ** ((p - 1) / 2))
    assert 0.07 < part.max() < 0.0738
    assert part[error > 0.05].max() < 1e-3


def test_yaads_switch_jumps_as_printed_and_its_continuous_form_does_not() -> None:
    """Norm of the slope just within and just beyond δ = 8.42, 64 channels: from 2δ to δ√64, as printed."""
    direction = torch.randn(64, dtype=torch.float64)
    edge = 8.42 * direction / direction.norm()
    jumps = {
        HuberSwitch(delta=8.42): (16.84, 67.36),
        HuberSwitch(delta=8.42, continuous=True): (8.42, 8.42),
        HuberNorm(delta=8.42): (8.42, 8.42),
    }
    for bias, expected in jumps.items():
        found = [bias.slope(edge * side, torch.zeros_like(edge)).norm().item() for side in (1 - 1e-6, 1 + 1e-6)]
        assert found == pytest.approx(expected, rel=1e-3)  # the smooth sign is 0.03 % short


def test_robust_is_the_worst_case_over_shifted_values() -> None:
    """Eq. 17: the worst of all shifts within δ is away from the prediction, and no other is worse."""
    prediction, value = pair()
    bias, error = Robust(delta=0.7), prediction - value

    def shifted(shift: Tensor) -> Tensor:
        return 0.5 * (prediction - (value + shift)).square().sum(-1)

    worst = -0.7 * error / error.norm(dim=-1, keepdim=True)
    # the smooth norm lacks at most √ε = 0.001, times δ
    torch.testing.assert_close(bias.loss(prediction, value), shifted(worst), rtol=0, atol=0.7e-3)
    for _ in range(20):
        other = torch.randn_like(value)
        assert (shifted(0.7 * other / other.norm(dim=-1, keepdim=True)) <= shifted(worst) + 1e-12).all()
    torch.testing.assert_close(bias.loss(value, value), torch.full_like(value[:, 0], 0.5 * 0.7**2))
