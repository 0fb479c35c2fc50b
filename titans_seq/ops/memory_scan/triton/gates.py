r"""Coefficients of a chunk from its gates, row by row: no logarithm, no quotient, so gates may be 0 and 1.

$E_t = \eta_t E_{t-1} + 1_t$ and $A_t = (1-\alpha_t) A_{t-1} + E_t$, rows over the chunk's tokens; the momentum before
the chunk is one more token, $e_t = \eta_t e_{t-1}$ and $c_t = (1-\alpha_t) c_{t-1} + e_t$, and the memory before it
$b_t = (1-\alpha_t) b_{t-1}$. A program is a chunk of a row of batch and head. In names ``d`` before a symbol is the
derivative of the outer loss by it.
"""

import triton
import triton.language as tl


@triton.jit
def gate(pointer, t, live):
    """A token's gate; 0 where there is none."""
    if pointer is None:
        return 0.0
    else:
        return tl.load(pointer + t, mask=live, other=0.0)


@triton.jit
def step(A, E, b, c, e, stay, push_on, t, live, C: tl.constexpr):
    """The coefficients after one more token, or as they were behind the last."""
    E_t = push_on * E + tl.where(tl.arange(0, C) == t, 1.0, 0.0)
    e_t = push_on * e
    A_t, c_t = stay * A + E_t, stay * c + e_t
    A, E = tl.where(live, A_t, A), tl.where(live, E_t, E)
    return A, E, tl.where(live, stay * b, b), tl.where(live, c_t, c), tl.where(live, e_t, e)


@triton.jit
def nothing(eta, C: tl.constexpr):
    """A, E, b, c and e before the chunk's first token."""
    none = tl.zeros((C,), tl.float32)
    zero = tl.sum(none, 0)
    return none, none, zero + 1.0, zero, zero + (0.0 if eta is None else 1.0)


@triton.jit
def gates_pass(alpha, eta, scores, keep, push, write, carry, first, T, N, SPEC: tl.constexpr):
    """One chunk's A (C, C), b and c (C) at the reads, last rows of A and E (2, C), and last b, c and e (3)."""
    C: tl.constexpr = SPEC.TILE
    row = tl.program_id(1).to(tl.int64)
    begin, chunk = (first + tl.program_id(0)).to(tl.int64) * SPEC.C, row * N + tl.program_id(0)
    s = tl.arange(0, C)
    A, E, b, c, e = nothing(eta, C)
    for t in range(C):
        live = (begin + t < T) & (t < SPEC.C)
        place = chunk * C + t
        if SPEC.READ == "before":
            tl.store(scores + place * C + s, A)
            tl.store(keep + place, b)
            tl.store(push + place, c)
        stay, push_on = 1 - gate(alpha, row * T + begin + t, live), gate(eta, row * T + begin + t, live)
        A, E, b, c, e = step(A, E, b, c, e, stay, push_on, t, live, C)
        if SPEC.READ == "after":
            tl.store(scores + place * C + s, A)
            tl.store(keep + place, b)
            tl.store(push + place, c)
    tl.store(write + chunk * 2 * C + s, A)
    tl.store(write + (chunk * 2 + 1) * C + s, E)
    tl.store(carry + chunk * 3, b)
    tl.store(carry + chunk * 3 + 1, c)
    tl.store(carry + chunk * 3 + 2, e)


@triton.jit
def gates_back(
    alpha, eta, dscores, dkeep, dpush, dwrite, dcarry, rows, numbers, dalpha, deta, first, T, N, SPEC: tl.constexpr
):
    """Slopes by a chunk's gates; ``rows`` (C, 2, C) and ``numbers`` (C, 3) a chunk are scratch."""
    C: tl.constexpr = SPEC.TILE
    row = tl.program_id(1).to(tl.int64)
    begin, chunk = (first + tl.program_id(0)).to(tl.int64) * SPEC.C, row * N + tl.program_id(0)
    s = tl.arange(0, C)
    A, E, b, c, e = nothing(eta, C)
    for t in range(C):  # once more forwards: what each token found
        live, place = (begin + t < T) & (t < SPEC.C), chunk * C + t
        tl.store(rows + place * 2 * C + s, A)
        tl.store(rows + (place * 2 + 1) * C + s, E)
        tl.store(numbers + place * 3, b)
        tl.store(numbers + place * 3 + 1, c)
        tl.store(numbers + place * 3 + 2, e)
        stay, push_on = 1 - gate(alpha, row * T + begin + t, live), gate(eta, row * T + begin + t, live)
        A, E, b, c, e = step(A, E, b, c, e, stay, push_on, t, live, C)
    tl.debug_barrier()  # other threads read what was stored

    dA, dE = tl.load(dwrite + chunk * 2 * C + s), tl.load(dwrite + (chunk * 2 + 1) * C + s)
    db, dc, de = tl.load(dcarry + chunk * 3), tl.load(dcarry + chunk * 3 + 1), tl.load(dcarry + chunk * 3 + 2)
    for back in range(C):
        t = C - 1 - back
        live, place = (begin + t < T) & (t < SPEC.C), chunk * C + t
        if SPEC.READ == "after":
            dA += tl.load(dscores + place * C + s)
            db += tl.load(dkeep + place)
            dc += tl.load(dpush + place)
        stay, push_on = 1 - gate(alpha, row * T + begin + t, live), gate(eta, row * T + begin + t, live)
        A, E = tl.load(rows + place * 2 * C + s), tl.load(rows + (place * 2 + 1) * C + s)
        b, c = tl.load(numbers + place * 3), tl.load(numbers + place * 3 + 1)
        e = tl.load(numbers + place * 3 + 2)
        dE, de = tl.where(live, dE + dA, dE), tl.where(live, de + dc, de)  # A_t and c_t hold E_t and e_t
        if alpha is not None:
            tl.store(dalpha + row * T + begin + t, -(tl.sum(dA * A, 0) + db * b + dc * c), mask=live)
        if eta is not None:
            tl.store(deta + row * T + begin + t, tl.sum(dE * E, 0) + de * e, mask=live)
        dA, db, dc = tl.where(live, stay * dA, dA), tl.where(live, stay * db, db), tl.where(live, stay * dc, dc)
        dE, de = tl.where(live, push_on * dE, dE), tl.where(live, push_on * de, de)
        if SPEC.READ == "before":
            dA += tl.load(dscores + place * C + s)
            db += tl.load(dkeep + place)
            dc += tl.load(dpush + place)
