"""VCF: what is read, what is refused and how it is told, and that what is written is what was read."""

import gzip
from pathlib import Path

import pytest

from titans_seq.data.vcf import VcfFile, annotated, described, info_ids, read_vcf, unscorable
from titans_seq.errors import InputError

HEAD = "##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
ROW = "chr1\t7\trs1\tA\tC,AT\t.\tPASS\tAC=1;DB\n"


def read(tmp_path: Path, data: str | bytes) -> tuple[list[str], list]:
    (tmp_path / "x.vcf").write_bytes(data.encode() if isinstance(data, str) else data)
    header, variants = read_vcf(tmp_path / "x.vcf")
    return header, list(variants)


@pytest.mark.parametrize(
    "data",
    [
        (HEAD + ROW).encode(),
        (HEAD + ROW).replace("\n", "\r\n").encode(),
        (HEAD + ROW).replace("\n", "\r").encode(),
        b"\xef\xbb\xbf" + (HEAD + ROW).rstrip().encode(),
        gzip.compress((HEAD + ROW).encode()),
        gzip.compress(HEAD.encode()) + gzip.compress((ROW + "\n").encode()),
    ],
    ids=["lf", "crlf", "cr", "bom, no end", "gzip", "members, blank line"],
)
def test_a_variant_is_read(tmp_path: Path, data: bytes) -> None:
    header, (variant,) = read(tmp_path, data)
    assert header == HEAD.splitlines()
    assert variant[2:] == ("chr1", 6, "A", ("C", "AT")) and variant.line == 3
    assert variant.fields == tuple(ROW.rstrip().split("\t"))


def test_samples_are_columns_too(tmp_path: Path) -> None:
    _, (variant,) = read(tmp_path, HEAD.rstrip() + "\tFORMAT\tone\n" + ROW.rstrip() + "\tGT\t0/1\n")
    assert variant.fields[-2:] == ("GT", "0/1")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "is empty: it has no line '#CHROM'"),
        ("##fileformat=VCFv4.3\n", "is empty: it has no line '#CHROM'"),
        ("##fileformat=VCFv4.3\n" + ROW, "is not VCF: no line '#CHROM' stands before its rows. It looks like text"),
        (">a\nACGT\n", "is not VCF: .*'>a'"),
        ("<html>", "It looks like HTML"),
        ("##fileformat=VCFv4.3\n".encode("utf-16"), "UTF-16"),
        (gzip.compress(b"BCF\x02\x02" + bytes(9), mtime=0), "BCF; write it as VCF with `bcftools view`"),
        (HEAD.replace("\t", " ") + ROW, "line 2 should name the columns #CHROM POS ID"),
        (HEAD + ROW.replace("\t", " "), "line 3 has 1 columns, and the header 8"),
        (HEAD + ROW + "chr1\t8\tx", "line 4 has 3 columns, and the header 8.*was the line cut off"),
        (HEAD + ROW.replace("chr1", ""), "line 3 has no CHROM"),
        (HEAD + ROW.replace("7", "x"), "line 3 has the POS 'x'"),
        (
            HEAD + ROW.replace("7", "0"),
            "line 3 has the POS '0', which is no place of a base: it is the telomere. Places",
        ),
        (HEAD + ROW.replace("7", "00"), "line 3 has the POS '00', which is no place. Places are counted from 1"),
        (HEAD + ROW.replace("7", "-7"), "line 3 has the POS '-7'"),
        (HEAD + ROW.replace("A\tC", "E\tC"), "line 3 has the REF 'E', which is no allele"),
        (HEAD + ROW.replace("A\tC", ".\tC"), "line 3 has the REF '.', which is no allele"),
        (HEAD + ROW.replace("A\tC", "<DEL>\tC"), "line 3 has the REF '<DEL>', which is no allele"),
        (HEAD + ROW.replace("C,AT", "C,"), "line 3 has the ALT '', which is no allele"),
        (HEAD + ROW.replace("C,AT", "C/T"), "line 3 has the ALT 'C/T', which is no allele"),
        *(
            (HEAD + ROW.replace("C,AT", alt), "line 3 has the ALT .* which is no allele")
            for alt in ("C<", "C<>", "C<a", "<a>>", "..[1:4[", ".[1:4", ".[1:4[.x", "[]", "..", ".C.", "x<ctg1>")
        ),
    ],
)
def test_what_is_no_vcf_is_told_by_line(tmp_path: Path, data: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=f"x.vcf.*{says}" if "line" in says else says):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("allele", "kind"),
    [
        ("acgT", None),
        ("N", "of N or IUPAC codes"),
        ("ARG", "of N or IUPAC codes"),
        ("*", "overlapping deletions (*)"),
        ("<DEL:ME>", "symbolic"),
        ("<*>", "symbolic"),
        ("<INS:ME>", "symbolic"),
        ("C<ctg1>", "symbolic"),
        ("G]17:198982]", "breakends"),
        (".[chr1:4[", "breakends"),
        ("]chr1:4].", "breakends"),
        ("C[<ctg1>:7[", "breakends"),
        (".TGCA", "breakends"),
        ("]13:123456]T", "breakends"),
        ("C.", "breakends"),
        (".", "missing (.)"),
    ],
)
def test_alleles_without_a_known_sequence(allele: str, kind: str | None) -> None:
    assert unscorable(allele) == kind


