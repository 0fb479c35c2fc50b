r"""The memory's way forward: a pass over the chunks' writes in their order, and one over their reads, all at once.

Symbols are those of `titans_seq.ops.memory_scan.chunked`: a layer's write is $X^\top G$, and a read needs
$X^q (X^\top G) = (X^q X^\top) G$. A memory is a row of P numbers, its layers one behind the other. A matrix is a last
layer alone, which reads the keys themselves; two layers have a first one before it. What lies between them is gone
through in blocks of ``BLOCK`` columns h, so that no tile is wider than a head.
"""

import triton
import triton.language as tl

from titans_seq.ops.memory_scan.triton.rows import activate, dot, error_of, normalise, product, squared, total


@triton.jit
def tokens(n, T, SPEC: tl.constexpr):
    """Places of chunk n's tokens, in 64 bits since a stream may be long, and whether there is such a token."""
    t = n * SPEC.C + tl.arange(0, SPEC.TILE).to(tl.int64)
    return t, t < tl.minimum((n + 1) * SPEC.C, T)


@triton.jit
def slots(chunk, SPEC: tl.constexpr):
    """Rows of a chunk in what has a whole tile of them for each."""
    return chunk * SPEC.TILE + tl.arange(0, SPEC.TILE)


@triton.jit
def rows_at(pointer, t, live, columns, width: tl.constexpr):
    """Rows ``t`` of what is ``width`` wide, zeros where not ``live``."""
    return tl.load(pointer + t[:, None] * width + columns[None, :], mask=live[:, None], other=0.0)


@triton.jit
def parameter(pointer, t, live, WIDE: tl.constexpr, SPEC: tl.constexpr):
    """θ or δ of the tokens, (C, D) or (C, 1); the fixed δ where there is none."""
    if pointer is None:
        return tl.full((1, 1), SPEC.DELTA, tl.float32)
    elif WIDE:
        return rows_at(pointer, t, live, tl.arange(0, SPEC.D), SPEC.D)
    else:
        return rows_at(pointer, t, live, tl.arange(0, 1), 1)


@triton.jit
def gain_of(pointer, row, SPEC: tl.constexpr):
    """γ of this row's head."""
    if pointer is None:
        return tl.full((1,), 1.0, tl.float32)
    else:
        return tl.load(pointer + row * SPEC.D + tl.arange(0, SPEC.D))


@triton.jit
def first_at(h, SPEC: tl.constexpr):
    """Places of the first layer's columns ``h`` in a memory, (D, h)."""
    return tl.arange(0, SPEC.D)[:, None] * SPEC.HIDDEN + h[None, :]


@triton.jit
def last_at(h, SPEC: tl.constexpr):
    """Places of the last layer's rows ``h`` in a memory, (h, D)."""
    return (SPEC.DEPTH - 1) * SPEC.D * SPEC.HIDDEN + h[:, None] * SPEC.D + tl.arange(0, SPEC.D)[None, :]


@triton.jit
def hidden(x, pointer, t, live, memory, h, OF: tl.constexpr, SPEC: tl.constexpr):
    """What the last layer's rows ``h`` are given for x, and σ' and σ'' there: of a matrix x itself, 1 and 0."""
    if SPEC.DEPTH == 2:
        return activate(product(x, tl.load(memory + first_at(h, SPEC)), OF), SPEC)
    else:
        row = rows_at(pointer, t, live, h, SPEC.D)
        none = tl.zeros(row.shape, tl.float32)
        return row, none + 1, none


@triton.jit
def written(x, k, t, live, memory, h, G, OF: tl.constexpr, SPEC: tl.constexpr):
    """What a chunk's keys give the last layer's rows ``h``, and the first layer's errors there; for a matrix G."""
    inner, slope, _ = hidden(x, k, t, live, memory, h, OF, SPEC)
    if SPEC.DEPTH == 2:
        return inner, product(G, tl.trans(tl.load(memory + last_at(h, SPEC))), OF) * slope
    else:
        return inner, G


