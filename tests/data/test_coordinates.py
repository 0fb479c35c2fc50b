from pathlib import Path

import polars as pl
import pytest

from titans_seq.data.coordinates import coordinates_of, has_coordinates, plain_chromosome
from titans_seq.data.record import Judge
from titans_seq.errors import InputError

PATH = Path("x.csv")


def table(*rows: str, header: str = "chrom,start,end,strand") -> pl.DataFrame:
    names = header.split(",")
    return pl.DataFrame([row.split(",") for row in rows], schema=dict.fromkeys(names, pl.String), orient="row")


@pytest.mark.parametrize(
    "header", ["chrom,start,end,strand", "region,Start,End,Strand", "chromosome,chromStart,chromEnd,strand"]
)
def test_columns_are_found_by_their_names(header: str) -> None:
    found = table("chr1,5, 9 ,+", "chr2,0,1,.", "X,7,8,", header=header)
    assert has_coordinates(found)
    place = coordinates_of(found, PATH)
    assert place.chrom == ("chr1", "chr2", "X") and place.strand == ("+", "", "")
    assert place.start.tolist() == [5, 0, 7] and place.end.tolist() == [9, 1, 8]


def test_strand_may_be_absent() -> None:
    assert coordinates_of(table("chr1,5,9", header="chrom,start,end"), PATH).strand == ("",)
    assert not has_coordinates(table("chr1,5", header="chrom,start"))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("chr1,9,9,+", "start '9', end '9'"),
        ("chr1,10,9,+", "start '10', end '9'"),
        ("chr1,-1,9,+", "start '-1'"),
        ("chr1,x,9,+", "start 'x'"),
        ("chr1,1.5,9,+", "start '1.5'"),
        ("chr1,1,,+", "end ''"),
        (",1,9,+", "chrom ''"),
        ("chr1,1,9,*", "row 2 has strand '\\*'"),
    ],
)
def test_what_is_no_interval_is_refused_by_its_row(row: str, says: str) -> None:
    with pytest.raises(InputError, match=rf"x.csv.*{says}"):
        coordinates_of(table("chr1,1,9,+", row), PATH)


def test_a_judge_that_goes_on_is_told_once_and_gets_empty_intervals() -> None:
    told: list[str] = []
    place = coordinates_of(table("chr1,9,9,+", "chr1,1,9,+", "chr1,x,9,+"), PATH, Judge(told.append, told.append))
    assert len(told) == 1 and "x.csv: row 1 is no interval" in told[0] and "2 rows are so" in told[0]
    assert (place.end - place.start).tolist() == [0, 8, 0]


def test_names_of_assemblies_are_one() -> None:
    names = ("chr1", "1", "Chr2", "chrM", "MT", "chromosome3")
    assert [plain_chromosome(name) for name in names] == ["1", "1", "2", "MT", "MT", "omosome3"]
