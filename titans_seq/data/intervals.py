"""Places on a genome: BED, narrowPeak, GFF3, GTF, and tables with chrom, start and end; bad rows are told by line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import polars as pl

from titans_seq.data.aliases import several
from titans_seq.data.compressed import UTF8_BOM, chunks, shown
from titans_seq.data.record import STRICT, Judge, quoted
from titans_seq.data.table import column_called, listed, read_lines
from titans_seq.errors import InputError

CHROMS = ("chrom", "chr", "chromosome", "seqid", "seqname", "seqnames", "region")
STARTS = ("start", "chromstart", "chrom_start")
ENDS = ("end", "stop", "chromend", "chrom_end")
STRANDS = ("strand",)
LINE = "_line"  # the column that holds where a row stood in its file, counted from 1
PART = "_part"  # the column that tells which rows are parts of one feature: a number that grows with its first row
CIRCULAR = "_circular"  # the column that tells whether GFF3 calls the row's chromosome circular
WIDTHS = ("width",)

_BED = ("chrom", "start", "end", "name", "score", "strand", "thick_start", "thick_end", "rgb")
_PEAK = (*_BED[:6], "signal", "p_value", "q_value", "summit")  # narrowPeak: BED6+4
_GFF = ("chrom", "source", "feature", "start", "end", "score", "strand", "phase", "attributes")
SUFFIXES = {".bed": "bed", ".narrowpeak": "bed", ".broadpeak": "bed", ".gff": "gff", ".gff3": "gff", ".gtf": "gff"}
_NO_DATA = re.compile(r"#|(?:track|browser)(?:\s|$)|\s*$")
_DIGITS = r"^[0-9]{1,15}$"

Kind = Literal["bed", "gff"]


def interval_kind(path: Path | str) -> Kind | None:
    """Whether a file is BED or GFF: by its suffix, else by its first line of data."""
    path = Path(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in SUFFIXES:
        return "bed" if SUFFIXES[suffix] == "bed" else "gff"
    if not path.is_file() or suffix == ".parquet":
        return None
    head = next(iter(chunks(path, lambda _: None)), b"").removeprefix(UTF8_BOM).decode("latin-1")
    first = next((line for line in re.split(r"\r\n|\n|\r", head[:100_000]) if not _NO_DATA.match(line)), "")
    tabs, blanks = first.split("\t"), first.split()
    if len(tabs) > 7 and all(re.match(_DIGITS, field) for field in tabs[3:5]):
        return "gff"
    is_bed = len(blanks) > 2 and all(re.match(_DIGITS, field) for field in blanks[1:3])
    return "bed" if is_bed else None


def _data_lines(path: Path | str, judge: Judge) -> pl.DataFrame:
    """Columns `LINE` and ``text`` of the lines that are neither blank nor comments."""
    lines = read_lines(path, judge, fine=("GFF",))
    kept = [(number, line) for number, line in enumerate(lines, start=1) if not _NO_DATA.match(line)]
    if not kept:
        raise InputError(f"{shown(path)} is empty: it has no interval.")
    return pl.DataFrame(kept, {LINE: pl.Int64, "text": pl.String}, orient="row")


def _fields(lines: pl.DataFrame, names: tuple[str, ...], needed: int, path: Path | str, judge: Judge) -> pl.DataFrame:
    """The tab-separated fields of ``lines`` in columns, as many as the widest has; at least ``needed`` are there."""
    parts = lines.with_columns(pl.col("text").str.split("\t").alias("parts"))
    short = pl.col("parts").list.len() < needed
    parts = refuse_rows(
        parts,
        short,
        lambda row: (
            f"has too few columns, {len(row['parts'])}: {needed} are needed at least, "
            f"{', '.join(names[:needed])}, with tabs between them"
        ),
        f"{shown(path)}: line",
        judge,
    )
    width = max((len(row) for row in parts["parts"]), default=needed)
    columns = [
        pl.col("parts").list.get(i, null_on_oob=True).str.strip_chars().alias(name)
        for i, name in enumerate(names[:width])
    ]
    return parts.select(LINE, *columns)


def read_bed(path: Path | str, judge: Judge = STRICT) -> pl.DataFrame:
    """Read BED3 to BED9 or narrowPeak (ten columns, of which the seventh and eighth are no places in the interval, as
    those of BED9 are to which a tool has added one) as text columns, with `LINE`.

    Fields stand apart by tabs, in a file without tabs by blanks. Lines of ``track``, ``browser`` and comments are
    passed over.

    Raises:
        InputError: if a line has fewer than three fields, or the file none.
    """
    lines = _data_lines(path, judge)
    if "\t" not in lines["text"][0]:
        lines = lines.with_columns(pl.col("text").str.strip_chars().str.replace_all(r"\s+", "\t"))
    peaks = lines["text"][0].count("\t") == len(_PEAK) - 1 and not _has_thick_parts(lines["text"])
    return _fields(lines, _PEAK if peaks else _BED, 3, path, judge)


def _has_thick_parts(lines: pl.Series) -> bool:
    """Whether columns 7 and 8 of all lines are places in their interval: BED9, and what a tool has put behind it."""
    fields = lines.str.split("\t")
    start, end, first, last = (fields.list.get(n, null_on_oob=True).cast(pl.Int64, strict=False) for n in (1, 2, 6, 7))
    inside = (start <= first) & (first <= last) & (last <= end)
    return bool(inside.fill_null(False).all())


def _attribute(name: str) -> pl.Expr:
    """The value of an attribute of GFF3 (``name=value;``) or GTF (``name "value";``); null where there is none.

    As it is written: GFF3 has %3B for a ; inside a value, see `_decoded`.
    """
    key = re.escape(name)
    text = pl.col("attributes")
    gff3 = text.str.extract(rf"(?:^|;)\s*{key}=([^;]*)", 1)
    gtf = text.str.extract(rf'(?:^|;)\s*{key} "([^"]*)"', 1)
    value = pl.coalesce(gff3, gtf)
    return pl.when(value != "").then(value)


def _decoded(values: pl.Series) -> pl.Series:
    """Values of attributes without the URL escapes of GFF3."""
    return values.map_elements(unquote, pl.String) if values.str.contains("%", literal=True).any() else values


def _of_each_parent(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows with a column ``parent``; a CDS without an ID stands once for each, since GFF3 permits ``Parent=t2,t3``."""
    unnamed = pl.coalesce(_attribute("ID"), _attribute("transcript_id")).is_null()
    each = _attribute("Parent").str.split(",").list.eval(pl.element().str.strip_chars().replace("", None).drop_nulls())
    each = each.list.unique(maintain_order=True)
    parents = pl.when((pl.col("feature") == "CDS") & unnamed).then(each).otherwise(pl.concat_list(_attribute("Parent")))
    return frame.with_columns(parents.alias("parent")).explode("parent")