@triton.jit
def prediction(x, k, t, live, memory, BLOCK: tl.constexpr, OF: tl.constexpr, SPEC: tl.constexpr):
    """What the memory makes of the keys, f (C, D); the bearing of their steps, and what the first layer adds to it."""
    C: tl.constexpr = SPEC.TILE
    D: tl.constexpr = SPEC.D
    f = tl.zeros((C, D), tl.float32)
    bearing = tl.zeros((C, 1), tl.float32)
    below = tl.zeros((C, 1), tl.float32)
    for h0 in range(0, SPEC.HIDDEN, BLOCK):
        h = h0 + tl.arange(0, BLOCK)
        last = tl.load(memory + last_at(h, SPEC))
        row, slope, _ = hidden(x, k, t, live, memory, h, OF, SPEC)
        f = dot(row, last, f, OF)
        if SPEC.NORMALISED:
            bearing += total(squared(row))
            if SPEC.DEPTH == 2:
                below += total(slope * slope * tl.sum(last * last, 1)[None, :])
    return f, bearing + total(squared(x)) * below, below


@triton.jit
def write_tile(memory, momentum, initial, P, at, x, g, a, m, b, c, e, OF: tl.constexpr, SPEC: tl.constexpr):
    """One tile of the next memory, P further on: $b W + (1-b) W_{init} + c S - (a x)^T g$, and $e S - (m x)^T g$."""
    W = b * tl.load(memory + at) - product(tl.trans(a * x), g, OF)
    if SPEC.RETURNS:
        W += (1 - b) * tl.load(initial + at)
    if momentum is not None:
        S = tl.load(momentum + at)
        W += c * S
        tl.store(momentum + P + at, e * S - product(tl.trans(m * x), g, OF))
    tl.store(memory + P + at, W)


@triton.jit
def write_rows(write, carry, chunk, SPEC: tl.constexpr):
    """Last rows a and m of A and E, (C, 1), and the numbers b, c and e of a chunk's end."""
    a, m = tl.load(write + slots(2 * chunk, SPEC)[:, None]), tl.load(write + slots(2 * chunk + 1, SPEC)[:, None])
    return a, m, tl.load(carry + chunk * 3), tl.load(carry + chunk * 3 + 1), tl.load(carry + chunk * 3 + 2)


