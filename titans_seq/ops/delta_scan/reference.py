"""The recurrence as printed, one token at a time: everything else is judged by it."""

import torch
from torch import Tensor

from titans_seq.ops.delta_scan import DeltaInputs


def delta_scan(x: DeltaInputs, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Run the scan token by token; shapes and meaning as in the front door."""
    T, steps, rows = x.k.shape[2], x.k.shape[3], []
    # unbind once: indexing token t in the loop would make its backward quadratic in length
    q, k, v = x.q.unbind(2), x.k.unbind(2), x.v.unbind(2)
    decay, a, b = (None if part is None else part.unbind(2) for part in x[3:])
    for t in range(T):
        for j in range(steps):
            before = memory
            if decay is not None and j == 0:
                memory = decay[t].mT * memory
            if a is not None and b is not None:
                memory = memory - b[t][:, :, j, :, None] * (a[t][:, :, j, None] @ before)
            memory = memory + k[t][:, :, j, :, None] * v[t][:, :, j, None]
        rows.append(q[t] @ memory)
    return torch.cat(rows, 2) if rows else x.v[:, :, :, 0], memory
