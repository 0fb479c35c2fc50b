import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from titans_seq.data.record import Record, decode
from titans_seq.data.regions import Regions
from titans_seq.data.sequences import read_sequences
from titans_seq.errors import InputError, UsageError

File = Callable[..., Path]


def plain(records: list[Record]) -> list[tuple[str, str, str | None]]:
    return [(r.id, decode(r.codes), r.label) for r in records]


@pytest.mark.parametrize(
    "header",
    ["sequence,label", "seq,class", "Sequence,LABEL", "seq,target", "sequence,y", "label,seq", "id,y,seq,class,label"],
)
def test_columns_are_found_by_name(file: File, header: str) -> None:
    fields = {"sequence": "ACGT", "seq": "ACGT", "label": "pos", "id": "x", "class": "pos", "target": "pos", "y": "pos"}
    row = [fields[name.lower()] for name in header.split(",")]
    other = ["GG" if field == "ACGT" else "neg" if field == "pos" else "z" for field in row]
    found = plain(read_sequences(file("\n".join([header, ",".join(row), ",".join(other)]), "x.csv")))
    ids = ("x", "z") if "id" in header else ("1", "2")
    assert found == [(ids[0], "ACGT", "pos"), (ids[1], "GG", "neg")]


def test_columns_are_named(file: File) -> None:
    path = file("dna,kind,key\nACGT,1,001\nGG,0,1\n", "x.csv")
    found = plain(read_sequences(path, sequence="dna", label="kind", id="key"))
    assert found == [("001", "ACGT", "1"), ("1", "GG", "0")]


def test_of_a_table_with_sequences_nothing_is_cut_and_that_is_told(
    file: File, caplog: pytest.LogCaptureFixture
) -> None:
    path = file("chrom,start,end,sequence,label\nchr1,0,4,ACGT,a\nchr1,4,6,GG,b\n", "x.csv")
    plainly = plain(read_sequences(path))
    assert not caplog.text
    assert plain(read_sequences(path, regions=Regions(reference="genome.fa", window=2))) == plainly
    assert "sequences of column 'sequence' are read whole, none is cut out of a genome" in caplog.text


def test_a_table_of_labels_comes_over_the_tables_own(file: File) -> None:
    path, labels = file("id,seq,class\na,AC,enh\nb,GT,prom\n", "x.csv"), file("id,label\na,on\nb,off\n", "y.csv")
    assert [r.label for r in read_sequences(path, labels=labels)] == ["on", "off"]
    assert [r.label for r in read_sequences(path, labels=labels, label="class")] == ["enh", "prom"]
    assert [r.label for r in read_sequences(path)] == ["enh", "prom"]


def test_rows_of_splits_that_are_read_alike_are_told(file: File, caplog: pytest.LogCaptureFixture) -> None:
    path = file("sequence,label,split\nAC,a,train\nGT,b,test\nGG,a,\n", "x.csv")
    assert len(read_sequences(path)) == 3
    assert "rows of column 'split' (train 1, test 1, none 1) are all read alike" in caplog.text
    caplog.clear()
    assert len(read_sequences(path, need_labels=False)) == 3
    assert len(read_sequences(file("sequence,label,split\nAC,a,left\nGT,b,right\n", "y.csv"))) == 2
    assert not caplog.text


def test_a_row_without_id_gets_its_number(file: File) -> None:
    found = read_sequences(file("id,sequence,label\na,AC,1\n,GT,0\n", "x.csv"))
    assert [record.id for record in found] == ["a", "2"]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".parquet.gz"])
def test_every_format_reads_alike(tmp_path: Path, suffix: str) -> None:
    table = pl.DataFrame({"sequence": ["ACGT", "ggn"], "label": [1, 0]})
    path = tmp_path / f"x{suffix.removesuffix('.gz')}"
    if ".parquet" in suffix:
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if ".tsv" in suffix else ",")
    if suffix.endswith(".gz"):
        packed = path.with_name(f"x{suffix}")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    assert plain(read_sequences(path)) == [("1", "ACGT", "1"), ("2", "GGN", "0")]


