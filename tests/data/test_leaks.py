import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_seq.data.audit.coordinates import Coordinates
from titans_seq.data.audit.leaks import KINDS, find_leaks, overlapping
from titans_seq.data.audit.splits import Split
from titans_seq.data.record import decode, encode
from titans_seq.data.windows import reverse_complement
from titans_seq.errors import InputError


def sequences(name: str, rows: list[tuple[str, str]]) -> Split:
    ids = tuple(map(str, range(len(rows))))
    return Split(
        name, np.arange(len(rows)), ids, tuple(label for _, label in rows), tuple(encode(text) for text, _ in rows)
    )


def places(rows: list[tuple[str, int, int, str]]) -> Coordinates:
    chrom, start, end, strand = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Coordinates(chrom, np.array(start, np.int64), np.array(end, np.int64), strand, {"1": "chr1"})


def intervals(name: str, rows: list[tuple[str, int, int, str]], labels: str) -> Split:
    return Split(name, np.arange(len(rows)), tuple(map(str, range(len(rows)))), tuple(labels), None, places(rows))


def dna(length: int, seed: int) -> str:
    return decode(np.random.default_rng(seed).integers(0, 4, length))


def other_strand(text: str) -> str:
    return decode(reverse_complement(encode(text)))


def test_each_kind_is_found_in_sequences_and_a_near_miss_is_not() -> None:
    train = [(dna(100, seed), "ab"[seed % 2]) for seed in range(6)]
    one = train[3][0][:50] + ("A" if train[3][0][50] != "A" else "C") + train[3][0][51:]
    # Three changes far apart leave 89 - 36 of 89 k-mers: 53 / 125 = 0.42 are common, below a half.
    far = list(train[4][0])
    for at in (20, 50, 80):
        far[at] = "ACGT"["ACGT".index(far[at]) - 1]
    test = [
        (train[0][0], "a"),
        (train[0][0].lower(), "b"),
        (other_strand(train[1][0]), "b"),
        (one, "b"),
        ("".join(far), "a"),
        (dna(100, 99), "a"),
    ]
    leaks = find_leaks(sequences("test", test), sequences("train", train))
    assert leaks.kinds["exact"].tolist() == [True, True, False, False, False, False]
    assert leaks.kinds["reverse_complement"].tolist() == [False, False, True, False, False, False]
    assert leaks.kinds["near"].tolist() == [True, True, True, True, False, False]  # what is exact is near too
    assert leaks.leaky.tolist() == leaks.kinds["near"].tolist() and "overlap" not in leaks.kinds
    assert leaks.same_class.tolist() == [True, False, True, True, False, False]
    assert leaks.conflicting.tolist() == [False, True, False, False, False, False]


def test_each_kind_is_found_in_intervals() -> None:
    train = [("chr1", 100, 200, "+"), ("chr1", 300, 400, "-"), ("chr2", 0, 50, ".")]
    test = [
        ("1", 100, 200, "."),  # as a whole, by another name of the chromosome; no strand is +
        ("chr1", 300, 400, "+"),  # the other strand
        ("chr1", 199, 300, "+"),  # one base
        ("chr1", 200, 300, "+"),  # next to it: half-open
        ("chr2", 100, 200, "+"),  # another chromosome
        ("chr2", 40, 60, "-"),
    ]
    leaks = find_leaks(intervals("test", test, "abaaab"), intervals("train", train, "aaa"))
    assert leaks.kinds["exact"].tolist() == [True, False, False, False, False, False]
    assert leaks.kinds["reverse_complement"].tolist() == [False, True, False, False, False, False]
    assert leaks.kinds["overlap"].tolist() == [True, True, True, False, False, True]
    assert leaks.same_class.tolist() == [True, False, True, False, False, False]
    assert not leaks.conflicting.any() and "near" not in leaks.kinds


def test_a_row_conflicts_where_any_copy_has_another_label() -> None:
    train = sequences("train", [("ACGT", "a"), ("ACGT", "b"), ("GG", "a"), ("TTT", "b")])
    leaks = find_leaks(sequences("test", [("ACGT", "a"), ("GG", "a"), ("TTT", "a"), ("CAT", "a")]), train)
    assert leaks.conflicting.tolist() == [True, False, True, False]
    assert leaks.same_class.tolist() == [True, True, False, False]


def test_sequences_that_lie_somewhere_are_compared_by_both() -> None:
    def both(name: str, text: str, place: tuple[str, int, int, str]) -> Split:
        return Split(name, np.arange(1), ("1",), ("a",), (encode(text),), places([place]))

    train = both("train", dna(60, 1), ("chr1", 100, 160, "+"))
    leaks = find_leaks(both("test", dna(60, 2), ("chr1", 150, 210, "+")), train)
    assert [kind for kind in KINDS if leaks.kinds[kind].any()] == ["overlap"]
    leaks = find_leaks(both("test", dna(60, 1), ("chr9", 100, 160, "+")), train)
    assert [kind for kind in KINDS if leaks.kinds[kind].any()] == ["exact", "near"]


def test_only_the_kinds_asked_for_are_leaks() -> None:
    train, test = (sequences(name, [(dna(80, 1), "a")]) for name in ("train", "test"))
    leaks = find_leaks(test, train, ("reverse_complement",))
    assert set(leaks.kinds) == {"reverse_complement"} and not leaks.leaky.any() and not leaks.same_class.any()


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="test and train cannot be compared"):
        find_leaks(sequences("test", [("ACGT", "a")]), intervals("train", [("chr1", 1, 5, ".")], "a"))


interval = st.tuples(st.sampled_from(["chr1", "1", "chr2"]), st.integers(0, 20), st.integers(0, 9), st.just("."))
rows = st.lists(interval.map(lambda row: (row[0], row[1], row[1] + row[2], row[3])), max_size=12)


@given(ours=rows, theirs=rows)
def test_overlaps_are_those_that_comparing_all_finds(
    ours: list[tuple[str, int, int, str]], theirs: list[tuple[str, int, int, str]]
) -> None:
    def share_a_base(one: tuple[str, int, int, str], other: tuple[str, int, int, str]) -> bool:
        same = one[0].removeprefix("chr") == other[0].removeprefix("chr")
        return same and not set(range(*one[1:3])).isdisjoint(range(*other[1:3]))

    groups = np.zeros(len(ours), np.int64), np.zeros(len(theirs), np.int64)
    found = overlapping(places(ours), places(theirs), *groups).tolist()
    assert found == [any(share_a_base(one, other) for other in theirs) for one in ours]
