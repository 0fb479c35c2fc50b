r"""What all kernels of the delta scan share: where a tile's rows lie, and its decays.

Tensors lie as (R, T, D), R rows of batch and head; a tile is C tokens of a row, the last one filled up with tokens that
do nothing. Decays are sums of logarithms, exponentiated: of exactly the tokens in between, never a difference of two
sums, so that a decay of 0 (-inf) gives 0 and not a number that is none.
"""

import triton
import triton.language as tl


@triton.jit
def place(N):
    """Tile and row of this program, of N tiles a row; int64, as R T D passes 2**31 on long inputs."""
    return tl.program_id(0) % N, (tl.program_id(0) // N).to(tl.int64)


@triton.jit
def dot(x, y, OF: tl.constexpr):
    """Matrix product in float32 of operands rounded to the dtype ``OF``; float32 is multiplied as TF32."""
    return tl.dot(x.to(OF), y.to(OF), input_precision="tf32")


@triton.jit
def _at(x, row, tile, T, first, W: tl.constexpr, D: tl.constexpr, C: tl.constexpr):
    i = tl.arange(0, C)[:, None]
    # one int64 for the tile, int32 inside of it: addresses take half the registers
    return x + (row * T + tile * C) * D + (i * D + first + tl.arange(0, W)[None, :]), tile * C + i < T


@triton.jit
def rows(x, row, tile, T, first, W: tl.constexpr, D: tl.constexpr, C: tl.constexpr):
    """A tile's rows of x (R, T, D), W columns from ``first``: (C, W); zeros behind the last token."""
    at, live = _at(x, row, tile, T, first, W, D, C)
    return tl.load(at, mask=live, other=0.0)


@triton.jit
def put_rows(x, found, row, tile, T, first, W: tl.constexpr, D: tl.constexpr, C: tl.constexpr):
    """Store what `rows` would load."""
    at, live = _at(x, row, tile, T, first, W, D, C)
    tl.store(at, found, mask=live)


@triton.jit
def square(x, index, first, W: tl.constexpr, D: tl.constexpr, DV: tl.constexpr):
    """Where the W columns from ``first`` of the index-th matrix of x (·, D, DV) lie: (D, W)."""
    return x + index * D * DV + (tl.arange(0, D)[:, None] * DV + first + tl.arange(0, W)[None, :])


@triton.jit
def logs(log_decay, row, tile, T, SHIFT: tl.constexpr, C: tl.constexpr):
    """Log decays (C,) of the tile's tokens, or of those ``SHIFT`` later; 0 for tokens outside of the tile."""
    i = tl.arange(0, C) + SHIFT
    t = tile * C + i
    return tl.load(log_decay + row * T + t, mask=(i >= 0) & (i < C) & (t < T), other=0.0)


@triton.jit
def since_start(log_decay, row, tile, T, LAG: tl.constexpr, C: tl.constexpr):
    """Decay (C,) from the tile's start to each token's read: with its own decay (LAG 0) or before it (1)."""
    return tl.exp(tl.cumsum(logs(log_decay, row, tile, T, -LAG, C), 0))


@triton.jit
def until_end(log_decay, row, tile, T, C: tl.constexpr):
    """Decay (C,) from each token's write to the tile's end."""
    return tl.exp(tl.cumsum(logs(log_decay, row, tile, T, 1, C), 0, reverse=True))


@triton.jit
def whole(log_decay, row, tile, T, C: tl.constexpr):
    """Decay over the tile."""
    return tl.exp(tl.sum(logs(log_decay, row, tile, T, 0, C), 0))


@triton.jit
def between(log_decay, row, tile, T, LAG: tl.constexpr, C: tl.constexpr):
    """Λ (C, C): decay from token s's write to token t's read, after t's own write (LAG 0) or before it (1)."""
    t, s = tl.arange(0, C)[:, None] - LAG, tl.arange(0, C)[None, :]
    passed = tl.where(t > s, logs(log_decay, row, tile, T, -LAG, C)[:, None], 0.0)
    return tl.where(t >= s, tl.exp(tl.cumsum(passed, 0)), 0.0)


@triton.jit
def by_decay(scores, reads, LAG: tl.constexpr, C: tl.constexpr):
    """Slope (C,) by each token's log decay: what has come through it.

    Args:
        scores: (C, C) slope by Λ times Λ.
        reads: (C,) slope by the decay since the tile's start times it.
    """
    t, i = tl.arange(0, C)[:, None] - LAG, tl.arange(0, C)[None, :]
    earlier = tl.cumsum(scores, 1) - scores  # of writes before token i; nothing of them is left where its decay is 0
    return tl.sum(tl.where(t >= i, earlier + reads[:, None], 0.0), 0)
