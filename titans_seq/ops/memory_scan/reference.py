"""The recurrence as printed, one token at a time, inner gradients by autograd: everything else is judged by it."""

import torch
from torch import Tensor

from titans_seq.miras.structure import Weights
from titans_seq.ops.memory_scan import ScanInputs, ScanRule, ScanState


def _gradient(start: Weights, x: ScanInputs, t: int, rule: ScanRule) -> Weights:
    r"""$\theta_t \nabla\ell(M; k_t, v_t)$ at the memory ``start``, a weight a layer, itself differentiable."""
    row = slice(t, t + 1)
    k, v, theta = x.k[:, :, row], x.v[:, :, row], x.theta[:, :, row]
    delta = None if x.delta is None else x.delta[:, :, row]
    with torch.enable_grad():
        start = tuple(w if w.requires_grad else w.detach().requires_grad_() for w in start)
        prediction = rule.structure.read(start, k, rule.gain)
        loss = rule.bias.loss(prediction, v, delta).sum()
        if rule.surprise is not None:
            gradient = torch.autograd.grad(loss, start, retain_graph=True)
            squares = torch.stack([g.square().sum((-2, -1)) for g in gradient])
            rule.surprise.append(squares.sum(0).sqrt()[..., None])
        (slope,) = torch.autograd.grad(loss, prediction, create_graph=True)
        error = theta * slope  # a θ by channel weighs the error; one θ commutes with what follows
        if rule.normalised:
            bearing = rule.structure.bearing(start, rule.structure.trace(start, k), rule.gain)
            error = error / rule.bias.burden(bearing, prediction, v, slope).clamp(min=1)
        return torch.autograd.grad(prediction, start, error, create_graph=True)


def memory_scan(x: ScanInputs, rule: ScanRule, state: ScanState) -> tuple[Tensor, ScanState]:
    """Run the scan token by token; shapes and meaning as in the front door."""
    start, weights, momentum, offset, waiting = state
    rows = []
    for t in range(x.q.shape[2]):
        if offset == 0:
            start = weights
        alpha = x.alpha[:, :, t, :, None]
        eta = 0 if x.eta is None else x.eta[:, :, t, :, None]
        step = _gradient(start, x, t, rule)
        before = weights
        momentum = tuple(eta * s - g for s, g in zip(momentum, step, strict=True))  # S_t
        weights = tuple((1 - alpha) * w + s for w, s in zip(weights, momentum, strict=True))  # M_t
        if rule.retention.towards == "initial":
            weights = tuple(w + alpha * first for w, first in zip(weights, rule.initial, strict=True))
        read = {"after": weights, "before": before, "start": start}[rule.read]
        rows.append(rule.structure.read(read, x.q[:, :, t : t + 1], rule.gain))
        offset = (offset + 1) % rule.chunk_size
    if x.eta is None:
        momentum = tuple(torch.zeros_like(s) for s in momentum)
    if offset == 0:
        start = weights
    if not torch.is_grad_enabled():
        start, weights, momentum = (tuple(w.detach() for w in group) for group in (start, weights, momentum))
    return torch.cat(rows, 2) if rows else x.v, ScanState(start, weights, momentum, offset, waiting)
