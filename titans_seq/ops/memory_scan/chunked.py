r"""The same scan a chunk at a time, in matrix products (the dual form).

Inside a chunk every gradient is taken at the chunk's start, so the recurrences of S and M are linear in the
per-token gradients $x_{l-1,s}^\top G_{l,s}$ and unroll to

$M_t = b_t M_0 + (1 - b_t) M_{init} + c_t S_0 - \sum_{s \le t} A_{ts}\, x_s^\top G_s$,
$S_t = e_t S_0 - \sum_{s \le t} E_{ts}\, x_s^\top G_s$

with $A = L E$, $L_{tr} = \prod_{r<j\le t} (1-\alpha_j)$, $E_{rs} = \prod_{s<i\le r} \eta_i$ and θ inside G. A read
needs only $X^q (x^\top G) = (X^q x^\top) G$: no weight per token is ever formed.

Rows of batch and head are one axis, and chunks come first: (N, B H, C, d) in the block, (B H, C, d) in the loop.
What does not depend on the memory is computed for a block of chunks at once.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_seq.miras.structure import Weights
from titans_seq.ops.memory_scan import ScanInputs, ScanRule, ScanState

BLOCK = 2048  # tokens whose coefficients are held at once: some megabytes a head


class Coefficients(NamedTuple):
    """How much of each part the chunk's end carries; (..., 1, 1), or (..., C, 1) for what has one a token."""

    keep: Tensor  # b, of the memory before the chunk
    push: Any  # c, of the momentum before the chunk; None without momentum
    write: Tensor  # -A, of the tokens' gradients: its last row, (..., C, 1)
    momentum_keep: Any  # e; None without momentum
    momentum_write: Any  # last row of -E, (..., C, 1)


class Reads(NamedTuple):
    """What the queries need of a chunk beside the memory; None of it where they read the chunk's start."""

    keep: Tensor  # b, (..., C, 1), at the memory that is read, M_t or M_{t-1}
    push: Any  # c
    write: Tensor  # -A, (..., C, C)
    kept: Tensor  # b q
    pushed: Any  # c q
    first: Tensor  # what the first layer reads of the initial memory
    scores: Tensor  # -A ⊙ q kᵀ


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


def _logs(x: ScanInputs) -> tuple[Tensor, Tensor | None]:
    """Logs of 1 - α and of η, (..., C)."""
    log_keep = torch.log1p(-_inside(x.alpha[..., 0], 0, 1 - torch.finfo(x.alpha.dtype).eps))
    return log_keep, None if x.eta is None else _inside(x.eta[..., 0], 1e-30, 1).log()


def coefficients(x: ScanInputs, rule: ScanRule) -> tuple[Coefficients, Reads | None]:
    """Coefficients of all chunks of a block."""
    if rule.read == "start":
        return _carried(x), None
    log_keep, log_eta = _logs(x)
    write, keep = _products(log_keep), log_keep.cumsum(-1).exp()[..., None]
    push: Any = None
    carried: tuple[Any, Any] = (None, None)
    if log_eta is not None:
        past, fade = _products(log_eta), log_eta.cumsum(-1).exp()[..., None]
        write, push = write @ past, write @ fade
        carried = (fade[..., -1:, :], -past[..., -1, :, None])
    write = -write
    last = Coefficients(
        keep[..., -1:, :], None if push is None else push[..., -1:, :], write[..., -1, :, None], *carried
    )
    if rule.read == "before":
        keep, push, write = _shifted(keep, 1), None if push is None else _shifted(push, 0), _shifted(write, 0)
    kept, pushed = keep * x.q, None if push is None else push * x.q
    left = x.q - kept if rule.retention.towards == "initial" else torch.zeros_like(kept)
    scores = write * (x.q @ x.k.mT)
    return last, Reads(keep, push, write, kept, pushed, left @ rule.initial[0], scores)


