"""`genomics audit` on data sets in each form they come in, with leaks that were planted, and on real ones."""

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from titans_seq.progress import Progress

TURNED = str.maketrans("ACGT", "TGCA")


def bases(count: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=count))


TRAIN = [(bases(90, seed), "ab"[seed % 2]) for seed in range(40)]
FRESH = [(bases(90, 1000 + seed), "ab"[seed % 2]) for seed in range(12)]
PLANTED = [
    TRAIN[0],
    (TRAIN[1][0], "a"),  # with the other label
    (TRAIN[2][0].translate(TURNED)[::-1], "a"),
    (TRAIN[3][0][:45] + ("A" if TRAIN[3][0][45] != "A" else "C") + TRAIN[3][0][46:], "b"),
]
FOUND = {"rows": 16, "exact": 2, "reverse_complement": 1, "overlap": None, "near": 4, "any": 4, "conflicting": 1}


def csv(rows: list[tuple[str, str]], header: str = "sequence,label") -> str:
    return "\n".join([header, *(",".join(row) for row in rows), ""])


def fasta(rows: list[tuple[str, str]], label: str) -> str:
    return "".join(f">{i}\n{text}\n" for i, (text, mark) in enumerate(rows) if mark == label)


def as_tables(folder: Path) -> list[Any]:
    (folder / "train.csv").write_text(csv(TRAIN))
    (folder / "test.csv").write_text(csv(FRESH + PLANTED))
    return [folder / "train.csv", "--test", folder / "test.csv"]


def as_folder_of_tables(folder: Path) -> list[Any]:
    as_tables(folder)
    (folder / "test.csv.gz").write_bytes(gzip.compress((folder / "test.csv").read_bytes()))
    (folder / "test.csv").unlink()
    (folder / "README.md").write_text("about")
    (folder / "train.json").write_text("{}")
    return [folder]


def as_one_table(folder: Path) -> list[Any]:
    rows = [("train", *row) for row in TRAIN] + [("test", *row) for row in FRESH + PLANTED]
    (folder / "all.tsv").write_text("\n".join(["split\tseq\tclass", *("\t".join(row) for row in rows), ""]))
    return [folder / "all.tsv"]


def as_folders_of_fasta(folder: Path) -> list[Any]:
    for split, rows in (("train", TRAIN), ("test", FRESH + PLANTED)):
        (folder / split).mkdir()
        for label in "ab":
            (folder / split / f"{label}.fa").write_text(fasta(rows, label))
    return [folder]


def as_odd_columns(folder: Path) -> list[Any]:
    given = as_tables(folder)
    for file in (given[0], given[2]):
        file.write_text(file.read_text().replace("sequence,label", "dna,kind"))
    return [*given, "--sequence-column", "dna", "--label-column", "kind"]


@pytest.mark.parametrize("form", [as_tables, as_folder_of_tables, as_one_table, as_folders_of_fasta, as_odd_columns])
def test_planted_leaks_are_found_in_every_form(titans: Any, tmp_path: Path, form: Any) -> None:
    given = ["genomics", "audit", *form(tmp_path)]
    found = json.loads(titans(*given, "--json", "--strict", code=3).stdout)
    total = found["facts"]["leaks"][0]
    assert {key: total[key] for key in FOUND} == FOUND and total["class"] == "(all)"
    assert [row["class"] for row in found["facts"]["leaks"]] == ["(all)", "a", "b"]
    assert [row["rows_left"] for row in found["facts"]["leak_free_test_rows"]] == [16, 14, 13, 12]
    assert len(found["leaks"]) == 4
    assert len(found["problems"]) == (form is as_one_table)  # as one training table the conflict is refused
    told = titans(*given).stdout
    assert "test: 2 of 16 rows (12.5 %) are exactly rows of train" in told
    assert "1 of 16 rows (6.2 %) are the reverse complement of rows of train" in told
    assert "test: 1 of 16 rows (6.2 %) are in train too, with another label" in told


