"""Bad intervals through the command line: BED, GFF and tables of places, each row of the contract's table."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from titans_seq.data.reference import _kept

Check = Callable[..., Result]
GENOME = f">1 first\n{'ACGTTGCA' * 5}\n>2\n{'ACCA' * 20}\n>MT\nACGT\n"


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    path = tmp_path / "genome.fa"
    path.write_text(GENOME)
    return path


@pytest.fixture
def predict(titans: Any, models: Any, genome: Path, tmp_path: Path) -> Check:
    """What `genomics predict` says of a file of intervals on a genome of three chromosomes."""

    def run(content: str | bytes, *options: Any, code: int = 0, name: str = "x.bed") -> Result:
        path, out = tmp_path / name, tmp_path / "out.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        given = ["genomics", "predict", models.classifier, path, "--out", out, "--reference", genome, *options]
        result: Result = titans(*given, code=code)
        assert out.exists() == (code == 0)
        assert str(path) in result.stderr or not code, "the message names the file"
        return result

    return run


BED = [
    pytest.param("chr1\t1\t5\nchr1\t9\t9\n", "line 2 has the start 9 and the end 9", id="start = end"),
    pytest.param("chr1\t1\t5\nchr1\t9\t3\n", "line 2 has the start 9 and the end 3", id="start > end"),
    pytest.param("chr1\t-1\t5\n", "line 1 has the negative start -1", id="negative"),
    pytest.param("#\n\nchr2\t70\t81\n", "line 3 ends at 81, beyond the end of 'chr2', which has 80 bases", id="end"),
    pytest.param("chr1\tone\t5\n", "line 1 has 'one' for start, which is no whole number", id="text"),
    pytest.param("chr1\t1\t5.5\n", "line 1 has '5.5' for end, which is no whole number", id="fraction"),
    pytest.param("chr1\t1\t\n", "line 1 has '' for end, which is no whole number", id="nothing"),
    pytest.param("chr1\t1\t5\nchr1\t1\n", "line 2 has too few columns, 2: 3 are needed at least", id="columns"),
    pytest.param("chr1 1\n", "line 1 has too few columns, 2", id="columns by blanks"),
    pytest.param("chr1\t1\t5\nchrQ\t1\t5\n", "line 2 is on 'chrQ', which", id="chromosome"),
    pytest.param("\t1\t5\n", "line 1 has no chromosome", id="no chromosome"),
    pytest.param("chr1\t1\t5\tx\t0\tplus\n", "line 1 has the strand 'plus'; it should be + or -", id="strand"),
    pytest.param("chr1\t1\t5\tx\t0\t+\t7.5\t9\t1\tmid\n", "line 1 has 'mid' for its summit", id="summit text"),
    pytest.param("chr1\t1\t5\tx\t0\t+\t7.5\t9\t1\t4\n", "line 1 has its summit 4 bases behind its start", id="summit"),
    pytest.param("", "is empty: it has no interval", id="empty"),
    pytest.param("track name=x\n# nothing\n", "is empty: it has no interval", id="comments alone"),
    pytest.param("chrom\tstart\tend\nchr1\t1\t5\n", "line 1 has 'start' for start", id="header"),
    pytest.param("<html></html>", "looks like HTML", id="HTML"),
    pytest.param(b"PAR1\0\0", "looks like Parquet", id="Parquet"),
    pytest.param("##fileformat=VCFv4.2\n1\t5\t.\tA\tC\n", "looks like VCF", id="VCF"),
    pytest.param(gzip.compress(b"chr1\t1\t5\n" * 500)[:-9], "truncated", id="truncated"),
]


@pytest.mark.parametrize(("content", "says"), BED)
def test_bad_bed_is_refused_by_line(predict: Check, content: str | bytes, says: str) -> None:
    assert says in predict(content, code=3).stderr


def test_an_unknown_chromosome_is_told_with_those_there_are_and_what_to_do(predict: Check, genome: Path) -> None:
    told = predict("chrQ\t1\t5\nchrQ\t2\t5\n", code=3).stderr
    assert f"which {genome} does not have; it has '1', '2', 'MT'" in told
    assert "--aliases FILE (2 such rows)" in told


def row(start: Any, end: Any, strand: str = "+", chrom: str = "1") -> str:
    return f"{chrom}\tx\tgene\t{start}\t{end}\t.\t{strand}\t.\tID=g\n"


GFF = [
    pytest.param(row(1, 4) + row(9, 8), "line 2 has the start 9 and the end 8", id="start > end"),
    pytest.param(row(0, 5), "line 1 has the start 0, and GFF is counted from 1", id="start 0"),
    pytest.param(row(-3, 5), "line 1 has the negative start -3; a chromosome begins at 1", id="negative"),
    pytest.param(row(2, 41), "line 1 ends at 41, beyond the end of '1', which has 40 bases", id="beyond the end"),
    pytest.param(row("x", 5), "line 1 has 'x' for start, which is no whole number", id="text"),
    pytest.param(row(1, 5, chrom="chr9"), "line 1 is on 'chr9', which", id="chromosome"),
    pytest.param(row(1, 5) + "1\tx\tgene\t1\t5\n", "line 2 has too few columns, 5: 8 are needed", id="columns"),
    pytest.param(row(1, 5).replace("gene", "CDS"), "has no feature 'gene'; it has 'CDS (1)'", id="no such feature"),
    pytest.param("##gff-version 3\n", "is empty: it has no interval", id="empty"),
]


@pytest.mark.parametrize(("content", "says"), GFF)
def test_bad_gff_is_refused_by_line(predict: Check, content: str, says: str) -> None:
    assert says in predict(content, "--feature", "gene", code=3, name="x.gff3").stderr


@pytest.mark.parametrize(("end", "circular"), [(45, True), (90, True), (45, False)])
def test_a_gene_across_an_origin_is_refused_with_the_reason(predict: Check, end: int, circular: bool) -> None:
    landmark = "1\tx\tregion\t1\t40\t.\t+\t.\tID=c;Is_circular=true\n" if circular else ""
    told = predict(landmark + row(30, end), "--feature", "gene", code=3, name="x.gff3").stderr
    crosses = "crosses the origin of a circular chromosome" in told and "or let it end at 40" in told
    assert crosses == (circular and end < 80) and ("take the genome that" in told) == (not crosses)


def test_which_features_must_be_said(predict: Check) -> None:
    told = predict(row(1, 5) + row(1, 3).replace("gene", "CDS") + row(2, 9), code=3, name="x.gff3").stderr
    assert "Say which to read with --feature: 'gene (2)', 'CDS (1)'" in told


def test_lines_of_one_feature_are_joined_and_told(predict: Check, tmp_path: Path) -> None:
    lines = [row(1, 4, "-"), row(3, 9).replace("=g", "=b"), row(11, 16, "-")]
    content = "".join(lines).replace("gene", "CDS")
    told = predict(content, "--feature", "CDS", name="x.gff3").stderr
    assert "1 features stand on several lines (2), which are joined" in told and told.count("warning:") == 1
    assert [line.split(",")[0] for line in (tmp_path / "out.csv").read_text().splitlines()] == ["id", "g", "b"]


@pytest.mark.parametrize(("content", "says"), BED)
def test_an_audit_tells_of_bed_what_training_would_refuse(
    titans: Any, genome: Path, tmp_path: Path, content: str | bytes, says: str
) -> None:
    path = tmp_path / "x.bed"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    told = titans("genomics", "audit", path, "--reference", genome, "--strict", code=3)
    assert says in told.output and str(path) in told.output


@pytest.mark.parametrize(("content", "says"), GFF)
def test_an_audit_tells_of_gff_what_training_would_refuse(
    titans: Any, genome: Path, tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "x.gff3"
    path.write_text(content)
    told = titans("genomics", "audit", path, "--reference", genome, "--feature", "gene", "--strict", code=3)
    assert says in told.output and str(path) in told.output


TABLE = [
    pytest.param("1,1,5\n1,7,5\n", "row 2 has the start 7 and the end 5", id="start > end"),
    pytest.param("1,-1,5\n", "row 1 has the negative start -1", id="negative"),
    pytest.param("1,1,5\n1,1,99\n", "row 2 ends at 99, beyond the end of '1', which has 40 bases", id="beyond the end"),
    pytest.param("1,1,five\n", "row 1 has 'five' for end, which is no whole number", id="text"),
    pytest.param("1,1.0,5\n", "row 1 has '1.0' for start, which is no whole number", id="fraction"),
    pytest.param("1,1\n", "row 1 (counted from 1 below the header) has 2 fields, the header has 3", id="columns"),
    pytest.param("chrQ,1,5\n", "row 1 is on 'chrQ', which", id="chromosome"),
    pytest.param(",1,5\n", "row 1 has no chromosome", id="no chromosome"),
]


@pytest.mark.parametrize(("rows", "says"), TABLE)
def test_a_bad_table_of_intervals_is_refused_by_row(predict: Check, rows: str, says: str) -> None:
    assert says in predict(f"chrom,start,end\n{rows}", code=3, name="x.csv").stderr


def test_intervals_need_a_genome(titans: Any, models: Any, tmp_path: Path) -> None:
    for name, content in (("x.bed", "1\t1\t5\n"), ("x.csv", "chrom,start,end\n1,1,5\n")):
        (tmp_path / name).write_text(content)
        for command in (["predict", models.classifier], ["embed", models.classifier]):
            out = tmp_path / "out.parquet"
            told = titans("genomics", *command, tmp_path / name, "--out", out, code=3).stderr
            assert f"{tmp_path / name} has intervals and no sequences" in told and "--reference FASTA" in told


def test_a_command_that_takes_no_genome_says_what_it_reads(titans: Any, models: Any, tmp_path: Path) -> None:
    (tmp_path / "x.bed").write_text("1\t1\t5\n")
    told = titans("genomics", "score", models.language, tmp_path / "x.bed", "--out", tmp_path / "o.bw", code=3).stderr
    assert "to a command without that option, give their sequences (bedtools getfasta)" in " ".join(told.split())


@pytest.mark.parametrize(
    ("content", "says", "code"),
    [
        (">1\nACGT\n>1\nACGT\n", "duplicate id '1'", 3),
        (">1\nACGE\n", "record '1' has 'E' at position 4", 3),
        ("ACGT\n", "is not FASTA", 3),
        (None, "does not exist", 2),
    ],
    ids=["duplicate id", "protein", "no FASTA", "not there"],
)
def test_the_genome_itself_may_be_bad(
    titans: Any, models: Any, tmp_path: Path, content: str | None, says: str, code: int
) -> None:
    bed, genome = tmp_path / "x.bed", tmp_path / "genome.fa"
    bed.write_text("1\t1\t3\n")
    if content is not None:
        genome.write_text(content)
    given = ["genomics", "predict", models.classifier, bed, "--out", tmp_path / "o.csv", "--reference", genome]
    told = titans(*given, code=code).stderr
    assert says in told and str(genome) in told


@pytest.mark.parametrize(
    ("index", "says"),
    [
        pytest.param(
            "1\t99\t9\t40\t41\n2\t80\t53\t80\t81\nMT\t4\t138\t4\t5\n", "gives record '1' 99 bases", id="stale"
        ),
        pytest.param("1\t40\t8\t40\t41\n2\t80\t53\t80\t81\nMT\t4\t138\t4\t5\n", "stand elsewhere", id="wrong"),
        pytest.param("1\t40\t9\t40\t41\n", "lacks record '2'", id="incomplete"),
        pytest.param("1\tmany\n", "malformed", id="malformed"),
    ],
)
def test_the_genome_is_read_whatever_its_index_says(
    predict: Check, genome: Path, tmp_path: Path, index: str, says: str
) -> None:
    predict("1\t1\t5\n2\t3\t79\nMT\t0\t4\n")
    found = (tmp_path / "out.csv").read_bytes()
    (tmp_path / "out.csv").unlink()
    fai = genome.with_name("genome.fa.fai")
    fai.write_text(index)
    _kept.cache_clear()  # as in another process
    told = predict("1\t1\t5\n2\t3\t79\nMT\t0\t4\n").stderr
    assert says in told and "made again" in told and told.count("warning:") == 1 and str(fai) in told
    assert found == (tmp_path / "out.csv").read_bytes()
    assert fai.read_text() == "1\t40\t9\t40\t41\n2\t80\t53\t80\t81\nMT\t4\t138\t4\t5\n"


@pytest.mark.parametrize(
    "content",
    ["1\t0\t40\n2\t79\t80\tn\t0\t-\n", "\ufeff1\t1\t5\r\n2\t1\t5\r\n", gzip.compress(b"1 1 5\n2 1 5\n", mtime=0)],
    ids=["BED3 and BED6", "BOM and CRLF", "packed, blanks"],
)
def test_good_intervals_are_accepted_without_a_word(predict: Check, tmp_path: Path, content: str | bytes) -> None:
    assert "warning" not in predict(content).stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_names_that_differ_are_told_once_in_a_table(predict: Check, tmp_path: Path) -> None:
    told = predict("chr1\t1\t5\nchrM\t0\t4\nchr1\t1\t9\n").stderr
    assert told.count("warning:") == 1
    assert "2 names of chromosomes are not as in" in told and "(3 rows):" in told
    assert "'chr1' = '1', 2 rows" in told and "'chrM' = 'MT', 1 rows" in told


def test_a_file_of_names_is_used(predict: Check, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("contig_7\t2\n")
    told = predict("contig_7\t1\t5\n", "--aliases", tmp_path / "names.txt").stderr
    assert "'contig_7' = '2', 1 rows" in told
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("2:1-5,")


# --- labels


@pytest.fixture
def finetune(titans: Any, tiny: Any, genome: Path, tmp_path: Path) -> Check:
    """What `genomics finetune` says of labelled intervals before it starts."""

    def run(content: str, *options: Any, code: int = 0, name: str = "x.bed") -> Result:
        path, out = tmp_path / name, tmp_path / "run"
        path.write_text(content)
        given = ["genomics", "finetune", path, "--out", out, "--dry-run", "--reference", genome, *tiny.size, *options]
        result: Result = titans(*given, code=code)
        assert not out.exists() and (str(path) in result.stderr or not code)
        return result

    return run


def bed(*names: str) -> str:
    """Intervals of different sequences with these names."""
    return "".join(f"1\t{i}\t{i + 9 + i}\t{name}\n" for i, name in enumerate(names))


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        pytest.param(bed("a", "b"), (), "has no label column", id="no label column"),
        pytest.param(bed("a", "b"), ("--label-column", "kind"), "no column 'kind'", id="no such column"),
        pytest.param("1\t1\t5\n", ("--label-column", "name"), "no column 'name'", id="BED3 has no names"),
        pytest.param(bed("a", ""), ("--label-column", "name"), "line 2 has no label in column 'name'", id="missing"),
        pytest.param(
            bed("a", "a"),
            ("--label-column", "name"),
            "has only one class, 'a'. Training needs at least two, and so does evaluation: add rows of another class",
            id="one class",
        ),
        pytest.param(
            "1\t0\t8\ta\n2\t0\t3\tc\n1\t8\t16\tb\n",
            ("--label-column", "name"),
            "lines 1 and 3 have the same sequence with different labels, 'a' and 'b'",
            id="conflicting duplicates",
        ),
    ],
)
def test_bad_labels_of_intervals_are_refused(
    finetune: Check, content: str, options: tuple[str, ...], says: str
) -> None:
    assert says in finetune(content, *options, code=3).stderr


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("id,label\np,x\nq,y\nr,x\n", "id 'r' is unknown"),
        ("id,label\np,x\n", "record 'q' has no label"),
        ("id,label\np,x\nq,\n", "row 2 (id 'q') has no label"),
        ("id,label\np,x\nq,y\np,y\n", "row 3 gives id 'p' the label 'y', an earlier row 'x'"),
        ("id,kind\np,x\nq,y\n", "no label column"),
    ],
    ids=["unknown id", "unlabelled interval", "missing label", "two labels", "no label column"],
)
def test_labels_beside_intervals(titans: Any, tiny: Any, genome: Path, tmp_path: Path, labels: str, says: str) -> None:
    (tmp_path / "labels.csv").write_text(labels)
    (tmp_path / "x.bed").write_text(bed("p", "q"))
    given = ["genomics", "finetune", tmp_path / "x.bed", "--out", tmp_path / "run", "--reference", genome, *tiny.size]
    told = titans(*given, "--labels", tmp_path / "labels.csv", code=3).stderr
    assert says in told and str(tmp_path / "labels.csv") in told


def test_labelled_intervals_go_all_the_way(titans: Any, tiny: Any, genome: Path, tmp_path: Path) -> None:
    """Trained with windows and jitter, then read as in training: the genome and the window need not be said again."""
    path, run = tmp_path / "x.bed", tmp_path / "run"
    path.write_text("".join(f"chr2\t{i}\t{i + 9}\t{'ab'[i % 2]}\t0\t{'+-'[i % 2]}\n" for i in range(0, 60, 3)))
    given = ["genomics", "finetune", path, "--validation", path, "--out", run, "--label-column", "name"]
    given += ["--reference", genome]
    cutting = ["--window", 21, "--jitter", 4, "--max-n", 0.5, "--set", "data.on_conflict=warn"]
    titans(*given, *cutting, *tiny.size, "--set", "training.steps=2")
    recipe = (run / "recipe.yaml").read_text()
    assert f"reference: {genome}" in recipe and "jitter: 4" in recipe and "window: 21" in recipe
    out = tmp_path / "out.csv"
    titans("genomics", "predict", run, path, "--out", out)
    lines = out.read_text().splitlines()
    assert len(lines) == 21 and lines[1].startswith("a::2:-6-15(+),")
    assert json.loads(titans("genomics", "evaluate", run, path, "--json").stdout)["items"] == 20
    (tmp_path / "t.csv").write_text("chr,start,end,label\n2,0,9,a\n2,9,18,b\n")
    given = ["genomics", "evaluate", run, tmp_path / "t.csv"]
    assert "no column 'name' (label)" in titans(*given, code=3).stderr, "the column of the training file"
    assert json.loads(titans(*given, "--label-column", "label", "--json").stdout)["items"] == 2
    titans("genomics", "embed", run, path, "--out", tmp_path / "out.parquet", "--stride", 5, "--window", 5)
    titans("run", run / "recipe.yaml", "--out", tmp_path / "again")
    genome.unlink()
    assert "--reference FASTA" in titans("genomics", "predict", run, path, "--out", out, "--overwrite", code=3).stderr


def test_a_changed_genome_is_noticed_at_a_resume(titans: Any, tiny: Any, genome: Path, tmp_path: Path) -> None:
    path, run = tmp_path / "x.bed", tmp_path / "run"
    path.write_text(bed("a", "b", "a", "b", "a", "b"))
    given = ["genomics", "finetune", path, "--out", run, "--label-column", "name", "--reference", genome, *tiny.size]
    given += ["--validation", path]
    titans(*given, "--set", "training.steps=2", "--set", "training.checkpoint_every=1")
    genome.write_text(GENOME.replace("ACGTTGCA", "ACGTTGCC"))
    told = titans(*given, "--set", "training.steps=2", "--set", "training.checkpoint_every=1", "--resume", code=3)
    assert "begun with other data" in told.stderr and str(genome) in told.stderr


def test_a_stride_without_a_window_is_a_bad_config(predict: Check, tmp_path: Path) -> None:
    assert "Give window too" in predict("1\t1\t5\n", "--stride", 3, code=4).stderr
