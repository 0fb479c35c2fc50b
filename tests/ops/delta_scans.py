"""Random delta scans with all their leaves, and how two of them are compared: what the tests of every backend share."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_seq.ops.delta_scan import BACKENDS, Backend, DeltaState, delta_scan

PLAIN: list[Backend] = [backend for backend in BACKENDS if backend != "triton"]  # which take every call, and float64
EXACT = 1e-10  # float64, relative to the largest entry; measured over all tests at most 2e-15
ENDS = torch.tensor([-torch.inf, -13.8, -1e-3, 0.0], dtype=torch.float64)  # decays of 0, 1e-6, 0.999 and 1


class Problem(NamedTuple):
    """Leaves of one scan."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    a: Tensor | None
    b: Tensor | None
    memory: Tensor

    def leaves(self) -> dict[str, Tensor]:
        return {name: leaf for name, leaf in self._asdict().items() if leaf is not None}

    def run(self, backend: Backend, cuts: tuple[int, ...] = ()) -> dict[str, Tensor]:
        """Outputs and final memory, the stream cut at ``cuts``."""
        state, rows = DeltaState(self.memory), []
        for left, right in pairwise([0, *cuts, self.q.shape[2]]):
            q, k, v, log_decay, a, b = (None if part is None else part[:, :, left:right] for part in self[:-1])
            erase = None if a is None or b is None else (a, b)
            y, state = delta_scan(q, k, v, log_decay, erase, state=state, backend=backend)  # type: ignore[arg-type]
            rows.append(y)
        return {"y": torch.cat(rows, 2), "memory": state.memory}

    def all(self, backend: Backend, cuts: tuple[int, ...] = ()) -> dict[str, Tensor]:
        """Outputs, final memory and all gradients, by random cotangents: a sum would hide errors of opposite sign."""
        leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in self.leaves().items()}
        found = self._replace(**leaves).run(backend, cuts)
        g = torch.Generator().manual_seed(7)
        weights = (torch.randn(part.shape, generator=g, dtype=torch.float64).to(part.device) for part in found.values())
        loss = sum((part * weight).sum() for part, weight in zip(found.values(), weights, strict=True))
        grads = torch.autograd.grad(loss, list(leaves.values()))  # type: ignore[arg-type]
        return found | {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}

    def to(self, *where: Any) -> "Problem":
        return Problem(*(None if part is None else part.to(*where) for part in self))  # type: ignore[arg-type]


def problem(
    decay: str = "channel",
    erases: bool = True,
    steps: int = 1,
    length: int = 20,
    size: tuple[int, int, int, int] = (2, 2, 4, 3),
    ends: bool = False,
) -> Problem:
    """A random scan; a and b differ, and the memory neither vanishes nor grows. ``ends``: decays of 0, 1 and near."""
    B, H, D, Dv = size
    g = torch.Generator().manual_seed(length + steps)
    rows = (B, H, length)
    keys = (*rows, D) if steps == 1 else (*rows, steps, D)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)

    a = unit(*keys)
    b = F.normalize(a + 0.3 * unit(*keys), dim=-1) * torch.rand(*keys[:-1], 1, generator=g, dtype=torch.float64)
    gates = {"none": None, "head": rows, "channel": (*rows, D)}[decay]
    log_decay = None if gates is None else F.logsigmoid(2 + 2 * torch.randn(gates, generator=g, dtype=torch.float64))
    if ends and gates is not None:
        log_decay = ENDS[torch.randint(4, gates, generator=g)]
    return Problem(
        unit(*rows, D),
        unit(*keys),
        torch.randn(*keys[:-1], Dv, generator=g, dtype=torch.float64),
        log_decay,
        a if erases else None,
        b if erases else None,
        torch.randn(B, H, D, Dv, generator=g, dtype=torch.float64),
    )


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = EXACT) -> None:
    """All finite, and off by no more than ``tolerance`` of the largest entry of each."""
    assert ours.keys() == theirs.keys()
    for name, part in theirs.items():
        assert ours[name].isfinite().all() and part.isfinite().all(), name
        error = float((ours[name] - part).detach().abs().max()) / max(float(part.detach().abs().max()), 1e-30)
        assert error < tolerance, f"{name} is off by {error:.1e}"