def _carried(x: ScanInputs) -> Coefficients:
    r"""What the chunk's end carries, without any C x C: where all reads are of the start, no more is needed.

    The last row of A obeys $A_{Cs} = L_{Cs} + \eta_{s+1} A_{C,s+1}$.
    """
    log_keep, log_eta = _logs(x)
    left = _after(log_keep).exp()[..., None]  # last row of L
    keep = log_keep.sum(-1).exp()[..., None, None]
    if log_eta is None:
        return Coefficients(keep, None, -left, None, None)
    eta = log_eta.exp()[..., None, None].unbind(-3)
    rows = [left[..., -1:, :]]
    for s in reversed(range(left.shape[-2] - 1)):
        rows.append(torch.addcmul(left[..., s : s + 1, :], eta[s + 1], rows[-1]))
    push = (left * log_eta.cumsum(-1).exp()[..., None]).sum(-2, keepdim=True)
    write = torch.cat(rows[::-1], -2)
    fade = log_eta.sum(-1).exp()[..., None, None]
    return Coefficients(keep, push, -write, fade, -_after(log_eta).exp()[..., None])


def _after(logs: Tensor) -> Tensor:
    """Sum of what stands behind each entry along the last axis."""
    return torch.nn.functional.pad(logs[..., 1:].flip(-1).cumsum(-1).flip(-1), (0, 1))


def _read(
    q: Tensor, at: Reads, inputs: Any, errors: Any, rule: ScanRule, weights: Weights, momentum: Weights
) -> Tensor:
    """Read every query (B H, C, D) from its own memory M_t; inputs and errors are those of the keys' layers."""
    structure = rule.structure
    z = torch.baddbmm(at.first, at.kept, weights[0])
    if at.pushed is not None:
        z = torch.baddbmm(z, at.pushed, momentum[0])
    z = torch.baddbmm(z, at.scores, errors[0])
    for level in range(1, len(weights)):
        row = structure.activate(z)
        z = at.keep * torch.bmm(row, weights[level])
        if rule.retention.towards == "initial":
            z = torch.addcmul(z, 1 - at.keep, torch.bmm(row, rule.initial[level]))
        if at.push is not None:
            z = torch.addcmul(z, at.push, torch.bmm(row, momentum[level]))
        z = torch.baddbmm(z, at.write * torch.bmm(row, inputs[level].mT), errors[level])
    return structure.finish(q, z, rule.gain)


def _norms(inputs: Any, errors: Any) -> Tensor:
    """Norm of every token's gradient over all layers (..., C): that of x ᵀ G is the norm of x times that of G."""
    layers = [a.square().sum(-1) * b.square().sum(-1) for a, b in zip(inputs, errors, strict=True)]
    return torch.stack(layers).sum(0).sqrt()


def _chunk(
    x: ScanInputs,
    co: Coefficients,
    at: Reads | None,
    rule: ScanRule,
    start: Weights,
    weights: Weights,
    momentum: Weights,
) -> tuple[Tensor, Weights, Weights]:
    """Read and write one chunk, or the part of one that this call holds; gradients are taken at ``start``."""
    structure = rule.structure
    trace = structure.trace(start, x.k)
    prediction = structure.finish(x.k, trace.output, rule.gain)
    slope = rule.bias.slope(prediction, x.v, x.delta)
    if rule.surprise is not None:
        rule.surprise.append(_norms(trace.inputs, structure.errors(start, trace, slope, rule.gain)))
    step = x.theta
    if rule.normalised:
        bearing = structure.bearing(start, trace, rule.gain)
        step = step / rule.bias.burden(bearing, prediction, x.v, slope).clamp(min=1)
    errors = structure.errors(start, trace, step * slope, rule.gain)

    if at is None:
        y = structure.read(start, x.q, rule.gain)
    else:
        y = _read(x.q, at, trace.inputs, errors, rule, weights, momentum)

    new_weights, new_momentum = [], []
    for w, s, first, row, error in zip(weights, momentum, rule.initial, trace.inputs, errors, strict=True):
        new = torch.lerp(first, w, co.keep) if rule.retention.towards == "initial" else co.keep * w
        if co.push is not None:
            new = torch.addcmul(new, co.push, s)
            s = torch.baddbmm(co.momentum_keep * s, (co.momentum_write * row).mT, error)
        new_weights.append(torch.baddbmm(new, (co.write * row).mT, error))
        new_momentum.append(s)
    return y, tuple(new_weights), tuple(new_momentum)


