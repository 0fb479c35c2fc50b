"""Intervals on a genome: every format gives the same sequences, and windows are where they are said to be."""

import gzip
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_seq.data.intervals import interval_kind
from titans_seq.data.record import Record, decode, encode
from titans_seq.data.reference import Reference, open_reference
from titans_seq.data.regions import Regions
from titans_seq.data.sequences import each_sequence, read_places, read_sequences
from titans_seq.data.sources import SequenceSource
from titans_seq.data.windows import LabelledSequences, reverse_complement
from titans_seq.errors import ConfigError, InputError
from titans_seq.tasks.classification import Classification

File = Callable[..., Path]
RNG = np.random.default_rng(0)
CHROMOSOMES = {f"chr{n}": RNG.choice(5, size, p=[0.24] * 4 + [0.04]).astype(np.uint8) for n, size in
               (("1", 503), ("2", 1200), ("M", 61))}  # fmt: skip


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("genome") / "g.fa"
    path.write_text("".join(f">{name} of a test\n{decode(codes)}\n" for name, codes in CHROMOSOMES.items()))
    return path


def sequences(path: Path, genome: Path, **options: Any) -> list[tuple[str, str]]:
    return [(r.id, decode(r.codes)) for r in each_sequence(path, regions=Regions(reference=str(genome), **options))]


def cut(chrom: str, start: int, end: int, strand: str = "+") -> str:
    """The whole chromosome, N on both sides, sliced."""
    around = np.concatenate([np.full(2000, 4, np.uint8), CHROMOSOMES[chrom], np.full(2000, 4, np.uint8)])
    codes = around[2000 + start : 2000 + end]
    return decode(reverse_complement(codes) if strand == "-" else codes)


# --- laws


@st.composite
def intervals(draw: st.DrawFn) -> list[tuple[str, int, int, str]]:
    def one() -> tuple[str, int, int, str]:
        chrom = draw(st.sampled_from(sorted(CHROMOSOMES)))
        start = draw(st.integers(0, len(CHROMOSOMES[chrom]) - 1))
        return chrom, start, draw(st.integers(start + 1, len(CHROMOSOMES[chrom]))), draw(st.sampled_from("+-"))

    return [one() for _ in range(draw(st.integers(1, 6)))]


