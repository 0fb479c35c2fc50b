"""Names of chromosomes: what is taken for what, and what never is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from titans_seq.data.aliases import Aliases
from titans_seq.errors import InputError

HUMAN = [*map(str, range(1, 23)), "X", "Y", "MT"]
UCSC = [f"chr{name}" for name in HUMAN[:-1]] + ["chrM"]
REFSEQ = [f"NC_{i:06}.10" for i in range(1, 25)] + ["NC_012920.1"]
GENBANK = [f"CM{i:06}.2" for i in range(663, 687)] + ["J01415.2"]


@pytest.mark.parametrize("known", [HUMAN, UCSC, REFSEQ, GENBANK], ids=["1", "chr1", "NC_", "CM"])
@pytest.mark.parametrize("wanted", [HUMAN, UCSC, REFSEQ, GENBANK], ids=["1", "chr1", "NC_", "CM"])
def test_every_human_name_means_one_of_every_other_scheme(wanted: list[str], known: list[str]) -> None:
    assert [Aliases().find(name, known) for name in wanted] == [[name] for name in known]


@pytest.mark.parametrize(
    ("name", "known", "means"),
    [
        ("chr1", ["chr1", "1"], ["chr1"]),  # itself before all others
        ("Chr01", ["1", "2"], ["1"]),
        ("chr10", ["1", "10"], ["10"]),
        ("chrIV", ["I", "IV"], ["IV"]),
        ("NC_001136.10", ["chrI", "chrIV"], ["chrIV"]),
        ("2L", ["chr2L", "chr2R"], ["chr2L"]),
        ("chrmt", ["chrI", "Mito"], ["Mito"]),
        ("NC_000913", ["U00096.3"], ["U00096.3"]),
        ("U00096.3", ["NC_000913.3", "plasmid"], ["NC_000913.3"]),
        ("Chromosome", ["U00096.3", "plasmid"], ["U00096.3"]),
        ("NC_000913.3", ["Chromosome", "pBR322"], ["Chromosome"]),
        ("chr", ["NZ_CP009072.1"], ["NZ_CP009072.1"]),  # the only one
        ("chr", ["NZ_CP009072.1", "NZ_CP009073.1"], []),
        ("NZ_CP009072", ["NZ_CP009072.1", "NZ_CP009073.1"], ["NZ_CP009072.1"]),
        ("NC_001416.1", ["gi|9626243|ref|NC_001416.1|"], ["gi|9626243|ref|NC_001416.1|"]),
        ("gi|9626243|ref|NC_001416.1|", ["ref|NC_001416.1|"], ["ref|NC_001416.1|"]),
        ("gi|568815597|ref|NC_000001.11|", ["gi|1|gb|CM000663.2|", "chr2|arrow"], ["gi|1|gb|CM000663.2|"]),
        ("chr1", ["gi|568815597|ref|NC_000001.11|"], ["gi|568815597|ref|NC_000001.11|"]),
        ("tig1", ["tig1|arrow", "tig2|arrow"], ["tig1|arrow"]),
        ("1|arrow", ["chr1", "chr2"], ["chr1"]),
        ("lcl|tig1", ["tig1"], ["tig1"]),
        ("gi|111|gb|CP1.1|", ["gi|222|gb|CP000002.1|"], []),  # an identifier's kind is no identifier
        ("gi", ["gi|111|gb|CP1.1|"], []),
        ("000009F|arrow", ["000000F|arrow"], []),
        ("arrow", ["000000F|arrow"], []),
        ("scaffold1|size1000", ["scaffold2|size1000"], []),
        ("tig1|arrow", ["tig1|pilon"], []),
        ("a|b|c", ["a|d|c"], []),
        ("a|b|c", ["b", "c", "b|c"], []),
        ("chr|2", ["chr|1"], []),  # no name of the only one
        ("ENST00000000001.2|ENSG00000000003.1|", ["ENST00000000002.1|ENSG00000000003.1|"], []),  # of one gene
        ("SRR123456|k141_5", ["SRR123456|k141_6"], []),  # of one run
        ("U00096.3 Escherichia coli", ["U00096.3"], ["U00096.3"]),
        ("chr1", ["01", "1"], ["01", "1"]),  # may be both
        ("U00096.2", ["U00096.3"], []),  # another version is another sequence
        ("NC_000067.6", ["NC_000001.11"], []),  # chromosome 1, of mouse and of human
        ("chr1", ["10", "11", "1_random"], []),
        ("chrZ", HUMAN, []),
        ("", HUMAN, []),
    ],
)
def test_a_name_means(name: str, known: list[str], means: list[str]) -> None:
    assert Aliases().find(name, known) == means


@pytest.mark.parametrize(
    "text",
    [
        "# ucsc\tassembly\trefseq\nscaffold_1\tcontigA\tXY_1\n\nz\ty\n",
        "\ufeffscaffold_1,contigA\r\nz y\r\n",
    ],
    ids=["chromAlias.txt", "commas and blanks"],
)
def test_a_file_of_names(file: Callable[..., Path], text: str) -> None:
    aliases = Aliases.of_file(file(text, "names.txt"))
    assert aliases.find("contigA", ["scaffold_1", "z"]) == ["scaffold_1"]
    assert aliases.find("y", ["scaffold_1", "z"]) == ["z"]
    assert aliases.find("chr1", ["1"]) == ["1"], "the usual names too"


def test_a_line_of_one_name_is_refused(file: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"names.txt: line 2 has the one name 'b'"):
        Aliases.of_file(file("a\tc\nb\n", "names.txt"))


def test_what_was_taken_for_what_is_told_once_and_counted(warned: list[str]) -> None:
    names = Aliases().translate({"chr1": 7, "2": 5, "chrM": 1000}, ["1", "2", "MT"], "x.bed", "g.fa")
    assert names == {"chr1": "1", "2": "2", "chrM": "MT"}
    assert warned == [
        "x.bed: 2 names of chromosomes are not as in g.fa and taken for what is there (1,007 rows):\n"
        "  'chr1' = '1', 7 rows\n  'chrM' = 'MT', 1,000 rows"
    ]


def test_names_that_agree_are_no_news(warned: list[str]) -> None:
    assert Aliases().translate({"1": 7, "nowhere": 1}, ["1", "2"], "x.bed", "g.fa") == {"1": "1"}
    assert warned == []


def test_a_name_that_may_be_two_is_refused() -> None:
    with pytest.raises(InputError, match=r"x.bed: 'chr1' may be '01' or '1' of g.fa. .*--aliases"):
        Aliases().translate({"chr1": 1}, ["01", "1"], "x.bed", "g.fa")


@pytest.mark.parametrize("first", [HUMAN, UCSC, REFSEQ, GENBANK], ids=["1", "chr1", "NC_", "CM"])
def test_names_of_several_files_get_the_first_that_means_the_same(first: list[str]) -> None:
    found = Aliases().alike([*first, *HUMAN, *UCSC, *REFSEQ, *GENBANK])
    for names in (HUMAN, UCSC, REFSEQ, GENBANK):
        assert [found[name] for name in names] == first


def test_names_with_bars_of_several_files() -> None:
    names = ["000000F|arrow", "000001F|arrow", "gi|111|gb|CP1.1|", "gi|222|gb|CP000002.1|", "gi", "arrow"]
    again = ["000001F", "CP000002", "tig1", "tig1|arrow"]
    found = Aliases().alike([*names, *again])
    assert [found[name] for name in [*names, *again]] == [*names, names[1], names[3], "tig1", "tig1"]
    many = [f"size1000|contig_{i}|arrow" for i in range(20_000)]
    assert Aliases().alike(many) == dict(zip(many, many, strict=True))


def test_names_alike_by_a_file_and_names_that_are_not(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("scaffold_1\tcontigA\n")
    names = ["scaffold_1", "chr1", "contigA", "1", "Chromosome", "NC_000913.3", "U00096.2", "plasmid", ""]
    found = Aliases.of_file(tmp_path / "names.txt").alike(names)
    assert {name: other for name, other in found.items() if name != other} == {
        "contigA": "scaffold_1",
        "1": "chr1",
        "NC_000913.3": "Chromosome",
        "U00096.2": "Chromosome",
    }
    many = [f"contig_{i}" for i in range(20_000)]  # without comparing each with each
    assert Aliases().alike(many) == dict(zip(many, many, strict=True))
