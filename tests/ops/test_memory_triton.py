"""Laws of the memory scan's kernels, interpreted on a CPU; `test_memory_gpu` has those of a GPU."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scans import Problem, compare, covering, named, problem
from torch import Tensor

from tests.conftest import thinned
from titans_seq.memory import MemoryConfig, NeuralMemory
from titans_seq.miras.bias import L1, L2, DotProduct, Huber, Lp
from titans_seq.miras.learning import GradientDescent, Momentum
from titans_seq.miras.retention import KL, Forgetting, NoRetention
from titans_seq.miras.structure import MLP, Matrix, Vector
from titans_seq.ops import kernels
from titans_seq.ops.memory_scan import memory_scan, triton

# Largest errors of outputs and of gradients, each relative to the largest entry of its tensor.
# float32 is rounded to 2^-24 = 6e-8 in sums of up to 256 terms, ten in a row; slopes of α are sums of what a memory
# has changed, and lose some digits. Measured over all cases at most 1.1e-6 and 1.6e-5 (chunked: 6e-7 and 3.4e-5).
FLOAT32 = (3e-6, 5e-5)
# float16 rounds operands to 2^-11 = 5e-4 before each product. Measured at most 8.5e-4 and 6.8e-3, the last under L1,
# whose curvature is 10 here.
FLOAT16 = (3e-3, 1.5e-2)

AXES: dict[str, list[Any]] = {
    "structure": [
        Matrix(),
        MLP(expansion=1.0),
        MLP(expansion=2.0, activation="silu", norm=True),
        MLP(expansion=1.0, norm=True),
        MLP(depth=1, norm=True),
    ],
    "bias": [L2(), Huber(), Lp(), L1(smooth=1e-2), Lp(p=2.5)],
    "retention": [Forgetting(), Forgetting(towards="zero"), NoRetention()],
    "learning": [Momentum(), GradientDescent(), Momentum(normalised=False), GradientDescent(normalised=False)],
    "delta": ["fixed", "head", "channel"],
    "theta": ["head", "channel"],
    "read": ["after", "before", "start"],
    # B, H, width, tokens, chunk: what is one token, one less and more than a whole chunk, several chunks and rows
    "shape": [(2, 2, 32, 17, 16), (1, 2, 32, 63, 64), (1, 1, 32, 66, 64), (2, 1, 16, 1, 32), (1, 1, 64, 50, 24)],
    "begin": ["fresh", "closed", "open"],
    "dtype": [torch.float32, torch.float16],
}
CASES = list(covering(AXES))


def case_id(case: dict[str, Any]) -> str:
    return "/".join(named(value) for value in case.values())


def made(case: dict[str, Any]) -> tuple[Problem, Problem]:
    """The same scan for the kernels, and in float64 for the reference: of numbers that both have."""
    case = dict(case)
    dtype, (B, H, D, T, C) = case.pop("dtype"), case.pop("shape")
    exact = problem(case.pop("structure"), length=T, chunk_size=C, size=(B, H, D, D), **case)
    ours = exact.to("cpu", dtype, torch.float32)
    return ours, ours.to("cpu", torch.float64, torch.float64)


@pytest.mark.parametrize("case", thinned(CASES, 9), ids=case_id)
def test_kernels_are_the_printed_recurrence(case: dict[str, Any]) -> None:
    compare(*made(case), FLOAT16 if case["dtype"] == torch.float16 else FLOAT32)


def small(**changes: Any) -> dict[str, Any]:
    """A case of two rows and three chunks."""
    case = {"structure": MLP(expansion=1.0), "shape": (1, 2, 32, 44, 16), "dtype": torch.float32}
    return case | {"bias": L2(), "retention": Forgetting(), "learning": Momentum()} | changes


@pytest.mark.parametrize("gates", thinned(["token", "chunk"]))
def test_any_split_of_the_stream_is_one_pass(gates: str) -> None:
    changes = {"gates": gates, "read": "start"} if gates == "chunk" else {}
    compare(*made(small(**changes)), FLOAT32, cuts=(0, 5, 16, 17, 37))


@pytest.mark.soak
@pytest.mark.parametrize("learning", [Momentum(), GradientDescent()], ids=named)
def test_memories_that_are_made_once_more_change_nothing(learning: Momentum | GradientDescent) -> None:
    case = small(learning=learning)
    ours, _ = made(case)
    whole = ours.run(backends=("triton",))
    slopes = ours.gradients(whole)
    ours, theirs = made(case | {"held": 40_000})  # a chunk or two
    found = ours.run(backends=("triton",))
    assert all(torch.equal(found[name], part) for name, part in whole.items())
    again = ours.gradients(found)
    # but for sums over chunks, which are taken group by group
    summed = {name for name in slopes if name.startswith("dinitial")}
    assert all(torch.equal(again[name], part) for name, part in slopes.items() if name not in summed)
    compare(ours, theirs, FLOAT32)


@pytest.mark.soak
def test_same_input_gives_same_bits() -> None:
    found = []
    for _ in range(2):
        ours, _ = made(small())
        results = ours.run(backends=("triton",))
        found.append(results | ours.gradients(results))
    assert all(torch.equal(part, found[1][name]) for name, part in found[0].items())


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"structure": Vector()}, "structure matrix or mlp"),
        ({"structure": MLP(depth=3)}, "one or two layers"),
        ({"structure": MLP(expansion=0.5)}, "1 to 4 times as wide"),
        ({"bias": DotProduct()}, "bias l2 or huber or lp or l1"),
        ({"retention": KL()}, "retention none or forgetting"),
        ({"shape": (1, 1, 24, 20, 16)}, "heads of width 16, 32, 64, 128"),
        ({"shape": (1, 1, 32, 20, 65)}, "chunk_size 64 or less"),
        ({"dtype": torch.float64}, "float32, bfloat16 or float16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_kernel_is_for_is_refused_with_what_is_needed(changes: dict[str, Any], needs: str) -> None:
    with pytest.raises(ValueError, match=f"no Triton kernel for this: kernels need .*{needs}.* Use backend auto"):
        made(small(**changes))[0].run(backends=("triton",))


def test_auto_says_once_why_it_does_without_kernels(caplog: pytest.LogCaptureFixture) -> None:
    def works(device: str) -> None: ...
    def fails(device: str) -> None:
        raise RuntimeError("no compiler")

    def chosen(lacking: str = "", dtype: str = "torch.bfloat16", probe: Any = works, device: str = "cuda") -> bool:
        with caplog.at_level(logging.WARNING, "titans_seq"):
            return all(kernels.use_triton("a_scan", "auto", device, dtype, lacking, probe) for _ in range(2))

    assert chosen() and not caplog.records
    assert not chosen(device="cpu") and not caplog.records
    for lacking, dtype, probe, reason in (
        ("a matrix", "torch.bfloat16", works, "kernels need a matrix"),
        ("", "torch.float32", works, "set_float32_matmul_precision"),
        ("", "torch.bfloat16", fails, "its kernels fail on this machine (RuntimeError: no compiler)"),
    ):
        caplog.clear()
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            assert not chosen(lacking, dtype, probe)
        finally:
            torch.set_float32_matmul_precision(before)
        (record,) = caplog.records
        assert reason in record.message and "a_scan runs in PyTorch" in record.message


def test_without_triton_auto_goes_on_and_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "missing", lambda: "triton cannot be imported (gone)")
    assert not kernels.use_triton("another_scan", "auto", "cuda", "torch.bfloat16", "", lambda device: None)
    with pytest.raises(ValueError, match="gone"):
        kernels.use_triton("another_scan", "triton", "cuda", "torch.bfloat16", "", lambda device: None)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_kernels_are_tried_forward_and_back_whatever_the_first_call_is(mode: Any) -> None:
    def probe(device: str) -> None:
        row = torch.ones(2, 2, requires_grad=True)
        assert (row @ row).dtype == torch.float32
        row.sum().backward()

    with mode():
        assert kernels._failing(probe, "cpu") == ""


def test_a_gpu_with_too_little_shared_memory_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    q = SimpleNamespace(is_cuda=True, shape=(1, 1, 64, 128), device="cuda")
    rule = SimpleNamespace(initial=(1, 2), chunk_size=40)
    limits = {"sm_80": 166_912, "sm_89": 101_376, "sm_90": 232_448}
    for dtype, fits in ((torch.float32, []), (torch.bfloat16, ["sm_80", "sm_90"])):
        for name, limit in limits.items():
            properties = SimpleNamespace(shared_memory_per_block_optin=limit)
            monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=properties: found)
            told = triton._too_large(SimpleNamespace(q=q), rule, dtype)  # type: ignore[arg-type]
            assert (told == "") == (name in fits) and (not told or f"this GPU has {limit:,}" in told)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_gates_by_chunk_where_a_chunk_is_open(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    row = F.normalize(torch.randn(1, 1, 20, 32, generator=g), dim=-1)
    q, gate = row.to(dtype), torch.full((1, 1, 20), 0.01)
    options: dict[str, Any] = {"initial": (torch.eye(32)[None],), "structure": Matrix(), "chunk_size": 16}
    options |= {"read": "start", "gates": "chunk"}
    found, _ = memory_scan(q, q, q, gate, gate, gate, backend="triton", **options)
    expected, _ = memory_scan(row, row, row, gate, gate, gate, backend="chunked", **options)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 2e-3)


# --- as a part of torch


def layer(**options: Any) -> tuple[NeuralMemory, Tensor]:
    torch.manual_seed(0)
    memory = NeuralMemory(64, 2, MemoryConfig(structure=MLP(expansion=1.0), chunk_size=16, **options))
    memory.backend = "triton"
    return memory, torch.randn(1, 40, 64)


def weighed(y: Tensor) -> Tensor:
    """A loss that every entry has its own share of."""
    return (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)).sum()


def gradients(memory: NeuralMemory, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(weighed(y), list(memory.parameters())))


def test_the_operator_keeps_torch_s_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    from titans_seq.ops.memory_scan.triton import operator

    given: list[Any] = []
    monkeypatch.setattr(operator, "_forward", lambda *arguments: given.extend(arguments) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(small(shape=(1, 1, 32, 20, 16)))[0].run(backends=("triton",))
    leaves = tuple(a.detach().requires_grad_() if isinstance(a, Tensor) else a for a in given)
    rules = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.titans_seq.memory_scan, leaves, test_utils=rules)


@pytest.mark.soak
def test_compiled_there_is_no_break_and_the_same_numbers() -> None:
    memory, x = layer()
    expected = memory(x, memory.initial_state(1))[0]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(x: Tensor) -> Tensor:
        return memory(x, memory.initial_state(1))[0]

    found = compiled(x)
    torch.testing.assert_close(found, expected)
    for a, b in zip(gradients(memory, found), gradients(memory, expected), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_changes_nothing_between_its_layers() -> None:
    row, gate = torch.randn(1, 1, 20, 32), torch.full((1, 1, 20), 0.1)
    options: dict[str, Any] = {"initial": (torch.zeros(1, 32, 32),), "structure": Matrix()}
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = memory_scan(row, row, row, gate, gate, gate, backend="triton", chunk_size=16, **options)
    outside, _ = memory_scan(row, row, row, gate, gate, gate, backend="triton", chunk_size=16, **options)
    assert torch.equal(inside, outside)


@pytest.mark.soak
def test_pieces_that_are_read_again_give_the_same_slopes() -> None:
    memory, x = layer()
    wanted = gradients(memory, memory(x, memory.initial_state(1))[0])
    memory.recompute = True
    for a, b in zip(gradients(memory, memory(x, memory.initial_state(1))[0]), wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.soak
def test_ddp_gives_the_same_slopes(tmp_path: Path) -> None:
    memory, x = layer()
    wanted = gradients(memory, memory(x, memory.initial_state(1))[0])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(memory)
        weighed(wrapped(x, memory.initial_state(1))[0]).backward()
    finally:
        torch.distributed.destroy_process_group()
    for parameter, b in zip(memory.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, b)
