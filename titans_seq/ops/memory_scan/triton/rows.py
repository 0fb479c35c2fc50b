r"""What happens inside a row: activations, layer norm, the bias's slope, the normalised step, and their slopes.

Rows are tokens, (C, D) or (C, h) of one chunk in float32; the formulas are those of `titans_seq.miras`. In names ``d``
before a symbol is the derivative of the outer loss by it.
"""

import triton
import triton.language as tl

from titans_seq.miras.bias import NO_ERROR
from titans_seq.miras.structure import LN_EPS

EPS = tl.constexpr(LN_EPS)
LEAST = tl.constexpr(NO_ERROR)
HALF_ROOT = tl.constexpr(0.7071067811865476)  # √½
DENSITY = tl.constexpr(0.3989422804014327)  # 1/√(2π)


@triton.jit
def dot(a, b, onto, OF: tl.constexpr):
    """Add a @ b to ``onto`` in float32; operands are rounded to the dtype ``OF``."""
    return tl.dot(a.to(OF), b.to(OF), acc=onto, input_precision="tf32")


@triton.jit
def product(a, b, OF: tl.constexpr):
    """a @ b in float32; operands are rounded to the dtype ``OF``."""
    return tl.dot(a.to(OF), b.to(OF), input_precision="tf32")


@triton.jit
def squared(x):
    """x² in float32."""
    return x.to(tl.float32) * x


@triton.jit
def total(x):
    """Sum of each row, (C, 1)."""
    return tl.sum(x, 1)[:, None]


@triton.jit
def activate(z, SPEC: tl.constexpr):
    """σ(z), σ'(z) and σ''(z)."""
    if SPEC.ACTIVATION == "gelu":
        below = 0.5 * (1 + tl.erf(z * HALF_ROOT))
        density = DENSITY * tl.exp(-0.5 * z * z)
        return z * below, below + z * density, density * (2 - z * z)
    else:
        gate = tl.sigmoid(z)
        bend = gate * (1 - gate)
        return z * gate, gate + z * bend, bend * (2 + z * (1 - 2 * gate))


@triton.jit
def normalise(f, SPEC: tl.constexpr):
    """Layer norm without gain: ẑ, and r = 1/√(var + ε), (C, 1)."""
    centred = f - total(f) / SPEC.D
    r = tl.rsqrt(total(centred * centred) / SPEC.D + EPS)
    return centred * r, r


@triton.jit
def across(g, z, r, SPEC: tl.constexpr):
    """Slope of `normalise` at its ẑ and r, from one by ẑ to one by f; it is its own transpose."""
    return r * (g - total(g) / SPEC.D - z * (total(g * z) / SPEC.D))


@triton.jit
def slope_of(e, delta, SPEC: tl.constexpr):
    """The bias's slope at the errors e, its derivative by e, and that by δ."""
    if SPEC.BIAS == "l2":
        return 2 * e, tl.full(e.shape, 2.0, tl.float32), tl.zeros(e.shape, tl.float32)
    elif SPEC.BIAS == "huber":
        far = tl.abs(e) > delta
        sign = tl.where(e > 0, 1.0, -1.0)
        return tl.where(far, sign * delta, e), tl.where(far, 0.0, 1.0), tl.where(far, sign, 0.0)
    else:
        squares = e * e + SPEC.SMOOTH
        power = SPEC.POWER * tl.exp((SPEC.POWER / 2 - 2) * tl.log(squares))
        curvature = power * ((SPEC.POWER - 1) * e * e + SPEC.SMOOTH)
        return power * squares * e, curvature, tl.zeros(e.shape, tl.float32)


@triton.jit
def burden_of(n, s, e, SPEC: tl.constexpr):
    """What divides a step where above 1, (C, 1): from the bearing n, the slope s and the error e."""
    if SPEC.BIAS == "l2":
        return n
    elif SPEC.BIAS == "huber":
        return 0.5 * n
    else:
        return n * total(s * s) / (2 * tl.maximum(total(s * e), LEAST))