def written(rows: list[tuple[str, int, int, str]], kind: str, folder: Path) -> Path:
    """The same intervals as a file of one kind."""
    lines = {
        "bed": [f"{c}\t{s}\t{e}\t.\t0\t{d}" for c, s, e, d in rows],
        "narrowPeak": [f"{c}\t{s}\t{e}\t.\t0\t{d}\t1\t1\t1\t-1" for c, s, e, d in rows],
        "gff3": ["##gff-version 3", *(f"{c}\tx\tgene\t{s + 1}\t{e}\t.\t{d}\t.\t" for c, s, e, d in rows)],
        "gtf": [f'{c}\tx\tgene\t{s + 1}\t{e}\t.\t{d}\t.\tnote "1";' for c, s, e, d in rows],
        "csv": ["chrom,start,end,strand", *(f"{c},{s},{e},{d}" for c, s, e, d in rows)],
        "tsv": ["strand\tEND\tStart\tregion", *(f"{d}\t{e}\t{s}\t{c}" for c, s, e, d in rows)],
    }[kind]
    path = folder / f"x.{kind}"
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.mark.parametrize("kind", ["bed", "narrowPeak", "gff3", "gtf", "csv", "tsv"])
@settings(max_examples=30)
@given(rows=intervals())
def test_every_format_gives_the_slices_of_the_chromosomes(genome: Path, kind: str, rows: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = sequences(written(rows, kind, Path(folder)), genome, feature=("gene",))
    assert found == [(f"{c}:{s}-{e}({d})", cut(c, s, e, d)) for c, s, e, d in rows]


@given(st.sampled_from(sorted(CHROMOSOMES)), st.integers(-100, 1400), st.integers(1, 300))
def test_any_stretch_of_the_reference_is_the_padded_slice(genome: Path, chrom: str, start: int, length: int) -> None:
    codes = open_reference(genome).codes(chrom, start, start + length)
    assert decode(codes) == cut(chrom, start, start + length)


@given(rows=intervals(), window=st.integers(1, 90))
def test_a_window_lies_around_the_centre_and_n_beyond_the_ends(genome: Path, rows: Any, window: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = sequences(written(rows, "csv", Path(folder)), genome, window=window)
    for (chrom, start, end, strand), (_, text) in zip(rows, found, strict=True):
        first = (start + end) // 2 - window // 2
        assert text == cut(chrom, first, first + window, strand)


@given(rows=intervals(), window=st.integers(1, 90), stride=st.integers(1, 120))
def test_tiles_begin_at_the_interval_and_reach_its_end(genome: Path, rows: Any, window: int, stride: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = sequences(written(rows, "bed", Path(folder)), genome, window=window, stride=stride)
    expected = []
    for chrom, start, end, strand in rows:
        firsts = [start]
        while firsts[-1] + max(window, stride) < end:  # none begins behind the interval
            firsts.append(firsts[-1] + stride)
        expected += [(f"{chrom}:{f}-{f + window}({strand})", cut(chrom, f, f + window, strand)) for f in firsts]
    assert found == expected


def test_the_reference_keeps_lower_case_apart(file: File) -> None:
    found = Reference(file(">a\nACgtnR\n>b\nacgt\n>c\n", "x.fa"))
    assert found.lengths == {"a": 6, "b": 4, "c": 0}
    assert decode(found.codes("a", -1, 8)) == "NACGTNNNN"
    assert found.lower("a", -1, 8).tolist() == [False, False, False, True, True, True, False, False, False]
    assert decode(found.codes("c", 0, 2)) == "NN"


# --- formats


def test_ten_columns_are_a_peak_or_nine_and_one_more(file: File, genome: Path) -> None:
    """As `bedtools intersect -c` and `closest -d` make them of BED9."""
    nine = "chr1\t5\t9\ta\t0\t+\t{}\t{}\t0\t3\nchr1\t1\t9\tb\t0\t+\t{}\t{}\t0\t3\n"
    counted, peaks = nine.format(5, 9, 1, 1), nine.format(5.5, 9, 1, 1)
    assert [id for id, _ in sequences(file(counted, "c.bed"), genome, window=2)] == [
        "a::chr1:6-8(+)",
        "b::chr1:4-6(+)",
    ], "around the middle"
    assert [id for id, _ in sequences(file(peaks, "p.bed"), genome, window=2)] == ["a::chr1:7-9(+)", "b::chr1:3-5(+)"]


def test_bed_of_a_browser_with_blanks_windows_line_ends_and_a_byte_order_mark(file: File, genome: Path) -> None:
    text = "\ufeffbrowser position chr1\r\ntrack name=x\r\n# note\r\n\r\nchr1 3 9 peak one\r\nchr2\t1\t4\r\n"
    with pytest.raises(InputError, match=r"x.bed: line 5 .* 'one'"):  # blanks part fields where no tab does
        sequences(file(text.replace("peak one", "peak 0 one"), "x.bed"), genome)
    found = sequences(file(text, "x.bed"), genome)
    assert found == [("peak::chr1:3-9", cut("chr1", 3, 9)), ("chr2:1-4", cut("chr2", 1, 4))]


@pytest.mark.parametrize("name", ["x.bed.gz", "x.bed", "peaks.txt", "peaks"])
def test_bed_is_known_by_its_lines_too_and_may_be_packed(file: File, genome: Path, name: str) -> None:
    path = file(gzip.compress(b"#chrom\tstart\tend\nchr1\t3\t9\n"), name)
    assert interval_kind(path) == "bed"
    assert sequences(path, genome) == [("chr1:3-9", cut("chr1", 3, 9))]


def test_what_is_no_bed_is_not_taken_for_it(file: File, genome: Path) -> None:
    for text in ("sequence,label\nACGT,1\n", "chrom\tstart\tend\nchr1\t3\t9\n", "", "a 1\n"):
        assert interval_kind(file(text, "x.tsv")) is None
    assert interval_kind(genome) is None and interval_kind("-") is None


def test_a_peak_has_its_summit(file: File, genome: Path) -> None:
    rows = "chr2\t100\t200\ta\t0\t.\t1\t1\t1\t7\nchr2\t100\t200\tb\t0\t-\t1\t1\t1\t-1\n"
    for name in ("x.narrowPeak", "x.bed"):  # by its ten columns
        found = sequences(file(rows, name), genome, window=10)
        assert found == [
            ("a::chr2:102-112", cut("chr2", 102, 112)),
            ("b::chr2:145-155(-)", cut("chr2", 145, 155, "-")),
        ]


GFF = """##gff-version 3
chr1\tx\tregion\t1\t9999\t.\t+\t.\tID=whole
chr1\tx\tgene\t10\t20\t.\t-\t.\tID=g1;biotype=coding
chr1\tx\tCDS\t10\t15\t.\t-\t0\tID=c1;Parent=g1;biotype=coding
chr2\tx\tgene\t5\t5\t.\t?\t.\tID=g2;biotype=rna
##FASTA
>chr1
ACGT
"""


def test_features_of_gff(file: File, genome: Path) -> None:
    path = file(GFF, "x.gff")
    one = [("g1", cut("chr1", 9, 20, "-")), ("g2", cut("chr2", 4, 5))]
    assert sequences(path, genome, feature=("gene",)) == one
    assert [id for id, _ in sequences(path, genome, feature=("CDS", "gene"))] == ["g1", "c1", "g2"]
    for column, labels in (("biotype", ["coding", "coding", "rna"]), ("feature", ["gene", "CDS", "gene"])):
        found = read_sequences(path, label=column, regions=Regions(reference=str(genome), feature=("CDS", "gene")))
        assert [record.label for record in found] == labels
    escaped = file(GFF.replace("g1", "g%3B1").replace("coding", "co%2Cding"), "y.gff")
    found = read_sequences(escaped, label="biotype", regions=Regions(reference=str(genome), feature=("gene",)))
    assert (found[0].id, found[0].label) == ("g;1", "co,ding")
    with pytest.raises(InputError, match=r"x.gff has no column 'colour' \(label\)"):
        read_sequences(path, label="colour", regions=Regions(reference=str(genome), feature=("gene",)))


def parts(kind: str, rows: list[tuple[str, int, int, str, str]]) -> str:
    """Lines of GFF: chromosome, start and end as in BED, strand, attributes."""
    return "".join(f"{c}\tx\t{kind}\t{s + 1}\t{e}\t.\t{d}\t0\t{more}\n" for c, s, e, d, more in rows)


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("x.gff3", "ID=cds1;Parent=t1"),
        ("x.gff3", "Parent=t1"),
        ("x.gtf", 'gene_id "g"; transcript_id "t1";'),
    ],
)
@settings(max_examples=30)
@given(
    cuts=st.lists(st.integers(0, 500), min_size=4, max_size=8, unique=True),
    strand=st.sampled_from("+-"),
    seed=st.randoms(use_true_random=False),
)
def test_a_coding_sequence_of_several_lines_is_joined_in_its_direction(
    genome: Path, name: str, attributes: str, cuts: list[int], strand: str, seed: Any
) -> None:
    """In whatever order the lines stand, and with others between them."""
    cuts = sorted(cuts)[: len(cuts) // 2 * 2]
    spans = list(zip(cuts[::2], cuts[1::2], strict=True))
    rows = [("chr1", *span, strand, attributes) for span in spans] + [("chr2", 7, 9, "+", attributes.replace("1", "2"))]
    seed.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(parts("CDS", rows))
        found = read_sequences(path, need_labels=False, regions=Regions(reference=str(genome), feature=("CDS",)))
    expected = "".join(cut("chr1", *span) for span in spans)
    expected = decode(reverse_complement(encode(expected))) if strand == "-" else expected
    (joined,) = [record for record in found if record.chrom == "chr1"]
    assert decode(joined.codes) == expected and joined.id in ("cds1", "t1") and joined.start is None
    assert joined.row == min(i for i, row in enumerate(rows, start=1) if row[0] == "chr1")
    assert [record.row for record in found] == sorted(record.row or 0 for record in found) and len(found) == 2


def test_lines_that_are_no_parts_of_one_feature_stand_for_themselves(
    file: File, genome: Path, warned: list[str]
) -> None:
    exons = parts("exon", [("chr1", 0, 9, "+", 'transcript_id "t";'), ("chr1", 20, 29, "+", 'transcript_id "t";')])
    assert len(sequences(file(exons, "e.gtf"), genome, feature=("exon",))) == 2 and not warned
    rows = [("chr1", 0, 9, "+", "ID=a"), ("chr1", 20, 29, "-", "ID=a"), *[("chr2", 3, 6, "+", "ID=b")] * 2]
    rows += [("chr2", 8, 9, "+", "ID=c;Parent=t"), ("chr2", 10, 12, "+", "ID=d;Parent=t")]
    assert len(sequences(file(parts("CDS", rows), "x.gff"), genome, feature=("CDS",))) == 6
    assert "2 CDS share their Parent with others" in warned[0]
    assert "2 features have parts on several strands or chromosomes, or one part twice" in warned[1]


def test_what_several_lines_of_a_feature_get(file: File, genome: Path, warned: list[str]) -> None:
    rows = [("chr1", 0, 9, "+", "ID=a;kind=x"), ("chr1", 20, 29, "+", "ID=a;kind=x"), ("chr1", 50, 59, "+", "ID=b")]
    path, feature = file(parts("CDS", rows), "x.gff"), ("CDS",)
    assert sequences(path, genome, feature=feature)[0] == ("a", cut("chr1", 0, 9) + cut("chr1", 20, 29))
    assert "1 features stand on several lines (2), which are joined to one sequence" in warned[-1]
    windows = sequences(path, genome, feature=feature, window=5)
    assert [id for id, _ in windows] == ["a::chr1:2-7(+)", "a::chr1:22-27(+)", "b"]
    assert windows[1][1] == cut("chr1", 22, 27)
    black = file("chr1\t25\t26\n", "black.bed")
    assert [id for id, _ in sequences(path, genome, feature=feature, blacklist=str(black))] == ["b"]
    assert "1 of 2 windows overlap it" in warned[-1]
    moved = read_sequences(path, need_labels=False, regions=Regions(reference=str(genome), feature=feature, jitter=3))
    assert moved[0].around is not None
    assert decode(moved[0].around) == cut("chr1", -3, 9) + cut("chr1", 20, 32)
    path = file(parts("CDS", rows).replace("kind=x", "kind=y", 1).replace("=b", "=b;kind=x"), "y.gff")
    with pytest.raises(InputError, match=r"y.gff: line 1 is a part of a feature whose lines have different labels"):
        read_sequences(path, label="kind", regions=Regions(reference=str(genome), feature=feature))


def test_ids_of_gtf(file: File, genome: Path) -> None:
    row = 'chr1\tx\texon\t1\t4\t.\t+\t.\tgene_id "g"; transcript_id "{}"; exon_number "1";\n'
    found = sequences(file(row.format("t") + row.format(""), "x.gtf"), genome, feature=("exon",))
    assert [id for id, _ in found] == ["t", "g"]


def test_an_id_that_stands_often_has_its_place(file: File, genome: Path) -> None:
    """Exons of GTF have no more than their transcript's, as coding sequences that are not joined."""
    rows = [("chr2", 0, 30, "-", 'transcript_id "t1";'), ("chr2", 50, 60, "-", 'transcript_id "t1";')]
    path = file(parts("exon", [*rows, ("chr1", 3, 9, "+", 'transcript_id "t2";')]), "x.gtf")
    assert [id for id, _ in sequences(path, genome, feature=("exon",))] == [
        "t1::chr2:0-30(-)",
        "t1::chr2:50-60(-)",
        "t2",
    ]
    mixed = file(parts("exon", rows) + parts("CDS", rows), "y.gtf")
    found = [id for id, _ in sequences(mixed, genome, feature=("exon", "CDS"))]
    assert found == ["t1::chr2:0-30(-)", "t1::chr2:50-60(-)", "t1::chr2:0-60(-)"]


@pytest.mark.parametrize("more", ["", ";gene_id=g", ";Name=p"])
def test_a_coding_sequence_of_several_transcripts_is_a_part_of_each(
    file: File, genome: Path, warned: list[str], more: str
) -> None:
    spans = [(10, 19, "t2,t3"), (30, 42, "t2"), (33, 42, "t3"), (50, 56, "t2, t3,")]
    path = file(parts("CDS", [("chr1", s, e, "-", f"Parent={of}{more}") for s, e, of in spans]), "x.gff3")
    expected = [
        (id, "".join(cut("chr1", s, e, "-") for s, e, of in reversed(spans) if id in of)) for id in ("t2", "t3")
    ]
    assert sequences(path, genome, feature=("CDS",)) == expected
    assert "2 features stand on several lines (4)" in warned[-1]
    places = read_places(path, need_labels=False, regions=Regions(feature=("CDS",)))
    assert places["_line"].to_list() == [1, 2, 3, 4]


def test_what_is_not_joined_stands_for_itself_for_each_transcript(file: File, genome: Path) -> None:
    rows = [("chr1", 10, 19, "-", "Parent=t2,t3"), ("chr2", 30, 42, "+", "Parent=t2,t3")]
    found = sequences(file(parts("CDS", rows), "x.gff3"), genome, feature=("CDS",))
    assert found == [
        (f"{id}::{chrom}:{s}-{e}({strand})", cut(chrom, s, e, strand))
        for chrom, s, e, strand, _ in rows
        for id in ("t2", "t3")
    ]


GRANGES = '"seqnames","start","end","width","strand"\n"chr2",101,110,{},"-"\n"chr1",1,1,{},"*"\n'


def test_a_table_of_granges_counts_from_one(file: File, genome: Path, warned: list[str]) -> None:
    closed = file(GRANGES.format(10, 1), "x.csv")
    assert sequences(closed, genome) == [
        ("chr2:100-110(-)", cut("chr2", 100, 110, "-")),
        ("chr1:0-1", cut("chr1", 0, 1)),
    ]
    (told,) = warned
    assert "x.csv: width is end - start + 1 in every row" in told and "counted from 1" in told
    with pytest.raises(InputError, match="row 1 has the start 0, and a table of such widths is counted from 1"):
        sequences(file("chrom,start,end,width\nchr1,0,9,10\n", "z.csv"), genome)
    warned.clear()
    for rows in ("chr2,101,110,9,-", "chr2,101,110,9,-\nchr2,1,3,3,-", "chr2,101,110,,-"):
        path = file(f"seqnames,start,end,width,strand\n{rows}\n", "y.csv")
        assert sequences(path, genome)[0] == ("chr2:101-110(-)", cut("chr2", 101, 110, "-"))
    assert not warned


def test_a_table_of_intervals_has_labels_and_ids(file: File, genome: Path, tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"name": ["a", "b"], "start": [3, 5], "end": [9, 8], "chrom": ["chr1"] * 2, "label": [1, 0], "line": [7, 7]}
    )
    table.write_parquet(tmp_path / "x.parquet")
    table.write_csv(tmp_path / "x.csv")
    for name in ("x.parquet", "x.csv"):
        found = read_sequences(tmp_path / name, regions=Regions(reference=str(genome)))
        assert [(r.id, decode(r.codes), r.label) for r in found] == [
            ("a", cut("chr1", 3, 9), "1"),
            ("b", cut("chr1", 5, 8), "0"),
        ]


def test_labels_of_bed_are_a_column_or_a_table_of_its_names(file: File, genome: Path) -> None:
    path, regions = file("chr1\t3\t9\ta\nchr1\t9\t19\tb\n", "x.bed"), Regions(reference=str(genome))
    assert [r.label for r in read_sequences(path, label="name", regions=regions)] == ["a", "b"]
    labels = file("id,label\nb,0\na,1\n", "labels.csv")
    assert [r.label for r in read_sequences(path, labels=labels, regions=regions)] == ["1", "0"]


def test_a_folder_of_one_table_a_class_as_genomic_benchmarks_has_them(tmp_path: Path, genome: Path) -> None:
    for label, start in (("negative", 30), ("positive", 300)):
        rows = f"id,region,start,end,strand\n7,chr1,{start},{start + 20},-\n8,chr2,{start},{start + 10},\n"
        (tmp_path / f"{label}.csv.gz").write_bytes(gzip.compress(rows.encode()))
    found = read_sequences(tmp_path, regions=Regions(reference=str(genome)))
    assert [(r.id, decode(r.codes), r.label) for r in found] == [
        (id, text, label)
        for label, start in (("negative", 30), ("positive", 300))
        for id, text in (("7", cut("chr1", start, start + 20, "-")), ("8", cut("chr2", start, start + 10)))
    ]


# --- windows


def test_what_the_blacklist_touches_is_left_out_and_counted(file: File, genome: Path, warned: list[str]) -> None:
    path = file("".join(f"chr1\t{i * 10}\t{i * 10 + 10}\n" for i in range(12)), "x.bed")
    black = file("1\t95\t96\n1\t15\t40\n1\t20\t21\nchrZ\t1\t2\n", "black.bed")
    found = sequences(path, genome, blacklist=str(black))
    assert [id for id, _ in found] == [f"chr1:{i * 10}-{i * 10 + 10}" for i in (0, 4, 5, 6, 7, 8, 10, 11)]
    assert any("black.bed: 4 of 12 windows overlap it and are left out" in told for told in warned)
    assert len(sequences(path, genome, blacklist=str(file("chrZ\t1\t2\n", "none.bed")))) == 12
    assert "none of its chromosomes is in" in warned[-1]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 100)), min_size=1, max_size=8), st.integers(1, 60))
