"""float32 products stay float32."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from titans_seq.ops import arithmetic
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)


def test_products_stay_exact() -> None:
    torch.set_float32_matmul_precision("highest")
    assert use_fastest_exact_arithmetic() in ("oneDNN", "MKL")
    a, b = torch.rand(300, 200), torch.rand(200, 100)
    torch.testing.assert_close((a @ b).double(), a.double() @ b.double(), rtol=1e-5, atol=0)


def test_where_they_would_not_be_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(arithmetic, "_exact", lambda *size: False)
    assert use_fastest_exact_arithmetic() == "MKL"
    assert torch.get_float32_matmul_precision() == "highest"


def test_who_asked_for_less_precision_keeps_it() -> None:
    torch.set_float32_matmul_precision("high")
    assert use_fastest_exact_arithmetic() == "as set"
    assert torch.get_float32_matmul_precision() == "high"


def test_rounded_operands_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: exact(a.bfloat16().float(), b.bfloat16().float()))
    assert not arithmetic._exact(8, 64, 64, 128)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_thread_computes_with_denormals(threads: int) -> None:
    """In a process of its own: threads are made once."""
    program = f"""
import torch
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic
torch.set_num_threads({threads})
use_fastest_exact_arithmetic()
x = torch.full((512, 512), 1e-20)
print(float((x * x).sum()), float((x @ x).abs().max()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.0", "0.0"]
