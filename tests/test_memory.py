"""Laws of the neural memory: causal, the same in any split, gates inside their bounds, its state a faithful file."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import thinned
from titans_seq.errors import ModelError
from titans_seq.memory import CausalConv, MemoryConfig, NeuralMemory, _Unit
from titans_seq.memory_state import MemoryState, load_state, save_state, state_tensors
from titans_seq.miras.bias import BIASES, Huber, HuberSwitch, Robust
from titans_seq.miras.learning import LEARNING, GradientDescent, Momentum, Orthogonalised
from titans_seq.miras.retention import KL, RETENTIONS, Forgetting, NoRetention, RowNorm
from titans_seq.miras.structure import MLP, STRUCTURES, Matrix
from titans_seq.ops.memory_scan import memory_scan

WIDTH, HEADS = 8, 2
EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, entries of order 1
CONFIGS = [
    *(MemoryConfig(structure=structure(), chunk_size=8) for structure in STRUCTURES),
    *(MemoryConfig(bias=bias(), chunk_size=8) for bias in BIASES),
    MemoryConfig(bias=Huber(delta="token"), chunk_size=8),
    MemoryConfig(bias=Robust(delta="learned"), chunk_size=8),
    MemoryConfig(
        bias=HuberSwitch(delta="token"), learning=Momentum(normalised=False), gates="chunk", read="start", chunk_size=8
    ),
    *(MemoryConfig(retention=retention(), chunk_size=8) for retention in RETENTIONS),
    *(
        MemoryConfig(
            learning=learning(normalised=False), chunk_size=8, read="start" if learning.at_chunk_end else "after"
        )
        for learning in LEARNING
    ),
    MemoryConfig(retention=NoRetention(), learning=GradientDescent(), gates="chunk", read="start", chunk_size=8),
    MemoryConfig(retention=RowNorm(), learning=Orthogonalised(step=0.1), read="start", chunk_size=16),
    MemoryConfig(retention=KL(signed=True), structure=Matrix(), chunk_size=4, read="before"),
    MemoryConfig(structure=MLP(norm=True, depth=3, activation="silu"), chunk_size=5, read="before"),
    MemoryConfig(retention=Forgetting(towards="zero"), chunk_size=1, conv=1),
    MemoryConfig(gates="chunk", read="start", chunk_size=8),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def memory_and_input(config: MemoryConfig, length: int = 30, batch: int = 2) -> tuple[NeuralMemory, Tensor]:
    memory = NeuralMemory(WIDTH, HEADS, config).double()
    return memory, torch.randn(batch, length, WIDTH, dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    rows: Tensor = _Unit.apply(x)[0]
    return rows


def assert_states_equal(ours: MemoryState, theirs: MemoryState) -> None:
    found, expected = state_tensors(ours), state_tensors(theirs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **EXACT, msg=lambda m, name=name: f"{name}: {m}")


@every_config
def test_the_memory_is_its_equations(config: MemoryConfig) -> None:
    """Titans, section 4.4, with torch's own functions around `memory_scan`."""
    memory, x = memory_and_input(config)

    def heads(rows: Tensor) -> Tensor:
        return rows.view(2, 30, HEADS, -1).transpose(1, 2)

    mixed = memory.project(x)
    if memory.conv.weight is not None:
        padded = F.pad(mixed.mT, (config.conv - 1, 0))
        mixed = F.conv1d(padded, memory.conv.weight.T[:, None], groups=3 * WIDTH).mT
    mixed = F.silu(mixed)
    q, k, v = (heads(part) for part in mixed.split(WIDTH, -1))
    step, *rest = heads(memory.gates(x)).sigmoid().unbind(-1)
    alpha = rest.pop(0) if config.retention.gated else None
    eta = rest.pop(0) if config.learning.momentum else None
    theta = config.learning.step * step / config.chunk_size * (1 if eta is None else 1 - eta)
    if config.learning.at_chunk_end:
        theta = step
    assert not rest
    delta = None
    if memory.delta is not None:
        logits = memory.delta.bias + (0 if memory.delta.weight is None else x @ memory.delta.weight.T)
        delta = (1 + logits.exp()).log().expand(2, 30, HEADS).transpose(1, 2)
    read, _ = memory_scan(
        *(q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True), v, theta, alpha, eta, delta),
        initial=tuple(memory.initial),
        gain=memory.gain,
        **{
            name: getattr(config, name)
            for name in ("structure", "bias", "retention", "learning", "chunk_size", "read", "gates")
        },
    )
    read = read / (read.square().mean(-1, keepdim=True) + 1e-6).sqrt() * memory.norm[:, None]
    y = memory.out(read.transpose(1, 2).flatten(2) * F.silu(memory.out_gate(x)))
    torch.testing.assert_close(memory(x, memory.initial_state(2))[0], y, **EXACT)


