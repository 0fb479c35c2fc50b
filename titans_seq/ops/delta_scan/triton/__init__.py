"""The same scan in fused kernels, forward and backward, by the formulas of `chunked`: one key a token, decay by head.

Sums and the carried memory are float32, products those of the values' dtype: bfloat16, float16, or of float32 TF32,
which has 11 bits; so are the memories and answers that are kept for the backward pass. Nothing here imports Triton
before a kernel runs.
"""

import torch
from torch import Tensor

WIDTHS = (32, 64, 128)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Erase = tuple[Tensor, Tensor]


def lacks(k: Tensor, v: Tensor, log_decay: Tensor | None) -> str:
    """What the kernels need of a call that it has not; empty if nothing."""
    D, DV = k.shape[-1], v.shape[-1]
    needs = {
        "one key a token": k.ndim == 4 or k.shape[3] == 1,
        "decay by head": log_decay is None or log_decay.ndim == 3,
        f"heads of width {', '.join(map(str, WIDTHS))}": D in WIDTHS and DV in WIDTHS,
        "float32, bfloat16 or float16": v.dtype in DTYPES,
    }
    return ", ".join(need for need, met in needs.items() if not met)


def delta_scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, erase: Erase | None, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the scan in kernels; shapes and meaning as in the front door, what is multiplied in the dtype of v."""
    from titans_seq.ops.delta_scan.triton.operator import scan

    B, H, T, _ = q.shape

    def rows(part: Tensor) -> Tensor:
        return part.reshape(B * H, T, part.shape[-1]).to(v.dtype).contiguous()

    log_decay = q.new_zeros(B, H, T) if log_decay is None else log_decay
    a, b = (None, None) if erase is None else (rows(erase[0]), rows(erase[1]))
    y, memory = scan(
        rows(q),
        rows(k),
        rows(v),
        log_decay.float().reshape(B * H, T).contiguous(),
        a,
        b,
        memory.flatten(0, 1).contiguous(),
    )
    return y.unflatten(0, (B, H)), memory.unflatten(0, (B, H))


def probe(device: str) -> None:
    """Run every kernel once, small, forward and backward."""
    row = torch.ones(1, 1, 17, WIDTHS[0], device=device, dtype=torch.bfloat16, requires_grad=True)
    memory = torch.zeros(1, 1, WIDTHS[0], WIDTHS[0], device=device)
    y, _ = delta_scan(row, row, row, row[..., 0].float().neg(), (row, row), memory)
    y.sum().backward()
