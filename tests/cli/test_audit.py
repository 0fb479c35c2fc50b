"""`genomics audit` on data sets in each form they come in, with leaks that were planted, and on real ones."""

import gzip
import json
import os
import random
import re
import shlex
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
    free = tmp_path / f"free{suffix}"
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
        ("chrom,start,end,label\nchr1,10,20,a\nchr1,30,25,b\n", "row 2 is no interval: chrom 'chr1', start '30'"),
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
    assert "no columns of chromosome, start and end" in titans(*audit, tmp_path / "classes", code=3).stderr


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


def test_the_example_of_help_runs(titans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_tables(tmp_path)
    monkeypatch.chdir(tmp_path)
    example = re.search(r"Example: titans-seq (.*?)\n\n", titans("genomics", "audit", "--help").stdout, re.DOTALL)
    assert example is not None
    titans(*shlex.split(example[1]))
    assert (tmp_path / "test_leak_free.csv").exists()


# --- real data sets: the leaks that were counted from the interval files by other means


@pytest.fixture(scope="module")
def genomics() -> Path:
    folder = os.environ.get("TITANS_SEQ_DATA")
    if not folder:
        pytest.skip("set TITANS_SEQ_DATA to the folder of real data to run this")
    return Path(folder) / "genomics"


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


def test_copies_in_gue_core_promoters(titans: Any, genomics: Path) -> None:
    total = leaks_of(titans, genomics / "gue" / "prom" / "prom_core_all")["train", "(all)"]
    assert (total["exact"], total["rows"], total["conflicting"]) == (43, 5_920, 6)
