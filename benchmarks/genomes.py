"""Bits a nucleotide of held-out genome: language models beside interpolated Markov models of order 0 to 11.

Of E. coli and yeast this trains the models itself; on human chr20 it measures one that is there, ``--model``. Markov
models are counted on the same training part (for human on chrX and chr20 to 40 M), both strands, and the order that is
best on the test itself is the one to beat. Test regions are read as streams, one record after another.
"""

import gzip
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import Row, Rows, explained, measured_when, parsed, parser_of, results, rows_options, train

from titans_seq.baselines import Markov
from titans_seq.bench.results import markdown
from titans_seq.checkpoint import find
from titans_seq.data.fasta import read_fasta
from titans_seq.data.held_out import read_region
from titans_seq.data.record import LOWER, decode
from titans_seq.data.reference import Reference
from titans_seq.data.sources import FastaSource
from titans_seq.data.windows import N
from titans_seq.evaluation import evaluate
from titans_seq.files import sha256, whole_file
from titans_seq.recipe import build
from titans_seq.resources import data_file
from titans_seq.tasks.language import LanguageModel

BACKBONE = {
    "width": 128,
    "depth": 2,
    "heads": 4,
    "block": {"kind": "lmm"},
    # convolutions over 32 bases; with Titans' 4 the validation part of E. coli costs 0.02 bits more after 500 steps
    "memory": {"chunk_size": 32, "conv": 32, "structure": {"kind": "matrix"}},
}
TRAINING = {"batch_size": 8, "learning_rate": 3e-3, "precision": "bf16", "validate_every": 400}
MARKOV, ORDERS = "Markov", 12
HUMAN = "card:human_b37/human_b37"


class Genome(NamedTuple):
    """What is trained on and what is measured; regions are NAME:START-END, 0-based and half-open."""

    name: str
    paths: tuple[str, ...]
    test: tuple[str, ...]  # measured, and in the last of the files
    data: dict[str, Any]  # how the training part is told from the rest
    steps: int | None = None  # of training here; none where a model must be given

    def source(self) -> dict[str, Any]:
        """The recipe's data."""
        return {"kind": "fasta", "paths": self.paths, "length": 1024, **self.data}

    def cut(self, work: Path, bases: int | None) -> Path:
        """The test regions as a FASTA, of each no more than so many bases."""
        file = work / f"{self.name.replace(' ', '_')}-{bases or 'all'}.fa.gz"
        genome = Reference(data_file(self.paths[-1]))
        with whole_file(file) as draft, gzip.open(draft, "wt") as out:
            for region in map(read_region, self.test):
                end = genome.lengths[region.record] if region.end is None else region.end
                end = min(end, region.start + (bases or end))
                out.write(f">{region.record}:{region.start}-{end}\n")
                out.write(f"{decode(genome.codes(region.record, region.start, end))}\n")
        return file


GENOMES = {
    genome.name: genome
    for genome in (
        Genome(
            "human chr20 45M-47M",
            (f"{HUMAN}_chrX_first70M.fa.gz", f"{HUMAN}_chr20.fa.gz"),
            ("20:45000000-47000000",),
            {"validation_regions": ["20:40000000-45000000"], "test_regions": ["20:45000000-63025520"]},
        ),
        Genome(
            "E. coli",
            ("card:ecoli_k12/ecoli_k12_mg1655_U00096.3.fa.gz",),
            ("U00096.3:4100000-4641652",),
            {"validation": 0.02, "test_regions": ["U00096.3:4000000-4641652"]},
            steps=3200,
        ),
        Genome(
            "yeast",
            ("card:yeast_s288c/yeast_S288C.fa.gz",),
            ("chrXII", "chrX"),  # the fourth and the ninth longest of sixteen
            {"validation": 0.02, "test_regions": ["chrXII", "chrX"]},
            steps=3200,
        ),
    )
}


def markov(genome: Genome, test: Path) -> Row:
    """Bits a nucleotide of every order on the test regions, and the best of them."""
    data = FastaSource.model_validate(genome.source())
    model = Markov([record.codes & (LOWER - 1) for record in data.parts(LanguageModel(), 0).train.records], ORDERS)
    records = [record.codes for record in read_fasta(test)]
    scored = sum(int((codes < N).sum()) for codes in records)

    def bits(order: int) -> float:
        return -math.fsum(model.loglik(codes, order).sum() for codes in records) / scored / math.log(2)

    orders = {order: bits(order) for order in range(model.orders)}
    best = min(orders, key=lambda order: orders[order])
    scores = {"bits_per_nt": orders[best], "perplexity": 2 ** orders[best], "scored_bases": scored}
    return {"order": best, "test": scores, "orders": orders}


