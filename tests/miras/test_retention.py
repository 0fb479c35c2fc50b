"""Laws of a retention gate: it starts an ordinary memory, and its link is the minimiser that MIRAS derives."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from titans_seq.miras.learning import GradientDescent
from titans_seq.miras.retention import (
    KL,
    RETENTIONS,
    BregmanSigmoid,
    ElasticNet,
    ElasticNetFTRL,
    Forgetting,
    Lq,
    NoRetention,
    Retention,
    RowNorm,
)
from titans_seq.miras.structure import Matrix
from titans_seq.ops.memory_scan import initial_state, memory_scan

EVERY_RETENTION: list[Retention] = [
    *(retention() for retention in RETENTIONS),
    Forgetting(towards="zero"),
    Lq(q=2.0),
    Lq(towards="zero", q=8.0),
    Lq(q=3.0, form="printed"),
    Lq(form="printed"),
    KL(scale=1.0),
    KL(signed=True),
    ElasticNet(threshold=0.3),
    ElasticNetFTRL(threshold=0.3),
]
every_retention = pytest.mark.parametrize("retention", EVERY_RETENTION, ids=str)
D, Dv = 5, 3
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, entries of order 1
FOUND = {"rtol": 1e-5, "atol": 1e-6}  # a minimum that a search finds: half of the digits of the objective


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@every_retention
def test_the_link_is_that_of_each_weight_alone(retention: Retention) -> None:
    carried, first = randn(2, 3, D, Dv), randn(3, D, Dv)
    found = retention.link(carried, first)
    assert found.shape == carried.shape and found.isfinite().all()
    torch.testing.assert_close(found[1, 2], retention.link(carried[1, 2], first[2]), **EXACT)
    assert torch.equal(found, carried) or not retention.linear


@every_retention
def test_a_link_that_minimises_is_the_gradient_of_a_convex_function(retention: Retention) -> None:
    """Its Jacobian is symmetric and has no negative eigenvalue; that of a printed form is not."""
    carried, first = randn(D, Dv), randn(D, Dv)
    jacobian = torch.autograd.functional.jacobian(lambda a: retention.link(a, first), carried)
    jacobian = jacobian.reshape(D * Dv, D * Dv)
    symmetric = torch.allclose(jacobian, jacobian.mT, rtol=1e-10, atol=1e-12)
    assert symmetric == retention.minimises
    if retention.minimises:
        assert torch.linalg.eigvalsh(jacobian).min() > -1e-12


@pytest.mark.parametrize(
    "retention",
    [r for r in EVERY_RETENTION if r != KL(scale=1.0)],  # its sum says how large it is
    ids=str,
)
def test_the_memory_starts_with_the_norm_of_an_ordinary_one(retention: Retention) -> None:
    memory = randn(4, 64, 128) / 8
    carried = retention.start(memory)
    weights = retention.link(carried, carried) if retention.accumulates else carried
    size = (weights.norm(dim=(-2, -1)) / memory.norm(dim=(-2, -1))).unique()
    # 1 of what can be that memory; a softmax is not linear: 1.13 and 0.9 measured; a printed Lq of q = 3 has 1 in all
    if not (isinstance(retention, Lq) and retention.form == "printed" and retention.q == 3):
        assert size.min() > 0.8 and size.max() < 1.25
    if retention.minimises and not isinstance(retention, KL | BregmanSigmoid | ElasticNet):
        torch.testing.assert_close(weights, memory, **EXACT)


@every_retention
def test_gradients_are_finite_at_zero(retention: Retention) -> None:
    """A weight that is 0, and a memory that is 0 in all: forgetting to zero, and padding, lead there."""
    for carried in (torch.zeros(D, Dv, dtype=torch.float64), randn(D, Dv) * (torch.arange(D)[:, None] > 1)):
        for dtype in (torch.float32, torch.float64):
            leaf = carried.to(dtype, copy=True).requires_grad_()
            found = retention.link(leaf, randn(D, Dv).to(dtype))
            (gradient,) = torch.autograd.grad(found.sum(), leaf)
            assert found.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("q", [2.95, 2.999, 3.05])
def test_a_printed_form_that_leaves_the_range_of_numbers_is_refused(q: float) -> None:
    with pytest.raises(ValidationError, match=r"the printed form .* take q = 3, a q further from it, or form: exact"):
        Lq(q=q, form="printed")
    assert Lq(q=q).q == q


def one_token(
    retention: Retention, carried: Tensor, first: Tensor, theta: float, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights before a token and after it with ``chunk_size=1``, and the gradient that it wrote."""
    k, v = randn(1, 1, 1, D), randn(1, 1, 1, Dv)
    weights = retention.link(carried, first) if retention.accumulates else carried
    gradient = (2 * k.mT @ (k @ weights - v))[0, 0]
    state = initial_state((first[None],), 1, torch.float64, retention=retention)
    state = state._replace(
        start=(weights[None, None],),
        weights=(weights[None, None],),
        accumulator=(carried[None, None],) if retention.accumulates else None,
    )
    gate = torch.ones(1, 1, 1, dtype=torch.float64)
    _, after = memory_scan(
        *(k, k, v, theta * gate, alpha * gate if retention.gated else None),
        initial=(first[None],),
        structure=Matrix(),
        retention=retention,
        learning=GradientDescent(normalised=False),
        chunk_size=1,
        state=state,
    )
    return weights, after.weights[0][0, 0], gradient


