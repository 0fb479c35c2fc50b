r"""The same scan a tile at a time, in matrix products (the WY form of Bischof and Van Loan, for any decay).

Every step reads $u_s = a_s^\top M_{s-1}$, then adds $k_s v_s^\top - b_s u_s$. Inside a tile the memory is thus what
came in, decayed, and the writes so far, decayed. With $\Lambda$ the products of decays in between,

$U = (I + L_{ab})^{-1} (A M_0 + L_{ak} V)$ and $Y = Q M_0 + L_{qk} V - L_{qb} U$,

where $L_{xy} = (x_t^\top \Lambda_{ts}\, y_s)$ for s before t (for q up to t), and A and Q are decayed since the tile's
start. So what is read to be erased is affine in the memory before the tile and in what is written, and with it
all else: $Y = R M_0 + S V$ and $M = (\Lambda - B^\top (I + L_{ab})^{-1} A) M_0 + W V$, K and B decayed up to the tile's
end. The matrices are computed for a block of tiles at once; tile by tile only one product with the memory is left to do
(Yang et al., Parallelizing linear transformers with the delta rule, 2024; Gated DeltaNet, 2024; GLA, 2023, for decays
by channel).

Decays are only ever multiplied: neighbouring blocks are joined, 1 with 1, 2 with 2 and so on, the reads of the right
one decayed since the seam, the writes of the left one decayed up to it. There is no logarithm and no quotient, so
decays may be 0 and 1, and each its own for every channel, at the price of log2(tile) products.

Axes: G = tiles x B x H, tiles first; c tokens of n steps; R reads a token (the query and, before it, n keys where it
erases), K writes a token (n of values, and n of what is erased).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_seq.ops.delta_scan import DeltaInputs

TILE = 32  # steps, a power of two; the fastest of 16, 32, 64 and 128 on a CPU (benchmarks/delta_scan.py)
BLOCK = 1024  # steps whose coefficients are held at once: some megabytes a head; 512 and 2048 are slower
NOTHING = (0, 0, 0, 1, 0, 0)  # of each part of `DeltaInputs`: a token that leaves the memory as it is


class Joined(NamedTuple):
    """Tiles whose tokens have been joined."""

    scores: Tensor  # (G, c, R, c, P, n) how much each read finds of each write
    reads: Tensor  # (G, c, R, D) reads decayed since the tile's start
    writes: Tensor  # (G, c, K, D) writes decayed up to the tile's end
    whole: Tensor  # (G, 1, D) decay over the tile


def _decayed(halves: Tensor, half: int, decay: Tensor) -> Tensor:
    """Blocks (G, N, 2, r, D), one half of them times ``decay`` (G, N, 1, D), as (G, N, 2 r, D)."""
    if torch.is_grad_enabled():
        factors = [torch.ones_like(decay)] * 2
        factors[half] = decay
        halves = halves * torch.stack(factors, 2)
    else:  # in place: a third of the traffic
        halves[:, :, half] *= decay
    return halves.flatten(2, 3)


def _join(own: Tensor, reads: Tensor, writes: Tensor, decay: Tensor) -> Joined:
    """Join the tokens of every tile.

    Args:
        own: (G, c, R, P, n) what a token's reads find of its own writes.
        reads: (G, c, R, D) decayed by their own token; overwritten where no gradient is wanted.
        writes: (G, c, K, D), K = P n; so are these.
        decay: (G, c, 1, D) of the tokens; one for all channels of which ``reads`` and ``writes`` have D.
    """
    G, tokens, R, P, n = own.shape
    scores = own.new_zeros(R, P, G, tokens, tokens, n).permute(2, 3, 0, 4, 1, 5)  # of a kind in one piece
    scores.diagonal(0, 1, 3).copy_(own.movedim(1, -1))
    while (N := decay.shape[1] // 2) > 0:
        reads, writes = reads.unflatten(1, (N, 2)), writes.unflatten(1, (N, 2))
        corner = torch.bmm(reads[:, :, 1].flatten(0, 1), writes[:, :, 0].flatten(0, 1).mT)
        below = scores.unflatten(3, (N, 2, -1)).unflatten(1, (N, 2, -1))[:, :, 1].select(5, 0).diagonal(0, 1, 4)
        below.copy_(corner.view(G, N, -1, R, tokens // (2 * N), P, n).movedim(1, -1))
        first, second = decay.unflatten(1, (N, 2)).unbind(2)
        reads, writes = _decayed(reads, 1, first), _decayed(writes, 0, second)
        decay = first * second
    reads, writes = (rows[:, 0].unflatten(1, (tokens, -1)) for rows in (reads, writes))
    return Joined(scores, reads, writes, decay[:, 0])


class Reads(NamedTuple):
    """Reads of one kind: what they find is affine in the memory before the tile and in what the tile writes."""

    of_memory: Tensor  # (G, r, D) decayed since the tile's start
    of_writes: list[Tensor]  # (G, r, c n) how much they find of each value, and of each answer that is erased


class Tile(NamedTuple):
    """Tiles that are ready to be read and written."""

    reads: list[Reads]  # where it erases the keys, r = c n; the queries, r = c
    writes: list[Tensor]  # (G, c n, D) decayed up to the tile's end: of values, and of what is erased
    whole: Tensor  # (G or 1, 1, D or 1) decay over the tile


def _kinds(rows: Tensor, keys: int) -> list[Tensor]:
    """Rows (., c, R, ...) of the keys, if there are any, and of the query, each as (., r, ...)."""
    return [kind.flatten(1, 2) for kind in ([rows[:, :, :-1], rows[:, :, -1:]] if keys else [rows])]


def _times(rows: Tensor, factor: Tensor) -> Tensor:
    """Rows times a factor, in place where no gradient is wanted."""
    return rows * factor if torch.is_grad_enabled() else rows.mul_(factor)


def _by_channel(x: DeltaInputs, decay: Tensor, own: Tensor) -> Tile:
    """Each channel with decays of its own: what is read and written decays on the way."""
    n, keys = x.k.shape[2], 0 if x.a is None else 1
    written = torch.cat([x.k] if x.b is None else [x.k, x.b], 2)  # of its own: `_join` overwrites it
    later = x.q if x.a is None else torch.cat([x.a[:, :, 1:], x.q], 2)
    found = (later[:, :, :, None] * written[:, :, None]).sum(-1).unflatten(-1, (-1, n))
    entered = decay * later if x.a is None else torch.cat([x.a[:, :, :1], decay * later], 2)
    tile = _join(F.pad(found, (0, 0, 0, 0, keys, 0)) * own, entered, written, decay)
    finds = [[part.flatten(2) for part in kind.unbind(3)] for kind in _kinds(tile.scores, keys)]
    reads = [Reads(*kind) for kind in zip(_kinds(tile.reads, keys), finds, strict=True)]
    return Tile(reads, [kind.flatten(1, 2) for kind in tile.writes.split(n, 2)], tile.whole)


def _by_token(x: DeltaInputs, decay: Tensor, own: Tensor) -> Tile:
    """One decay a token, or none: the decays alone are joined, as reads and writes of one channel."""
    n, keys = x.k.shape[2], 0 if x.a is None else 1
    entered = F.pad(decay.expand(-1, -1, 1 + (n - 1) * keys, -1), (0, 0, keys, 0), value=1.0)
    tile = _join(own.expand(*entered.shape[:2], -1, -1, -1), entered, torch.ones_like(decay).repeat(1, 1, n, 1), decay)
    reads, writes = ([part.flatten(1, 2) for part in kind if part is not None] for kind in ((x.a, x.q), (x.k, x.b)))
    shares = [kind.flatten(2) for kind in _kinds(tile.scores, keys)]
    finds = [[_times(torch.bmm(kind, k.mT), share) for k in writes] for kind, share in zip(reads, shares, strict=True)]
    if x.decay is not None:
        reads = [kind * factor for kind, factor in zip(reads, _kinds(tile.reads, keys), strict=True)]
        writes = [kind * tile.writes.flatten(1, 2) for kind in writes]
    return Tile([Reads(*kind) for kind in zip(reads, finds, strict=True)], writes, tile.whole)


def _tile(x: DeltaInputs) -> Tile:
    """Join the tokens of tiles, whose parts are (G, c, n, d)."""
    decay = x.k.new_ones(1, x.k.shape[1], 1, 1) if x.decay is None else x.decay
    # in a token the i-th key reads after the writes before it, the query after all; all but the first see the decay
    own = F.pad(decay.new_ones(x.k.shape[2], x.k.shape[2]).tril(), (0, 0, 1, 0))[:, None]
    own = own[-1:] if x.a is None else own
    return (_by_channel if decay.shape[-1] > 1 else _by_token)(x, decay, own)


def _block(x: DeltaInputs, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Read and write a block of tiles (tiles, B H, c, n, d); returns (tiles x B H, c, Dv) and the memory after it."""
    tiles = len(x.k)
    x = DeltaInputs(*(None if part is None else part.flatten(0, 1) for part in x))  # type: ignore[arg-type]
    (*keys, (of_memory, (of_values, *of_answers))), (k, *b), whole = _tile(x)
    value, added, kept = x.v.flatten(1, 2), k.mT, whole.mT.expand(len(x.v), -1, -1)
    if keys:
        [(key, (of_value, of_answer))], [of_erased], [erased] = keys, of_answers, b
        # answers = by_memory M + by_values V, with the sign of what writing them does
        minus = -torch.eye(value.shape[1], dtype=value.dtype, device=value.device)
        inverse = torch.linalg.solve_triangular(of_answer, minus, upper=False, unitriangular=True)
        by_memory, by_values = torch.bmm(inverse, key), torch.bmm(inverse, of_value)
        of_memory = torch.baddbmm(of_memory, of_erased, by_memory)
        of_values = torch.baddbmm(of_values, of_erased, by_values)
        added = torch.baddbmm(added, erased.mT, by_values)
        decay, kept = kept.squeeze(-1), torch.bmm(erased.mT, by_memory)
        kept.diagonal(dim1=-2, dim2=-1).add_(decay)
    kept, added = (part.unflatten(0, (tiles, -1)) for part in (kept, torch.bmm(added, value)))
    before, memory = _carried(kept, added, memory)
    return torch.bmm(of_values, value).baddbmm_(of_memory, before), memory


