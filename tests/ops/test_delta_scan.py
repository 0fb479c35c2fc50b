"""Laws of the delta scan: every backend against the printed recurrence, and that against the models it stands for."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from delta_scans import PLAIN, problem, same
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import ALONG_ONE_DIRECTION
from torch import Tensor

from tests.conftest import thinned
from titans_seq.ops.delta_scan import Backend, chunked, delta_scan

PARALLEL = PLAIN[1:]
DECAYS = ["none", "head", "channel"]


@pytest.mark.parametrize("backend", PARALLEL)
@pytest.mark.parametrize("length", thinned([65, 1, 7, 200, 63, 64]))
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("erases", [False, True], ids=["adds", "erases"])
@pytest.mark.parametrize("decay", DECAYS)
def test_every_backend_is_the_printed_recurrence(
    decay: str, erases: bool, steps: int, length: int, backend: Backend
) -> None:
    p = problem(decay, erases, steps, length)
    expected = p.all("reference")
    same(p.all(backend), expected)
    with torch.no_grad():
        same(p.run(backend), {name: expected[name] for name in ("y", "memory")})


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("length", [20, 64, 200])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("erases", [False, True], ids=["adds", "erases"])
@pytest.mark.parametrize("decay", DECAYS)
@torch.no_grad()
def test_without_gradients_it_is_the_same_and_what_is_given_stays(
    decay: str, erases: bool, steps: int, length: int, heads: int
) -> None:
    given = problem(decay, erases, steps, length, (1, heads, 4, 3))
    before = {name: leaf.clone() for name, leaf in given.leaves().items()}
    same(given.run("chunked"), given.run("reference"))
    assert all(torch.equal(leaf, before[name]) for name, leaf in given.leaves().items())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_split_of_the_stream_is_one_pass(data: st.DataObject) -> None:
    T = data.draw(st.integers(1, 80), "length")
    cuts = tuple(sorted(data.draw(st.lists(st.integers(0, T), max_size=6), "cuts")))  # twice the same: an empty part
    decay = data.draw(st.sampled_from(DECAYS), "decay")
    p = problem(decay, data.draw(st.booleans(), "erases"), data.draw(st.integers(1, 3), "steps"), T)
    same(p.all("chunked", cuts), p.all("chunked"))


@pytest.mark.parametrize("tile", [1, 4, 128])
@pytest.mark.parametrize("steps", [1, 3])
def test_tile_and_block_are_no_mathematics(tile: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(steps=steps, length=150)
    expected = p.all("reference")
    monkeypatch.setattr(chunked, "TILE", tile)
    monkeypatch.setattr(chunked, "BLOCK", 40)
    same(p.all("chunked"), expected)


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("decay", DECAYS)
def test_gradients_agree_with_finite_differences(decay: str, steps: int, backend: Backend) -> None:
    p = problem(decay, True, steps, 5, (1, 1, 2, 2))
    names = list(p.leaves())

    def scan(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(p._replace(**dict(zip(names, values, strict=True))).run(backend).values())

    leaves = tuple(leaf.requires_grad_() for leaf in p.leaves().values())
    assert torch.autograd.gradcheck(scan, leaves, **ALONG_ONE_DIRECTION)


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("decay", DECAYS)
def test_the_future_does_not_reach_the_past(decay: str, backend: Backend) -> None:
    p = problem(decay, length=70)
    changed = p._replace(**{name: leaf.clone() for name, leaf in p.leaves().items()})
    for name, leaf in changed.leaves().items():
        if name != "memory":
            leaf[:, :, 40:] += -100 if name == "log_decay" else 100
    before, after = p.run(backend)["y"], changed.run(backend)["y"]
    assert torch.equal(before[:, :, :40], after[:, :, :40])
    assert not torch.equal(before[:, :, 40:], after[:, :, 40:])


@pytest.mark.parametrize("backend", PARALLEL)
@pytest.mark.parametrize("erases", [False, True], ids=["adds", "erases"])
@pytest.mark.parametrize("decay", ["head", "channel"])
def test_decays_of_nothing_and_of_everything(decay: str, erases: bool, backend: Backend) -> None:
    p = problem(decay, erases, 2, 150, ends=True)
    same(p.all(backend), p.all("reference"))
    same(p.to(torch.float32).all(backend), p.all("reference"), 5e-6)  # measured 4e-7


@pytest.mark.parametrize("log_decay", [-torch.inf, -13.8, -0.5, 0.0])
@pytest.mark.parametrize("decay", ["head", "channel"])
def test_the_same_decay_at_every_token(decay: str, log_decay: float) -> None:
    """A tile's product is down to 1e-192 at 1e-6 a token, far below float32."""
    p = problem(decay, True, 1, 150)
    assert p.log_decay is not None
    p = p._replace(log_decay=torch.full_like(p.log_decay, log_decay))
    same(p.all("chunked"), p.all("reference"))
    same(p.to(torch.float32).run("chunked"), p.run("reference"), 5e-6)  # measured 7e-7


