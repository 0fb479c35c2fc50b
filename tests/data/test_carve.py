"""Validation parts share no base with training, and are what they were where records have no place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_seq.data.carve import carved, stretches
from titans_seq.data.record import Record, encode
from titans_seq.data.regions import Regions
from titans_seq.data.sequences import read_sequences

Window = tuple[str, int, int, int]  # chromosome, row, start, length


def different(number: int, length: int = 6) -> np.ndarray:
    """Codes that no other number has, on neither strand: N, the digits of the number, A."""
    codes = np.zeros(length, np.uint8)
    codes[:5] = [4, *np.unravel_index(number, (4,) * 4)]
    return codes


def records(windows: list[Window]) -> list[Record]:
    return [
        Record(f"{i}", different(i, n), chrom=chrom, start=start, row=row)
        for i, (chrom, row, start, n) in enumerate(windows)
    ]


@st.composite
def tiled(draw: st.DrawFn) -> list[Window]:
    """Intervals of two chromosomes, tiled: windows may leave gaps between them and reach beyond."""
    found = []
    for row in range(1, draw(st.integers(1, 12)) + 1):
        chrom, start = draw(st.sampled_from("ab")), draw(st.integers(0, 300))
        length, stride = draw(st.integers(6, 20)), draw(st.integers(1, 40))
        found += [(chrom, row, start + k * stride - 5, length) for k in range(draw(st.integers(1, 5)))]
    return found


def span(windows: list[Window], row: int) -> tuple[int, int]:
    own = [(start, start + length) for _, r, start, length in windows if r == row]
    return min(start for start, _ in own), max(end for _, end in own)


@given(tiled())
def test_stretches_are_the_connected_intervals(windows: list[Window]) -> None:
    chroms = {row: chrom for chrom, row, _, _ in windows}
    linked = {row: {row} for row in chroms}
    for a in chroms:
        for b in chroms:
            (s, e), (t, f) = span(windows, a), span(windows, b)
            if chroms[a] == chroms[b] and s < f and t < e:
                both = linked[a] | linked[b]
                linked |= dict.fromkeys(both, both)
    found = stretches(records(windows))
    for i, (_, a, _, _) in enumerate(windows):
        for j, (_, b, _, _) in enumerate(windows):
            assert (found[i] == found[j]) == (b in linked[a])
    firsts = [int(np.argmax(found == number)) for number in range(found.max() + 1)]
    assert firsts == sorted(firsts)


@given(tiled(), st.floats(0.01, 0.9), st.integers(0, 5))
def test_no_base_is_on_both_sides(windows: list[Window], share: float, seed: int) -> None:
    held = carved(records(windows), share, np.random.default_rng(seed))
    sides = [
        {(chrom, at) for (chrom, _, start, n), h in zip(windows, held, strict=True) if h == side
         for at in range(start, start + n)} for side in (False, True)
    ]  # fmt: skip
    assert held.any() and not sides[0] & sides[1]
    rows = [{row for (_, row, _, _), h in zip(windows, held, strict=True) if h == side} for side in (False, True)]
    assert not rows[0] & rows[1]
    sizes = np.bincount(stretches(records(windows)))
    assert held.sum() <= max(1, round(share * len(windows))) or held.sum() == sizes.min()


def test_one_sequence_is_on_one_side_on_either_strand() -> None:
    texts = ["AACC", "GGGA", "GGTT", "TCCC", "AACC", "ACGT", "AAC", "A", "AA"]
    rows = [Record(str(i), encode(text), row=i + 1) for i, text in enumerate(texts)]
    assert stretches(rows).tolist() == [0, 1, 0, 1, 0, 2, 3, 4, 5]
    placed = [replace(rows[0], chrom="a", start=5), replace(rows[1], chrom="a", start=7), rows[2], rows[3], rows[5]]
    assert stretches(placed).tolist() == [0, 0, 0, 0, 1], "through what overlaps"


def test_what_jitter_may_reach_is_of_the_stretch() -> None:
    def window(number: int, margin: int) -> Record:
        around = np.concatenate([np.zeros(margin, np.uint8), different(number), np.zeros(margin, np.uint8)])
        return Record(str(number), different(number), chrom="a", start=20 * number, row=number, around=around)

    assert stretches([window(1, 7), window(2, 7), window(4, 7)]).tolist() == [0, 1, 2]
    assert stretches([window(1, 8), window(2, 8), window(4, 8)]).tolist() == [0, 0, 1]


def test_intervals_of_a_folder_are_each_of_a_stretch() -> None:
    """They have no row, since it is of one of several files."""
    rows = [Record(str(i), different(i), chrom="a", start=start) for i, start in enumerate([0, 100, 3, 50])]
    assert stretches(rows).tolist() == [0, 1, 0, 2]


@given(st.integers(1, 60), st.floats(0.01, 0.9), st.integers(0, 5))
def test_records_without_a_place_are_drawn_one_by_one(count: int, share: float, seed: int) -> None:
    rows = [Record(str(i), different(i), row=i + 1) for i in range(count)]
    order = np.random.default_rng(seed).permutation(count)
    expected = np.isin(np.arange(count), order[: max(1, round(share * count))])
    assert (carved(rows, share, np.random.default_rng(seed)) == expected).all()


def test_isoforms_of_several_pieces_are_of_one_stretch(tmp_path: Path) -> None:
    genome, path = tmp_path / "g.fa", tmp_path / "x.gtf"
    genome.write_text(">c\n" + "ACGGT" * 40 + "\n")
    pieces = {"t1": [(1, 9), (40, 60)], "t2": [(20, 30), (50, 70)], "t3": [(80, 85), (90, 99)], "t4": [(60, 65)]}
    lines = [f'c\tx\tCDS\t{s}\t{e}\t.\t+\t0\ttranscript_id "{id}";' for id, own in pieces.items() for s, e in own]
    path.write_text("\n".join(lines))
    found = read_sequences(path, need_labels=False, regions=Regions(reference=str(genome), feature=("CDS",)))
    assert [record.start for record in found] == [None, None, None, 59]
    assert stretches(found).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("c,0,9 c,8,20 c,20,30 d,0,9", [0, 0, 1, 2]),
        (",0,9 c,,9 c,x,9 c,9,3 c,0,9", [0, 1, 2, 3, 4]),  # no place is none to refuse where the sequence is there
    ],
)
def test_rows_of_a_table_with_places_that_overlap_are_of_one_stretch(
    file: Callable[..., Path], rows: str, expected: list[int]
) -> None:
    lines = [f"{'ACGT' * (i + 1)},{'ab'[i % 2]},{row}" for i, row in enumerate(rows.split(" "))]
    found = read_sequences(file("\n".join(["sequence,label,chrom,start,end", *lines]), "x.csv"))
    assert stretches(found).tolist() == expected
    held = carved(found, 0.5, np.random.default_rng(0))
    assert len({(number, bool(h)) for number, h in zip(expected, held, strict=True)}) == max(expected) + 1


def test_closed_places_of_a_table_share_their_last_base(file: Callable[..., Path]) -> None:
    rows = "sequence,label,chrom,start,end,width\nAC,a,c,1,10,10\nGT,b,c,10,12,3\nCC,b,c,13,14,2\n"
    assert stretches(read_sequences(file(rows, "x.csv"))).tolist() == [0, 0, 1]
