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


def coefficients(x: ScanInputs, rule: ScanRule) -> tuple[Coefficients, Reads | None]:
    r"""Coefficients of all chunks of a block.

    Row by row: $E_t = \eta_t E_{t-1} + 1_t$ and $A_t = (1-\alpha_t) A_{t-1} + E_t$. The momentum before the chunk is
    one more token, in front of the others. There is no logarithm, so gates may be 0 and 1, and no quotient.
    """
    C = x.alpha.shape[-2]
    one = torch.eye(C + 1, dtype=x.alpha.dtype, device=x.alpha.device)
    left = (1 - x.alpha).unbind(-2)
    stays = None if x.eta is None else x.eta.unbind(-2)
    past, write, rows = one[0], torch.zeros_like(one[0]), []
    for t in range(C):
        past = one[t + 1] if stays is None else torch.addcmul(one[t + 1], stays[t], past)
        write = torch.addcmul(past, left[t], write)
        rows.append(write)
    keep = (1 - x.alpha).cumprod(-2)
    last = Coefficients(keep[..., -1:, :], None, -write[..., 1:, None], None, None)
    if stays is not None:
        last = last._replace(
            push=write[..., :1, None], momentum_keep=past[..., :1, None], momentum_write=-past[..., 1:, None]
        )
    if rule.read == "start":
        return last, None
    if rule.read == "before":
        keep = torch.cat([torch.ones_like(keep[..., :1, :]), keep[..., :-1, :]], -2)
        rows = [torch.zeros_like(write), *rows[:-1]]
    push, negative = torch.stack(rows, -2).split([1, C], -1)
    negative = -negative
    kept, pushed = keep * x.q, None if stays is None else push * x.q
    left_out = x.q - kept if rule.retention.towards == "initial" else torch.zeros_like(kept)
    scores = negative * (x.q @ x.k.mT)
    push = None if stays is None else push
    return last, Reads(keep, push, negative, kept, pushed, left_out @ rule.initial[0], scores)


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
