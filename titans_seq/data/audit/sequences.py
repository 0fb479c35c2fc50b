"""Audit of sequences: one file, or the splits of a data set and what they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titans_seq.data.audit.confounding import Effect, effects
from titans_seq.data.audit.facts import audit_fasta, base_counts, class_facts, gc_of, row_facts
from titans_seq.data.audit.found import Audit, Findings, share_of
from titans_seq.data.audit.leaks import KINDS, NEAR, Kind, Leaks, find_leaks
from titans_seq.data.audit.splits import Reading, Split, read_splits
from titans_seq.data.audit.tracks import audit_bigwig
from titans_seq.data.bigwig import SUFFIXES
from titans_seq.data.regions import Regions
from titans_seq.data.sequences import WHOLE, is_fasta
from titans_seq.data.write import RowFile, check_suffix
from titans_seq.errors import InputError, UsageError

_TOO_FEW = 50  # rows of a class: an accuracy measured on fewer is uncertain by 0.14 and more
_SAYS: dict[Kind, str] = {
    "exact": "are exactly rows of",
    "reverse_complement": "are the reverse complement of rows of",
    "overlap": "overlap rows of",
    "near": "are near duplicates of rows of",
}


@dataclass(frozen=True, eq=False)
class _Pair:
    """A split, and an earlier one that its rows must not be in."""

    split: Split
    other: Split
    leaks: Leaks


def audit_sequences(
    path: Path | str,
    test: Path | None = None,
    *,
    sequence: str | None = None,
    label: str | None = None,
    kinds: Sequence[str] = (),
    near: float = NEAR,
    leak_free: Path | None = None,
    regions: Regions = WHOLE,
) -> Audit:
    """Say what is in a file or data set, and which rows of a later split an earlier one holds.

    Args:
        path: FASTA, which is read as a stream when it is all there is; a bigWig; a table of sequences; intervals in a
            table, BED, narrowPeak, GFF or GTF, with or without their genome; a folder of one file or folder a class; or
            a whole data set as `splits.read_splits` knows them.
        test: the test split, when ``path`` is the training split.
        sequence: the column of sequences; found by its name when absent.
        label: the column of labels, likewise.
        kinds: what counts as a leak, of `leaks.KINDS`; all if none is given.
        near: Jaccard similarity of k-mer sets from which two sequences are near duplicates.
        leak_free: table to write of the test rows that have no leak, which `genomics evaluate` reads.
        regions: the genome, and how sequences are cut out of it; without one intervals are compared by their places.

    Raises:
        InputError: if a file cannot be read at all: another format, or a symbol that is no nucleotide.
        UsageError: if there is no test split to free of leaks, no such kind, or no genome to cut windows out of.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"--kind {unknown[0]} is none. Give {', '.join(KINDS)}.")
    given = regions.model_dump(exclude_defaults=True)
    if regions.reference is None and (cuts := [name for name in given if name not in ("aliases", "feature")]):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in cuts)
        raise UsageError(f"{options} cut sequences out of a genome. Give it with --reference, or leave them out.")
    wanted = tuple(kind for kind in KINDS if kind in kinds or not kinds)
    if leak_free is not None:
        check_suffix(leak_free, RowFile.suffixes)
    if test is None and leak_free is None and Path(path).suffix.lower() in SUFFIXES:
        return audit_bigwig(path, regions)
    if test is None and leak_free is None and not Path(path).is_dir() and is_fasta(path):
        return audit_fasta(path)
    findings = Findings()
    try:
        splits = read_splits(Path(path), test, Reading(findings.judge(), sequence, label, regions))
    except InputError as error:  # where nothing is left, what was wrong with it says more
        if findings.problems:
            raise InputError(findings.problems[0]) from error
        raise
    counts = [base_counts(split) for split in splits]
    pairs = [
        _Pair(split, other, find_leaks(split, other, wanted, near))
        for at, split in enumerate(splits)
        for other in splits[:at]
    ]
    found = [effects(split, gc_of(count) if len(count) else None) for split, count in zip(splits, counts, strict=True)]
    facts = _described(splits, counts) | ({"leaks": [row for pair in pairs for row in _counted(pair)]} if pairs else {})
    facts["what_tells_the_classes_apart"] = _told_apart(splits, found)
    findings.leaks += [line for pair in pairs for line in _sentences(pair)]
    findings.notes += [effect.says for effect in found[0] if effect.says]  # of the rows that a model learns from
    findings.notes += _not_looked_for(pairs, wanted)
    facts |= _freed(pairs, leak_free, findings)
    return findings.audit(path, _kind(Path(path), splits), facts)


def _kind(path: Path, splits: list[Split]) -> str:
    what = "sequences" if splits[0].sequences is not None else "intervals"
    if len(splits) > 1:
        return f"{what} in splits {', '.join(split.name for split in splits)}"
    return "labelled folder" if path.is_dir() else f"{what.removesuffix('s')} table"


