"""Laws of the memory scan's kernels that want a GPU: ``python -m pytest -m gpu``.

Each is a function of a case, which runs here too, on the CPU and tiny, so that it is known to work.
"""

import logging
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from scans import Problem, compare, problem
from torch import Tensor

from titans_seq.miras.bias import L2, Bias, Huber
from titans_seq.miras.structure import MLP, Layers, Matrix
from titans_seq.ops.memory_scan import memory_scan, triton

CUDA = torch.cuda.is_available()
GiB = 2**30
# Largest errors of outputs and of gradients, each relative to the largest entry of its tensor. bfloat16 rounds operands
# to 2^-9 = 2e-3: `chunked` with such operands, measured on a CPU over the structures below at 300 to 500 tokens, is off
# by at most 5.4e-3 and 9.2e-3; three times that. float16 and TF32 have three bits more, which would make it an eighth;
# a quarter, as float16 is rounded to 2^-25 where it is small. At the kink of Huber a rounded error may fall on the
# other side, which the interpreter shows at float16 in gradients of up to 1.0e-2.
TOLERANCE = {torch.bfloat16: (1.6e-2, 2.8e-2), torch.float16: (4e-3, 1.5e-2), torch.float32: (4e-3, 7e-3)}


def needs(gigabytes: float) -> list[pytest.MarkDecorator]:
    """Marks of a test that wants a GPU, and so much memory on it."""
    there = torch.cuda.get_device_properties(0).total_memory / GiB if CUDA else 0
    reason = "there is no GPU" if not CUDA else f"the GPU has {there:.0f} GiB of memory, this needs {gigabytes}"
    return [pytest.mark.gpu, pytest.mark.skipif(there < gigabytes, reason=reason)]


class Case(NamedTuple):
    """A scan of random numbers; on a GPU of new ones each time, with the seed in the test's name."""

    structure: Layers
    dtype: torch.dtype
    size: tuple[int, int, int, int]  # B, H, T, D
    chunk: int = 64
    bias: Bias = L2()
    theta: str = "head"
    begin: str = "open"
    seed: int = 0

    def problem(self, device: str) -> Problem:
        B, H, T, D = self.size
        exact = problem(
            self.structure,
            length=T,
            chunk_size=self.chunk,
            size=(B, H, D, D),
            bias=self.bias,
            theta=self.theta,
            begin=self.begin,
            seed=self.seed,
        )
        return exact.to(device, self.dtype, torch.float32)

    def __str__(self) -> str:
        parts = self.structure.kind, str(self.dtype).removeprefix("torch."), *self.size, self.chunk, self.bias.kind
        return "-".join(map(str, (*parts, f"seed {self.seed}")))


SEED = secrets.randbelow(2**31) if CUDA else 0
SMALL = Case(MLP(expansion=1.0), torch.float32, (1, 1, 21, 16), 16)
ODD = [
    Case(MLP(), torch.bfloat16, (1, 3, 193, 32), 32, seed=SEED),
    Case(MLP(expansion=1.0, norm=True, activation="silu"), torch.float16, (2, 1, 65, 32), 24, Huber(), seed=SEED),
    Case(Matrix(), torch.float32, (3, 1, 127, 64), 64, seed=SEED),
]
FULL = [
    *(Case(MLP(), dtype, (2, 16, 4096 + 17, 64), seed=SEED) for dtype in TOLERANCE),
    Case(Matrix(), torch.bfloat16, (4, 32, 4096, 64), begin="fresh", seed=SEED),
    Case(Matrix(), torch.float32, (1, 8, 8192 - 1, 128), seed=SEED),
    Case(MLP(norm=True, activation="silu"), torch.bfloat16, (4, 8, 2048, 64), 32, Huber(), "channel", seed=SEED),
    Case(MLP(expansion=4.0), torch.bfloat16, (1, 8, 2048 + 5, 128), seed=SEED),
]
LONG = [
    Case(MLP(), torch.bfloat16, (1, 2, 2**20, 64), seed=SEED),
    Case(Matrix(), torch.bfloat16, (1, 4, 2**20, 64), seed=SEED),
]


