"""GUE tf/0 (transcription factor binding, 101 nt): Matthews correlation of two seeds, beside k-mers."""

import numpy as np
from common import arguments, keep, train

from titans_seq.evaluation import evaluate

SEEDS = (0, 1)
BACKBONE = {
    "width": 128,
    "depth": 2,
    "heads": 4,
    "block": {"kind": "lmm"},
    "memory": {"chunk_size": 32, "structure": {"kind": "matrix"}},
}
TRAINING = {"steps": 1600, "batch_size": 64, "learning_rate": 3e-3, "validate_every": 200}


def main() -> None:
    """Train, measure, keep."""
    options = arguments(__doc__ or "")
    folder = options.data / "genomics/gue/tf/0"
    runs, baseline = [], None
    for seed in SEEDS:
        recipe = {
            "data": {
                "kind": "sequences",
                "train": str(folder / "train.csv.gz"),
                "validation": str(folder / "dev.csv.gz"),
            },
            "task": {"kind": "classification"},
            "backbone": BACKBONE,
            "training": TRAINING,
            "seed": seed,
            "threads": options.threads,
        }
        out = options.work / f"gue_tf0-{seed}"
        run = train(recipe, out)
        found = evaluate(str(out), str(folder / "test.csv.gz"), threads=options.threads, baseline=baseline is None)
        baseline = baseline or found["kmer_logistic_regression"]
        runs.append(
            {"seed": seed, "validation_mcc": run["validation"]["mcc"], "seconds": run["seconds"], **found["model"]}
        )
    mean = float(np.mean([run["mcc"] for run in runs]))
    keep("gue_tf0", {"runs": runs, "mean_mcc": mean, "kmer_logistic_regression": baseline}, options.threads)


if __name__ == "__main__":
    main()
