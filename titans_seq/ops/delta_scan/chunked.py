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

    scores: Tensor  # (G, R, c, K, c) how much each read finds of each of the tokens' K writes
    reads: Tensor  # (G, R, c, D) reads decayed since the tile's start
    writes: Tensor  # (G, K, c, D) writes decayed up to the tile's end
    whole: Tensor  # (G, D) decay over the tile


def _halves(blocks: Tensor) -> tuple[Tensor, ...]:
    return blocks.unflatten(1, (-1, 2)).unbind(2)


def _lower(diagonal: Tensor, corner: Tensor) -> Tensor:
    """Blocks (G, 2 N, R, m, K, m) on the diagonal and (G, N, R, m, K, m) below it: (G, N, R, 2 m, K, 2 m)."""
    left, right = _halves(diagonal)
    return torch.cat([F.pad(left, (0, right.shape[-1])), torch.cat([corner, right], -1)], 3)


def _join(own: Tensor, reads: Tensor, writes: Tensor, decay: Tensor) -> Joined:
    """Join the tokens of every tile.

    Args:
        own: (G, R, c, K) what a token's reads find of its own writes.
        reads: (G, R, c, D) decayed by their own token.
        writes: (G, K, c, D).
        decay: (G, c, D) of the tokens; one for all channels of which ``reads`` and ``writes`` have D.
    """
    # blocks of one token: (G, c, R, 1, K, 1), (G, c, R, 1, D), (G, c, K, 1, D) and (G, c, 1, 1, D)
    scores, decay = own.transpose(1, 2)[:, :, :, None, :, None], decay[:, :, None, None]
    reads, writes = reads.transpose(1, 2)[:, :, :, None], writes.transpose(1, 2)[:, :, :, None]
    while decay.shape[1] > 1:
        (before, after), (old, new), (first, second) = _halves(reads), _halves(writes), _halves(decay)
        corner = torch.bmm(after.flatten(0, 1).flatten(1, 2), old.flatten(0, 1).flatten(1, 2).mT)
        corner = corner.unflatten(2, old.shape[2:4]).unflatten(1, after.shape[2:4]).unflatten(0, after.shape[:2])
        scores = _lower(scores, corner)
        reads = torch.cat([before, first * after], 3)
        writes = torch.cat([second * old, new], 3)
        decay = first * second
    return Joined(scores[:, 0], reads[:, 0], writes[:, 0], decay[:, 0, 0, 0])


def _join_tiles(reads: Tensor, writes: Tensor, decay: Tensor, steps: int) -> Joined:
    """Join reads (G, R, c, D) and writes (G, K, c, D) under ``decay`` (., c, .), K = ``steps`` or twice as many."""
    R, K, erases = reads.shape[1], writes.shape[1] // steps, reads.shape[1] > 1
    # in a token the i-th key reads after the writes before it, the query after all; all but the first see the decay
    own = decay.new_ones(steps, steps).tril()[0 if erases else -1 :]
    entered = decay[:, None].expand(-1, R - erases, -1, -1)
    entered = F.pad(entered, (0, 0, 0, 0, int(erases), 0), value=1.0)
    if decay.shape[-1] > 1:
        found = (reads[:, int(erases) :, None] * writes[:, None]).sum(-1) * own.repeat(1, K)[:, :, None]
        found = F.pad(found.transpose(2, 3), (0, 0, 0, 0, int(erases), 0))
        return _join(found, entered * reads, writes, decay)
    # one decay a token: the decays alone are joined, as reads and writes of one channel
    own = F.pad(own, (0, 0, int(erases), 0))[None, :, None].expand(len(decay), -1, decay.shape[1], -1)
    factor = _join(own, entered, torch.ones_like(decay)[:, None].expand(-1, steps, -1, -1), decay)
    scores = torch.bmm(reads.flatten(1, 2), writes.flatten(1, 2).mT).unflatten(2, (K, -1)).unflatten(1, (R, -1))
    scores = scores * factor.scores.flatten(3)[:, :, :, None]
    writes = (writes.unflatten(1, (K, -1)) * factor.writes[:, None]).flatten(1, 2)
    return Joined(scores.unflatten(4, (steps, -1)).flatten(3, 4), reads * factor.reads, writes, factor.whole)


def _by_step(rows: Tensor) -> Tensor:
    """(G, n, c, ...) to the steps in their order, (G, c n, ...)."""
    return rows.transpose(1, 2).flatten(1, 2)


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
            memory = torch.baddbmm(memory, b.mT, answers[-1])
    return torch.cat(befores), answers, memory


def _rows(*parts: Tensor) -> Tensor:
    """Parts (tiles, B H, c, r, D) of a tile's tokens to (G, all r, c, D)."""
    return torch.cat([part.transpose(2, 3) for part in parts], 2).flatten(0, 1)


def _block(x: DeltaInputs, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Read and write a block of tiles (tiles, B H, c, n, d); returns (tiles x B H, c, Dv) and the memory after it."""
    tiles, _, c, n, _ = x.k.shape
    reads = _rows(x.q) if x.a is None else _rows(x.a, x.q)  # in the order of time
    writes = _rows(x.k) if x.b is None else _rows(x.k, -x.b)
    decay = x.q.new_ones(1, c, 1) if x.decay is None else x.decay.flatten(0, 1).squeeze(2)
    tile = _join_tiles(reads, writes, decay, n)
    value = x.v.flatten(0, 1).flatten(1, 2)
    scores = tile.scores.unflatten(3, (-1, n)).transpose(4, 5).flatten(4, 5)  # (G, R, c, 1 or 2, c n)
    written = [_by_step(part) for part in tile.writes.unflatten(1, (-1, n)).unbind(1)]

    def by_tile(part: Tensor) -> Tensor:
        return part.unflatten(0, (tiles, -1))

    kept = tile.whole.expand(len(value), -1)[..., None]
    added = torch.bmm(written[0].mT, value)
    erased = None
    if x.a is not None:
        of_values, of_answers = _by_step(scores[:, :-1]).unbind(2)
        one = torch.eye(c * n, dtype=value.dtype, device=value.device)
        inverse = torch.linalg.solve_triangular(-of_answers, one, upper=False, unitriangular=True)
        of_memory = torch.bmm(inverse, _by_step(tile.reads[:, :-1]))
        of_values = torch.bmm(inverse, torch.bmm(of_values, value))
        erased = Erased(by_tile(of_memory), by_tile(of_values), by_tile(written[1]))
    before, answers, memory = _carried(by_tile(kept), by_tile(added), memory, erased)
    if answers:
        value = torch.cat([value, torch.cat(answers)], 1)
    return torch.baddbmm(torch.bmm(scores[:, -1].flatten(2), value), tile.reads[:, -1], before), memory


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
