"""Regions held out of training: every base has one use, and windows never cross from one to another."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_seq.data.held_out import HeldOut, read_region
from titans_seq.data.record import Record
from titans_seq.data.sources import FastaSource
from titans_seq.tasks.language import LanguageModel

LENGTH = 60
spans = st.lists(
    st.tuples(st.integers(0, LENGTH - 1), st.integers(1, LENGTH)).filter(lambda s: s[0] < s[1]), max_size=4
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(validation=spans, test=spans)
def test_pieces_are_the_record_and_each_base_has_the_use_it_was_given(
    validation: list[tuple[int, int]], test: list[tuple[int, int]]
) -> None:
    record = Record("c", np.arange(LENGTH, dtype=np.uint8))
    held = HeldOut(*([f"c:{a}-{b}" for a, b in part] for part in (validation, test)), ["c"])
    pieces = list(held.pieces(record))
    assert np.array_equal(np.concatenate([piece.codes for piece, _ in pieces]), record.codes)
    uses = np.concatenate([np.full(len(piece), use) for piece, use in pieces])
    for base in range(LENGTH):
        tested, validated = (any(a <= base < b for a, b in part) for part in (test, validation))
        assert uses[base] == (2 if tested else 1 if validated else 0)
    assert all(a[1] != b[1] for a, b in pairwise(pieces))  # neighbours of one use are one piece


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("chr1", ("chr1", 0, None)),
        ("chr1:5-10", ("chr1", 5, 10)),
        ("chr1:1,000-2,000", ("chr1", 1000, 2000)),
        ("HLA-A*01:01", ("HLA-A*01:01", 0, None)),
        ("HLA-A*01:01:5-10", ("HLA-A*01:01", 5, 10)),
    ],
)
def test_a_region_is_a_record_or_a_part_of_one(text: str, region: tuple[Any, ...]) -> None:
    assert tuple(read_region(text)) == region


def test_a_record_that_is_called_like_a_region_is_meant_as_a_whole() -> None:
    record = Record("U1:1-40", np.zeros(40, np.uint8))
    held = HeldOut([record.id], [], [record.id])
    assert [(len(piece), use) for piece, use in held.pieces(record)] == [(40, 1)]


def test_a_chromosome_is_known_by_its_usual_names(caplog: pytest.LogCaptureFixture) -> None:
    held = HeldOut(["chr20:5-10"], ["MT"], ["20", "chrM"])
    assert [use for _, use in held.pieces(Record("20", np.zeros(40, np.uint8)))] == [0, 1, 0]
    assert [use for _, use in held.pieces(Record("chrM", np.zeros(40, np.uint8)))] == [2]
    assert "'chr20' = '20'" in caplog.text


def sizes(**source: Any) -> tuple[int, int]:
    parts = FastaSource(**source).parts(LanguageModel(), 0)
    train, validation = (sum(len(record) for record in part.records) for part in (parts.train, parts.validation))
    return train, validation


def test_what_is_trained_on_and_what_validates(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\n" + "ACGT" * 50 + "\n>b\n" + "ACGT" * 25 + "\n")
    paths = (str(tmp_path / "x.fa"),)
    assert sizes(paths=paths, validation=0.1) == (270, 30)
    assert sizes(paths=paths, validation_regions=("b",)) == (200, 100)
    assert sizes(paths=paths, validation_regions=("b", "a:20-60")) == (160, 140)
    assert sizes(paths=paths, validation_regions=("b:0-50",), test_regions=("b:40-60", "a:0-100")) == (140, 40)
    assert sizes(paths=paths, test_regions=("a:100-200",), validation=0.1) == (180, 20)


@pytest.mark.parametrize(
    ("region", "code", "says"),
    [
        ("r9", 3, "Region r9 is of no record of these files. They have 'r0', 'r1', 'r2', 'r3'"),
        ("r0:100-201", 3, "Region r0:100-201 goes beyond the end of 'r0', which has 200 bases"),
        ("r0:7-7", 4, "region r0:7-7 has no base: its start must be less than its end"),
    ],
)
def test_a_region_that_is_not_there(titans: Any, tiny: Any, tmp_path: Path, region: str, code: int, says: str) -> None:
    given = ["genomics", "pretrain", tiny.fasta, "--out", tmp_path / "run", *tiny.size, "--dry-run"]
    assert says in titans(*given, "--set", f'data.validation_regions=["{region}"]', code=code).stderr


def test_nothing_is_left_to_train_on(titans: Any, tiny: Any, tmp_path: Path) -> None:
    given = ["genomics", "pretrain", tiny.fasta, "--out", tmp_path / "run", *tiny.size, "--dry-run"]
    told = titans(*given, "--set", "data.validation_regions=[r0, r1, r2, r3]", code=3).stderr
    assert "too few bases A, C, G, T to train on and validate with. Give longer records, or hold out less" in told
