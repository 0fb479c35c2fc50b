"""Leaks: rows of one split that another one holds already, as they are or nearly so."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from titans_seq.data.audit.coordinates import Coordinates
from titans_seq.data.audit.near import near_pairs
from titans_seq.data.audit.splits import Split
from titans_seq.data.windows import reverse_complement
from titans_seq.errors import InputError

Kind = Literal["exact", "reverse_complement", "overlap", "near"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NEAR = 0.5  # Jaccard similarity: about 97 % identical, or two thirds of either in common

_By = Literal["sequence", "place"]


@dataclass(frozen=True, eq=False)
class Leaks:
    """For each row of a split, whether another split holds it.

    ``kinds`` has (n,) bool for each kind that could be looked for: ``exact``, the same sequence or the same place;
    ``reverse_complement``, the same on the other strand; ``overlap``, a base of the genome in common, on either strand;
    ``near``, most k-mers in common. What is exact also overlaps and is near. ``same_class`` tells of which rows one
    such partner has their own label, ``conflicting`` of which an exact one has another.
    """

    kinds: dict[Kind, np.ndarray]
    same_class: np.ndarray
    conflicting: np.ndarray

    @property
    def leaky(self) -> np.ndarray:
        """Rows with a leak of any kind, (n,) bool."""
        return np.logical_or.reduce([*self.kinds.values(), np.zeros(len(self.same_class), bool)])


class _Numbers:
    """The same number for the same thing."""

    def __init__(self) -> None:
        self.known: dict[Hashable, int] = {}

    def of(self, things: Iterable[Hashable]) -> np.ndarray:
        """Numbers (n,) int64; None, which is nothing, has -1."""
        known = self.known
        return np.array([-1 if thing is None else known.setdefault(thing, len(known)) for thing in things], np.int64)


@dataclass(frozen=True, eq=False)
class _Named:
    """What makes two rows the same, as numbers: what a row is, what it is on the other strand, its class."""

    itself: np.ndarray
    other_strand: np.ndarray
    label: np.ndarray


def _bytes(codes: np.ndarray) -> bytes | None:
    return codes.tobytes() or None


def _named(split: Split, by: _By, things: _Numbers, labels: _Numbers) -> _Named:
    label = labels.of(split.labels)
    if by == "place" and split.coordinates is not None:
        place = split.coordinates
        return _Named(things.of(place.places()), things.of(place.places(turned=True)), label)
    sequences = split.sequences or ()
    turned = (_bytes(reverse_complement(codes)) for codes in sequences)
    return _Named(things.of(map(_bytes, sequences)), things.of(turned), label)


def _with(numbers: np.ndarray, label: np.ndarray) -> np.ndarray:
    """One number for a thing and a class together; nothing stays -1."""
    return np.where(numbers < 0, -1, numbers << 32 | label)


def _among(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    found: np.ndarray = (ours >= 0) & np.isin(ours, theirs)
    return found


def _has_other_label(ours: _Named, theirs: _Named) -> np.ndarray:
    """Rows that the other split holds exactly, but with another label."""
    things = np.unique(_with(theirs.itself, theirs.label)[theirs.itself >= 0]) >> 32
    labels = np.bincount(things, minlength=max(ours.itself.max(initial=-1), 0) + 1)
    own = _among(_with(ours.itself, ours.label), _with(theirs.itself, theirs.label))
    found: np.ndarray = np.where(ours.itself >= 0, labels[ours.itself] - own, 0) > 0
    return found


def overlapping(ours: Coordinates, theirs: Coordinates, our_group: np.ndarray, their_group: np.ndarray) -> np.ndarray:
    """Return which of our intervals (n,) share a base with one of theirs, on either strand, in the same group."""
    chroms = _Numbers()
    our_key, their_key = (
        _with(chroms.of(place.shared_chrom), group) for place, group in ((ours, our_group), (theirs, their_group))
    )
    _, lines = np.unique(np.concatenate([our_key, their_key]), return_inverse=True)
    # All chromosomes on one line, so far apart that none touches another.
    apart = int(max(ours.end.max(initial=0), theirs.end.max(initial=0))) + 1
    offset = lines * apart
    there = theirs.end > theirs.start
    their_start, their_end = (x[there] + offset[len(ours) :][there] for x in (theirs.start, theirs.end))
    order = np.argsort(their_start)
    reach = np.maximum.accumulate(np.concatenate([[-1], their_end[order]]))
    before = np.searchsorted(their_start[order], ours.end + offset[: len(ours)], "left")
    found: np.ndarray = (reach[before] > ours.start + offset[: len(ours)]) & (ours.end > ours.start)
    return found


def _near(ours: _Named, theirs: _Named, split: Split, other: Split, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a near duplicate, and those with one of their own class; each sequence of a class is compared once."""
    our_kind, their_kind = (_with(part.itself, part.label) for part in (ours, theirs))
    our_keys, our_first, our_place = np.unique(our_kind, return_index=True, return_inverse=True)
    _, their_first = np.unique(their_kind, return_index=True)
    assert split.sequences is not None and other.sequences is not None
    one, partner = near_pairs(
        [split.sequences[i] for i in our_first], [other.sequences[i] for i in their_first], threshold
    )
    near, same = np.zeros(len(our_keys), bool), np.zeros(len(our_keys), bool)
    near[one] = True
    same[one[ours.label[our_first[one]] == theirs.label[their_first[partner]]]] = True
    return near[our_place], same[our_place]


