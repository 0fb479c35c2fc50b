"""The verb that makes one file of its shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from titans_seq.data import shards
from titans_seq.data.arrays import EmbeddingFile, TokenFile, TrackFile
from titans_seq.data.vcf import VcfFile
from titans_seq.data.write import PartFile, RowFile
from titans_seq.files import held, must_be_new
from titans_seq.variants import MutationFile

KINDS: dict[str, type[PartFile]] = {
    kind.__name__: kind for kind in (RowFile, TrackFile, EmbeddingFile, TokenFile, VcfFile, MutationFile)
}


def gather(out: Path, parts: Sequence[Path], *, overwrite: bool = False) -> dict[str, Any]:
    """Make of all the shards of a job the file ``out`` that it would have written at once, to the byte.

    Args:
        out: the file, with the suffix that the jobs were given.
        parts: every shard once.
        overwrite: replace what is there.

    Raises:
        InputError: if a shard is missing, damaged, there twice, or of another job.
        EnvironmentFault: if a job is writing ``out``.
    """
    must_be_new(out, overwrite=overwrite)
    with held(out):
        return {"out": str(out), "shards": len(parts), "rows": shards.gather(out, parts, KINDS, overwrite=overwrite)}
