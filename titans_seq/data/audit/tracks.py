"""What is in a bigWig: chromosomes, how much of them has a value, and which."""

from pathlib import Path
from typing import Any

import numpy as np

from titans_seq.data.aliases import Aliases
from titans_seq.data.audit.found import Audit, Findings, share_of
from titans_seq.data.bigwig import BigWig, BigWigFile
from titans_seq.data.reference import open_reference
from titans_seq.data.regions import Regions
from titans_seq.progress import Progress
from titans_seq.resources import data_file

_AT_ONCE = 1 << 20  # bases


def audit_bigwig(path: Path | str, regions: Regions) -> Audit:
    """Describe the values of a bigWig, in memory that does not grow with it; on a genome also whether it fits that.

    Raises:
        InputError: if it is no bigWig, or corrupt.
        EnvironmentFault: if the library that reads it is not installed.
    """
    findings, file = Findings(), BigWigFile(path)
    if regions.reference:
        genome = open_reference(data_file(regions.reference))
        aliases = Aliases.of_file(data_file(regions.aliases) if regions.aliases else None)
        found = BigWig(Path(path), genome, aliases, findings.judge())
        if bare := [name for name in genome.lengths if name not in found.names]:
            findings.notes.append(f"{len(bare):,} of {len(genome.lengths):,} records of {genome.name} have no value.")
    with Progress(f"reading {Path(path).name}", "bases", sum(file.lengths.values())) as progress:
        sums = {name: _sums(file, name, progress) for name in file.lengths}
    rows = [{"chromosome": name, "length": file.lengths[name], **_described(sums[name])} for name in sums]
    total = np.array([*np.sum([s[:3] for s in sums.values()], 0), *_range(np.array([s[3:] for s in sums.values()]))])
    facts = {
        "chromosomes": len(rows),
        "bases": sum(file.lengths.values()),
        **_described(total),
        "values_by_chromosome": sorted(rows, key=lambda row: -row["length"]),
    }
    if total[1] < total[0]:
        findings.notes.append(
            "Bases without a value count as 0 in training, unless data.missing says to ignore them; see covered share."
        )
    return findings.audit(path, "bigWig", facts)


def _sums(file: BigWigFile, name: str, progress: Progress) -> np.ndarray:
    """Bases, those with a value, the sum of these, the smallest and the largest, (5,)."""
    length = file.lengths[name]
    found = np.array([length, 0, 0, np.nan, np.nan])
    for start in range(0, length, _AT_ONCE):
        bases = file.bases(name, start, min(length, start + _AT_ONCE))
        known = bases[~np.isnan(bases)]
        progress.add(len(bases))
        if len(known):
            found[1:3] += len(known), known.sum()
            found[3:] = _range(np.array([found[3:], [known.min(), known.max()]]))
    return found


def _range(ranges: np.ndarray) -> np.ndarray:
    """The smallest and the largest (2,) of ranges (n, 2), of which some are NaN."""
    low, high = ranges[~np.isnan(ranges[:, 0])].T
    return np.array([low.min(), high.max()] if len(low) else [np.nan, np.nan])


def _described(sums: np.ndarray) -> dict[str, Any]:
    length, count, total, low, high = sums.tolist()
    known = {"min": low, "mean": total / count, "max": high} if count else {"min": None, "mean": None, "max": None}
    return {"covered_share": share_of(count, length), **known}
