"""Laws of a memory structure: its errors are gradients, and its bound holds."""

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from titans_seq.miras.structure import ACTIVATIONS, MLP, STRUCTURES, Layers, Matrix, MemoryStructure, Vector, Weights

EVERY_STRUCTURE: list[Layers] = [
    *(structure() for structure in STRUCTURES),
    *(
        MLP(depth=depth, activation=activation, norm=norm, expansion=1.5)
        for depth, activation, norm in itertools.product((1, 2, 3), ("gelu", "silu"), (False, True))
        if depth > 1 or activation == "gelu"  # one layer has no activation
    ),
]
every_structure = pytest.mark.parametrize(
    "structure", EVERY_STRUCTURE, ids=lambda s: "-".join(str(value) for value in s.model_dump().values())
)
D = 4
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums of some tens of terms of order 1


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def memory(structure: Layers, scale: float = 1.0, *batch: int) -> tuple[Weights, Tensor | None]:
    """Random weights (*batch, d_in, d_out) a layer, and the gain where there is one."""
    sizes = structure.sizes(D, D)
    weights = tuple(scale * torch.randn(*batch, *size, dtype=torch.float64).requires_grad_() for size in sizes)
    return weights, torch.rand(*batch, 1, D, dtype=torch.float64) + 0.5 if structure.norm else None


def written_out(structure: Layers, weights: Weights, k: Tensor, gain: Tensor | None) -> Tensor:
    """The memory of the docstring by torch's own functions."""
    activate = {"gelu": F.gelu, "silu": F.silu}[structure.activation]
    f = k * weights[0].mT if isinstance(structure, Vector) else k @ weights[0]
    for w in weights[1:]:
        f = activate(f) @ w
    return f if gain is None else k + F.layer_norm(f, (D,), eps=1e-6) * gain


@every_structure
def test_read_is_the_memory_as_printed(structure: Layers) -> None:
    weights, gain = memory(structure, 1.0, 2, 3)
    k = torch.randn(2, 3, 5, D, dtype=torch.float64)
    torch.testing.assert_close(structure.read(weights, k, gain), written_out(structure, weights, k, gain), **EXACT)


@every_structure
def test_errors_are_the_gradient_of_the_loss(structure: Layers) -> None:
    """x_{l-1}ᵀ G_l against autograd through the memory as printed, and its norm of each token."""
    weights, gain = memory(structure, 1.0, 2)
    k, v = torch.randn(2, 2, 5, D, dtype=torch.float64)
    prediction = written_out(structure, weights, k, gain)
    gradients = torch.autograd.grad((prediction - v).square().sum(), weights)
    trace = structure.trace(weights, k)
    errors = structure.errors(weights, trace, 2 * (structure.finish(k, trace.output, gain) - v), gain)
    for x, error, gradient in zip(trace.inputs, errors, gradients, strict=True):
        torch.testing.assert_close(structure.outer(torch.zeros_like(gradient), x, error), gradient, **EXACT)
        for t in range(5):
            one = structure.outer(torch.zeros_like(gradient), x[:, t : t + 1], error[:, t : t + 1])
            torch.testing.assert_close(structure.squares(x, error)[:, t], one.square().sum((-2, -1)), **EXACT)


