"""E. coli K-12 MG1655: bits a nucleotide on bases 4.1 M to the end, after training on 0 to 4.0 M."""

import gzip
from pathlib import Path

from common import arguments, keep, train

from titans_seq.evaluation import evaluate

BACKBONE = {
    "width": 128,
    "depth": 2,
    "heads": 4,
    "block": {"kind": "lmm"},
    # convolutions over 32 bases; with Titans' 4 the validation part costs 0.02 bits more after 500 steps
    "memory": {"chunk_size": 32, "conv": 32, "structure": {"kind": "matrix"}},
}
TRAINING = {"steps": 3200, "batch_size": 8, "learning_rate": 3e-3, "precision": "bf16", "validate_every": 400}


def cut(source: Path, target: Path, start: int, end: int | None) -> Path:
    """Bases ``start`` to ``end`` of a FASTA of one record, as a FASTA; one that is there is taken up."""
    if target.exists():
        return target
    with gzip.open(source, "rt") as file:
        header, *lines = file.read().split("\n")
    with gzip.open(target, "wt") as out:
        out.write(f"{header}\n{''.join(lines)[start:end]}\n")
    return target


def main() -> None:
    """Train, measure, keep."""
    options = arguments(__doc__ or "")
    genome = options.data / "genomics/genomes/ecoli_k12_mg1655_U00096.3.fa.gz"
    first = cut(genome, options.work / "ecoli_train.fa.gz", 0, 4_000_000)
    last = cut(genome, options.work / "ecoli_test.fa.gz", 4_100_000, None)
    recipe = {
        "data": {"kind": "fasta", "paths": [str(first)], "length": 1024, "validation": 0.02},
        "task": {"kind": "language_model"},
        "backbone": BACKBONE,
        "training": TRAINING,
        "threads": options.threads,
    }
    run = train(recipe, options.work / "ecoli")
    test = evaluate(str(options.work / "ecoli"), str(last), threads=options.threads)
    keep(
        "ecoli",
        {
            "seconds": run["seconds"],
            "validation": run["validation"],
            "test": test["model"],
            "interpolated_markov": test["interpolated_markov"],
            "intervals": test["intervals"],
        },
        options.threads,
    )


if __name__ == "__main__":
    main()
