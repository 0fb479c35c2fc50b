"""Names of chromosomes: which one of a file is which one of another."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from titans_seq.data.record import STRICT, Judge, quoted
from titans_seq.data.table import read_lines
from titans_seq.errors import InputError

_HUMAN = (*map(str, range(1, 23)), "x", "y")
_MOUSE = (*map(str, range(1, 20)), "x", "y")
_YEAST = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv", "xvi")
_MITOCHONDRION = ("m", "mt", "mito", "mitochondrion", "mtdna")
_PREFIX = re.compile(r"(?:chromosome|chrom|chr)[_ ]?")
_ACCESSION = re.compile(r"([A-Z]{1,2}_?[A-Z]{0,4}\d{5,})(?:\.(\d+))?")

# What NCBI writes before an identifier, and never is one; ``lcl`` stands before any name.
_TAG = re.compile(r"bbm|bbs|dbj|emb|gb|gi|gim|gnl|lcl|pat|pdb|pir|prf|ref|sp|tp[deg]|tr")
# Accessions of genes and transcripts, runs, projects and samples, each of which many records share.
_SHARED = re.compile(r"ENS|[DES]RR|PRJ|SAM")


def _numbered(prefix: str, first: int, species: str, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    return {f"{prefix}{number:06}": (species, name) for number, name in enumerate(names, start=first)}


# Accessions without version → species and name. Sources: the assembly reports of RefSeq and GenBank for human (GRCh37,
# GRCh38), mouse (GRCm38, GRCm39), S. cerevisiae S288C (R64) and E. coli K-12 MG1655, whose one chromosome is "".
_KNOWN = (
    _numbered("NC_", 1, "human", _HUMAN)
    | _numbered("CM", 663, "human", _HUMAN)
    | {"NC_012920": ("human", "mt"), "J01415": ("human", "mt")}
    | _numbered("NC_", 67, "mouse", _MOUSE)
    | _numbered("CM", 994, "mouse", _MOUSE)
    | {"NC_005089": ("mouse", "mt"), "AY172335": ("mouse", "mt")}
    | _numbered("NC_", 1133, "yeast", _YEAST)
    | {"NC_001224": ("yeast", "mt")}
    | {"NC_000913": ("E. coli", ""), "U00096": ("E. coli", "")}
)


class _Name(NamedTuple):
    """What a name says of a chromosome."""

    bare: str | None  # without "chr", in lower case; "" is the one chromosome of a genome; None an unknown accession
    species: str = ""  # where an accession tells it
    stem: str = ""  # accession without version
    version: str = ""

    def parts(self) -> list[tuple[str, str]]:
        """What it says, of which names that agree have one thing in common at least."""
        bare = [] if self.bare is None else [("bare", self.bare)]
        return [*bare, ("stem", self.stem)] if self.stem else bare

    def agrees(self, other: "_Name") -> bool:
        """Whether both may name one chromosome."""
        if self.stem and self.stem == other.stem:
            return not self.version or not other.version or self.version == other.version
        one_species = not self.species or not other.species or self.species == other.species
        return self.bare is not None and self.bare == other.bare and one_species


def _read(word: str) -> _Name:
    if accession := _ACCESSION.fullmatch(word):
        stem, version = accession[1], accession[2] or ""
        species, bare = _KNOWN.get(stem, ("", None))
        return _Name(bare, species, stem, version)
    bare = _PREFIX.sub("", word.lower(), count=1) if _PREFIX.match(word.lower()) else word.lower()
    if bare in _MITOCHONDRION:
        return _Name("mt")
    return _Name(bare.lstrip("0") or bare if bare.isdigit() else bare)


class _Meanings(NamedTuple):
    """What the first word of a name says of chromosomes."""

    whole: tuple[_Name, ...]  # one, or none of no name
    sure: tuple[_Name, ...]  # that, and the accessions between its |
    first: tuple[_Name, ...]  # what stands before them: ``tig1`` of ``tig1|arrow``, which no other part can stand for

    def agree(self, other: "_Meanings") -> bool:
        """Whether both may name one chromosome."""
        pairs = ((self.sure, other.sure), (self.first, other.whole), (self.whole, other.first))
        return any(a.agrees(b) for ours, theirs in pairs for a in ours for b in theirs)

    def said(self) -> list[tuple[str, ...]]:
        """Of two names that agree, one has said what the other has `sought`."""
        kinds = (("sure", self.sure), ("whole", self.whole), ("first", self.first))
        return [(kind, *part) for kind, names in kinds for name in names for part in name.parts()]

    def sought(self) -> list[tuple[str, ...]]:
        """See `said`."""
        return self._replace(whole=self.first, first=self.whole).said()


@lru_cache(maxsize=1 << 16)
def _meanings(name: str) -> _Meanings:
    word = (name.split() or [""])[0].removeprefix("lcl|").strip("|")
    if not word:
        return _Meanings((), (), ())
    whole = (_read(word),)
    first, *others = word.split("|")
    if not others:
        return _Meanings(whole, whole, ())
    accessions = (_read(part) for part in (first, *others) if _ACCESSION.fullmatch(part) and not _SHARED.match(part))
    return _Meanings(whole, (*whole, *accessions), () if _TAG.fullmatch(first) else (_read(first),))


class Aliases:
    """Sets of names that mean one chromosome: those of a file, and the usual ones.

    The usual ones: with and without ``chr``, leading zeros, upper or lower case; M, MT, Mito; accessions with and
    without version; accessions of human, mouse, yeast and E. coli chromosomes and their plain names; ``Chromosome``
    and ``chr`` for the only one.
    """

    def __init__(self, groups: Iterable[frozenset[str]] = ()):
        self.groups = tuple(groups)

    @classmethod
    def of_file(cls, path: Path | str | None) -> "Aliases":
        """Read lines of names that mean the same, apart by tabs, blanks or commas, such as UCSC's chromAlias.txt.

        Raises:
            InputError: if a line has fewer than two names.
        """
        if path is None:
            return cls()
        groups = []
        for number, line in enumerate(read_lines(path), start=1):
            names = re.findall(r"[^\s,]+", line)
            if not names or names[0].startswith("#"):
                continue
            if len(names) < 2:
                raise InputError(
                    f"{path}: line {number} has the one name {quoted(names[0])}. "
                    "Write all names of a chromosome on one line, with tabs between them."
                )
            groups.append(frozenset(names))
        return cls(groups)

    @cached_property
    def _members(self) -> dict[str, set[str]]:
        members: dict[str, set[str]] = {}
        for group in self.groups:
            for name in group:
                members.setdefault(name, set()).update(group)
        return members

    def find(self, name: str, known: Iterable[str]) -> list[str]:
        """Those of ``known`` that ``name`` may mean: itself, else what a file says, else what is usual."""
        there = list(known)
        if name in there:
            return [name]
        if listed := [other for other in there if other in self._members.get(name, ())]:
            return listed
        meanings = _meanings(name)
        usual = [other for other in there if meanings.agree(_meanings(other))]
        if not usual and len(there) == 1 and any(meaning.bare == "" and not meaning.stem for meaning in meanings.whole):
            return there
        return usual

    def alike(self, names: Iterable[str]) -> dict[str, str]:
        """For each of ``names``, of several files, the first of them that means the same chromosome."""
        known: dict[object, list[str]] = {}  # by what two names that agree have in common: then one looks at few
        found: dict[str, str] = {}
        for name in names:
            if name in found:
                continue
            meanings = _meanings(name)
            files = [("file", str(number)) for number, group in enumerate(self.groups) if name in group]
            there = dict.fromkeys(other for key in [*files, *meanings.sought()] for other in known.get(key, ()))
            found[name] = next(iter(self.find(name, there)), name)
            for key in [*files, *meanings.said()] if found[name] == name else ():
                known.setdefault(key, []).append(name)
        return found

    def translate(
        self, wanted: Mapping[str, int], known: Iterable[str], source: str, target: str, judge: Judge = STRICT
    ) -> dict[str, str]:
        """Names of ``source`` as ``target`` has them; those that it has not are left out.

        What was taken for what is told once, as a table.

        Args:
            wanted: names in ``source`` and how many rows each has, or 0 where they are not counted.
            known: names in ``target``.
            source: of the names, for messages.
            target: of what they are to name, for messages.
            judge: what to do about a name that may mean several, and about names that differ.
        """
        there = list(known)
        found = {name: self.find(name, there) for name in wanted}
        for name, several in found.items():
            if len(several) > 1:
                judge.refuse(
                    f"{source}: {quoted(name)} may be {' or '.join(map(quoted, several))} of {target}. "
                    "Say which in a file of names: --aliases FILE."
                )
        names = {name: several[0] for name, several in found.items() if len(several) == 1}
        if differ := {name: other for name, other in names.items() if name != other}:
            judge.doubt(_table(differ, wanted, source, target))
        return names


def _table(differ: dict[str, str], rows: Mapping[str, int], source: str, target: str, most: int = 30) -> str:
    """What was taken for what, a line a name."""
    names = "1 name of a chromosome is" if len(differ) == 1 else f"{len(differ):,} names of chromosomes are"
    total = sum(rows[name] for name in differ)
    shown = list(differ.items())[:most]
    width = max(len(quoted(name)) for name, _ in shown)
    counts = [f", {rows[name]:,} rows" if rows[name] else "" for name, _ in shown]
    lines = [f"  {quoted(name):<{width}} = {quoted(other)}{n}" for (name, other), n in zip(shown, counts, strict=True)]
    more = [f"  and {len(differ) - most:,} more"] if len(differ) > most else []
    counted = f" ({total:,} rows)" if total else ""
    return "\n".join([f"{source}: {names} not as in {target} and taken for what is there{counted}:", *lines, *more])


def several(names: Iterable[str], most: int = 12) -> str:
    """Names as a message lists them."""
    listed = [quoted(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most:,} more" if len(listed) > most else "")
