"""The same scan in fused kernels: matrix and two-layer memories, forward and backward, by the formulas of `chunked`.

Three passes: coefficients of all chunks (`gates`), the chunks' writes in their order, and all reads at once
(`forward`); and the same in reverse (`backward`). A long sequence takes them group by group of chunks, of as many as
their memories fit into ``held`` bytes, and the backward pass then makes a group's memories once more from its start.

Sums and memories are float32, products those of the inputs' dtype: bfloat16, float16, or of float32 TF32, which has 11
bits. Nothing here imports Triton before a kernel runs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_seq.miras.bias import Lp, WithDelta
from titans_seq.miras.structure import Matrix, Weights
from titans_seq.ops.memory_scan import ScanInputs, ScanRule, ScanState, chunked

HELD = 2**30  # bytes of chunks' memories that are held at once, where a call does not say
LONGEST, WIDTHS = 64, (16, 32, 64, 128)  # tokens of a chunk, channels of a head
ROWS = 65_535  # of batch and head: the most that a grid of programs has along its second axis
# Bytes of shared memory that the largest kernel of two layers asks for at its smallest block, by bytes of a number that
# is multiplied, rows of a chunk and width of a head: compiled by hand with Triton 3.6 and 3.7 for sm_80, sm_89 and
# sm_90, the most of them. What is not here fits into the 101,376 of an sm_86 or sm_89, the least of the GPUs meant.
SHARED = {
    (4, 64, 128): 299_008,
    (4, 64, 64): 163_840,
    (4, 64, 32): 106_496,
    (4, 32, 128): 141_312,
    (2, 64, 128): 108_544,
}
KINDS = {
    "structure": ("matrix", "mlp"),
    "bias": ("l2", "huber", "lp", "l1"),
    "retention": ("none", "forgetting"),
    "learning": ("gradient_descent", "momentum"),
}


class Spec(NamedTuple):
    """What a kernel is compiled for."""

    C: int  # tokens of a chunk
    TILE: int  # rows that a kernel has for them: a power of two, 16 at least
    D: int  # width of a head, of keys and of values
    HIDDEN: int  # width of what the last layer reads: of a matrix D
    DEPTH: int  # layers, 1 or 2
    ACTIVATION: str
    NORM: bool  # x + LN(f) γ
    NORMALISED: bool  # the step is divided by what its token bears
    BIAS: str
    POWER: float  # p and ε of Lp
    SMOOTH: float
    DELTA: float  # δ where it is a number
    RETURNS: bool  # forgetting towards the initial memory
    READ: str
    WIDE_THETA: bool  # θ by channel
    WIDE_DELTA: bool


def _rows(chunk_size: int) -> int:
    """Rows that a kernel has for a chunk's tokens: a power of two, 16 at least."""
    return max(16, 1 << (chunk_size - 1).bit_length())


def _too_large(x: ScanInputs, rule: ScanRule, multiplied: torch.dtype) -> str:
    """The shared memory that the kernels need and this GPU has not; empty if it has."""
    if not x.q.is_cuda or len(rule.initial) == 1:
        return ""
    needed = SHARED.get((multiplied.itemsize, _rows(rule.chunk_size), x.q.shape[-1]), 0)
    there = getattr(torch.cuda.get_device_properties(x.q.device), "shared_memory_per_block_optin", needed)
    if needed <= there:
        return ""
    return f"{needed:,} bytes of shared memory a block, and this GPU has {there:,}: a shorter chunk_size or bfloat16"


def lacks(x: ScanInputs, rule: ScanRule, multiplied: torch.dtype) -> str:
    """What the kernels need of a call that it has not; empty if nothing."""
    D, hidden = x.q.shape[-1], rule.initial[-1].shape[-2]
    needs = {f"{part} {' or '.join(kinds)}": getattr(rule, part).kind in kinds for part, kinds in KINDS.items()}
    needs |= {
        "one or two layers": rule.structure.depth in (1, 2),
        f"heads of width {', '.join(map(str, WIDTHS))}": D in WIDTHS and x.v.shape[-1] == D,
        "a memory 1 to 4 times as wide, in steps of 16": hidden % 16 == 0 and D <= hidden <= 4 * D,
        f"chunk_size {LONGEST} or less": rule.chunk_size <= LONGEST,
        "float32, bfloat16 or float16": x.theta.dtype == torch.float32,
        f"{ROWS:,} rows of batch and head or less": x.q.shape[0] * x.q.shape[1] <= ROWS,
        "no record of surprise": rule.surprise is None,
    }
    if large := _too_large(x, rule, multiplied):
        needs[large] = False
    return ", ".join(need for need, met in needs.items() if not met)


