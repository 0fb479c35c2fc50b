r"""And its way back: all reads at once, then the chunks' writes in reverse, each by the rule of its line forward.

In names ``d`` before a symbol is the derivative of the outer loss by it. What is found of memories and momenta is kept
where they are, (N + 1, P) a row of batch and head: the reads put there what they find, and the pass in reverse adds
what comes from behind. Nothing is added by two programs, so the same input gives the same bits.
"""

import triton
import triton.language as tl

from titans_seq.ops.memory_scan.triton.forward import (
    asked,
    first_at,
    gain_of,
    hidden,
    last_at,
    met,
    parameter,
    prediction,
    read_at,
    rows_at,
    slots,
    tokens,
    write_rows,
    written,
)
from titans_seq.ops.memory_scan.triton.rows import across, dot, error_back, normalise, product, squared, total


@triton.jit
def met_back(x, d, memory, momentum, initial, at, b, c, OF: tl.constexpr, SPEC: tl.constexpr):
    """Slopes of `met` by x, b and c, from d."""
    by_W = product(d, tl.trans(tl.load(memory + at)), OF)
    dx, dc = b * by_W, tl.zeros_like(b)
    if SPEC.RETURNS:
        by_initial = product(d, tl.trans(tl.load(initial + at)), OF)
        dx += (1 - b) * by_initial
        by_W -= by_initial
    if momentum is not None:
        by_S = product(d, tl.trans(tl.load(momentum + at)), OF)
        dx += c * by_S
        dc = total(x * by_S)
    return dx, total(x * by_W), dc


@triton.jit
def met_tiles(x, d, dmemory, dmomentum, dinitial, at, b, c, OF: tl.constexpr, SPEC: tl.constexpr):
    """Put down the slopes of `met` by its tiles."""
    tl.store(dmemory + at, product(tl.trans(b * x), d, OF))
    if SPEC.RETURNS:
        tl.store(dinitial + at, product(tl.trans((1 - b) * x), d, OF))
    if dmomentum is not None:
        tl.store(dmomentum + at, product(tl.trans(c * x), d, OF))