@triton.jit
def widest(gain):
    """The largest |γ|."""
    return tl.max(tl.abs(gain), 0)


@triton.jit
def predict(f, k, v, delta, gain, SPEC: tl.constexpr):
    """ẑ and r of f (f and 1 without the norm), the error e of the prediction, and the slope at it."""
    if SPEC.NORM:
        z, r = normalise(f, SPEC)
        e = k + z * gain[None, :] - v
    else:
        z, r, e = f, 1.0, f - v
    s, curvature, by_delta = slope_of(e, delta, SPEC)
    return z, r, e, s, curvature, by_delta


@triton.jit
def error_of(f, k, v, theta, delta, gain, bearing, SPEC: tl.constexpr):
    """Error G of the last layer, θ in it, from what the memory made of the keys, f (C, D)."""
    z, r, e, s, _curvature, _by_delta = predict(f, k, v, delta, gain, SPEC)
    g = theta * s
    if SPEC.NORMALISED:
        n = bearing
        if SPEC.NORM:
            n = bearing * r * r * widest(gain) * widest(gain)
        g = g / tl.maximum(burden_of(n, s, e, SPEC), 1.0)
    if SPEC.NORM:
        g = across(g * gain[None, :], z, r, SPEC)
    return g


@triton.jit
def error_back(d, f, k, v, theta, delta, gain, bearing, SPEC: tl.constexpr):
    """From the slope d by G to those by f, the prediction, θ, δ, γ (of each row) and the bearing."""
    z, r, e, s, curvature, by_delta = predict(f, k, v, delta, gain, SPEC)
    none = tl.zeros(e.shape, tl.float32)
    dz, de, dgain = none, none, none
    dr, dbearing = tl.zeros_like(bearing), tl.zeros_like(bearing)
    n, burden, over = bearing, bearing, dr + 1
    if SPEC.NORMALISED:
        if SPEC.NORM:
            n = bearing * r * r * widest(gain) * widest(gain)
        burden = burden_of(n, s, e, SPEC)
        over = tl.maximum(burden, 1.0)
    dg = d  # by step times slope
    if SPEC.NORM:
        scaled = theta / over * s
        g = scaled * gain[None, :]
        along, met = total(g * z) / SPEC.D, total(d * z) / SPEC.D
        dr += total(d * (g - total(g) / SPEC.D - z * along))
        dz -= r * (d * along + g * met)
        dg = across(d, z, r, SPEC)
        dgain += dg * scaled
        dg = dg * gain[None, :]
    dtheta = dg * s / over
    ds = dg * theta / over
    if SPEC.NORMALISED:
        dburden = tl.where(burden >= 1, -total(dg * s * theta) / (over * over), 0.0)
        dn = dburden
        if SPEC.BIAS == "huber":
            dn = 0.5 * dburden
        if SPEC.BIAS == "lp":
            squares, along_e = total(s * s), total(s * e)
            least = tl.maximum(along_e, LEAST)
            dn = dburden * squares / (2 * least)
            dalong = tl.where(along_e >= LEAST, -dburden * n * squares / (2 * least * least), 0.0)
            ds += dburden * n * s / least + dalong * e
            de += dalong * s
        dbearing = dn
        if SPEC.NORM:
            most = widest(gain)
            dbearing = dn * r * r * most * most
            dr += dn * bearing * 2 * r * most * most
            at = tl.abs(gain) == most
            sign = tl.where(gain > 0, 1.0, -1.0) / tl.sum(at.to(tl.float32), 0)
            dgain += dn * bearing * 2 * r * r * most * tl.where(at, sign, 0.0)[None, :]
    de += ds * curvature
    ddelta = ds * by_delta
    df = de
    if SPEC.NORM:
        dgain += de * z
        df = across(dz + de * gain[None, :], z, r, SPEC) - dr * r * r * z / SPEC.D
    return df, de, dtheta, ddelta, dgain, dbearing
