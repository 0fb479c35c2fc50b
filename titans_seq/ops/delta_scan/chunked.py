r"""The same scan a tile at a time, in matrix products (the WY form of Bischof and Van Loan, for any decay).

Every step reads $u_s = a_s^\top M_{s-1}$, then adds $k_s v_s^\top - b_s u_s$. Inside a tile the memory is thus what
came in, decayed, and the writes so far, decayed. With $\Lambda$ the products of decays in between,

$U = (I + L_{ab})^{-1} (A M_0 + L_{ak} V)$ and $Y = Q M_0 + L_{qk} V - L_{qb} U$,

where $L_{xy} = (x_t^\top \Lambda_{ts}\, y_s)$ for s before t (for q up to t), and A and Q are decayed since the tile's
start. So what is read to be erased is affine in the memory before the tile. All of it is computed for a block of tiles
at once; tile by tile only U and $M \leftarrow \Lambda M + K^\top V - B^\top U$, K and B decayed up to the tile's end,
are left to do (Yang et al., Parallelizing linear transformers with the delta rule, 2024; Gated DeltaNet, 2024; GLA,
2023, for decays by channel). To erase is to write U with -b: in the code b has that sign.

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

    scores: Tensor  # (G, c R, c K) how much each read finds of each write
    reads: Tensor  # (G, c, R, D) reads decayed since the tile's start
    writes: Tensor  # (G, c, K, D) writes decayed up to the tile's end
    whole: Tensor  # (G, 1, D) decay over the tile


def _halves(blocks: Tensor) -> tuple[Tensor, ...]:
    return blocks.unflatten(1, (-1, 2)).unbind(2)


def _lower(diagonal: Tensor, corner: Tensor) -> Tensor:
    """Blocks (G, 2 N, r, k) on the diagonal and (G, N, r, k) below it: (G, N, 2 r, 2 k)."""
    left, right = _halves(diagonal)
    return torch.cat([F.pad(left, (0, right.shape[-1])), torch.cat([corner, right], -1)], -2)


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
        own: (G, c, R, K) what a token's reads find of its own writes.
        reads: (G, c, R, D) decayed by their own token; overwritten where no gradient is wanted.
        writes: (G, c, K, D); so are these.
        decay: (G, c, 1, D) of the tokens; one for all channels of which ``reads`` and ``writes`` have D.
    """
    scores, tokens = own, decay.shape[1]
    while decay.shape[1] > 1:
        reads, writes = reads.unflatten(1, (-1, 2)), writes.unflatten(1, (-1, 2))
        corner = torch.bmm(reads[:, :, 1].flatten(0, 1), writes[:, :, 0].flatten(0, 1).mT)
        scores = _lower(scores, corner.unflatten(0, reads.shape[:2]))
        first, second = _halves(decay)
        reads, writes = _decayed(reads, 1, first), _decayed(writes, 0, second)
        decay = first * second
    reads, writes = (rows[:, 0].unflatten(1, (tokens, -1)) for rows in (reads, writes))
    return Joined(scores[:, 0], reads, writes, decay[:, 0])


def _times(rows: Tensor, factor: Tensor) -> Tensor:
    """Rows times a factor, in place where no gradient is wanted."""
    return rows * factor if torch.is_grad_enabled() else rows.mul_(factor)


