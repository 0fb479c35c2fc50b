import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from titans_seq.miras.bias import BIASES, L2, AttentionalBias

every_bias = pytest.mark.parametrize("bias", [bias() for bias in BIASES], ids=lambda bias: bias.kind)


@every_bias
def test_slope_is_the_derivative_of_the_loss(bias: L2) -> None:
    prediction = torch.linspace(-3, 3, 60, dtype=torch.float64).view(5, 3, 4).requires_grad_()
    value = torch.linspace(1, -1, 60, dtype=torch.float64).view(5, 3, 4)
    loss = bias.loss(prediction, value)
    (derivative,) = torch.autograd.grad(loss.sum(), prediction)
    assert loss.shape == (5, 3)
    torch.testing.assert_close(bias.slope(prediction.detach(), value), derivative)


@every_bias
def test_loss_is_least_at_no_error_where_the_class_says_so(bias: L2) -> None:
    if not bias.least_at_no_error:
        return
    value = torch.randn(100, 5)
    assert (bias.loss(value + torch.randn(100, 5), value) > bias.loss(value, value)).all()
    assert not bias.slope(value, value).any()


@every_bias
def test_config_round_trip(bias: L2) -> None:
    read = TypeAdapter(AttentionalBias)
    assert read.validate_json(bias.model_dump_json()) == bias
    with pytest.raises(ValidationError, match="wdith"):
        read.validate_python({**bias.model_dump(), "wdith": 1})


def test_l2_is_the_squared_error_without_one_half() -> None:
    """Titans, eq. 12."""
    prediction, value = torch.tensor([1.0, 2.0]), torch.tensor([4.0, -2.0])
    assert L2().loss(prediction, value) == 25
    assert L2().slope(prediction, value).tolist() == [-6, 8]
