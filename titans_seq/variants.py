"""The verbs of changes in a genome: variants of a VCF scored, every change of a region scored."""

import functools
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from titans_seq import __version__
from titans_seq.data.aliases import Aliases
from titans_seq.data.record import ALPHABET
from titans_seq.data.reference import Reference
from titans_seq.data.variants import CheckedVcf, OnMismatch, Region, Site
from titans_seq.data.vcf import VcfFile, annotated, described, info_ids
from titans_seq.data.write import SUFFIXES, PartFile, Row, RowFile
from titans_seq.errors import UsageError
from titans_seq.files import must_be_new
from titans_seq.job import SharedJob, data_of, dry, finished, identity, write
from titans_seq.resources import data_file
from titans_seq.stream import prefetch
from titans_seq.stream.variants import Scorer, default_score

WINDOW = 512  # bases, where a run does not say what it was trained on
_PLACE = ("chrom", "position", "ref", "alt")  # columns of a table of changes before its scores
_COLUMNS = {"chrom": "String", "pos": "Int64", "id": "String", "ref": "String", "alt": "String"}  # of variants, before
_BASES = ALPHABET[:4]


@dataclass(frozen=True)
class Scoring(SharedJob):
    """Options of both verbs."""

    aliases: str | None = None  # lines of names of chromosomes that mean the same
    score: str | None = None  # one of `titans_seq.stream.variants.SCORES`; that of the model's task if none
    window: int | None = None  # bases; those of the model's training if none
    both_strands: bool = False


class _Prepared(NamedTuple):
    """What both verbs begin with."""

    scorer: Scorer
    genome: Reference
    aliases: Aliases
    identity: dict[str, str]  # what a resume has to have in common
    facts: dict[str, Any]  # what is reported


def _window(source: str) -> int:
    """Bases of the windows that a model was trained on, where its run says so."""
    data = data_of(source)
    length = getattr(data, "length", None) or getattr(getattr(data, "regions", None), "window", None)
    return int(length or WINDOW)


def _prepare(source: str, fasta: str, inputs: list[Path], scoring: Scoring, **options: Any) -> _Prepared:
    model = scoring.load(source, "genomics")
    score, window = scoring.score or default_score(model), scoring.window or _window(source)
    named = data_file(scoring.aliases) if scoring.aliases else None
    file = data_file(fasta)
    if scoring.resume and not file.is_file():
        raise UsageError("--resume needs the genome as a file: what came through stdin or a pipe is gone.")
    inputs = [file, *inputs, *([named] if named else [])]
    facts = {"score": score, "window": window, "both_strands": scoring.both_strands}
    key = identity(source, inputs, **facts, batch_size=scoring.batch_size, **options)
    genome = Reference(file)
    scorer = Scorer(model, score, genome, window, scoring.both_strands, scoring.batch_size)
    return _Prepared(scorer, genome, Aliases.of_file(named), key, facts)


def _values(scores: np.ndarray) -> list[float | None]:
    """Scores as rows hold them."""
    return [None if math.isnan(value) else value for value in scores.tolist()]


def variants(
    source: str, path: str, out: Path, *, reference: str, on_ref_mismatch: OnMismatch = "error", **options: Any
) -> dict[str, Any]:
    """Score every ALT allele of a VCF with a model, into ``out``, in the order of the file.

    A table has a row an allele: chrom, pos (counted from 1), id, ref, alt, the scores, and whether REF is what the
    genome has. A VCF has the lines that were read, with the scores in their INFO, a number an ALT.

    Args:
        source: the model.
        path: VCF, plain, gzip or bgzip.
        out: .vcf, .vcf.gz (bgzip), .csv, .tsv, .jsonl or .parquet.
        reference: FASTA of the genome.
        on_ref_mismatch: what a row gets whose REF is not what the genome has, see `CheckedVcf`.
        options: of `Scoring`.
    """
    scoring = Scoring(**options)
    if finished(out, scoring, source, [path, reference], (*VcfFile.suffixes, *SUFFIXES)):
        return {"out": str(scoring.target(out)), "already_finished": True}
    file = data_file(path)
    if not file.is_file():
        raise UsageError(f"{path} is read twice, to check it and to score it, so it must be a file.")
    ready = _prepare(source, reference, [file], scoring, on_ref_mismatch=on_ref_mismatch)
    scorer, found = ready.scorer, CheckedVcf(file, ready.genome, ready.aliases, on_ref_mismatch)
    facts = {"variants": found.lines, "alleles_scored": found.scored, "ref_mismatches": found.mismatches, **ready.facts}
    work = scorer.work(found.sequences)
    if scoring.dry_run:
        return dry(scorer.model, **facts, bases=work)
    columns = _COLUMNS | dict.fromkeys(scorer.columns, "Float64") | {"ref_match": "Boolean"}
    kind: Callable[[Path, int], PartFile] = functools.partial(RowFile, columns=columns)
    rows = functools.partial(_allele_rows, list(scorer.columns))
    if out.name.endswith(VcfFile.suffixes):
        ids = info_ids(list(scorer.columns))
        about = {ids[name]: text for name, text in scorer.columns.items()}
        told = " ".join(f"{name}={value}" for name, value in ready.facts.items())
        origin = f"titans_seq={__version__} model_sha256={ready.identity['model']} {told}"
        kind = functools.partial(VcfFile, header=described(found.header, about, origin))
        rows = functools.partial(_vcf_rows, list(ids.values()))
    done = write(
        out,
        lambda point: scorer.steps(prefetch(found.sites()), point, rows),
        ready.identity,
        job=scoring,
        units=lambda: scorer.units(found.sites()),
        kind=kind,
        total=work,
    )
    return {"out": str(scoring.target(out)), **({"variants_of_this_shard": done} if scoring.part else {}), **facts}


