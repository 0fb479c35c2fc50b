"""The work of kernels as computed is what they do, counted."""

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from titans_seq.bench import costs
from titans_seq.miras.learning import GradientDescent, Momentum
from titans_seq.miras.retention import Forgetting
from titans_seq.miras.structure import MLP, Layers, Matrix
from titans_seq.ops.delta_scan import delta_scan
from titans_seq.ops.memory_scan import memory_scan

C, D, N = 16, 32, 2
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_costs.py"


class Launched:
    """A kernel that tells its name and its tensors before it runs."""

    def __init__(self, kernel: Any, name: str, running: list[str], found: Counter[str]):
        self.kernel, self.name, self.running, self.found = kernel, name, running, found

    def __getitem__(self, grid: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> None:
            name = "state_back" if options.get("REVERSE") else self.name  # of the delta scan one kernel for both ways
            self.running[0] = name
            for argument, part in zip(self.kernel.arg_names, arguments, strict=False):
                if isinstance(part, torch.Tensor):
                    self.found[f"{name} {argument}"] += part.nbytes
            self.kernel[grid](*arguments, **options)

        return run


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Flops of every `tl.dot` and bytes of every tensor, by kernel, of the interpreted kernels that run."""
    from triton.runtime import interpreter

    from titans_seq.ops.delta_scan.triton import operator as delta
    from titans_seq.ops.memory_scan.triton import operator as memory

    found, running = Counter[str](), [""]
    create_dot = interpreter.InterpreterBuilder.create_dot

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        found[f"{running[0]} flops"] += 2 * a.data.size * b.data.shape[-1]
        return create_dot(self, a, b, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    for module, names in ((memory, costs.MOVED), (delta, costs.DELTA_MOVED)):
        for kernel in names:
            for name in {kernel, f"_{kernel}"} & vars(module).keys():
                monkeypatch.setattr(module, name, Launched(getattr(module, name), kernel, running, found))
    return found


@pytest.mark.parametrize(
    ("structure", "momentum", "returns"),
    [
        (Matrix(), True, True),
        (Matrix(), False, False),
        (MLP(expansion=2.0), True, True),
        (MLP(expansion=1.0, norm=True), False, True),
        (MLP(depth=1, norm=True), True, False),
    ],
    ids=str,
)
def test_kernels_do_what_is_computed(structure: Layers, momentum: bool, returns: bool, counted: Counter[str]) -> None:
    rows = [torch.randn(1, 1, N * C, D, requires_grad=True) for _ in range(3)]
    theta, alpha, eta = (torch.full((1, 1, N * C), 0.1, requires_grad=True) for _ in range(3))
    sizes = structure.sizes(D, D)
    y, _ = memory_scan(
        *rows, theta, alpha, eta if momentum else None,
        initial=tuple(torch.randn(1, *size).div(8).requires_grad_() for size in sizes),
        structure=structure, learning=Momentum() if momentum else GradientDescent(),
        retention=Forgetting(towards="initial" if returns else "zero"),
        gain=torch.ones(1, D, requires_grad=True) if structure.norm else None, chunk_size=C, backend="triton",
    )  # fmt: skip
    y.sum().backward()
    scan = costs.Scan(C, D, sizes[-1][0], len(sizes), momentum, returns, structure.norm, narrow=4)
    work, bytes_of = costs.memory_scan(scan), costs.sizes(scan)
    for kernel, moved in costs.MOVED.items():
        times = (costs.FORWARD + costs.BACKWARD).count(kernel)
        assert counted[f"{kernel} flops"] == times * N * work[kernel].flops
        launched = {name.split()[1]: size for name, size in counted.items() if name.startswith(f"{kernel} ")}
        parts = {part for part in " ".join(moved).split() if bytes_of[part]}
        assert launched.keys() - {"flops", "initial", "gain"} == parts
        for part in parts:
            held = N + 1 if part.endswith(("memories", "momenta")) else 2 * N if part == "dgain" else N
            assert launched[part] == times * held * bytes_of[part], f"{part} of {kernel}"


@pytest.mark.parametrize("erases", [True, False])
def test_kernels_of_the_delta_scan_do_too(erases: bool, counted: Counter[str]) -> None:
    q, k, v, a, b = (torch.randn(1, 1, 2 * 64, D, requires_grad=True) for _ in range(5))
    decay = torch.full((1, 1, 2 * 64), -0.1, requires_grad=True)
    y, _ = delta_scan(q, k.div(8), v, decay, (a.div(8), b.div(8)) if erases else None, backend="triton")
    y.sum().backward()
    work = costs.delta_scan(costs.Delta(D, D, erases, block=32, narrow=4))
    for kernel, (flops, moved) in work.items():
        assert counted[f"{kernel} flops"] == 2 * flops, kernel
        tensors = {name: size for name, size in counted.items() if name.startswith(f"{kernel} ")}
        launched = sum(size for name, size in tensors.items() if name.split()[1] not in ("flops", "memory", "last"))
        assert launched == 2 * moved, kernel
    assert {name.split()[0] for name in counted} == work.keys()


@pytest.mark.skipif(not SCRIPT.exists(), reason="benchmarks are in a checkout")
def test_the_tables_that_are_kept_are_those_of_today() -> None:
    script = runpy.run_path(str(SCRIPT))
    kept = (SCRIPT.parent / "results" / "kernel_costs.md").read_text(encoding="utf-8")
    assert kept == script["text"]()