def test_a_clean_data_set_passes(titans: Any, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(csv(TRAIN))
    (tmp_path / "test.csv").write_text(csv(FRESH))
    result = titans("genomics", "audit", tmp_path, "--strict")
    assert "no problem found" in result.stdout and "'overlap' were not looked for" in result.stdout


def test_the_leak_free_list_is_what_evaluate_reads(titans: Any, models: Any, tmp_path: Path) -> None:
    free = tmp_path / "free.csv"
    given = ["genomics", "audit", *as_tables(tmp_path), "--leak-free", free]
    titans(*given)
    table = pl.read_csv(free, infer_schema=False)
    assert table.columns == ["id", "sequence", "label"] and table["id"].to_list() == [str(i + 1) for i in range(12)]
    assert list(zip(table["sequence"], table["label"], strict=True)) == FRESH
    assert json.loads(titans("genomics", "evaluate", models.classifier, free, "--json").stdout)["items"] == 12
    assert f"{free} exists" in titans(*given, code=2).stderr
    titans(*given, "--overwrite", "--kind", "exact", "--kind", "reverse_complement")
    assert len(pl.read_csv(free)) == 13


@pytest.mark.parametrize("suffix", [".tsv", ".parquet", ".jsonl"])
def test_the_leak_free_list_by_suffix(titans: Any, tmp_path: Path, suffix: str) -> None:
    free = tmp_path / "a new folder" / f"free{suffix}"
    titans("genomics", "audit", *as_tables(tmp_path), "--leak-free", free)
    readers = {".tsv": lambda f: pl.read_csv(f, separator="\t"), ".parquet": pl.read_parquet, ".jsonl": pl.read_ndjson}
    assert len(readers[suffix](free)) == 12


def test_near_is_as_near_as_asked_for(titans: Any, tmp_path: Path) -> None:
    given = ["genomics", "audit", *as_tables(tmp_path), "--json"]
    # One change in 90 bases leaves 67 of 79 k-mers: 67 / 91 = 0.74 are common.
    for near, count in ((0.2, 4), (0.73, 4), (0.75, 3), (1, 3)):
        assert json.loads(titans(*given, "--near", near).stdout)["facts"]["leaks"][0]["near"] == count


def intervals(folder: Path, split: str, **classes: list[str]) -> None:
    (folder / split).mkdir()
    for label, rows in classes.items():
        lines = ["id,region,start,end,strand", *(f"{i},{row}" for i, row in enumerate(rows))]
        (folder / split / f"{label}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def test_intervals_as_genomic_benchmarks_has_them(titans: Any, tmp_path: Path) -> None:
    intervals(tmp_path, "train", no=["chr1,0,100,+", "chr1,500,600,-"], yes=["chr2,0,100,+", "chr3,0,100,+"])
    intervals(tmp_path, "test", no=["chr1,0,100,+", "chr1,500,600,+", "chrX,0,99,-"], yes=["chr2,99,199,-"])
    free = tmp_path / "free.csv"
    found = json.loads(titans("genomics", "audit", tmp_path, "--json", "--leak-free", free).stdout)
    kinds = ("exact", "reverse_complement", "overlap", "near", "any")
    assert [[row[kind] for kind in kinds] for row in found["facts"]["leaks"]] == [
        [1, 1, 3, None, 3],
        [1, 1, 2, None, 2],
        [0, 0, 1, None, 1],
    ]
    assert free.read_text() == "id,chrom,start,end,strand,label\nno/2,chrX,0,99,-,no\n"
    assert "'near' were not looked for" in found["notes"][-3] and "0 test rows of class 'yes'" in found["notes"][-1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("chrom,start,end,label\nchr1,10,20,a\nchr1,30,25,b\n", "row 2 has the start 30 and the end 25"),
        ("chrom,start,end,label\nchr1,10,20,a\nchr1,10,20,b\n", "are the same interval with different labels"),
        ("chrom,start,end,label\nchr1,10,20,a\nchr1,40,50,a\n", "only one class"),
        ("chrom,start,end,label\nchr1,10,20,a\nchr1,40,50,\n", "row 2 has no label in column 'label'"),
        ("chrom,start,end\nchr1,10,20\n", "no label column"),
    ],
)
def test_what_is_wrong_with_intervals_is_told(titans: Any, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    told = titans("genomics", "audit", tmp_path / "x.csv").stdout
    assert says in told and f"{tmp_path / 'x.csv'}" in told.partition("problems")[2]
    assert says in titans("genomics", "audit", tmp_path / "x.csv", "--strict", code=3).stdout


GENOME = {"1": bases(4000, 1), "2": bases(3000, 2)}


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    path = tmp_path / "genome.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in GENOME.items()))
    return path


def test_places_of_every_kind_are_audited_with_their_sequences(titans: Any, genome: Path, tmp_path: Path) -> None:
    """The same three intervals, of which one lies on the other strand, as BED, narrowPeak, GFF and a table."""
    rows = [(0, 100, "a", "+"), (500, 700, "b", "-"), (1000, 1100, "a", "+")]
    (tmp_path / "x.bed").write_text("".join(f"chr1\t{s}\t{e}\t{n}\t0\t{d}\n" for s, e, n, d in rows))
    (tmp_path / "x.narrowPeak").write_text(
        "".join(f"chr1\t{s}\t{e}\t{n}\t0\t{d}\t1\t1\t1\t-1\n" for s, e, n, d in rows)
    )
    (tmp_path / "x.gff3").write_text(
        "".join(f"chr1\t.\tgene\t{s + 1}\t{e}\t.\t{d}\t.\tname={n}\n" for s, e, n, d in rows)
    )
    lines = ["chrom,start,end,strand,name", *(f"chr1,{s},{e},{d},{n}" for s, e, n, d in rows)]
    (tmp_path / "x.csv").write_text("\n".join([*lines, ""]))
    text = GENOME["1"][:100] + GENOME["1"][500:700] + GENOME["1"][1000:1100]
    for name in ("x.bed", "x.narrowPeak", "x.gff3", "x.csv"):
        given = ["genomics", "audit", tmp_path / name, "--feature", "gene", "--label-column", "name", "--json"]
        places = json.loads(titans(*given).stdout)["facts"]
        assert (places["rows"], places["bases"], places["chromosomes"], places["classes"]) == (3, 400, 1, 2)
        assert "gc_share" not in places
        found = json.loads(titans(*given, "--reference", genome).stdout)
        facts = found["facts"]
        assert (facts["rows"], facts["bases"], facts["chromosomes"], facts["classes"]) == (3, 400, 1, 2)
        assert facts["gc_share"] == pytest.approx(sum(text.count(c) for c in "GC") / 400, abs=1e-6)
        assert any("'chr1' = '1', 3 rows" in note for note in found["notes"]) and not found["problems"]
    assert titans("genomics", "audit", tmp_path / "x.bed", "--strict").stdout.count("no problem found") == 1


def test_what_intervals_of_two_splits_share_is_found_under_other_names(
    titans: Any, genome: Path, tmp_path: Path
) -> None:
    """By place without the genome; with it copies elsewhere are found too, and the list has sequences."""
    twin = GENOME["1"][100:200]
    genome.write_text(genome.read_text() + f">3\n{bases(50, 3)}{twin}{bases(50, 4)}\n")
    (tmp_path / "train.bed").write_text("1\t100\t200\ta\n2\t500\t600\tb\n2\t900\t1000\ta\n")
    (tmp_path / "test.bed").write_text("chr2\t590\t690\tb\nchr3\t50\t150\ta\nchr2\t500\t600\tb\nchr1\t3000\t3100\ta\n")
    given = ["genomics", "audit", tmp_path, "--label-column", "name", "--json", "--leak-free", tmp_path / "free.tsv"]
    found = json.loads(titans(*given).stdout)
    kinds = ("exact", "reverse_complement", "overlap", "near", "any")
    assert [found["facts"]["leaks"][0][kind] for kind in kinds] == [1, 0, 2, None, 2]
    assert any("chr2 = 2" in note for note in found["notes"])
    found = json.loads(titans(*given, "--reference", genome, "--overwrite").stdout)
    assert [found["facts"]["leaks"][0][kind] for kind in kinds] == [2, 0, 2, 2, 3]
    lines = [line.split("\t") for line in (tmp_path / "free.tsv").read_text().splitlines()]
    assert lines[0] == ["id", "chrom", "start", "end", "strand", "sequence", "label"]
    assert lines[1:] == [["a::1:3000-3100", "1", "3000", "3100", ".", GENOME["1"][3000:3100], "a"]]


def test_splits_that_are_not_all_known_are_told(titans: Any, tmp_path: Path) -> None:
    texts = [f"{'ACGT'[i % 4] * 20}{'GATC'[i // 4] * 20},{'ab'[i % 2]}" for i in range(12)]
    rows = [f"{text},{'train' if i < 9 else 'test'}" for i, text in enumerate(texts)]
    given = ["genomics", "audit", tmp_path / "x.csv", "--strict", "--json"]
    for strange, place in (("holdout", 12), ("", 12)):
        text = "\n".join(["sequence,label,split", *rows[:-1], f"{rows[-1].removesuffix('test')}{strange}", ""])
        (tmp_path / "x.csv").write_text(text)
        problems = json.loads(titans(*given, code=3).stdout)["problems"]
        assert any(f"row {place} is of split {strange!r} (1 such rows)" in problem for problem in problems)


def test_windows_without_a_genome_are_refused(titans: Any, tmp_path: Path) -> None:
    for split in ("a", "b"):
        (tmp_path / f"{split}.bed").write_text("chr1\t1000\t1200\n")
    given = ["genomics", "audit", tmp_path / "a.bed", "--test", tmp_path / "b.bed", "--window", 500, "--max-n", 0.5]
    assert "--window, --max-n cut sequences out of a genome. Give it with --reference" in titans(*given, code=2).stderr


def test_windows_are_audited_as_training_reads_them(titans: Any, genome: Path, tmp_path: Path) -> None:
    table = [f"chr1,{i * 300},{i * 300 + 100},{'ab'[i % 2]},{'train' if i < 6 else 'test'}" for i in range(10)]
    (tmp_path / "x.csv").write_text("\n".join(["chrom,start,end,label,split", *table, "chr1,9,3,a,test", ""]))
    given = ["genomics", "audit", tmp_path / "x.csv", "--reference", genome, "--window", 60, "--stride", 20, "--json"]
    found = json.loads(titans(*given, "--strict", code=3).stdout)
    assert "row 11 has the start 9 and the end 3" in found["problems"][0]
    assert [split["rows"] for split in found["facts"]["splits"].values()] == [6 * 3, 4 * 3]  # 3 windows an interval
    assert found["facts"]["leaks"][0]["any"] == 0
    found = json.loads(titans(*given[:-5], "--json").stdout)
    assert [split["rows"] for split in found["facts"]["splits"].values()] == [6, 4]


def test_a_folder_of_interval_files_a_class(titans: Any, genome: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for k, label in enumerate("ab"):
            at = 1000 * k + 500 * (split == "test")
            (tmp_path / split / f"{label}.bed").write_text(f"chr1\t{at}\t{at + 50}\nchr1\t{at + 90}\t{at + 99}\n")
    for options in ((), ("--reference", genome)):
        found = json.loads(titans("genomics", "audit", tmp_path, *options, "--json", "--strict").stdout)["facts"]
        assert [split["rows"] for split in found["splits"].values()] == [4, 4]
        assert [row["any"] for row in found["leaks"]] == [0, 0, 0]


def test_a_bigwig_is_described(titans: Any, genome: Path, tmp_path: Path) -> None:
    tools = pytest.importorskip("pybigtools")
    values = [("chr1", 0, 1000, 2.0), ("chr1", 1500, 2000, -1.0), ("plasmid", 5, 10, 7.5)]
    tools.open(str(tmp_path / "x.bw"), "w").write({"chr1": 4000, "plasmid": 10}, iter(values))
    facts = json.loads(titans("genomics", "audit", tmp_path / "x.bw", "--json").stdout)["facts"]
    assert (facts["chromosomes"], facts["bases"], facts["min"], facts["max"]) == (2, 4010, -1, 7.5)
    assert facts["covered_share"] == pytest.approx(1505 / 4010, abs=1e-6)
    assert facts["mean"] == pytest.approx((2000 - 500 + 37.5) / 1505)
    first = {"chromosome": "chr1", "length": 4000, "covered_share": 0.375, "min": -1, "mean": 1.0, "max": 2}
    assert facts["values_by_chromosome"][0] == first
    found = json.loads(titans("genomics", "audit", tmp_path / "x.bw", "--reference", genome, "--json").stdout)
    assert any("'chr1' = '1'" in note for note in found["notes"]) and not found["problems"]
    assert any("1 of 2 records of" in note for note in found["notes"])
    genome.write_text(">1\nACGT\n")
    told = titans("genomics", "audit", tmp_path / "x.bw", "--reference", genome, "--strict", code=3).stdout
    assert "'chr1' has 4,000 bases" in told and "Is it of another assembly?" in told
    (tmp_path / "no.bw").write_text("1\t2\t3\n")
    assert "no.bw is no bigWig" in titans("genomics", "audit", tmp_path / "no.bw", code=3).stderr


def test_what_cannot_be_audited_is_refused(titans: Any, tmp_path: Path) -> None:
    given = as_tables(tmp_path)
    audit = ["genomics", "audit"]
    assert "holds splits (train, test)" in titans(*audit, tmp_path, "--test", given[2], code=2).stderr
    assert "needs a test split" in titans(*audit, given[0], "--leak-free", tmp_path / "o.csv", code=2).stderr
    assert "should end in" in titans(*audit, *given, "--leak-free", tmp_path / "o.xlsx", code=2).stderr
    assert "--kind copy is none" in titans(*audit, *given, "--kind", "copy", code=2).stderr
    assert "does not exist" in titans(*audit, given[0], "--test", tmp_path / "no.csv", code=2).stderr
    (tmp_path / "places.csv").write_text("chrom,start,end,label\nchr1,1,5,a\nchr1,7,9,b\n")
    assert "cannot be compared" in titans(*audit, given[0], "--test", tmp_path / "places.csv", code=3).stderr
    (tmp_path / "test.tsv").write_text("x")
    assert "two splits 'test'" in titans(*audit, tmp_path, code=3).stderr
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "a.csv").write_text("sequence\nACGT\n")
    assert "no columns chrom, start and end" in titans(*audit, tmp_path / "classes", code=3).stderr


def test_fasta_without_labels_can_be_compared(titans: Any, tmp_path: Path) -> None:
    (tmp_path / "train.fa").write_text(fasta(TRAIN, "a"))
    (tmp_path / "test.fa").write_text(fasta(FRESH + PLANTED, "a"))
    found = json.loads(titans("genomics", "audit", tmp_path, "--json").stdout)
    assert [row["any"] for row in found["facts"]["leaks"]] == [2] and found["problems"] == []


def test_hostile_ids_are_escaped(titans: Any, tmp_path: Path) -> None:
    rows = [(f"=cmd{i}", text, label) for i, (text, label) in enumerate(FRESH)]
    (tmp_path / "test.csv").write_text("\n".join(["id,sequence,label", *(",".join(row) for row in rows), ""]))
    (tmp_path / "train.csv").write_text(csv([*TRAIN[:-1], (TRAIN[-1][0], "\x1b[31mred")]))
    told = titans("genomics", "audit", tmp_path, "--leak-free", tmp_path / "free.csv").stdout
    assert "\x1b" not in told and "\\x1b[31mred" in told
    assert pl.read_csv(tmp_path / "free.csv")["id"][0] == "'=cmd0"


def test_long_work_tells_how_far_it_is(titans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "every", 0.0)
    (tmp_path / "x.fa").write_text(f">a\n{bases(100_000, 1)}\n")
    assert "reading x.fa: 65,536 bases" in titans("genomics", "audit", tmp_path / "x.fa").stderr
    assert "looking for near duplicates: " in titans("genomics", "audit", *as_tables(tmp_path)).stderr


# --- real data sets: the leaks that were counted from the interval files by other means


@pytest.fixture(scope="module")
def genomics() -> Path:
    folder = os.environ.get("TITANS_SEQ_DATA")
    if not folder:
        pytest.skip("set TITANS_SEQ_DATA to the folder of real data to run this")
    return Path(folder) / "genomics"


def test_the_chip_track_of_e_coli(titans: Any, genomics: Path) -> None:
    pytest.importorskip("pybigtools")
    track = genomics / "tracks" / "ecoli_U00096.3_ChIP-ACCCA-1.bw"
    fasta = genomics / "genomes" / "ecoli_k12_mg1655_U00096.3.fa.gz"
    found = json.loads(titans("genomics", "audit", track, "--reference", fasta, "--json").stdout)
    assert found["facts"]["bases"] == 4_653_296 and found["facts"]["covered_share"] == 1  # as its own header counts
    assert (found["facts"]["min"], found["facts"]["max"]) == (0, 499_942)
    assert any("'NC_000913' = 'U00096.3'" in note for note in found["notes"])


def test_genes_of_yeast(titans: Any, genomics: Path) -> None:
    genome = genomics / "genomes" / "yeast_S288C.fa.gz"
    given = ["genomics", "audit", genomics / "genomes" / "yeast_S288C.gff.gz", "--feature", "mRNA", "--json"]
    facts = json.loads(titans(*given, "--reference", genome).stdout)["facts"]
    assert facts["rows"] == json.loads(titans(*given).stdout)["facts"]["rows"] > 5000
    assert 0.37 < facts["gc_share"] < 0.41  # of the genome 0.38, of genes a little more


def leaks_of(titans: Any, path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads(titans("genomics", "audit", path, "--json", "--quiet", "--strict", code=3).stdout)
    return {(row["seen_in"], row["class"]): row for row in found["facts"]["leaks"] if row["rows_of"] == "test"}


def test_copies_in_human_enhancers_ensembl(titans: Any, genomics: Path) -> None:
    found = leaks_of(titans, genomics / "genomic_benchmarks" / "intervals" / "human_enhancers_ensembl")
    positive = found["train", "positive"]
    assert (positive["exact"], positive["rows"], positive["conflicting"]) == (11_694, 15_485, 0)  # 75.5 %


def test_overlaps_in_human_nontata_promoters(titans: Any, genomics: Path) -> None:
    found = leaks_of(titans, genomics / "genomic_benchmarks" / "intervals" / "human_nontata_promoters")
    negative = found["train", "negative"]
    assert (negative["overlap"], negative["rows"], negative["in_same_class"]) == (4_101, 4_119, 4_101)  # 99.6 %
    assert found["train", "positive"]["overlap"] == 348  # 7.1 %


@pytest.mark.soak
def test_copies_in_gue_core_promoters(titans: Any, genomics: Path) -> None:
    total = leaks_of(titans, genomics / "gue" / "prom" / "prom_core_all")["train", "(all)"]
    assert (total["exact"], total["rows"], total["conflicting"]) == (43, 5_920, 6)
