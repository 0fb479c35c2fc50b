r"""The same scan a chunk at a time, in matrix products (the dual form).

Inside a chunk every gradient is taken at the chunk's start, so the recurrences of S and M are linear in the
per-token gradients $x_{l-1,s}^\top G_{l,s}$ and unroll to

$M_t = b_t M_0 + (1 - b_t) M_{init} + c_t S_0 - \sum_{s \le t} A_{ts}\, x_s^\top G_s$,
$S_t = e_t S_0 - \sum_{s \le t} E_{ts}\, x_s^\top G_s$

with $A = L E$, $L_{tr} = \prod_{r<j\le t} (1-\alpha_j)$, $E_{rs} = \prod_{s<i\le r} \eta_i$ and θ inside G. A read
needs only $X^q (x^\top G) = (X^q x^\top) G$: no weight per token is ever formed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_seq.miras.structure import Weights
from titans_seq.ops.memory_scan import ScanInputs, ScanRule, ScanState


class Coefficients(NamedTuple):
    """How much of each part a token reads and the chunk's end carries; (..., C, 1) or (..., C, C)."""

    keep: Tensor  # b, of the memory before the chunk
    push: Any  # c, None without momentum; of the momentum before the chunk
    write: Tensor  # A, of the tokens' gradients
    read_keep: Tensor  # the same three at the memory that is read, M_t or M_{t-1}
    read_push: Any
    read_write: Tensor
    momentum_keep: Any  # e; None without momentum
    momentum_write: Any  # last row of E, (..., C, 1)


def _products(log_gate: Tensor) -> Tensor:
    r"""Products $\prod_{r<j\le t}$ of gates from their logs (..., C), as a lower triangle (..., C, C).

    A masked sum of logs, never a quotient of cumulative products: those overflow under strong decay.
    """
    C = log_gate.shape[-1]
    logs = log_gate[..., None].expand(*log_gate.shape, C).tril(-1)
    return logs.cumsum(-2).exp().tril()


def _inside(gate: Tensor, least: float, most: float) -> Tensor:
    """Gate kept where its log is finite, its slope left as it is: what it is short of is below rounding of any product.

    At a closed gate the large slope of the log meets a product that is as small, which gives the gate's own slope;
    a plain clamp would give none.
    """
    return gate + (gate.clamp(least, most) - gate).detach()


def _shifted(rows: Tensor, first: float) -> Tensor:
    """Rows moved one token later along the second last axis: what held before the write."""
    return torch.cat([torch.full_like(rows[..., :1, :], first), rows[..., :-1, :]], -2)


def coefficients(alpha: Tensor, eta: Tensor | None, read: str) -> Coefficients:
    """Coefficients of all chunks at once from gates (..., C, 1)."""
    log_keep = torch.log1p(-_inside(alpha[..., 0], 0, 1 - torch.finfo(alpha.dtype).eps))
    decay, keep = _products(log_keep), log_keep.cumsum(-1).exp()[..., None]
    if eta is None:
        write, push, momentum_keep, momentum_write = decay, None, None, None
    else:
        log_eta = _inside(eta[..., 0], 1e-30, 1).log()
        past, fade = _products(log_eta), log_eta.cumsum(-1).exp()[..., None]
        write, push = decay @ past, decay @ fade
        momentum_keep, momentum_write = fade[..., -1:, :], past[..., -1, :, None]
    reads = (keep, push, write)
    if read == "before":
        reads = (_shifted(keep, 1), None if push is None else _shifted(push, 0), _shifted(write, 0))
    return Coefficients(
        keep[..., -1:, :],
        None if push is None else push[..., -1:, :],
        write[..., -1, :, None],
        *reads,
        momentum_keep,
        momentum_write,
    )


def _errors(x: ScanInputs, rule: ScanRule, start: Weights) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Inputs x and errors G of every layer, at the memory ``start``; θ and the normalised step are in G."""
    structure = rule.structure
    trace = structure.trace(start, x.k)
    error = x.theta * rule.bias.slope(structure.finish(x.k, trace.output, rule.gain), x.v, x.delta)
    if rule.normalised:
        error = error / structure.bearing(start, trace, rule.gain).clamp(min=1)
    return trace.inputs, structure.errors(start, trace, error, rule.gain)


def _chunk(x: ScanInputs, co: Coefficients, rule: ScanRule, state: ScanState) -> tuple[Tensor, ScanState]:
    """Read and write one chunk, or the part of one that this call holds."""
    structure, (start, weights, momentum, offset) = rule.structure, state
    inputs, errors = _errors(x, rule, start)
    to_initial = rule.retention.towards == "initial"

    row, z = x.q, x.q
    for level, (w, s) in enumerate(zip(weights, momentum, strict=True)):
        if level:
            row = structure.activate(z)
        z = co.read_keep * (row @ w) - ((row @ inputs[level].mT) * co.read_write) @ errors[level]
        if co.read_push is not None:
            z = z + co.read_push * (row @ s)
        if to_initial:
            z = z + (1 - co.read_keep) * (row @ rule.initial[level])
    y = structure.finish(x.q, z, rule.gain)

    new_weights, new_momentum = [], []
    for level, (w, s) in enumerate(zip(weights, momentum, strict=True)):
        new = co.keep * w - (co.write * inputs[level]).mT @ errors[level]
        if co.push is not None and co.momentum_keep is not None:
            new = new + co.push * s
            s = co.momentum_keep * s - (co.momentum_write * inputs[level]).mT @ errors[level]
        if to_initial:
            new = new + (1 - co.keep) * rule.initial[level]
        new_weights.append(new)
        new_momentum.append(s)
    offset = (offset + x.q.shape[-2]) % rule.chunk_size
    weights = tuple(new_weights)
    return y, ScanState(start if offset else weights, weights, tuple(new_momentum), offset)


def _runs(offset: int, T: int, C: int) -> Iterator[tuple[int, int, int]]:
    """Cut T tokens into (start, length, count): the rest of an open chunk, whole chunks, a begun one."""
    head = min(T, (C - offset) % C)
    body = (T - head) // C
    for start, length, count in ((0, head, 1), (head, C, body), (head + body * C, (T - head) % C, 1)):
        if length and count:
            yield start, length, count


def _pieces(tensor: Tensor | None, start: int, length: int, count: int) -> Tensor | None:
    """(B, H, T, d) to the run's chunks, (B, H, count, length, d)."""
    return None if tensor is None else tensor[:, :, start : start + length * count].unflatten(2, (count, length))


def memory_scan(x: ScanInputs, rule: ScanRule, state: ScanState) -> tuple[Tensor, ScanState]:
    """Run the scan chunk by chunk; shapes and meaning as in the front door."""
    rows = []
    for run in _runs(state.offset, x.q.shape[2], rule.chunk_size):
        pieces = ScanInputs(*(_pieces(tensor, *run) for tensor in x))  # type: ignore[arg-type]
        co = coefficients(pieces.alpha, pieces.eta, rule.read)
        # unbind once: indexing chunk i in the loop would make its backward quadratic in length
        chunks = zip(*(_unbound(tensor, run[2]) for tensor in (*pieces, *co)), strict=True)
        for chunk in chunks:
            y, state = _chunk(ScanInputs(*chunk[:7]), Coefficients(*chunk[7:]), rule, state)
            rows.append(y)
    return torch.cat(rows, 2) if rows else x.v, state


def _unbound(tensor: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * count if tensor is None else tensor.unbind(2)
