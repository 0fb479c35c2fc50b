"""Values along a genome from a bigWig: what a model of tracks is trained on, by interval and bin."""

import warnings
from pathlib import Path

import numpy as np

from titans_seq.data.aliases import Aliases
from titans_seq.data.arrays import bigwig_tools
from titans_seq.data.record import STRICT, Judge, quoted
from titans_seq.data.reference import Reference
from titans_seq.errors import InputError
from titans_seq.resources import data_file

SUFFIXES = (".bw", ".bigwig")  # what the library knows them by


def _told(error: Exception) -> str:
    return str(error).rstrip(".")


class BigWigFile:
    """A bigWig by its own names.

    Attributes:
        lengths: of the chromosomes that it has values on.

    Raises:
        InputError: if the file is no bigWig.
        EnvironmentFault: if the library that reads it is not installed.
    """

    def __init__(self, path: Path | str):
        tools = bigwig_tools()
        self.path, self._fault = data_file(path), tools.BBIReadError
        try:
            self._file = tools.open(str(self.path))
            self.lengths: dict[str, int] = dict(self._file.chroms())
            has_values = self._file.is_bigwig
        except (ValueError, OSError, tools.BBIReadError) as error:
            raise InputError(f"{path} is no bigWig, or truncated: {_told(error)}. Fetch or make it again.") from error
        if not has_values:
            raise InputError(f"{path} is a bigBed, which has no values. Give a bigWig.")

    def bases(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Values (end - start,) float64 of bases inside the chromosome, 0-based and half-open; NaN where there is none.

        Raises:
            InputError: if the file is corrupt.
        """
        try:
            with warnings.catch_warnings():  # versions differ in what an uncovered base gets where it is not said
                warnings.simplefilter("ignore", DeprecationWarning)
                found: np.ndarray = self._file.values(chrom, start, end, missing=np.nan)
        except self._fault as error:
            raise InputError(f"{self.path} is corrupt or truncated: {_told(error)}. Fetch or make it again.") from error
        return found


class BigWig:
    """A track over the chromosomes of a genome, under the genome's names for them.

    Attributes:
        names: chromosomes of the genome that it has values on, with its own names for them.

    Args:
        path: the bigWig.
        genome: what its positions are places of.
        aliases: of names; the usual ones where absent.
        judge: what to do about names that differ and chromosomes of another length.

    Raises:
        InputError: if the file is no bigWig, has no chromosome of the genome, or one of another length.
        EnvironmentFault: if the library that reads it is not installed.
    """

    def __init__(self, path: Path, genome: Reference, aliases: Aliases | None = None, judge: Judge = STRICT):
        self.file, self.genome = BigWigFile(path), genome
        there = self.file.lengths
        found = (aliases or Aliases()).translate(dict.fromkeys(there, 0), genome.lengths, str(path), genome.name, judge)
        self.names = {ours: theirs for theirs, ours in found.items()}  # of the genome → of the file
        if not found:
            judge.refuse(f"{path} is on {genome.lacks(next(iter(there), ''))}.")
        for theirs, ours in found.items():
            if there[theirs] != genome.lengths[ours]:
                judge.refuse(
                    f"{path}: chromosome {quoted(theirs)} has {there[theirs]:,} bases, and {quoted(ours)} of "
                    f"{genome.name} has {genome.lengths[ours]:,}. Is it of another assembly?"
                )

    def means(
        self, chrom: str, start: int, end: int, strand: str = "+", width: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means of the values over bins of ``width`` bases, and the share of its bases that have one, float64 both.

        A base without a value is in no mean; that of a bin without any is NaN.

        Args:
            chrom: as the genome calls it.
            start: 0-based first base; the interval may reach beyond the chromosome, where there are no values.
            end: behind the last base.
            strand: ``-`` for the bins in the order of the reverse complement.
            width: bases a bin; the interval is a whole number of them.

        Raises:
            InputError: if the file has no value on the chromosome, or is corrupt.
        """
        if (end - start) % width:
            raise ValueError(f"{start}-{end} has {end - start:,} bases, no multiple of a bin of {width:,}.")
        if chrom not in self.names:
            raise InputError(
                f"{self.file.path} has no value on {quoted(chrom)} of {self.genome.name}. Leave that chromosome out, "
                "or say which of its names means it in a file of names."
            )
        bases = np.full(end - start, np.nan)
        first, last = max(0, start), min(end, self.genome.lengths[chrom])
        if first < last:
            bases[first - start : last - start] = self.file.bases(self.names[chrom], first, last)
        bins = bases.reshape(-1, width)[:: -1 if strand == "-" else 1]
        count = (~np.isnan(bins)).sum(1)
        mean = np.where(count, np.nansum(bins, 1) / count.clip(1), np.nan)
        return mean, count / width
