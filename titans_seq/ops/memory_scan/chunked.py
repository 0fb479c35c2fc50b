r"""The same scan a chunk at a time, in matrix products (the dual form).

Inside a chunk every gradient is taken at the chunk's start, so the recurrences of S and M are linear in the
per-token gradients $x_{l-1,s}^\top G_{l,s}$ and unroll to

$M_t = b_t M_0 + (1 - b_t) M_{init} + c_t S_0 - \sum_{s \le t} A_{ts}\, x_s^\top G_s$,
$S_t = e_t S_0 - \sum_{s \le t} E_{ts}\, x_s^\top G_s$

with $A = L E$, $L_{tr} = \prod_{r<j\le t} (1-\alpha_j)$, $E_{rs} = \prod_{s<i\le r} \eta_i$ and θ inside G. A read
needs only $X^q (x^\top G) = (X^q x^\top) G$: no weight per token is ever formed.

Where the retention has a link, A follows the same recurrence as M, from its own start; with the chunk's last token
M = link(A). Where the learning rule moves at the chunk's end, the gradients are summed up to there, and M only forgets.

Rows of batch and head are one axis, and chunks come first: (N, B H, C, d) in the block, (B H, C, d) in the loop.
What does not depend on the memory is computed for a block of chunks at once.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_seq.miras.structure import Trace, Weights
from titans_seq.ops.memory_scan import ScanInputs, ScanRule, ScanState, linked

BLOCK = 2048  # tokens whose coefficients are held at once: some megabytes a head


class Coefficients(NamedTuple):
    """How much of each part the chunk's end carries; (..., 1, 1), or (..., C, 1) for what has one a token."""

    keep: Tensor  # b, of the memory before the chunk
    push: Any  # c, of the momentum before the chunk; None without momentum
    write: Tensor  # -A, of the tokens' gradients: its last row, (..., C, 1)
    momentum_keep: Any  # e; None without momentum
    momentum_write: Any  # last row of -E, (..., C, 1)


class Carried(NamedTuple):
    """The weights of a `ScanState`, rows of batch and head in one axis: (B H, d_in, d_out) a layer."""

    start: Weights
    weights: Weights
    momentum: Weights
    accumulator: Weights | None
    pending: Weights | None


class Reads(NamedTuple):
    """What the queries need of a chunk beside the memory; None of it where they read the chunk's start."""

    keep: Tensor  # b, (..., C, 1), at the memory that is read, M_t or M_{t-1}
    push: Any  # c
    write: Tensor  # -A, (..., C, C)
    kept: Tensor  # b q
    pushed: Any  # c q
    first: Tensor  # what the first layer reads of the initial memory
    scores: Tensor  # -A ⊙ q kᵀ, of a matrix


def coefficients(x: ScanInputs, rule: ScanRule) -> tuple[Coefficients, Reads | None]:
    r"""Coefficients of all chunks of a block.

    Row by row: $E_t = \eta_t E_{t-1} + 1_t$ and $A_t = (1-\alpha_t) A_{t-1} + E_t$. The momentum before the chunk is
    one more token, in front of the others. There is no logarithm, so gates may be 0 and 1, and no quotient.
    """
    C = x.q.shape[-2]
    stay = torch.ones_like(x.theta[..., :1]) if x.alpha is None else 1 - x.alpha
    keep = stay.cumprod(-2)
    if rule.learning.at_chunk_end:
        # all tokens count alike in the sum, and the momentum before the chunk by the mean of their η
        push = None if x.eta is None else x.eta.sum(-2, keepdim=True) / rule.chunk_size
        return Coefficients(keep[..., -1:, :], push, -torch.ones_like(keep), None, None), None
    one = torch.eye(C + 1, dtype=stay.dtype, device=stay.device)
    left = stay.unbind(-2)
    stays = None if x.eta is None else x.eta.unbind(-2)
    past, write, rows = one[0], torch.zeros_like(one[0]), []
    for t in range(C):
        past = one[t + 1] if stays is None else torch.addcmul(one[t + 1], stays[t], past)
        write = torch.addcmul(past, left[t], write)
        rows.append(write)
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
    left_out = x.q - kept if rule.retention.returns else torch.zeros_like(kept)
    first = rule.structure.through(left_out, rule.resting[0])
    push = None if stays is None else push
    return last, Reads(keep, push, negative, kept, pushed, first, rule.structure.scores(negative, x.q, x.k))


def _read(
    q: Tensor, at: Reads, inputs: Any, errors: Any, rule: ScanRule, weights: Weights, momentum: Weights
) -> Tensor:
    """Read every query (B H, C, D) from its own memory M_t; inputs and errors are those of the keys' layers."""
    structure = rule.structure
    z = structure.through(at.kept, weights[0], at.first)
    if at.pushed is not None:
        z = structure.through(at.pushed, momentum[0], z)
    z = structure.recall(z, at.scores, q, inputs[0], errors[0])
    for level in range(1, len(weights)):
        row = structure.activate(z)
        z = at.keep * structure.through(row, weights[level])
        if rule.retention.returns:
            z = torch.addcmul(z, 1 - at.keep, structure.through(row, rule.resting[level]))
        if at.push is not None:
            z = torch.addcmul(z, at.push, structure.through(row, momentum[level]))
        z = structure.recall(z, structure.scores(at.write, row, inputs[level]), row, inputs[level], errors[level])
    return structure.finish(q, z, rule.gain)


def _norms(trace: Trace, errors: list[Tensor], rule: ScanRule) -> Tensor:
    """Norm of every token's gradient over all layers (..., C)."""
    layers = [rule.structure.squares(row, error) for row, error in zip(trace.inputs, errors, strict=True)]
    return torch.stack(layers).sum(0).sqrt()