def _described(splits: list[Split], counts: list[np.ndarray]) -> dict[str, Any]:
    rows = [row_facts(split, count) for split, count in zip(splits, counts, strict=True)]
    classes = [row for split, count in zip(splits, counts, strict=True) for row in class_facts(split, count)]
    if len(splits) == 1:
        return {**rows[0], "largest_classes": classes}
    return {
        "splits": {split.name: row for split, row in zip(splits, rows, strict=True)},
        "largest_classes": classes,
    }


def _classes(split: Split) -> list[tuple[str, np.ndarray]]:
    """The classes of a split and which rows they have, (n,) bool; all rows first."""
    labels = np.array(split.labels)
    every = [("(all)", np.ones(len(split), bool))]
    return every + [(name, labels == name) for name in sorted(set(split.labels)) if name]


def _counted(pair: _Pair) -> list[dict[str, Any]]:
    """Count the leaks of each class."""
    leaks = pair.leaks
    return [
        {
            "rows_of": pair.split.name,
            "seen_in": pair.other.name,
            "class": name,
            "rows": int(rows.sum()),
            **{kind: int(leaks.kinds[kind][rows].sum()) if kind in leaks.kinds else None for kind in KINDS},
            "any": int(leaks.leaky[rows].sum()),
            "any_share": share_of(leaks.leaky[rows].sum(), rows.sum()),
            "in_same_class": int(leaks.same_class[rows].sum()),
            "conflicting": int(leaks.conflicting[rows].sum()),
        }
        for name, rows in _classes(pair.split)
    ]


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} rows ({100 * part / whole:.1f} %)"


def _sentences(pair: _Pair) -> list[str]:
    """Say what leaks, and in which class most."""
    split, other = pair.split, pair.other
    lines = []
    classes = _classes(split)[1:]
    for kind, rows in pair.leaks.kinds.items():
        if not rows.any():
            continue
        line = f"{split.name}: {_of(int(rows.sum()), len(split))} {_SAYS[kind]} {other.name}"
        if len(classes) > 1:
            name, members = max(classes, key=lambda item: float(rows[item[1]].mean()))
            line += f"; of class {name!r} {_of(int(rows[members].sum()), int(members.sum()))}"
        lines.append(f"{line}.")
    if count := int(pair.leaks.conflicting.sum()):
        lines.append(f"{split.name}: {_of(count, len(split))} are in {other.name} too, with another label.")
    return lines


def _not_looked_for(pairs: list[_Pair], wanted: tuple[Kind, ...]) -> list[str]:
    """Say which leaks may be there unseen."""
    why = {"overlap": "the rows have no coordinates (chrom, start, end)", "near": "the rows have no sequences"}
    unseen = [kind for kind in wanted if any(kind not in pair.leaks.kinds for pair in pairs)]
    return [f"Leaks of kind {kind!r} were not looked for: {why[kind]}." for kind in unseen]


def _told_apart(splits: list[Split], found: list[list[Effect]]) -> list[dict[str, Any]]:
    """What a class is told by, a row a feature and a column a split."""
    rows = []
    for effect in next((some for some in found if some), []):
        row: dict[str, Any] = {"by": effect.feature, "measure": effect.measure}
        for split, some in zip(splits, found, strict=True):
            size = next((e.size for e in some if e.feature == effect.feature), None)
            row[split.name or "size"] = None if size is None else round(size, 3)
        rows.append(row | {"no_effect": 0 if effect.feature == "chromosome" else 0.5})
    return rows


def _freed(pairs: list[_Pair], out: Path | None, findings: Findings) -> dict[str, Any]:
    """Say how much of the test split is left without leaks, and write it."""
    test = next((pair.split for pair in pairs if pair.split.for_test), None)
    if test is None:
        if out is not None:
            raise UsageError("--leak-free needs a test split: give --test, or a folder or table with a split 'test'.")
        return {}
    leaks = [pair.leaks for pair in pairs if pair.split is test]
    left = np.ones(len(test), bool)
    rows = [_left("", test, left)]
    for kind in KINDS:
        if of_kind := [found.kinds[kind] for found in leaks if kind in found.kinds]:
            left &= ~np.logical_or.reduce(of_kind)
            rows.append(_left(kind, test, left))
    for name, members in _classes(test)[1:]:
        if (some := int((left & members).sum())) < min(_TOO_FEW, int(members.sum())):
            findings.notes.append(
                f"Without leaks {some:,} test rows of class {name!r} are left: too few to measure on."
            )
    if out is None:
        return {"leak_free_test_rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    file = RowFile(out)
    file.write(test.take(np.flatnonzero(left)).as_table())
    return {"leak_free_test_rows": rows, "leak_free_list": {"file": str(out), "rows": file.finish()}}


def _left(kind: str, test: Split, left: np.ndarray) -> dict[str, Any]:
    """Count the rows that are left once a kind of leak, and those before it, are removed."""
    classes = {name: int((left & rows).sum()) for name, rows in _classes(test)[1:]}
    return {"removed": kind.replace("_", " ") or "nothing", "rows_left": int(left.sum()), "by_class": classes}
