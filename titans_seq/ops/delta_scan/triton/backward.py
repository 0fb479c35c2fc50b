r"""Backward: the same passes in reverse. In names ``d`` before a symbol is the slope of the outer loss by it.

From the slopes of what was read, $dU = -L_{qb}^\top dY$ for all tiles at once (`answer_back`); tile by tile those of
the memory after the tile and the rest of dU, $-B\,dM$ (`state_pass` in reverse); then, for all tiles at once,
$X = (I + L_{ab})^{-\top} dU$, the slope of $A M_0 + L_{ak} V$, and dV (`value_back`). So queries read with slope dY and
erasing keys with slope X, values are written by k and what is erased, -U, by b: one kernel for what reads
(`read_back`), one for what writes (`write_back`). No two programs add to one number: same input, same bits.
"""

import triton
import triton.language as tl

from titans_seq.ops.delta_scan.triton.tiles import (
    between,
    by_decay,
    dot,
    place,
    put_rows,
    rows,
    since_start,
    square,
    until_end,
    whole,
)


@triton.jit
def answer_back(
    q, b, dy, log_decay, du,
    T, N, D: tl.constexpr, DV: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dU = -L_qbᵀ dY of one tile, some columns: by its own reads."""
    OF: tl.constexpr = b.dtype.element_ty
    tile, row = place(N)
    first = tl.program_id(1) * BLOCK
    Q, B = rows(q, row, tile, T, 0, D, D, C), rows(b, row, tile, T, 0, D, D, C)
    L_qb = dot(Q, tl.trans(B), OF) * between(log_decay, row, tile, T, 0, C)
    dU = -dot(tl.trans(L_qb), rows(dy, row, tile, T, first, BLOCK, DV, C), OF)
    put_rows(du, dU, row, tile, T, first, BLOCK, DV, C)


@triton.jit
def value_back(
    q, k, a, dy, du, inverse, log_decay, dmemories, x, dv,
    T, N, D: tl.constexpr, DV: tl.constexpr, C: tl.constexpr, ERASES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """X = (I + L_ab)^-ᵀ dU and dV = L_qkᵀ dY + L_akᵀ X + E K dM of one tile, some columns."""
    OF: tl.constexpr = k.dtype.element_ty
    tile, row = place(N)
    first = tl.program_id(1) * BLOCK
    Q, K = rows(q, row, tile, T, 0, D, D, C), rows(k, row, tile, T, 0, D, D, C)
    L_qk = dot(Q, tl.trans(K), OF) * between(log_decay, row, tile, T, 0, C)
    dM = tl.load(square(dmemories, row * N + tile, first, BLOCK, D, DV))
    dV = until_end(log_decay, row, tile, T, C)[:, None] * dot(K, dM, OF)
    dV += dot(tl.trans(L_qk), rows(dy, row, tile, T, first, BLOCK, DV, C), OF)
    if ERASES:
        solved = tl.load(square(inverse, row * N + tile, 0, C, C, C))
        X = dot(tl.trans(solved), rows(du, row, tile, T, first, BLOCK, DV, C), OF)
        put_rows(x, X, row, tile, T, first, BLOCK, DV, C)
        A = rows(a, row, tile, T, 0, D, D, C)
        dV += dot(tl.trans(dot(A, tl.trans(K), OF) * between(log_decay, row, tile, T, 1, C)), X, OF)
    put_rows(dv, dV, row, tile, T, first, BLOCK, DV, C)


@triton.jit
def read_back(
    r, g, k, b, v, u, log_decay, memories, dmemories, dr, dlog,
    T, N, D: tl.constexpr, DV: tl.constexpr, C: tl.constexpr, LAG: tl.constexpr, ERASES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Slopes by what reads in one tile, r, and by the decays on the way to it.

    Queries (LAG 0) with slopes g = dY, or erasing keys (1) with X; with the queries also the decay from M_0 to the end.
    """
    OF: tl.constexpr = k.dtype.element_ty
    tile, row = place(N)
    dR = tl.zeros((C, D), tl.float32)  # by M_0
    dL_k = tl.zeros((C, C), tl.float32)
    dL_b = tl.zeros((C, C), tl.float32)
    through = 0.0
    for first in range(0, DV, BLOCK):
        M = tl.load(square(memories, row * N + tile, first, BLOCK, D, DV))
        G = rows(g, row, tile, T, first, BLOCK, DV, C)
        dR += dot(G, tl.trans(M), OF)
        dL_k += dot(G, tl.trans(rows(v, row, tile, T, first, BLOCK, DV, C)), OF)
        if ERASES:
            dL_b -= dot(G, tl.trans(rows(u, row, tile, T, first, BLOCK, DV, C)), OF)
        if LAG == 0:
            through += tl.sum(M.to(tl.float32) * tl.load(square(dmemories, row * N + tile, first, BLOCK, D, DV)))
    R, K = rows(r, row, tile, T, 0, D, D, C), rows(k, row, tile, T, 0, D, D, C)
    decay = between(log_decay, row, tile, T, LAG, C)
    dR *= since_start(log_decay, row, tile, T, LAG, C)[:, None]
    of_start = tl.sum(dR * R, 1)
    dL_k *= decay
    scores = dL_k * dot(R, tl.trans(K), OF)
    dR += dot(dL_k, K, OF)
    if ERASES:
        B = rows(b, row, tile, T, 0, D, D, C)
        dL_b *= decay
        scores += dL_b * dot(R, tl.trans(B), OF)
        dR += dot(dL_b, B, OF)
    put_rows(dr, dR, row, tile, T, 0, D, D, C)
    slope = by_decay(scores, of_start, LAG, C)
    if LAG == 0:
        slope += through * whole(log_decay, row, tile, T, C)
    t = tile * C + tl.arange(0, C)
    tl.store(dlog + row * T + t, slope, mask=t < T)


@triton.jit
def write_back(
    w, value, q, a, dy, x, log_decay, dmemories, dw, dlog,
    T, N, D: tl.constexpr, DV: tl.constexpr, C: tl.constexpr, SIGN: tl.constexpr, ERASES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Slopes by what writes in one tile, w, and by the decays from it to the tile's end.

    Keys with values V (SIGN 1), or b with what is erased, U (-1).
    """
    OF: tl.constexpr = w.dtype.element_ty
    tile, row = place(N)
    dW = tl.zeros((C, D), tl.float32)  # by M at the tile's end
    dL_q = tl.zeros((C, C), tl.float32)
    dL_a = tl.zeros((C, C), tl.float32)
    for first in range(0, DV, BLOCK):
        V = SIGN * rows(value, row, tile, T, first, BLOCK, DV, C)
        dW += dot(V, tl.trans(tl.load(square(dmemories, row * N + tile, first, BLOCK, D, DV))), OF)
        dL_q += dot(rows(dy, row, tile, T, first, BLOCK, DV, C), tl.trans(V), OF)
        if ERASES:
            dL_a += dot(rows(x, row, tile, T, first, BLOCK, DV, C), tl.trans(V), OF)
    dW *= until_end(log_decay, row, tile, T, C)[:, None]
    of_end = tl.sum(dW * rows(w, row, tile, T, 0, D, D, C), 1)
    dL_q *= between(log_decay, row, tile, T, 0, C)
    dW += dot(tl.trans(dL_q), rows(q, row, tile, T, 0, D, D, C), OF)
    if ERASES:
        dL_a *= between(log_decay, row, tile, T, 1, C)
        dW += dot(tl.trans(dL_a), rows(a, row, tile, T, 0, D, D, C), OF)
    put_rows(dw, dW, row, tile, T, 0, D, D, C)
    t = tile * C + tl.arange(0, C)
    tl.store(dlog + row * T + t, tl.cumsum(of_end, 0) - of_end, mask=t < T)
