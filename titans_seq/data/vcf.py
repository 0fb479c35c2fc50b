"""VCF: each line strictly read, and written again as it was, with scores in its INFO.

Format: The Variant Call Format Specification, VCFv4.4, sections 1.3 to 1.6; BGZF: the SAM specification, section 4.1.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple, NoReturn

from titans_seq.data.compressed import SNIFFED, UTF8_BOM, chunks, decoded, looks_like, shown
from titans_seq.data.record import IUPAC, quoted
from titans_seq.data.write import PartFile, Row, shown_controls
from titans_seq.errors import InputError, warn

COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")
MATCH = "REF_MATCH"  # the flag of lines whose REF stands in the genome

_LINE_END = re.compile(rb"\r\n|\n|\r")
_PLACE = re.compile(r"0|[1-9][0-9]{0,14}")
_KNOWN = re.compile(r"[ACGT]+", re.IGNORECASE)
_KINDS = {  # alleles that are no known sequence
    "of N or IUPAC codes": re.compile(rf"[ACGTN{IUPAC}]+", re.IGNORECASE),
    "overlapping deletions (*)": re.compile(r"\*"),
    "symbolic": re.compile(r"[ACGTN]*<[^<>\s]+>", re.IGNORECASE),  # behind bases: a contig that is inserted there
    "breakends": re.compile(  # with a . where there is no base: beyond an end of the chromosome, or without a mate
        r"(?:[ACGTN]*|\.)[\[\]][^\[\]\s]+[\[\]](?:[ACGTN]*|\.)|\.[ACGTN]+|[ACGTN]+\.", re.IGNORECASE
    ),
    "missing (.)": re.compile(r"\."),
}
_BLOCK = 0xFF00  # bytes of text in a block of BGZF


class Variant(NamedTuple):
    """One line of a VCF; ``start`` is 0-based, and -1 at the telomere before the first base."""

    line: int  # counted from 1
    fields: tuple[str, ...]  # as they stand
    chrom: str
    start: int
    ref: str
    alts: tuple[str, ...]


def unscorable(allele: str) -> str | None:
    """What kind of allele has no known sequence, so that nothing can be said of it; None for A, C, G, T.

    Raises:
        ValueError: if it is no allele.
    """
    if _KNOWN.fullmatch(allele):
        return None
    for kind, form in _KINDS.items():
        if form.fullmatch(allele):
            return kind
    raise ValueError(allele)


def _lines(path: Path, doubt: Callable[[str], None]) -> Iterator[bytes]:
    """Lines without their ends, which may be LF, CRLF or CR."""
    carry, begun = b"", False
    for chunk in chunks(path, doubt):
        data = carry + (chunk if begun else chunk.removeprefix(UTF8_BOM))
        begun = True
        whole = data.removesuffix(b"\r")  # perhaps half of a line end
        *lines, rest = _LINE_END.split(whole)
        carry = rest + data[len(whole) :]
        yield from lines
    if carry:
        yield carry.removesuffix(b"\r")


def _refuse_no_vcf(name: str, line: bytes) -> NoReturn:
    what = looks_like(line[:SNIFFED]) or f"text; its first line is {quoted(decoded(line))}"
    raise InputError(f"{name} is not VCF: no line '#CHROM' stands before its rows. It looks like {what}.")


def _variant(number: int, line: bytes, width: int, name: str) -> Variant:
    """Read one line that should have ``width`` columns."""
    where = f"{name}: line {number:,}"
    fields = tuple(decoded(line).split("\t"))
    if len(fields) != width:
        raise InputError(
            f"{where} has {len(fields)} columns, and the header {width}. Columns stand apart by one tab; was the line "
            "cut off?"
        )
    chrom, place, _, ref, alt = fields[:5]
    if not chrom.strip():
        raise InputError(f"{where} has no CHROM. Name the chromosome.")
    if not _PLACE.fullmatch(place):
        raise InputError(f"{where} has the POS {quoted(place)}, which is no place. Places are counted from 1.")
    alts = tuple(alt.split(","))
    try:
        if unscorable(ref) not in (None, next(iter(_KINDS))):
            raise ValueError(ref)
        for allele in alts:
            unscorable(allele)
    except ValueError as error:
        column = "REF" if error.args[0] == ref else "ALT"
        raise InputError(
            f"{where} has the {column} {quoted(error.args[0])}, which is no allele. An allele is of A, C, G, T and N"
            f"{'' if column == 'REF' else ', or *, <NAME>, a breakend or .'}."
        ) from None
    if place == "0" and None in map(unscorable, alts) and unscorable(ref) is None:
        raise InputError(
            f"{where} has the POS '0', which is no place of a base: it is the telomere. Places are counted from 1."
        )
    return Variant(number, fields, chrom, int(place) - 1, ref, alts)


def read_vcf(path: Path, doubt: Callable[[str], None] = warn) -> tuple[list[str], Iterator[Variant]]:
    """Read a plain, gzip or bgzip VCF: the lines of its header, and one by one its variants in their order.

    Args:
        path: the file.
        doubt: hears of what is accepted with one.

    Raises:
        InputError: if it is no VCF, or a line is none of one, with its number.
    """
    name, header = shown(path), list[str]()
    lines = enumerate(_lines(path, doubt), start=1)
    for _, line in lines:
        if not line.startswith(b"#") or line.startswith(b"#CHROM"):
            break
        header.append(decoded(line))
    else:
        raise InputError(f"{name} is empty: it has no line '#CHROM', with which the rows of a VCF begin.")
    columns = decoded(line).split("\t")
    if not line.startswith(b"#CHROM"):
        _refuse_no_vcf(name, line)
    if tuple(columns[: len(COLUMNS)]) != COLUMNS:
        raise InputError(
            f"{name}: line {len(header) + 1:,} should name the columns {' '.join(COLUMNS)}, with tabs between them; "
            f"it is {quoted(decoded(line))}."
        )
    header.append(decoded(line))
    return header, (_variant(number, line, len(columns), name) for number, line in lines if line)


# --- writing


def info_ids(names: Sequence[str]) -> dict[str, str]:
    """Ids of INFO fields for the names of scores: letters, digits and _ alone, each its own."""
    ids: dict[str, str] = {}
    for name in names:
        plain = "TITANS_" + re.sub(r"[^0-9A-Za-z_]", "_", name).upper()
        numbered = (f"{plain}_{n}" for n in count(2))
        ids[name] = next(one for one in chain([plain], numbered) if one not in ids.values())
    return ids


def described(header: Sequence[str], fields: Mapping[str, str], source: str) -> str:
    """The header with the INFO fields that are added, each with its description, and where they are from."""
    *lines, columns = header
    own = re.compile(rf"##INFO=<ID=({'|'.join([*map(re.escape, fields), MATCH])}),")
    kept = [line for line in lines if not own.match(line)]
    if not kept or not kept[0].startswith("##fileformat="):
        kept.insert(0, "##fileformat=VCFv4.2")
    more = [
        f'##INFO=<ID={name},Number=A,Type=Float,Description="{_in_quotes(about)}">' for name, about in fields.items()
    ]
    match = f'##INFO=<ID={MATCH},Number=0,Type=Flag,Description="REF is what the reference genome has there">'
    return "".join(shown_controls_but_tabs(line) + "\n" for line in [*kept, *more, match, f"##{source}", columns])


def _in_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def shown_controls_but_tabs(line: str) -> str:
    """A line whose control characters other than tabs are written out."""
    return "\t".join(map(shown_controls, line.split("\t")))


def annotated(variant: Variant, scores: Mapping[str, Sequence[float | None]], match: bool) -> str:
    """The variant's line with ``scores``, a number an ALT by INFO id, in place of earlier ones of these ids.

    A score that is not there is ``.``, and an id without any score is left out.
    """
    column = COLUMNS.index("INFO")
    old = [entry for entry in variant.fields[column].split(";") if entry not in ("", ".")]
    kept = [entry for entry in old if entry.partition("=")[0] not in (*scores, MATCH)]
    more = [
        f"{name}={','.join('.' if value is None else f'{value:.6g}' for value in values)}"
        for name, values in scores.items()
        if any(value is not None for value in values)
    ]
    info = ";".join([*kept, *more, *([MATCH] if match else [])]) or "."
    fields = (*variant.fields[:column], info, *variant.fields[column + 1 :])
    return "\t".join(map(shown_controls, fields))


class VcfFile(PartFile):
    """Lines of a VCF behind its header: rows with ``line``."""

    suffixes = (".vcf", ".vcf.gz")

    def __init__(self, out: Path, size: int = 0, header: str = ""):
        super().__init__(out, size)
        self.header = header

    def encode(self, rows: list[Row]) -> bytes:
        """The lines."""
        return "".join(f"{row['line']}\n" for row in rows).encode()

    def convert(self, draft: Path) -> int:
        """Header and lines; as BGZF, which tabix can index, in a file that ends in .gz."""
        packed = self.out.suffix == ".gz"
        with self.part.open("rb") as lines, draft.open("wb") as file:
            count = sum(1 for _ in lines)
            lines.seek(0)
            for text in (io.BytesIO(self.header.encode()), lines):
                while piece := text.read(_BLOCK):
                    file.write(_bgzf(piece) if packed else piece)
            if packed:
                file.write(_bgzf(b""))  # the mark of the end
        return count


def _bgzf(data: bytes) -> bytes:
    """One block of BGZF: a gzip member whose extra field BC tells its own size."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    head = struct.pack("<4BI2BH2B2H", 0x1F, 0x8B, 8, 4, 0, 0, 0xFF, 6, 0x42, 0x43, 2, len(packed) + 25)
    return head + packed + struct.pack("<2I", zlib.crc32(data), len(data))
