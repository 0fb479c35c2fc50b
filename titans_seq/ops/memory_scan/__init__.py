"""Memory scan: a memory of any structure that learns each token as it reads it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from titans_seq.miras.bias import L2, Bias, WithDelta
from titans_seq.miras.learning import GradientDescent, Learning, Momentum
from titans_seq.miras.retention import Forgetting, Retention
from titans_seq.miras.structure import Layers, Weights
from titans_seq.ops.kernels import use_triton

BACKENDS = ("reference", "chunked", "triton")  # one module each, beside this file
Backend = Literal["auto", "reference", "chunked", "triton"]
Read = Literal["after", "before", "start"]
Gates = Literal["token", "chunk"]
Operands = Literal["float32", "bfloat16"]


class ScanState(NamedTuple):
    """A memory between two calls; the chunk that is open when a call ends is closed by a later one."""

    start: Weights  # at the open chunk's start, where its gradients are taken; (B, H, d_in, d_out) a layer
    weights: Weights  # now, M_t
    momentum: Weights  # now, S_t; zeros without momentum
    offset: int  # tokens already in the open chunk, 0 <= offset < chunk_size
    waiting: Tensor | None = None  # gates by chunk: keys, values and gates of the open chunk, (B, H, n, ·)
    accumulator: Weights | None = None  # A_t, of a retention that carries it beside the weights
    pending: Weights | None = None  # learning at the chunk's end: the open chunk's summed update


class ScanInputs(NamedTuple):
    """Checked tensors of one call, all in the state's dtype; gates have a last axis of 1 or Dv."""

    q: Tensor
    k: Tensor
    v: Tensor
    theta: Tensor
    alpha: Tensor | None
    eta: Tensor | None
    delta: Tensor | None


class ScanRule(NamedTuple):
    """What the memory is and how it moves: all that does not depend on the token."""

    initial: Weights  # A_init, what is carried at first
    resting: Weights  # M_init, see `at_rest`
    gain: Tensor | None
    structure: Layers
    bias: Bias
    retention: Retention
    learning: Learning
    chunk_size: int
    read: Read
    surprise: list[Tensor] | None
    held: int | None = None


Scan = Callable[[ScanInputs, ScanRule, ScanState], tuple[Tensor, ScanState]]


def linked(retention: Retention, carried: Weights, initial: Weights) -> Weights:
    """Weights of what is carried, a layer each; the same where the retention's link is the identity."""
    if retention.linear:
        return carried
    return tuple(retention.link(a, first) for a, first in zip(carried, initial, strict=True))


def at_rest(retention: Retention, initial: Weights) -> Weights:
    """Weights M_init of what is carried at first: itself, where the weights are what is carried."""
    return linked(retention, initial, initial) if retention.accumulates else initial


