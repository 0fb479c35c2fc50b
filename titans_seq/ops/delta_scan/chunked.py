r"""The same scan a tile at a time, in matrix products (the WY form of Bischof and Van Loan, for any decay).

Every step reads $u_s = a_s^\top M_{s-1}$, then adds $k_s v_s^\top - b_s u_s$. Inside a tile the memory is thus what
came in, decayed, and the writes so far, decayed. With $\Lambda$ the products of decays in between,

$U = (I + L_{ab})^{-1} (A M_0 + L_{ak} V)$ and $Y = Q M_0 + L_{qk} V - L_{qb} U$,

where $L_{xy} = (x_t^\top \Lambda_{ts}\, y_s)$ for s before t (for q up to t), and A and Q are decayed since the tile's
start. So reads and the memory after the tile are affine in the memory before it. All of it is computed for a block of
tiles at once; tile by tile only $M \leftarrow X M + Y$ is left to do (Yang et al., Parallelizing linear transformers
with the delta rule, 2024; Gated DeltaNet, 2024; GLA, 2023, for decays by channel).

Decays are only ever multiplied: neighbouring blocks are joined, 1 with 1, 2 with 2 and so on, the reads of the right
one decayed since the seam, the writes of the left one decayed up to it. There is no logarithm and no quotient, so
decays may be 0 and 1, and each its own for every channel, at the price of log2(tile) products.

Axes: G = tiles x B x H, tiles first; c tokens of n steps; R reads a token (the query and, where it erases, n keys).
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

    scores: Tensor  # (G, K, R, c, c) how much each read finds of each of the token's K writes
    reads: Tensor  # (G, R, c, D) reads decayed since the tile's start
    writes: Tensor  # (G, K, c, D) writes decayed up to the tile's end
    whole: Tensor  # (G, 1, D) decay over the tile


def _halves(blocks: Tensor) -> tuple[Tensor, ...]:
    return blocks.unflatten(1, (-1, 2)).unbind(2)


def _lower(diagonal: Tensor, corner: Tensor) -> Tensor:
    """Blocks (G, 2 N, ..., m, m) on the diagonal and (G, N, ..., m, m) below it: (G, N, ..., 2 m, 2 m)."""
    left, right = _halves(diagonal)
    return torch.cat([F.pad(left, (0, right.shape[-1])), torch.cat([corner, right], -1)], -2)


def _join(own: Tensor, reads: Tensor, writes: Tensor, decay: Tensor) -> Joined:
    """Join the tokens of every tile.

    Args:
        own: (G, c, K, R) what a token's reads find of its own writes.
        reads: (G, c, R, D) decayed by their own token.
        writes: (G, c, K, D).
        decay: (G, c, 1, D) of the tokens; one for all channels of which ``reads`` and ``writes`` have D.
    """
    R, K, tokens = reads.shape[2], writes.shape[2], decay.shape[1]
    scores, reads, writes = own[..., None, None], reads.flatten(1, 2), writes.flatten(1, 2)
    while (pairs := decay.shape[1] // 2) > 0:
        reads, writes = (rows.unflatten(1, (pairs, 2, -1)) for rows in (reads, writes))
        corner = torch.bmm(reads[:, :, 1].flatten(0, 1), writes[:, :, 0].flatten(0, 1).mT)
        corner = corner.unflatten(2, (-1, K)).unflatten(1, (-1, R)).permute(0, 4, 2, 1, 3)
        scores = _lower(scores, corner.unflatten(0, (-1, pairs)))
        first, second = _halves(decay)
        one = torch.ones_like(first)
        reads = (reads * torch.stack([one, first], 2)).flatten(1, 3)
        writes = (writes * torch.stack([second, one], 2)).flatten(1, 3)
        decay = first * second
    reads, writes = (rows.unflatten(1, (tokens, -1)).transpose(1, 2) for rows in (reads, writes))
    return Joined(scores[:, 0], reads, writes, decay[:, 0])


def _join_tiles(reads: Tensor, writes: Tensor, decay: Tensor, steps: int) -> Joined:
    """Join reads (G, c, R, D) and writes (G, c, K, D), n = ``steps`` or twice as many, under ``decay`` (., c, 1, .)."""
    R = reads.shape[2]
    # a query reads after all writes of its token, the i-th key after those before it; all but the first see the decay
    own = torch.cat([decay.new_ones(1, steps), decay.new_ones(steps, steps).tril(-1)])[:R].mT
    entered = torch.cat([decay, torch.ones_like(decay), decay.expand(-1, -1, steps - 1, -1)], 2)[:, :, :R]
    if decay.shape[-1] > 1:
        own = own.repeat(writes.shape[2] // steps, 1) * (writes[:, :, :, None] * reads[:, :, None]).sum(-1)
        return _join(own, entered * reads, writes, decay)
    # one decay a token: the decays alone are joined, as reads and writes of one channel
    own = own.expand(*decay.shape[:2], -1, -1)
    factor = _join(own, entered, torch.ones_like(decay).expand(-1, -1, steps, -1), decay)
    reads, writes = reads.transpose(1, 2).contiguous(), writes.transpose(1, 2).contiguous()
    found = torch.bmm(reads.flatten(1, 2), writes.flatten(1, 2).mT)
    found = found.unflatten(2, writes.shape[1:3]).unflatten(1, reads.shape[1:3]).permute(0, 3, 1, 2, 4)
    scores = (found.unflatten(1, (-1, steps)) * factor.scores[:, None]).flatten(1, 2)
    writes = (writes.unflatten(1, (-1, steps)) * factor.writes[:, None]).flatten(1, 2)
    return Joined(scores, reads * factor.reads, writes, factor.whole)


def _diagonal(matrix: Tensor, m: int) -> Tensor:
    """Blocks on the diagonal of (G, C, C), (G, C / m, m, m)."""
    return matrix.unflatten(1, (-1, m)).unflatten(3, (-1, m)).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


def _inverse(strict: Tensor, base: int) -> Tensor:
    """(I + strict)^-1 of strictly lower (G, C, C): row by row in blocks of ``base``, which are then joined.

    A power series would be shorter, and wrong: with one key repeated its terms grow to binomial(C, C / 2).
    """
    blocks = _diagonal(strict, base)
    one = torch.eye(base, dtype=strict.dtype, device=strict.device)
    found = one[:1].expand(*blocks.shape[:2], -1, -1)
    for i in range(1, base):
        found = torch.cat([found, one[i] - blocks[:, :, i : i + 1, :i] @ found], 2)
    while (m := found.shape[-1]) < strict.shape[-1]:
        left, right = _halves(found)
        below = _diagonal(strict, 2 * m)[:, :, m:, :m]
        found = _lower(found, -below if m == 1 else -(right @ below @ left))
    return found[:, 0]


def _by_step(rows: Tensor) -> Tensor:
    """(G, n, c, d) to the steps in their order, (G, c n, d)."""
    return rows.transpose(1, 2).flatten(1, 2)


def _carried(kept: Tensor, added: Tensor, memory: Tensor, erases: bool) -> tuple[Tensor, Tensor]:
    """Memory before each tile, (tiles x B H, D, Dv), and after the last: all that has to be done tile by tile.

    Args:
        kept: X, (tiles, B H, D, D) what a tile makes of the memory; (·, ·, D or 1, 1), its diagonal, without erasing.
        added: Y, (tiles, B H, D, Dv).
        memory: (B H, D, Dv).
        erases: whether X is a matrix.
    """
    before, step = [], torch.baddbmm if erases else torch.addcmul
    # unbind once: indexing tile i in the loop would make its backward quadratic in length
    for x, y in zip(kept.unbind(0), added.unbind(0), strict=True):
        before.append(memory)
        memory = step(y, x, memory)
    return torch.cat(before), memory


def _block(x: DeltaInputs, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Read and write a block of tiles (tiles, B H, c, n, d); returns (tiles x B H, c, Dv) and the memory after it."""
    tiles, _, c, n, D = x.k.shape
    q, k, v = x.q.flatten(0, 1), x.k.flatten(0, 1), x.v.flatten(0, 1)
    decay, a, b = (None if part is None else part.flatten(0, 1) for part in x[3:])
    reads = q if a is None else torch.cat([q, a], 2)
    writes = k if b is None else torch.cat([k, b], 2)
    tile = _join_tiles(reads, writes, q.new_ones(1, c, 1, 1) if decay is None else decay, n)

    value = v.flatten(1, 2)
    scores = tile.scores.unflatten(1, (-1, n)).permute(1, 0, 3, 4, 5, 2).flatten(4, 5)  # (1 or 2, G, R, c, c n)
    written = [_by_step(part) for part in tile.writes.unflatten(1, (-1, n)).unbind(1)]
    found = torch.bmm(scores[0].flatten(1, 2), value).unflatten(1, (-1, c))  # by each read, of its tile's values
    seen, y = tile.reads[:, 0], found[:, 0]
    kept, added = tile.whole.mT, torch.bmm(written[0].mT, value)
    if a is not None:
        # what the keys read, affine in the memory: of_memory M + of_values
        inverse = _inverse(_by_step(scores[1][:, 1:]), n)
        of_memory, of_values = inverse @ _by_step(tile.reads[:, 1:]), inverse @ _by_step(found[:, 1:])
        seen = torch.baddbmm(seen, scores[1][:, 0], of_memory, alpha=-1)
        y = torch.baddbmm(y, scores[1][:, 0], of_values, alpha=-1)
        kept = kept * torch.eye(D, dtype=kept.dtype, device=kept.device)
        kept = torch.baddbmm(kept.expand(len(value), -1, -1), written[1].mT, of_memory, alpha=-1)
        added = torch.baddbmm(added, written[1].mT, of_values, alpha=-1)
    kept = kept.expand(len(value), -1, -1).unflatten(0, (tiles, -1))
    before, memory = _carried(kept, added.unflatten(0, (tiles, -1)), memory, a is not None)
    return torch.baddbmm(y, seen, before), memory


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
    return torch.cat(rows, 2) if rows else x.v[:, :, :, 0], memory.unflatten(0, (B, H))