def spec_of(x: ScanInputs, rule: ScanRule) -> Spec:
    """What the kernels of a call are compiled for."""
    bias: Any = rule.bias
    power, smooth = (bias.p, bias.smooth) if isinstance(bias, Lp) else (2.0, 0.0)
    delta = bias.delta if isinstance(bias, WithDelta) else 0.0
    return Spec(
        C=rule.chunk_size,
        TILE=_rows(rule.chunk_size),
        D=x.q.shape[-1],
        HIDDEN=rule.initial[-1].shape[-2],
        DEPTH=len(rule.initial),
        ACTIVATION=rule.structure.activation,
        NORM=rule.structure.norm,
        NORMALISED=rule.learning.normalised,
        BIAS="lp" if bias.kind == "l1" else bias.kind,
        POWER=power,
        SMOOTH=smooth,
        DELTA=delta if isinstance(delta, float) else 0.0,
        RETURNS=rule.retention.returns,
        READ=rule.read,
        WIDE_THETA=x.theta.shape[-1] > 1,
        WIDE_DELTA=x.delta is not None and x.delta.shape[-1] > 1,
    )


def _flat(weights: Weights, B: int) -> Tensor:
    """Layers (..., H, d_in, d_out) of a memory to one row (B H, P)."""
    rows = torch.cat([w.flatten(-2) for w in weights], -1)
    return rows.expand(B, *rows.shape[-2:]).flatten(0, 1).contiguous()


def _layers(rows: Tensor, like: Weights) -> Weights:
    """And back, to layers (B, H, d_in, d_out) as those of ``like``."""
    parts = rows.split([w.shape[-2] * w.shape[-1] for w in like], -1)
    return tuple(part.reshape(w.shape) for part, w in zip(parts, like, strict=True))


def _cut(x: ScanInputs, tokens: slice) -> ScanInputs:
    return ScanInputs(*(None if part is None else part[:, :, tokens] for part in x))  # type: ignore[arg-type]


def memory_scan(x: ScanInputs, rule: ScanRule, state: ScanState) -> tuple[Tensor, ScanState]:
    """Run the scan in kernels; shapes and meaning as in the front door, q, k and v of any dtype."""
    B, H, T, _ = x.q.shape
    begun = min(T, -state.offset % rule.chunk_size)
    if begun or not T:  # the rest of a chunk that an earlier call has begun
        head = _cut(x, slice(begun))
        y, state = chunked.memory_scan(head._replace(q=head.q.float(), k=head.k.float(), v=head.v.float()), rule, state)
        if begun == T:
            return y, state
        later, state = memory_scan(_cut(x, slice(begun, None)), rule, state)
        return torch.cat([y.to(later.dtype), later], 2), state

    from titans_seq.ops.memory_scan.triton.operator import scan

    x = x._replace(k=x.k.to(x.q.dtype), v=x.v.to(x.q.dtype))  # tokens that have waited in a state are float32
    y, memory, momentum, start = scan(
        *(None if part is None else part.flatten(0, 1).contiguous() for part in x),
        None if rule.gain is None else rule.gain.squeeze(1).repeat(B, 1),
        _flat(rule.initial, B),
        _flat(state.weights, B),
        None if x.eta is None else _flat(state.momentum, B),
        rule.held or HELD,
        spec_of(x, rule),
    )
    weights = _layers(memory, state.weights)
    state = state._replace(
        start=_layers(start, weights) if T % rule.chunk_size else weights,
        weights=weights,
        momentum=state.momentum if x.eta is None else _layers(momentum, weights),
        offset=T % rule.chunk_size,
    )
    return y.unflatten(0, (B, H)), state


def probe(device: str) -> None:
    """Run every kernel once, small, forward and backward."""
    from titans_seq.ops.memory_scan import memory_scan as front_door

    row = torch.ones(1, 1, 17, WIDTHS[0], device=device, requires_grad=True)
    gate = torch.full((1, 1, 17), 0.1, device=device)
    initial = torch.zeros(1, WIDTHS[0], WIDTHS[0], device=device)
    y, _ = front_door(
        row, row, row, gate, gate, gate, initial=(initial,), structure=Matrix(), chunk_size=16, backend="triton"
    )
    y.sum().backward()