@pytest.fixture
def one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile one configuration a kernel: the search would take a minute a case."""
    from titans_seq.ops.memory_scan.triton import operator

    for name in ("_state_pass", "_output_pass", "_output_back", "_state_back"):
        kernel = getattr(operator, name)
        one = [c for c in kernel.configs if c.kwargs["BLOCK"] == 32 and c.num_warps == 8]
        monkeypatch.setattr(kernel, "configs", one)


# --- the laws


def is_the_scan_in_float64(case: Case, device: str) -> None:
    """Outputs, final state and all gradients are those of `chunked` in float64, on the same numbers."""
    ours = case.problem(device)
    compare(ours, ours.to(device, torch.float64, torch.float64), TOLERANCE[case.dtype], "chunked")


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory with NaN as it is allocated."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # without which torch fills nothing
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def results(case: Case, device: str) -> dict[str, Tensor]:
    """Outputs, final state and gradients of the kernels."""
    ours = case.problem(device)
    found = ours.run(backends=("triton",))
    return found | ours.gradients(found)


def reads_nothing_that_was_not_written(case: Case, device: str) -> None:
    """Memory full of NaN gives the same bits, and so does a second run."""
    clean = results(case, device)
    with poisoned():
        again = results(case, device)
    assert all(torch.equal(part, again[name]) for name, part in clean.items())


def has_the_same_bits_however_much_is_held(case: Case, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence in many groups of chunks is the sequence in fewer, but for sums over groups."""
    few = results(case, device)
    monkeypatch.setattr(triton, "HELD", triton.HELD // 8)
    many = results(case, device)
    assert all(torch.equal(part, many[name]) for name, part in few.items() if not name.startswith("dinitial"))
    assert all(part.isfinite().all() for part in many.values())


def reads_like_the_scan_in_float64(case: Case, device: str) -> None:
    """What is read, alone: the reference would not have room for more."""
    with torch.no_grad():
        ours = case.problem(device)
        exact = ours.to(device, torch.float64, torch.float64).run()["y"]
        error = (ours.run(backends=("triton",))["y"].double() - exact).abs().max() / exact.abs().max()
    assert error < TOLERANCE[case.dtype][0]


def numbers_its_rows_in_64_bits(rows: int, T: int, device: str) -> None:
    """The last of many rows is the row alone."""
    D, like = 64, {"device": device, "dtype": torch.bfloat16}
    torch.manual_seed(SEED)
    row, gate = torch.randn(1, 1, T, D, **like), torch.full((1, 1, T), 0.01, device=device)
    initial = (torch.randn(1, D, D, device=device) / 8,)

    def read(B: int) -> Tensor:
        q = row.expand(B, -1, -1, -1)
        gates = (gate.expand(B, -1, -1),) * 3
        y, _ = memory_scan(q, q, q, *gates, initial=initial, structure=Matrix(), chunk_size=64, backend="triton")
        return y[-1]

    with torch.no_grad():
        assert torch.equal(read(rows), read(1))


# --- tiny, on the CPU


def test_laws_hold_tiny_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if CUDA and "TRITON_INTERPRET" not in os.environ:
        pytest.skip("kernels are compiled here")
    is_the_scan_in_float64(SMALL, "cpu")
    reads_nothing_that_was_not_written(SMALL, "cpu")
    reads_like_the_scan_in_float64(SMALL, "cpu")
    monkeypatch.setattr(triton, "HELD", 8 * 2500)
    has_the_same_bits_however_much_is_held(SMALL, "cpu", monkeypatch)


# --- on a GPU


@pytest.mark.usefixtures("one_configuration")
@pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=needs(16)) for case in ODD + FULL])
def test_kernels_are_the_scan_in_float64(case: Case) -> None:
    is_the_scan_in_float64(case, "cuda")


@pytest.mark.usefixtures("one_configuration")
@pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=needs(16)) for case in (*ODD, FULL[0])])
def test_kernels_read_nothing_that_was_not_written(case: Case) -> None:
    reads_nothing_that_was_not_written(case, "cuda")


@pytest.mark.usefixtures("one_configuration")
@pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=needs(40)) for case in LONG])
def test_a_million_tokens(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reads_like_the_scan_in_float64(case, "cuda")
    has_the_same_bits_however_much_is_held(case, "cuda", monkeypatch)


@pytest.mark.usefixtures("one_configuration")
@pytest.mark.parametrize("rows", [pytest.param(33, marks=needs(60))])
def test_more_numbers_than_32_bits_count(rows: int) -> None:
    numbers_its_rows_in_64_bits(rows, 2**20, "cuda")


@pytest.mark.parametrize("case", [pytest.param(ODD[0], marks=needs(1))])
def test_auto_takes_the_kernels_and_says_nothing(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    ours = case.problem("cuda")
    with caplog.at_level(logging.INFO, "titans_seq"):
        found = ours.run(backends=("auto",))
    assert not caplog.records
    assert all(torch.equal(part, found[name]) for name, part in ours.run(backends=("triton",)).items())


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="there is no GPU")
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="there is no compute-sanitizer")
def test_no_kernel_touches_what_is_not_its_own() -> None:
    test = f"{__file__}::{test_kernels_are_the_scan_in_float64.__name__}"
    command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", "--target-processes", "all"]
    odd = "1-3-193 or 2-1-65 or 3-1-127"  # sizes, which no seed in a name is taken for
    done = subprocess.run(
        [*command, sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-k", odd, test],
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # every tensor its own, so that its bounds are known
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