def _join_tiles(reads: Tensor, writes: Tensor, decay: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Join the tokens of every tile under ``decay`` (G, c, 1, .), or none.

    Args:
        reads: (G, c, R, D) in the order of time: where it erases the n keys, then the query; overwritten where no
            gradient is wanted.
        writes: (G, P, c, n, D), P = 1 of values, 2 also of what is erased; so are these.

    Returns:
        Scores (G, c, R, P, c n), reads (G, c, R, D) since the tile's start, writes (G, P, c n, D) up to its end, and
        the decay over the tile.
    """
    P, c, n = writes.shape[1:4]
    R, keys = reads.shape[2], int(reads.shape[2] > 1)
    decays, decay = decay is not None, reads.new_ones(1, c, 1, 1) if decay is None else decay
    # in a token the i-th key reads after the writes before it, the query after all; all but the first see the decay
    own = F.pad(decay.new_ones(n, n).tril(), (0, 0, 1, 0))[-R:]
    entered = F.pad(decay.expand(-1, -1, R - keys, -1), (0, 0, keys, 0), value=1.0)
    if decay.shape[-1] > 1:
        rows = writes.permute(0, 2, 1, 3, 4).flatten(2, 3)
        found = F.pad((reads[:, :, keys:, None] * rows[:, :, None]).sum(-1), (0, 0, keys, 0))
        tile = _join(found * own.repeat(1, P), entered * reads, rows, decay)
        scores = tile.scores.unflatten(2, (c, P, n)).transpose(2, 3).unflatten(1, (c, R)).flatten(4)
        return scores, tile.reads, tile.writes.unflatten(2, (P, n)).transpose(1, 2).flatten(2, 3), tile.whole
    # one decay a token: the decays alone are joined, as reads and writes of one channel
    own, written = own.expand(*entered.shape[:2], -1, -1), torch.ones_like(decay).repeat(1, 1, n, 1)
    tile = _join(own, entered, written, decay)
    writes = writes.flatten(2, 3)
    scores = torch.bmm(reads.flatten(1, 2), writes.flatten(1, 2).mT).unflatten(2, (P, -1)) * tile.scores[:, :, None]
    if decays:
        reads, writes = _times(reads, tile.reads), _times(writes, tile.writes.flatten(1, 2)[:, None])
    return scores.unflatten(1, (c, R)), reads, writes, tile.whole


class Erased(NamedTuple):
    """What is read to be erased, tile by tile: answers U = of_memory M + of_values, written with b."""

    of_memory: Tensor  # (tiles, B H, c n, D)
    of_values: Tensor  # (tiles, B H, c n, Dv)
    b: Tensor  # (tiles, B H, c n, D) with its sign


def _carried(kept: Tensor, added: Tensor, memory: Tensor, erased: Erased | None) -> tuple[Tensor, list[Tensor], Tensor]:
    """Memory before each tile, (tiles x B H, D, Dv), the answers, and the memory after: all that goes tile by tile.

    Args:
        kept: (tiles, B H, D or 1, 1) decay over a tile.
        added: (tiles, B H, D, Dv) what the values add.
        memory: (B H, D, Dv).
        erased: what is read to be erased, if any.
    """
    befores, answers = [], []
    # unbind once: indexing tile i in the loop would make its backward quadratic in length
    reads = zip(*(part.unbind(0) for part in erased), strict=True) if erased else [()] * len(added)
    for whole, values, read in zip(kept.unbind(0), added.unbind(0), reads, strict=True):
        befores.append(memory)
        memory = torch.addcmul(values, whole, memory)
        if read:
            of_memory, of_values, b = read
            answers.append(torch.baddbmm(of_values, of_memory, befores[-1]))
            memory = memory + torch.bmm(b.mT, answers[-1])  # faster than baddbmm where tiles are small
    return torch.cat(befores), answers, memory


def _block(x: DeltaInputs, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Read and write a block of tiles (tiles, B H, c, n, d); returns (tiles x B H, c, Dv) and the memory after it."""
    tiles, _, c, n, _ = x.k.shape
    reads = torch.cat([x.q] if x.a is None else [x.a, x.q], 3).flatten(0, 1)
    writes = torch.stack([x.k] if x.b is None else [x.k, -x.b], 2).flatten(0, 1)
    scores, reads, writes, whole = _join_tiles(reads, writes, None if x.decay is None else x.decay.flatten(0, 1))
    value = x.v.flatten(0, 1).flatten(1, 2)
    added = torch.bmm(writes[:, 0].mT, value)
    erased = None
    if x.a is not None:
        of_values, of_answers = scores[:, :, :-1].flatten(1, 2).unbind(2)
        one = torch.eye(c * n, dtype=value.dtype, device=value.device)
        inverse = torch.linalg.solve_triangular(-of_answers, one, upper=False, unitriangular=True)
        of_memory = torch.bmm(inverse, reads[:, :, :-1].flatten(1, 2))
        of_values = torch.bmm(inverse, torch.bmm(of_values, value))
        erased = Erased(*(part.unflatten(0, (tiles, -1)) for part in (of_memory, of_values, writes[:, 1])))
    kept = whole.mT.expand(len(value), -1, -1)
    before, answers, memory = _carried(kept.unflatten(0, (tiles, -1)), added.unflatten(0, (tiles, -1)), memory, erased)
    if answers:
        value = torch.cat([value, torch.cat(answers)], 1)
    return torch.bmm(scores[:, :, -1].flatten(2), value).baddbmm_(reads[:, :, -1], before), memory


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