def test_the_blacklist_by_comparing_each_pair(genome: Path, black: list[tuple[int, int]], window: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bed, list_ = Path(folder, "x.bed"), Path(folder, "black.bed")
        starts = [c - window // 2 for c in range(0, 440, 11)]  # the first reach beyond the chromosome
        bed.write_text("".join(f"chr1\t{c}\t{c + 1}\n" for c in range(0, 440, 11)))
        list_.write_text("".join(f"chr1\t{s}\t{s + n}\n" for s, n in black))
        kept = [s for s in starts if not any(s < b + n and b < s + window for b, n in black)]
        if kept:
            found = sequences(bed, genome, window=window, blacklist=str(list_))
            assert [id for id, _ in found] == [f"chr1:{s}-{s + window}" for s in kept]
        else:
            with pytest.raises(InputError, match="no window is left"):
                sequences(bed, genome, window=window, blacklist=str(list_))


def test_windows_of_too_much_n_are_left_out_and_counted(file: File, warned: list[str]) -> None:
    fasta = file(">a\nACGTNNNNACGT\n", "n.fa")
    path = file("a\t0\t4\na\t3\t7\na\t2\t6\na\t4\t8\n", "x.bed")
    assert [text for _, text in sequences(path, fasta, max_n=0.5)] == ["ACGT", "GTNN"]
    assert warned == [f"{path}: 2 windows are left out, with more than 0.5 of them N."]
    with pytest.raises(InputError, match="no window is left"):
        sequences(file("a\t4\t8\n", "y.bed"), fasta, max_n=0.5)


def test_a_stride_needs_a_window(file: File, genome: Path) -> None:
    with pytest.raises(ConfigError, match=r"x.bed: stride 5 .* Give window too"):
        sequences(file("chr1\t1\t2\n", "x.bed"), genome, stride=5)


def test_jitter_moves_training_windows_alone_by_seed(file: File, genome: Path) -> None:
    path = file("chr1\t100\t130\ta\t0\t+\nchr1\t200\t230\tb\t0\t-\n", "x.bed")
    plain, moved = (
        read_sequences(path, label="name", regions=Regions(reference=str(genome), jitter=jitter)) for jitter in (0, 6)
    )
    for one, other, (start, strand) in zip(plain, moved, ((100, "+"), (200, "-")), strict=True):
        assert decode(one.codes) == decode(other.codes) == cut("chr1", start, start + 30, strand)
    items = LabelledSequences(moved, ("a", "b"), False)
    seen = set()
    for seed in range(100):
        for number, (start, strand) in enumerate(((100, "+"), (200, "-"))):
            text = decode(items.item(number, np.random.default_rng(seed))["tokens"])
            assert text == decode(items.item(number, np.random.default_rng(seed))["tokens"])
            (shift,) = [d for d in range(-6, 7) if cut("chr1", start + d, start + d + 30, strand) == text]
            seen.add((number, shift))
        assert decode(items.item(0, None)["tokens"]) == cut("chr1", 100, 130)
    assert len(seen) == 26  # 100 draws of 13 miss one once in 200 times; these seeds do not


def test_a_source_reads_training_and_validation_on_one_genome(file: File, genome: Path) -> None:
    rows = [f"chr{1 + i % 2}\t{i * 9}\t{i * 9 + 9}\t{'ab'[i % 2]}" for i in range(20)]
    train, validation = file("\n".join(rows[:14]), "t.bed"), file("\n".join(rows[14:]), "v.bed")
    regions = Regions(reference=str(genome), window=12, jitter=3)
    source = SequenceSource(train=str(train), validation=str(validation), label="name", regions=regions)
    task, items, held = source.parts(Classification(), 0)
    assert task.classes == ("a", "b") and (len(items), len(held)) == (14, 6)
    assert {str(genome), str(train), str(validation)} == {str(file) for file in source.files()}
    assert held.item(0, None)["tokens"].shape == (12,)
    assert open_reference(genome) is open_reference(genome)


# --- real data


@pytest.fixture(scope="module")
def genomes(real: Path) -> Iterator[Path]:
    yield real / "genomics" / "genomes"


def starts(records: list[Record]) -> float:
    return float(np.mean([decode(r.codes[:3]) in ("ATG", "GTG", "TTG") for r in records]))


def test_coding_sequences_begin_with_a_start_codon(genomes: Path) -> None:
    ecoli = Regions(reference=str(genomes / "ecoli_k12_mg1655_U00096.3.fa.gz"), feature=("CDS",))
    found = list(each_sequence(genomes / "ecoli_k12_mg1655_U00096.3.gff3.gz", regions=ecoli))
    assert len(found) == 4357 and starts(found) > 0.98  # 4,379 lines, 42 of them of 20 features; measured: 0.990
    yeast = Regions(reference=str(genomes / "yeast_S288C.fa.gz"), feature=("mRNA",))
    found = list(each_sequence(genomes / "yeast_S288C.gff.gz", regions=yeast))
    assert len(found) > 5000 and starts(found) > 0.98


def test_an_annotation_of_a_longer_sequence_is_refused(genomes: Path) -> None:
    regions = Regions(reference=str(genomes / "phage_phiX174_NC_001422.1.fa.gz"), feature=("CDS",))
    with pytest.raises(InputError, match=r"line 9 ends at 5,437, beyond the end of 'NC_001422.1', which has 5,386"):
        list(each_sequence(genomes / "phage_phiX174_pseudocircular.gff.gz", regions=regions))


def test_official_intervals_give_the_official_sequences(real: Path, file: File) -> None:
    """Rows of GenomicBenchmarks with their GRCh37 places, on chr20, against the sequences that were published."""
    table = pl.read_csv(
        real / "genomics/genomic_benchmarks/sequences/human_enhancers_cohn.slice_chr20_chrX36M.csv.gz",
        infer_schema=False,
    ).filter(pl.col("chrom") == "chr20")
    places = table.select("id", "chrom", pl.col("start_b37").alias("start"), pl.col("end_b37").alias("end"), "strand")
    path = file(places.write_csv(), "x.csv")
    regions = Regions(reference=str(real / "genomics/genomes/human_b37_chr20.fa.gz"))
    found = [decode(record.codes) for record in each_sequence(path, regions=regions)]
    assert len(found) > 100 and found == table["seq"].str.to_uppercase().to_list()