def find_leaks(split: Split, other: Split, kinds: tuple[Kind, ...] = KINDS, near: float = NEAR) -> Leaks:
    """Find the rows of ``split`` that ``other`` holds.

    Args:
        split: the rows to judge, usually of the test set.
        other: the rows they must not be among, usually of the training set.
        kinds: what counts as a leak.
        near: Jaccard similarity of the k-mer sets from which two sequences are near duplicates.

    Raises:
        InputError: if one has sequences alone and the other coordinates alone.
    """
    found: dict[Kind, list[np.ndarray]] = {kind: [] for kind in KINDS}
    same, conflicting = np.zeros(len(split), bool), np.zeros(len(split), bool)

    def note(kind: Kind, any_class: np.ndarray, own_class: np.ndarray) -> None:
        found[kind].append(any_class)
        if kind in kinds:
            np.logical_or(same, own_class, out=same)

    labels = _Numbers()
    compared: list[tuple[_By, bool]] = [
        ("sequence", split.sequences is not None and other.sequences is not None),
        ("place", split.coordinates is not None and other.coordinates is not None),
    ]
    if not any(there for _, there in compared):
        raise InputError(
            f"{split.name} and {other.name} cannot be compared: one has sequences, the other coordinates. "
            "Give both the same columns."
        )
    for by, there in compared:
        if not there:
            continue
        things = _Numbers()
        ours, theirs = (_named(part, by, things, labels) for part in (split, other))
        twins: list[tuple[Kind, np.ndarray]] = [("exact", ours.itself), ("reverse_complement", ours.other_strand)]
        for kind, own in twins:
            own_class = _among(_with(own, ours.label), _with(theirs.itself, theirs.label))
            note(kind, _among(own, theirs.itself), own_class)
        conflicting |= _has_other_label(ours, theirs)
        if by == "sequence" and "near" in kinds:
            note("near", *_near(ours, theirs, split, other, near))
        if by == "place" and "overlap" in kinds:
            assert split.coordinates is not None and other.coordinates is not None
            nobody = np.zeros(len(split), np.int64), np.zeros(len(other), np.int64)
            note(
                "overlap",
                overlapping(split.coordinates, other.coordinates, *nobody),
                overlapping(split.coordinates, other.coordinates, ours.label, theirs.label),
            )
    merged = {kind: np.logical_or.reduce(rows) for kind, rows in found.items() if rows and kind in kinds}
    return Leaks(merged, same, conflicting)
