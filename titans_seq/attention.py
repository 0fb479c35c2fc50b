"""Short-range attention: causal sliding window and segments, with persistent tokens that all rows see; and sets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_seq.rotary import rotate, rotation


class Attention(nn.Module):
    """Multi-head attention, with rotary positions where rows have an order, (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of x (B, T, D), each (B, H, T, d), not yet rotated."""
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def among(self, x: Tensor) -> Tensor:
        """Attend from each row of a set x (B, T, D) to all of them, whatever their order, (B, T, D)."""
        y = F.scaled_dot_product_attention(*self.heads_of(x))
        return self.out(y.transpose(1, 2).flatten(2))

    def initial_window(self, batch: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a stream that has not begun, (B, H, 0, d)."""
        weight = self.out.weight
        empty = weight.new_zeros(batch, self.heads, 0, weight.shape[0] // self.heads)
        return empty, empty

    def sliding(
        self, x: Tensor, past: tuple[Tensor, ...], window: int | None, prefix: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from each row of x to itself and the window - 1 rows before it, and to all of ``prefix``.

        Args:
            x: (B, T, D).
            past: unrotated keys and values (B, H, P, d) of the rows before x.
            window: rows that are seen, the own one included; None for all.
            prefix: (B or 1, N_p, D) persistent tokens. They have no position: the score with them does not
                depend on where in the stream a row stands.

        Returns:
            (B, T, D), and the keys and values that the next call will need.
        """
        q, k, v = self.heads_of(x)
        k, v = (torch.cat([old.to(new.dtype), new], 2) for old, new in zip(past, (k, v), strict=True))
        T, total = q.shape[2], k.shape[2]
        if window is None or T <= window:
            y = self._blocks(q[:, :, None], k[:, :, None], v[:, :, None], total - T, 0, window or total, prefix)
            y = y[:, :, 0]
        else:
            # blocks of one window, each with the window before it: work linear in T
            count, missing = -(-T // window), window - (total - T)
            rest = count * window - T
            blocks = F.pad(q, (0, 0, 0, rest)).unflatten(2, (count, window))
            keys, values = (
                F.pad(part, (0, 0, missing, rest)).unfold(2, 2 * window, window).transpose(-1, -2) for part in (k, v)
            )
            y = self._blocks(blocks, keys, values, window, missing, window, prefix).flatten(2, 3)[:, :, :T]
        keep = total if window is None else min(total, window - 1)
        return self.out(y.transpose(1, 2).flatten(2)), (k[:, :, total - keep :], v[:, :, total - keep :])

    def _blocks(
        self, q: Tensor, k: Tensor, v: Tensor, before: int, missing: int, window: int, prefix: Tensor | None
    ) -> Tensor:
        """Attention inside blocks: q (B, H, N, w, d), k and v (B, H, N, before + w, d) → (B, H, N, w, d).

        Keys are ``before`` rows older than the queries; the first ``missing`` of the first block do not exist.
        """
        N, w, d, seen = q.shape[2], q.shape[3], q.shape[4], k.shape[3]
        angles = rotation(torch.arange(seen, device=q.device), d)
        rotated_q, rotated_k = rotate(q, angles[:, before:]), rotate(k, angles)
        row = torch.arange(w, device=q.device)[:, None] + before
        column = torch.arange(seen, device=q.device)
        mask = (column <= row) & (column > row - window)
        mask = mask.expand(N, w, seen)
        if missing:
            first = torch.arange(N, device=q.device)[:, None, None] == 0
            mask = mask & ~(first & (column < missing))
        if prefix is not None:
            _, k_prefix, v_prefix = self.heads_of(prefix.to(q.dtype))
            shape = (q.shape[0], self.heads, N, prefix.shape[1], d)
            k_prefix, v_prefix = (part[:, :, None].expand(shape) for part in (k_prefix, v_prefix))
            # twice the width: a row's score with the window is of its rotated half, with the prefix of the plain one
            rotated_q = torch.cat([rotated_q, q], -1)
            rotated_k = torch.cat([F.pad(k_prefix, (d, 0)), F.pad(rotated_k, (0, d))], 3)
            v = torch.cat([v_prefix, v], 3)
            mask = F.pad(mask, (prefix.shape[1], 0), value=True)
        rotated_q, rotated_k, v = (part.transpose(1, 2).flatten(0, 1) for part in (rotated_q, rotated_k, v))
        mask = mask[None].expand(q.shape[0], -1, -1, -1).flatten(0, 1)[:, None]
        y = F.scaled_dot_product_attention(rotated_q, rotated_k, v, attn_mask=mask, scale=d**-0.5)
        return y.unflatten(0, (q.shape[0], N)).transpose(1, 2)

    def segment(
        self, x: Tensor, context: Tensor, past: tuple[Tensor, ...], length: int, prefix: Tensor, causal: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Attend inside one segment to [prefix ‖ context ‖ x] (Titans, eq. 22-23 and figure 3a).

        Args:
            x: (B, n, D) rows of the segment.
            context: (B, n, D) what the memory retrieved for these rows.
            past: rotated keys and values (B, H, m, d) of the segment's earlier contexts and rows.
            length: rows of a whole segment, which fixes the positions.
            prefix: (1, N_p, D) persistent tokens.
            causal: hide the context of later rows; False is the paper's mask, for tasks without a causal order.

        Returns:
            (B, n, D) and the ``past`` of the segment's next rows: context keys and values, row keys and values.
        """
        n, N_p = x.shape[1], prefix.shape[1]
        m = past[0].shape[2]
        q, k, v = self.heads_of(x)
        _, k_context, v_context = self.heads_of(context)
        _, k_prefix, v_prefix = self.heads_of(prefix.to(x.dtype))
        d = q.shape[-1]
        angles = rotation(torch.arange(N_p + 2 * length, device=x.device), d)
        at = N_p + length + m
        q, k = (rotate(part, angles[:, at : at + n]) for part in (q, k))
        k_context = rotate(k_context, angles[:, N_p + m : N_p + m + n])
        k_prefix = rotate(k_prefix, angles[:, :N_p])
        new = (k_context, v_context, k, v)
        seen = tuple(torch.cat([a.to(b.dtype), b], 2) for a, b in zip(past, new, strict=True))
        expand = (x.shape[0], -1, -1, -1)
        keys = torch.cat([k_prefix.expand(expand), seen[0], seen[2]], 2)
        values = torch.cat([v_prefix.expand(expand), seen[1], seen[3]], 2)
        mask = torch.arange(m + n, device=x.device) <= torch.arange(m, m + n, device=x.device)[:, None]
        context_mask = mask if causal else torch.ones_like(mask)
        mask = torch.cat([torch.ones_like(mask[:, :1]).expand(n, N_p), context_mask, mask], 1)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2)), seen