def _kept(weights: Weights, first: Weights, co: Coefficients, rule: ScanRule) -> list[Tensor]:
    """What is left of the weights at the chunk's end, before anything is added."""
    if rule.retention.returns:
        return [torch.lerp(w0, w, co.keep) for w0, w in zip(first, weights, strict=True)]
    return [co.keep * w for w in weights]


def _weighted(weight: Tensor, row: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's inputs and errors with a weight a token on the narrower of the two."""
    return (weight * row, error) if row.shape[-1] <= error.shape[-1] else (row, weight * error)


def _write(now: Carried, trace: Trace, errors: list[Tensor], co: Coefficients, rule: ScanRule, closes: bool) -> Carried:
    """The memory after a chunk, or the part of one; ``closes``: the chunk's last token is among these."""
    outer, layers = rule.structure.outer, list(zip(trace.inputs, errors, strict=True))
    momentum, pending = now.momentum, now.pending
    if pending is None:
        writes = [_weighted(co.write, *layer) for layer in layers]
        if co.push is not None:
            momentum = tuple(
                outer(co.momentum_keep * s, *_weighted(co.momentum_write, *layer))
                for s, layer in zip(momentum, layers, strict=True)
            )
    else:
        pending = tuple(outer(p, *_weighted(co.write, *layer)) for p, layer in zip(pending, layers, strict=True))
        if co.push is not None:
            pending = tuple(torch.addcmul(p, co.push, s) for p, s in zip(pending, momentum, strict=True))
        if closes:
            moves = [rule.learning.move(p) for p in pending]
            momentum = momentum if co.push is None else pending
            pending = tuple(torch.zeros_like(p) for p in pending)

    def moved(weights: Weights, first: Weights) -> Weights:
        new = _kept(weights, first, co, rule)
        if pending is None:
            if co.push is not None:
                new = [torch.addcmul(w, co.push, s) for w, s in zip(new, now.momentum, strict=True)]
            return tuple(outer(w, *write) for w, write in zip(new, writes, strict=True))
        return tuple(w + move for w, move in zip(new, moves, strict=True)) if closes else tuple(new)

    accumulator = None if now.accumulator is None else moved(now.accumulator, rule.initial)
    if accumulator is not None and closes:
        weights = linked(rule.retention, accumulator, rule.initial)
    else:
        weights = moved(now.weights, rule.resting)
        weights = linked(rule.retention, weights, rule.initial) if closes else weights
    return Carried(weights if closes else now.start, weights, momentum, accumulator, pending)


def _chunk(
    x: ScanInputs, co: Coefficients, at: Reads | None, rule: ScanRule, now: Carried, closes: bool
) -> tuple[Tensor, Carried]:
    """Read and write one chunk, or the part of one that this call holds; gradients are taken at its start."""
    structure, start = rule.structure, now.start
    trace = structure.trace(start, x.k)
    prediction = structure.finish(x.k, trace.output, rule.gain)
    slope = rule.bias.slope(prediction, x.v, x.delta)
    if rule.surprise is not None:
        rule.surprise.append(_norms(trace, structure.errors(start, trace, slope, rule.gain), rule))
    step = x.theta
    if rule.learning.normalised:
        bearing = structure.bearing(start, trace, rule.gain)
        step = step / rule.bias.burden(bearing, prediction, x.v, slope).clamp(min=1)
    errors = structure.errors(start, trace, step * slope, rule.gain)

    if at is None:
        y = structure.read(start, x.q, rule.gain)
    else:
        y = _read(x.q, at, trace.inputs, errors, rule, now.weights, now.momentum)
    after = _write(now, trace, errors, co, rule, closes)
    if closes and rule.read == "after" and not rule.retention.linear:
        last = structure.read(after.weights, x.q[:, -1:], rule.gain)
        y = torch.cat([y[:, :-1], last], 1)
    return y, after


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


def _two_axes(weights: Weights, B: int, H: int) -> Weights:
    """And back."""
    return tuple(w.unflatten(0, (B, H)) for w in weights)


def memory_scan(x: ScanInputs, rule: ScanRule, state: ScanState) -> tuple[Tensor, ScanState]:
    """Run the scan chunk by chunk; shapes and meaning as in the front door."""
    B, H, T, _ = x.q.shape
    found = rule.surprise
    surprise: list[Tensor] = []
    initial = _one_axis(tuple(w.expand(B, *w.shape) for w in rule.initial))
    resting = initial
    if rule.retention.accumulates:
        resting = _one_axis(tuple(w.expand(B, *w.shape) for w in rule.resting))
    gain = None if rule.gain is None else rule.gain.repeat(B, 1, 1)
    rule = rule._replace(initial=initial, resting=resting, gain=gain, surprise=None if found is None else surprise)
    if state.offset == 0:
        state = state._replace(start=state.weights)
    start, weights, momentum = (_one_axis(group) for group in state[:3])
    beside = (None if group is None else _one_axis(group) for group in (state.accumulator, state.pending))
    now = Carried(start, weights, momentum, *beside)
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
            offset = (offset + length) % rule.chunk_size
            y, now = _chunk(
                ScanInputs(*inputs),
                Coefficients(*coefficient),
                Reads(*read) if read else None,
                rule,
                now,
                closes=offset == 0,
            )
            ys.append(y)
        rows.append(torch.stack(ys, 1).flatten(1, 2))
    if found is not None and surprise:
        found.append(torch.cat(surprise, -1).unflatten(0, (B, H)))
    y = torch.cat(rows, 1).unflatten(0, (B, H)) if rows else x.v
    start, weights, momentum = (_two_axes(group, B, H) for group in now[:3])
    accumulator, pending = (None if group is None else _two_axes(group, B, H) for group in now[3:])
    return y, ScanState(start, weights, momentum, offset, state.waiting, accumulator, pending)
