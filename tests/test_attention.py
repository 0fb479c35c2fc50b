"""Attention against a naive masked softmax that knows every row's absolute position."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_seq.attention import Attention
from titans_seq.rotary import rotate, rotation

B, H, WIDTH = 2, 2, 8
EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, entries of order 1


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def softmax_attention(attention: Attention, scores: Tensor, mask: Tensor, v: Tensor) -> Tensor:
    """The definition: scores (B, H, T, S) where mask, softmax, values, heads merged and projected."""
    weights = (scores / (WIDTH // H) ** 0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    return attention.out((weights @ v).transpose(1, 2).flatten(2))


def naive_sliding(
    attention: Attention, x: Tensor, window: int | None, prefix: Tensor | None = None, offset: int = 0
) -> Tensor:
    """Sliding-window attention over a whole stream, rows rotated by their position in it, from ``offset`` on."""
    q, k, v = attention.heads_of(x)
    T = x.shape[1]
    at = torch.arange(T)
    angles = rotation(at + offset, WIDTH // H)
    scores = rotate(q, angles) @ rotate(k, angles).mT
    age = at[:, None] - at
    mask = (age >= 0) & (age < (window or T))
    if prefix is not None:  # persistent tokens have no position
        _, k_prefix, v_prefix = (part.expand(len(x), -1, -1, -1) for part in attention.heads_of(prefix))
        scores = torch.cat([q @ k_prefix.mT, scores], -1)
        mask = F.pad(mask, (prefix.shape[1], 0), value=True)
        v = torch.cat([v_prefix, v], 2)
    return softmax_attention(attention, scores, mask, v)


@pytest.mark.parametrize("prefix_rows", [0, 3])
@pytest.mark.parametrize("cuts", [(), (1,), (7,), (8, 9, 20), (5, 5, 22)], ids=str)
@pytest.mark.parametrize("window", [1, 2, 5, 8, 23, 64, None])  # below, at, above the length of 23 and of each part
def test_sliding_window_is_masked_softmax_attention(
    window: int | None, cuts: tuple[int, ...], prefix_rows: int
) -> None:
    attention = Attention(WIDTH, H).double()
    x = torch.randn(B, 23, WIDTH, dtype=torch.float64)
    prefix = torch.randn(1, prefix_rows, WIDTH, dtype=torch.float64) if prefix_rows else None
    past, rows = attention.initial_window(B), []
    for part in x.tensor_split(cuts, 1):
        y, past = attention.sliding(part, past, window, prefix)
        rows.append(y)
        assert past[0].shape[2] == min(sum(r.shape[1] for r in rows), 23 if window is None else window - 1)
    torch.testing.assert_close(torch.cat(rows, 1), naive_sliding(attention, x, window, prefix), **EXACT)


def test_each_row_of_a_batch_may_have_its_own_prefix() -> None:
    attention = Attention(WIDTH, H).double()
    x, prefix = torch.randn(B, 12, WIDTH).double(), torch.randn(B, 3, WIDTH).double()
    y, _ = attention.sliding(x, attention.initial_window(B), 4, prefix)
    for row in range(B):
        alone = naive_sliding(attention, x[row : row + 1], 4, prefix[row : row + 1])
        torch.testing.assert_close(y[row : row + 1], alone, **EXACT)


def test_the_place_in_the_stream_does_not_matter() -> None:
    """What a stream of 2²⁶ tokens would give by absolute positions is what the window's own give.

    An angle at 2²⁶ is exact to 2²⁶ x 2⁻⁵³ = 7e-9 in float64; in float32 it would be wrong by some radians.
    """
    attention = Attention(WIDTH, H).double()
    x, prefix = torch.randn(B, 20, WIDTH).double(), torch.randn(1, 3, WIDTH).double()
    y, _ = attention.sliding(x, attention.initial_window(B), 6, prefix)
    torch.testing.assert_close(y, naive_sliding(attention, x, 6, prefix, offset=2**26), rtol=1e-7, atol=1e-7)


def test_a_set_is_plain_softmax_attention_in_any_order() -> None:
    attention, x, order = Attention(WIDTH, H).double(), torch.randn(B, 5, WIDTH).double(), [3, 0, 4, 1, 2]
    q, k, v = attention.heads_of(x)
    found = attention.among(x)
    all_seen = torch.ones(5, 5, dtype=torch.bool)
    torch.testing.assert_close(found, softmax_attention(attention, q @ k.mT, all_seen, v), **EXACT)
    torch.testing.assert_close(attention.among(x[:, order]), found[:, order], **EXACT)


def test_rotation_is_orthogonal_and_relative() -> None:
    q, k = torch.randn(2, 50, 8, dtype=torch.float64)
    here, there = (rotation(torch.arange(50) + offset, 8) for offset in (0, 1000))
    torch.testing.assert_close(rotate(q, here).norm(dim=-1), q.norm(dim=-1), **EXACT)
    torch.testing.assert_close(rotate(q, here) @ rotate(k, here).mT, rotate(q, there) @ rotate(k, there).mT, **EXACT)
    assert torch.equal(rotate(q, here)[0], q[0])  # position 0 turns nothing


def test_angles_are_computed_in_float64() -> None:
    angles = rotation(torch.tensor([2**26 + 1]), 4)
    assert angles.dtype == torch.float64
    exact = torch.tensor([2.0**26 + 1, (2.0**26 + 1) / 100], dtype=torch.float64)  # 10,000^(-1/2) = 1/100
    torch.testing.assert_close(angles, torch.stack([exact.cos(), exact.sin()])[:, None], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("prefix_rows", [0, 3])
def test_segment_is_masked_softmax_attention(prefix_rows: int, causal: bool) -> None:
    """[P ‖ h ‖ S] with positions in this order; S lower triangular, P seen by all (Titans, figure 3a)."""
    attention = Attention(WIDTH, H).double()
    n = 10
    x, context = torch.randn(2, B, n, WIDTH, dtype=torch.float64)
    prefix = torch.randn(1, prefix_rows, WIDTH, dtype=torch.float64)
    empty = attention.initial_window(B)
    y, _ = attention.segment(x, context, (*empty, *empty), n, prefix, causal)

    whole = torch.cat([prefix.expand(B, -1, -1), context, x], 1)
    q, k, v = attention.heads_of(whole)
    angles = rotation(torch.arange(whole.shape[1]), WIDTH // H)
    scores = (rotate(q, angles) @ rotate(k, angles).mT)[:, :, -n:]
    triangle = torch.ones(n, n, dtype=torch.bool).tril()
    mask = torch.cat([triangle.new_ones(n, prefix_rows), triangle if causal else triangle.new_ones(n, n), triangle], 1)
    torch.testing.assert_close(y, softmax_attention(attention, scores, mask, v), **EXACT)


@pytest.mark.parametrize("cuts", [(1,), (3, 4), (2, 2, 9)], ids=str)
def test_a_segment_in_parts_is_the_whole_segment(cuts: tuple[int, ...]) -> None:
    attention = Attention(WIDTH, H).double()
    x, context = torch.randn(2, B, 10, WIDTH, dtype=torch.float64)
    prefix = torch.randn(1, 3, WIDTH, dtype=torch.float64)
    empty = attention.initial_window(B)
    whole, seen = attention.segment(x, context, (*empty, *empty), 10, prefix, True)
    past: tuple[Tensor, ...] = (*empty, *empty)
    rows = []
    for part, its_context in zip(x.tensor_split(cuts, 1), context.tensor_split(cuts, 1), strict=True):
        y, past = attention.segment(part, its_context, past, 10, prefix, True)
        rows.append(y)
    torch.testing.assert_close(torch.cat(rows, 1), whole, **EXACT)
    for ours, theirs in zip(past, seen, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