@triton.jit
def state_pass(
    k, v, theta, delta, gain, write, carry, initial, memories, momenta, errors,
    first, T, N, P, SPEC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write chunk after chunk; a program is a row of batch and head.

    Memories and momenta are (N + 1, P), of which the first is there; errors G are (N C, D).
    """
    D: tl.constexpr = SPEC.D
    OF: tl.constexpr = k.dtype.element_ty
    row, d = tl.program_id(0).to(tl.int64), tl.arange(0, D)
    gamma = gain_of(gain, row, SPEC)
    k, v, initial = k + row * T * D, v + row * T * D, initial + row * P
    theta += row * T * (D if SPEC.WIDE_THETA else 1)
    if delta is not None:
        delta += row * T * (D if SPEC.WIDE_DELTA else 1)
    memory = memories + row * (N + 1) * P
    momentum = None if momenta is None else momenta + row * (N + 1) * P
    for n in range(N):
        chunk = row * N + n
        t, live = tokens(first + n, T, SPEC)
        x, value = rows_at(k, t, live, d, D), rows_at(v, t, live, d, D)
        f, bearing, _below = prediction(x, k, t, live, memory, BLOCK, OF, SPEC)
        step, bound = parameter(theta, t, live, SPEC.WIDE_THETA, SPEC), parameter(delta, t, live, SPEC.WIDE_DELTA, SPEC)
        G = error_of(f, x, value, step, bound, gamma, bearing, SPEC)
        tl.store(errors + slots(chunk, SPEC)[:, None] * D + d[None, :], G)
        a, m, b, c, e = write_rows(write, carry, chunk, SPEC)
        for h0 in range(0, SPEC.HIDDEN, BLOCK):
            h = h0 + tl.arange(0, BLOCK)
            inner, slope, _curvature = hidden(x, k, t, live, memory, h, OF, SPEC)
            if SPEC.DEPTH == 2:
                last = tl.load(memory + last_at(h, SPEC))
                g = product(G, tl.trans(last), OF) * slope
                write_tile(memory, momentum, initial, P, first_at(h, SPEC), x, g, a, m, b, c, e, OF, SPEC)
            write_tile(memory, momentum, initial, P, last_at(h, SPEC), inner, G, a, m, b, c, e, OF, SPEC)
        tl.debug_barrier()  # the next chunk reads what other threads have written
        memory += P
        if momentum is not None:
            momentum += P


@triton.jit
def met(x, memory, momentum, initial, at, b, c, OF: tl.constexpr, SPEC: tl.constexpr):
    """Rows x through a tile of the memory that each of them meets, but for what its chunk wrote."""
    found = b * product(x, tl.load(memory + at), OF)
    if SPEC.RETURNS:
        found += (1 - b) * product(x, tl.load(initial + at), OF)
    if momentum is not None:
        found += c * product(x, tl.load(momentum + at), OF)
    return found


@triton.jit
def asked(xq, q, t, live, memory, momentum, initial, h, b, c, R, g, OF: tl.constexpr, SPEC: tl.constexpr):
    """What the last layer's rows ``h`` are given for the queries xq, and σ' there; R = A ⊙ xq xᵀ."""
    if SPEC.DEPTH == 2:
        z = met(xq, memory, momentum, initial, first_at(h, SPEC), b, c, OF, SPEC) - product(R, g, OF)
        row, slope, _ = activate(z, SPEC)
        return row, slope
    else:
        row = rows_at(q, t, live, h, SPEC.D)
        return row, tl.zeros(row.shape, tl.float32) + 1


@triton.jit
def read_at(scores, keep, push, chunk, SPEC: tl.constexpr):
    """A (C, C), b and c (C, 1) of a chunk's reads."""
    s = slots(chunk, SPEC)
    A = tl.load(scores + s[:, None] * SPEC.TILE + tl.arange(0, SPEC.TILE)[None, :])
    return A, tl.load(keep + s)[:, None], tl.load(push + s)[:, None]


@triton.jit
def output_pass(
    q, k, gain, scores, keep, push, initial, memories, momenta, errors, y,
    first, T, N, P, SPEC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Read one chunk with its queries, of one row of batch and head; all chunks at once."""
    C: tl.constexpr = SPEC.TILE
    D: tl.constexpr = SPEC.D
    OF: tl.constexpr = k.dtype.element_ty
    n, row, d = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, D)
    chunk = row * N + n
    t, live = tokens(first + n, T, SPEC)
    q, k, initial = q + row * T * D, k + row * T * D, initial + row * P
    memory = memories + (row * (N + 1) + n) * P
    momentum = None if momenta is None else momenta + (row * (N + 1) + n) * P
    xq, x = rows_at(q, t, live, d, D), rows_at(k, t, live, d, D)
    G = tl.load(errors + slots(chunk, SPEC)[:, None] * D + d[None, :]).to(OF)
    A, b, c = read_at(scores, keep, push, chunk, SPEC)
    R = (A * product(xq, tl.trans(x), OF)).to(OF)
    met_there = tl.zeros((C, C), tl.float32)
    f = tl.zeros((C, D), tl.float32)
    for h0 in range(0, SPEC.HIDDEN, BLOCK):
        h = h0 + tl.arange(0, BLOCK)
        inner, g = written(x, k, t, live, memory, h, G, OF, SPEC)
        inner_q, _ = asked(xq, q, t, live, memory, momentum, initial, h, b, c, R, g, OF, SPEC)
        met_there = dot(inner_q, tl.trans(inner), met_there, OF)
        f += met(inner_q, memory, momentum, initial, last_at(h, SPEC), b, c, OF, SPEC)
    f -= product(A * met_there, G, OF)
    if SPEC.NORM:
        z, _ = normalise(f, SPEC)
        f = xq + z * gain_of(gain, row, SPEC)[None, :]
    at = y + (row * T + t[:, None]) * D + d[None, :]
    tl.store(at, f.to(y.dtype.element_ty), mask=live[:, None])