def test_fasta_with_a_table_of_labels(file: File) -> None:
    fasta = file(">001 x\nACGT\n>1 y\nGG\n", "x.fa")
    labels = file("id,label\n1,neg\n001,pos\n", "labels.csv")
    assert plain(read_sequences(fasta, labels=labels)) == [("001", "ACGT", "pos"), ("1", "GG", "neg")]
    assert plain(read_sequences(fasta, need_labels=False)) == [("001", "ACGT", None), ("1", "GG", None)]


def test_a_folder_of_one_fasta_per_class(tmp_path: Path) -> None:
    (tmp_path / "promoter.fa").write_text(">a\nACGT\n>b\nGG\n")
    (tmp_path / "other.fasta.gz").write_bytes(gzip.compress(b">c\nTT\n"))
    (tmp_path / ".hidden.fa").write_text("nothing")
    (tmp_path / "README.md").write_text("nothing")
    assert plain(read_sequences(tmp_path)) == [("c", "TT", "other"), ("a", "ACGT", "promoter"), ("b", "GG", "promoter")]


def test_a_folder_of_one_folder_per_class(tmp_path: Path) -> None:
    for label, name, text in [
        ("neg", "0.txt", "ACGT"),
        ("neg", "1.txt", "gg\n"),
        ("pos", "0.txt", "TT"),
        ("pos", "x.fa", ">x\nA"),
    ]:
        (tmp_path / "train" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / label / name).write_text(text)
    assert plain(read_sequences(tmp_path / "train")) == [
        ("neg/0", "ACGT", "neg"),
        ("neg/1", "GG", "neg"),
        ("pos/0", "TT", "pos"),
        ("x", "A", "pos"),
    ]
    with pytest.raises(InputError, match=r"holds the splits of a data set. Name one of them"):
        read_sequences(tmp_path)


TABLE = "id,sequence,label\n"


