"""Memory scan: a memory of any structure that learns each token as it reads it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from titans_seq.miras.bias import L2, Bias, WithDelta
from titans_seq.miras.retention import RetentionGate
from titans_seq.miras.structure import Layers, Weights

BACKENDS = ("reference", "chunked")  # one module each, beside this file
Backend = Literal["auto", "reference", "chunked"]
Read = Literal["after", "before", "start"]
Gates = Literal["token", "chunk"]


class ScanState(NamedTuple):
    """A memory between two calls; the chunk that is open when a call ends is closed by a later one."""

    start: Weights  # at the open chunk's start, where its gradients are taken; (B, H, d_in, d_out) a layer
    weights: Weights  # now, M_t
    momentum: Weights  # now, S_t; zeros without momentum
    offset: int  # tokens already in the open chunk, 0 <= offset < chunk_size
    waiting: Tensor | None = None  # gates by chunk: keys, values and gates of the open chunk, (B, H, n, ·)


class ScanInputs(NamedTuple):
    """Checked tensors of one call, all in the state's dtype; gates have a last axis of 1 or Dv."""

    q: Tensor
    k: Tensor
    v: Tensor
    theta: Tensor
    alpha: Tensor
    eta: Tensor | None
    delta: Tensor | None


class ScanRule(NamedTuple):
    """What the memory is and how it moves: all that does not depend on the token."""

    initial: Weights
    gain: Tensor | None
    structure: Layers
    bias: Bias
    retention: RetentionGate
    normalised: bool
    chunk_size: int
    read: Read
    surprise: list[Tensor] | None


Scan = Callable[[ScanInputs, ScanRule, ScanState], tuple[Tensor, ScanState]]


def initial_state(
    initial: Weights, batch: int, dtype: torch.dtype = torch.float32, gates: Gates = "token", each: int = 2
) -> ScanState:
    """State of a memory that has read nothing: ``initial`` (H, d_in, d_out) a layer, for ``batch`` rows.

    ``each`` is the number of gates of a token, which wait for their chunk's end where gates are by chunk.
    """
    weights = tuple(w.to(dtype).expand(batch, *w.shape) for w in initial)
    H, D, Dv = initial[0].shape[0], initial[0].shape[1], initial[-1].shape[2]
    waiting = weights[0].new_zeros(batch, H, 0, D + Dv + each) if gates == "chunk" else None
    return ScanState(weights, weights, tuple(torch.zeros_like(w) for w in weights), 0, waiting)


def _check(x: ScanInputs, rule: ScanRule, gates: Gates, state: ScanState | None) -> None:
    if x.q.ndim != 4 or x.k.shape != x.q.shape:
        raise ValueError(f"q and k must both have shape (B, H, T, D), got {tuple(x.q.shape)} and {tuple(x.k.shape)}.")
    B, H, T, D = x.q.shape
    if x.v.shape[:-1] != (B, H, T):
        raise ValueError(f"v must have shape (B, H, T, Dv) with (B, H, T) = {(B, H, T)}, got {tuple(x.v.shape)}.")
    Dv = x.v.shape[-1]
    for name, gate, wide in (
        ("theta", x.theta, (1, Dv)),
        ("alpha", x.alpha, (1,)),
        ("eta", x.eta, (1,)),
        ("delta", x.delta, (1, Dv) if isinstance(rule.bias, WithDelta) and rule.bias.channels else (1,)),
    ):
        if gate is not None and (gate.shape[:-1] != (B, H, T) or gate.shape[-1] not in wide):
            extra = f" or (B, H, T, Dv) = {(B, H, T, Dv)}" if len(wide) > 1 else ""
            raise ValueError(
                f"{name} must have shape (B, H, T) = {(B, H, T)}{extra} to match q, got {tuple(gate.shape)}."
            )
    if x.delta is not None and not isinstance(rule.bias, WithDelta):
        raise ValueError(f"{rule.bias!r} takes no delta.")
    sizes = [(H, *size) for size in rule.structure.sizes(D, Dv)]
    if [tuple(w.shape) for w in rule.initial] != sizes:
        raise ValueError(
            f"initial must hold one (H, d_in, d_out) matrix a layer, {sizes} for {rule.structure}, "
            f"got {[tuple(w.shape) for w in rule.initial]}."
        )
    if (rule.gain is not None) != rule.structure.norm:
        raise ValueError("gain (H, Dv) belongs to a structure with norm, and only to one.")
    if rule.chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {rule.chunk_size}.")
    if gates == "chunk" and rule.read != "start":
        raise ValueError("gates by chunk need read='start': what a chunk's tokens write is known at its end.")
    if state is not None and [tuple(w.shape) for w in state.weights] != [(B, *size) for size in sizes]:
        raise ValueError(
            f"state holds memories of shape {[tuple(w.shape) for w in state.weights]}, "
            f"expected {[(B, *size) for size in sizes]}."
        )
    if state is not None and not 0 <= state.offset < rule.chunk_size:
        raise ValueError(
            f"state stopped at token {state.offset} of a chunk, but chunk_size is {rule.chunk_size}: "
            "go on with the chunk_size it was made with."
        )


