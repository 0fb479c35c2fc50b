"""What is in a FASTA file, read as a stream, and in the rows of a split."""

import hashlib
from array import array
from collections import Counter
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np

from titans_seq.data.audit.found import Audit, Findings, share_of
from titans_seq.data.audit.splits import Split
from titans_seq.data.fasta import read_blocks
from titans_seq.data.record import Tally
from titans_seq.progress import Progress

_FEW = 5  # records that are listed one by one
_CLASSES = 20
_DIGEST = 16  # bytes: a billion records have no two of one digest by chance


def composition(counts: np.ndarray) -> dict[str, float]:
    """Shares of N among all bases, and of G and C among the known ones; ``counts`` (5,) of A C G T N."""
    return {"n_share": share_of(counts[4], counts.sum()), "gc_share": share_of(counts[1] + counts[2], counts[:4].sum())}


def base_counts(split: Split) -> np.ndarray:
    """Count A C G T N of each row, (n, 5); of intervals without sequences there are no rows."""
    counts = [np.bincount(codes, minlength=5) for codes in split.sequences or ()]
    return np.array(counts, np.int64).reshape(-1, 5)


def gc_of(counts: np.ndarray) -> np.ndarray:
    """Share of G and C among the known bases of each row (n,), of counts (n, 5); a half where none is known."""
    known = counts[:, :4].sum(1)
    share: np.ndarray = np.where(known, (counts[:, 1] + counts[:, 2]) / np.maximum(known, 1), 0.5)
    return share


def _moments(counts: np.ndarray) -> np.ndarray:
    """Sums (3,) over pieces, of counts (n, 5): of known bases, of G and C, and of the square of these a known base."""
    known, gc = counts[:, :4].sum(1), counts[:, 1] + counts[:, 2]
    return np.array([known.sum(), gc.sum(), (gc.astype(float) ** 2 / np.maximum(known, 1)).sum()])


def _spread(moments: np.ndarray) -> float:
    """Standard deviation of GC over pieces, each weighed by its known bases."""
    known, gc, squares = moments.tolist()
    return round(float(np.sqrt(max(0.0, squares / known - (gc / known) ** 2))), 6) if known else 0.0


def _replaced(tally: Tally, bases: int) -> dict[str, Any]:
    codes = {symbol: count for symbol, count in sorted(tally.symbols.items()) if symbol != "U"}
    return {
        "lowercase_share": share_of(tally.lower, bases),
        "iupac_read_as_n": codes,
        "u_read_as_t": tally.symbols["U"],
    }


def _lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Describe lengths; N50 is the length of the row that reaches half of all bases, the longest first."""
    falling = np.sort(lengths)[::-1]
    half = np.searchsorted(np.cumsum(falling), (falling.sum() + 1) // 2)
    return {
        "min": int(falling[-1]),
        "median": float(np.median(falling)),
        "max": int(falling[0]),
        "n50": int(falling[half]),
    }


def audit_fasta(path: Path | str) -> Audit:
    """Read a FASTA file of any size, in memory that grows with the number of its records and not with its bases."""
    findings, tally = Findings(), Tally()
    total, counts = np.zeros(5, np.int64), np.zeros(5, np.int64)
    lengths, moments, all_n = array("q"), np.zeros(3), 0
    ids: set[str] = set()
    digests: set[bytes] = set()
    digest = hashlib.blake2b(digest_size=_DIGEST)
    first: list[dict[str, Any]] = []
    worst: list[dict[str, Any]] = []
    with Progress(f"reading {Path(path).name}", "bases", None) as progress:
        for block in read_blocks(path, judge=findings.judge(), tally=tally):
            progress.add(len(block.codes))
            piece = np.bincount(block.codes, minlength=5)
            moments += _moments(piece[None])
            counts += piece
            digest.update(block.codes.data)
            if not block.last:
                continue
            length = int(counts.sum())
            row = {"record": block.record + 1, "id": block.id, "length": length, **composition(counts)}
            if len(first) < _FEW:
                first.append(row)
            if counts[4]:
                worst = nlargest(_FEW, [*worst, row], key=lambda r: (r["n_share"], r["length"]))
            lengths.append(length)
            ids.add(block.id)
            digests.add(digest.digest())
            all_n += 0 < length == counts[4]
            total += counts
            counts[:] = 0
            digest = hashlib.blake2b(digest_size=_DIGEST)
    facts = {
        "records": len(lengths),
        "bases": int(total.sum()),
        "length": _lengths(np.asarray(lengths)),
        **composition(total),
        "gc_spread": _spread(moments),
        **_replaced(tally, int(total.sum())),
        "duplicate_ids": len(lengths) - len(ids),
        "duplicate_sequences": len(lengths) - len(digests),
        "empty_records": lengths.count(0),
        "all_n_records": int(all_n),
        "first_records": first,
        "records_with_most_n": worst,
    }
    return findings.audit(path, "FASTA", facts)


def row_facts(split: Split, counts: np.ndarray) -> dict[str, Any]:
    """Describe the rows of a split; ``counts`` are its `base_counts`."""
    labelled = any(split.labels)
    lengths = split.lengths
    facts: dict[str, Any] = {"rows": len(split), "bases": int(lengths.sum()), "length": _lengths(lengths)}
    if split.sequences is not None:
        facts |= {**composition(counts.sum(0)), "gc_spread": _spread(_moments(counts))}
        facts |= _replaced(split.tally, int(lengths.sum())) if split.tally else {}
        facts["rows_with_n"] = int((counts[:, 4] > 0).sum())
    facts["duplicate_ids"] = len(split) - len(set(split.ids))
    if split.sequences is not None:
        facts["duplicate_sequences"], facts["conflicting_labels"] = _repeats(
            [codes.tobytes() for codes in split.sequences], split.labels
        )
    if (place := split.coordinates) is not None:
        repeated, conflicting = _repeats(list(place.places()), split.labels)
        facts |= {"chromosomes": len({*place.shared_chrom} - {""}), "duplicate_intervals": repeated}
        facts.setdefault("conflicting_labels", conflicting)
    facts["classes"] = len(set(split.labels)) if labelled else 0
    return facts


def _repeats(things: list[Any], labels: tuple[str, ...]) -> tuple[int, int]:
    """Count rows that repeat an earlier one, and those of them whose first has another label; None repeats nothing."""
    seen: dict[Any, int] = {}
    repeats = [
        labels[first] != labels[row]
        for row, thing in enumerate(things)
        if thing is not None and (first := seen.setdefault(thing, row)) != row
    ]
    return len(repeats), sum(repeats)


def class_facts(split: Split, counts: np.ndarray) -> list[dict[str, Any]]:
    """Describe the largest classes: a difference in length or GC is what a model learns first."""
    if not any(split.labels):
        return []
    labels = np.array(split.labels)
    rows = []
    for label, size in sorted(Counter(split.labels).items(), key=lambda item: (-item[1], item[0]))[:_CLASSES]:
        members = labels == label
        row: dict[str, Any] = {"split": split.name} if split.name else {}
        row |= {"class": label, "rows": size, "share": share_of(size, len(split))}
        row["mean_length"] = round(float(split.lengths[members].mean()), 1)
        rows.append(row | (composition(counts[members].sum(0)) if len(counts) else {}))
    return rows
