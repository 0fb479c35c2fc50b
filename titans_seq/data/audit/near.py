"""Near duplicates: sequences that share most of their k-mers, on either strand.

Two sets of k-mers are as similar as the share of their union that both have (Jaccard). Candidates come from MinHash
(Broder 1997) with one permutation, each set's hashes dealt into bins (Li, Owen & Zhang 2012), an empty bin borrowing
from another (Shrivastava 2017); pairs that agree in a band of bins (Leskovec, Rajaraman & Ullman, Mining of Massive
Datasets, section 3.4) are then compared k-mer by k-mer. So no pair below the threshold is ever found, and one at the
threshold is missed with probability `MISSED` at most.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from titans_seq.data.windows import N
from titans_seq.progress import Progress

K = 12  # bases a k-mer: two random sequences of 500 bases share one in thirty times, one mutation costs at most 12
BINS = 128
MISSED = 0.01
_BASES = 1 << 18  # bases at a time: what is made of them stays in a processor's cache
_MARGIN = 0.15  # three standard deviations of what bins estimate (0.05 measured, of 30 to 1,000 bases)
_PAIRS = 1 << 20  # pairs at a time
_EMPTY = np.uint32(0xFFFFFFFF)


def kmers(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return every k-mer (n,) uint32 and the row it stands in (n,) int64.

    A k-mer and its reverse complement are one number, the smaller; those with N are none.
    """
    lengths = np.array([len(codes) for codes in sequences], np.int64)
    codes = np.concatenate([*sequences, np.empty(0, np.uint8)]).astype(np.uint32)
    n = max(0, len(codes) - K + 1)
    forward, backward, known = np.zeros(n, np.uint32), np.zeros(n, np.uint32), np.ones(n, bool)
    for i in range(K):
        base = codes[i : i + n]
        forward = (forward << np.uint32(2)) | (base & np.uint32(3))
        backward |= (np.uint32(3) - (base & np.uint32(3))) << np.uint32(2 * i)
        known &= base < N
    row = np.repeat(np.arange(len(sequences)), lengths)[:n]
    ends = np.repeat(np.cumsum(lengths), lengths)[:n]
    known &= np.arange(n) + K <= ends
    return np.minimum(forward, backward)[known], row[known]


def _mixed(x: np.ndarray) -> np.ndarray:
    """Spread numbers (n,) uint32 evenly, each to another one (the finaliser of MurmurHash3, public domain)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _batches(sequences: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of about `_BASES` bases."""
    begin = size = 0
    for end, codes in enumerate(sequences, start=1):
        size += len(codes)
        if size >= _BASES or end == len(sequences):
            yield begin, end
            begin, size = end, 0


def sketches(sequences: Sequence[np.ndarray], progress: Progress | None = None) -> np.ndarray:
    """Return (n, BINS) uint32: of each row the least hash in each bin; a row without a k-mer has none."""
    found = np.full((len(sequences), BINS), _EMPTY)
    for begin, end in _batches(sequences):
        words, row = kmers(sequences[begin:end])
        hashes = _mixed(words)
        bins = row * BINS + hashes % np.uint32(BINS)
        np.minimum.at(found[begin:end].reshape(-1), bins, hashes)
        if progress is not None:
            progress.add(end - begin)
    _fill(found)
    return found


def _fill(sketch: np.ndarray) -> None:
    """Let empty bins borrow, each from others in an order that all rows share."""
    own = sketch.copy()
    row, bin = np.nonzero((own == _EMPTY) & (own != _EMPTY).any(1, keepdims=True))
    rng = np.random.default_rng(0)
    while len(row):
        taken = own[row, rng.permutation(BINS)[bin]]
        sketch[row, bin] = taken
        row, bin = row[taken == _EMPTY], bin[taken == _EMPTY]


def bins_a_band(threshold: float) -> int:
    """Return the most bins a band may have, so that a pair at the threshold is missed with at most `MISSED`."""
    sizes = (size for size in range(BINS, 1, -1) if (1 - threshold**size) ** (BINS // size) <= MISSED)
    return next(sizes, 1)


def _candidates(ours: np.ndarray, theirs: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of rows that agree in a band; a row without a k-mer has no partner."""
    ours_known, theirs_known = (np.flatnonzero(part[:, 0] != _EMPTY) for part in (ours, theirs))
    for begin in range(0, BINS - size + 1, size):
        left = _named(ours[ours_known, begin : begin + size])
        right = _named(theirs[theirs_known, begin : begin + size])
        order = np.argsort(right)
        first = np.searchsorted(right, left, "left", sorter=order)
        count = np.searchsorted(right, left, "right", sorter=order) - first
        for part in _runs(count):
            some = count[part]
            inside = np.arange(some.sum()) - np.repeat(np.cumsum(some) - some, some)
            yield ours_known[np.repeat(part, some)], theirs_known[order[np.repeat(first[part], some) + inside]]


def _named(band: np.ndarray) -> np.ndarray:
    """Return a number (n,) uint64 for each row of a band (n, size); two bands that share one are compared later."""
    name = np.zeros(len(band), np.uint64)
    for column in band.T:
        name = name * np.uint64(0x9E3779B97F4A7C15) + column
    return name


def _runs(count: np.ndarray) -> Iterator[np.ndarray]:
    """Cut rows that have partners into runs of about `_PAIRS` pairs."""
    rows = np.flatnonzero(count)
    run = np.cumsum(count[rows]) // _PAIRS
    yield from np.split(rows, np.flatnonzero(np.diff(run)) + 1) if len(rows) else ()


def _similarity(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the Jaccard similarity of the k-mer sets of each two sequences, (n,)."""
    one, other = (_sets(sequences) for sequences in (ours, theirs))
    both = np.intersect1d(one, other, assume_unique=True)
    sizes = [
        np.bincount((found >> np.uint64(32)).astype(np.int64), minlength=len(ours)) for found in (one, other, both)
    ]
    similarity: np.ndarray = sizes[2] / np.maximum(sizes[0] + sizes[1] - sizes[2], 1)
    return similarity


def _sets(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """The k-mers of each row, each once, behind the row's number: uint64, ascending."""
    words, row = kmers(sequences)
    found: np.ndarray = np.unique(row.astype(np.uint64) << np.uint64(32) | words)
    return found


def near_pairs(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (pairs,) of ours and of theirs whose k-mer sets are at least as similar as ``threshold``.

    Args:
        ours: codes of each row.
        theirs: codes of each row they are compared with.
        threshold: Jaccard similarity, above 0 to 1.
    """
    with Progress("looking for near duplicates", "rows", len(ours) + len(theirs)) as progress:
        left, right = sketches(ours, progress), sketches(theirs, progress)
    found = [np.empty(0, np.int64)]
    for one, other in _candidates(left, right, bins_a_band(threshold)):
        likely = (left[one] == right[other]).mean(1) >= threshold - _MARGIN
        found.append((one * len(theirs) + other)[likely])
    pairs = np.unique(np.concatenate(found))
    one, other = np.divmod(pairs, len(theirs)) if len(theirs) else (pairs, pairs)
    near = np.zeros(len(pairs), bool)
    for begin, end in _batches([ours[i] for i in one]):
        some = slice(begin, end)
        near[some] = _similarity([ours[i] for i in one[some]], [theirs[i] for i in other[some]]) >= threshold
    return one[near], other[near]