@triton.jit
def output_back(
    q, k, gain, scores, keep, push, initial, memories, momenta, errors, dy,
    dq, dk, dgain, dscores, dkeep, dpush, dinitials, dmemories, dmomenta, derrors, dhidden, dfirst,
    first, T, N, P, SPEC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Slopes of one chunk's reads: by queries and keys, coefficients, memories and errors.

    ``dhidden`` and ``dfirst`` (N C, h) are those by what the last layer was given for the keys, and by the first
    layer's errors.
    """
    C: tl.constexpr = SPEC.TILE
    D: tl.constexpr = SPEC.D
    OF: tl.constexpr = k.dtype.element_ty
    n, row, d = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, D)
    chunk = row * N + n
    own = slots(chunk, SPEC)
    t, live = tokens(first + n, T, SPEC)
    q, k, initial = q + row * T * D, k + row * T * D, initial + row * P
    dq, dk = dq + row * T * D, dk + row * T * SPEC.D
    here = (row * (N + 1) + n) * P
    memory, dmemory = memories + here, dmemories + here
    momentum = None if momenta is None else momenta + here
    dmomentum = None if dmomenta is None else dmomenta + here
    dinitial = None if dinitials is None else dinitials + chunk * P
    xq, x = rows_at(q, t, live, d, D), rows_at(k, t, live, d, D)
    G = tl.load(errors + own[:, None] * D + d[None, :]).to(OF)
    A, b, c = read_at(scores, keep, push, chunk, SPEC)
    R = (A * product(xq, tl.trans(x), OF)).to(OF)

    # forwards once more, as far as it is needed
    inner_outer = tl.zeros((C, C), tl.float32)
    f = tl.zeros((C, D), tl.float32)
    for h0 in range(0, SPEC.HIDDEN, BLOCK):
        h = h0 + tl.arange(0, BLOCK)
        inner, g = written(x, k, t, live, memory, h, G, OF, SPEC)
        inner_q, _ = asked(xq, q, t, live, memory, momentum, initial, h, b, c, R, g, OF, SPEC)
        inner_outer = dot(inner_q, tl.trans(inner), inner_outer, OF)
        if SPEC.NORM:
            f += met(inner_q, memory, momentum, initial, last_at(h, SPEC), b, c, OF, SPEC)
    df = rows_at(dy + row * T * D, t, live, d, D).to(tl.float32)
    dxq = tl.zeros((C, D), tl.float32)
    if SPEC.NORM:
        f -= product(A * inner_outer, G, OF)
        z, r = normalise(f, SPEC)
        tl.store(dgain + chunk * 2 * D + d, tl.sum(df * z, 0))
        dxq += df
        df = across(df * gain_of(gain, row, SPEC)[None, :], z, r, SPEC)
    df = df.to(OF)

    tl.store(derrors + own[:, None] * D + d[None, :], -product(tl.trans(A * inner_outer), df, OF))
    dA = -product(df, tl.trans(G), OF)
    dinner_outer = (A * dA).to(OF)
    at_scores = dscores + own[:, None] * C + tl.arange(0, C)[None, :]
    tl.store(at_scores, dA * inner_outer)
    dR = tl.zeros((C, C), tl.float32)
    db = tl.zeros((C, 1), tl.float32)
    dc = tl.zeros((C, 1), tl.float32)
    for h0 in range(0, SPEC.HIDDEN, BLOCK):
        h = h0 + tl.arange(0, BLOCK)
        inner, g = written(x, k, t, live, memory, h, G, OF, SPEC)
        inner_q, slope_q = asked(xq, q, t, live, memory, momentum, initial, h, b, c, R, g, OF, SPEC)
        dinner_q, db_h, dc_h = met_back(inner_q, df, memory, momentum, initial, last_at(h, SPEC), b, c, OF, SPEC)
        db += db_h
        dc += dc_h
        dinner_q = dot(dinner_outer, inner, dinner_q, OF)
        dinner = product(tl.trans(dinner_outer), inner_q, OF)
        met_tiles(inner_q, df, dmemory, dmomentum, dinitial, last_at(h, SPEC), b, c, OF, SPEC)
        if SPEC.DEPTH == 2:
            dz = dinner_q * slope_q
            dxq_h, db_h, dc_h = met_back(xq, dz, memory, momentum, initial, first_at(h, SPEC), b, c, OF, SPEC)
            dxq += dxq_h
            db += db_h
            dc += dc_h
            met_tiles(xq, dz, dmemory, dmomentum, dinitial, first_at(h, SPEC), b, c, OF, SPEC)
            dR -= product(dz, tl.trans(g), OF)
            tl.store(dhidden + own[:, None] * SPEC.HIDDEN + h[None, :], dinner)
            tl.store(dfirst + own[:, None] * SPEC.HIDDEN + h[None, :], -product(tl.trans(R), dz, OF))
        else:
            if SPEC.NORM:
                dinner_q += rows_at(dy + row * T * D, t, live, h, D)
            tl.store(dq + t[:, None] * D + h[None, :], dinner_q, mask=live[:, None])
            tl.store(dk + t[:, None] * D + h[None, :], dinner, mask=live[:, None])
    if SPEC.DEPTH == 2:
        tl.debug_barrier()  # other threads may have stored what is added to
        tl.store(at_scores, tl.load(at_scores) + dR * product(xq, tl.trans(x), OF))
        douter = dR * A
        dxq = dot(douter, x, dxq, OF)
        tl.store(dq + t[:, None] * D + d[None, :], dxq, mask=live[:, None])
        tl.store(dk + t[:, None] * D + d[None, :], product(tl.trans(douter), xq, OF), mask=live[:, None])
    tl.store(dkeep + own[:, None], db)
    tl.store(dpush + own[:, None], dc)


@triton.jit
def write_back(x, dmemory, dmomentum, P, at, a, m, OF: tl.constexpr, SPEC: tl.constexpr):
    """Slope of a tile's write by its errors: $-(a x) dW - (m x) dS$, dW and dS those by the next memory."""
    dg = -product(a * x, tl.load(dmemory + P + at), OF)
    if dmomentum is not None:
        dg -= product(m * x, tl.load(dmomentum + P + at), OF)
    return dg


@triton.jit
def write_tile_back(
    memory, momentum, initial, dmemory, dmomentum, dinitial, P, at, x, g, dW_own, a, m, b, c, e,
    OF: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """Slopes of `write_tile` by its inputs x, a and m, b, c and e; those by its tiles are added where they are kept."""
    dW = tl.load(dmemory + P + at)
    W = tl.load(memory + at)
    by_x = product(g, tl.trans(dW), OF)
    dx, da, dm = -a * by_x, -total(x * by_x), tl.zeros_like(a)
    if SPEC.RETURNS:
        W -= tl.load(initial + at)
        tl.store(dinitial + at, tl.load(dinitial + at) + (1 - b) * dW)
    db = tl.sum(dW * W)
    dc, de = db * 0, db * 0
    if momentum is not None:
        dS, S = tl.load(dmomentum + P + at), tl.load(momentum + at)
        by_x = product(g, tl.trans(dS), OF)
        dx -= m * by_x
        dm -= total(x * by_x)
        dc, de = tl.sum(dW * S), tl.sum(dS * S)
        tl.store(dmomentum + at, tl.load(dmomentum + at) + c * dW + e * dS)
    tl.store(dmemory + at, tl.load(dmemory + at) + b * dW + dW_own)
    return dx, da, dm, db, dc, de


@triton.jit
def state_back(
    k, v, theta, delta, gain, write, carry, initial, memories, momenta, errors,
    dk, dv, dtheta, ddelta, dgain, dwrite, dcarry, dinitials, dmemories, dmomenta, derrors, dhidden, dfirst,
    first, T, N, P, SPEC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Slopes of the chunks' writes, the last one first; a program is a row of batch and head."""
    C: tl.constexpr = SPEC.TILE
    D: tl.constexpr = SPEC.D
    OF: tl.constexpr = k.dtype.element_ty
    row, d = tl.program_id(0).to(tl.int64), tl.arange(0, D)
    gamma = gain_of(gain, row, SPEC)
    k, v, initial = k + row * T * D, v + row * T * D, initial + row * P
    dk, dv = dk + row * T * D, dv + row * T * SPEC.D
    theta += row * T * (D if SPEC.WIDE_THETA else 1)
    dtheta += row * T * (D if SPEC.WIDE_THETA else 1)
    if delta is not None:
        delta += row * T * (D if SPEC.WIDE_DELTA else 1)
        ddelta += row * T * (D if SPEC.WIDE_DELTA else 1)
    for back in range(N):
        n = N - 1 - back
        chunk = row * N + n
        here = (row * (N + 1) + n) * P
        memory, dmemory = memories + here, dmemories + here
        momentum = None if momenta is None else momenta + here
        dmomentum = None if dmomenta is None else dmomenta + here
        dinitial = None if dinitials is None else dinitials + chunk * P
        own = slots(chunk, SPEC)
        t, live = tokens(first + n, T, SPEC)
        x, value = rows_at(k, t, live, d, D), rows_at(v, t, live, d, D)
        G = tl.load(errors + own[:, None] * D + d[None, :]).to(OF)
        a, m, b, c, e = write_rows(write, carry, chunk, SPEC)

        f, bearing, below = prediction(x, k, t, live, memory, BLOCK, OF, SPEC)
        dG = tl.load(derrors + own[:, None] * D + d[None, :])
        for h0 in range(0, SPEC.HIDDEN, BLOCK):
            h = h0 + tl.arange(0, BLOCK)
            inner, slope, _ = hidden(x, k, t, live, memory, h, OF, SPEC)
            dG += write_back(inner, dmemory, dmomentum, P, last_at(h, SPEC), a, m, OF, SPEC)
            if SPEC.DEPTH == 2:
                dg = tl.load(dfirst + own[:, None] * SPEC.HIDDEN + h[None, :])
                dg += write_back(x, dmemory, dmomentum, P, first_at(h, SPEC), a, m, OF, SPEC)
                dG = dot(dg * slope, tl.load(memory + last_at(h, SPEC)), dG, OF)
        step, bound = parameter(theta, t, live, SPEC.WIDE_THETA, SPEC), parameter(delta, t, live, SPEC.WIDE_DELTA, SPEC)
        df, de_row, dtheta_row, ddelta_row, dgain_row, dbearing = error_back(
            dG, f, x, value, step, bound, gamma, bearing, SPEC
        )
        df = df.to(OF)

        dx = tl.zeros((C, D), tl.float32)
        da = tl.zeros((C, 1), tl.float32)
        dm = tl.zeros((C, 1), tl.float32)
        db = tl.sum(da)
        dc, de = db, db
        if SPEC.NORM:
            dx += de_row
            tl.store(dgain + (chunk * 2 + 1) * D + d, tl.sum(dgain_row, 0))
        if SPEC.NORMALISED and SPEC.DEPTH == 2:
            dx += 2 * dbearing * below * x
        squares = total(squared(x)) * dbearing
        for h0 in range(0, SPEC.HIDDEN, BLOCK):
            h = h0 + tl.arange(0, BLOCK)
            inner, slope, curvature = hidden(x, k, t, live, memory, h, OF, SPEC)
            last = tl.load(memory + last_at(h, SPEC))
            dlast = product(tl.trans(inner), df, OF)
            dinner = product(df, tl.trans(last), OF)
            if SPEC.NORMALISED:
                dinner += 2 * dbearing * inner
            if SPEC.DEPTH == 2:
                dinner += tl.load(dhidden + own[:, None] * SPEC.HIDDEN + h[None, :])
                dg = tl.load(dfirst + own[:, None] * SPEC.HIDDEN + h[None, :])
                dg += write_back(x, dmemory, dmomentum, P, first_at(h, SPEC), a, m, OF, SPEC)
                back_here = product(G, tl.trans(last), OF)
                dlast = dot(tl.trans(dg * slope), G, dlast, OF)
                dslope = dg * back_here
                if SPEC.NORMALISED:
                    dslope += 2 * squares * slope * tl.sum(last * last, 1)[None, :]
                    dlast += 2 * tl.sum(squares * slope * slope, 0)[:, None] * last
            dinner_w, da_h, dm_h, db_h, dc_h, de_h = write_tile_back(
                memory, momentum, initial, dmemory, dmomentum, dinitial, P, last_at(h, SPEC), inner, G, dlast,
                a, m, b, c, e, OF, SPEC,
            )  # fmt: skip
            dinner += dinner_w
            da, dm, db, dc, de = da + da_h, dm + dm_h, db + db_h, dc + dc_h, de + de_h
            if SPEC.DEPTH == 2:
                dz = dinner * slope + dslope * curvature
                weight = tl.load(memory + first_at(h, SPEC))
                dx = dot(dz, tl.trans(weight), dx, OF)
                dx_w, da_h, dm_h, db_h, dc_h, de_h = write_tile_back(
                    memory, momentum, initial, dmemory, dmomentum, dinitial, P, first_at(h, SPEC), x,
                    back_here * slope, product(tl.trans(x), dz, OF), a, m, b, c, e, OF, SPEC,
                )  # fmt: skip
                dx += dx_w
                da, dm, db, dc, de = da + da_h, dm + dm_h, db + db_h, dc + dc_h, de + de_h
            else:
                at = dk + t[:, None] * D + h[None, :]
                tl.store(at, tl.load(at, mask=live[:, None], other=0.0) + dinner, mask=live[:, None])
        tl.debug_barrier()  # what follows, and the chunk before, reads what other threads have written
        if SPEC.DEPTH == 2 or SPEC.NORM:
            at = dk + t[:, None] * D + d[None, :]
            tl.store(at, tl.load(at, mask=live[:, None], other=0.0) + dx, mask=live[:, None])
        tl.store(dv + t[:, None] * D + d[None, :], -de_row, mask=live[:, None])
        put_parameter(dtheta, dtheta_row, t, live, SPEC.WIDE_THETA, SPEC)
        if delta is not None:
            put_parameter(ddelta, ddelta_row, t, live, SPEC.WIDE_DELTA, SPEC)
        tl.store(dwrite + slots(2 * chunk, SPEC)[:, None], da)
        tl.store(dwrite + slots(2 * chunk + 1, SPEC)[:, None], dm)
        tl.store(dcarry + chunk * 3, db)
        tl.store(dcarry + chunk * 3 + 1, dc)
        tl.store(dcarry + chunk * 3 + 2, de)


@triton.jit
def put_parameter(pointer, d, t, live, WIDE: tl.constexpr, SPEC: tl.constexpr):
    """Store slopes (C, D) by θ or δ, summed where a token has one number."""
    if WIDE:
        tl.store(pointer + t[:, None] * SPEC.D + tl.arange(0, SPEC.D)[None, :], d, mask=live[:, None])
    else:
        tl.store(pointer + t[:, None], total(d), mask=live[:, None])