@pytest.mark.parametrize("erases", [False, True], ids=["adds", "erases"])
@pytest.mark.parametrize("decay", DECAYS)
def test_float32_rounds_as_the_token_loop_does(decay: str, erases: bool) -> None:
    """Outputs, memory and gradients over 1,000 tokens; the token loop itself is off by 8e-7."""
    p = problem(decay, erases, 1, 1000, (1, 2, 16, 16))
    same(p.to(torch.float32).all("chunked"), p.all("reference"), 5e-6)  # measured 5e-7


def test_one_key_repeated_ten_thousand_times() -> None:
    """DeltaNet with β = 1 replaces the value at each token; a power series of the inverse would end in noise."""
    key = F.normalize(torch.ones(1, 1, 1, 64), dim=-1).expand(-1, -1, 10_000, -1)
    v = torch.randn(1, 1, 10_000, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y, _ = delta_scan(key, key, v, erase=(key, key))
    torch.testing.assert_close(y, v, rtol=0, atol=2e-5)  # measured 4e-6, the token loop too


@pytest.mark.parametrize("backend", PLAIN)
def test_autocast_and_half_precision_leave_the_memory_in_float32(backend: Backend) -> None:
    p = problem(length=40).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = p.run(backend)
    assert found["y"].dtype == torch.bfloat16 and found["memory"].dtype == torch.float32
    torch.testing.assert_close(found["memory"], p.to(torch.float32).run(backend)["memory"])


@pytest.mark.parametrize("backend", PLAIN)
def test_no_tokens_change_nothing(backend: Backend) -> None:
    p = problem(length=3)
    nothing = p._replace(**{name: leaf[:, :, :0] for name, leaf in p.leaves().items() if name != "memory"})
    found = nothing.run(backend)
    assert found["y"].shape == (2, 2, 0, 3) and torch.equal(found["memory"], p.memory)


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("decay", ["head", "channel"])
def test_a_batch_of_nothing_gives_nothing(decay: str, backend: Backend) -> None:
    p = problem(length=40, decay=decay)
    nothing = p._replace(**{name: leaf[:0] for name, leaf in p.leaves().items()})
    assert nothing.run(backend)["y"].shape == (0, 2, 40, 3)


# Named recurrences, each as its paper prints it: S (Dv, D) with columns for vectors, one head, token by token.


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Tokens(NamedTuple):
    """Quantities that a model makes of its tokens: T rows of D, and gates in (0, 1)."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor  # (T,)
    channels: Tensor  # (T, D)
    beta: Tensor  # (T,)


T, D, DV = 70, 5, 3
TOKENS = Tokens(
    drawn(T, D, seed=0),
    F.normalize(drawn(T, D, seed=1), dim=-1),
    drawn(T, DV, seed=2),
    torch.sigmoid(2 + drawn(T, seed=3)),
    torch.sigmoid(2 + drawn(T, D, seed=4)),
    torch.sigmoid(drawn(T, seed=5)),
)
Step = Callable[[Tensor, int], Tensor]
Fed = tuple[Tensor, Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]  # q, k, v, log_decay, erase
eye = torch.eye(D, dtype=torch.float64)


def linear_attention(x: Tokens) -> tuple[Step, Fed]:
    """Katharopoulos et al. 2020, without feature map and normaliser: S_t = S_{t-1} + v kᵀ."""
    return lambda S, t: S + torch.outer(x.v[t], x.k[t]), (x.q, x.k, x.v, None, None)


def retnet(x: Tokens) -> tuple[Step, Fed]:
    """RetNet (2023), Lightning attention (2025): S_t = γ S_{t-1} + v kᵀ, γ = 1 - 2^(-5) fixed for the head."""
    gamma = 1 - 2**-5
    log_decay = torch.full((T,), gamma, dtype=torch.float64).log()
    return lambda S, t: gamma * S + torch.outer(x.v[t], x.k[t]), (x.q, x.k, x.v, log_decay, None)


def gla(x: Tokens) -> tuple[Step, Fed]:
    """Gated linear attention (2023): S_t = S_{t-1} Diag(α_t) + v kᵀ."""
    return (
        lambda S, t: S @ torch.diag(x.channels[t]) + torch.outer(x.v[t], x.k[t]),
        (x.q, x.k, x.v, x.channels.log(), None),
    )


def mamba2(x: Tokens) -> tuple[Step, Fed]:
    """Mamba-2 (2024), state-space dual: h_t = exp(-Δ_t exp(A)) h_{t-1} + Δ_t x_t B_tᵀ, y_t = h_t C_t."""
    A, delta = -0.5, F.softplus(drawn(T, seed=6))
    rate = -delta * torch.tensor(A, dtype=torch.float64).exp()
    return (
        lambda h, t: rate[t].exp() * h + delta[t] * torch.outer(x.v[t], x.k[t]),
        (x.q, x.k, delta[:, None] * x.v, rate, None),
    )


def hgrn2(x: Tokens) -> tuple[Step, Fed]:
    """HGRN2 (2024): S_t = S_{t-1} Diag(f_t) + i_t (1 - f_t)ᵀ."""
    return (
        lambda S, t: S @ torch.diag(x.channels[t]) + torch.outer(x.v[t], 1 - x.channels[t]),
        (x.q, 1 - x.channels, x.v, x.channels.log(), None),
    )


def deltanet(x: Tokens) -> tuple[Step, Fed]:
    """DeltaNet (Schlag et al. 2021): S_t = S_{t-1} - β (S_{t-1} k - v) kᵀ."""
    beta_k = x.beta[:, None] * x.k
    return (
        lambda S, t: S - x.beta[t] * torch.outer(S @ x.k[t] - x.v[t], x.k[t]),
        (x.q, beta_k, x.v, None, (x.k, beta_k)),
    )


def gated_deltanet(x: Tokens) -> tuple[Step, Fed]:
    """Gated DeltaNet (2024): S_t = S_{t-1} α (I - β k kᵀ) + β v kᵀ."""
    beta_k = x.beta[:, None] * x.k
    return (
        lambda S, t: (
            S @ (x.gate[t] * (eye - x.beta[t] * torch.outer(x.k[t], x.k[t]))) + x.beta[t] * torch.outer(x.v[t], x.k[t])
        ),
        (x.q, beta_k, x.v, x.gate.log(), (x.gate[:, None] * x.k, beta_k)),
    )


def longhorn(x: Tokens) -> tuple[Step, Fed]:
    """Longhorn (2024): S_t = argmin ‖S - S_{t-1}‖² + β ‖S k - v‖², solved here as a linear system; k not normed."""
    k = drawn(T, D, seed=7)
    step = (x.beta / (1 + x.beta * k.square().sum(-1)))[:, None] * k

    def solved(S: Tensor, t: int) -> Tensor:
        right = S + x.beta[t] * torch.outer(x.v[t], k[t])
        return torch.linalg.solve(eye + x.beta[t] * torch.outer(k[t], k[t]), right, left=False)

    return solved, (x.q, step, x.v, None, (k, step))


def deltaproduct(x: Tokens) -> tuple[Step, Fed]:
    """Gated DeltaProduct (2025), three steps a token with β to 2: S_0 = α S, S_j = S_{j-1}(I - β_j k_j k_jᵀ) + ..."""
    k, v = F.normalize(drawn(T, 3, D, seed=8), dim=-1), drawn(T, 3, DV, seed=9)
    beta = 2 * torch.sigmoid(drawn(T, 3, seed=10))

    def steps(S: Tensor, t: int) -> Tensor:
        S = x.gate[t] * S
        for j in range(3):
            S = S @ (eye - beta[t, j] * torch.outer(k[t, j], k[t, j])) + beta[t, j] * torch.outer(v[t, j], k[t, j])
        return S

    a = torch.stack([x.gate[:, None] * k[:, 0], k[:, 1], k[:, 2]], 1)
    return steps, (x.q, beta[..., None] * k, v, x.gate.log(), (a, beta[..., None] * k))


def rwkv7(x: Tokens) -> tuple[Step, Fed]:
    """RWKV-7 (2025): S_t = S_{t-1}(diag(w) - κ̂ (a ⊙ κ̂)ᵀ) + v k̃ᵀ, the write key k̃ apart from the removal key κ̂."""
    kappa, rate = F.normalize(drawn(T, D, seed=11), dim=-1), torch.sigmoid(drawn(T, D, seed=12))
    return (
        lambda S, t: (
            S @ (torch.diag(x.channels[t]) - torch.outer(kappa[t], rate[t] * kappa[t])) + torch.outer(x.v[t], x.k[t])
        ),
        (x.q, x.k, x.v, x.channels.log(), (kappa, rate * kappa)),
    )


MODELS = [linear_attention, retnet, gla, mamba2, hgrn2, deltanet, gated_deltanet, longhorn, deltaproduct, rwkv7]


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_named_recurrences(model: Callable[[Tokens], tuple[Step, Fed]], backend: Backend) -> None:
    step, (q, k, v, log_decay, erase) = model(TOKENS)
    S, rows = torch.zeros(DV, D, dtype=torch.float64), []
    for t in range(T):
        S = step(S, t)
        rows.append(S @ q[t])
    pair = None if erase is None else (erase[0][None, None], erase[1][None, None])
    y, state = delta_scan(
        q[None, None],
        k[None, None],
        v[None, None],
        None if log_decay is None else log_decay[None, None],
        pair,
        backend=backend,
    )
    same({"y": y[0, 0], "S": state.memory[0, 0].mT}, {"y": torch.stack(rows), "S": S})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"q": torch.zeros(2, 2, 20)}, r"q must have shape \(B, H, T, D\)"),
        ({"k": torch.zeros(2, 2, 20, 5)}, r"k must have shape .*\(2, 2, 20, 4\).*got \(2, 2, 20, 5\)"),
        ({"k": torch.zeros(2, 2, 20, 0, 4)}, r"k must have shape .*got \(2, 2, 20, 0, 4\)"),
        ({"v": torch.zeros(2, 2, 20, 1, 3)}, r"v must have shape \(B, H, T, Dv\).*got \(2, 2, 20, 1, 3\)"),
        ({"log_decay": torch.zeros(2, 2, 20, 1)}, r"log_decay must have shape \(B, H, T\) = \(2, 2, 20\) or"),
        ({"b": torch.zeros(2, 2, 20, 1)}, r"b of erase must have the shape of k, \(2, 2, 20, 4\)"),
        (
            {"memory": torch.zeros(2, 2, 3, 4)},
            r"state holds memories of shape \(2, 2, 3, 4\).*\(2, 2, 4, 3\)",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_shapes_are_explained(wrong: dict[str, Tensor], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        problem()._replace(**wrong).run("chunked")


def test_an_unknown_backend_is_explained() -> None:
    with pytest.raises(ValueError, match="backend must be auto or one of reference, chunked, triton, got 'loop'"):
        problem().run("loop")  # type: ignore[arg-type]