def _carried(kept: Tensor, added: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Memory before each tile, (tiles x B H, D, Dv), and after the last: all that goes tile by tile.

    Args:
        kept: of the memory over a tile, (tiles, B H, D or 1, 1) by channel, or (tiles, B H, D, D) where it erases.
        added: (tiles, B H, D, Dv).
        memory: (B H, D, Dv).
    """
    # in place where no gradient is wanted: half of the traffic
    step = ("addcmul" if kept.shape[-1] == 1 else "baddbmm") + ("" if torch.is_grad_enabled() else "_")
    memories = [memory]
    # unbind once: indexing tile i in the loop would make its backward quadratic in length
    for whole, values in zip(kept.unbind(0), added.unbind(0), strict=True):
        memories.append(getattr(values, step)(whole, memories[-1]))
    return torch.cat(memories[:-1]), memories[-1].clone()  # no view of all that was added


def _spans(T: int, tokens: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut T tokens into (tiles, tokens a tile): blocks of whole tiles, and what is left over as a tile of its own."""
    for first in range(0, T // tokens, most):
        yield min(most, T // tokens - first), tokens
    if T % tokens:
        yield 1, T % tokens


def _tiled(part: Tensor, span: tuple[int, int], fill: float) -> Tensor:
    """(B, H, tokens, n, d) to (tiles, B H, c, n, d), c a power of two; ``fill`` is what does nothing."""
    tiles, length = span
    c = 1 << (length - 1).bit_length()
    part = F.pad(part, (0, 0, 0, 0, 0, c - length), value=fill) if c > length else part
    return part.unflatten(2, (tiles, c)).permute(2, 0, 1, 3, 4, 5).flatten(1, 2)


def delta_scan(x: DeltaInputs, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Run the scan tile by tile; shapes and meaning as in the front door."""
    B, H, T, n, _ = x.k.shape
    if not B * H * T:
        return x.v[:, :, :, 0], memory
    tokens = 1 << max(0, (TILE // n).bit_length() - 1)
    spans = list(_spans(T, tokens, max(1, BLOCK // (tokens * n))))
    # split once: slices would each make a gradient of full length
    lengths = [tiles * length for tiles, length in spans]
    blocks = zip(*([None] * len(spans) if part is None else part.split(lengths, 2) for part in x), strict=True)
    memory, rows = memory.flatten(0, 1), []
    for span, parts in zip(spans, blocks, strict=True):
        tiled = (None if part is None else _tiled(part, span, fill) for part, fill in zip(parts, NOTHING, strict=True))
        y, memory = _block(DeltaInputs(*tiled), memory)  # type: ignore[arg-type]
        y = y.unflatten(0, (-1, B, H)).permute(1, 2, 0, 3, 4).flatten(2, 3)
        rows.append(y[:, :, : span[0] * span[1]])
    return torch.cat(rows, 2), memory.unflatten(0, (B, H))