@pytest.mark.parametrize("config", thinned(CONFIGS, 3), ids=range(len(CONFIGS)))
@settings(max_examples=5, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 30), max_size=6).map(sorted))
def test_any_split_of_the_stream_is_one_pass(config: MemoryConfig, cuts: list[int]) -> None:
    memory, x = memory_and_input(config)
    whole, end = memory(x, memory.initial_state(2))
    state, rows = memory.initial_state(2), []
    for part in x.tensor_split(cuts, 1):
        y, state = memory(part, state)
        rows.append(y)
    torch.testing.assert_close(torch.cat(rows, 1), whole, **EXACT)
    assert_states_equal(state, end)
    assert state.position == 30


@every_config
def test_the_future_does_not_reach_the_past(config: MemoryConfig) -> None:
    memory, x = memory_and_input(config)
    changed = x.clone()
    changed[:, 17:] += 10
    before, after = (memory(part, memory.initial_state(2))[0] for part in (x, changed))
    assert torch.equal(before[:, :17], after[:, :17])
    assert not torch.isclose(before[:, 17:], after[:, 17:]).any(-1).all()


@every_config
def test_what_is_recomputed_is_the_same(config: MemoryConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of the backward pass: outputs, final state and gradients."""
    monkeypatch.setattr("titans_seq.pieces.PIECE", 10)
    memory, x = memory_and_input(config)
    x.requires_grad_()
    found = []
    for recompute in (False, True):
        memory.recompute = recompute
        y, state = memory(x, memory.initial_state(2))
        tensors = [y, *(t for t in state_tensors(state).values() if t.is_floating_point())]
        torch.manual_seed(1)
        loss = sum((t * torch.randn_like(t)).sum() for t in tensors)
        found.append([*tensors, *torch.autograd.grad(loss, [x, *memory.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@every_config
def test_rows_of_a_batch_do_not_meet(config: MemoryConfig) -> None:
    memory, x = memory_and_input(config, batch=3)
    together, _ = memory(x, memory.initial_state(3))
    for row in range(3):
        alone, _ = memory(x[row : row + 1], memory.initial_state(1))
        torch.testing.assert_close(alone, together[row : row + 1], **EXACT)


@every_config
def test_gradients_reach_every_parameter(config: MemoryConfig) -> None:
    memory, x = memory_and_input(config)
    y, _ = memory(x, memory.initial_state(2))
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None, f"{name} is dead"
        assert parameter.grad.isfinite().all() and parameter.grad.any(), f"{name} is dead"


@every_config
def test_both_backends_are_one_memory(config: MemoryConfig) -> None:
    memory, x = memory_and_input(config)
    found = []
    for memory.backend in ("chunked", "reference"):
        found.append(memory(x, memory.initial_state(2)))
    with torch.no_grad():
        found.append(memory(x, memory.initial_state(2)))
    for y, state in found[1:]:
        torch.testing.assert_close(y, found[0][0], **EXACT)
        assert_states_equal(state, found[0][1])


def test_keys_of_norm_1_are_torch_s_with_slopes_of_their_slopes() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit(x), F.normalize(x, dim=-1))
    assert torch.autograd.gradcheck(unit, x) and torch.autograd.gradgradcheck(unit, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_keys_of_norm_1_whatever_their_size(dtype: torch.dtype) -> None:
    """From the least normal numbers of float16 to those whose squares leave it; a key of zeros stays one."""
    for size in (0.0, 1e-4, 1.0, 300.0):
        x = torch.full((2, 64), size, dtype=dtype, requires_grad=True)
        norm = unit(x).float().norm(dim=-1)
        torch.testing.assert_close(norm, torch.full_like(norm, float(size > 0)), rtol=1e-2, atol=0)  # bfloat16's digits


def test_what_a_backward_pass_that_reads_again_cannot_do_is_said() -> None:
    memory, x = memory_and_input(MemoryConfig(chunk_size=8))
    memory.recompute = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("titans_seq.pieces.PIECE", 10)
        y, _ = memory(x, memory.initial_state(2))
        with pytest.raises(RuntimeError, match="no slopes of its own: set recompute to False"):
            torch.autograd.grad(y.square().sum(), list(memory.parameters()), create_graph=True)
        given = {name: p.detach().clone().requires_grad_() for name, p in memory.named_parameters()}
        y, _ = torch.func.functional_call(memory, given, (x, memory.initial_state(2)))
        with pytest.raises(RuntimeError, match=r"with other parameters .* set recompute to False"):
            y.square().sum().backward()


@every_config
def test_what_is_written_can_be_read(config: MemoryConfig) -> None:
    """The memory is no bystander: another token in the past changes what a later one reads, beyond the convolution."""
    memory, x = memory_and_input(config)
    changed = x.clone()
    changed[:, 0] = -x[:, 0]
    before, after = (memory(part, memory.initial_state(2))[0][:, config.conv :] for part in (x, changed))
    assert (before - after).abs().amax((1, 2)).min() > 1e-6


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("learning", LEARNING)
def test_gates_are_inside_their_bounds(
    learning: type[Any], retention: type[Any], dtype: torch.dtype, scale: float
) -> None:
    config = MemoryConfig(learning=learning(step=0.7), retention=retention(), chunk_size=16, read="start")
    memory = NeuralMemory(WIDTH, HEADS, config).to(dtype)
    theta, alpha, eta = memory.gate_values(scale * torch.randn(3, 50, WIDTH, dtype=dtype))
    assert (alpha is not None) == config.retention.gated and (eta is not None) == config.learning.momentum
    assert theta.shape == (3, HEADS, 50) and {gate.shape for gate in (alpha, eta) if gate is not None} <= {theta.shape}
    past = torch.zeros_like(theta) if eta is None else eta
    bound = torch.ones_like(theta) if learning.at_chunk_end else 0.7 * (1 - past) / 16
    assert (theta >= 0).all() and (theta <= bound * (1 + torch.finfo(dtype).eps)).all()
    assert all(((gate >= 0) & (gate <= 1)).all() for gate in (alpha, eta) if gate is not None)


@pytest.mark.parametrize("retention", RETENTIONS)
def test_a_memory_begins_with_the_norms_of_an_ordinary_one(retention: type[Any]) -> None:
    """A last layer is small, at 0.1; a softmax of one sign has no column that small, nor has what is held."""
    torch.manual_seed(3)
    ordinary = NeuralMemory(256, 4, MemoryConfig()).initial_state(1).scan.weights
    torch.manual_seed(3)
    found = NeuralMemory(256, 4, MemoryConfig(retention=retention())).initial_state(1).scan.weights
    for level, (w, w0) in enumerate(zip(found, ordinary, strict=True)):
        most = 11 if level and (retention is KL or retention.holds_norms) else 1.25
        assert 0.8 < w.norm() / w0.norm() < most


def test_gates_begin_where_the_docstring_says() -> None:
    memory = NeuralMemory(WIDTH, HEADS, MemoryConfig())
    theta, alpha, eta = memory.gate_values(torch.zeros(1, 1, WIDTH))
    assert eta is not None
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.018), atol=1e-3, rtol=0)
    torch.testing.assert_close(eta, torch.full_like(eta, 0.269), atol=1e-3, rtol=0)
    torch.testing.assert_close(theta, 0.5 * (1 - eta) / 32)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("made", ["learned", "token"])
def test_delta_begins_at_the_size_of_a_value_and_stays_positive(made: Any, channels: bool) -> None:
    memory = NeuralMemory(16, HEADS, MemoryConfig(bias=(Huber if channels else Robust)(delta=made)))
    assert memory.delta is not None
    first = 0.25 * (1 if channels else 8**0.5)
    torch.testing.assert_close(memory.delta(torch.zeros(3, 5, 16)), torch.full((3, HEADS, 5), first))
    delta = memory.delta(10 * torch.randn(3, 500, 16))
    assert (delta > 0).all() and (delta[0, 0].unique().numel() > 1) == (made == "token")


def test_a_delta_of_its_own_adds_nothing_to_the_weights() -> None:
    fixed = NeuralMemory(WIDTH, HEADS, MemoryConfig(bias=Huber())).state_dict()
    assert fixed.keys() == NeuralMemory(WIDTH, HEADS, MemoryConfig()).state_dict().keys()


@pytest.mark.parametrize("config", [MemoryConfig(), MemoryConfig(structure=MLP(norm=True))], ids=["plain", "norm"])
def test_saturated_gates_give_finite_values_and_gradients(config: MemoryConfig) -> None:
    """Logits of ±200: α and η are 0 and 1 to the last bit in float32."""
    memory = NeuralMemory(WIDTH, HEADS, config)
    x = torch.randn(2, 70, WIDTH)
    for sign in (200.0, -200.0):
        for gate in range(3):
            with torch.no_grad():
                memory.gates.bias.zero_()
                memory.gates.bias[gate::3] = sign
            y, state = memory(x, memory.initial_state(2))
            memory.zero_grad()
            y.square().sum().backward()
            assert y.isfinite().all() and all(t.isfinite().all() for t in state_tensors(state).values())
            assert all(p.grad is not None and p.grad.isfinite().all() for p in memory.parameters())


def test_autocast_keeps_the_memory_in_float32() -> None:
    memory = NeuralMemory(32, 2, MemoryConfig())
    x = torch.randn(2, 100, 32)
    full, _ = memory(x, memory.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        y, state = memory(x, memory.initial_state(2))
    assert state.scan is not None
    assert {w.dtype for group in state.scan[:3] for w in group} == {torch.float32}
    # bfloat16 has 8 bits, 0.4 %; five matrix products and roundings in a row: 1.3 % of the largest entry measured
    assert (y.float() - full).abs().max() < 0.03 * full.abs().max()


def test_convolution_is_causal_convolution() -> None:
    conv = CausalConv(6, 4).double()
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    y, tail = conv(x, conv.initial_tail(x, 2))
    padded = F.pad(x.mT, (3, 0))
    expected = F.conv1d(padded, conv.weight.T[:, None], groups=6).mT
    torch.testing.assert_close(y, expected, **EXACT)
    assert torch.equal(tail, x[:, -3:])


@pytest.mark.parametrize("shape", [(2, 700, 200, 32), (300, 5, 256, 4), (1, 3, 2, 8)], ids=str)
def test_slopes_of_the_convolution_are_torch_s(shape: tuple[int, int, int, int]) -> None:
    """In many pieces of time, in many of the batch, and with a kernel longer than the rows."""
    B, T, D, K = shape
    conv = CausalConv(D, K).double()
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(B, T, D, dtype=torch.float64)  # of each output
    assert conv.weight is not None
    found = torch.autograd.grad((conv(x, conv.initial_tail(x, B))[0] * weight).sum(), (x, conv.weight))
    y = F.conv1d(F.pad(x.mT, (K - 1, 0)), conv.weight.T[:, None], groups=D).mT
    torch.testing.assert_close(found, torch.autograd.grad((y * weight).sum(), (x, conv.weight)), **EXACT)


def test_retrieve_reads_as_forward_does_and_writes_nothing() -> None:
    """With θ = 0 and α = 0 a pass of the memory is a mere read."""
    memory, x = memory_and_input(MemoryConfig(chunk_size=8))
    with torch.no_grad():
        memory.gates.weight.zero_()
        memory.gates.bias.fill_(-1000)
    state = memory.initial_state(2)
    y, after = memory(x, state)
    assert state.scan is not None and state.tails is not None and after.tails is not None
    read, tail = memory.retrieve(x, state.scan, state.tails[..., :WIDTH])
    torch.testing.assert_close(read, y, **EXACT)
    torch.testing.assert_close(tail, after.tails[..., :WIDTH], **EXACT)


def test_config_round_trip() -> None:
    for config in CONFIGS:
        assert MemoryConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="chunksize"):
        MemoryConfig.model_validate({"chunksize": 8})
    with pytest.raises(ValidationError, match="kind"):
        MemoryConfig.model_validate({"structure": {"kind": "tensor"}})


@pytest.mark.parametrize("wrong", [{"gates": "chunk"}, {"learning": {"kind": "orthogonalised"}}], ids=str)
def test_what_writes_at_a_chunk_s_end_is_read_at_its_start(wrong: dict[str, Any]) -> None:
    for read in ("after", "before"):
        with pytest.raises(ValidationError, match=r"needs? read: start, since what a chunk writes is known at its end"):
            MemoryConfig.model_validate(wrong | {"read": read})
    assert MemoryConfig.model_validate(wrong | {"read": "start"}).read == "start"


# the state as a file


@pytest.fixture
def saved(tmp_path: Path) -> tuple[NeuralMemory, MemoryState, Path]:
    """A memory in the middle of a chunk, and its file."""
    memory, x = memory_and_input(MemoryConfig(chunk_size=8), length=13)
    _, state = memory(x, memory.initial_state(2))
    save_state(state, tmp_path / "state.safetensors")
    return memory, state, tmp_path / "state.safetensors"


def test_a_delta_that_could_not_be_trained_is_refused() -> None:
    for delta in ("learned", "token"):
        with pytest.raises(ValidationError, match=f"delta: {delta} would never be trained; set learning.normalised"):
            MemoryConfig(bias=HuberSwitch(delta=delta))
        MemoryConfig(bias=HuberSwitch(delta=delta), learning=Momentum(normalised=False))
        MemoryConfig(bias=Huber(delta=delta))


def test_a_saved_state_is_the_state(saved: tuple[NeuralMemory, MemoryState, Path]) -> None:
    memory, state, path = saved
    again = load_state(path, memory.initial_state(2))
    expected = state_tensors(state)
    for name, tensor in state_tensors(again).items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name])
    assert isinstance(again.position, int) and again.scan is not None and isinstance(again.scan.offset, int)
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    assert torch.equal(memory(x, again)[0], memory(x, state)[0])


@pytest.mark.parametrize(
    "config",
    [
        MemoryConfig(structure=MLP(expansion=3.0), chunk_size=8),
        MemoryConfig(structure=MLP(depth=1), chunk_size=8),  # fewer layers: all that it asks for is in the file
        MemoryConfig(structure=MLP(depth=3), chunk_size=8),
        MemoryConfig(conv=2, chunk_size=8),
    ],
    ids=["wider", "shallower", "deeper", "shorter convolution"],
)
def test_a_state_of_another_memory_is_refused(
    saved: tuple[NeuralMemory, MemoryState, Path], config: MemoryConfig
) -> None:
    other = NeuralMemory(WIDTH, HEADS, config).double()
    with pytest.raises(ModelError, match=r"state\.safetensors"):
        load_state(saved[2], other.initial_state(2))


def test_a_state_of_another_batch_is_refused(saved: tuple[NeuralMemory, MemoryState, Path]) -> None:
    with pytest.raises(ModelError, match="expects"):
        load_state(saved[2], saved[0].initial_state(3))


def test_a_truncated_file_is_refused(saved: tuple[NeuralMemory, MemoryState, Path]) -> None:
    memory, _, path = saved
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"state\.safetensors is not a memory state"):
            load_state(path, memory.initial_state(2))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.safetensors"):
        load_state(tmp_path / "none.safetensors", MemoryState())


def test_a_tensor_that_is_not_finite_is_refused(saved: tuple[NeuralMemory, MemoryState, Path]) -> None:
    memory, _, path = saved
    tensors = load_file(path)
    tensors["scan.weights.1"][0, 0, 0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"state\.safetensors: scan\.weights\.1 is not finite"):
        load_state(path, memory.initial_state(2))


@pytest.mark.parametrize("change", ["lacks", "adds", "vector for a number", "number for a vector"])
def test_a_file_of_another_form_is_refused(saved: tuple[NeuralMemory, MemoryState, Path], change: str) -> None:
    memory, _, path = saved
    tensors = load_file(path)
    if change == "lacks":
        del tensors["scan.momentum.0"]
    elif change == "adds":
        tensors["scan.momentum.2"] = tensors["scan.momentum.1"].clone()
    elif change == "vector for a number":
        tensors["scan.offset"] = torch.zeros(2, dtype=torch.int64)
    else:
        tensors["tails"] = torch.tensor(3)
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"state\.safetensors"):
        load_state(path, memory.initial_state(2))


def test_an_interrupted_save_leaves_the_old_file(
    saved: tuple[NeuralMemory, MemoryState, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, state, path = saved
    before = path.read_bytes()

    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save", broken)
    with pytest.raises(KeyboardInterrupt):
        save_state(state, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_momentum_is_the_default() -> None:
    assert isinstance(MemoryConfig().learning, Momentum)
