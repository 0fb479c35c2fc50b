"""Places where a genome differs: variants of a VCF checked against it, every change of a region, and their windows."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from titans_seq.data.aliases import Aliases
from titans_seq.data.compressed import shown
from titans_seq.data.record import ALPHABET, STRICT, Judge, decode, encode, quoted
from titans_seq.data.reference import Reference
from titans_seq.data.vcf import Variant, read_vcf, unscorable
from titans_seq.data.windows import N
from titans_seq.errors import InputError, UsageError, warn

MOST_MISMATCHES = 0.05  # share of the rows above which a VCF is taken for one of another assembly
CELLS = 16  # a window's middle is a multiple of a sixteenth of its length: neighbours share it

_SILENT = Judge(STRICT.refuse, lambda _: None)

OnMismatch = Literal["error", "skip", "flag"]


class Site(NamedTuple):
    """What may stand in place of a stretch of the genome."""

    chrom: str  # as the genome calls it
    start: int  # 0-based
    ref: np.ndarray  # codes (R,)
    alts: tuple[np.ndarray | None, ...]  # codes (A,) of each allele; None where there is nothing to score
    origin: Any = None  # what its rows are made of

    @property
    def scored(self) -> int:
        """How many alleles there is something to score of."""
        return sum(alt is not None for alt in self.alts)

    @property
    def sequences(self) -> int:
        """Windows that have to be read, with that of REF."""
        return self.scored + (self.scored > 0)


def window_of(site: Site, length: int, chromosome: int) -> tuple[int, int]:
    """Start and end of the window that a site is read in, half-open, inside a ``chromosome`` of so many bases.

    It is the cell of a grid of ``length`` / 16 bases that holds the site, with as many bases on either side as make
    ``length`` together. So it depends on the site alone, the site lies within a thirty-second of ``length`` from its
    middle, and sites of one cell share it. Where REF reaches over several cells the window is longer by these.
    """
    cell = max(1, length // CELLS)
    before = (length - cell) // 2
    first = site.start // cell * cell
    last = -(-(site.start + len(site.ref)) // cell) * cell
    return max(0, first - before), min(chromosome, last + length - cell - before)


def alleles_in_window(site: Site, length: int, genome: Reference) -> list[np.ndarray | None]:
    """Codes of the window of a site, with REF and with each ALT in its place; None as in ``Site.alts``."""
    start, end = window_of(site, length, genome.lengths[site.chrom])
    left = genome.codes(site.chrom, start, site.start)
    right = genome.codes(site.chrom, site.start + len(site.ref), end)
    return [None if codes is None else np.concatenate([left, codes, right]) for codes in (site.ref, *site.alts)]


class CheckedVcf:
    """The variants of a VCF on a genome, all read once beforehand and held against it.

    ``header`` has the lines of its header; ``lines``, ``scored``, ``sequences`` and ``mismatches`` count its rows, the
    alleles that are scored, the windows that they need, and the rows whose REF is not what the genome has.

    Args:
        path: the VCF, a file: it is read again for its sites.
        genome: where its variants are.
        aliases: which names of chromosomes mean the same.
        on_mismatch: what a row gets whose REF is not what the genome has there: ``error`` refuses it, ``skip`` scores
            nothing there, ``flag`` scores it with the VCF's REF in the genome's place.

    Raises:
        InputError: on a row that is none, a chromosome that is not there or ends before, or a REF that differs: in
            more than one row and `MOST_MISMATCHES` of them whatever ``on_mismatch`` is.
    """

    def __init__(self, path: Path, genome: Reference, aliases: Aliases, on_mismatch: OnMismatch = "error"):
        self.path, self.genome, self.on_mismatch = path, genome, on_mismatch
        self.lines = self.mismatches = self.scored = self.sequences = 0
        self._names: dict[str, str] = {}
        self.header, variants = read_vcf(path)
        rows, unscored = Counter[str](), Counter[str]()
        first_mismatch = first_unscored = ""
        for variant in variants:
            if variant.chrom not in self._names:
                self._names[variant.chrom] = self._name(variant, aliases)
            site = self.site(variant)
            rows[variant.chrom] += 1
            self.lines += 1
            self.sequences += site.sequences
            self.scored += site.scored
            if not site.origin.match:
                self.mismatches += 1
                first_mismatch = first_mismatch or self._mismatch(variant)
            kinds = [kind for alt in variant.alts if (kind := _kind(variant.ref, alt))]
            if kinds:
                unscored.update(kinds)
                first_unscored = first_unscored or f"line {variant.line:,}"
        aliases.translate(rows, genome.lengths, shown(path), genome.name)  # tells what was taken for what
        self._judge_mismatches(first_mismatch)
        if unscored:
            kinds = [f"{count:,} {kind}" for kind, count in unscored.items()]
            warn(
                f"{shown(path)}: ALT alleles without a known sequence are not scored: {', '.join(kinds)}; first in "
                f"{first_unscored}."
            )
        if not self.lines:
            warn(f"{shown(path)} has no variant.")

    def _name(self, variant: Variant, aliases: Aliases) -> str:
        """The genome's name of a variant's chromosome."""
        there = self.genome.lengths
        if not aliases.find(variant.chrom, there):
            raise InputError(f"{shown(self.path)}: line {variant.line:,} is on {self.genome.lacks(variant.chrom)}.")
        names = aliases.translate({variant.chrom: 1}, there, shown(self.path), self.genome.name, _SILENT)
        return names[variant.chrom]

    def _matches(self, variant: Variant, ref: np.ndarray) -> bool:
        """Whether REF, codes (R,), is what the genome has; N on either side contradicts nothing."""
        chrom, end = self._names[variant.chrom], variant.start + len(ref)
        telomere = variant.start == self.genome.lengths[chrom] and len(ref) == 1  # VCF counts it as a place
        if end > self.genome.lengths[chrom] and not (telomere and all(_kind(variant.ref, alt) for alt in variant.alts)):
            raise InputError(
                f"{shown(self.path)}: line {variant.line:,} is at {variant.start + 1:,}, and its REF ends beyond "
                f"{quoted(variant.chrom)}, which has {self.genome.lengths[chrom]:,} bases in {self.genome.name}. "
                "Is the VCF of another assembly? Give the genome that it was made with."
            )
        there = self.genome.codes(chrom, variant.start, end)
        return bool(((there == ref) | (there == N) | (ref == N)).all())

    def _mismatch(self, variant: Variant) -> str:
        end = variant.start + len(variant.ref)
        there = decode(self.genome.codes(self._names[variant.chrom], variant.start, end))
        return (
            f"line {variant.line:,} ({variant.chrom}:{variant.start + 1:,}) has REF {_short(variant.ref)} where "
            f"{self.genome.name} has {_short(there)}"
        )

    def _judge_mismatches(self, first: str) -> None:
        if not self.mismatches:
            return
        share = self.mismatches / self.lines
        count = f"{self.mismatches:,} of {self.lines:,} rows ({share:.1%})"
        other = share > MOST_MISMATCHES
        refused = other and self.mismatches > 1  # whatever on_mismatch is
        if self.on_mismatch == "error" or refused:
            remedies = ["Is the VCF of another assembly? Give the genome that it was made with."] if other else []
            if not refused:
                remedies.append("Leave such rows unscored with --on-ref-mismatch skip, or score them too with flag.")
            raise InputError(f"{shown(self.path)}: {first}; so it is in {count}. {' '.join(remedies)}")
        done = "are not scored" if self.on_mismatch == "skip" else "are scored with the VCF's REF"
        warn(f"{shown(self.path)}: REF is not what the genome has in {count}, which {done}; first {first}.")

    def site(self, variant: Variant) -> Site:
        """Where a variant is and what it puts there."""
        ref = encode(variant.ref)
        match = self._matches(variant, ref)
        left_out = self.on_mismatch == "skip" and not match
        alts = [None if left_out or _kind(variant.ref, alt) else encode(alt) for alt in variant.alts]
        return Site(self._names[variant.chrom], variant.start, ref, tuple(alts), Checked(variant, match))

    def sites(self) -> Iterator[Site]:
        """All of them, in the order of the file."""
        return map(self.site, read_vcf(self.path, lambda _: None)[1])


class Checked(NamedTuple):
    """A variant, and whether its REF is what the genome has."""

    variant: Variant
    match: bool


def _kind(ref: str, alt: str) -> str | None:
    """Why an ALT cannot be scored."""
    return unscorable(alt) or unscorable(ref)


def _short(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:20]}... ({len(allele):,} bases)"


# --- every change of a region


class Region(NamedTuple):
    """A stretch of a chromosome, 0-based and half-open."""

    chrom: str  # as the genome calls it
    start: int
    end: int

    @classmethod
    def parse(cls, text: str, genome: Reference, aliases: Aliases) -> "Region":
        """Read CHROM:START-END, counted from 1 with both ends in it, as genome browsers write it.

        Raises:
            UsageError: if it is not of that form.
            InputError: if it is not in the genome.
        """
        chrom, _, places = text.rpartition(":")
        first, dash, last = places.replace(",", "").partition("-")
        if not (chrom and dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise UsageError(
                f"--region {text} is none. Give CHROM:START-END, counted from 1 and with both ends in it, "
                "such as chr20:1000001-1000200."
            )
        names = aliases.translate({chrom: 1}, genome.lengths, "--region", genome.name)
        if chrom not in names:
            raise InputError(f"--region is on {genome.lacks(chrom)}.")
        length = genome.lengths[names[chrom]]
        if int(last) > length:
            raise InputError(
                f"--region ends at {int(last):,}, beyond the end of {quoted(chrom)}, which has {length:,} bases in "
                f"{genome.name}."
            )
        return cls(names[chrom], int(first) - 1, int(last))

    def sites(self, genome: Reference) -> Iterator[Site]:
        """A site a base, with A, C, G and T in its place; where N stands there is nothing to score."""
        for start in range(self.start, self.end):
            ref = genome.codes(self.chrom, start, start + 1)
            alts = [None if ref[0] == N else np.array([code], np.uint8) for code in range(N)]
            yield Site(self.chrom, start, ref, tuple(alts), ALPHABET[ref[0]])