def least(objective: Callable[[Tensor], Tensor], of: Callable[[Tensor], Tensor], *shape: int) -> Tensor:
    """Where the objective is least over what ``of`` makes of free numbers of this shape, by a search (L-BFGS)."""
    free = (0.1 * randn(*shape)).requires_grad_()
    search = torch.optim.LBFGS(
        [free], max_iter=3000, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        value = objective(of(free))
        value.backward()
        return value

    search.step(closure)
    return of(free).detach()


THETA, ALPHA = 0.2, 0.3


def kl(weights: Tensor, other: Tensor) -> Tensor:
    return (weights * (weights / other).log()).sum()


def simplex(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda free: scale * free.softmax(-2)


def two_parts(free: Tensor) -> Tensor:
    """Sizes of the positive and the negative part: an absolute value without a kink."""
    return free.square()


def test_l2_local_and_global_is_the_forgetting_gate() -> None:
    """MIRAS, section 5.3, in the gates that are decoupled from it."""
    for towards in ("initial", "zero"):
        first, carried = randn(D, Dv), randn(D, Dv)
        retention = Forgetting(towards=towards)
        before, after, g = one_token(retention, carried, first, THETA, ALPHA)
        rest = first if retention.returns else torch.zeros_like(first)

        def objective(w: Tensor, g: Tensor = g, before: Tensor = before, rest: Tensor = rest) -> Tensor:
            local, global_ = (w - before).square().sum(), (w - rest).square().sum()
            return (w * g).sum() + (1 - ALPHA) / (2 * THETA) * local + ALPHA / (2 * THETA) * global_

        torch.testing.assert_close(after, least(objective, torch.clone, D, Dv), **FOUND)


def test_nothing_is_l2_local_alone() -> None:
    before, after, g = one_token(NoRetention(), randn(D, Dv), randn(D, Dv), THETA, 0)
    found = least(lambda w: (w * g).sum() + (w - before).square().sum() / (2 * THETA), torch.clone, D, Dv)
    torch.testing.assert_close(after, found, **FOUND)


@pytest.mark.parametrize("towards", ["initial", "zero"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_kl_and_entropy_on_the_simplex_are_the_softmax(scale: float, towards: str) -> None:
    """MIRAS, eq. 19-21, each column a simplex."""
    retention = KL(scale=scale, towards=towards)
    first, carried = randn(D, Dv), randn(D, Dv)
    before, after, g = one_token(retention, carried, first, THETA, ALPHA)
    rest = retention.link(first, first)

    def objective(w: Tensor) -> Tensor:
        global_ = kl(w, rest) if retention.returns else (w * w.log()).sum()
        return (w * g).sum() + (1 - ALPHA) / THETA * kl(w, before) + ALPHA / THETA * global_

    torch.testing.assert_close(after, least(objective, simplex(scale), D, Dv), **FOUND)


def test_the_signed_kl_is_that_of_two_simplices() -> None:
    retention, first = KL(scale=2.0, signed=True, towards="zero"), randn(D, Dv)
    carried = randn(D, Dv)
    _, after, g = one_token(retention, carried, first, THETA, ALPHA)
    before = simplex(2.0)(torch.stack([carried, -carried]))

    def objective(w: Tensor) -> Tensor:
        return ((w[0] - w[1]) * g).sum() + ((1 - ALPHA) * kl(w, before) + ALPHA * (w * w.log()).sum()) / THETA

    up, down = least(objective, simplex(2.0), 2, D, Dv)
    torch.testing.assert_close(after, up - down, **FOUND)


@pytest.mark.parametrize("towards", ["initial", "zero"])
def test_the_elastic_net_is_its_objective(towards: str) -> None:
    """MIRAS, eq. 22."""
    retention = ElasticNet(threshold=0.3, towards=towards)
    first, carried = randn(D, Dv), randn(D, Dv)
    before, after, g = one_token(retention, carried, first, THETA, ALPHA)
    rest = first if retention.returns else torch.zeros_like(first)

    def objective(parts: Tensor) -> Tensor:
        w = parts[0] - parts[1]
        local, global_ = (w - before).square().sum(), (w - rest).square().sum()
        return (w * g).sum() + ((1 - ALPHA) * local + ALPHA * global_) / (2 * THETA) + 0.3 / THETA * parts.sum()

    up, down = least(objective, two_parts, 2, D, Dv)
    assert (after == 0).any() and (after != 0).any()
    torch.testing.assert_close(after, up - down, **FOUND)


def test_the_elastic_net_of_the_leader_is_its_objective() -> None:
    """MIRAS, eq. 23 with the one half: all that was written so far, A, against one elastic net."""
    carried = randn(D, Dv)
    _, after, g = one_token(ElasticNetFTRL(threshold=0.3), carried, randn(D, Dv), THETA, 0)
    written = carried - THETA * g

    def objective(parts: Tensor) -> Tensor:
        w = parts[0] - parts[1]
        return -(w * written).sum() + w.square().sum() / 2 + 0.3 * parts.sum()

    up, down = least(objective, two_parts, 2, D, Dv)
    assert (after == 0).any() and (after != 0).any()
    torch.testing.assert_close(after, up - down, **FOUND)


@pytest.mark.parametrize("q", [2.0, 3.0, 4.0])
def test_the_exact_lq_is_its_objective(q: float) -> None:
    """MIRAS, section 5.2: the stability ‖W‖_p² / 2 with 1/p + 1/q = 1."""
    carried, p = randn(D, Dv), q / (q - 1)
    _, after, g = one_token(Lq(q=q, towards="zero"), carried, randn(D, Dv), THETA, ALPHA)
    written = (1 - ALPHA) * carried - THETA * g
    found = least(lambda w: -(w * written).sum() + (w.abs() ** p).sum() ** (2 / p) / 2, lambda free: free + 1e-9, D, Dv)
    torch.testing.assert_close(after, found, rtol=1e-4, atol=1e-4)  # for p < 2 its curvature has no bound at 0


def test_the_sigmoid_is_the_divergence_of_the_binary_entropy() -> None:
    carried = randn(D, Dv)
    before, after, g = one_token(BregmanSigmoid(), carried, randn(D, Dv), THETA, 0)

    def objective(w: Tensor) -> Tensor:
        return (w * g).sum() + (kl(w, before) + kl(1 - w, 1 - before)) / THETA

    torch.testing.assert_close(after, least(objective, torch.sigmoid, D, Dv), **FOUND)


def test_rows_of_one_norm_are_the_nearest() -> None:
    first, carried = randn(D, Dv), randn(D, Dv)
    _, after, g = one_token(RowNorm(), carried, first, THETA, 0)
    sizes, written = first.norm(dim=0), carried - THETA * g
    found = least(lambda w: (w - written).square().sum(), lambda free: sizes * free / free.norm(dim=0), D, Dv)
    torch.testing.assert_close(after, found, **FOUND)


def test_the_printed_lq_is_no_minimiser() -> None:
    """Its direction is not that of the minimiser, and for q = 4 it turns sizes around (MIRAS, eq. 24)."""
    carried = randn(64, 64)
    exact, printed = (Lq(q=4.0, form=form).link(carried, carried) for form in ("exact", "printed"))
    cosine = (exact * printed).sum() / (exact.norm() * printed.norm())
    # of normal entries E[a⁴] / √(E[a²] E[a⁶]) = 3 / √15
    assert float(cosine) == pytest.approx(3 / 15**0.5, abs=0.02)
    for scale in (0.1, 1.0, 10.0):
        size = torch.linalg.vector_norm(scale * carried, 4)
        link = Lq(q=4.0, form="printed").link(scale * carried, carried)
        torch.testing.assert_close(torch.linalg.vector_norm(link, 4), 1 / size, **EXACT)
        torch.testing.assert_close(Lq(q=4.0).link(scale * carried, carried), scale * exact, **EXACT)
    three = Lq(q=3.0, form="printed").link(carried, carried)
    torch.testing.assert_close(torch.linalg.vector_norm(three, 3), torch.tensor(1.0).double(), **EXACT)
    torch.testing.assert_close(Lq(q=2.0).link(carried, carried), carried, **EXACT)


def test_memora_token_by_token_is_one_softmax_of_the_carried_logits() -> None:
    """MIRAS, eq. 27 as printed, with its logarithm, against ``chunk_size=1``."""
    T, initial = 40, randn(1, D, Dv)
    q, k, v = randn(1, 1, T, D), randn(1, 1, T, D), randn(1, 1, T, Dv)
    theta, alpha = (0.1 * torch.rand(1, 1, T, dtype=torch.float64) for _ in range(2))
    W, rows = initial[0].softmax(0), []
    for t in range(T):
        key = k[0, 0, t : t + 1]
        gradient = 2 * key.mT @ (key @ W - v[0, 0, t : t + 1])
        W = ((1 - alpha[0, 0, t]) * W.log() - theta[0, 0, t] * gradient).softmax(0)
        rows.append(q[0, 0, t : t + 1] @ W)
    y, state = memory_scan(
        *(q, k, v, theta, alpha),
        initial=(initial,),
        structure=Matrix(),
        retention=KL(scale=1.0, towards="zero"),
        learning=GradientDescent(normalised=False),
        chunk_size=1,
    )
    torch.testing.assert_close(y[0, 0], torch.cat(rows), **EXACT)
    torch.testing.assert_close(state.weights[0][0, 0], W, **EXACT)