def _runs(offset: int, T: int, C: int) -> Iterator[tuple[int, int]]:
    """Cut T tokens into so many chunks of such a length: the rest of an open one, blocks of whole ones, a begun one."""
    head = min(T, (C - offset) % C)
    if head:
        yield 1, head
    chunks, most = (T - head) // C, max(1, BLOCK // C)
    for first in range(0, chunks, most):
        yield min(most, chunks - first), C
    if rest := (T - head) % C:
        yield 1, rest


def _chunks_first(tensor: Tensor | None, runs: list[tuple[int, int]]) -> list[Tensor | None]:
    """(B, H, T, d) to the chunks of each run, (count, B H, length, d)."""
    if tensor is None:
        return [None] * len(runs)
    # split once: slices would each make a gradient of full length
    parts = zip(tensor.split([count * length for count, length in runs], 2), runs, strict=True)
    return [part.unflatten(2, run).permute(2, 0, 1, 3, 4).flatten(1, 2).contiguous() for part, run in parts]


def _unbound(tensor: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * count if tensor is None else tensor.unbind(0)


def _one_axis(weights: Weights) -> Weights:
    """(B, H, d_in, d_out) to (B H, d_in, d_out)."""
    return tuple(w.flatten(0, 1) for w in weights)


def memory_scan(x: ScanInputs, rule: ScanRule, state: ScanState) -> tuple[Tensor, ScanState]:
    """Run the scan chunk by chunk; shapes and meaning as in the front door."""
    B, H, T, _ = x.q.shape
    found = rule.surprise
    surprise: list[Tensor] = []
    initial = _one_axis(tuple(w.expand(B, *w.shape) for w in rule.initial))
    gain = None if rule.gain is None else rule.gain.repeat(B, 1, 1)
    rule = rule._replace(initial=initial, gain=gain, surprise=None if found is None else surprise)
    start, weights, momentum = (_one_axis(part) for part in state[:3])
    offset, rows = state.offset, []
    runs = list(_runs(offset, T, rule.chunk_size))
    blocks = zip(*(_chunks_first(tensor, runs) for tensor in x), strict=True)
    for (count, length), tensors in zip(runs, blocks, strict=True):
        block = ScanInputs(*tensors)
        co, reads = coefficients(block, rule)
        # unbind once: indexing chunk i in the loop would make its backward quadratic in length
        each = zip(*(_unbound(t, count) for t in block), strict=True)
        carried = zip(*(_unbound(t, count) for t in co), strict=True)
        at = zip(*(_unbound(t, count) for t in reads), strict=True) if reads else [None] * count
        ys = []
        for inputs, coefficient, read in zip(each, carried, at, strict=True):
            if offset == 0:
                start = weights
            y, weights, momentum = _chunk(
                ScanInputs(*inputs),
                Coefficients(*coefficient),
                Reads(*read) if read else None,
                rule,
                start,
                weights,
                momentum,
            )
            offset = (offset + length) % rule.chunk_size
            ys.append(y)
        rows.append(torch.stack(ys, 1).flatten(1, 2))
    if offset == 0:
        start = weights
    if found is not None and surprise:
        found.append(torch.cat(surprise, -1).unflatten(0, (B, H)))
    y = torch.cat(rows, 1).unflatten(0, (B, H)) if rows else x.v
    start, weights, momentum = (tuple(w.unflatten(0, (B, H)) for w in part) for part in (start, weights, momentum))
    return y, ScanState(start, weights, momentum, offset, state.waiting)
