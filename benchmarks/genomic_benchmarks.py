"""GenomicBenchmarks in part: accuracy on all test rows and on those without a leak, beside k-mers and Titans' table 4.

Of four sets the official rows on human chr20 and the first 36 million bases of chrX, with the official split; of
human_nontata_promoters, of whose training negatives 7 lie there, the whole official test table, a fifth of it cut out
by seed as the test. None of these is the whole set, so the published numbers beside them are a landmark, not a rival.
Leaks are what `titans-seq genomics audit` finds between the parts: copies, reverse complements, overlaps, near ones.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from classification import (
    KMERS,
    PRETRAINED,
    SCRATCH,
    STARTS,
    Task,
    mean_of,
    measure_all,
    of_start,
    options_of,
    told,
    with_interval,
)
from common import Row, explained, measured_when

from titans_seq.bench.results import markdown
from titans_seq.data.audit import audit_sequences
from titans_seq.data.table import read_table
from titans_seq.files import whole_file
from titans_seq.resources import data_file

SLICE = "slice_chr20_chrX36M"
FIFTH = 5  # of the rows of a table without splits, one part is the test


class Set(NamedTuple):
    """A set's file, how it is trained, and the accuracy that Titans' table 4 has for the whole of it."""

    part: str
    steps: int
    batch_size: int
    titans: float


SETS = {
    "human_enhancers_cohn": Set(SLICE, 60, 32, 0.752),  # of 450 rows for training: more only learns them by heart
    "human_enhancers_ensembl": Set(SLICE, 300, 32, 0.896),
    "human_ensembl_regulatory": Set(SLICE, 200, 32, 0.893),
    "human_nontata_promoters": Set("test", 300, 32, 0.966),
    "human_ocr_ensembl": Set(SLICE, 300, 32, 0.799),
}


def table_of(name: str) -> pl.DataFrame:
    """The rows of a set as id, split, sequence, label, and their place where the file has it."""
    table = read_table(data_file(f"card:genomic_benchmarks/sequences/{name}.{SETS[name].part}.csv.gz"))
    if "split" not in table.columns:
        test = np.random.default_rng(0).permutation(table.height) < table.height // FIFTH
        table = table.with_columns(
            pl.Series("split", np.where(test, "test", "train")),
            pl.format("{}", pl.int_range(1, table.height + 1)).alias("id"),
        )
        return table.select("id", "split", sequence="seq", label="label")
    place = {"chrom": "chrom", "start": "start_hg38", "end": "end_hg38"}
    key = pl.format("{}/{}", "class", "id")  # ids count anew in each class
    return table.select(key.alias("id"), "split", **place, sequence="seq", label="class")


def task_of(work: Path, name: str) -> Task:
    """A task on files that are cut into ``work``."""
    folder = work / name
    files = {split: folder / f"{split}.csv" for split in ("train", "test")}
    for split, table in table_of(name).partition_by("split", as_dict=True, include_key=False).items():
        with whole_file(files[str(split[0])]) as draft:
            table.write_csv(draft)
    clean = folder / "leak_free.csv"
    clean.unlink(missing_ok=True)
    left = audit_sequences(files["train"], files["test"], leak_free=clean).facts["leak_free_list"]["rows"]
    chosen = SETS[name]
    return Task(
        name,
        str(files["train"]),
        str(files["test"]),
        chosen.steps,
        leak_free=str(clean) if left else None,
        batch_size=chosen.batch_size,
    )


def report(kept: dict[str, Row]) -> str:
    """Means by set on all and on leak-free rows, and every row."""
    lines = []
    for name, chosen in SETS.items():
        found = [of_start(kept, name, start) for start in (KMERS, *STARTS)]
        for part, called in (("test", "all"), ("leak_free", "leak-free")):
            first = next((row for rows in found for row in rows if part in row), None)
            items = f"{first[part]['items']:,}" if first else ""
            majority = mean_of([row["majority_class"] for row in found[0]], "accuracy", part)
            ours = [told(mean_of(rows, "accuracy", part), len(rows)) for rows in found]
            published = f"{chosen.titans:.3f}" if part == "test" else ""
            lines.append([f"{name}, {called}", items, told(majority), *ours, published])
    head = ("test rows", "n", "majority class", "k-mers", SCRATCH, PRETRAINED, "Titans LMM, whole set")
    return "\n\n".join(
        [
            "# GenomicBenchmarks in part: test accuracy",
            measured_when(kept),
            markdown(head, lines),
            markdown(("row", "accuracy (95 %)", "leak-free (95 %)", "MCC", "MCC, leak-free"), _every(kept)),
            explained(__doc__),
        ]
    )


def _every(kept: dict[str, Row]) -> list[list[str]]:
    parts = ("test", "leak_free")
    return [
        [key, *(with_interval(row, metric, part) for metric in ("accuracy", "mcc") for part in parts)]
        for key, row in kept.items()
    ]


if __name__ == "__main__":
    options = options_of(__doc__ or "", list(SETS))
    measure_all("genomic_benchmarks", options, partial(task_of, options.work / "genomic_benchmarks"), report)
