r"""Forward, in the symbols of `titans_seq.ops.delta_scan.chunked`.

Three passes: what is read to be erased, $U = (I + L_{ab})^{-1} (A M_0 + L_{ak} V)$, up to the memory $M_0$ before the
tile, for all tiles at once (`erase_pass`); tile by tile U and the memory (`state_pass`); all tiles' reads
(`output_pass`).
"""

import triton
import triton.language as tl

from titans_seq.ops.delta_scan.triton.tiles import (
    between,
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
def inverse_of(strict, C: tl.constexpr):
    """(I + strict)^-1 of strictly lower (C, C): blocks on the diagonal, joined 1 with 1, 2 with 2 and so on.

    Of two blocks with inverses P and Q and the corner L below them the inverse has -Q L P there.
    """
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    inverse = tl.where(t == s, 1.0, tl.where(t // 2 == s // 2, -strict, 0.0))
    m = 2
    while m < C:
        corner = tl.where((t // (2 * m) == s // (2 * m)) & (t // m != s // m), strict, 0.0)
        inverse -= dot(inverse, dot(corner, inverse, tl.float32), tl.float32)
        m *= 2
    return inverse


@triton.jit
def erase_pass(
    a, b, k, v, log_decay, inverse, of_memory, of_values,
    T, N, D: tl.constexpr, DV: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """U = of_memory M_0 + of_values of one tile, and the inverse that gives it."""
    OF: tl.constexpr = k.dtype.element_ty
    tile, row = place(N)
    A, B, K = rows(a, row, tile, T, 0, D, D, C), rows(b, row, tile, T, 0, D, D, C), rows(k, row, tile, T, 0, D, D, C)
    decay = between(log_decay, row, tile, T, 1, C)
    solved = inverse_of(dot(A, tl.trans(B), OF) * decay, C)
    tl.store(square(inverse, row * N + tile, 0, C, C, C), solved)
    decayed = since_start(log_decay, row, tile, T, 1, C)[:, None] * A
    put_rows(of_memory, dot(solved, decayed, OF), row, tile, T, 0, D, D, C)
    L_ak = dot(solved, dot(A, tl.trans(K), OF) * decay, OF)
    for first in range(0, DV, BLOCK):
        found = dot(L_ak, rows(v, row, tile, T, first, BLOCK, DV, C), OF)
        put_rows(of_values, found, row, tile, T, first, BLOCK, DV, C)


@triton.jit
def state_pass(
    x, y, z, v, u_0, log_decay, memory, memories, u, last,
    T, N, D: tl.constexpr, DV: tl.constexpr, C: tl.constexpr, REVERSE: tl.constexpr, ERASES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Memories before all tiles and the one after them, and U, of some columns of one row's memory.

    Forward U = u_0 + X M and M ← Λ M + Yᵀ E V - Zᵀ E U, X of_memory, Y keys, Z b, E the decay up to the tile's end.
    The slopes take the same way in reverse, dU = u_0 - E X dM and dM ← Λ dM + Yᵀ P dV + Zᵀ dU, X b, Y queries, Z
    of_memory, dV slopes of what was read and P the decay since the tile's start.
    """
    OF: tl.constexpr = y.dtype.element_ty
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK
    M = tl.load(square(memory, row, first, BLOCK, D, DV))
    for n in range(N):
        tile = N - 1 - n if REVERSE else n
        tl.store(square(memories, row * N + tile, first, BLOCK, D, DV), M)
        to_end = until_end(log_decay, row, tile, T, C)[:, None]
        by = since_start(log_decay, row, tile, T, 0, C)[:, None] if REVERSE else to_end
        value = by * rows(v, row, tile, T, first, BLOCK, DV, C)
        after = whole(log_decay, row, tile, T, C) * M + dot(tl.trans(rows(y, row, tile, T, 0, D, D, C)), value, OF)
        if ERASES:
            U = dot(rows(x, row, tile, T, 0, D, D, C), M, OF)
            U = rows(u_0, row, tile, T, first, BLOCK, DV, C) + (-to_end * U if REVERSE else U)
            put_rows(u, U, row, tile, T, first, BLOCK, DV, C)
            after += dot(tl.trans(rows(z, row, tile, T, 0, D, D, C)), U if REVERSE else -to_end * U, OF)
        M = after
    tl.store(square(last, row, first, BLOCK, D, DV), M)


@triton.jit
def output_pass(
    q, k, b, v, u, log_decay, memories, y,
    T, N, D: tl.constexpr, DV: tl.constexpr, C: tl.constexpr, ERASES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Y = Q M_0 + L_qk V - L_qb U of one tile, some columns."""
    OF: tl.constexpr = k.dtype.element_ty
    tile, row = place(N)
    first = tl.program_id(1) * BLOCK
    Q, K = rows(q, row, tile, T, 0, D, D, C), rows(k, row, tile, T, 0, D, D, C)
    decay = between(log_decay, row, tile, T, 0, C)
    M = tl.load(square(memories, row * N + tile, first, BLOCK, D, DV))
    Y = since_start(log_decay, row, tile, T, 0, C)[:, None] * dot(Q, M, OF)
    Y += dot(dot(Q, tl.trans(K), OF) * decay, rows(v, row, tile, T, first, BLOCK, DV, C), OF)
    if ERASES:
        L_qb = dot(Q, tl.trans(rows(b, row, tile, T, 0, D, D, C)), OF) * decay
        Y -= dot(L_qb, rows(u, row, tile, T, first, BLOCK, DV, C), OF)
    put_rows(y, Y, row, tile, T, first, BLOCK, DV, C)