def _gate(gate: Tensor | None, rows: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    if gate is None:
        return None
    return (gate[..., None] if tuple(gate.shape) == rows else gate).to(dtype)


def memory_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    alpha: Tensor,
    eta: Tensor | None = None,
    delta: Tensor | None = None,
    *,
    initial: Weights,
    structure: Layers,
    bias: Bias | None = None,
    retention: RetentionGate | None = None,
    gain: Tensor | None = None,
    normalised: bool = True,
    chunk_size: int,
    read: Read = "after",
    gates: Gates = "token",
    state: ScanState | None = None,
    surprise: list[Tensor] | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, ScanState]:
    r"""Let a memory learn k → v token by token and read it with q (Titans, eq. 13-15).

    $S_t = \eta_t S_{t-1} - \theta_t \nabla\ell(M_{t'}; k_t, v_t)$ and
    $M_t = (1-\alpha_t) M_{t-1} + \alpha_t M_{init} + S_t$, where t' is the last token before the chunk of t
    (Titans, section 3.2): gradients are taken at the chunk's start, forgetting and momentum run token by token.
    With ``chunk_size=1`` this is the online rule as printed. It is part of the model, not a knob for speed.

    Everything is computed in float32 (float64 for float64 inputs), under autocast too.

    Args:
        q: (B, H, T, D) what to ask the memory.
        k: (B, H, T, D) keys; of norm 1, if θ is to be bounded by κ(1-η)/C.
        v: (B, H, T, Dv) values.
        theta: (B, H, T) step θ of the momentary surprise, or (B, H, T, Dv): it then weighs the error by channel.
        alpha: (B, H, T) forgetting α in [0, 1]; 0 keeps everything, 1 clears the memory.
        eta: (B, H, T) momentum η in [0, 1); None for none.
        delta: (B, H, T) parameter δ > 0 of those biases that have one, in place of their own; of the
            coordinate-wise `Huber` also (B, H, T, Dv).
        initial: one (H, d_in, d_out) matrix a layer, M_init.
        structure: what the memory is.
        bias: the error it reduces, `L2` by default.
        retention: where forgetting leads, the initial memory by default.
        gain: (H, Dv) slow gain γ of a structure with norm.
        normalised: divide a token's error by max(1, n_t), n_t the bound `Layers.bearing` on its own curvature
            times that of the bias (`Bias.burden`), so that no token can overshoot; False is the papers' rule.
        chunk_size: C, tokens whose gradients are taken at one memory.
        read: M_t ("after" the write, the default), M_{t-1} ("before"), or the memory at the chunk's "start".
        gates: "token", or "chunk": all tokens of a chunk share the means of their θ, α and η, and read its start
            (Titans, section 3.2: parameters as functions of chunks). Faster, and says less. A δ stays its token's.
        state: where an earlier call stopped, also inside a chunk; None for a memory that has read nothing.
        surprise: gains the surprise $\lVert \partial\ell_t / \partial M_{t'} \rVert$ (B, H, T) of the tokens
            that are written, the Frobenius norm over all layers. With gates by chunk, of the chunks that are closed.
        backend: ``chunked`` is the dual form in matrix products, ``reference`` the printed recurrence.

    Returns:
        What was read, (B, H, T, Dv) in the dtype of v, and the state after the last token.

    Raises:
        ValueError: if shapes do not agree; says which.
    """
    rows = tuple(q.shape[:-1])
    dtype = torch.float64 if torch.float64 in (q.dtype, k.dtype, v.dtype) else torch.float32
    inputs = ScanInputs(
        q.to(dtype),
        k.to(dtype),
        v.to(dtype),
        *(_gate(gate, rows, dtype) for gate in (theta, alpha, eta, delta)),  # type: ignore[arg-type]
    )
    rule = ScanRule(
        tuple(w.to(dtype) for w in initial),
        None if gain is None else gain.to(dtype)[:, None, :],
        structure,
        bias or L2(),
        retention or RetentionGate(),
        normalised,
        chunk_size,
        read,
        None if surprise is None else [],
    )
    _check(inputs, rule, gates, state)
    scan = _backend(backend)
    with torch.autocast(q.device.type, enabled=False):
        if gates == "chunk":
            y, state = _by_chunk(scan, inputs, rule, state or initial_state(initial, q.shape[0], dtype))
        else:
            y, state = scan(inputs, rule, state or initial_state(initial, q.shape[0], dtype))
    if surprise is not None:
        empty = inputs.q.new_zeros(*rows[:2], 0)
        surprise.append(torch.cat([empty, *(rule.surprise or ())], -1))
    return y.to(v.dtype), state


