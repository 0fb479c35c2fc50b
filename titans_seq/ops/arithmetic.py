"""How a CPU computes in float32: matrix products by the fastest library that is exact, and without denormal numbers."""

import torch


def use_fastest_exact_arithmetic() -> str:
    """Let torch multiply float32 matrices through oneDNN if it rounds no more than before; returns the library's name.

    Numbers below 1e-38 become zero from here on: the momentum of a chunk's first tokens falls that low by its end, and
    products of such numbers take several times as long.

    torch takes MKL for float32 unless it is told that bfloat16 operands would do ("medium"); then it takes oneDNN,
    which uses bfloat16 only where the CPU has matrix units for it (AMX) and is plain float32 elsewhere, at twice
    MKL's speed on CPUs that are not Intel's. So it is asked, and kept where the products come out exact.
    """
    torch.set_flush_denormal(True)  # before the first product: threads take it over when they are made
    before = torch.get_float32_matmul_precision()
    if torch.cuda.is_available():  # there the same word means TF32
        return "as set"
    if before != "highest" or not torch.backends.mkldnn.is_available():
        return "as set" if before != "highest" else "MKL"
    torch.set_float32_matmul_precision("medium")
    if all(_exact(*size) for size in ((1, 512, 256, 384), (8, 64, 64, 128), (32, 32, 32, 32))):
        return "oneDNN"
    torch.set_float32_matmul_precision(before)
    return "MKL"


def _exact(batch: int, rows: int, inner: int, columns: int) -> bool:
    """Whether a product is that of float64 to float32's rounding; with bfloat16 operands it would be off by 1e-3."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(batch, rows, inner, generator=g), torch.rand(batch, inner, columns, generator=g)
    expected = a.double() @ b.double()
    found = (torch.bmm(a, b), torch.nn.functional.linear(a, b[0].mT) if batch == 1 else torch.bmm(a, b))
    return all(bool(((product - expected).abs() < 1e-5 * expected).all()) for product in found)