def initial_state(
    initial: Weights,
    batch: int,
    dtype: torch.dtype = torch.float32,
    *,
    retention: Retention | None = None,
    learning: Learning | None = None,
    waiting: int | None = None,
) -> ScanState:
    """State of a memory that has read nothing: ``initial`` (H, d_in, d_out) a layer, for ``batch`` rows.

    ``waiting`` is the width of keys, values and gates of a token, which wait for their chunk's end where gates are
    by chunk.
    """
    retention = retention or Forgetting()
    initial = tuple(w.to(dtype) for w in initial)
    carried, weights = (
        tuple(w.expand(batch, *w.shape) for w in group) for group in (initial, at_rest(retention, initial))
    )
    none = tuple(torch.zeros_like(w) for w in weights)
    return ScanState(
        weights,
        weights,
        none,
        0,
        None if waiting is None else none[0].new_zeros(*none[0].shape[:2], 0, waiting),
        carried if retention.accumulates else None,
        none if learning is not None and learning.at_chunk_end else None,
    )


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
    if (x.alpha is not None) != rule.retention.gated:
        raise ValueError(
            f"{rule.retention!r} has {'a' if rule.retention.gated else 'no'} forgetting gate: "
            f"alpha must be {'given' if rule.retention.gated else 'None'}."
        )
    if (x.eta is not None) != rule.learning.momentum:
        raise ValueError(
            f"{rule.learning!r} has {'a' if rule.learning.momentum else 'no'} momentum: "
            f"eta must be {'given' if rule.learning.momentum else 'None'}."
        )
    if x.delta is not None and not isinstance(rule.bias, WithDelta):
        raise ValueError(f"{rule.bias!r} takes no delta.")
    sizes = [(H, *size) for size in rule.structure.sizes(D, Dv)]
    if [tuple(w.shape) for w in rule.initial] != sizes:
        raise ValueError(
            f"initial must hold one (H, d_in, d_out) weight a layer, {sizes} for {rule.structure}, "
            f"got {[tuple(w.shape) for w in rule.initial]}."
        )
    if (rule.gain is not None) != rule.structure.norm:
        raise ValueError("gain (H, Dv) belongs to a structure with norm, and only to one.")
    if rule.chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {rule.chunk_size}.")
    if gates == "chunk" and rule.read != "start":
        raise ValueError("gates by chunk need read='start': what a chunk's tokens write is known at its end.")
    if state is not None and state.offset and (state.waiting is not None) != (gates == "chunk"):
        there = "token" if state.waiting is None else "chunk"
        raise ValueError(f"state stopped inside a chunk whose gates were by {there}: go on with gates={there!r}.")
    if rule.learning.at_chunk_end and rule.read != "start":
        raise ValueError(f"{rule.learning!r} needs read='start': what a chunk's tokens write is known at its end.")
    if state is not None and [tuple(w.shape) for w in state.weights] != [(B, *size) for size in sizes]:
        raise ValueError(
            f"state holds memories of shape {[tuple(w.shape) for w in state.weights]}, "
            f"expected {[(B, *size) for size in sizes]}."
        )
    for name, wanted, choice in (
        ("accumulator", rule.retention.accumulates, rule.retention),
        ("pending", rule.learning.at_chunk_end, rule.learning),
    ):
        if state is not None and (getattr(state, name) is not None) != wanted:
            raise ValueError(f"state was not made with {choice!r}: {name} must be {'given' if wanted else 'None'}.")
    if state is not None and not 0 <= state.offset < rule.chunk_size:
        raise ValueError(
            f"state stopped at token {state.offset} of a chunk, but chunk_size is {rule.chunk_size}: "
            "go on with the chunk_size it was made with."
        )
    if state is not None and state.weights[0].dtype != x.q.dtype:
        raise ValueError(f"the state is {state.weights[0].dtype}, and q, k and v want {x.q.dtype}: cast one of them.")


