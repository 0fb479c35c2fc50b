"""Real bases for tasks: parts of a FASTA to train, to choose and to test on, and windows of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from titans_seq.bench.synthetic import NOTHING, Drawn, N
from titans_seq.data.fasta import read_fasta
from titans_seq.errors import InputError
from titans_seq.resources import data_file

# shares of the longest record at which training and validation end; for E. coli K-12 at 4.0 and 4.1 million bases
TRAINED, VALIDATED = 0.8615, 0.8835


class Genome(NamedTuple):
    """Codes (G,) of three stretches of one record that do not overlap."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def read_genome(path: str | Path, least: int) -> Genome:
    """The longest record of a FASTA in three parts.

    Raises:
        InputError: if a part has less than ``least`` bases.
    """
    codes = max((record.codes for record in read_fasta(data_file(path))), key=len)
    genome = Genome(*np.split(codes, [int(share * len(codes)) for share in (TRAINED, VALIDATED)]))
    if min(map(len, genome)) < least:
        raise InputError(
            f"{path}: the longest record has {len(codes):,} bases, of which {min(map(len, genome)):,} are held out to "
            f"choose by, and {least:,} are needed. Give a longer record."
        )
    return genome


def stretches(rng: Generator, length: int, batch: int, codes: np.ndarray) -> np.ndarray:
    """Random stretches (B, T) of codes (G,), int64."""
    start = rng.integers(0, len(codes) - length + 1, (batch, 1))
    return codes[start + np.arange(length)].astype(np.int64)


def next_base(rng: Generator, length: int, batch: int, *, codes: np.ndarray) -> Drawn:
    """Stretches of codes (G,), each base asking for the next; N is read and never asked for."""
    bases = stretches(rng, length + 1, batch, codes)
    return Drawn(bases[:, :-1], np.where(bases[:, 1:] < N, bases[:, 1:], NOTHING))