def _by_chunk(scan: Scan, x: ScanInputs, rule: ScanRule, state: ScanState) -> tuple[Tensor, ScanState]:
    """Scan with gates by chunk: tokens wait in the state until their chunk is whole."""
    C, parts = rule.chunk_size, [part for part in x[1:] if part is not None]
    q, waited = x.q, 0 if state.waiting is None else state.waiting.shape[2]
    if state.waiting is not None and waited:
        before = state.waiting.split([part.shape[-1] for part in parts], -1)
        parts = [torch.cat(pair, 2) for pair in zip(before, parts, strict=True)]
        q = torch.nn.functional.pad(q, (0, 0, waited, 0))  # those that waited have been read
    open_ = q.shape[2] % C
    sizes = [q.shape[2] - open_, open_]
    (q, last), *cut = (part.split(sizes, 2) for part in (q, *parts))
    whole = iter(cut)
    k, v, *gates = (None if part is None else next(whole)[0] for part in x[1:])
    theta, alpha, eta = (None if gate is None else _mean(gate, C) for gate in gates[:3])
    closed = ScanInputs(q, k, v, theta, alpha, eta, gates[3])  # type: ignore[arg-type]
    y, after = scan(closed, rule, state._replace(offset=0, waiting=None))
    if open_:
        y = torch.cat([y, rule.structure.read(after.weights, last, rule.gain)], 2)
    waiting = torch.cat([rest for _, rest in cut], -1)
    return y[:, :, waited:] if waited else y, after._replace(offset=open_, waiting=waiting)


def _mean(gate: Tensor, C: int) -> Tensor:
    """Mean of a gate (B, H, T, g) over each chunk, in its tokens' places."""
    chunks = gate.unflatten(2, (-1, C))
    return chunks.mean(3, keepdim=True).expand_as(chunks).flatten(2, 3)


def _backend(name: Backend) -> Scan:
    if name == "reference":
        from titans_seq.ops.memory_scan.reference import memory_scan as scan
    elif name in ("auto", "chunked"):
        from titans_seq.ops.memory_scan.chunked import memory_scan as scan
    else:
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {name!r}.")
    return scan
