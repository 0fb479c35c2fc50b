"""float32 products stay float32."""

from collections.abc import Iterator

import pytest
import torch

from titans_seq.ops import matmul
from titans_seq.ops.matmul import use_fastest_exact_matmul


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def test_products_stay_exact() -> None:
    torch.set_float32_matmul_precision("highest")
    assert use_fastest_exact_matmul() in ("oneDNN", "MKL")
    a, b = torch.rand(300, 200), torch.rand(200, 100)
    torch.testing.assert_close((a @ b).double(), a.double() @ b.double(), rtol=1e-5, atol=0)


def test_where_they_would_not_be_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(matmul, "_exact", lambda *size: False)
    assert use_fastest_exact_matmul() == "MKL"
    assert torch.get_float32_matmul_precision() == "highest"


def test_who_asked_for_less_precision_keeps_it() -> None:
    torch.set_float32_matmul_precision("high")
    assert use_fastest_exact_matmul() == "as set"
    assert torch.get_float32_matmul_precision() == "high"


def test_rounded_operands_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: exact(a.bfloat16().float(), b.bfloat16().float()))
    assert not matmul._exact(8, 64, 64, 128)
