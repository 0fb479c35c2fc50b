"""The recurrence as printed, one token at a time, inner gradients by autograd: everything else is judged by it."""

from typing import Any

import torch
from torch import Tensor

from titans_seq.miras.structure import Weights
from titans_seq.ops.memory_scan import ScanInputs, ScanRule, ScanState, linked


def _gradient(start: Weights, x: ScanInputs, t: int, rule: ScanRule) -> Weights:
    r"""$\theta_t \nabla\ell(M; k_t, v_t)$ at the memory ``start``, a weight a layer, itself differentiable."""
    row = slice(t, t + 1)
    k, v, theta = x.k[:, :, row], x.v[:, :, row], x.theta[:, :, row]
    delta = None if x.delta is None else x.delta[:, :, row]
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # nodes of their own: k and v may follow from the same tensors, as MAC's do from what was read of its memory
        start = tuple(w.view_as(w) if graph and w.requires_grad else w.detach().requires_grad_() for w in start)
        prediction = rule.structure.read(start, k, rule.gain)
        loss = rule.bias.loss(prediction, v, delta).sum()
        if rule.surprise is not None:
            gradient = torch.autograd.grad(loss, start, retain_graph=True)
            squares = torch.stack([g.square().sum((-2, -1)) for g in gradient])
            rule.surprise.append(squares.sum(0).sqrt()[..., None])
        (slope,) = torch.autograd.grad(loss, prediction, create_graph=True)
        error = theta * slope  # a θ by channel weighs the error; one θ commutes with what follows
        if rule.learning.normalised:
            bearing = rule.structure.bearing(start, rule.structure.trace(start, k), rule.gain)
            error = error / rule.bias.burden(bearing, prediction, v, slope).clamp(min=1)
        return torch.autograd.grad(prediction, start, error, create_graph=True)


def _write(now: ScanState, gradient: Weights, x: ScanInputs, t: int, rule: ScanRule) -> ScanState:
    """The memory after one token: forgetting, what the learning rule adds, and with a chunk's last token the link."""
    offset = (now.offset + 1) % rule.chunk_size
    alpha = 0 if x.alpha is None else x.alpha[:, :, t, :, None]
    eta = 0 if x.eta is None else x.eta[:, :, t, :, None]
    momentum, pending, added = now.momentum, now.pending, tuple(torch.zeros_like(w) for w in now.weights)
    if pending is None:
        added = momentum = tuple(eta * s - g for s, g in zip(momentum, gradient, strict=True))  # S_t
    else:
        parts = zip(pending, momentum, gradient, strict=True)
        pending = tuple(p + eta / rule.chunk_size * s - g for p, s, g in parts)
        if offset == 0:
            added, momentum = tuple(rule.learning.move(p) for p in pending), pending
            pending = tuple(torch.zeros_like(p) for p in pending)

    def moved(weights: Weights, first: Weights) -> Weights:
        new = tuple((1 - alpha) * w + s for w, s in zip(weights, added, strict=True))
        if rule.retention.returns:
            new = tuple(w + alpha * w0 for w, w0 in zip(new, first, strict=True))
        return new

    weights = moved(now.weights, rule.resting)  # M_t
    accumulator = None if now.accumulator is None else moved(now.accumulator, rule.initial)  # A_t
    if offset == 0:
        weights = linked(rule.retention, accumulator or weights, rule.initial)
    if x.eta is None:
        momentum = tuple(torch.zeros_like(s) for s in momentum)
    start = weights if offset == 0 else now.start
    return now._replace(
        start=start, weights=weights, momentum=momentum, offset=offset, accumulator=accumulator, pending=pending
    )


def _own(part: Any) -> Any:
    """The same with tensors that were not made for inference, also within tuples."""
    if isinstance(part, Tensor):
        return part.clone()
    if isinstance(part, tuple):
        parts = map(_own, part)
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
    return part


def memory_scan(x: ScanInputs, rule: ScanRule, state: ScanState) -> tuple[Tensor, ScanState]:
    """Run the scan token by token; shapes and meaning as in the front door."""
    if torch.is_inference_mode_enabled():  # where not even the inner gradients can be taken
        with torch.inference_mode(False), torch.no_grad():
            return memory_scan(_own(x), _own(rule), _own(state))
    now, rows = (state if state.offset else state._replace(start=state.weights)), []
    for t in range(x.q.shape[2]):
        before, now = now, _write(now, _gradient(now.start, x, t, rule), x, t, rule)
        read = {"after": now.weights, "before": before.weights, "start": before.start}[rule.read]
        rows.append(rule.structure.read(read, x.q[:, :, t : t + 1], rule.gain))
    if not torch.is_grad_enabled():
        now = now._replace(
            start=_detached(now.start),
            weights=_detached(now.weights),
            momentum=_detached(now.momentum),
            accumulator=None if now.accumulator is None else _detached(now.accumulator),
            pending=None if now.pending is None else _detached(now.pending),
        )
    return torch.cat(rows, 2) if rows else x.v, now


def _detached(weights: Weights) -> Weights:
    return tuple(w.detach() for w in weights)