def curvatures(structure: Layers, scale: float) -> Iterator[tuple[float, float]]:
    """Bound and true squared spectral norm of ∂M(k)/∂W, for several memories and keys."""
    for _ in range(10):
        weights, gain = memory(structure, scale)
        weights = tuple(w.detach() for w in weights)
        k = F.normalize(torch.randn(1, D, dtype=torch.float64), dim=-1)

        def read(*w: Tensor, k: Tensor = k, gain: Tensor | None = gain) -> Tensor:
            return written_out(structure, w, k, gain)[0]

        jacobian = torch.func.jacrev(read, tuple(range(len(weights))))(*weights)
        rows = torch.cat([part.flatten(1) for part in jacobian], 1)  # (Dv, all weights)
        yield (
            float(structure.bearing(weights, structure.trace(weights, k), gain)),
            float(torch.linalg.matrix_norm(rows, 2) ** 2),
        )


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@every_structure
def test_bearing_bounds_the_jacobian(structure: Layers, scale: float) -> None:
    for bound, true in curvatures(structure, scale):
        assert bound >= true * (1 - 1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_slopes_of_an_activation_have_slopes(activation: str) -> None:
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    value, slope = ACTIVATIONS[activation][1](z)
    torch.testing.assert_close(slope, torch.autograd.grad(value.sum(), z, retain_graph=True)[0])
    assert torch.autograd.gradgradcheck(ACTIVATIONS[activation][1], z)


def test_the_bound_is_exact_for_a_vector_memory() -> None:
    for bound, true in curvatures(Vector(), 3.0):
        assert bound == pytest.approx(true, rel=1e-14) and bound <= 1


def test_the_bound_is_exact_for_a_matrix_memory_and_1_for_a_key_of_norm_1() -> None:
    for bound, true in curvatures(Matrix(), 3.0):
        assert bound == pytest.approx(true, rel=1e-14) == pytest.approx(1, rel=1e-14)
    one_hot = torch.eye(D)
    assert Matrix().bearing((torch.randn(D, D),), Matrix().trace((torch.randn(D, D),), one_hot), None).eq(1).all()


@every_structure
def test_a_step_divided_by_the_bound_does_not_overshoot_its_token(structure: Layers) -> None:
    """θ = 1/2 meets the value of a linear memory; divided by the bound no memory misses by more, however large."""
    for scale in (0.1, 1.0, 5.0):
        weights, gain = memory(structure, scale)
        k = F.normalize(torch.randn(1, D, dtype=torch.float64), dim=-1)
        v = 8 * F.normalize(torch.randn(1, D, dtype=torch.float64), dim=-1)

        def loss(weights: Weights, k: Tensor = k, v: Tensor = v, gain: Tensor | None = gain) -> Tensor:
            return (structure.read(weights, k, gain) - v).square().sum()

        before = loss(weights)
        n = structure.bearing(weights, structure.trace(weights, k), gain).clamp(min=1).item()
        gradients = torch.autograd.grad(before, weights)
        after = loss(tuple(w - 0.5 / n * g for w, g in zip(weights, gradients, strict=True)))
        assert after < before


@every_structure
def test_a_recall_is_a_read_of_what_was_written(structure: Layers) -> None:
    """No weight is formed: the first layer's read of Σ w x ᵀ G with every query, against that of each weight."""
    T, (d_in, d_out) = 6, structure.sizes(D, D)[0]
    errors = torch.randn(2, T, D if isinstance(structure, Vector) else d_out, dtype=torch.float64)
    q, x, onto = (torch.randn(2, T, d, dtype=torch.float64) for d in (d_in, d_in, errors.shape[-1]))
    write = torch.randn(2, T, T, dtype=torch.float64).tril()
    found = structure.recall(onto, structure.scores(write, q, x), q, x, errors)
    for t in range(T):
        weight = structure.outer(torch.zeros(2, d_in, d_out, dtype=torch.float64), write[:, t, :, None] * x, errors)
        row = slice(t, t + 1)
        torch.testing.assert_close(found[:, row], structure.through(q[:, row], weight, onto[:, row]), **EXACT)
        torch.testing.assert_close(found[:, row] - onto[:, row], structure.through(q[:, row], weight), **EXACT)


@every_structure
def test_sizes_chain_from_key_to_value(structure: Layers) -> None:
    """The layers read rows of the width of keys, and give rows of the width of values."""
    weights, gain = memory(structure)
    assert len(weights) == structure.depth == len(structure.sizes(D, D))
    assert structure.read(weights, torch.randn(7, D, dtype=torch.float64), gain).shape == (7, D)


def test_a_residual_of_two_widths_is_explained() -> None:
    with pytest.raises(ValueError, match="needs keys and values of one width, got 4 and 3"):
        MLP(norm=True).sizes(4, 3)
    with pytest.raises(ValueError, match="A weight a channel needs keys and values of one width, got 4 and 3"):
        Vector().sizes(4, 3)


@every_structure
def test_config_round_trip(structure: Layers) -> None:
    read = TypeAdapter(MemoryStructure)
    assert read.validate_json(structure.model_dump_json()) == structure
    with pytest.raises(ValidationError, match="widht"):
        read.validate_python({**structure.model_dump(), "widht": 1})