def _gate(gate: Tensor | None, rows: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    if gate is None:
        return None
    return (gate[..., None] if tuple(gate.shape) == rows else gate).to(dtype)


def memory_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    alpha: Tensor | None,
    eta: Tensor | None = None,
    delta: Tensor | None = None,
    *,
    initial: Weights,
    structure: Layers,
    bias: Bias | None = None,
    retention: Retention | None = None,
    learning: Learning | None = None,
    gain: Tensor | None = None,
    chunk_size: int,
    read: Read = "after",
    gates: Gates = "token",
    state: ScanState | None = None,
    surprise: list[Tensor] | None = None,
    operands: Operands = "float32",
    held: int | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, ScanState]:
    r"""Let a memory learn k → v token by token and read it with q (Titans, eq. 13-15).

    $S_t = \eta_t S_{t-1} - \theta_t \nabla\ell(M_{t'}; k_t, v_t)$ and
    $M_t = (1-\alpha_t) M_{t-1} + \alpha_t M_{init} + S_t$, where t' is the last token before the chunk of t
    (Titans, section 3.2): gradients are taken at the chunk's start, forgetting and momentum run token by token.
    With ``chunk_size=1`` this is the online rule as printed. It is part of the model, not a knob for speed.

    A retention whose link is not the identity, and a learning rule that moves at a chunk's end, act with the chunk's
    last token, whether a call ends there or not; see `titans_seq.miras.retention` and `titans_seq.miras.learning`.

    Everything is computed in float32 (float64 for float64 inputs), under autocast too, but by option products.

    Args:
        q: (B, H, T, D) what to ask the memory.
        k: (B, H, T, D) keys; of norm 1, if θ is to be bounded by κ(1-η)/C.
        v: (B, H, T, Dv) values.
        theta: (B, H, T) step θ of the momentary surprise, or (B, H, T, Dv): it then weighs the error by channel.
        alpha: (B, H, T) forgetting α in [0, 1]; 0 keeps everything, 1 clears the memory. None for a retention
            without a gate.
        eta: (B, H, T) momentum η in [0, 1); None for none.
        delta: (B, H, T) parameter δ > 0 of those biases that have one, in place of their own; of the
            coordinate-wise `Huber` also (B, H, T, Dv).
        initial: one (H, d_in, d_out) weight a layer, what is carried at first: M_init, or for a retention with a
            link A_init (`Retention.start`).
        structure: what the memory is.
        bias: the error it reduces, `L2` by default.
        retention: what it forgets, `Forgetting` towards the initial memory by default.
        learning: how it moves, `Momentum` by default where η is given, else `GradientDescent`. Where it is
            ``normalised`` a token's error is divided by max(1, n_t), n_t the bound `Layers.bearing` on its own
            curvature times that of the bias (`Bias.burden`), so that no token can overshoot; False is the papers' rule.
        gain: (H, Dv) slow gain γ of a structure with norm.
        chunk_size: C, tokens whose gradients are taken at one memory.
        read: M_t ("after" the write, the default), M_{t-1} ("before"), or the memory at the chunk's "start".
        gates: "token", or "chunk": all tokens of a chunk share the means of their θ, α and η, and read its start
            (Titans, section 3.2: parameters as functions of chunks). Faster, and says less. A δ stays its token's.
        state: where an earlier call stopped, also inside a chunk; None for a memory that has read nothing.
        surprise: gains the surprise $\lVert \partial\ell_t / \partial M_{t'} \rVert$ (B, H, T) of the tokens
            that are written, the Frobenius norm over all layers. With gates by chunk, of the chunks that are closed.
        operands: bfloat16 rounds what is multiplied, and each product, to 8 bits; sums and the memory stay float32.
            For processors with such products, and wide heads: on small ones the rounding costs what it saves.
        held: bytes of chunks' memories that kernels hold at once, 1 GiB if none; of a longer sequence the backward pass
            makes them once more from every so many chunks. The other backends hold what autograd needs.
        backend: ``triton`` are fused kernels, which multiply q, k and v as they come (float32 as TF32) or as
            ``operands`` says, ``chunked`` is the dual form in PyTorch, ``reference`` the printed recurrence. ``auto``
            takes Triton on CUDA where it has a kernel for the choices, and for float32 where torch may use TF32
            (`torch.set_float32_matmul_precision`); a log line says where it does not.

    Returns:
        What was read, (B, H, T, Dv) in the dtype of v, and the state after the last token.

    Raises:
        ValueError: if shapes do not agree, or ``triton`` has no kernel for this; says which and why.
    """
    rows = tuple(q.shape[:-1])
    dtype = torch.float64 if torch.float64 in (q.dtype, k.dtype, v.dtype) else torch.float32
    gates_given = (_gate(gate, rows, dtype) for gate in (theta, alpha, eta, delta))
    inputs = ScanInputs(q.to(dtype), k.to(dtype), v.to(dtype), *gates_given)  # type: ignore[arg-type]
    retention = retention or Forgetting()
    learning = learning or (GradientDescent() if eta is None else Momentum())
    initial = tuple(w.to(dtype) for w in initial)
    rule = ScanRule(
        initial,
        at_rest(retention, initial),
        None if gain is None else gain.to(dtype)[:, None, :],
        structure,
        bias or L2(),
        retention,
        learning,
        chunk_size,
        read,
        None if surprise is None else [],
        held,
    )
    _check(inputs, rule, gates, state)
    scan = _backend(backend, inputs, rule, multiplied := torch.bfloat16 if operands == "bfloat16" else q.dtype)
    if scan.__module__.endswith("triton"):
        inputs = inputs._replace(q=q.to(multiplied), k=k.to(multiplied), v=v.to(multiplied))
    with torch.autocast(q.device.type, torch.bfloat16, enabled=operands == "bfloat16"):
        state = state or initial_state(initial, q.shape[0], dtype, retention=retention, learning=learning)
        y, state = _by_chunk(scan, inputs, rule, state) if gates == "chunk" else scan(inputs, rule, state)
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
        y = torch.cat([y, rule.structure.read(after.weights, last.to(x.theta.dtype), rule.gain)], 2)
    waiting = torch.cat([rest for _, rest in cut], -1)
    return y[:, :, waited:] if waited else y, after._replace(offset=open_, waiting=waiting)


def _mean(gate: Tensor, C: int) -> Tensor:
    """Mean of a gate (B, H, T, g) over each chunk, in its tokens' places."""
    chunks = gate.unflatten(2, (-1, C))
    return chunks.mean(3, keepdim=True).expand_as(chunks).flatten(2, 3)


def _backend(name: Backend, x: ScanInputs, rule: ScanRule, multiplied: torch.dtype) -> Scan:
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {name!r}.")
    if name == "triton" or (name == "auto" and x.q.is_cuda):
        from titans_seq.ops.memory_scan import triton

        lacking = triton.lacks(x, rule, multiplied)
        if use_triton("memory_scan", name, x.q.device.type, str(multiplied), lacking, triton.probe):
            return triton.memory_scan
    if name == "reference":
        from titans_seq.ops.memory_scan.reference import memory_scan as scan
    else:
        from titans_seq.ops.memory_scan.chunked import memory_scan as scan
    return scan