def _allele_rows(names: list[str], site: Site, scores: np.ndarray) -> list[Row]:
    """Rows of a table, one an ALT."""
    variant, match = site.origin
    chrom, pos, id, ref = variant.fields[:4]
    place = {"chrom": chrom, "pos": int(pos), "id": id, "ref": ref}
    return [
        {**place, "alt": alt, **dict(zip(names, _values(row), strict=True)), "ref_match": match}
        for alt, row in zip(variant.alts, scores, strict=True)
    ]


def _vcf_rows(ids: list[str], site: Site, scores: np.ndarray) -> list[Row]:
    """The line of a VCF."""
    variant, match = site.origin
    return [{"line": annotated(variant, dict(zip(ids, map(_values, scores.T), strict=True)), match)}]


class MutationFile(RowFile):
    """Every change of a region, four rows a base, and a picture of them."""

    def __init__(self, out: Path, size: int = 0, title: str = ""):
        super().__init__(out, size)
        self.title = title

    @staticmethod
    def beside(out: Path) -> tuple[Path, ...]:
        """The picture."""
        return (picture_of(out),)

    def convert(self, draft: Path) -> int:
        """Draw the picture, then the table."""
        from titans_seq.report.plots.mutations import mutation_plot  # on use: what draws takes a second to import

        positions, reference = array("q"), bytearray()
        found: dict[str, array[float]] = {}
        for row in self.rows():
            for name in (name for name in row if name not in _PLACE):
                found.setdefault(name, array("d")).append(math.nan if row[name] is None else row[name])
            if row["alt"] == _BASES[0]:
                positions.append(row["position"])
                reference += row["ref"].encode()
        scores = {name: np.array(values).reshape(-1, len(_BASES)) for name, values in found.items()}
        mutation_plot(reference.decode(), scores, picture_of(self.out), first=positions[0], title=self.title)
        return super().convert(draft)


def picture_of(out: Path) -> Path:
    """Where the picture of a table of changes goes: beside it."""
    return out.with_suffix(".png")


def mutate(source: str, fasta: str, out: Path, *, region: str, **options: Any) -> dict[str, Any]:
    """Score every single-base change of a region with a model, into ``out`` and a picture beside it.

    The table has four rows a base: chrom, position (counted from 1), ref, alt, and the scores. One of the four is the
    base itself, which scores 0.

    Args:
        source: the model.
        fasta: the genome.
        out: .csv, .tsv, .jsonl or .parquet; the picture has the same name with .png.
        region: CHROM:START-END, counted from 1 and with both ends in it.
        options: of `Scoring`.
    """
    scoring = Scoring(**options)
    if finished(out, scoring, source, [fasta]):
        return {"out": str(scoring.target(out)), "already_finished": True}
    if not scoring.part:
        must_be_new(picture_of(out), overwrite=scoring.overwrite, resume=scoring.resume)
    ready = _prepare(source, fasta, [], scoring, region=region)
    scorer, genome = ready.scorer, ready.genome
    there = Region.parse(region, genome, ready.aliases)
    work = scorer.work(sum(site.sequences for site in there.sites(genome)))
    facts = {"bases": there.end - there.start, **ready.facts}
    if scoring.dry_run:
        return dry(scorer.model, **facts, window_bases=work)

    def rows(site: Site, scores: np.ndarray) -> list[Row]:
        place = {"chrom": site.chrom, "position": site.start + 1, "ref": site.origin}
        return [
            {**place, "alt": alt, **dict(zip(scorer.columns, _values(row), strict=True))}
            for alt, row in zip(_BASES, scores, strict=True)
        ]

    write(
        out,
        lambda point: scorer.steps(there.sites(genome), point, rows),
        ready.identity,
        job=scoring,
        units=lambda: scorer.units(there.sites(genome)),
        kind=functools.partial(MutationFile, title=f"{region}: every change, window of {scorer.window:,} bases"),
        total=work,
    )
    picture = {} if scoring.part else {"picture": str(picture_of(out))}  # it is drawn of all parts
    return {"out": str(scoring.target(out)), **picture, **facts}