@pytest.mark.parametrize(
    ("content", "options", "why"),
    [
        ("sequence,kind\nACGT,1\n", {}, "no label column .*Its columns: sequence, kind"),
        ("dna,label\nACGT,1\n", {}, "no column 'sequence' or 'seq', nor chrom, start and end. Its columns: dna, label"),
        ("sequence,label\nACGT,1\n", {"label": "kind"}, "no column 'kind'"),
        ("sequence,label\nACGT,1\n", {"sequence": "dna"}, "no column 'dna'"),
        ("sequence,label\nACGT,1\n", {"id": "key"}, "no column 'key'"),
        (TABLE + "a,ACGT,1\nb,GG,\n", {}, "row 2 has no label in column 'label'"),
        (TABLE + "a,ACGT,1\nb,GG,NA\n", {}, "row 2 has no label"),
        (TABLE + "a,ACGT,1\nb,,0\n", {}, "row 2 has no sequence"),
        (TABLE + "a,ACGT,1\nb,GG,1\n", {}, "only one class, '1'"),
        (TABLE + "a,ACGT,1\nb,AC-T,0\n", {}, "row 2 has '-' at position 3 "),
        (TABLE + "a,ACGT,1\nb,MFV,0\n", {}, "row 2 has 'F' at position 2 "),
        (
            TABLE + "a,ACGT,1\nb,GG,0\nc,acgt,0\n",
            {},
            "rows 1 and 3 have the same sequence with different labels, '1' and '0'",
        ),
        ("chrom,start,end,label\nchr1,1,5,0\n", {}, "has intervals and no sequences. .*--reference FASTA"),
        ("id,region,start,end,strand\n0,chr1,1,5,+\n", {}, "has intervals and no sequences. .*--reference FASTA"),
    ],
)
def test_bad_tables_are_refused_with_row_or_column(file: File, content: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=f"x.csv.*(?:{why})"):
        read_sequences(file(content, "x.csv"), **options)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ("id,label\na,1\nb,0\nzz,0\n", r"labels.csv: id 'zz' is unknown.*1 of 3 ids"),
        ("id,label\na,1\n", r"x.fa: record 'b' has no label in .*labels.csv"),
        ("id,label\na,1\nb,\n", r"labels.csv: row 2 \(id 'b'\) has no label"),
        ("id,label\na,1\nb,0\na,0\n", r"labels.csv: row 3 gives id 'a' the label '0', an earlier row '1'"),
        ("id,kind\na,1\nb,0\n", r"labels.csv has no label column"),
        ("id,label\na,1\nb,1\n", r"only one class"),
    ],
)
def test_labels_that_do_not_fit_a_fasta(file: File, labels: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_sequences(file(">a\nAC\n>b\nGT\n", "x.fa"), labels=file(labels, "labels.csv"))


def numbers(file: File, separator: str, labels: list[str], name: str = "x.csv") -> list[str | None]:
    """Labels of a table of numbers, as a task gets them."""
    rows = [f"{'ACGT' * n}A{separator}{label}" for n, label in enumerate(labels)]
    path = file("\n".join([f"sequence{separator}label", *rows, ""]), name)
    return [record.label for record in read_sequences(path, form="numbers")]


def test_a_decimal_comma_is_a_number_where_the_table_has_another_separator(file: File) -> None:
    for separator in (";", "\t"):
        assert numbers(file, separator, ["4,39", "-1,5e-3", "7"]) == ["4.39", "-1.5e-3", "7"]
        assert numbers(file, separator, ["4,39 1,2", "5 0,25"]) == ["4.39 1.2", "5 0.25"]
        assert numbers(file, separator, ["0.5 1.5", "[1, 2.5]"]) == ["0.5 1.5", "[1, 2.5]"]
    assert numbers(file, "\t", ["4,390;1", "5;0,2"]) == ["4.390;1", "5;0.2"]
    assert numbers(file, ",", ['"4,39"', '"1,2"']) == ["4,39", "1,2"]  # a list, as its quotes say
    path = file("sequence;label\nACGT;a,1\nAC;b,2\n", "x.csv")
    assert [record.label for record in read_sequences(path)] == ["a,1", "b,2"]  # of classes it is a part of the name


def test_a_decimal_comma_in_a_table_of_labels_and_in_bed(file: File) -> None:
    fasta, labels = file(">a\nAC\n>b\nGT\n", "x.fa"), file("id;label\na;4,39\nb;1,5\n", "labels.csv")
    assert [r.label for r in read_sequences(fasta, labels=labels, form="numbers")] == ["4.39", "1.5"]
    genome, bed = file(">chr1\nACGTACGT\n", "g.fa"), file("chr1\t0\t4\t4,39\nchr1\t2\t6\t1,5\n", "x.bed")
    found = read_sequences(bed, label="name", form="numbers", regions=Regions(reference=str(genome)))
    assert [r.label for r in found] == ["4.39", "1.5"]


@pytest.mark.parametrize(
    ("separator", "labels", "row"),
    [
        (";", ["1", "1,2,3"], 2),  # a list
        ("\t", ["0,5", "[1,2]"], 2),
        ("\t", ["0.5,1.5", "1,2"], 1),
        (";", ["3,7", "4.5"], 1),  # a point stands elsewhere
        ("\t", ["1,500", "12,250"], 1),  # thousands
    ],
)
def test_a_comma_that_may_be_decimal_or_not_is_refused(file: File, separator: str, labels: list[str], row: int) -> None:
    with pytest.raises(
        InputError, match=rf"x.csv: row {row} has the label .* comma may be a decimal one .*with a point"
    ):
        numbers(file, separator, labels)


def test_a_comma_in_text_of_parquet_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"sequence": ["ACGT", "AC"], "label": ["4,39", "1,2"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x.parquet: row 1 has the label '4,39', whose comma may be a decimal one"):
        read_sequences(tmp_path / "x.parquet", form="numbers")


def test_how_a_row_without_any_of_several_labels_is_written_is_told_where_it_may_be_meant(file: File) -> None:
    told = "has no label.*remove the row.*lone ; there"
    path, fasta = file("sequence,label\nAC,a\nGT,\n", "x.csv"), file(">a\nAC\n>b\nGT\n", "x.fa")
    with pytest.raises(InputError, match=told):
        read_sequences(path, form="names")
    with pytest.raises(InputError, match=told):
        read_sequences(fasta, labels=file("id,label\na,x\nb,\n", "labels.csv"), form="names")
    flags = file("sequence,a,b\nAC,1,0\nGT,,\n", "flags.csv")
    for where, given in ((path, {"form": "text"}), (flags, {"form": "names", "label": ("a", "b")})):
        with pytest.raises(InputError, match="has no label") as error:
            read_sequences(where, **given)
        assert "lone" not in str(error.value)
    assert [r.label for r in read_sequences(file("sequence,label\nAC,a\nGT,;\n", "y.csv"), form="names")] == ["a", ";"]


def test_fasta_has_no_labels_of_its_own(file: File) -> None:
    with pytest.raises(InputError, match=r"x.fa is FASTA and has no labels"):
        read_sequences(file(">a\nAC\n", "x.fa"))


def test_missing_file_and_folder_without_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_sequences(tmp_path / "x.csv")
    with pytest.raises(InputError, match="is a directory without a class"):
        read_sequences(tmp_path)


def test_conflicts_may_be_a_warning(file: File, warned: list[str]) -> None:
    path = file(TABLE + "a,ACGT,1\nb,GG,0\nc,acgt,0\n", "x.csv")
    assert len(read_sequences(path, on_conflict="warn")) == 3
    assert len(warned) == 1 and "conflicting duplicates" in warned[0]


def test_a_sequence_may_stand_twice_with_one_label(file: File, warned: list[str]) -> None:
    assert len(read_sequences(file(TABLE + "a,ACGT,1\nb,GG,0\nc,ACGT,1\n", "x.csv"))) == 3
    assert warned == []


def test_what_was_replaced_and_ids_that_stand_twice_are_told_once(file: File, warned: list[str]) -> None:
    read_sequences(file(TABLE + "a,ACR,1\na,UG,0\nb,UU,0\na,T,0\n", "x.csv"))
    assert [
        part in message for part, message in zip(["R 1", "3 times", "rows 1 and 2; 2 ids"], warned, strict=True)
    ] == [True] * 3


@pytest.mark.parametrize("task", ["tf/0", "prom/prom_core_notata", "prom/prom_core_all"])
def test_gue(real: Path, task: str) -> None:
    counts = []
    for split in ("train", "dev", "test"):
        records = read_sequences(real / "genomics" / "gue" / task / f"{split}.csv.gz", on_conflict="warn")
        assert {record.label for record in records} == {"0", "1"}
        assert {len(record) for record in records} == {101 if "tf" in task else 70}
        counts.append(len(records))
    assert (
        counts
        == {"0": [32378, 1000, 1000], "prom_core_notata": [42452, 5307, 5307], "prom_core_all": [47356, 5920, 5920]}[
            task.rpartition("/")[2]
        ]
    )


def test_promoters_and_genomic_benchmarks(real: Path) -> None:
    records = read_sequences(real / "genomics" / "promoters")
    assert len(records) == 3839 and {record.label for record in records} == {"Ecoli_prom", "Ecoli_non_prom"}
    for path in (real / "genomics" / "genomic_benchmarks" / "sequences").iterdir():
        assert len(read_sequences(path, on_conflict="warn")) > 400


def test_class_name_sequence_lines_of_the_uci_repository(tmp_path: Path) -> None:
    file = tmp_path / "splice.data"
    file.write_text("EI,   ONE-DONOR-5,     ACGTN\n+,TWO,\t\ttacgr\n\n")
    one, two = read_sequences(file)
    assert (one.label, one.id, decode(one.codes)) == ("EI", "ONE-DONOR-5", "ACGTN")
    assert (two.label, two.id, decode(two.codes)) == ("+", "TWO", "TACGN")
    file.write_text("EI,ONE,ACGT\nEI,ACGT\n")
    with pytest.raises(InputError, match="line 2 has 2 fields, not class, name, sequence"):
        read_sequences(file)
    file.write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_sequences(file)