def _numbered(frame: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Rows whose `PART`, one of the ``keys``, is a number: one for all of the same keys; each row without has its own.

    It is that of their first row, not its `LINE`: that may stand for several parents.
    """
    at = pl.int_range(len(frame), dtype=pl.Int64, eager=True).alias("at")
    of_first = pl.when(pl.col(PART).is_null()).then("at").otherwise(pl.col("at").first().over(keys))
    return frame.with_columns(at).with_columns(of_first.alias(PART)).drop("at")


def read_gff(
    path: Path | str, features: tuple[str, ...], attribute: str | None = None, judge: Judge = STRICT
) -> tuple[pl.DataFrame, pl.Series]:
    """Read the rows of some kinds of feature of a GFF3 or GTF file, as text columns with `LINE`, and their ids.

    Rows of one kind and one ID are parts of one feature (GFF3 specification: "discontinuous features"), which `PART`
    tells. So are coding sequences (CDS) without an ID, as GTF and some GFF3 have them, of one transcript; what is of
    several is a row for each. Those of one transcript with IDs of their own are features of their own, which is told:
    they may be alternatives.

    Args:
        path: plain, gzip or bgzip; sequence behind ``##FASTA`` is passed over.
        features: kinds to read, of the third column.
        attribute: one that becomes a column of its own, unless a column is so called.
        judge: what to do about bad lines.

    Raises:
        InputError: if a line has fewer than eight fields, or there is no such feature.
    """
    lines = _data_lines(path, judge)
    sequence = lines.filter(pl.col("text").str.starts_with(">"))
    if len(sequence):
        lines = lines.filter(pl.col(LINE) < sequence[LINE][0])
    frame = _fields(lines, _GFF, 8, path, judge)
    if "attributes" not in frame.columns:
        frame = frame.with_columns(attributes=pl.lit(None, pl.String))
    circular = frame.filter(_attribute("Is_circular") == "true")["chrom"].unique().to_list()
    frame = frame.with_columns(pl.col("chrom").is_in(circular).alias(CIRCULAR))
    counts = frame["feature"].value_counts(sort=True)
    there = several(f"{kind} ({count:,})" for kind, count in counts.iter_rows())
    if not features:
        raise InputError(f"{shown(path)} has features of several kinds. Say which to read with --feature: {there}.")
    if missing := [kind for kind in features if kind not in counts["feature"]]:
        raise InputError(f"{shown(path)} has no feature {quoted(missing[0])}; it has {there}.")
    frame = _of_each_parent(frame.filter(pl.col("feature").is_in(features)))
    coding = pl.when(pl.col("feature") == "CDS").then(pl.coalesce(_attribute("transcript_id"), pl.col("parent")))
    frame = frame.with_columns(pl.coalesce(_attribute("ID"), coding).alias(PART))
    alone = (pl.col("feature") == "CDS") & (_attribute("ID").n_unique().over(_attribute("Parent")) > 1)
    if count := len(frame.filter(alone & _attribute("Parent").is_not_null())):
        judge.doubt(
            f"{shown(path)}: {count:,} CDS share their Parent with others and have IDs of their own, so that they are "
            "not joined to one sequence."
        )
    shared = frame.filter(pl.col(LINE).is_duplicated())[PART].unique().to_list()
    transcript = pl.when(pl.col(PART).is_in(shared)).then(PART)  # the gene's name would be that of several
    own, of_gene = (_attribute("ID"), _attribute("transcript_id")), (_attribute("gene_id"), _attribute("Name"))
    ids = _decoded(frame.select(pl.coalesce(*own, transcript, *of_gene, PART).alias("id"))["id"])
    frame = _numbered(frame.drop("parent"), "feature", PART)
    if attribute is not None and attribute not in frame.columns:
        values = _decoded(frame.select(_attribute(attribute).alias(attribute))[attribute])
        frame = frame.with_columns(values) if values.null_count() < len(values) else frame
    return frame, ids


def _number(column: str) -> pl.Expr:
    """A column as whole numbers, null where it has none; Parquet may have them as fractions."""
    text = pl.col(column).cast(pl.String).str.strip_chars()
    return text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)


def _is_closed(table: pl.DataFrame, start: str, end: str) -> bool:
    """Whether the widths of a table say that starts count from 1 and ends are inside, as of R's GRanges."""
    width = column_called(table, WIDTHS)
    if width is None:
        return False
    rows = table.select(_number(start).alias("start"), _number(end).alias("end"), _number(width).alias("width"))
    rows = rows.drop_nulls()
    return len(rows) > 0 and rows.select((pl.col("width") == pl.col("end") - pl.col("start") + 1).all()).item()


def spans_of(table: pl.DataFrame) -> list[tuple[int, int] | None]:
    """Start and end of each row, None where it has none; nothing is refused, for tables that have sequences too."""
    chrom, start, end = (column_called(table, names) for names in (CHROMS, STARTS, ENDS))
    if chrom is None or start is None or end is None:
        return [None] * len(table)
    first = _number(start) - int(_is_closed(table, start, end))
    there = pl.col(chrom).is_not_null() & (first < _number(end))
    rows = table.select(there.fill_null(False).alias("there"), first.alias("start"), _number(end).alias("end"))
    return [(first, last) if placed else None for placed, first, last in rows.iter_rows()]


def has_intervals(table: pl.DataFrame) -> bool:
    """Whether a table has columns of chromosome, start and end."""
    return all(column_called(table, names) for names in (CHROMS, STARTS, ENDS))


def refuse_rows(
    frame: pl.DataFrame, bad: pl.Expr, what: Callable[[dict[str, Any]], str], where: str, judge: Judge
) -> pl.DataFrame:
    """Refuse the first row that is ``bad``, by its `LINE`, and count the others; the rows that are not bad."""
    is_bad = bad.fill_null(False)
    found = frame.filter(is_bad)
    if found.is_empty():
        return frame
    row = found.row(0, named=True)
    more = "" if len(found) == 1 else f" ({len(found):,} such rows)"
    judge.refuse(f"{where} {row[LINE]} {what(row)}{more}.")
    return frame.filter(~is_bad)


def intervals_of(
    table: pl.DataFrame, path: Path | str, *, one_based: bool = False, judge: Judge = STRICT
) -> pl.DataFrame:
    """Check the places of a table, and give them as numbers.

    A table whose ``width`` is end - start + 1 in every row is one-based, as R writes GRanges; this is told.

    Args:
        table: text columns as `table.read_table`, `read_bed` and `read_gff` give them.
        path: where it is from, for messages.
        one_based: starts count from 1 and ends are inside, as in GFF.
        judge: what to do about bad rows.

    Returns:
        Columns `LINE`, `PART`, ``chrom``, ``start`` and ``end`` (0-based, half-open), ``strand`` (+, - or .) and
        ``summit`` (bases behind the start, or null), and the table's ``id`` and ``label`` where it has them.

    Raises:
        InputError: if a start or end is no whole number, negative, or does not lie before its end.
    """
    name, unit = shown(path), "row"
    if LINE in table.columns:
        unit = "line"
    else:
        table = table.with_row_index(LINE, offset=1).with_columns(pl.col(LINE).cast(pl.Int64))
    chrom, start, end, strand = (column_called(table, names) for names in (CHROMS, STARTS, ENDS, STRANDS))
    if chrom is None or start is None or end is None:
        raise InputError(f"{name} has no columns chrom, start and end. Its columns: {listed(table.columns)}.")
    if unit == "row" and not one_based and _is_closed(table, start, end):
        one_based = True
        judge.doubt(
            f"{name}: width is end - start + 1 in every row, as R writes GRanges: starts are read as counted from 1, "
            "and ends as inside."
        )

    def text(column: str | None) -> pl.Expr:
        return pl.lit("") if column is None else pl.col(column).cast(pl.String).str.strip_chars().fill_null("")

    more = [column for column in ("id", "label", CIRCULAR) if column in table.columns]
    frame = table.with_columns(
        text(chrom).alias("chrom"),
        text(start).alias("start"),
        text(end).alias("end"),
        text(strand).replace({"": ".", "?": ".", "*": "."}).alias("strand"),
        text("summit" if unit == "line" and "summit" in table.columns else None).replace("-1", "").alias("summit"),
        pl.col(PART if PART in table.columns else LINE).alias(PART),
    ).select(LINE, PART, "chrom", "start", "end", "strand", "summit", *more)

    def refuse(frame: pl.DataFrame, bad: pl.Expr, what: Callable[[dict[str, Any]], str]) -> pl.DataFrame:
        return refuse_rows(frame, bad, what, f"{name}: {unit}", judge)

    frame = refuse(frame, pl.col("chrom") == "", lambda row: "has no chromosome")
    for column in ("start", "end"):
        frame = refuse(
            frame,
            pl.col(column).str.contains(r"^-[0-9]+$"),
            lambda row, c=column: f"has the negative {c} {row[c]}; a chromosome begins at {int(one_based)}",  # type: ignore[misc]
        )
        frame = refuse(
            frame,
            ~pl.col(column).str.contains(_DIGITS),
            lambda row, c=column: f"has {row[c]!r} for {c}, which is no whole number",  # type: ignore[misc]
        )
    frame = refuse(
        frame,
        ~pl.col("strand").is_in(["+", "-", "."]),
        lambda row: f"has the strand {row['strand']!r}; it should be + or -, or . where it has none",
    )
    frame = refuse(
        frame,
        (pl.col("summit") != "") & ~pl.col("summit").str.contains(_DIGITS),
        lambda row: f"has {row['summit']!r} for its summit, which is no whole number, nor -1 for none",
    )
    frame = frame.with_columns(
        pl.col("start").cast(pl.Int64) - int(one_based),
        pl.col("end").cast(pl.Int64),
        pl.when(pl.col("summit") != "").then(pl.col("summit")).cast(pl.Int64),
    )
    counted = "counted from 1, both ends inside" if one_based else "counted from 0, the end outside"
    what = "GFF" if unit == "line" else "a table of such widths"
    frame = refuse(frame, pl.col("start") < 0, lambda row: f"has the start 0, and {what} is {counted}")
    frame = refuse(
        frame,
        pl.col("start") >= pl.col("end"),
        lambda row: (
            f"has the start {row['start'] + one_based:,} and the end {row['end']:,}: the start should lie "
            f"before the end ({counted})"
        ),
    )
    return refuse(
        frame,
        pl.col("summit") >= pl.col("end") - pl.col("start"),
        lambda row: (
            f"has its summit {row['summit']:,} bases behind its start, and only {row['end'] - row['start']:,} bases"
        ),
    )


def features_of(frame: pl.DataFrame, path: Path | str, judge: Judge = STRICT) -> pl.DataFrame:
    """Intervals of which those of one `PART` can be joined: they are apart, on one strand of one chromosome.

    Those that cannot stand for themselves. Either is told and counted.

    Args:
        frame: as `intervals_of` gives it.
        path: where it is from, for messages.
        judge: what to do about parts that have different labels, and hears of what is joined.
    """
    parts = frame.filter(pl.len().over(PART) > 1)
    if parts.is_empty():
        return frame
    one = pl.struct("chrom", "strand").n_unique() == 1
    apart = pl.col("start").n_unique() == pl.len()
    whole = parts.filter((one & apart).over(PART))
    if odd := parts[PART].n_unique() - whole[PART].n_unique():
        judge.doubt(
            f"{shown(path)}: {odd:,} features have parts on several strands or chromosomes, or one part twice; each of "
            "their lines stands for itself."
        )
    if len(whole):
        features, lines = whole[PART].n_unique(), whole[LINE].n_unique()
        judge.doubt(
            f"{shown(path)}: {features:,} features stand on several lines ({lines:,}), which are joined to one "
            "sequence in the direction of the strand."
        )
    if "label" in whole.columns:
        whole = refuse_rows(
            whole,
            (pl.col("label").n_unique() > 1).over(PART),
            lambda row: f"is a part of a feature whose lines have different labels, {row['label']!r} and others",
            f"{shown(path)}: line",
            judge,
        )
    joined = pl.when(pl.col(PART).is_in(whole[PART].unique().to_list())).then(PART)
    return _numbered(frame.with_columns(joined.alias(PART)), PART)