@pytest.mark.parametrize(("ref", "alt"), [("N", ".[13:123457["), ("N", "C"), ("A", "<DEL>")])
def test_before_the_first_base_is_the_telomere(tmp_path: Path, ref: str, alt: str) -> None:
    _, (variant,) = read(tmp_path, HEAD + f"chr1\t0\t.\t{ref}\t{alt}\t.\tPASS\t.\n")
    assert variant[2:] == ("chr1", -1, ref, (alt,))


def test_a_line_keeps_what_it_had_and_gets_its_scores(tmp_path: Path) -> None:
    row = "chr1\t7\t=x\x1b\tA\tC,AT\t.\tPASS\tAC=1;TITANS_LLR=9,9;REF_MATCH;DB\tGT\t0/1\n"
    _, (variant,) = read(tmp_path, HEAD.rstrip() + "\tFORMAT\ts\n" + row)
    line = annotated(variant, {"TITANS_LLR": [-1.23456789, None], "TITANS_L2": [None, None]}, match=True)
    assert line == "chr1\t7\t=x\\x1b\tA\tC,AT\t.\tPASS\tAC=1;DB;TITANS_LLR=-1.23457,.;REF_MATCH\tGT\t0/1"
    _, (bare,) = read(tmp_path, HEAD + ROW.replace("AC=1;DB", "."))
    assert annotated(bare, {"TITANS_LLR": [None, None]}, match=False).endswith("\t.")


def test_a_header_defines_each_field_once() -> None:
    given = ["##fileformat=VCFv4.3", '##INFO=<ID=TITANS_LLR,Number=1,Type=Float,Description="x">', "#CHROM\tPOS"]
    text = described(given, {"TITANS_LLR": 'a "b" \\'}, "titans_seq=1")
    assert text.splitlines() == [
        "##fileformat=VCFv4.3",
        '##INFO=<ID=TITANS_LLR,Number=A,Type=Float,Description="a \\"b\\" \\\\">',
        '##INFO=<ID=REF_MATCH,Number=0,Type=Flag,Description="REF is what the reference genome has there">',
        "##titans_seq=1",
        "#CHROM\tPOS",
    ]
    assert described(["#CHROM"], {}, "s").startswith("##fileformat=VCFv4.2\n")


def test_ids_of_info_fields_are_letters_and_each_its_own() -> None:
    found = info_ids(["delta_p_a b", "delta_p_a-b", "delta_p_A B", "llr"])
    assert list(found.values()) == ["TITANS_DELTA_P_A_B", "TITANS_DELTA_P_A_B_2", "TITANS_DELTA_P_A_B_3", "TITANS_LLR"]
    found = info_ids(["rep_2", "rep", "REP"])
    assert list(found.values()) == ["TITANS_REP_2", "TITANS_REP", "TITANS_REP_3"]


def test_bgzip_is_gzip_in_blocks_that_tell_their_size(tmp_path: Path) -> None:
    lines = [f"chr1\t{i}\t{'x' * (i % 97)}" for i in range(5000)]
    for name in ("x.vcf", "x.vcf.gz"):
        file = VcfFile(tmp_path / name, header=HEAD * 2000)
        file.write([{"line": line} for line in lines])
        assert file.finish() == len(lines)
    data = (tmp_path / "x.vcf.gz").read_bytes()
    assert (
        gzip.decompress(data) == (tmp_path / "x.vcf").read_bytes() == (HEAD * 2000 + "\n".join(lines) + "\n").encode()
    )
    sizes, at = [], 0
    while at < len(data):
        assert data[at : at + 4] == b"\x1f\x8b\x08\x04" and data[at + 12 : at + 16] == b"BC\x02\x00"
        sizes.append(int.from_bytes(data[at + 16 : at + 18], "little") + 1)
        at += sizes[-1]
    assert at == len(data) and len(sizes) > 3
    # the end-of-file marker of the SAM specification, section 4.1.2
    assert data[-28:].hex() == "1f8b08040000000000ff0600424302001b0003000000000000000000"