def trained_here(genome: Genome, test: Path, rows: Rows) -> None:
    """The row of a model that is trained on the genome's training part."""
    options = rows.options
    steps = options.steps or genome.steps
    recipe = {
        "data": genome.source(),
        "task": {"kind": "language_model"},
        "backbone": BACKBONE,
        "training": {**TRAINING, "steps": steps},
        "threads": options.threads,
    }
    whole = build(recipe).model_dump(mode="json", exclude={"backbone": {"embedding"}})
    settings = {**{key: whole[key] for key in ("data", "backbone", "training")}, "bases": options.bases}

    def measure() -> Row:
        run = options.work / f"{genome.name.replace(' ', '_')}-{steps}"
        found = train(recipe, run)
        return {"seconds": found["seconds"], "validation": found["validation"], **measured(str(run), test, options)}

    rows.row(f"{genome.name}, trained here", settings, lambda: {"genome": genome.name, **measure()})


def measured(model: str, test: Path, options: Any) -> Row:
    """Scores of a model on the test regions, with their intervals of 95 %."""
    found = evaluate(model, str(test), threads=options.threads, baseline=False)
    return {"test": found["model"], "intervals": found.get("intervals", {}).get("model", {})}


def report(kept: dict[str, Row]) -> str:
    """Every row, genome by genome, and the orders of the Markov models."""
    lines, orders = [], []
    for name in GENOMES:
        for key, row in kept.items():
            if row["genome"] != name:
                continue
            test = row["test"]
            low, high = row.get("intervals", {}).get("bits_per_nt", (math.nan, math.nan))
            interval = "" if np.isnan(low) else f"{low:.3f} to {high:.3f}"
            what = key if "orders" not in row else f"{key}, order {row['order']}"
            scores = [
                f"{test['bits_per_nt']:.3f}",
                interval,
                f"{test['perplexity']:.3f}",
                f"{test['scored_bases']:,.0f}",
            ]
            lines.append([what, *scores])
            if "orders" in row:
                bits = row["orders"].values()
                orders.append(
                    [
                        name,
                        *(f"{value:.3f}" for value in bits),
                    ]
                )
    return "\n\n".join(
        [
            "# Genomes: bits a nucleotide, held out",
            measured_when(kept),
            markdown(("model", "bits", "95 %", "perplexity", "bases"), lines),
            "Markov models by order:",
            markdown(("genome", *map(str, range(ORDERS))), orders),
            explained(__doc__),
        ]
    )


def main() -> None:
    """Measure every row that is not there yet."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--genomes", default=",".join(GENOMES), help="some of them, between commas")
    parser.add_argument("--model", help="language model to measure on human chr20: a run, folder or shipped name")
    parser.add_argument("--steps", type=int, help="of training, in place of the genome's own")
    parser.add_argument("--bases", type=int, help="no more of each test region than so many")
    rows_options(parser)
    options = parsed(parser)
    chosen = options.genomes.split(",")
    if unknown := set(chosen) - set(GENOMES):
        parser.error(f"--genomes: {', '.join(sorted(unknown))}: there are {', '.join(GENOMES)}")
    with results("genomes", options, report) as rows:
        for genome in (GENOMES[name] for name in chosen):
            test, name = genome.cut(options.work, options.bases), genome.name
            of_test = {"data": genome.source(), "bases": options.bases}
            rows.row(f"{name}, {MARKOV}", of_test, lambda g=genome, t=test: {"genome": g.name, **markov(g, t)})
            if genome.steps:
                trained_here(genome, test, rows)
            elif options.model:
                weights = sha256(find(options.model) / "model.safetensors")[:16]
                rows.row(
                    f"{name}, {Path(options.model).name}",
                    {"test": genome.test, "bases": options.bases, "weights": weights},
                    lambda t=test, n=name: {"genome": n, **measured(options.model, t, options)},
                )


if __name__ == "__main__":
    main()
