"""Targets of a bigWig by interval and bin, under the genome's names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_seq.data.aliases import Aliases
from titans_seq.data.bigwig import BigWig
from titans_seq.data.reference import Reference
from titans_seq.errors import InputError, UsageError

tools = pytest.importorskip("pybigtools")
File = Callable[..., Path]
LENGTHS = {"1": 100, "2": 40}
INTERVALS = [("chr1", 3, 10, 1.5), ("chr1", 10, 11, -2.0), ("chr1", 95, 100, 4.0), ("plasmid", 0, 5, 9.0)]


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> BigWig:
    folder = tmp_path_factory.mktemp("bigwig")
    (folder / "g.fa").write_text("".join(f">{name}\n{'A' * length}\n" for name, length in LENGTHS.items()))
    write(folder / "x.bw")
    return BigWig(folder / "x.bw", Reference(folder / "g.fa"))


def write(path: Path, lengths: dict[str, int] | None = None) -> Path:
    tools.open(str(path), "w").write(lengths or {"chr1": 100, "chr2": 40, "plasmid": 5}, iter(INTERVALS))
    return path


def bases() -> np.ndarray:
    """Chromosome 1 from the intervals, with 200 bases of nothing on both sides; NaN where there is no value."""
    found = np.full(500, np.nan)
    for chrom, start, end, value in INTERVALS:
        if chrom == "chr1":
            found[200 + start : 200 + end] = value
    return found


@given(st.integers(-150, 220), st.integers(1, 12), st.integers(1, 6), st.sampled_from("+-"))
def test_bins_are_means_of_the_bases_and_flip_with_the_strand(
    track: BigWig, start: int, bins: int, width: int, strand: str
) -> None:
    end = start + bins * width
    expected = bases()[200 + start : 200 + end].reshape(bins, width)[:: -1 if strand == "-" else 1]
    means, covered = track.means("1", start, end, strand, width)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(covered, known.mean(1))
    np.testing.assert_allclose(means[covered > 0], [row[~np.isnan(row)].mean() for row in expected[known.any(1)]])
    assert np.isnan(means[covered == 0]).all()


def test_a_chromosome_without_values_is_not_taken_for_zeros(track: BigWig) -> None:
    assert track.names == {"1": "chr1"}
    with pytest.raises(InputError, match=r"x.bw has no value on '2' of .*g.fa"):
        track.means("2", 0, 40, width=10)


def test_an_interval_is_a_whole_number_of_bins(track: BigWig) -> None:
    with pytest.raises(ValueError, match="0-10 has 10 bases, no multiple of a bin of 3"):
        track.means("1", 0, 10, width=3)


def test_names_that_differ_are_told(tmp_path: Path, file: File, warned: list[str]) -> None:
    genome = Reference(file(f">1\n{'A' * 100}\n>scaffold\n{'A' * 5}\n", "g.fa"))
    assert set(BigWig(write(tmp_path / "x.bw"), genome).names) == {"1"}
    assert len(warned) == 1 and "1 name of a chromosome is not as in" in warned[0] and "'chr1' = '1'" in warned[0]
    named = BigWig(tmp_path / "x.bw", genome, Aliases.of_file(file("plasmid scaffold\n", "names.txt")))
    assert named.means("scaffold", 4, 6)[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("fasta", "why"),
    [
        (">1\nACGT\n", r"chromosome 'chr1' has 100 bases, and '1' of .*g.fa has 4. Is it of another assembly"),
        (">9\nACGT\n", r"x.bw is on 'chr1', which .*g.fa does not have; it has '9'"),
    ],
)
def test_a_track_of_another_genome_is_refused(tmp_path: Path, file: File, fasta: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        BigWig(write(tmp_path / "x.bw"), Reference(file(fasta, "g.fa")))


def test_what_is_no_bigwig_is_refused(tmp_path: Path, file: File, track: BigWig) -> None:
    genome = track.genome
    whole = track.file.path.read_bytes()
    for name, content in (("text.bw", b"chr1\t1\t2\t3\n" * 50), ("short.bw", whole[:40]), ("empty.bw", b"")):
        with pytest.raises(InputError, match=f"{name} is no bigWig, or truncated"):
            BigWig(file(content, name), genome)
    with pytest.raises(UsageError, match="does not exist"):
        BigWig(tmp_path / "none.bw", genome)


def test_a_truncated_track_is_noticed_where_it_is_read(real: Path, file: File) -> None:
    genome = Reference(real / "genomics" / "genomes" / "ecoli_k12_mg1655_U00096.3.fa.gz")
    whole = (real / "genomics" / "tracks" / "ecoli_U00096.3_ChIP-ACCCA-1.bw").read_bytes()
    cut = BigWig(file(whole[: len(whole) // 2], "cut.bw"), genome)
    with pytest.raises(InputError, match=r"cut.bw is corrupt or truncated"):
        cut.means("U00096.3", 4_600_000, 4_600_100)


def test_the_chip_track_of_e_coli_is_on_its_genome_under_another_name(real: Path, warned: list[str]) -> None:
    genomes = real / "genomics" / "genomes"
    genome: Any = Reference(genomes / "ecoli_k12_mg1655_U00096.3.fa.gz")
    track = BigWig(real / "genomics" / "tracks" / "ecoli_U00096.3_ChIP-ACCCA-1.bw", genome)
    assert len(warned) == 1 and "'NC_000913' = 'U00096.3'" in warned[0]
    assert track.means("U00096.3", 0, 16, width=4)[0].tolist() == [61, 85, 103, 131]
    length = genome.lengths["U00096.3"]
    means, covered = track.means("U00096.3", length - 8, length + 8, "-", width=4)
    assert means[2:].tolist() == [38, 58] and covered.tolist() == [0, 0, 1, 1]
